"""Pins, batches and evictions, one at a time; the machine drives them all together."""

from __future__ import annotations

import pytest

from raydask.errors import InternalError
from raydask.object_store.sizes import ALIGNMENT
from raydask.object_store.spilled import Evicted, SpillEntry
from raydask.object_store.state import StoreState
from tests.unit.object_store.test_state import granted, object_id

PAGE = ALIGNMENT
ONE, TWO, THREE = object_id(1), object_id(2), object_id(3)


def state_of(*pages: int) -> StoreState:
    """Return a state with objects 1, 2, ... of so many pages, less 5 bytes each."""
    state = StoreState(64 * PAGE)
    for number, count in enumerate(pages, 1):
        size = count * PAGE - 5
        state.seal(1, object_id(number), granted(state, 1, size), size)
    return state


def test_a_batch_has_the_least_recently_used_objects_one_behind_the_other() -> None:
    state = state_of(2, 1, 3)
    state.pin(ONE)
    state.unpin(ONE)
    batch = state.next_batch(4 * PAGE, 64 * PAGE)
    assert batch is not None
    assert batch.entries == [
        SpillEntry(TWO, 2 * PAGE, PAGE - 5, 0),
        SpillEntry(THREE, 3 * PAGE, 3 * PAGE - 5, PAGE),
    ]
    assert (batch.file, batch.size) == (1, 4 * PAGE)
    assert (state.writing, state.evictable, state.spilled) == (4 * PAGE, 6 * PAGE, 0)
    state.check()


def test_a_batch_stays_within_its_limit_but_for_an_object_that_is_larger() -> None:
    state = state_of(5, 1, 1, 1)
    first = state.next_batch(64 * PAGE, 2 * PAGE)
    second = state.next_batch(64 * PAGE, 2 * PAGE)
    assert first is not None and second is not None
    assert [len(first.entries), len(second.entries)] == [1, 2]
    assert state.next_batch(0, 2 * PAGE) is None


def test_what_is_written_leaves_memory_at_once() -> None:
    state = state_of(2, 1)
    assert state.next_batch(64 * PAGE, 64 * PAGE) is not None
    assert state.written(1) == [
        Evicted(ONE, 1, 0, 2 * PAGE - 5),
        Evicted(TWO, 1, 2 * PAGE, PAGE - 5),
    ]
    assert (state.used, state.spilled, state.writing, len(state)) == (0, 3 * PAGE, 0, 0)
    assert ONE in state and state.is_spilled(ONE)
    with pytest.raises(InternalError, match="is spilled"):
        state.locate(ONE)
    assert state.take_dead_files() == []
    state.check()


def test_what_is_pinned_while_it_is_written_is_evicted_later_without_writing() -> None:
    state = state_of(2, 1)
    state.next_batch(64 * PAGE, 64 * PAGE)
    state.pin(ONE)
    assert [each.object_id for each in state.written(1)] == [TWO]
    assert (state.locate(ONE), state.evict(PAGE)) == ((0, 2 * PAGE - 5), [])
    state.unpin(ONE)
    assert state.next_batch(64 * PAGE, 64 * PAGE) is None
    assert state.evict(PAGE) == [Evicted(ONE, 1, 0, 2 * PAGE - 5)]
    assert state.used == 0
    state.check()


def test_what_is_freed_while_it_is_written_gives_its_memory_at_once() -> None:
    state = state_of(2, 1)
    state.next_batch(64 * PAGE, 64 * PAGE)
    state.free(ONE)
    assert (state.used, state.writing) == (PAGE, PAGE)
    state.free(TWO)
    assert state.take_dead_files() == []
    assert state.written(1) == []
    assert (state.take_dead_files(), state.take_dead_files()) == ([1], [])
    state.check()


def test_an_object_made_again_while_its_old_bytes_are_written_is_another() -> None:
    state = state_of(2)
    state.next_batch(64 * PAGE, 64 * PAGE)
    state.free(ONE)
    state.seal(1, ONE, granted(state, 1, PAGE), PAGE)
    assert state.next_batch(64 * PAGE, 64 * PAGE) is not None
    assert state.written(1) == []
    assert (state.written(2), state.take_dead_files()) == ([Evicted(ONE, 2, 0, PAGE)], [1])
    state.check()


def test_a_file_is_dead_when_its_last_object_is_freed() -> None:
    state = state_of(2, 1, 1)
    state.next_batch(64 * PAGE, 64 * PAGE)
    state.pin(THREE)
    state.written(1)
    state.free(ONE)
    state.free(TWO)
    assert (state.spilled, state.take_dead_files()) == (0, [])
    state.unpin(THREE)
    state.free(THREE)
    assert (THREE in state, state.take_dead_files()) == (False, [1])
    state.check()


def test_a_batch_that_failed_comes_first_again() -> None:
    state = state_of(2, 1, 1)
    state.next_batch(3 * PAGE, 64 * PAGE)
    state.free(TWO)
    state.failed(1)
    assert (state.writing, state.take_dead_files()) == (0, [])
    batch = state.next_batch(64 * PAGE, 64 * PAGE)
    assert batch is not None
    assert (batch.file, [entry.object_id for entry in batch.entries]) == (2, [ONE, THREE])
    state.check()


def test_a_pinned_object_is_not_written() -> None:
    state = state_of(1)
    state.pin(ONE)
    state.pin(ONE)
    assert (state.pins(ONE), state.evictable, state.sealed) == (2, 0, PAGE)
    assert state.next_batch(PAGE, PAGE) is None
    state.unpin(ONE)
    state.unpin(ONE)
    assert (state.pins(ONE), state.evictable) == (0, PAGE)
    with pytest.raises(InternalError, match="not pinned"):
        state.unpin(ONE)
    state.check()


def test_pins_that_are_left_go_with_the_object() -> None:
    state = state_of(1, 1)
    state.next_batch(PAGE, PAGE)
    for each in (ONE, TWO):
        state.pin(each)
        state.free(each)
        assert state.pins(each) == 0
        state.check()
    assert (state.used, state.evictable, state.written(1)) == (0, 0, [])


def test_what_is_not_here_cannot_be_pinned_or_end() -> None:
    state = state_of(1)
    with pytest.raises(InternalError, match="not in the store"):
        state.pin(TWO)
    for end in (state.written, state.failed):
        with pytest.raises(InternalError, match="spill file 1 is not being written"):
            end(1)
    state.next_batch(PAGE, PAGE)
    state.written(1)
    with pytest.raises(InternalError, match="not being written"):
        state.written(1)
    with pytest.raises(InternalError, match="is spilled"):
        state.pin(ONE)
    with pytest.raises(InternalError, match="a place on disk already"):
        state.seal(1, ONE, granted(state, 1, PAGE), PAGE)
    state.check()
