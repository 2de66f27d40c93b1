"""The store's state: seals in any order, malformed clients, exact accounting."""

from __future__ import annotations

import pytest

from raydask.errors import InternalError
from raydask.ids import ObjectID
from raydask.object_store.sizes import ALIGNMENT
from raydask.object_store.state import StoreState, fitting_slab_size

PAGE = ALIGNMENT


def object_id(number: int) -> ObjectID:
    return ObjectID(number.to_bytes(20, "big"))


def granted(state: StoreState, client: int, size: int) -> int:
    offset = state.grant(client, size)
    assert offset is not None
    return offset


def test_a_large_object_takes_exactly_its_region() -> None:
    state = StoreState(64 * PAGE)
    offset = granted(state, 1, 3 * PAGE - 7)
    state.seal(1, object_id(1), offset, 3 * PAGE - 7)
    assert state.locate(object_id(1)) == (offset, 3 * PAGE - 7)
    assert (state.used, state.unsealed, len(state)) == (3 * PAGE, 0, 1)
    state.free(object_id(1))
    assert (state.used, len(state), object_id(1) in state) == (0, 0, False)
    state.check()


def test_objects_of_a_slab_are_sealed_in_any_order() -> None:
    state = StoreState(64 * PAGE)
    slab = granted(state, 1, 8 * PAGE)
    for page in (5, 0, 2, 7, 6):
        state.seal(1, object_id(page), slab + page * PAGE, 100)
        state.check()
    assert (state.unsealed, state.used) == (3 * PAGE, 8 * PAGE)
    state.client_gone(1)
    state.check()
    assert state.used == 5 * PAGE


def test_the_tail_of_a_slab_is_abandoned_while_an_object_before_it_is_being_written() -> None:
    state = StoreState(64 * PAGE)
    slab = granted(state, 1, 8 * PAGE)
    state.seal(1, object_id(1), slab, PAGE)
    state.abandon(1, slab + 3 * PAGE, 5 * PAGE)
    assert state.used == 3 * PAGE
    state.seal(1, object_id(2), slab + PAGE, 2 * PAGE)
    state.check()
    assert state.unsealed == 0


def test_no_room_is_none_and_changes_nothing() -> None:
    state = StoreState(4 * PAGE)
    granted(state, 1, 3 * PAGE)
    assert state.grant(2, 2 * PAGE) is None
    assert (state.used, state.largest_free) == (3 * PAGE, PAGE)
    state.check()


@pytest.mark.parametrize(
    ("client", "page", "size", "number"),
    [
        (2, 0, PAGE, 9),  # another client's region
        (3, 0, PAGE, 9),  # a client nobody knows
        (1, 0, 5 * PAGE, 9),  # longer than the region
        (1, 3, 2 * PAGE, 9),  # past its end
        (1, 40, PAGE, 9),  # free space
        (1, -1, PAGE, 9),
        (1, 0, -1, 9),
        (1, 4, PAGE, 9),  # sealed already
        (1, 0, PAGE, 1),  # an object that exists
    ],
)
def test_a_malformed_seal_is_refused_whole(client: int, page: int, size: int, number: int) -> None:
    state = StoreState(64 * PAGE)
    region = granted(state, 1, 5 * PAGE)
    granted(state, 2, PAGE)
    state.seal(1, object_id(1), region + 4 * PAGE, PAGE)
    before = (state.used, state.unsealed, len(state))
    with pytest.raises(InternalError):
        state.seal(client, object_id(number), region + page * PAGE, size)
    state.check()
    assert (state.used, state.unsealed, len(state)) == before


def test_an_offset_within_a_page_is_refused() -> None:
    state = StoreState(64 * PAGE)
    region = granted(state, 1, 5 * PAGE)
    with pytest.raises(InternalError, match="not in one piece"):
        state.seal(1, object_id(1), region + 8, 8)


def test_what_was_abandoned_cannot_be_sealed() -> None:
    state = StoreState(64 * PAGE)
    region = granted(state, 1, 2 * PAGE)
    state.abandon(1, region, 2 * PAGE)
    with pytest.raises(InternalError):
        state.seal(1, object_id(1), region, PAGE)
    with pytest.raises(InternalError):
        state.abandon(1, region, PAGE)
    assert state.used == 0


def test_an_unknown_object_is_refused() -> None:
    state = StoreState(64 * PAGE)
    with pytest.raises(InternalError, match="not in the store"):
        state.locate(object_id(1))
    with pytest.raises(InternalError, match="not in the store"):
        state.free(object_id(1))


def test_the_biggest_objects_come_largest_first() -> None:
    state = StoreState(64 * PAGE)
    for number, size in enumerate((5, 50, 20, 9)):
        state.seal(1, object_id(number), granted(state, 1, size), size)
    assert state.biggest(2) == [(object_id(1), 50), (object_id(2), 20)]


def test_slabs_are_small_in_a_small_arena() -> None:
    assert fitting_slab_size(8 << 20, 1 << 30) == 8 << 20
    assert fitting_slab_size(8 << 20, 64 << 20) == 2 << 20
    assert fitting_slab_size(8 << 20, PAGE) == PAGE
    assert StoreState(64 << 20).slab_size == 2 << 20
