"""The way to Redis for machines that cannot reach it: through the global scheduler.

A connection whose first message is ``Hello(role="control", process=<shard>)`` is joined to a
new connection to that shard's server.  What follows is between those two: nothing is parsed
here, and the client logs in to Redis as any other.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence

from raydask.control.redis_connection import RedisAddress, parse_url
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.pipe import Pipe, PipeEnd

_log = logging.getLogger("raydask.global_scheduler")

CONNECT_SECONDS = 5.0


class RedisPipes:
    """The connections that are joined to Redis.

    Parameters
    ----------
    urls : sequence of str
        Of the servers, in the order of their shards.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._addresses = [parse_url(url) for url in urls]
        self._pipes: set[Pipe] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def shards(self) -> int:
        """How many servers there are."""
        return len(self._addresses)

    def __len__(self) -> int:
        return len(self._pipes)

    def join(self, connection: FrameProtocol, shard: int) -> bool:
        """Join a connection to a shard's server; say whether there is such a shard."""
        if not 0 <= shard < len(self._addresses):
            return False
        pipe = Pipe(self._pipes.discard)
        self._pipes.add(pipe)
        connection.give_way(pipe.near)
        task = asyncio.get_running_loop().create_task(self._connect(pipe, self._addresses[shard]))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

    def close(self) -> None:
        """End all."""
        for task in self._connecting:
            task.cancel()
        for pipe in list(self._pipes):
            pipe.close()

    async def _connect(self, pipe: Pipe, address: RedisAddress) -> None:
        try:
            await asyncio.wait_for(_open(pipe.far, address), CONNECT_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            _log.info("a node gets no connection to Redis at %s: %s", address, error)
            pipe.close()


async def _open(far: PipeEnd, address: RedisAddress) -> None:
    loop = asyncio.get_running_loop()
    if address.path:
        await loop.create_unix_connection(lambda: far, address.path)
        return
    tls = ssl.create_default_context(cafile=address.authority or None) if address.tls else None
    await loop.create_connection(lambda: far, address.host, address.port, ssl=tls)
