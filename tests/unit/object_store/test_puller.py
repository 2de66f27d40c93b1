"""Pulling objects from other nodes: all bytes or an error, once, and nothing left behind."""

from __future__ import annotations

import errno
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raydask.config import Config
from raydask.errors import InternalError
from raydask.object_store import puller
from raydask.object_store.partial_objects import NotFilledError, PartialObjects
from raydask.object_store.streams import Buffer
from raydask.object_store.transfer import TransferStatus
from raydask.wire.blocking_guard import GuardedListener, connect_blocking
from raydask.wire.endpoint import Endpoint, endpoint_of, listen_at
from raydask.wire.tls import client_tls, server_tls
from tests.unit.object_store.transfer_node import (
    ARENA,
    MIB,
    SECONDS,
    Connect,
    TransferNode,
    transfer_threads,
)
from tests.unit.wire.test_blocking_guard import SECRET, tls_of

OK = bytes((TransferStatus.OK,))
LATER = bytes((TransferStatus.LATER,))

Make = Callable[..., TransferNode]
Listen = Callable[[TransferNode, Config], Connect]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes nodes, numbered from 0, each of which knows all that were made before."""
    made: list[TransferNode] = []

    def make(**options: Any) -> TransferNode:
        node = TransferNode(tmp_path, **options)
        node.others.update(enumerate(made))
        made.append(node)
        return node

    yield make
    for node in made:
        node.puller.close()
    for node in made:
        node.close()
    assert transfer_threads() == []


class Script:
    """A source whose every answer the test gives itself."""

    def __init__(self) -> None:
        self._accepted: queue.Queue[socket.socket] = queue.Queue()

    def connect(self, node: int) -> socket.socket:
        here, there = socket.socketpair()
        there.settimeout(SECONDS)
        self._accepted.put(there)
        return here

    def accept(self) -> socket.socket:
        """Return the other end of the next connection."""
        return self._accepted.get(timeout=SECONDS)

    def asked(self, sock: socket.socket) -> tuple[int, int, int]:
        """Return (file, offset, length) of the next request."""
        request = sock.recv(25, socket.MSG_WAITALL)
        return tuple(int.from_bytes(request[at : at + 8], "little") for at in (1, 9, 17))  # type: ignore[return-value]


@pytest.mark.parametrize("size", [0, 1, 4096, 3 * MIB + 5, ARENA])
def test_objects_arrive_whole(make: Make, size: int) -> None:
    source, node = make(), make()
    data = os.urandom(size)
    source.fill(0, data)
    node.puller.pull(7, 0, 0, 0, size, 0)
    assert node.end_of_pull() == (7, "")
    assert node.read(0, size) == data
    node.puller.close()
    source.server.close()
    assert node.puller.bytes_received == source.server.bytes_sent == size


def test_only_the_place_of_the_object_changes(make: Make) -> None:
    source, node = make(), make(puller_options={"piece_size": 5000})
    source.fill(0, os.urandom(MIB))
    node.fill(0, b"x" * MIB)
    node.puller.pull(1, 0, 0, 4096, 50_001, 8192)
    assert node.end_of_pull() == (1, "")
    assert node.read(0, MIB) == b"x" * 8192 + source.read(4096, 50_001) + b"x" * (MIB - 58_193)


def test_an_object_comes_from_a_spill_file(make: Make, tmp_path: Path) -> None:
    data = os.urandom(2 * MIB)
    (tmp_path / "5.spill").write_bytes(data)
    make()
    node = make()
    node.puller.pull(1, 0, 5, 4096, MIB, 0)
    assert node.end_of_pull() == (1, "")
    assert node.read(0, MIB) == data[4096:][:MIB]


def test_pulls_from_several_nodes_go_at_once_over_connections_that_stay(make: Make) -> None:
    sources = [make() for _ in range(3)]
    for source in sources:
        source.fill(0, os.urandom(ARENA // 2))
    node = make()
    for number in range(24):
        node.puller.pull(number, number % 3, 0, number * MIB // 2, MIB // 2, number * MIB)
    assert sorted(node.end_of_pull() for _ in range(24)) == [(n, "") for n in range(24)]
    for number in range(24):
        here, there = node.read(number * MIB, MIB // 2), sources[number % 3]
        assert here == there.read(number * MIB // 2, MIB // 2)
    assert len(node.connections) <= 12


@pytest.fixture
def over_loopback() -> Iterator[Listen]:
    """Has a node listen, and returns how to connect to it."""
    listening: list[GuardedListener] = []

    def listen(source: TransferNode, config: Config) -> Connect:
        listener = listen_at(Endpoint("127.0.0.1", 0))
        endpoint, tls = endpoint_of(listener), client_tls(config)
        guarded = GuardedListener(listener, SECRET, server_tls(config), source.server.serve)
        guarded.start()
        listening.append(guarded)
        return lambda number: connect_blocking(endpoint, SECRET, tls)

    yield listen
    for guarded in listening:
        guarded.close()


@pytest.mark.parametrize("config", [Config(), tls_of("node")], ids=["plain", "TLS"])
def test_objects_go_over_guarded_connections(
    make: Make, over_loopback: Listen, config: Config
) -> None:
    source = make()
    node = make(connect=over_loopback(source, config))
    source.fill(0, os.urandom(12 * MIB))
    for number in (1, 2):
        node.puller.pull(number, 0, 0, 4096 * number, 10 * MIB + number, (number - 1) * 11 * MIB)
    assert sorted(node.end_of_pull() for _ in range(2)) == [(1, ""), (2, "")]
    for number in (1, 2):
        arrived = node.read((number - 1) * 11 * MIB, 10 * MIB + number)
        assert arrived == source.read(4096 * number, 10 * MIB + number)
    node.puller.pull(3, 0, 8, 0, 10, 0)
    assert node.end_of_pull() == (3, "node 0: it has not got the object")


@pytest.mark.parametrize("moment", ["idle", "in the middle"])
def test_encrypted_connections_end_as_well(make: Make, over_loopback: Listen, moment: str) -> None:
    config = tls_of("node")
    source = make()
    source.partial.begin(0, MIB)
    node = make(connect=over_loopback(source, config))
    if moment == "idle":
        source.server.close()
        node.puller.pull(1, 0, 0, 0, MIB, 0)
        assert "node 0" in node.end_of_pull()[1]
    else:
        source.partial.start(0)
        source.partial.advance(0, 1000)
        node.puller.pull(1, 0, 0, 0, MIB, 0)
        node.puller.cancel(1)
        assert node.end_of_pull() == (1, "cancelled")


def test_a_pull_fails_that_finds_no_memory_to_receive_with_and_the_next_does_not(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [OSError(errno.ENOMEM, "Cannot allocate memory")]

    def new_buffer() -> Buffer:
        if refusals:
            raise refusals.pop()
        return Buffer()

    monkeypatch.setattr(puller, "Buffer", new_buffer)
    source, node = make(), make(puller_options={"most": 1})
    source.fill(0, b"x" * MIB)
    node.puller.pull(1, 0, 0, 0, MIB, 0)
    number, error = node.end_of_pull()
    assert number == 1 and "Cannot allocate memory" in error
    node.puller.pull(2, 0, 0, 0, MIB, 0)
    assert node.end_of_pull() == (2, "")
    assert node.read(0, MIB) == b"x" * MIB


def test_a_node_that_is_pulling_passes_on_what_it_has(make: Make) -> None:
    script = Script()
    first = make(connect=script.connect, puller_options={"piece_size": MIB})
    second = make(puller_options={"piece_size": MIB})
    third = make(puller_options={"piece_size": MIB})
    data = os.urandom(2 * MIB)
    first.puller.pull(1, 9, 0, 0, 2 * MIB, 0)
    second.puller.pull(1, 0, 0, 0, 2 * MIB, MIB)
    third.puller.pull(1, 1, 0, MIB, 2 * MIB, 4 * MIB)
    with script.accept() as origin:
        assert script.asked(origin) == (0, 0, MIB)
        origin.sendall(OK + data[:1000])
        wait_until_filled(third.partial, 4 * MIB, 1000)
        assert third.read(4 * MIB, 1000) == data[:1000]
        origin.sendall(data[1000:MIB] + OK + data[MIB:])
        for node, offset in ((first, 0), (second, MIB), (third, 4 * MIB)):
            assert node.end_of_pull() == (1, "")
            assert node.read(offset, 2 * MIB) == data
    assert first.server.bytes_sent <= 2 * MIB


def wait_until_filled(partial: PartialObjects, offset: int, filled: int) -> None:
    with partial._changed:
        region = partial._regions[offset]
        assert partial._changed.wait_for(lambda: region.filled >= filled, SECONDS)


def test_the_next_piece_is_asked_for_before_the_last_has_come(make: Make) -> None:
    script = Script()
    node = make(connect=script.connect, puller_options={"piece_size": 1000})
    node.puller.pull(1, 9, 3, 500, 2500, 0)
    with script.accept() as source:
        assert script.asked(source) == (3, 500, 1000)
        source.sendall(OK)
        assert script.asked(source) == (3, 1500, 1000)
        source.sendall(bytes(1000) + OK)
        assert script.asked(source) == (3, 2500, 500)
        source.sendall(bytes(1000) + OK + bytes(500))
        assert node.end_of_pull() == (1, "")


def test_a_source_that_dies_in_the_middle_fails_the_pull_and_who_waits_for_it(make: Make) -> None:
    script = Script()
    first, second = make(connect=script.connect), make()
    first.puller.pull(1, 9, 0, 0, MIB, 0)
    second.puller.pull(2, 0, 0, 0, MIB, 0)
    with script.accept() as origin:
        script.asked(origin)
        origin.sendall(OK + bytes(1000))
        wait_until_filled(second.partial, 0, 1000)
    number, error = first.end_of_pull()
    assert number == 1 and "node 9" in error
    number, error = second.end_of_pull()
    assert number == 2 and "node 0" in error
    with pytest.raises(NotFilledError):
        first.partial.filled(0, 10)


def test_a_pull_that_failed_can_be_made_again(make: Make) -> None:
    source, node = make(), make()
    source.fill(0, b"x" * 1000)
    node.puller.pull(1, 0, 8, 0, 1000, 0)
    assert node.end_of_pull() == (1, "node 0: it has not got the object")
    node.puller.pull(1, 0, 0, 0, 1000, 0)
    assert node.end_of_pull() == (1, "")
    assert node.partial.filled(0, 1000) == 1000


def test_another_source_is_asked_for_the_rest_alone(make: Make) -> None:
    script = Script()
    node = make(connect=script.connect, puller_options={"piece_size": 10})
    node.puller.pull(1, 9, 0, 100, 25, 0)
    with script.accept() as source:
        assert script.asked(source) == (0, 100, 10)
        source.sendall(OK + b"a" * 10 + OK + b"b" * 4)
        assert script.asked(source) == (0, 110, 10)
        wait_until_filled(node.partial, 0, 14)
    assert node.end_of_pull()[1]
    assert node.arrived[1] == 14

    node.puller.pull(1, 8, 3, 500, 25, 0, node.arrived[1])
    with script.accept() as source:
        assert script.asked(source) == (3, 514, 10)
        source.sendall(OK + b"c" * 10)
        assert script.asked(source) == (3, 524, 1)
        source.sendall(OK + b"d")
        assert node.end_of_pull() == (1, "")
    assert node.read(0, 25) == b"a" * 10 + b"b" * 4 + b"c" * 10 + b"d"
    assert node.puller.bytes_received == 25


@pytest.mark.expect_log("which has")
def test_a_refused_range_is_an_error(make: Make) -> None:
    make()
    node = make()
    node.puller.pull(1, 0, 0, ARENA - 10, 11, 0)
    assert node.end_of_pull() == (1, "node 0: it has no such range")


@pytest.mark.parametrize(("answer", "error"), [(b"\x09", "protocol"), (b"", "closed")])
def test_a_source_that_answers_something_else_is_an_error(
    make: Make, answer: bytes, error: str
) -> None:
    script = Script()
    node = make(connect=script.connect)
    node.puller.pull(1, 9, 0, 0, 10, 0)
    with script.accept() as source:
        script.asked(source)
        source.sendall(answer)
    assert error in node.end_of_pull()[1]


def test_a_node_that_cannot_be_reached_is_an_error(make: Make) -> None:
    def connect(node: int) -> socket.socket:
        raise ConnectionRefusedError("nobody there")

    node = make(connect=connect)
    node.puller.pull(1, 9, 0, 0, 10, 0)
    assert node.end_of_pull() == (1, "node 9: nobody there")


@pytest.mark.expect_log("met a bug")
def test_a_bug_ends_the_pull_alone(make: Make) -> None:
    def connect(node: int) -> socket.socket:
        raise KeyError(node)

    node = make(connect=connect)
    for number in (1, 2):
        node.puller.pull(number, 9, 0, 0, 10, 0)
        assert node.end_of_pull() == (number, "9")


@pytest.mark.expect_log("could not be told")
def test_a_callback_that_raises_harms_nothing(make: Make) -> None:
    node = make()
    told = node.puller._on_end
    has_raised = threading.Event()

    def tell(number: int, error: str, arrived: int) -> None:
        if number == 1:
            has_raised.set()
            raise RuntimeError("the loop is closed")
        told(number, error, arrived)

    node.puller._on_end = tell
    for number in (1, 2):
        node.puller.pull(number, 0, 0, 0, 0, number * 4096)
    assert node.end_of_pull() == (2, "")
    assert has_raised.wait(SECONDS)  # a puller that is closed before tells nobody


def test_a_source_that_sends_nothing_is_given_up(make: Make) -> None:
    script = Script()
    node = make(connect=script.connect, puller_options={"patience": 0.05})
    node.puller.pull(1, 9, 0, 0, 10, 0)
    with script.accept() as source:
        script.asked(source)
        assert node.end_of_pull() == (1, "node 9: nothing moved for 0.05 seconds")


def test_a_connection_that_was_closed_while_idle_is_replaced(make: Make) -> None:
    script = Script()
    node = make(connect=script.connect)
    for number in (1, 2):
        node.puller.pull(number, 9, 0, 0, 10, 0)
        with script.accept() as source:
            script.asked(source)
            source.sendall(OK + bytes(10))
            assert node.end_of_pull() == (number, "")


def test_a_source_that_has_yet_to_begin_is_asked_again(make: Make) -> None:
    script = Script()
    node = make(connect=script.connect)
    node.puller.pull(1, 9, 0, 0, 10, 0)
    with script.accept() as source:
        for _ in range(3):
            assert script.asked(source) == (0, 0, 10)
            source.sendall(LATER)
        script.asked(source)
        source.sendall(OK + b"0123456789")
        assert node.end_of_pull() == (1, "")
    assert node.read(0, 10) == b"0123456789"


def test_what_has_come_is_not_asked_for_again(make: Make) -> None:
    script = Script()
    node = make(connect=script.connect, puller_options={"piece_size": 6})
    node.puller.pull(1, 9, 0, 100, 10, 0)
    with script.accept() as source:
        assert script.asked(source) == (0, 100, 6)
        source.sendall(OK + b"012345")
        for _ in range(2):
            assert script.asked(source) == (0, 106, 4)
            source.sendall(LATER)
        assert script.asked(source) == (0, 106, 4)
        source.sendall(OK + b"6789")
        assert node.end_of_pull() == (1, "")
    assert node.read(0, 10) == b"0123456789"


def test_nodes_that_wait_for_one_another_do_not_wait_for_ever(make: Make) -> None:
    """Each of two wants from the other what that has queued behind a pull of the same kind."""
    all_queued = threading.Event()
    origin = make()
    origin.fill(0, os.urandom(2 * MIB))
    nodes: list[TransferNode] = []

    def connects(number: int) -> Callable[[int], socket.socket]:
        def connect(node: int) -> socket.socket:
            assert all_queued.wait(SECONDS)
            return nodes[number].connect(node)

        return connect

    nodes += [make(connect=connects(number), puller_options={"most": 1}) for number in (0, 1)]
    nodes[0].others[2] = nodes[1]
    for mine, others in ((0, 1), (1, 0)):
        nodes[mine].puller.pull(1, 1 + others, 0, others * MIB, MIB, others * MIB)
        nodes[mine].puller.pull(2, 0, 0, mine * MIB, MIB, mine * MIB)
    all_queued.set()
    for node in nodes:
        assert sorted(node.end_of_pull() for _ in range(2)) == [(1, ""), (2, "")]
        assert node.read(0, 2 * MIB) == origin.read(0, 2 * MIB)


def test_a_running_pull_is_cancelled(make: Make) -> None:
    script = Script()
    node = make(connect=script.connect)
    node.puller.pull(1, 9, 0, 0, MIB, 0)
    with script.accept() as source:
        script.asked(source)
        source.sendall(OK + bytes(10))
        wait_until_filled(node.partial, 0, 10)
        node.puller.cancel(1)
        assert node.end_of_pull() == (1, "cancelled")
        assert source.recv(100) == b""
    node.puller.cancel(1)
    assert node.ended.empty()


def test_a_queued_pull_and_one_that_connects_are_cancelled_at_once(make: Make) -> None:
    connecting, go_on = threading.Event(), threading.Event()
    script = Script()

    def connect(node: int) -> socket.socket:
        connecting.set()
        assert go_on.wait(SECONDS)
        return script.connect(node)

    node = make(connect=connect, puller_options={"most": 1})
    node.puller.pull(1, 9, 0, 0, 10, 0)
    node.puller.pull(2, 9, 0, 0, 10, 4096)
    assert connecting.wait(SECONDS)
    for number in (2, 1):
        node.puller.cancel(number)
        assert node.ended.get_nowait() == (number, "cancelled")
    node.puller.pull(1, 9, 0, 0, 10, 0)  # the same number and place
    go_on.set()
    with script.accept() as source:
        script.asked(source)
        source.sendall(OK + b"0123456789")
        assert node.end_of_pull() == (1, "")


def test_what_comes_from_a_dead_node_is_given_up(make: Make) -> None:
    script, source = Script(), make()

    def connect(number: int) -> socket.socket:
        return script.connect(number) if number == 9 else node.connect(number)

    node = make(connect=connect, puller_options={"most": 1})
    node.puller.pull(1, 9, 0, 0, 10, 0)
    with script.accept() as idle:
        script.asked(idle)
        idle.sendall(OK + bytes(10))
        assert node.end_of_pull() == (1, "")
        for number, at in ((2, 9), (3, 9), (4, 0)):
            node.puller.pull(number, at, 0, 0, 10, number * 4096)
        script.asked(idle)
        node.puller.forget_node(9)
        assert sorted(node.end_of_pull() for _ in range(3)) == [
            (2, "node 9 is dead"),
            (3, "node 9 is dead"),
            (4, ""),
        ]
        assert idle.recv(1) == b""
    assert source.server.bytes_sent <= 10


def test_idle_connections_of_a_dead_node_are_closed(make: Make) -> None:
    script = Script()
    node = make(connect=script.connect)
    node.puller.pull(1, 9, 0, 0, 10, 0)
    with script.accept() as source:
        script.asked(source)
        source.sendall(OK + bytes(10))
        assert node.end_of_pull() == (1, "")
        node.puller.forget_node(9)
        assert source.recv(1) == b""


def test_threads_and_connections_end_when_there_is_nothing_to_do(make: Make) -> None:
    source, node = make(), make(puller_options={"idle_seconds": 0.05})
    for number in range(8):
        node.puller.pull(number, 0, 0, 0, MIB, number * MIB)
    for _ in range(8):
        assert node.end_of_pull()[1] == ""
    for thread in threading.enumerate():
        if thread.name in ("raydask-pull", "raydask-send"):
            thread.join(SECONDS)
    assert transfer_threads() == [] and source.server._connections == {}
    node.puller.pull(9, 0, 0, 0, 10, 0)
    assert node.end_of_pull() == (9, "")


def test_closing_tells_nobody_and_ends_everything(make: Make) -> None:
    script = Script()
    node = make(connect=script.connect, puller_options={"most": 1})
    for number in (1, 2):
        node.puller.pull(number, 9, 0, 0, MIB, number * MIB)
    with script.accept() as source:
        script.asked(source)
        node.puller.close()
        node.puller.close()
        assert transfer_threads() == [] and node.ended.empty()
        assert source.recv(1) == b""
    node.puller.pull(3, 9, 0, 0, 10, 0)
    assert transfer_threads() == [] and node.ended.empty()


def test_what_cannot_be_is_a_bug(make: Make) -> None:
    node = make()
    for offset, size in ((ARENA - 10, 11), (-1, 5)):
        with pytest.raises(InternalError, match="cannot be"):
            node.puller.pull(1, 0, 0, 0, size, offset)


@pytest.mark.expect_log("no more threads for pulls")
def test_without_any_thread_a_pull_fails(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("no memory")

    node = make()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        node.puller.pull(1, 0, 0, 0, 10, 0)
    assert node.ended.get_nowait() == (1, "there are no threads for pulls")
