"""What is written behind, when, and what never is."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydask.control.write_behind_state import (
    MAX_BATCH_BYTES,
    Batch,
    DirtyTable,
    FixedDocument,
    WriteBehindState,
)

WINDOW = 1.0


def key_of(identifier: int) -> str:
    return f"task:{identifier}"


def new_state(max_events: int = 100) -> tuple[WriteBehindState, DirtyTable[int]]:
    state = WriteBehindState(WINDOW, max_events)
    return state, state.table(key_of)


def collect_all(state: WriteBehindState, now: float, budget: int = 1000) -> list[Batch]:
    batches = []
    while (batch := state.collect(now, budget)) is not None:
        batches.append(batch)
    return batches


def test_an_entry_is_collected_between_one_and_two_windows_after_its_first_mark() -> None:
    state, table = new_state()
    state.collect(0.0, 10)
    table.put(1, FixedDocument(b"a"))

    found = [state.collect(now, 10) for now in (0.9, 1.0, 1.5, 1.9, 2.0)]

    assert found == [None, None, None, None, Batch({"task:1": b"a"}, [], [])]
    assert collect_all(state, 10.0) == []


def test_a_later_mark_does_not_delay_an_entry() -> None:
    state, table = new_state()
    for now in range(4):
        table.put(1, FixedDocument(b"%d" % now))
        batch = state.collect(float(now), 10)
        if now == 1:
            assert batch == Batch({"task:1": b"1"}, [], [])


def test_an_entry_that_is_gone_before_it_is_due_is_never_collected() -> None:
    state, table = new_state()
    table.put(1, FixedDocument(b"a"))
    state.collect(0.0, 10)
    table.put(1, FixedDocument(b"b"))
    table.forget(1)

    assert state.dirty_count == 0
    assert [state.collect(float(now), 10) for now in range(5)] == [None] * 5


def test_an_entry_that_was_collected_is_deleted_once() -> None:
    state, table = new_state()
    table.put(1, FixedDocument(b"a"))
    state.expedite()
    collect_all(state, 0.0)
    table.forget(1)
    table.forget(1)

    assert collect_all(state, 0.0) == [Batch({}, ["task:1"], [])]


def test_an_entry_that_comes_back_is_not_deleted() -> None:
    state, table = new_state()
    table.put(1, FixedDocument(b"a"))
    state.expedite()
    collect_all(state, 0.0)
    table.forget(1)
    table.put(1, FixedDocument(b"b"))
    state.expedite()

    assert collect_all(state, 0.0) == [Batch({"task:1": b"b"}, [], [])]


def test_an_adopted_entry_is_deleted_when_it_is_forgotten() -> None:
    state, table = new_state()
    table.adopt(1)
    assert collect_all(state, 0.0) == []

    table.forget(1)
    assert collect_all(state, 0.0) == [Batch({}, ["task:1"], [])]


def test_a_batch_keeps_to_its_budget() -> None:
    state, table = new_state()
    other: DirtyTable[int] = state.table(lambda identifier: f"object:{identifier}")
    for identifier in range(25):
        table.put(identifier, FixedDocument(b"a"))
        other.put(identifier, FixedDocument(b"b"))
        state.record(FixedDocument(b"event"))
    state.expedite()
    batches = collect_all(state, 0.0, budget=10)

    assert [len(batch.puts) for batch in batches] == [10] * 5
    assert [len(batch.events) for batch in batches] == [10, 10, 5, 0, 0]


def test_a_batch_is_not_much_longer_than_its_limit() -> None:
    state, table = new_state()
    for identifier in range(10):
        table.put(identifier, FixedDocument(bytes(MAX_BATCH_BYTES // 2)))
    state.expedite()

    assert [len(batch.puts) for batch in collect_all(state, 0.0)] == [2] * 5


def test_a_steady_stream_of_deletes_does_not_hold_up_puts() -> None:
    state, table = new_state()
    for identifier in range(100):
        table.adopt(identifier)
    table.put(1000, FixedDocument(b"a"))
    written: dict[str, bytes] = {}
    for now in range(3):
        table.forget(now)
        batch = state.collect(float(now), 10)
        assert batch is not None
        written |= batch.puts

    assert written == {"task:1000": b"a"}


def test_of_too_many_events_the_newest_are_kept() -> None:
    state, _ = new_state(max_events=3)
    for number in range(5):
        state.record(FixedDocument(b"%d" % number))

    (batch,) = collect_all(state, 0.0)
    assert batch.events == [b"2", b"3", b"4"]


@dataclass
class Model:
    """What a store must hold, and what each batch may hold, told independently."""

    live: dict[int, bytes] = field(default_factory=dict)
    first_mark: dict[int, float] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)

    def put(self, identifier: int, document: bytes, now: float) -> None:
        self.live[identifier] = document
        self.first_mark.setdefault(identifier, now)

    def forget(self, identifier: int) -> None:
        self.live.pop(identifier, None)
        self.first_mark.pop(identifier, None)

    def apply(self, batch: Batch, now: float, window: float) -> None:
        assert not batch.puts.keys() & set(batch.deletes)
        for identifier in [each for each in self.first_mark if key_of(each) in batch.puts]:
            assert now - self.first_mark.pop(identifier) >= window
            assert batch.puts[key_of(identifier)] == self.live[identifier]
        for key in batch.puts:
            assert key in {key_of(each) for each in self.live}
        for key in batch.deletes:
            assert key in self.stored, "only what was written is deleted"
        self.stored |= batch.puts
        for key in batch.deletes:
            del self.stored[key]

    def expected(self) -> dict[str, bytes]:
        return {key_of(identifier): document for identifier, document in self.live.items()}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5)),
        st.tuples(st.just("forget"), st.integers(0, 5)),
        st.tuples(st.just("tick"), st.sampled_from([0.0, 0.3, 1.0, 2.5])),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps=STEPS, budget=st.integers(1, 4), expedite=st.booleans())
def test_the_store_ends_up_with_what_is_alive(
    steps: list[tuple[str, float]], budget: int, expedite: bool
) -> None:
    state, table = new_state()
    model = Model()
    now = 0.0
    for version, (step, value) in enumerate(steps):
        if step == "put":
            document = b"%d" % version
            table.put(int(value), FixedDocument(document))
            model.put(int(value), document, now)
        elif step == "forget":
            table.forget(int(value))
            model.forget(int(value))
        else:
            now += value
            if (batch := state.collect(now, budget)) is not None:
                model.apply(batch, now, WINDOW)

    if expedite:
        state.expedite()
        for batch in collect_all(state, now, budget):
            model.apply(batch, now, 0.0)
    else:
        for _ in range(3):
            now += WINDOW
            for batch in collect_all(state, now, budget):
                model.apply(batch, now, WINDOW)

    assert state.dirty_count == 0
    assert model.stored == model.expected()


@pytest.mark.parametrize("count", [0, 1, 7])
def test_counts_say_what_waits(count: int) -> None:
    state, table = new_state()
    for identifier in range(count):
        table.put(identifier, FixedDocument(b""))
    assert (state.dirty_count, state.due_count) == (count, 0)

    state.expedite()
    assert (state.dirty_count, state.due_count) == (count, count)


def test_what_is_urgent_goes_first_and_without_waiting_for_a_window() -> None:
    state, table = new_state()
    state.collect(0.0, 10)
    for identifier in range(20):
        table.put(identifier, FixedDocument(b"a"))

    numbers = [table.hurry(15), table.hurry(3)]

    assert numbers == [1, 2]
    assert state.collect(0.0, 10) == Batch({"task:15": b"a", "task:3": b"a"}, [], [])
    assert state.urgent.collected >= 2
    assert state.collect(0.5, 10) is None


def test_an_urgent_entry_is_collected_as_it_is_then_and_once() -> None:
    state, table = new_state()
    table.put(1, FixedDocument(b"old"))
    first = table.hurry(1)
    table.put(1, FixedDocument(b"new"))

    assert table.hurry(1) >= first
    assert collect_all(state, 0.0) == [Batch({"task:1": b"new"}, [], [])]
    assert collect_all(state, 10.0) == []


def test_an_entry_that_was_collected_is_not_urgent_again() -> None:
    state, table = new_state()
    table.put(1, FixedDocument(b"a"))
    state.expedite()
    collect_all(state, 0.0)
    table.put(1, FixedDocument(b"b"))

    assert table.hurry(1) == state.urgent.collected > 0, "it may be in flight"
    assert state.collect(0.0, 10) is None


def test_an_unknown_entry_is_not_waited_for() -> None:
    state, table = new_state()

    assert table.hurry(1) == 0
    assert state.collect(0.0, 10) is None


def test_an_urgent_entry_that_has_gone_holds_up_nothing() -> None:
    state, table = new_state()
    table.put(1, FixedDocument(b"a"))
    number = table.hurry(1)
    table.forget(1)

    assert state.collect(0.0, 10) is None
    assert state.urgent.collected >= number


def test_numbers_of_urgent_entries_are_collected_in_their_order() -> None:
    state, table = new_state()
    other: DirtyTable[int] = state.table(lambda identifier: f"object:{identifier}")
    numbers = []
    for identifier in range(10):
        for each in (table, other):
            each.put(identifier, FixedDocument(b"a"))
            numbers.append(each.hurry(identifier))

    collected = []
    while (batch := state.collect(0.0, 5)) is not None:
        assert len(batch.puts) == 5
        collected.append(state.urgent.collected)
    assert collected[:3] == [numbers[4], numbers[9], numbers[14]]
    assert collected[3] >= numbers[19]


def test_urgent_entries_leave_room_for_others_in_a_batch() -> None:
    state, table = new_state()
    table.put(1, FixedDocument(b"a"))
    state.expedite()
    collect_all(state, 0.0)
    table.forget(1)
    table.put(2, FixedDocument(b"b"))
    table.hurry(2)

    assert state.collect(0.0, 10) == Batch({"task:2": b"b"}, ["task:1"], [])
