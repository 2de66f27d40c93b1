"""Who gets room in the object store, who waits for it, and what is written to make it."""

from __future__ import annotations

from typing import Any

from raydask.errors import ObjectStoreFullError, OutOfDiskError
from raydask.ids import ObjectID, ProcessNumber
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import (
    AnswerRegion,
    DeleteSpillFile,
    FillMemory,
    Send,
    WriteSpillFile,
)
from raydask.serialization import deserialize_error
from raydask.wire.messages import Notice, ObjectValue, ValueKind, Values
from tests.unit.local_scheduler.node import DRIVER, IDS, Node

MEGABYTE = 1 << 20
STORE = 10 * MEGABYTE
OTHER = ProcessNumber(2)


class Store(Node):
    """A node with a small store, asked for room."""

    def __init__(self) -> None:
        super().__init__(drivers=2, store_bytes=STORE)
        self._requests = 0

    def ask(self, megabytes: int, process: ProcessNumber = DRIVER) -> int:
        self._requests += 1
        self.tell(events.RegionRequested(process, self._requests, megabytes * MEGABYTE))
        return self._requests

    def answer(self, number: int) -> AnswerRegion | None:
        for action in self.actions:
            if isinstance(action, AnswerRegion) and action.number == number:
                return action
        return None

    def error(self, number: int) -> BaseException:
        answer = self.answer(number)
        assert answer is not None
        return deserialize_error(answer.error)

    def store_one(self, megabytes: int, process: ProcessNumber = DRIVER) -> ObjectID:
        answer = self.answer(self.ask(megabytes, process))
        assert answer is not None and not answer.error
        object_id = IDS.next_put_id()
        value = ObjectValue(
            object_id, int(ValueKind.STORED), b"", answer.offset, megabytes * MEGABYTE
        )
        self.tell(events.ObjectsPut(process, process, [value]))
        return object_id

    def read(self, object_id: ObjectID, process: ProcessNumber = DRIVER) -> ObjectValue:
        self.tell(events.ValuesRequested(process, [object_id], False, []))
        sent = [
            action.message
            for action in self.actions
            if isinstance(action, Send) and isinstance(action.message, Values)
        ]
        return sent[-1].values[-1]

    def take(self, kind: type) -> list[Any]:
        found = [action for action in self.actions if isinstance(action, kind)]
        self.actions = [action for action in self.actions if not isinstance(action, kind)]
        return found

    def finish_writing(self, error: str = "") -> list[ObjectID]:
        (write,) = self.take(WriteSpillFile)
        self.tell(events.SpillEnded(write.batch.file, error))
        return [entry.object_id for entry in write.batch.entries]


def test_room_is_given_at_once_while_there_is_some() -> None:
    store = Store()
    answer = store.answer(store.ask(4))
    assert answer is not None
    assert not answer.error


def test_nothing_is_written_below_the_high_watermark() -> None:
    store = Store()
    store.store_one(8)
    assert store.take(WriteSpillFile) == []


def test_above_it_the_least_recently_used_are_written_until_the_low_one() -> None:
    store = Store()
    objects = [store.store_one(1) for _ in range(9)]
    assert store.finish_writing() == objects[:3]
    assert store.take(WriteSpillFile) == []
    assert store.core.store.used == 6 * MEGABYTE


def test_a_spilled_object_is_read_from_its_file() -> None:
    store = Store()
    first = store.store_one(1)
    for _ in range(8):
        store.store_one(1)
    store.finish_writing()
    value = store.read(first)
    assert (value.kind, value.size) == (ValueKind.SPILLED, MEGABYTE)
    assert value.data == b"spill/1"


def test_its_file_goes_with_the_last_object_in_it() -> None:
    store = Store()
    objects = [store.store_one(1) for _ in range(9)]
    written = store.finish_writing()
    store.tell(events.ObjectsReleased(DRIVER, written[:-1]))
    assert store.take(DeleteSpillFile) == []
    store.tell(events.ObjectsReleased(DRIVER, written[-1:]))
    assert store.take(DeleteSpillFile) == [DeleteSpillFile(1)]
    store.tell(events.ObjectsReleased(DRIVER, objects))
    assert store.core.store.used == 0


def test_what_is_read_is_not_written() -> None:
    store = Store()
    first = store.store_one(1)
    store.read(first)
    for _ in range(8):
        store.store_one(1)
    assert first not in store.finish_writing()


def test_what_is_read_while_it_is_written_stays_and_leaves_later_without_writing() -> None:
    store = Store()
    objects = [store.store_one(1) for _ in range(9)]
    assert store.read(objects[0]).kind == ValueKind.STORED
    store.finish_writing()
    assert not store.core.store.is_spilled(objects[0])
    assert store.finish_writing() == [objects[3]], "another goes in its place"
    store.tell(events.ObjectsUnpinned(DRIVER, [objects[0]]))
    waiting = store.ask(4)
    assert store.answer(waiting) is not None
    assert store.core.store.is_spilled(objects[0])
    assert objects[0] not in store.finish_writing()


def values_sent(store: Store, process: ProcessNumber = DRIVER) -> list[ObjectValue]:
    """The values that a process has been sent since this was last asked."""
    sends = [each for each in store.take(Send) if each.process == process]
    return [
        value for each in sends if isinstance(each.message, Values) for value in each.message.values
    ]


def full_of_what_is_read() -> Store:
    """A store of which 5 MB are read and 3 more are not."""
    store = Store()
    for _ in range(5):
        store.read(store.store_one(1))
    for _ in range(3):
        store.store_one(1)
    store.take(Send)
    return store


def ask_for(store: Store, object_id: ObjectID, process: ProcessNumber = DRIVER) -> None:
    store.tell(events.ValuesRequested(process, [object_id], False, []))


def full_and_asked_for_more() -> tuple[Store, ObjectID]:
    """Such a store, and an object of 2 MB more that its driver has asked for."""
    store = full_of_what_is_read()
    last = store.store_one(2)
    ask_for(store, last)
    return store, last


def test_when_much_is_read_already_others_are_read_from_disk() -> None:
    store, last = full_and_asked_for_more()
    assert values_sent(store) == []
    while not store.core.store.is_spilled(last):
        store.finish_writing()
    (value,) = values_sent(store)
    assert (value.object_id, value.kind) == (last, ValueKind.SPILLED)
    assert not store.core.objects.told_later


def test_results_that_are_waited_for_are_read_from_disk_then_too() -> None:
    store = full_of_what_is_read()
    answer = store.answer(store.ask(2))
    assert answer is not None
    object_id = IDS.next_put_id()
    store.tell(events.ObjectsPromised(DRIVER, [object_id]))
    ask_for(store, object_id)
    value = ObjectValue(object_id, int(ValueKind.STORED), b"", answer.offset, 2 * MEGABYTE)
    store.tell(events.ObjectsPut(DRIVER, DRIVER, [value]))
    assert values_sent(store) == []
    while not store.core.store.is_spilled(object_id):
        store.finish_writing()
    assert [each.kind for each in values_sent(store)] == [ValueKind.SPILLED]


def test_a_first_object_is_read_where_it_is_however_large() -> None:
    store = Store()
    large = store.store_one(9)
    assert store.read(large).kind == ValueKind.STORED


def test_when_there_is_room_again_readers_are_told_the_place() -> None:
    store = Store()
    kept = [store.store_one(1) for _ in range(5)]
    for object_id in kept:
        store.read(object_id)
    last = store.store_one(4)
    store.take(Send)
    ask_for(store, last)
    assert values_sent(store) == []
    store.tell(events.ObjectsUnpinned(DRIVER, kept))
    assert [each.kind for each in values_sent(store)] == [ValueKind.STORED]
    assert store.core.store.pins(last) == 1


def test_what_another_reads_in_the_store_is_told_to_those_who_wait() -> None:
    store, last = full_and_asked_for_more()
    store.core.objects.pin(OTHER, [last])
    store.tick(0.1)
    assert [each.kind for each in values_sent(store)] == [ValueKind.STORED]
    assert store.core.store.pins(last) == 2


def test_nobody_waits_for_a_disk_that_fails() -> None:
    store, last = full_and_asked_for_more()
    store.finish_writing("No space left on device")
    (value,) = values_sent(store)
    assert (value.object_id, value.kind) == (last, ValueKind.STORED)


def test_readers_who_leave_are_not_waited_for() -> None:
    store, last = full_and_asked_for_more()
    store.tell(events.ObjectsReleased(DRIVER, [last]))
    store.tick(0.1)
    store.tell(events.DriverLeft(DRIVER))
    for _ in range(3):
        if any(isinstance(each, WriteSpillFile) for each in store.actions):
            store.finish_writing()
    assert not store.core.objects.told_later
    assert store.core.store.used == 0


def test_a_request_that_does_not_fit_waits_until_something_is_written() -> None:
    store = Store()
    store.store_one(7)
    waiting = store.ask(5)
    assert store.answer(waiting) is None
    store.finish_writing()
    assert store.answer(waiting) is not None


def test_requests_are_served_in_order() -> None:
    store = Store()
    first = store.store_one(7)
    store.read(first)
    large, small = store.ask(5), store.ask(1)
    assert store.answer(large) is store.answer(small) is None
    store.tell(events.ObjectsUnpinned(DRIVER, [first]))
    store.finish_writing()
    order = [each.number for each in store.take(AnswerRegion)][-2:]
    assert order == [large, small]


def test_one_larger_than_the_store_is_refused_at_once() -> None:
    store = Store()
    assert isinstance(store.error(store.ask(11)), ObjectStoreFullError)


def test_who_waits_for_long_is_announced_and_then_refused() -> None:
    store = Store()
    first = store.store_one(9)
    store.read(first, OTHER)
    waiting = store.ask(5)
    store.tick(1.5)
    notices = [each.message for each in store.take(Send) if isinstance(each.message, Notice)]
    assert len(notices) == 1
    assert "waits for room" in notices[0].text
    store.tick(30)
    error = store.error(waiting)
    assert isinstance(error, ObjectStoreFullError)
    assert "read by 1" in str(error)


def test_who_alone_could_make_room_is_refused_early() -> None:
    store = Store()
    store.read(store.store_one(8))
    waiting = store.ask(5)
    store.tick(1.5)
    assert isinstance(store.error(waiting), ObjectStoreFullError)


def test_a_disk_that_fails_is_named_and_tried_again() -> None:
    store = Store()
    store.store_one(7)
    waiting = store.ask(5)
    store.finish_writing("No space left on device")
    assert store.take(WriteSpillFile) == []
    store.tick(2)
    store.finish_writing("No space left on device")
    store.tick(29)
    error = store.error(waiting)
    assert isinstance(error, OutOfDiskError)
    assert "No space left on device" in str(error)


def test_a_process_that_leaves_waits_no_more() -> None:
    store = Store()
    store.store_one(7)
    waiting = store.ask(5, OTHER)
    store.tell(events.DriverLeft(OTHER))
    store.finish_writing()
    assert store.answer(waiting) is None
    assert store.core.store.unsealed == 0


def test_a_process_that_leaves_pins_nothing() -> None:
    store = Store()
    first = store.store_one(9)
    store.read(first, OTHER)
    store.tell(events.DriverLeft(OTHER))
    assert store.finish_writing() == [first]


def test_a_pin_of_something_freed_means_nothing() -> None:
    store = Store()
    first = store.store_one(3)
    store.read(first)
    store.tell(events.ObjectsReleased(DRIVER, [first]))
    store.tell(events.ObjectsUnpinned(DRIVER, [first]))
    assert store.core.store.used == 0


def test_memory_that_is_not_the_processes_own_cuts_it_off() -> None:
    store = Store()
    object_id = IDS.next_put_id()
    stored = ObjectValue(object_id, int(ValueKind.STORED), b"", 0, MEGABYTE)
    store.tell(events.ObjectsPut(DRIVER, DRIVER, [stored]))
    assert store.read(object_id).kind == ValueKind.ERROR


# --- small values in the node's own memory ------------------------------------------------------

SMALL = 100_000
MOST = STORE // 10 // SMALL
"""How many of them the node keeps: a tenth of the store."""


def put_small(store: Store, count: int) -> list[ObjectID]:
    return [store.put(data=bytes([number]) * SMALL) for number in range(count)]


def test_small_values_stay_with_the_node_while_they_are_few() -> None:
    store = Store()
    objects = put_small(store, MOST)
    assert store.take(FillMemory) == []
    assert store.read(objects[0]).kind == ValueKind.INLINE


def test_beyond_that_the_oldest_move_to_the_store() -> None:
    store = Store()
    objects = put_small(store, MOST + 2)
    filled = store.take(FillMemory)
    assert [each.data for each in filled] == [bytes([0]) * SMALL, bytes([1]) * SMALL]
    values = [store.read(object_id) for object_id in objects[:3]]
    assert [value.kind for value in values] == [
        ValueKind.STORED,
        ValueKind.STORED,
        ValueKind.INLINE,
    ]
    assert [(value.offset, value.size) for value in values[:2]] == [
        (each.offset, SMALL) for each in filled
    ]


def test_a_moved_value_keeps_what_it_contains() -> None:
    store = Store()
    inner = store.put()
    outer = store.put(nested=[inner], data=bytes(SMALL))
    put_small(store, MOST)
    store.release(inner)
    value = store.read(outer)
    assert value.kind == ValueKind.STORED
    assert value.nested == [inner]
    store.release(outer)
    assert inner not in store.core.objects.records


def test_what_has_gone_makes_room_for_others() -> None:
    store = Store()
    for _ in range(3):
        store.release(*put_small(store, MOST))
    assert store.take(FillMemory) == []


def test_values_of_less_than_a_page_stay() -> None:
    store = Store()
    for _ in range(400):
        store.put(data=bytes(4000))
    assert store.take(FillMemory) == []


def test_a_moved_value_is_spilled_like_any_other() -> None:
    store = Store()
    (first, *_) = put_small(store, MOST + 1)
    for _ in range(8):
        store.store_one(1)
    assert first in store.finish_writing()
    assert store.read(first).kind == ValueKind.SPILLED


def test_a_full_store_leaves_them_where_they_are() -> None:
    store = Store()
    for _ in range(10):
        store.read(store.store_one(1))
    objects = put_small(store, MOST + 1)
    assert store.take(FillMemory) == []
    assert store.read(objects[0]).kind == ValueKind.INLINE


def test_an_input_that_moves_under_a_task_was_not_pinned_for_it() -> None:
    store = Store()
    store.workers(3)
    first = store.put(data=bytes(SMALL))
    task = store.submit(dependencies=[first])
    assert store.given(3) == [task]
    put_small(store, MOST)
    store.end(3, task)
    assert store.core.store.pins(first) == 0
    later = store.submit(dependencies=[first])
    assert store.core.store.pins(first) == 1
    store.end(3, later)
    assert store.core.store.pins(first) == 0
