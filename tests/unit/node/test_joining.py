"""What a node says to the head that it wants to join, and what it makes of the answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from raydask.errors import StartError
from raydask.node.joining import ask_to_join
from raydask.wire.endpoint import Endpoint
from raydask.wire.framing import FrameDecoder, encode
from raydask.wire.handshake import versions_here, versions_in
from raydask.wire.messages import EndSession, JoinCluster, Joined

HEAD = Endpoint("10.0.0.1", 6400)
SECONDS = 8.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give the node's end of a connection, and the head's."""
    node, head = socket.socketpair()
    with node, head:
        head.settimeout(SECONDS)
        yield node, head


def ask(node: socket.socket) -> Joined:
    return ask_to_join(node, HEAD, time.monotonic() + SECONDS)


def test_a_node_says_its_versions_and_gets_a_number(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    node, head = ends
    answer = Joined(7, "a cluster", shards=2)
    head.sendall(encode(answer))
    assert ask(node) == answer
    (asked,) = FrameDecoder().feed(head.recv(1 << 16))
    assert isinstance(asked, JoinCluster)
    assert versions_in(asked) == versions_here()


def test_an_answer_may_come_in_pieces(ends: tuple[socket.socket, socket.socket]) -> None:
    node, head = ends
    frame = encode(Joined(7, "a cluster" * 10_000))

    def answer() -> None:
        for start in range(0, len(frame), 1000):
            head.sendall(frame[start : start + 1000])

    thread = threading.Thread(target=answer)
    thread.start()
    assert ask(node).node == 7
    thread.join(SECONDS)


def test_a_head_that_goes_away_is_named(ends: tuple[socket.socket, socket.socket]) -> None:
    node, head = ends
    head.shutdown(socket.SHUT_WR)
    with pytest.raises(StartError, match=r"head at 10\.0\.0\.1:6400 did not answer: it closed"):
        ask(node)


@pytest.mark.parametrize("late", [0.0, 0.02])
def test_a_head_that_says_nothing_is_not_waited_for(
    ends: tuple[socket.socket, socket.socket], late: float
) -> None:
    with pytest.raises(StartError, match="did not answer"):
        ask_to_join(ends[0], HEAD, time.monotonic() + late)


@pytest.mark.parametrize("data", [encode(EndSession()), b"HTTP/1.1 400 Bad Request\r\n"])
def test_another_answer_is_no_answer(
    ends: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    node, head = ends
    head.sendall(data)
    with pytest.raises(StartError, match=r"10\.0\.0\.1:6400"):
        ask(node)
