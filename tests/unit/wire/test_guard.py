"""Connections over TCP: nobody gets to speak who has not proved to know the secret."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from raydask.config import Config
from raydask.errors import StartError, UsageError
from raydask.wire import guard
from raydask.wire.authentication import AuthenticationError
from raydask.wire.endpoint import Endpoint, endpoint_of, listen_at
from raydask.wire.guard import GuardedServer, Strangers, connect_guarded
from raydask.wire.tls import client_tls, server_tls
from tests.unit.local_scheduler.test_relays import one_turn

SECRET = "a secret of the cluster"
CERTIFICATES = Path(__file__).parent / "certificates"
SECONDS = 8.0


class Echo(asyncio.Protocol):
    """Sends back what it is sent."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Caller(asyncio.Protocol):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.received = asyncio.Queue[bytes]()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received.put_nowait(data)


LOOPS = [asyncio.run, uvloop.run]
"""Tests have the one, nodes and global schedulers the other."""


def run(coroutine: Coroutine[Any, Any, None], loop: Callable[..., Any] = asyncio.run) -> None:
    loop(asyncio.wait_for(coroutine, SECONDS))


def tls_of(name: str) -> Config:
    return Config(
        tls_certificate=str(CERTIFICATES / f"{name}.pem"),
        tls_key=str(CERTIFICATES / f"{name}.key"),
        tls_authority=str(CERTIFICATES / "authority.pem"),
    )


@asynccontextmanager
async def listening(
    strangers: Strangers,
    config: Config = Config(),  # noqa: B008  (immutable)
) -> AsyncIterator[Endpoint]:
    listener = listen_at(Endpoint("127.0.0.1", 0))
    endpoint = endpoint_of(listener)
    server = GuardedServer(listener, SECRET, Echo, server_tls(config), strangers)
    server.start()
    try:
        yield endpoint
    finally:
        server.close()
        server.close()


async def talk(endpoint: Endpoint, config: Config = Config()) -> bytes:  # noqa: B008
    caller = await connect_guarded(endpoint, SECRET, Caller, client_tls(config))
    caller.transport.write(b"hello")
    try:
        answer: bytes = await caller.received.get()
        return answer
    finally:
        caller.transport.close()


@pytest.mark.parametrize("config", [Config(), tls_of("node")], ids=["plain", "TLS"])
@pytest.mark.parametrize("loop", LOOPS)
def test_those_who_know_the_secret_talk(config: Config, loop: Callable[..., Any]) -> None:
    async def main() -> None:
        strangers = Strangers()
        async with listening(strangers, config) as endpoint:
            assert await talk(endpoint, config) == b"hello"
        assert strangers.refused == 0

    run(main(), loop)


def test_what_follows_the_proof_in_one_piece_is_not_lost() -> None:
    async def main() -> None:
        async with listening(Strangers()) as endpoint:
            reader, writer = await asyncio.open_connection(*endpoint)
            prover = guard.ClientProver(SECRET, bytes(32))
            writer.write(prover.feed(await reader.readexactly(40)) + b"hello")
            prover.feed(await reader.readexactly(32))
            assert prover.done
            assert await reader.readexactly(5) == b"hello"
            writer.close()

    run(main())


@pytest.mark.expect_log("another than this cluster")
def test_a_client_with_another_secret_learns_why() -> None:
    async def main() -> None:
        strangers = Strangers()
        async with listening(strangers) as endpoint:
            with pytest.raises(AuthenticationError, match="does not accept this secret"):
                await connect_guarded(endpoint, "another secret", Caller)
        assert strangers.refused == 1

    run(main())


def test_a_client_recognizes_a_server_that_is_none() -> None:
    def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        endpoint = Endpoint(*server.sockets[0].getsockname()[:2])
        with pytest.raises(AuthenticationError, match="does not speak"):
            await connect_guarded(endpoint, SECRET, Caller)
        server.close()

    run(main())


def test_an_attempt_that_is_given_up_leaves_no_connection() -> None:
    async def main() -> None:
        came: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        server = await asyncio.start_server(
            lambda reader, writer: came.put_nowait((reader, writer)), "127.0.0.1", 0
        )
        endpoint = Endpoint(*server.sockets[0].getsockname()[:2])
        attempt = asyncio.ensure_future(connect_guarded(endpoint, SECRET, Caller))
        reader, writer = await came.get()
        writer.write(guard.ServerProver(SECRET, bytes(32)).begin())
        await reader.readexactly(64)  # it waits for the answer now
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        with contextlib.suppress(ConnectionError):
            # Not only when it would have had to prove itself.
            assert await asyncio.wait_for(reader.read(), guard.PROOF_SECONDS / 2) == b""
        writer.close()
        server.close()

    run(main())


async def reach(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and say nothing."""
    return await asyncio.open_connection(*endpoint)


async def until_there(strangers: Strangers, count: int) -> None:
    while len(strangers._there) < count:
        await one_turn()


async def until_refused(strangers: Strangers, count: int) -> None:
    """Wait for what is counted after the other end has learnt that its connection is closed."""
    while strangers.refused < count:
        await one_turn()
    assert strangers.refused == count


async def until_closed(reader: asyncio.StreamReader) -> None:
    """Read whatever comes before the connection ends."""
    with contextlib.suppress(ConnectionError):
        await reader.read()


@pytest.mark.expect_log("it proved nothing in time|handshake is taking longer")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("config", [Config(), tls_of("node")], ids=["plain", "TLS"])
def test_who_says_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, config: Config, loop: Callable[..., Any]
) -> None:
    monkeypatch.setattr(guard, "PROOF_SECONDS", 0.05)

    async def main() -> None:
        strangers = Strangers()
        async with listening(strangers, config) as endpoint:
            reader, writer = await reach(endpoint)
            await until_closed(reader)
            writer.close()
            await until_refused(strangers, 1)

    run(main(), loop)


@pytest.mark.expect_log("it proved nothing in time|handshake is taking longer", required=False)
@pytest.mark.expect_log("too many others")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("config", [Config(), tls_of("node")], ids=["plain", "TLS"])
def test_strangers_are_few_and_do_not_keep_others_out_for_long(
    monkeypatch: pytest.MonkeyPatch, config: Config, loop: Callable[..., Any]
) -> None:
    async def main() -> None:
        strangers = Strangers(most=3)
        async with listening(strangers, config) as endpoint:
            monkeypatch.setattr(guard, "PROOF_SECONDS", 1.0)
            silent = [await reach(endpoint) for _ in range(3)]
            await until_there(strangers, 3)
            monkeypatch.setattr(guard, "PROOF_SECONDS", SECONDS)
            with pytest.raises((AuthenticationError, OSError)):
                await talk(endpoint, config)
            assert strangers.refused == 1
            for reader, writer in silent:
                await until_closed(reader)
                writer.close()
            await until_refused(strangers, 4)
            assert await talk(endpoint, config) == b"hello"

    run(main(), loop)


@pytest.mark.expect_log("the listener closes", required=False)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("config", [Config(), tls_of("node")], ids=["plain", "TLS"])
def test_strangers_go_with_the_server(config: Config, loop: Callable[..., Any]) -> None:
    async def main() -> None:
        strangers = Strangers()
        async with listening(strangers, config) as endpoint:
            first = await reach(endpoint)
            await until_there(strangers, 1)
            second = await reach(endpoint)
        for reader, writer in (first, second):
            await until_closed(reader)
            writer.close()

    run(main(), loop)


@pytest.mark.expect_log("is not accepted: .*Too many open files")
def test_accepting_goes_on_when_the_system_has_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_PAUSE", 0.01)
    accept = socket.socket.accept
    failures = [OSError(24, "Too many open files")]

    def fail_once(listener: socket.socket) -> object:
        if failures:
            raise failures.pop()
        return accept(listener)

    async def main() -> None:
        strangers = Strangers()
        async with listening(strangers) as endpoint:
            with monkeypatch.context() as patched:
                patched.setattr(socket.socket, "accept", fail_once)
                assert await talk(endpoint) == b"hello"
        assert strangers.refused == 1

    run(main())


@pytest.mark.expect_log("closed", required=False)
@pytest.mark.parametrize("config", [Config(), tls_of("stranger")], ids=["plain", "not signed"])
def test_without_the_right_certificate_nobody_gets_as_far_as_a_proof(config: Config) -> None:
    async def main() -> None:
        strangers = Strangers()
        async with listening(strangers, tls_of("node")) as endpoint:
            with pytest.raises(OSError):
                await talk(endpoint, config)

    run(main())


def test_tls_settings_come_together() -> None:
    with pytest.raises(UsageError, match="RAYDASK_TLS_KEY and RAYDASK_TLS_AUTHORITY"):
        server_tls(Config(tls_certificate="node.pem"))


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    config = Config(tls_certificate="/nowhere", tls_key="/nowhere", tls_authority="/nowhere")
    with pytest.raises(StartError, match="RAYDASK_TLS_CERTIFICATE=/nowhere"):
        client_tls(config)
