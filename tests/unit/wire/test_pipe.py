"""Two connections joined: all bytes in order, no more than fits, and one end for both."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from raydask.wire.pipe import Pipe

SECONDS = 10.0
LARGE = 8 << 20


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, SECONDS))


class Piped:
    """The outer ends of two joined connections."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Pipe] = asyncio.get_running_loop().create_future()
        self.pipe = Pipe(self.ended.set_result)
        self.client, self._near = socket.socketpair()
        self.server, self._far = socket.socketpair()
        self.client.setblocking(False)
        self.server.setblocking(False)

    async def connect_near(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.pipe.near, sock=self._near)

    async def connect_far(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.pipe.far, sock=self._far)

    def close(self) -> None:
        for sock in (self.client, self.server, self._near, self._far):
            sock.close()


@asynccontextmanager
async def piped(*, near: bool = True, far: bool = True) -> AsyncIterator[Piped]:
    made = Piped()
    if near:
        await made.connect_near()
    if far:
        await made.connect_far()
    try:
        yield made
        made.pipe.close()
        await made.ended
    finally:
        made.close()


async def receive(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = await asyncio.get_running_loop().sock_recv(sock, 1 << 16)
        assert piece, "it has ended"
        data += piece
    return bytes(data)


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


def test_bytes_go_both_ways() -> None:
    async def main() -> None:
        async with piped() as both:
            await send(both.client, b"question")
            assert await receive(both.server, 8) == b"question"
            await send(both.server, b"answer")
            assert await receive(both.client, 6) == b"answer"

    run(main())


def test_what_comes_before_the_other_connection_is_made_is_kept() -> None:
    async def main() -> None:
        async with piped(far=False) as both:
            both.pipe.near.data_received(b"first ")
            await send(both.client, b"then")
            await both.connect_far()
            assert await receive(both.server, 10) == b"first then"

    run(main())


def test_who_writes_faster_than_the_other_reads_is_not_read_from() -> None:
    async def main() -> None:
        async with piped() as both:
            data = bytes(range(256)) * (LARGE // 256)
            sending = asyncio.ensure_future(send(both.client, data))
            _, unfinished = await asyncio.wait([sending], timeout=0.2)
            assert unfinished, "it has gone somewhere"
            assert await receive(both.server, LARGE) == data
            await sending

    run(main())


def test_the_end_of_either_is_the_end_of_both_after_all_has_been_passed_on() -> None:
    async def main() -> None:
        for first, second in (("client", "server"), ("server", "client")):
            async with piped() as both:
                mine, other = getattr(both, first), getattr(both, second)
                data = bytes(LARGE)
                receiving = asyncio.ensure_future(receive(other, LARGE))
                await send(mine, data)
                mine.close()
                assert await receiving == data
                assert await asyncio.get_running_loop().sock_recv(other, 1) == b""
                assert await both.ended is both.pipe

    run(main())


def test_a_connection_that_is_made_when_the_other_is_over_ends() -> None:
    async def main() -> None:
        async with piped(far=False) as both:
            await send(both.client, b"last words")
            both.client.close()
            await both.connect_far()
            assert await receive(both.server, 10) == b"last words"
            assert await asyncio.get_running_loop().sock_recv(both.server, 1) == b""
        async with piped(far=False) as both:
            both.pipe.close()
            await both.connect_far()
            assert await asyncio.get_running_loop().sock_recv(both.server, 1) == b""

    run(main())


def test_closing_ends_what_there_is() -> None:
    async def main() -> None:
        async with piped(far=False) as both:
            both.pipe.close()
            assert await both.ended is both.pipe
            assert await asyncio.get_running_loop().sock_recv(both.client, 1) == b""

    run(main())
