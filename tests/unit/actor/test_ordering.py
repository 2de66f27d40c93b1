"""Calls of one caller run in the order of submission, whatever happens to the process."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from raydask.actor.ordering import WINDOW_BYTES, WINDOW_CALLS, Call, CallQueue
from raydask.ids import IDSource, NodeNumber, ProcessNumber, return_id
from raydask.wire.messages import ObjectValue

IDS = IDSource(NodeNumber(1), ProcessNumber(1))


def call(retries: int = 0, inputs: int = 0, size: int = 0) -> Call:
    return Call(IDS.next_task_id(), 0, bytes(size), [None] * inputs, [], 1, retries, None)


def fill(one: Call) -> None:
    one.values = [ObjectValue(return_id(one.task_id, 0), 0, b"") for _ in one.values]
    one.missing = 0


def queue_of(*calls: Call) -> CallQueue:
    queue = CallQueue()
    for one in calls:
        queue.submit(one)
    return queue


def test_a_call_without_its_inputs_holds_back_those_behind_it() -> None:
    first, second, third = call(), call(inputs=2), call()
    queue = queue_of(first, second, third)

    assert queue.take_sendable() == [first]
    assert not queue.has_sendable
    fill(second)
    assert queue.has_sendable
    assert queue.take_sendable() == [second, third]
    assert len(queue) == 3


def test_the_window_bounds_what_is_under_way() -> None:
    queue = queue_of(*(call() for _ in range(WINDOW_CALLS + 10)))
    sent = queue.take_sendable()

    assert len(sent) == WINDOW_CALLS
    assert queue.take_sendable() == [] and queue.has_sendable
    assert queue.answered(sent[0].task_id) is sent[0]
    assert len(queue.take_sendable()) == 1


def test_a_call_larger_than_the_window_goes_alone() -> None:
    small, large, last = call(), call(size=WINDOW_BYTES + 1), call()
    queue = queue_of(large, small, last)

    assert queue.take_sendable() == [large]
    assert queue.take_sendable() == []
    queue.answered(large.task_id)
    assert queue.take_sendable() == [small, last]


def test_an_answer_that_nobody_awaits_is_none() -> None:
    waiting = call()
    queue = queue_of(waiting)

    assert queue.answered(waiting.task_id) is None
    queue.take_sendable()
    assert queue.answered(waiting.task_id) is waiting
    assert queue.answered(waiting.task_id) is None


def test_after_a_death_retried_calls_go_first_and_in_order() -> None:
    once, never, always, unsent = call(1), call(0), call(-1), call(0)
    queue = queue_of(once, never, always)
    queue.take_sendable()
    queue.submit(unsent)

    assert queue.process_died() == [never]
    assert queue.take_sendable() == [once, always, unsent]
    assert queue.process_died() == [once, unsent]
    assert queue.take_sendable() == [always]
    assert queue.process_died() == []


def test_only_unsent_calls_can_be_taken_out() -> None:
    sent, unsent = call(), call(inputs=1)
    queue = queue_of(sent, unsent)
    queue.take_sendable()

    assert queue.cancel(sent.task_id) is None and queue.has_sent(sent.task_id)
    assert queue.cancel(unsent.task_id) is unsent
    assert queue.take_all() == [sent]
    assert len(queue) == 0


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(["submit", "send", "answer", "die", "cancel"]), max_size=60))
def test_every_call_ends_exactly_once_and_starts_in_order(steps: list[str]) -> None:
    queue = CallQueue()
    submitted: list[Call] = []
    ended: list[Call] = []
    sent: list[Call] = []
    for step in steps:
        if step == "submit":
            submitted.append(call(len(submitted) % 3 - 1))
            queue.submit(submitted[-1])
        elif step == "send":
            sent += queue.take_sendable()
        elif step == "answer" and sent:
            answered = queue.answered(sent.pop(0).task_id)
            assert answered is not None
            ended.append(answered)
        elif step == "die":
            ended += queue.process_died()
            sent = []
        elif step == "cancel" and submitted:
            cancelled = queue.cancel(submitted[-1].task_id)
            if cancelled is not None:
                ended.append(cancelled)
        assert sent == sorted(sent, key=lambda one: one.task_id)
    ended += queue.take_all()
    assert sorted(one.task_id for one in ended) == [one.task_id for one in submitted]
