"""The thread that writes behind, on a store in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest

from raydask.control.memory_store import MemoryServer, MemoryStore
from raydask.control.schema import job_key
from raydask.control.store import ControlStoreUnavailableError
from raydask.control.write_behind import WriteBehind
from raydask.control.write_behind_state import FixedDocument
from raydask.errors import InternalError


class GatedStore(MemoryStore):
    """A store whose writes wait at a gate."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.gate = threading.Event()
        self.arrived = threading.Event()

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        self.arrived.set()
        self.gate.wait()
        super().write(puts, deletes)


class BrokenStore(MemoryStore):
    """A store with a bug."""

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        raise ZeroDivisionError


class ManualClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def soon() -> float:
    return time.monotonic() + 20


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def gated(server: MemoryServer) -> Iterator[GatedStore]:
    store = GatedStore(server)
    store.start()
    yield store
    store.gate.set()


def started(server: MemoryServer) -> WriteBehind:
    store = MemoryStore(server)
    store.start()
    writer = WriteBehind(store)
    writer.start()
    return writer


def writer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "write-behind"]


def entries(server: MemoryServer) -> dict[str, bytes]:
    with server.lock:
        return {key: value for key, value in server.values.items() if key.startswith("job:")}


def test_flush_is_a_barrier(server: MemoryServer) -> None:
    writer = started(server)
    jobs = writer.table(job_key)
    for number in range(5_000):
        jobs.put(number, FixedDocument(b"%d" % number))
    writer.record(FixedDocument(b"event"))

    writer.flush(soon())

    assert entries(server) == {f"job:{number}": b"%d" % number for number in range(5_000)}
    assert [event for _, event in server.events] == [b"event"]
    for number in range(5_000):
        jobs.forget(number)
    writer.flush(soon())
    assert entries(server) == {}
    writer.close(soon())


def test_close_writes_what_waits_and_ends_the_thread(server: MemoryServer) -> None:
    writer = started(server)
    writer.table(job_key).put(1, FixedDocument(b"x"))
    (thread,) = writer_threads()

    writer.close(soon())

    assert entries(server) == {"job:1": b"x"}
    assert not thread.is_alive()


def test_a_tick_writes_what_is_older_than_the_window(server: MemoryServer) -> None:
    store = MemoryStore(server)
    store.start()
    clock = ManualClock()
    writer = WriteBehind(store, 1.0, clock=clock)
    writer.start()
    jobs = writer.table(job_key)

    writer.tick()
    jobs.put(1, FixedDocument(b"long"))
    jobs.put(2, FixedDocument(b"short"))
    clock.now = 1.0
    assert writer.tick() == 1.0
    jobs.forget(2)
    clock.now = 2.0
    assert writer.tick() == 1.0

    clock.now = 0.0
    writer.close(60.0)
    assert entries(server) == {"job:1": b"long"}


def test_one_batch_is_in_flight_at_a_time(server: MemoryServer, gated: GatedStore) -> None:
    clock = ManualClock()
    writer = WriteBehind(gated, 1.0, budget=10, clock=clock)
    jobs = writer.table(job_key)
    for number in range(30):
        jobs.put(number, FixedDocument(b"old"))
    writer.tick()
    clock.now = 1.0

    assert writer.tick() < 0.1, "more is due"
    writer.start()
    gated.arrived.wait()
    writer.tick()
    for number in range(30):
        jobs.put(number, FixedDocument(b"new"))
    gated.gate.set()
    writer.close(60.0)

    assert entries(server) == {f"job:{number}": b"new" for number in range(30)}


def test_a_barrier_that_is_not_reached_in_time_says_so(gated: GatedStore) -> None:
    writer = WriteBehind(gated)
    writer.start()
    writer.table(job_key).put(1, FixedDocument(b"x"))

    with pytest.raises(ControlStoreUnavailableError, match="in time"):
        writer.flush(time.monotonic())

    gated.gate.set()
    writer.close(soon())


@pytest.mark.expect_log("not being written")
@pytest.mark.expect_log("being written again")
def test_batches_wait_for_a_store_that_is_away(server: MemoryServer) -> None:
    writer = started(server)
    jobs = writer.table(job_key)
    server.reachable = False
    jobs.put(1, FixedDocument(b"first"))
    with pytest.raises(ControlStoreUnavailableError, match="reachable"):
        writer.flush(time.monotonic() + 0.1)
    assert "reachable" in str(writer.failure)
    jobs.put(1, FixedDocument(b"second"))
    jobs.put(2, FixedDocument(b"x"))

    server.reachable = True
    writer.flush(soon())

    assert entries(server) == {"job:1": b"second", "job:2": b"x"}
    assert writer.failure is None
    writer.close(soon())


@pytest.mark.expect_log("not being written")
def test_closing_gives_up_at_the_deadline(server: MemoryServer) -> None:
    writer = started(server)
    writer.table(job_key).put(1, FixedDocument(b"x"))
    (thread,) = writer_threads()
    server.reachable = False

    with pytest.raises(ControlStoreUnavailableError):
        writer.close(time.monotonic() + 0.3)

    thread.join(20)
    assert not thread.is_alive()


def test_a_bug_in_the_thread_reaches_its_owner(server: MemoryServer) -> None:
    store = BrokenStore(server)
    store.start()
    writer = WriteBehind(store)
    writer.start()
    writer.table(job_key).put(1, FixedDocument(b"x"))

    with pytest.raises(InternalError) as caught:
        writer.flush(soon())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(InternalError):
        writer.tick()
    with pytest.raises(InternalError):
        writer.close(soon())


def test_single_entries_are_written_while_others_wait(server: MemoryServer) -> None:
    writer = started(server)
    landed = threading.Event()
    writer.watch(landed.set)
    jobs = writer.table(job_key)
    for number in range(10):
        jobs.put(number, FixedDocument(b"x"))
    wanted = max(jobs.hurry(3), jobs.hurry(7))
    assert writer.written < wanted

    writer.hand_on()
    assert landed.wait(20)

    assert writer.written >= wanted
    assert set(entries(server)) == {"job:3", "job:7"}
    assert max(jobs.hurry(3), jobs.hurry(7)) <= writer.written, "it costs nothing twice"
    writer.close(soon())


def test_what_is_asked_for_while_a_batch_is_in_flight_goes_with_the_next(
    server: MemoryServer, gated: GatedStore
) -> None:
    writer = WriteBehind(gated)
    landed = threading.Semaphore(0)
    writer.watch(landed.release)
    writer.start()
    jobs = writer.table(job_key)
    for number in range(100):
        jobs.put(number, FixedDocument(b"x"))
    first = jobs.hurry(0)
    writer.hand_on()
    gated.arrived.wait()
    last = 0
    for number in range(1, 50):
        last = jobs.hurry(number)
        writer.hand_on()
    assert writer.written < first

    gated.gate.set()
    assert landed.acquire(timeout=20)
    assert first <= writer.written < last
    writer.hand_on()
    assert landed.acquire(timeout=20)
    assert writer.written >= last
    assert set(entries(server)) == {f"job:{number}" for number in range(50)}
    writer.close(soon())


def test_an_entry_in_flight_is_waited_for_although_nobody_asked_for_it_before(
    server: MemoryServer, gated: GatedStore
) -> None:
    clock = ManualClock()
    writer = WriteBehind(gated, 1.0, clock=clock)
    writer.start()
    jobs = writer.table(job_key)
    jobs.put(1, FixedDocument(b"x"))
    for clock.now in (0.0, 1.0, 2.0):
        writer.tick()
    gated.arrived.wait()

    assert jobs.hurry(1) > writer.written
    gated.gate.set()
    writer.close(60.0)
    assert jobs.hurry(1) <= writer.written


@pytest.mark.expect_log("not being written")
@pytest.mark.expect_log("being written again")
def test_what_was_asked_for_is_written_when_the_store_is_back(server: MemoryServer) -> None:
    writer = started(server)
    landed = threading.Event()
    writer.watch(landed.set)
    jobs = writer.table(job_key)
    server.reachable = False
    jobs.put(1, FixedDocument(b"x"))
    wanted = jobs.hurry(1)
    writer.hand_on()
    while writer.failure is None:
        threading.Event().wait(0.001)
    assert writer.written < wanted and not landed.is_set()

    server.reachable = True
    assert landed.wait(20)
    assert writer.written >= wanted
    writer.close(soon())
