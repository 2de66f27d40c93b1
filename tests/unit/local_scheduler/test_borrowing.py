"""Who counts as a holder of another node's objects, and what waits until they know."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from raydask.ids import IDSource, NodeNumber, ObjectID, ProcessNumber
from raydask.local_scheduler import borrowing
from raydask.local_scheduler.borrowing import Borrowing
from raydask.local_scheduler.records import ObjectRecord, Remote
from raydask.wire.messages import Borrow, LentResults, Release


class Said:
    """A node's borrowing, and what it has said to others."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, Any]] = []
        self.borrowing = Borrowing(
            lambda node, message: self.messages.append((node, message)),
            lambda action: self.messages.append((0, action)),
        )

    def take(self) -> list[tuple[int, Any]]:
        self.borrowing.flush()
        taken, self.messages = self.messages, []
        return taken


def record_of(node: int, count: int = 1) -> ObjectRecord:
    source = IDSource(NodeNumber(node), ProcessNumber(1))
    ids = [source.next_put_id() for _ in range(count)]
    record = ObjectRecord(ObjectID(ids[-1]), None)
    record.remote = Remote(is_ours=False)
    return record


def test_each_home_is_told_once_of_all_that_is_borrowed_in_an_event() -> None:
    said = Said()
    first, second, third = record_of(2, 1), record_of(2, 2), record_of(3)
    for record in (first, second, third):
        said.borrowing.borrow(record)

    assert said.take() == [
        (2, Borrow(1, [first.object_id, second.object_id])),
        (3, Borrow(2, [third.object_id])),
    ]
    assert first.remote is not None and first.remote.borrowed


def test_nothing_is_let_go_before_the_homes_know() -> None:
    said = Said()
    said.borrowing.borrow(record_of(2))
    said.borrowing.say(3, LentResults([]))
    said.take()
    assert not said.borrowing.is_settled

    said.borrowing.answered(1)
    assert said.take() == [(3, LentResults([]))]
    assert said.borrowing.is_settled


def test_what_waits_keeps_its_order_and_waits_for_no_later_answer() -> None:
    said = Said()
    said.borrowing.borrow(record_of(2, 1))
    said.borrowing.say(4, "first")
    said.take()
    said.borrowing.borrow(record_of(3, 1))
    said.borrowing.say(4, "second")
    said.take()

    said.borrowing.answered(2)
    assert said.take() == []
    said.borrowing.answered(1)
    assert said.take() == [(4, "first"), (4, "second")]


def test_with_nothing_borrowed_all_goes_at_once() -> None:
    said = Said()
    said.borrowing.say(3, "results")
    assert said.take() == [(3, "results")]


def test_a_release_waits_like_everything_that_lets_go() -> None:
    said = Said()
    kept, gone = record_of(2, 1), record_of(3, 1)
    said.borrowing.borrow(gone)
    said.take()
    said.borrowing.answered(1)
    said.borrowing.borrow(kept)
    said.borrowing.release(gone)
    assert [type(message) for _, message in said.take()] == [Borrow]

    said.borrowing.answered(2)
    assert said.take() == [(3, Release([gone.object_id]))]


def test_what_is_borrowed_again_before_its_release_was_said_is_kept() -> None:
    said = Said()
    record = record_of(2)
    said.borrowing.borrow(record)
    said.take()
    said.borrowing.release(record)
    said.borrowing.borrow(record)
    said.borrowing.answered(1)

    assert said.take() == []
    assert record.remote is not None and record.remote.borrowed


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the lines that are run in the module that is tested."""
    lines: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != borrowing.__file__:
            return None
        lines[event] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def test_what_waits_for_a_home_that_does_not_answer_costs_later_events_nothing() -> None:
    said = Said()
    source = IDSource(NodeNumber(2), ProcessNumber(1))
    said.borrowing.borrow(record_of(3))
    said.take()

    def wait(count: int) -> None:
        for _ in range(count):
            record = ObjectRecord(source.next_put_id(), None)
            record.remote = Remote(is_ours=False)
            said.borrowing.release(record)
            said.borrowing.say(2, "results")
        assert said.take() == []

    costs = []
    for count in (1, 1000):
        wait(count)
        with counting() as lines:
            said.borrowing.say(2, "one more")
            assert said.take() == []
        costs.append(lines["line"])
    assert costs[0] == costs[1] > 0

    said.borrowing.answered(1)
    *words, release = said.take()
    assert len(words) == 1001 + 2
    assert len(release[1].object_ids) == 1001


def test_a_dead_home_is_not_waited_for_and_told_nothing() -> None:
    said = Said()
    said.borrowing.borrow(record_of(2, 1))
    said.borrowing.say(3, "results")
    said.borrowing.say(2, "to the dead")
    said.take()

    said.borrowing.node_lost(2)
    assert said.take() == [(3, "results")]
    assert said.borrowing.is_settled
