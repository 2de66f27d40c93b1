"""Tasks that another node runs for this one."""

from __future__ import annotations

from typing import Any

import pytest

from raydask.errors import ObjectLostError, WorkerCrashedError
from raydask.ids import ObjectID, TaskID, peer_process, return_id
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import AnswerRegion, Send, StartPull
from raydask.local_scheduler.records import TaskState
from raydask.placement import Strategy
from raydask.task import TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.messages import Lease, ObjectValue, TaskResult, TaskStatus, ValueKind
from tests.unit.local_scheduler.node import DRIVER, PLAIN, Node

_OTHER = 2
_STORED = int(ValueKind.STORED)


def with_another(cpus: int = 1) -> Node:
    node = Node(cpus)
    node.tell(events.NodesCame([_OTHER]))
    node.workers(10)
    return node


def told(node: Node, other: int = _OTHER) -> list[Any]:
    """What another node has been told."""
    return [
        action.message
        for action in node.actions
        if isinstance(action, Send) and action.process == peer_process(other)
    ]


def lent(node: Node, other: int = _OTHER) -> list[TaskID]:
    lends = [message for message in told(node, other) if isinstance(message, wire.Lend)]
    return [spec.task_id for message in lends for spec in message.specs]


def lease(node: Node, slots: int, other: int = _OTHER) -> None:
    node.tell(events.LeasesChanged([Lease(1, other, slots)]))


def say(node: Node, message: object, other: int = _OTHER) -> None:
    node.tell(events.PeerSaid(other, message))


def result(
    task_id: TaskID,
    *values: ObjectValue,
    status: TaskStatus = TaskStatus.OK,
    retryable: bool = False,
) -> wire.LentResults:
    return wire.LentResults([TaskResult(task_id, int(status), list(values), 0.0, 0.001, retryable)])


def inline(
    task_id: TaskID, data: bytes = b"x", nested: list[ObjectID] | None = None
) -> ObjectValue:
    return ObjectValue(return_id(task_id, 0), 0, data, nested=nested or [])


def stored(task_id: TaskID, size: int = 5_000_000) -> ObjectValue:
    return ObjectValue(return_id(task_id, 0), _STORED, b"", 0, size)


def test_what_waits_is_demanded_and_no_more_than_that() -> None:
    node = with_another()
    node.submit()
    assert node.demands() == []
    waiting = [node.submit() for _ in range(3)]

    assert waiting
    assert [demand.count for demand in node.demands()] == [1]
    node.tick(1.0)
    assert [demand.count for demand in node.demands()] == [1, 3]
    assert node.demands()[-1].resources == {"CPU": 10_000}


def test_no_more_is_lent_than_the_lease_says() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(4)]
    lease(node, 2)

    assert lent(node) == tasks[1:3]
    assert node.core.tasks[tasks[1]].state == TaskState.LENT
    say(node, result(tasks[1], inline(tasks[1])))
    assert lent(node) == tasks[1:4]


def test_short_tasks_are_lent_ahead_of_their_slots() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(60)]
    lease(node, 1)
    say(node, result(tasks[1], inline(tasks[1])))
    assert 15 < len(lent(node)) < 25  # twenty milliseconds of tasks that take one


def test_code_and_template_are_sent_once() -> None:
    node = with_another()
    node.tell(events.FunctionExported(DRIVER, PLAIN.function_id, b"code", "f", []))
    tasks = [node.submit() for _ in range(3)]
    lease(node, 1)
    say(node, result(tasks[1], inline(tasks[1])))

    first, second = (message for message in told(node) if isinstance(message, wire.Lend))
    assert [(each.template.name, each.code) for each in first.templates] == [("f", b"code")]
    assert second.templates == []


def test_a_small_result_is_this_nodes_own() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    say(node, result(tasks[1], inline(tasks[1], b"value")))

    record = node.core.objects.records[return_id(tasks[1], 0)]
    assert record.value is not None and record.value.data == b"value"
    assert node.core.tasks[tasks[1]].state == TaskState.FINISHED


def test_a_large_result_stays_where_it_was_made_until_it_is_freed() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    say(node, result(tasks[1], stored(tasks[1])))
    object_id = return_id(tasks[1], 0)

    record = node.core.objects.records[object_id]
    assert record.value is None
    assert record.remote is not None and record.remote.exists
    node.release(object_id)
    assert told(node)[-1] == wire.Forget([object_id])
    assert object_id not in node.core.objects.records


def test_a_task_goes_to_where_its_input_is() -> None:
    node = with_another(cpus=2)
    node.workers(11)
    first = node.submit()
    node.tell(events.TasksSubmitted(DRIVER, [], []))
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    say(node, result(tasks[1], stored(tasks[1])))
    node.end(10, first)
    consumer = node.submit(dependencies=[return_id(tasks[1], 0)])
    lease(node, 1)

    assert lent(node)[-1] == consumer
    located = told(node)[-1].located
    assert [(place.object_id, place.nodes) for place in located] == [(return_id(tasks[1], 0), [])]


def test_without_a_lease_the_input_is_brought_here_after_a_while() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    say(node, result(tasks[1], stored(tasks[1])))
    lease(node, 0)
    node.end(10, tasks[0])
    node.submit(dependencies=[return_id(tasks[1], 0)])
    assert not any(isinstance(message, wire.Fetch) for message in told(node))

    node.tick(0.02)
    room = [action for action in node.actions if type(action).__name__ == "AnswerRegion"][-1]
    node.tell(events.RoomAnswered(room.number, room.offset, b""))
    assert told(node)[-1] == wire.Fetch(return_id(tasks[1], 0), 2)


def test_a_task_that_failed_elsewhere_is_retried_here_or_there() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    node.end(10, tasks[0])
    error = ObjectValue(return_id(tasks[1], 0), int(ValueKind.ERROR), b"\x80")
    say(node, result(tasks[1], error, status=TaskStatus.FAILED, retryable=True))

    assert node.core.tasks[tasks[1]].retries == 2
    assert node.given(10)[-1] == tasks[1]


def test_who_is_lent_a_retry_is_told_how_often_the_task_was_started() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    error = ObjectValue(return_id(tasks[1], 0), int(ValueKind.ERROR), b"\x80")
    say(node, result(tasks[1], error, status=TaskStatus.FAILED, retryable=True))

    first, second = [message for message in told(node) if isinstance(message, wire.Lend)]
    assert (first.attempts, second.attempts) == ({}, {tasks[1]: 1})


def test_what_was_ended_elsewhere_for_memory_waits_before_it_is_tried_again() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    node.end(10, tasks[0])
    error = ObjectValue(return_id(tasks[1], 0), int(ValueKind.ERROR), b"\x80")
    ended = TaskResult(
        tasks[1], int(TaskStatus.FAILED), [error], 0.0, 0.0, retryable=True, hold_back=True
    )
    say(node, wire.LentResults([ended]))
    assert node.core.tasks[tasks[1]].state == TaskState.WAITING
    (notice,) = node.sent(wire.Notice)
    assert "memory of node 2 and is tried again" in notice.text

    node.now += 1.1
    node.tell(events.MemoryMeasured({}, 0, 1))
    assert tasks[1] in [*lent(node)[1:], *node.given(10)]


def test_what_a_dead_node_had_is_retried() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    node.end(10, tasks[0])
    node.tell(events.NodesLost([(_OTHER, "it burned")]))

    assert node.given(10)[-1] == tasks[1]
    assert node.core.tasks[tasks[1]].retries == 2


def test_a_task_that_may_not_be_retried_fails_with_its_node() -> None:
    node = with_another()
    once = TaskTemplate(PLAIN.function_id, "once", resources={"CPU": 10_000}, max_retries=0)
    tasks = [node.submit(once) for _ in range(2)]
    lease(node, 1)
    node.tell(events.NodesLost([(_OTHER, "it burned")]))

    error = node.error_of(tasks[1])
    assert isinstance(error, WorkerCrashedError)
    assert "node 2 is dead: it burned" in str(error)


def test_an_object_that_only_a_dead_node_had_is_lost() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    say(node, result(tasks[1], stored(tasks[1])))
    node.tell(events.NodesLost([(_OTHER, "it burned")]))

    error = node.error_of(tasks[1])
    assert isinstance(error, ObjectLostError)
    assert "it burned" in str(error)


def test_a_task_that_was_given_back_runs_here_and_is_not_charged() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    node.end(10, tasks[0])
    lease(node, 0)
    say(node, wire.GiveBack([tasks[1]]))

    assert node.given(10)[-1] == tasks[1]
    assert node.core.tasks[tasks[1]].retries == 3


def passed_up(node: Node) -> list[TaskID]:
    return [task.task_id for message in node.sent_up(wire.PassUp) for task in message.tasks]


def test_what_was_placed_needs_no_lease_and_says_so_where_it_goes() -> None:
    node = with_another()
    large = TaskTemplate(PLAIN.function_id, "large", resources={"CPU": 90_000})
    task_id = node.submit(large)
    node.tell(events.TasksPlaced([(task_id, _OTHER)]))
    node.tick(1.0)

    assert lent(node) == [task_id]
    (message,) = [each for each in told(node) if isinstance(each, wire.Lend)]
    assert message.templates[0].template.strategy == Strategy("NODE", node=_OTHER)
    assert node.demands() == []


def test_a_task_that_has_its_place_is_passed_up_once_whatever_comes_of_its_inputs() -> None:
    node = with_another()
    first, *makers = [node.submit() for _ in range(3)]
    lease(node, 2)
    for each in makers:
        say(node, result(each, stored(each)))
    node.end(10, first)
    spread = TaskTemplate(PLAIN.function_id, "s", strategy=Strategy("SPREAD"))
    task_id = node.submit(spread, [return_id(each, 0) for each in makers])
    node.tell(events.TasksPlaced([(task_id, 1)]))
    regions = [action for action in node.actions if isinstance(action, AnswerRegion)]
    for each, region in zip(makers, regions, strict=True):
        assert passed_up(node) == [task_id]
        node.tell(events.RoomAnswered(region.number, region.offset, b""))
        place = wire.Place(return_id(each, 0), told(node)[-1].number, 8192, 5_000_000)
        say(node, wire.Places([place]))
        pull = next(action for action in reversed(node.actions) if isinstance(action, StartPull))
        node.tell(events.PullEnded(pull.number, ""))
    assert passed_up(node) == [task_id]
    assert node.given(10)[-1] == task_id


def test_cancelling_reaches_the_other_node() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    node.tell(events.CancelRequested(DRIVER, [tasks[1]], False, True))
    assert told(node)[-1] == wire.CancelLent([tasks[1]], False, recursive=True)


def test_the_end_of_a_job_is_told_where_its_tasks_have_been() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    say(node, result(tasks[1], inline(tasks[1])))
    node.tell(events.DriverLeft(DRIVER))

    assert wire.EndGuestJob(101) in told(node)
    assert node.demands()[-1].count == 0


def test_refs_in_a_result_are_borrowed_before_the_result_is_let_go() -> None:
    node = with_another()
    tasks = [node.submit() for _ in range(2)]
    lease(node, 1)
    nested = ObjectID(_OTHER.to_bytes(4, "big") + bytes(16))
    say(node, result(tasks[1], inline(tasks[1], nested=[nested])))
    assert told(node)[-1] == wire.Borrow(1, [nested])

    say(node, wire.Borrowed(1))
    assert told(node)[-1] == wire.Forget([return_id(tasks[1], 0)])


@pytest.mark.parametrize("message", [result(TaskID(bytes(16))), wire.GiveBack([TaskID(bytes(16))])])
def test_what_is_said_of_unknown_tasks_changes_nothing(message: object) -> None:
    node = with_another()
    say(node, message)
    assert told(node) == []


def test_what_is_known_of_a_shape_goes_when_nothing_uses_it() -> None:
    node = with_another()
    here, there = node.submit(), node.submit()
    lease(node, 1)
    spread = TaskTemplate(PLAIN.function_id, "s", strategy=Strategy("SPREAD"))
    placed = node.submit(spread)
    node.tell(events.TasksPlaced([(placed, _OTHER)]))
    node.tick(1.0)
    shapes = node.core.between.lending._shapes  # type: ignore[union-attr]
    assert len(shapes.values()) == 2

    assert lent(node) == [there, placed]
    for each in (there, placed):
        say(node, result(each, inline(each)))
    node.end(10, here)
    node.tick(1.0)
    assert len(shapes.values()) == 1  # it has a lease
    lease(node, 0)
    node.tick(1.0)
    assert not shapes.values()
