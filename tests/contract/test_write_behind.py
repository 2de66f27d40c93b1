"""Writing behind onto every control store, through an outage."""

from __future__ import annotations

import time

import pytest

from raydask.control.memory_store import MemoryStore
from raydask.control.schema import object_key, task_key
from raydask.control.store import ControlStoreUnavailableError
from raydask.control.write_behind import WriteBehind
from raydask.control.write_behind_state import FixedDocument
from raydask.ids import IDSource, NodeNumber, ProcessNumber, return_id
from tests.contract.conftest import Backend

IDS = IDSource(NodeNumber(1), ProcessNumber(1))


def soon() -> float:
    return time.monotonic() + 20


@pytest.mark.expect_log("not being written")
@pytest.mark.expect_log("being written again")
# The outage ends with a fork for the new server; the child executes it and nothing else.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_nothing_is_lost_or_left_when_the_store_is_away_for_a_while(backend: Backend) -> None:
    store = backend.open()
    writer = WriteBehind(store)
    writer.start()
    tasks, objects = writer.table(task_key), writer.table(object_key)
    ids = [IDS.next_task_id() for _ in range(3_000)]
    for task in ids:
        tasks.put(task, FixedDocument(b"task"))
        objects.put(return_id(task, 0), FixedDocument(b"object"))
    writer.flush(soon())
    assert store.read([task_key(ids[0]), object_key(return_id(ids[0], 0))]) == [b"task", b"object"]

    backend.unplug()
    for task in ids[1:]:
        tasks.forget(task)
        objects.forget(return_id(task, 0))
    tasks.put(ids[0], FixedDocument(b"changed"))
    writer.record(FixedDocument(b"event"))
    with pytest.raises(ControlStoreUnavailableError):
        writer.flush(time.monotonic() + 0.1)
    backend.plug()
    writer.close(soon())

    assert list(store.scan("task:")) == [task_key(ids[0])]
    assert list(store.scan("object:")) == [object_key(return_id(ids[0], 0))]
    assert store.read([task_key(ids[0])]) == [b"changed"]
    assert [event for _, event in store.read_events()] == [b"event"]
    store.close()


def test_a_turn_that_is_asked_for_a_moment_early_does_not_wait_for_another_window() -> None:
    now = 0.0
    writer = WriteBehind(MemoryStore(), 1.0, clock=lambda: now)
    assert writer.tick() == 1.0

    now = 0.999
    assert writer.tick() < 0.1
