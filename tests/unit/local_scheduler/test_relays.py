"""Calls from one node to a worker of another: two relays between a caller and a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from raydask.local_scheduler import relays
from raydask.local_scheduler.relays import Relays
from raydask.wire.framing import encode
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.messages import Hello
from raydask.wire.pipe import PipeEnd

SECONDS = 10.0
WORKER = 7
LARGE = 4 << 20


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, SECONDS))


async def one_turn() -> None:
    """Let the loop do what is due."""
    loop = asyncio.get_running_loop()
    turned = loop.create_future()
    loop.call_soon(turned.set_result, None)
    await turned


class TwoNodes:
    """Node 1, where callers are, and node 2, whose worker repeats what it is told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.calling = Relays(1, self._connect, self._address_of)
        self.serving = Relays(2, self._connect, self._address_of)
        self.refuses = False
        self._servers: list[asyncio.AbstractServer] = []

    def _address_of(self, process: int) -> str:
        return str(self._folder / f"w{process}.sock")

    async def _connect(self, node: int, make_protocol: Callable[[], PipeEnd]) -> object:
        if self.refuses:
            raise ConnectionRefusedError("refused")
        loop = asyncio.get_running_loop()
        return await loop.create_unix_connection(make_protocol, str(self._folder / f"node{node}"))

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._servers = [
            await loop.create_unix_server(self._front(self.calling.call), self._folder / "node1"),
            await loop.create_unix_server(self._front(self.serving.serve), self._folder / "node2"),
            await asyncio.start_unix_server(self._repeat, self._address_of(WORKER)),
        ]

    def _front(self, join: Callable[[FrameProtocol, int, int], None]) -> Callable[[], Any]:
        def on_hello(protocol: FrameProtocol, hello: Any) -> None:
            assert hello.role == "call"
            join(protocol, hello.node, hello.process)

        return lambda: FrameProtocol(on_hello, None)

    async def _repeat(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def caller(
        self, process: int = WORKER, begin: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to node 1 and say which worker of node 2 is wanted."""
        reader, writer = await asyncio.open_unix_connection(str(self._folder / "node1"))
        writer.write(encode(Hello("call", 0, process=process, node=2)) + begin)
        return reader, writer

    async def until_over(self) -> None:
        while len(self.calling) or len(self.serving):
            await one_turn()

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self.calling.close()
        self.serving.close()


@asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[TwoNodes]:
    nodes = TwoNodes(folder)
    await nodes.start()
    try:
        yield nodes
        nodes.close()
        await nodes.until_over()
    finally:
        nodes.close()


def test_what_a_caller_says_reaches_the_worker_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_nodes(tmp_path) as nodes:
            reader, writer = await nodes.caller(begin=b"at once")
            assert await reader.readexactly(7) == b"at once"
            writer.write(bytes(LARGE))
            assert await reader.readexactly(LARGE) == bytes(LARGE)
            writer.close()
            await nodes.until_over()

    run(main())


def test_callers_have_ways_of_their_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_nodes(tmp_path) as nodes:
            ways = [await nodes.caller(begin=str(number).encode()) for number in range(5)]
            for number, (reader, writer) in enumerate(ways):
                assert await reader.readexactly(1) == str(number).encode()
                writer.close()
            await nodes.until_over()

    run(main())


def test_the_way_to_a_worker_that_is_gone_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_nodes(tmp_path) as nodes:
            reader, writer = await nodes.caller(process=8)
            assert await reader.read() == b""
            writer.close()
            await nodes.until_over()

    run(main())


@pytest.mark.parametrize("side", ["calling", "serving"])
def test_the_ways_to_a_node_end_with_it(tmp_path: Path, side: str) -> None:
    async def main() -> None:
        async with two_nodes(tmp_path) as nodes:
            reader, writer = await nodes.caller(begin=b"x")
            assert await reader.readexactly(1) == b"x"
            getattr(nodes, side).node_lost(2 if side == "calling" else 1)
            assert await reader.read() == b""
            writer.close()
            await nodes.until_over()

    run(main())


def test_a_node_that_cannot_be_reached_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "_RETRY_SECONDS", 0.0)

    async def main() -> None:
        async with two_nodes(tmp_path) as nodes:
            nodes.refuses = True
            reader, writer = await nodes.caller(begin=b"x")
            while not len(nodes.calling):
                await one_turn()
            nodes.refuses = False
            assert await reader.readexactly(1) == b"x"
            writer.close()
            await nodes.until_over()

    run(main())


@pytest.mark.expect_log("cannot reach node 2: refused")
def test_a_node_that_stays_out_of_reach_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "_CONNECT_SECONDS", 0.0)
    monkeypatch.setattr(relays, "_RETRY_SECONDS", 0.0)

    async def main() -> None:
        async with two_nodes(tmp_path) as nodes:
            nodes.refuses = True
            reader, writer = await nodes.caller()
            assert await reader.read() == b""
            writer.close()
            await nodes.until_over()

    run(main())
