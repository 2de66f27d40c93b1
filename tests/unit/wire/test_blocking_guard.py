"""Connections of threads: who knows the secret gets in, whoever else knocks."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raydask.config import Config
from raydask.wire import blocking_guard
from raydask.wire.authentication import (
    GREETING,
    AuthenticationError,
    ClientProver,
    NotRaydaskError,
)
from raydask.wire.blocking_guard import GuardedListener, connect_blocking
from raydask.wire.endpoint import Endpoint, endpoint_of, listen_at
from raydask.wire.tls import client_tls, server_tls

SECRET = "a secret of the cluster"
CERTIFICATES = Path(__file__).parent / "certificates"
SECONDS = 8.0
LOOPBACK = Endpoint("127.0.0.1", 0)


def tls_of(name: str) -> Config:
    return Config(
        tls_certificate=str(CERTIFICATES / f"{name}.pem"),
        tls_key=str(CERTIFICATES / f"{name}.key"),
        tls_authority=str(CERTIFICATES / "authority.pem"),
    )


class Door:
    """A guarded listener on loopback, and what came through it."""

    def __init__(self, config: Config, most: int, proof_seconds: float) -> None:
        listener = listen_at(LOOPBACK)
        self.endpoint = endpoint_of(listener)
        self.proved: queue.Queue[socket.socket] = queue.Queue()
        self.guarded = GuardedListener(
            listener,
            SECRET,
            server_tls(config),
            self.proved.put,
            most=most,
            proof_seconds=proof_seconds,
        )

    def reach(self) -> socket.socket:
        """Connect."""
        return socket.create_connection(self.endpoint, SECONDS)

    def knock(self) -> socket.socket:
        """Connect as a stranger, and wait until the listener has greeted."""
        sock = self.reach()
        assert len(exactly(sock, 40)) == 40
        return sock

    def enter(self, config: Config = Config()) -> tuple[socket.socket, socket.socket]:  # noqa: B008
        """Connect as a node; return both ends."""
        client = connect_blocking(self.endpoint, SECRET, client_tls(config))
        return client, self.proved.get(timeout=SECONDS)


@contextmanager
def door(
    config: Config = Config(),  # noqa: B008  (immutable)
    most: int = 64,
    proof_seconds: float = SECONDS,
) -> Iterator[Door]:
    made = Door(config, most, proof_seconds)
    before = set(threading.enumerate())
    made.guarded.start()
    try:
        yield made
    finally:
        made.guarded.close()
        made.guarded.close()
        assert set(threading.enumerate()) <= before
        while not made.proved.empty():
            made.proved.get().close()


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def is_closed(sock: socket.socket) -> bool:
    """Whether the other end closes the connection, within the socket's timeout."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("config", [Config(), tls_of("node")], ids=["plain", "TLS"])
def test_those_who_know_the_secret_talk(config: Config) -> None:
    with door(config) as there:
        client, server = there.enter(config)
        with client, server:
            assert client.gettimeout() is server.gettimeout() is None
            for one, other in ((client, server), (server, client)):
                one.sendall(b"hello")
                assert exactly(other, 5) == b"hello"
        assert there.guarded.refused == 0


@pytest.mark.parametrize("config", [Config(), tls_of("node")], ids=["plain", "TLS"])
def test_the_kernel_notices_on_both_ends_when_a_machine_vanishes(config: Config) -> None:
    with door(config) as there:
        client, server = there.enter(config)
        with client, server:
            for sock in (client, server):
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_what_follows_the_proof_in_one_piece_is_not_lost() -> None:
    with door() as there, there.reach() as client:
        prover = ClientProver(SECRET, bytes(32))
        client.sendall(prover.feed(exactly(client, 40)) + b"hello")
        with there.proved.get(timeout=SECONDS) as server:
            assert exactly(server, 5) == b"hello"


def test_what_the_server_sends_right_behind_its_proof_is_not_lost() -> None:
    with door() as there:
        there.guarded._on_connection = lambda server: (
            server.sendall(b"hello"),
            there.proved.put(server),
        )[1]
        client, server = there.enter()
        with client, server:
            assert exactly(client, 5) == b"hello"


@pytest.mark.expect_log("another than this cluster")
def test_a_client_with_another_secret_learns_why() -> None:
    match = "does not accept this secret"
    with door() as there, pytest.raises(AuthenticationError, match=match):
        connect_blocking(there.endpoint, "another secret")
    assert there.guarded.refused == 1 and there.proved.empty()


@pytest.mark.parametrize("begins", [b"220 mail.example.org ESMTP", b"raydask\x00" + bytes(32)])
def test_a_client_recognizes_a_server_that_is_none(begins: bytes) -> None:
    says = "another version" if begins.startswith(b"raydask") else "does not speak raydask"
    with listen_at(LOOPBACK) as listener:
        thread = threading.Thread(target=greet, args=(listener, begins))
        thread.start()
        with pytest.raises(AuthenticationError, match=says):
            connect_blocking(endpoint_of(listener), SECRET)
        thread.join()


def greet(listener: socket.socket, data: bytes) -> None:
    sock, _ = listener.accept()
    with sock:
        sock.sendall(data)


@pytest.mark.parametrize("config", [Config(), tls_of("node")], ids=["plain", "TLS"])
def test_a_client_does_not_wait_for_who_says_nothing(config: Config) -> None:
    tls, match = client_tls(config), "does not seem to be raydask"
    with listen_at(LOOPBACK) as listener, pytest.raises(NotRaydaskError, match=match):
        connect_blocking(endpoint_of(listener), SECRET, tls, timeout=0.05)


def test_a_server_that_greets_and_is_slow_is_no_other_service() -> None:
    hold = threading.Event()

    def greet_and_wait() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.sendall(GREETING + bytes(32))
            hold.wait(SECONDS)

    with listen_at(LOOPBACK) as listener:
        thread = threading.Thread(target=greet_and_wait)
        thread.start()
        with pytest.raises(TimeoutError, match="proved nothing in time"):
            connect_blocking(endpoint_of(listener), SECRET, timeout=0.3)
        hold.set()
        thread.join()


def test_nobody_there_is_an_error_of_the_system() -> None:
    with listen_at(LOOPBACK) as listener:
        endpoint = endpoint_of(listener)
    with pytest.raises(ConnectionRefusedError):
        connect_blocking(endpoint, SECRET)


@pytest.mark.expect_log("proved nothing in time")
@pytest.mark.parametrize("config", [Config(), tls_of("node")], ids=["plain", "TLS"])
def test_who_says_nothing_is_not_waited_for(config: Config) -> None:
    with door(config, proof_seconds=0.05) as there, there.reach() as silent:
        exactly(silent, 40)
        assert is_closed(silent)
    assert there.guarded.refused == 1


@pytest.mark.expect_log("closed")
def test_garbage_is_refused_and_harms_nobody() -> None:
    with door() as there:
        with there.knock() as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n" + bytes(4096))
            assert is_closed(stranger)
        client, server = there.enter()
        client.close()
        server.close()
    assert there.guarded.refused == 1


@pytest.mark.expect_log("too many others")
def test_the_oldest_of_too_many_strangers_makes_room() -> None:
    with door(most=3) as there:
        strangers = [there.knock() for _ in range(3)]
        client, server = there.enter()
        client.close()
        server.close()
        assert is_closed(strangers[0])
        strangers += [there.knock(), there.knock()]
        assert is_closed(strangers[1])
        there.guarded.close()
        assert all(is_closed(stranger) for stranger in strangers[2:])
        assert there.guarded.refused == 2
        for stranger in strangers:
            stranger.close()


@pytest.mark.expect_log(r"\([124] so far\)")
def test_refusals_are_logged_ever_more_rarely() -> None:
    with door() as there:
        for _ in range(5):
            with pytest.raises(AuthenticationError):
                connect_blocking(there.endpoint, "another secret")
    assert there.guarded.refused == 5


@pytest.mark.expect_log("could not be served")
def test_a_connection_that_nobody_serves_is_closed() -> None:
    def refuse(sock: socket.socket) -> None:
        raise RuntimeError("no more threads")

    with door() as there:
        there.guarded._on_connection = refuse
        with connect_blocking(there.endpoint, SECRET) as client:
            client.settimeout(SECONDS)
            assert is_closed(client)


@pytest.mark.expect_log("is not accepted")
def test_accepting_goes_on_when_the_system_has_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        """A listener that fails once."""

        def __init__(self, listener: socket.socket) -> None:
            self._listener = listener
            self.failed = False

        def accept(self) -> tuple[socket.socket, object]:
            if not self.failed:
                self.failed = True
                raise OSError(24, "Too many open files")
            return self._listener.accept()

        def __getattr__(self, name: str) -> object:
            return getattr(self._listener, name)

    monkeypatch.setattr(blocking_guard, "_PAUSE", 0.01)
    monkeypatch.setattr(blocking_guard, "shut_down", lambda sock: None)
    listener = listen_at(LOOPBACK)
    proved: queue.Queue[socket.socket] = queue.Queue()
    guarded = GuardedListener(Exhausted(listener), SECRET, None, proved.put)  # type: ignore[arg-type]
    guarded.start()
    connect_blocking(endpoint_of(listener), SECRET).close()
    proved.get(timeout=SECONDS).close()
    listener.shutdown(socket.SHUT_RDWR)
    guarded.close()


@pytest.mark.expect_log("closed", required=False)
@pytest.mark.parametrize("config", [Config(), tls_of("stranger")], ids=["plain", "not signed"])
def test_without_the_right_certificate_nobody_gets_as_far_as_a_proof(config: Config) -> None:
    with door(tls_of("node")) as there, pytest.raises(OSError):
        connect_blocking(there.endpoint, SECRET, client_tls(config), timeout=1.0)
    assert there.proved.empty()
