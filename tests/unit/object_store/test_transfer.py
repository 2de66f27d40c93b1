"""The source's end of data connections: what it sends, what it refuses, and how it ends."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydask.object_store.transfer import TransferStatus, encode_request
from tests.unit.object_store.transfer_node import (
    ARENA,
    MIB,
    SECONDS,
    TransferNode,
    transfer_threads,
)

OK = bytes((TransferStatus.OK,))


class Source:
    """A node with random bytes in its arena, and a bare connection to it."""

    def __init__(self, folder: Path) -> None:
        self.node = TransferNode(folder)
        self.bytes = os.urandom(ARENA)
        self.node.fill(0, self.bytes)
        self.socket = self.connect()

    def connect(self) -> socket.socket:
        here, there = socket.socketpair()
        here.settimeout(SECONDS)
        self.node.server.serve(there)
        return here

    def ask(self, file: int, offset: int, length: int) -> None:
        self.socket.sendall(encode_request(file, offset, length))

    def answer(self, size: int) -> bytes:
        """Return so many bytes, or what comes before the end of the connection."""
        data = b""
        while len(data) < size and (more := self.socket.recv(size - len(data))):
            data += more
        return data

    def status(self) -> int:
        return self.answer(1)[0]

    def is_closed(self) -> bool:
        return self.socket.recv(1) == b""

    def close(self) -> None:
        self.socket.close()
        self.node.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    source = Source(tmp_path)
    yield source
    source.close()
    assert transfer_threads() == []


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (4096, 0), (ARENA, 0), (123, 5 * MIB + 7), (0, ARENA)]
)
def test_a_range_of_the_arena_is_sent(source: Source, offset: int, length: int) -> None:
    source.ask(0, offset, length)
    assert source.answer(1 + length) == OK + source.bytes[offset : offset + length]


def test_a_range_of_a_spill_file_is_sent(source: Source, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    (tmp_path / "7.spill").write_bytes(data)
    source.ask(7, 4096, 2 * MIB + 1)
    assert source.answer(2 * MIB + 2) == OK + data[4096:][: 2 * MIB + 1]


def test_requests_are_answered_in_order_and_counted(source: Source) -> None:
    for offset in (0, 2 * MIB, MIB):
        source.ask(0, offset, MIB)
    expected = b"".join(OK + source.bytes[offset:][:MIB] for offset in (0, 2 * MIB, MIB))
    assert source.answer(len(expected)) == expected
    source.socket.close()
    source.node.server.close()
    assert source.node.server.bytes_sent == 3 * MIB


def test_files_that_the_system_cannot_send_from_are_copied(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EINVAL, "not from this file")

    monkeypatch.setattr(os, "sendfile", refuse)
    source.ask(0, 5, 2 * MIB)
    assert source.answer(1 + 2 * MIB) == OK + source.bytes[5 : 5 + 2 * MIB]


@pytest.mark.expect_log("data connection from .* is closed")
@pytest.mark.parametrize(
    "request_bytes",
    [
        encode_request(0, ARENA - 5, 6),
        encode_request(0, ARENA + 1, 0),
        encode_request(0, 2**64 - 1, 2**64 - 1),
        encode_request(3, 90, 11),
        b"GET / HTTP/1.1\r\nHost: a node\r\n\r\n",
    ],
)
def test_what_is_no_range_ends_that_connection_alone(
    source: Source, tmp_path: Path, request_bytes: bytes
) -> None:
    (tmp_path / "3.spill").write_bytes(bytes(100))
    with source.connect() as other:
        source.socket.sendall(request_bytes + encode_request(0, 0, 5))
        assert source.status() == TransferStatus.REFUSED
        assert source.is_closed()
        other.sendall(encode_request(0, 0, 5))
        source.socket, old = other, source.socket
        assert source.answer(6) == OK + source.bytes[:5]
        old.close()


@pytest.mark.expect_log("not within one object")
def test_a_range_that_is_in_part_being_filled_is_refused(source: Source) -> None:
    source.node.partial.begin(4096, 4096)
    source.ask(0, 0, 8192)
    assert source.status() == TransferStatus.REFUSED


def test_a_file_that_is_gone_is_not_here(source: Source) -> None:
    source.ask(9, 0, 5)
    assert source.status() == TransferStatus.NOT_HERE
    assert source.is_closed()


def test_what_is_being_filled_is_sent_as_it_comes(source: Source) -> None:
    partial = source.node.partial
    partial.begin(4096, MIB)
    partial.start(4096)
    partial.advance(4096, 1000)
    source.ask(0, 4096, MIB)
    assert source.answer(1001) == OK + source.bytes[4096:5096]
    partial.advance(4096, 5000)
    assert source.answer(4000) == source.bytes[5096:9096]
    partial.end(4096, True)
    assert source.answer(MIB - 5000) == source.bytes[9096:][: MIB - 5000]


def test_a_pull_that_is_queued_is_asked_for_again_later(source: Source) -> None:
    source.node.partial.begin(4096, MIB)
    source.ask(0, 4096, 5)
    assert source.status() == TransferStatus.LATER
    source.node.partial.start(4096)
    source.ask(0, 4096, 5)
    source.node.partial.advance(4096, 5)
    assert source.answer(6) == OK + source.bytes[4096:4101]


def test_a_pull_that_failed_before_anything_was_sent_is_told(source: Source) -> None:
    partial = source.node.partial
    partial.begin(4096, MIB)
    partial.start(4096)
    source.ask(0, 4096, 5)
    partial.end(4096, False)
    assert source.status() == TransferStatus.NOT_HERE
    assert source.is_closed()


@pytest.mark.parametrize("then", ["fails", "is queued again", "stays"])
def test_a_pull_that_fails_later_ends_the_connection(source: Source, then: str) -> None:
    partial = source.node.partial
    partial.begin(4096, MIB)
    partial.start(4096)
    partial.advance(4096, 5)
    source.ask(0, 4096, MIB)
    assert source.answer(6) == OK + source.bytes[4096:4101]
    if then == "stays":
        source.node.server.close()
    else:
        with partial._changed:  # both before the waiting thread looks again
            partial.end(4096, False)
            if then == "is queued again":
                partial.begin(4096, MIB)
    assert source.is_closed()


@pytest.mark.parametrize("kind", ["unix", "TCP"])
def test_a_puller_that_takes_nothing_is_given_up(tmp_path: Path, kind: str) -> None:
    node = TransferNode(tmp_path, server_options={"patience": 0.05})
    here, there = socket.socketpair() if kind == "unix" else tcp_pair()
    node.server.serve(there)
    here.sendall(encode_request(0, 0, ARENA))
    wait_until_threads_end()
    assert node.server.bytes_sent == 0
    here.close()
    node.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        return here, listener.accept()[0]


def test_a_connection_without_requests_is_closed(tmp_path: Path) -> None:
    node = TransferNode(tmp_path, server_options={"idle_seconds": 0.05})
    here, there = socket.socketpair()
    node.server.serve(there)
    here.settimeout(SECONDS)
    assert here.recv(1) == b""
    here.close()
    node.close()


@pytest.mark.parametrize("begins", [b"", encode_request(0, 0, 5)[:9]])
def test_a_puller_that_goes_away_is_no_matter(source: Source, begins: bytes) -> None:
    source.socket.sendall(begins)
    source.socket.close()
    wait_until_threads_end()


def wait_until_threads_end() -> None:
    for thread in threading.enumerate():
        if thread.name == "raydask-send":
            thread.join(SECONDS)
    assert transfer_threads() == []


def test_closing_ends_what_is_being_sent_and_refuses_what_comes(source: Source) -> None:
    source.ask(0, 0, ARENA)  # more than the socket takes
    assert source.status() == TransferStatus.OK
    source.node.server.close()
    assert transfer_threads() == []
    source.socket.close()
    source.socket = source.connect()
    assert source.is_closed()


def test_a_socket_that_has_ended_is_closed(source: Source) -> None:
    unconnected = socket.socket()
    with pytest.raises(OSError):
        source.node.server.serve(unconnected)
    assert unconnected.fileno() == -1


def test_requests_are_of_one_size() -> None:
    assert encode_request(1, 2, 3) == struct.pack("<BQQQ", 0xD7, 1, 2, 3)
