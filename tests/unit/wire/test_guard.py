"""Connections over TCP: nobody gets to speak who has not proved to know the secret."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from raydask.config import Config
from raydask.errors import StartError, UsageError
from raydask.wire import guard
from raydask.wire.authentication import AuthenticationError
from raydask.wire.endpoint import Endpoint
from raydask.wire.guard import Strangers, connect_guarded, guarded_by
from raydask.wire.tls import client_tls, server_tls

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


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, SECONDS))


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
    loop = asyncio.get_running_loop()
    make = guarded_by(SECRET, Echo, strangers)
    server = await loop.create_server(make, "127.0.0.1", 0, ssl=server_tls(config))
    try:
        yield Endpoint(*server.sockets[0].getsockname()[:2])
    finally:
        strangers.close()
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
def test_those_who_know_the_secret_talk(config: Config) -> None:
    async def main() -> None:
        strangers = Strangers()
        async with listening(strangers, config) as endpoint:
            assert await talk(endpoint, config) == b"hello"
        assert strangers.refused == 0

    run(main())


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
    async def main() -> None:
        server = await asyncio.start_server(
            lambda reader, writer: writer.write(b"220 mail.example.org ESMTP"), "127.0.0.1", 0
        )
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


@pytest.mark.expect_log("proved nothing in time")
def test_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PROOF_SECONDS", 0.05)

    async def main() -> None:
        strangers = Strangers()
        async with listening(strangers) as endpoint:
            reader, writer = await asyncio.open_connection(*endpoint)
            await reader.readexactly(40)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(1)
            writer.close()
        assert strangers.refused == 1

    run(main())


@pytest.mark.expect_log("proved nothing in time")
def test_strangers_are_few_and_do_not_keep_others_out_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "PROOF_SECONDS", 0.3)

    async def main() -> None:
        strangers = Strangers(most=3)
        async with listening(strangers) as endpoint:
            silent = [await asyncio.open_connection(*endpoint) for _ in range(3)]
            for reader, _ in silent:
                await reader.readexactly(40)
            with pytest.raises((AuthenticationError, ConnectionError)):
                await talk(endpoint)
            for reader, writer in silent:
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await reader.readexactly(1)
                writer.close()
            assert await talk(endpoint) == b"hello"

    run(main())


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
