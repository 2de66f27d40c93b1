"""More data than the object store holds: spilled, read in place, waited for, refused."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raydask
from raydask.errors import ObjectStoreFullError, OutOfDiskError
from raydask.graph import GraphTask, Output, submit_graph
from raydask.util import memory_report
from tests.cluster.probes import Gate, eventually, eventually_nothing_is_held

MEGABYTE = 1 << 20
STORE = 64 * MEGABYTE

Start = Callable[..., Path]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a session with a small store; its folder.  Nothing may be held at the end."""

    def run(**settings: object) -> Path:
        for name, value in settings.items():
            monkeypatch.setenv(f"RAYDASK_{name.upper()}", str(value))
        context = raydask.init(num_cpus=2, object_store_memory=STORE)
        return Path(context["address"])

    yield run
    gc.collect()
    try:
        eventually_nothing_is_held()
    finally:
        raydask.shutdown()


def spill_files(session: Path) -> list[Path]:
    return [path for path in (session / "spill").rglob("*") if path.is_file()]


def array_of(megabytes: int, value: int) -> Any:
    return np.full(megabytes * MEGABYTE // 8, value, dtype=np.int64)


@raydask.remote
def make(megabytes: int, value: int) -> Any:
    return array_of(megabytes, value)


def blob_of(number: int) -> bytes:
    return number.to_bytes(4, "big") * 20_000


@raydask.remote
def blob(number: int) -> bytes:
    return blob_of(number)


@raydask.remote
def length(data: bytes) -> int:
    return len(data)


@raydask.remote
def total(array: Any) -> int:
    return int(array.sum())


def test_results_four_times_the_store(start: Start) -> None:
    session = start()
    refs = [make.remote(4, value) for value in range(64)]
    raydask.wait(refs, num_returns=len(refs), timeout=60)
    assert spill_files(session)

    expected = [value * MEGABYTE // 2 for value in range(64)]
    assert raydask.get([total.remote(ref) for ref in refs], timeout=60) == expected
    for value, ref in enumerate(refs):
        array = raydask.get(ref, timeout=10)
        assert not array.flags.writeable
        assert array[0] == array[-1] == value
    del refs, ref, array
    gc.collect()
    eventually(lambda: not spill_files(session), "the files of freed objects go")


def test_more_than_the_store_holds_is_got_at_once(start: Start) -> None:
    start()
    refs = [make.remote(4, value) for value in range(64)]
    arrays = raydask.get(refs, timeout=60)
    assert [int(array[0]) for array in arrays] == list(range(64))
    assert [int(array[-1]) for array in arrays] == list(range(64))
    assert int(raydask.get(total.remote(make.remote(16, 1)), timeout=60)) == 16 * MEGABYTE // 8


def test_what_is_got_one_by_one_and_kept_may_be_more_than_the_store_holds(start: Start) -> None:
    start()
    arrays = [raydask.get(make.remote(12, value), timeout=30) for value in range(16)]
    assert [int(array[-1]) for array in arrays] == list(range(16))


def test_puts_four_times_the_store_and_small_ones(start: Start) -> None:
    session = start()
    large = [raydask.put(array_of(16, value)) for value in range(16)]
    small = [raydask.put(np.full(30_000, value)) for value in range(800)]
    assert spill_files(session)
    assert len(spill_files(session)) < 200, "small objects share files"
    assert [int(raydask.get(ref)[-1]) for ref in large] == list(range(16))
    assert [int(array[0]) for array in raydask.get(small)] == list(range(800))


def test_a_view_of_a_spilled_object_outlives_its_ref_and_file(start: Start) -> None:
    session = start()
    refs = [raydask.put(array_of(16, value)) for value in range(8)]
    kept = raydask.get(refs[0])
    del refs
    gc.collect()
    eventually(lambda: len(spill_files(session)) <= 1)
    assert (kept == 0).all()


def test_what_is_looked_at_stays_where_it_is(start: Start) -> None:
    @raydask.remote
    class Keeper:
        def __init__(self, array: Any) -> None:
            self.array = array

        def add(self, array: Any) -> None:
            self.array = [self.array, array]

        def first_values(self) -> list[int]:
            first, second = self.array
            return [int(first[0]), int(first[-1]), int(second[0]), int(second[-1])]

    start()
    mine = raydask.get(raydask.put(array_of(8, 11)))
    keeper = Keeper.remote(raydask.put(array_of(8, 22)))
    raydask.get(keeper.add.remote(raydask.put(array_of(8, 33))))
    for value in range(20):
        raydask.get(total.remote(make.remote(16, value)), timeout=30)
    assert (mine == 11).all()
    assert raydask.get(keeper.first_values.remote()) == [22, 22, 33, 33]


def test_writable_views_of_spilled_objects_are_private(start: Start) -> None:
    def change(array: Any, *others: Any) -> int:
        array += 1
        return int(array[0])

    start()
    source = raydask.put(array_of(8, 1))
    filling = [raydask.put(array_of(16, value)) for value in range(6)]
    tasks = [GraphTask(change, (source,)) for _ in range(4)]
    submission = submit_graph(tasks, range(4), writable=True)
    assert submission.get() == [2, 2, 2, 2]
    assert (raydask.get(source) == 1).all()
    del filling


def test_who_makes_an_object_waits_for_room(start: Start, tmp_path: Path) -> None:
    start(store_high_watermark=0.9)
    gate = Gate(tmp_path)
    busy = raydask.remote(Gate.wait).remote(gate)  # who might make room, for all the node knows
    views = [raydask.get(raydask.put(array_of(16, value))) for value in range(3)]
    waiting = threading.Event()
    made: list[Any] = []

    def put() -> None:
        waiting.set()
        made.append(raydask.put(array_of(24, 9)))

    thread = threading.Thread(target=put)
    thread.start()
    waiting.wait()
    thread.join(0.2)
    assert not made
    views.clear()
    thread.join(10)
    assert int(raydask.get(made.pop())[0]) == 9
    gate.open()
    raydask.get(busy)


def test_room_that_an_interrupted_put_waited_for_is_given_back(
    start: Start, tmp_path: Path
) -> None:
    start(store_high_watermark=0.9)
    gate = Gate(tmp_path)
    busy = raydask.remote(Gate.wait).remote(gate)
    views = [raydask.get(raydask.put(array_of(16, value))) for value in range(3)]
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    try:
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            raydask.put(array_of(24, 9))
    finally:
        interrupt.join()
        signal.signal(signal.SIGINT, before)
    views.clear()
    gate.open()
    raydask.get(busy)
    eventually(lambda: memory_report().nodes[0].unsealed == 0)
    assert int(raydask.get(raydask.put(array_of(56, 9)))[0]) == 9


def test_many_small_results_leave_the_nodes_own_memory(start: Start) -> None:
    session = start()
    refs = [blob.remote(number) for number in range(2000)]
    raydask.wait(refs, num_returns=len(refs), timeout=60)
    # They stay while the store is full, until the disk has taken what is in it.
    eventually(lambda: memory_report().nodes[0].inline <= STORE // 10)
    totals = memory_report().nodes[0].totals
    assert totals["spilled"].count > 1000, "160 MB do not fit into the store either"
    assert spill_files(session)
    assert raydask.get(refs) == [blob_of(number) for number in range(2000)]
    lengths = raydask.get([length.remote(ref) for ref in refs])
    assert lengths == [len(blob_of(number)) for number in range(2000)]


def test_a_store_full_of_what_is_looked_at_is_refused(start: Start) -> None:
    start(store_full_seconds=20, store_high_watermark=0.9)
    views = [raydask.get(raydask.put(array_of(16, value))) for value in range(3)]
    begun = time.monotonic()
    with pytest.raises(ObjectStoreFullError, match=r"16,777,\d+ bytes.*read by 1"):
        raydask.put(array_of(24, 9))
    assert time.monotonic() - begun < 10, "nobody else could have made room"
    del views
    gc.collect()
    assert int(raydask.get(raydask.put(array_of(24, 9)))[0]) == 9


def test_an_object_larger_than_the_store_is_refused_at_once(start: Start) -> None:
    start()
    with pytest.raises(ObjectStoreFullError, match="Biggest objects"):
        raydask.put(array_of(80, 0))
    with pytest.raises(ObjectStoreFullError):
        raydask.get(make.remote(80, 0), timeout=20)


def test_a_folder_that_cannot_be_written_is_named(start: Start) -> None:
    session = start(store_full_seconds=1.5)
    shutil.rmtree(session / "spill")
    refs = [raydask.put(array_of(16, value)) for value in range(3)]
    with pytest.raises(OutOfDiskError, match=r"No such file.*RAYDASK_SPILL_FOLDER"):
        raydask.put(array_of(24, 9))
    assert [int(raydask.get(ref)[0]) for ref in refs] == [0, 1, 2]
    (session / "spill" / "node-1").mkdir(parents=True)
    assert int(raydask.get(raydask.put(array_of(24, 9)))[0]) == 9


def test_a_configured_folder_is_used_and_left_empty(start: Start, tmp_path: Path) -> None:
    session = start(spill_folder=tmp_path)
    refs = [raydask.put(array_of(16, value)) for value in range(6)]
    eventually(lambda: list(tmp_path.rglob("*.spill")))
    assert int(raydask.get(refs[0])[0]) == 0
    del refs
    gc.collect()
    raydask.shutdown()
    assert not session.exists()
    eventually(lambda: not os.listdir(tmp_path))
    raydask.init(num_cpus=1)


def test_roots_of_a_graph_do_not_run_ahead(start: Start) -> None:
    """A graph that reads 16 times the store, a piece at a time."""
    session = start()
    tasks = []
    for number in range(64):
        tasks.append(GraphTask(array_of, (16, number)))
        tasks.append(GraphTask(_first, (Output(2 * number),)))
    submission = submit_graph(tasks, range(1, 128, 2))
    assert submission.get() == list(range(64))
    eventually(lambda: not spill_files(session))


def _first(array: Any) -> int:
    return int(array[0])
