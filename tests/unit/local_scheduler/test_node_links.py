"""Links between nodes, at one that is made of its links alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raydask.config import Config
from raydask.local_scheduler import events, node_links
from raydask.local_scheduler.node_links import NodeLinks
from raydask.local_scheduler.server import NodeServer
from raydask.object_store.backing import Backing
from raydask.version import VERSION
from raydask.wire import messages as wire
from raydask.wire.endpoint import Endpoint, endpoint_of, listen_at
from raydask.wire.guard import connect_guarded
from raydask.wire.loop_connection import FrameProtocol, PendingWrites
from tests.unit.local_scheduler.test_relays import one_turn

SECONDS = 20.0
SECRET = "a secret of the cluster"
LOOPBACK = Endpoint("127.0.0.1", 0)
OTHER = 9
MESSAGE = wire.Progress([])


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, SECONDS))


class Here:
    """A node that notes what its links tell it."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.to_global: list[object] = []
        self._backing = Backing.create(1 << 20)
        between = SimpleNamespace(messages={wire.Progress}, evacuation=None)
        server = SimpleNamespace(
            identity=SimpleNamespace(number=1, arena_size=1 << 20),
            config=Config(write_barrier=False),
            address_of=str,
            writes=PendingWrites(),
            core=SimpleNamespace(between=between),
            cluster=SimpleNamespace(send=self.to_global.append),
            handle=self.events.append,
        )
        self.links = NodeLinks(cast(NodeServer, server), SECRET, self._backing.fd, str)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Endpoint]:
        """Listen; where, is what this gives."""
        link, data = listen_at(LOOPBACK), listen_at(LOOPBACK)
        endpoint = endpoint_of(link)
        await self.links.start(link, data)
        try:
            yield endpoint
        finally:
            self.links.close()
            self._backing.close()

    def said(self) -> int:
        """How many messages the node has been told of."""
        return sum(isinstance(event, events.PeerSaid) for event in self.events)

    def know(self) -> None:
        """Say that there is the other node."""
        self.links.appeared([(OTHER, "127.0.0.1:1", "127.0.0.1:1")])


class Link:
    """The other node's link to this one."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self._protocol: FrameProtocol | None = None

    async def connect(self, endpoint: Endpoint) -> None:
        protocol: FrameProtocol = await connect_guarded(endpoint, SECRET, self._make)
        self._protocol = protocol
        protocol.send(wire.Hello("node", os.getpid(), VERSION, process=OTHER))

    def _make(self) -> FrameProtocol:
        return FrameProtocol(lambda protocol, message: None, lambda *_: self.lost.set())

    def say(self, count: int) -> None:
        assert self._protocol is not None
        for _ in range(count):
            self._protocol.send(MESSAGE)

    def close(self) -> None:
        assert self._protocol is not None
        self._protocol.close()


async def until_early(here: Here, count: int) -> None:
    while len(here.links._early.get(OTHER, ())) < count:
        await one_turn()


def test_what_a_node_says_before_it_is_known_is_kept_in_order() -> None:
    async def main() -> None:
        here, link = Here(), Link()
        async with here.open() as endpoint:
            await link.connect(endpoint)
            link.say(node_links._MOST_EARLY)
            await until_early(here, node_links._MOST_EARLY)
            here.know()
            assert here.said() == node_links._MOST_EARLY
            link.close()

    run(main())


@pytest.mark.expect_log("node 9, which nobody has told of, says too much")
@pytest.mark.parametrize("known", ["never", "at once"])
def test_a_node_that_says_too_much_before_it_is_known_finds_its_link_closed(known: str) -> None:
    async def main() -> None:
        here, link = Here(), Link()
        async with here.open() as endpoint:
            await link.connect(endpoint)
            link.say(node_links._MOST_EARLY)
            await until_early(here, node_links._MOST_EARLY)
            link.say(2)
            if known == "at once":
                while here.links._early:
                    await one_turn()
                here.know()
            await link.lost.wait()
            assert here.said() == 0, "not some of what it said, without the rest"
            assert not here.links._early

    run(main())
