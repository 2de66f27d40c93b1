"""Random histories of the store: what must be readable is, and all is accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raydask.errors import InternalError
from raydask.ids import ObjectID
from raydask.object_store.sizes import ALIGNMENT, rounded
from raydask.object_store.spilled import Evicted, SpillBatch
from raydask.object_store.state import StoreState

PAGE = ALIGNMENT
PAGES = 64

Stamp = tuple[ObjectID, int]
"""What a page holds: a page of one object, in one of the times that it was made."""


def pages_of(start: int, size: int) -> range:
    return range(start // PAGE, (start + rounded(size)) // PAGE)


def object_id(number: int) -> ObjectID:
    return ObjectID(number.to_bytes(20, "big"))


class StoreMachine(RuleBasedStateMachine):
    """Three clients that write, seal, read, give up and die, and a disk.

    The model has the arena's and the files' pages, and in each what was last written there.
    """

    clients = st.integers(1, 3)
    sizes = st.sampled_from([-PAGE, 0, 1, 2 * PAGE, 5 * PAGE, PAGES * PAGE])

    def __init__(self) -> None:
        super().__init__()
        self.state = StoreState(PAGES * PAGE)
        self.open: dict[int, int] = {}  # page -> client that may still seal it
        self.granted: dict[int, int] = {}  # page -> which grant it came with
        self.memory: dict[ObjectID, tuple[int, int]] = {}  # least recently used first
        self.copies: dict[ObjectID, Evicted] = {}
        self.pins: dict[ObjectID, int] = {}
        self.batches: dict[int, SpillBatch] = {}
        self.writing: dict[ObjectID, int] = {}
        self.arena: dict[int, Stamp] = {}
        self.files: dict[int, dict[int, Stamp]] = {}
        self.stamps: dict[ObjectID, int] = {}
        self.freed: list[ObjectID] = []
        self.counter = 0

    def one_of(self, data: st.DataObject, objects: Iterable[ObjectID]) -> ObjectID:
        return data.draw(st.sampled_from(sorted(objects)))

    def both_places(self) -> set[ObjectID]:
        return self.memory.keys() & self.copies.keys()

    def run_of(self, data: st.DataObject) -> tuple[int, int, int]:
        """Draw a run of pages that one client may seal: client, offset, bytes."""
        first = data.draw(st.sampled_from(sorted(self.open)))
        client = self.open[first]
        longest = 1
        # Never across two grants, even where they are neighbours.
        while first + longest in self.open and self.granted[first + longest] == self.granted[first]:
            longest += 1
        pages = data.draw(st.integers(1, longest))
        return client, first * PAGE, pages * PAGE - data.draw(st.integers(0, PAGE - 1))

    def close_pages(self, offset: int, size: int) -> None:
        for page in pages_of(offset, size):
            del self.open[page]

    def refused(self, operation: Callable[[ObjectID], object], victim: ObjectID) -> None:
        with pytest.raises(InternalError):
            operation(victim)

    @initialize(pages=st.lists(st.integers(1, 4), max_size=6))
    def begin_with_objects(self, pages: list[int]) -> None:
        for count in pages:
            offset = self.state.grant(1, count * PAGE)
            assert offset is not None
            self.seal_run(1, offset, count * PAGE, again=False)

    @rule(client=clients, size=st.integers(0, 12 * PAGE))
    def grant(self, client: int, size: int) -> None:
        offset = self.state.grant(client, size)
        if offset is None:
            return
        self.counter += 1
        for page in pages_of(offset, size):
            assert page not in self.open
            self.open[page] = client
            self.granted[page] = self.counter
            self.arena.pop(page, None)  # the client writes there from now on

    @precondition(lambda self: self.open)
    @rule(data=st.data(), again=st.booleans())
    def seal(self, data: st.DataObject, again: bool) -> None:
        client, offset, size = self.run_of(data)
        self.close_pages(offset, size)
        self.seal_run(client, offset, size, again=again)

    def seal_run(self, client: int, offset: int, size: int, *, again: bool) -> None:
        self.counter += 1
        made = object_id(self.counter)
        if again and self.freed:  # as when a lost object is made once more
            made = self.freed.pop()
        self.state.seal(client, made, offset, size)
        self.stamps[made] = self.counter
        self.memory[made] = (offset, size)
        self.arena.update(dict.fromkeys(pages_of(offset, size), (made, self.counter)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        client, offset, size = self.run_of(data)
        self.state.abandon(client, offset, size)
        self.close_pages(offset, size)

    @rule(client=clients)
    def client_gone(self, client: int) -> None:
        self.state.client_gone(client)
        self.open = {page: owner for page, owner in self.open.items() if owner != client}

    @precondition(lambda self: self.memory or self.copies)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        rare = self.both_places() if data.draw(st.booleans()) else set()
        victim = self.one_of(data, rare or self.memory.keys() | self.copies.keys())
        self.state.free(victim)
        tables: tuple[dict[ObjectID, Any], ...] = (
            self.memory,
            self.copies,
            self.writing,
            self.pins,
        )
        for table in tables:
            table.pop(victim, None)
        self.freed.append(victim)

    @precondition(lambda self: self.memory)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        # Half of the time one that is being written, which would be rare.
        rare = self.writing if data.draw(st.booleans()) else {}
        self.state.pin(victim := self.one_of(data, rare or self.memory))
        self.pins[victim] = self.pins.get(victim, 0) + 1

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.state.unpin(victim := self.one_of(data, self.pins))
        self.pins[victim] -= 1
        if not self.pins[victim]:
            del self.pins[victim]
            self.memory[victim] = self.memory.pop(victim)

    @precondition(lambda self: self.memory or self.copies)
    @rule(data=st.data())
    def what_is_not_allowed(self, data: st.DataObject) -> None:
        victim = self.one_of(data, self.memory.keys() | self.copies.keys())
        if victim not in self.pins:
            self.refused(self.state.unpin, victim)
        if victim not in self.memory:
            self.refused(self.state.pin, victim)
            self.refused(self.state.locate, victim)

    @precondition(lambda self: self.both_places())
    @rule(wanted=sizes)
    def evict(self, wanted: int) -> None:
        expected = []
        freed = 0
        for each, (_, size) in self.memory.items():
            if freed < wanted and each in self.copies and each not in self.pins:
                expected.append(self.copies[each])
                freed += rounded(size)
        assert self.state.evict(wanted) == expected
        for copy in expected:
            del self.memory[copy.object_id]

    @precondition(lambda self: self.memory)
    @rule(wanted=sizes, limit=sizes)
    def next_batch(self, wanted: int, limit: int) -> None:
        taken = self.pins.keys() | self.writing.keys() | self.copies.keys()
        idle = [each for each in self.memory if each not in taken]
        batch = self.state.next_batch(wanted, limit)
        if batch is None:
            assert wanted <= 0 or not idle
            return
        chosen = [entry.object_id for entry in batch.entries]
        assert chosen == idle[: len(chosen)]
        sizes = [rounded(self.memory[each][1]) for each in idle]
        total = sum(sizes[: len(chosen)])
        assert total == batch.size
        assert total <= limit or len(chosen) == 1
        assert total - sizes[len(chosen) - 1] < wanted
        if total < wanted and len(chosen) < len(idle):
            assert total + sizes[len(chosen)] > limit
        assert batch.file not in self.files and batch.file not in self.batches
        self.batches[batch.file] = batch
        self.writing.update(dict.fromkeys(chosen, batch.file))

    def end_batch(self, data: st.DataObject) -> tuple[SpillBatch, list[ObjectID]]:
        """Draw a batch that ends and return it with its objects that nobody freed."""
        batch = self.batches.pop(data.draw(st.sampled_from(sorted(self.batches))))
        alive = [each for each, file in self.writing.items() if file == batch.file]
        for each in alive:
            del self.writing[each]
        return batch, alive

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def written(self, data: st.DataObject) -> None:
        batch, alive = self.end_batch(data)
        file = self.files[batch.file] = {}
        for entry in batch.entries:
            # The worst moment: whatever has been reused by now is written as it is.
            target = pages_of(entry.position, entry.size)
            for page, source in zip(target, pages_of(entry.offset, entry.size), strict=True):
                assert page not in file
                if source in self.arena:
                    file[page] = self.arena[source]
            if entry.object_id in alive:
                self.copies[entry.object_id] = Evicted(
                    entry.object_id, batch.file, entry.position, entry.size
                )
        evicted = self.state.written(batch.file)
        assert evicted == [
            self.copies[each.object_id]
            for each in batch.entries
            if each.object_id in alive and each.object_id not in self.pins
        ]
        for each in evicted:
            del self.memory[each.object_id]

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def failed(self, data: st.DataObject) -> None:
        batch, alive = self.end_batch(data)
        self.state.failed(batch.file)
        first = {each: self.memory[each] for each in alive if each not in self.pins}
        self.memory = first | self.memory

    @rule()
    def delete_files(self) -> None:
        wanted = {each.file for each in self.copies.values()}
        dead = self.state.take_dead_files()
        assert set(dead) == self.files.keys() - wanted
        assert len(dead) == len(set(dead))
        for file in dead:
            del self.files[file]

    @rule(client=clients, page=st.integers(-2, 66), size=st.integers(-PAGE, 4 * PAGE))
    def seal_what_is_not_yours(self, client: int, page: int, size: int) -> None:
        pages = range(page, page + rounded(size) // PAGE)
        if size >= 0 and all(self.open.get(each) == client for each in pages):
            return
        with pytest.raises(InternalError):
            self.state.seal(client, object_id(1 << 64), page * PAGE, size)

    @invariant()
    def everything_can_be_read(self) -> None:
        for each, (offset, size) in self.memory.items():
            assert self.state.locate(each) == (offset, size)
            stamp = (each, self.stamps[each])
            assert all(self.arena.get(page) == stamp for page in pages_of(offset, size))
        for each, copy in self.copies.items():
            stamp = (each, self.stamps[each])
            file = self.files[copy.file]
            assert all(file.get(page) == stamp for page in pages_of(copy.position, copy.size))

    @invariant()
    def agrees_with_the_model(self) -> None:
        state = self.state
        state.check()

        def total(objects: Iterable[ObjectID]) -> int:
            return sum(rounded(self.memory[each][1]) for each in objects)

        on_disk = self.copies.keys() - self.memory.keys()
        assert state.unsealed == len(self.open) * PAGE
        assert state.sealed == state.used - state.unsealed == total(self.memory)
        assert state.evictable == total(self.memory.keys() - self.pins.keys())
        assert state.writing == total(self.writing)
        assert state.spilled == sum(rounded(self.copies[each].size) for each in on_disk)
        assert len(state) == len(self.memory)
        for each in self.stamps:
            assert (each in state) == (each in self.memory or each in self.copies)
            assert state.is_spilled(each) == (each in on_disk)
            assert state.pins(each) == self.pins.get(each, 0)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
