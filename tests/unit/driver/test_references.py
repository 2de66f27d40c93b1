"""Counting in a process, against a model of its node: never freed early, freed in the end.

The model is the node's side as ``raydask.local_scheduler.objects`` has it: a set of objects
that the process holds, and those that a running task holds for it.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raydask.driver.object_ref import ObjectRef, new_ref, received_ref
from raydask.driver.references import ReferenceTable
from raydask.ids import IDSource, NodeNumber, ObjectID, ProcessNumber

IDS = IDSource(NodeNumber(1), ProcessNumber(1))


def object_id() -> ObjectID:
    return IDS.next_put_id()


def flush(table: ReferenceTable) -> tuple[list[ObjectID], list[ObjectID]]:
    table.settle()
    return table.take_acquired(), table.take_released()


def test_what_a_process_makes_is_released_after_the_last_ref() -> None:
    table = ReferenceTable()
    made = object_id()
    first = new_ref(made, table)
    second = received_ref(made, table)
    assert flush(table) == ([], [])
    del first
    assert flush(table) == ([], [])
    del second
    assert flush(table) == ([], [made])
    assert table.counts == {}


def test_what_came_and_went_between_two_flushes_is_never_mentioned() -> None:
    table = ReferenceTable()
    ref = received_ref(object_id(), table)
    del ref
    assert flush(table) == ([], [])


def test_a_ref_that_comes_back_before_its_release_was_sent_is_kept() -> None:
    table = ReferenceTable()
    made = object_id()
    ref = new_ref(made, table)
    del ref
    table.settle()
    ref = received_ref(made, table)
    assert flush(table) == ([], [])
    del ref
    assert flush(table) == ([], [made])


def test_a_loan_is_acquired_only_if_something_of_it_stays() -> None:
    table = ReferenceTable()
    lent, kept = object_id(), object_id()
    table.lend([lent, kept])
    refs = [received_ref(lent, table), received_ref(kept, table)]
    assert flush(table) == ([], [])
    del refs[0]
    assert table.end_loan([lent, kept]) == [kept]
    assert flush(table) == ([kept], [])
    refs.clear()
    assert flush(table) == ([], [kept])


def test_an_object_lent_twice_is_acquired_at_the_end_of_the_first_loan() -> None:
    table = ReferenceTable()
    lent = object_id()
    table.lend([lent, lent])
    ref = received_ref(lent, table)
    assert table.end_loan([lent]) == [lent]
    assert table.end_loan([lent]) == []
    assert flush(table) == ([lent], [])
    del ref
    assert flush(table) == ([], [lent])


def test_a_private_result_is_forgotten_and_the_node_hears_nothing() -> None:
    table = ReferenceTable()
    forgotten: list[ObjectID] = []
    table.forget = forgotten.append
    result = object_id()
    ref = new_ref(result, table)
    table.private.add(result)
    del ref
    assert flush(table) == ([], [])
    assert (forgotten, table.private) == ([result], set())


def test_refs_are_equal_hashable_and_not_copied() -> None:
    import copy

    table = ReferenceTable()
    made = object_id()
    one, two = new_ref(made, table), received_ref(made, table)

    assert one == two and len({one, two}) == 1 and one != made
    assert copy.copy(one) is copy.deepcopy(one) is one
    assert (one.binary(), one.hex()) == (made, made.hex())


class Counting(RuleBasedStateMachine):
    """One process, its node, and whoever gives it refs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ReferenceTable()
        self.table.on_escape = self.escape
        self.refs: list[ObjectRef] = []
        self.held: set[ObjectID] = set()
        self.loans: list[list[ObjectID]] = []
        self.others = [object_id() for _ in range(4)]
        self.unsent: list[ObjectID] = []

    def escape(self, private: ObjectID) -> None:
        self.table.private.discard(private)
        self.unsent.append(private)

    @rule()
    def make(self) -> None:
        made = object_id()
        self.refs.append(new_ref(made, self.table))
        self.held.add(made)

    @rule()
    def call(self) -> None:
        made = object_id()
        self.refs.append(new_ref(made, self.table))
        self.table.private.add(made)

    @rule(index=st.integers(0, 3))
    def receive(self, index: int) -> None:
        """A value arrives that contains a ref, which its sender holds."""
        self.refs.append(received_ref(self.others[index], self.table))

    @rule(indexes=st.lists(st.integers(0, 3), max_size=3))
    def begin_task(self, indexes: list[int]) -> None:
        lent = [self.others[index] for index in indexes]
        self.table.lend(lent)
        self.loans.append(lent)
        self.refs += [received_ref(each, self.table) for each in lent]

    @precondition(lambda self: self.loans)
    @rule(index=st.integers(0, 9))
    def end_task(self, index: int) -> None:
        self.table.end_loan(self.loans.pop(index % len(self.loans)))
        self.learn(self.table.take_acquired(), [])

    @precondition(lambda self: self.refs)
    @rule(index=st.integers(0, 99))
    def copy(self, index: int) -> None:
        ref = self.refs[index % len(self.refs)]
        self.refs.append(received_ref(ObjectID(ref.binary()), self.table))

    @precondition(lambda self: self.refs)
    @rule(index=st.integers(0, 99))
    def pickle(self, index: int) -> None:
        self.refs[index % len(self.refs)].__reduce__()

    @precondition(lambda self: self.refs)
    @rule(index=st.integers(0, 99))
    def drop(self, index: int) -> None:
        del self.refs[index % len(self.refs)]

    @rule()
    def flush(self) -> None:
        self.learn(*flush(self.table))

    def learn(self, acquired: list[ObjectID], released: list[ObjectID]) -> None:
        self.held.update(self.unsent)
        self.unsent = []
        assert not self.held & set(acquired)
        self.held.update(acquired)
        assert self.held >= set(released)
        self.held.difference_update(released)

    @invariant()
    def what_is_in_use_is_held_or_will_be(self) -> None:
        lent = {each for loan in self.loans for each in loan}
        coming = set(self.table._acquired) | set(self.unsent) | self.table.private
        for object_id, _ in Counter(ref.binary() for ref in self.refs).items():
            each = ObjectID(object_id)
            assert each in self.held or each in lent or each in coming

    @invariant()
    def counts_are_exact(self) -> None:
        self.table.settle()
        assert self.table.counts == Counter(ObjectID(ref.binary()) for ref in self.refs)

    def teardown(self) -> None:
        self.refs.clear()
        while self.loans:
            self.end_task(0)
        self.flush()
        assert self.held == set()
        assert (self.table.counts, self.table.private) == ({}, set())


TestCounting = Counting.TestCase
TestCounting.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, derandomize=True
)


def test_ending_a_loan_that_was_never_made_is_a_bug() -> None:
    with pytest.raises(KeyError):
        ReferenceTable().end_loan([object_id()])
