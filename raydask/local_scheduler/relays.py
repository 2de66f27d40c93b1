"""The ways of calls to actors on other nodes: connections joined to connections, unread.

::

    caller == its node |  Pipe  | TCP, guarded | actor's node |  Pipe  | actor's worker

A caller connects to its own node and says which worker it wants (``Hello(role="call")``); the
node makes a connection to the actor's node for it and says the same there; and that one joins it
to the worker's socket.  What follows is between caller and actor, as if they were on one node:
order, retries, cancelling and answers need nothing more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from raydask.ids import ProcessNumber
from raydask.version import VERSION
from raydask.wire.authentication import AuthenticationError
from raydask.wire.framing import encode
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.messages import Hello
from raydask.wire.pipe import Pipe, PipeEnd

_log = logging.getLogger("raydask.node")

_RETRY_SECONDS = 0.1
_CONNECT_SECONDS = 5.0

Connect = Callable[[int, Callable[[], PipeEnd]], Awaitable[object]]
"""Connects to a node with the protocol that the second argument makes."""


class Relays:
    """The calls that go through one node, to actors on others and to those here.

    Parameters
    ----------
    node : int
        This one.
    connect : Connect
    address_of : callable
        Gives the path of a worker's socket.
    """

    def __init__(
        self, node: int, connect: Connect, address_of: Callable[[ProcessNumber], str]
    ) -> None:
        self._node = node
        self._connect = connect
        self._address_of = address_of
        self._pipes: dict[Pipe, int] = {}
        """With the other node that each has to do with."""
        self._connecting: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._pipes)

    def call(self, connection: FrameProtocol, node: int, process: int) -> None:
        """Join a caller's connection to a worker of another node."""
        pipe = self._new_pipe(node)
        pipe.near.data_received(encode(Hello("call", 0, VERSION, process=process, node=self._node)))
        connection.give_way(pipe.near)
        self._start(self._reach(pipe, node))

    def serve(self, connection: FrameProtocol, node: int, process: int) -> None:
        """Join a connection from another node to a worker here."""
        pipe = self._new_pipe(node)
        connection.give_way(pipe.near)
        self._start(self._reach_worker(pipe, ProcessNumber(process)))

    def node_lost(self, node: int) -> None:
        """End the calls to and from a node that is dead."""
        for pipe in [pipe for pipe, other in self._pipes.items() if other == node]:
            pipe.close()

    def close(self) -> None:
        """End all."""
        for task in self._connecting:
            task.cancel()
        for pipe in list(self._pipes):
            pipe.close()

    def _new_pipe(self, node: int) -> Pipe:
        pipe = Pipe(self._pipe_ended)
        self._pipes[pipe] = node
        return pipe

    def _pipe_ended(self, pipe: Pipe) -> None:
        self._pipes.pop(pipe, None)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _reach(self, pipe: Pipe, node: int) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CONNECT_SECONDS
        while pipe in self._pipes:
            try:
                await self._connect(node, lambda: pipe.far)
                return
            except (OSError, asyncio.TimeoutError, AuthenticationError) as error:
                if loop.time() > deadline:
                    _log.warning("a call cannot reach node %d: %s", node, error)
                    pipe.close()
                    return
            await asyncio.sleep(_RETRY_SECONDS)

    async def _reach_worker(self, pipe: Pipe, process: ProcessNumber) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: pipe.far, self._address_of(process))
        except OSError:
            pipe.close()  # the worker has ended, and callers are told so by the actor's home
