"""Lines for a driver that does not read them; both ends of its connection are in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from raydask.local_scheduler.shown_lines import ShownLines
from raydask.wire.framing import FrameDecoder
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.messages import LogLine, LogLines, Notice, Unblocked

SECONDS = 20.0
MOST = 1 << 20
LINES = [LogLine(1, "f", "stdout", "x" * 1000)] * 10


class Driver:
    """The other end, which reads when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = FrameDecoder()

    async def read(self) -> list[Any]:
        """Return the messages that the next bytes complete."""
        data = await asyncio.get_running_loop().sock_recv(self._sock, 1 << 16)
        return self._decoder.feed(data)

    async def read_until(self, is_last: Callable[[Any], bool]) -> list[Any]:
        """Return all up to a message."""
        messages: list[Any] = []
        while not any(map(is_last, messages)):
            messages += await self.read()
        return messages


def run(loop: Callable[..., Any], main: Callable[[FrameProtocol, Driver], Any]) -> None:
    async def scenario() -> None:
        here, there = socket.socketpair()
        protocol = FrameProtocol(lambda protocol, message: None, None)
        await asyncio.get_running_loop().create_connection(lambda: protocol, sock=here)
        with there:
            await main(protocol, Driver(there))
            protocol.close()

    coroutine: Coroutine[Any, Any, None] = asyncio.wait_for(scenario(), SECONDS)
    loop(coroutine)


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run])
def test_lines_are_dropped_while_too_much_waits_and_their_number_is_told(
    loop: Callable[..., Any],
) -> None:
    async def main(protocol: FrameProtocol, driver: Driver) -> None:
        shown = ShownLines(protocol, MOST)
        transport: Any = protocol._transport
        for _ in range(400):
            shown.show(LINES)
            protocol.flush()
            assert transport.get_write_buffer_size() < MOST + 20_000
        protocol.send(Unblocked())

        messages = await driver.read_until(lambda each: isinstance(each, Notice))
        shown.show(LINES)
        messages += await driver.read_until(lambda each: isinstance(each, LogLines))
        kinds = [type(each) for each in messages]
        came = kinds.index(Unblocked)
        assert kinds == [LogLines] * came + [Unblocked, Notice, LogLines]
        notice = messages[came + 1]
        assert notice.text.startswith(f"{(400 - came) * len(LINES)} lines "), notice
        assert came < 400

    run(loop, main)


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run])
def test_a_driver_that_reads_is_shown_everything(loop: Callable[..., Any]) -> None:
    async def main(protocol: FrameProtocol, driver: Driver) -> None:
        shown = ShownLines(protocol, MOST)
        for _ in range(10):
            for _ in range(40):
                shown.show(LINES)
            protocol.send(Unblocked())
            messages = await driver.read_until(lambda each: isinstance(each, Unblocked))
            assert [type(each) for each in messages] == [LogLines] * 40 + [Unblocked]

    run(loop, main)
