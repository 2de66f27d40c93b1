"""The allocator: its policy by example, its invariants by random walks."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raydask.errors import InternalError
from raydask.object_store.arena import Arena
from raydask.object_store.sizes import ALIGNMENT, rounded

PAGE = ALIGNMENT


def test_sizes_are_rounded_to_whole_pages_and_never_to_none() -> None:
    assert [rounded(size) for size in (0, 1, PAGE, PAGE + 1)] == [PAGE, PAGE, PAGE, 2 * PAGE]


def test_allocation_stops_at_the_capacity() -> None:
    arena = Arena(3 * PAGE + 5)
    assert arena.capacity == 3 * PAGE
    assert [arena.allocate(1) for _ in range(4)] == [0, PAGE, 2 * PAGE, None]
    assert (arena.used, arena.largest_free) == (3 * PAGE, 0)


def test_warm_holes_are_taken_before_fresh_space() -> None:
    arena = Arena(100 * PAGE)
    first = arena.allocate(2 * PAGE)
    arena.allocate(PAGE)
    assert first is not None
    arena.free(first)
    assert arena.allocate(PAGE) == first
    assert arena.high_water == 3 * PAGE


def test_the_smallest_hole_that_fits_is_taken() -> None:
    arena = Arena(100 * PAGE)
    offsets = [arena.allocate(pages * PAGE) or 0 for pages in (5, 1, 2, 1, 3, 1)]
    for offset in offsets[::2]:
        arena.free(offset)
    assert arena.allocate(2 * PAGE) == offsets[2]
    assert arena.allocate(2 * PAGE) == offsets[4]
    arena.check()


def test_among_equal_holes_the_last_freed_is_taken() -> None:
    arena = Arena(100 * PAGE)
    offsets = [arena.allocate(PAGE) or 0 for _ in range(6)]
    for offset in (offsets[4], offsets[0], offsets[2]):
        arena.free(offset)
    assert [arena.allocate(PAGE) for _ in range(3)] == [offsets[2], offsets[0], offsets[4]]


def test_a_hole_at_the_high_water_mark_grows_into_fresh_space() -> None:
    arena = Arena(10 * PAGE)
    arena.allocate(2 * PAGE)
    top = arena.allocate(2 * PAGE)
    assert top is not None
    arena.free(top)
    assert arena.largest_free == 8 * PAGE
    assert arena.allocate(8 * PAGE) == top
    arena.check()


def test_neighbours_coalesce_on_both_sides() -> None:
    arena = Arena(4 * PAGE)
    offsets = [arena.allocate(PAGE) or 0 for _ in range(4)]
    for offset in (offsets[0], offsets[2], offsets[1]):
        arena.free(offset)
        arena.check()
    assert arena.largest_free == 3 * PAGE


def test_carving_leaves_two_blocks_that_are_freed_apart() -> None:
    arena = Arena(8 * PAGE)
    slab = arena.allocate(4 * PAGE)
    assert slab == 0
    rest = arena.carve(slab, PAGE + 1)
    assert (rest, arena.size_of(slab), arena.size_of(rest)) == (2 * PAGE, 2 * PAGE, 2 * PAGE)
    assert arena.carve(rest, 2 * PAGE) == -1
    arena.free(slab)
    assert arena.used == 2 * PAGE
    arena.check()


def test_illegal_calls_tell_the_story_of_the_bytes() -> None:
    arena = Arena(8 * PAGE)
    block = arena.allocate(2 * PAGE)
    assert block == 0
    arena.free(block)
    with pytest.raises(InternalError, match=r"allocate \[0, 8192\); free \[0, 8192\)"):
        arena.free(block)
    with pytest.raises(InternalError, match="recent history of these bytes: none"):
        arena.size_of(5 * PAGE)
    kept = arena.allocate(PAGE)
    assert kept is not None
    with pytest.raises(InternalError, match="carve"):
        arena.carve(kept, 2 * PAGE)
    with pytest.raises(InternalError, match="cannot allocate -1"):
        arena.allocate(-1)
    arena.check()
    assert arena.used == PAGE


class ArenaMachine(RuleBasedStateMachine):
    """Random calls against a model that marks every page with its block."""

    PAGES = 64

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(self.PAGES * PAGE)
        self.model: dict[int, int] = {}  # first page -> pages

    def taken(self) -> set[int]:
        return {page for first, count in self.model.items() for page in range(first, first + count)}

    def longest_free_run(self) -> int:
        taken, longest, run = self.taken(), 0, 0
        for page in range(self.PAGES):
            run = 0 if page in taken else run + 1
            longest = max(longest, run)
        return longest

    @rule(size=st.integers(0, 12 * PAGE))
    def allocate(self, size: int) -> None:
        pages = rounded(size) // PAGE
        offset = self.arena.allocate(size)
        if offset is None:
            assert self.longest_free_run() < pages
            return
        first = offset // PAGE
        assert offset % PAGE == 0
        assert self.taken().isdisjoint(range(first, first + pages))
        self.model[first] = pages

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        first = data.draw(st.sampled_from(sorted(self.model)))
        self.arena.free(first * PAGE)
        del self.model[first]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def carve(self, data: st.DataObject) -> None:
        first = data.draw(st.sampled_from(sorted(self.model)))
        whole = self.model[first]
        pages = data.draw(st.integers(1, whole))
        rest = self.arena.carve(first * PAGE, pages * PAGE)
        if pages == whole:
            assert rest == -1
        else:
            assert rest == (first + pages) * PAGE
            self.model[first] = pages
            self.model[first + pages] = whole - pages

    @rule(page=st.integers(0, PAGES), size=st.integers(1, 4 * PAGE))
    def touch_what_is_no_block(self, page: int, size: int) -> None:
        if page in self.model:
            return
        with pytest.raises(InternalError):
            self.arena.free(page * PAGE)
        with pytest.raises(InternalError):
            self.arena.carve(page * PAGE, size)

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.arena.check()
        blocks = {first * PAGE: pages * PAGE for first, pages in self.model.items()}
        assert self.arena.blocks() == blocks
        assert self.arena.largest_free == self.longest_free_run() * PAGE


TestArenaMachine = ArenaMachine.TestCase
TestArenaMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
