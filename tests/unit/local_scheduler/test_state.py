"""The core's rules one at a time; whole histories are in ``tests/simulation``."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from raydask.errors import TaskCancelledError, TaskTimeoutError, WorkerCrashedError
from raydask.ids import ActorID, ProcessNumber, return_id
from raydask.local_scheduler import events
from raydask.local_scheduler.records import TaskState
from raydask.task import TaskTemplate
from raydask.wire.messages import (
    ActorState,
    CancelTask,
    ObjectValue,
    Reclaim,
    TaskResult,
    TaskStatus,
    ValueKind,
)
from tests.unit.local_scheduler.node import ACTOR, DETACHED, DRIVER, IDS, PLAIN, Node


@dataclass
class Pair:
    """A node with one worker that runs one task, another behind it."""

    node: Node

    def __post_init__(self) -> None:
        node = self.node
        node.workers(2)
        self.learned = node.submit()
        node.end(2, self.learned, seconds=0.0001)
        self.first = node.submit()
        self.second = node.submit()


@pytest.fixture
def pair() -> Pair:
    pair = Pair(Node(cpus=1))
    assert pair.node.given(2) == [pair.learned, pair.first, pair.second]
    return pair


def test_what_a_worker_gives_back_after_its_last_result_leaves_it_idle(pair: Pair) -> None:
    node = pair.node
    node.end(2, pair.first)
    other = TaskTemplate(PLAIN.function_id, "g", resources={"CPU": 10_000, "memory": 0})
    node.submit(other)
    node.tell(events.TasksReclaimed(ProcessNumber(2), [pair.second]))

    # Whatever it is given now, it occupies no more than that.
    assert node.free_cpus == 0
    node.end(2, *node.given(2)[-2:])
    node.tick(0.01)
    node.end(2, *node.given(2)[-1:])
    assert node.free_cpus == 1


def test_a_cancelled_task_that_was_given_back_does_not_run(pair: Pair) -> None:
    node = pair.node
    node.tell(events.CancelRequested(DRIVER, [pair.second], False, False))
    assert node.controls(CancelTask) == [CancelTask(pair.second, "cancelled")]
    node.tell(events.TasksReclaimed(ProcessNumber(2), [pair.second]))

    assert node.core.tasks[pair.second].state == TaskState.CANCELLED
    assert isinstance(node.error_of(pair.second), TaskCancelledError)
    assert node.given(2).count(pair.second) == 1


def test_a_cancelled_task_whose_worker_dies_is_not_retried(pair: Pair) -> None:
    node = pair.node
    node.tell(events.CancelRequested(DRIVER, [pair.first], False, False))
    node.leave(2)

    assert isinstance(node.error_of(pair.first), TaskCancelledError)
    assert node.core.tasks[pair.second].state == TaskState.READY
    assert node.core.tasks[pair.second].retries == PLAIN.max_retries


def test_a_task_that_was_given_back_twice_is_queued_once(pair: Pair) -> None:
    node = pair.node
    for _ in range(2):
        node.tell(events.TasksReclaimed(ProcessNumber(2), [pair.second]))
    node.end(2, pair.first)
    node.end(2, pair.second)

    assert node.core.tasks[pair.second].state == TaskState.FINISHED
    assert node.free_cpus == 1


def test_tasks_behind_a_long_one_are_reclaimed_once(pair: Pair) -> None:
    node = pair.node
    for _ in range(3):
        node.tick(0.1)
    assert len(node.controls(Reclaim)) == 1


def test_a_blocked_worker_gives_its_cpu_to_another(pair: Pair) -> None:
    node = pair.node
    node.workers(3)
    awaited = return_id(pair.second, 0)
    node.tell(events.ValuesRequested(ProcessNumber(2), [awaited], True, [pair.second]))
    assert node.where(pair.second) == 3
    assert node.free_cpus == 0

    node.end(3, pair.second)
    assert node.free_cpus == 0
    node.end(2, pair.first)
    assert node.free_cpus == 1


def test_a_blocked_worker_that_dies_gives_its_cpu_back_once(pair: Pair) -> None:
    node = pair.node
    node.tell(events.ValuesRequested(ProcessNumber(2), [return_id(pair.second, 0)], True, []))
    assert node.free_cpus == 1
    node.leave(2)
    assert node.free_cpus == 1


def test_the_first_task_of_a_dead_worker_uses_up_a_retry_and_the_others_none() -> None:
    node = Node(cpus=1)
    node.workers(2)
    task_id = node.submit(TaskTemplate(PLAIN.function_id, "f", max_retries=1))
    node.leave(2)
    node.workers(3)
    assert node.where(task_id) == 3
    node.leave(3)

    error = node.error_of(task_id)
    assert isinstance(error, WorkerCrashedError)
    assert "ended by a test" in str(error) and "2 times" in str(error)


def test_a_task_whose_refs_went_before_it_ended_leaves_no_entry() -> None:
    node = Node()
    node.workers(2)
    task_id = node.submit()
    node.release(return_id(task_id, 0))
    assert task_id in node.core.tasks
    node.end(2, task_id)

    assert node.core.tasks == {} and node.core.objects.records == {}
    assert node.entries.present == set()


def test_a_task_without_returns_is_forgotten_when_it_ends() -> None:
    node = Node()
    node.workers(2)
    task_id = node.submit(TaskTemplate(PLAIN.function_id, "f", num_returns=0))
    node.end(2, task_id)

    assert node.core.tasks == {} and node.entries.present == set()


def test_objects_may_be_nested_deeper_than_functions() -> None:
    node = Node()
    object_ids = [node.put()]
    for _ in range(1500):
        object_id = IDS.next_put_id()
        value = ObjectValue(object_id, 0, b"x", nested=[object_ids[-1]])
        node.core.handle(events.ObjectsPut(DRIVER, DRIVER, [value]), 0.0)
        object_ids.append(object_id)
    node.release(*object_ids)

    assert node.core.objects.records == {}


def test_an_input_that_failed_fails_all_that_follow_from_it() -> None:
    node = Node()
    node.workers(2)
    first = node.submit()
    second = node.submit(dependencies=[return_id(first, 0)] * 2)
    third = node.submit(dependencies=[return_id(second, 0)])
    node.end(2, first, status=TaskStatus.FAILED)
    fourth = node.submit(dependencies=[return_id(third, 0)])

    for task_id in (first, second, third, fourth):
        assert node.core.tasks[task_id].state == TaskState.FAILED


def test_the_errors_of_all_that_follow_keep_what_the_first_contains() -> None:
    node = Node()
    node.workers(2)
    first = node.submit()
    waiting = node.submit(dependencies=[return_id(first, 0)])
    inner = node.put()
    error = ObjectValue(return_id(first, 0), ValueKind.ERROR, b"\x80error", nested=[inner])
    failed = TaskResult(first, TaskStatus.FAILED, [error], 0.0, 0.001)
    node.tell(events.TasksEnded(ProcessNumber(2), [failed]))
    node.release(inner)
    late = node.submit(dependencies=[return_id(waiting, 0)])

    for task_id in (first, waiting, late):
        assert inner in node.core.objects.records
        value = node.core.objects.records[return_id(task_id, 0)].value
        assert value is not None and value.nested == [inner]
        node.release(return_id(task_id, 0))
    assert node.core.objects.records == {}


def test_cancelling_takes_children_along_if_it_shall() -> None:
    node = Node(cpus=1)
    top = node.submit(dependencies=[node.promise()])
    child = node.submit(parent=top)
    grandchild = node.submit(parent=child)
    stranger = node.submit()
    node.tell(events.CancelRequested(DRIVER, [top], False, True))

    states = {node.core.tasks[task_id].state for task_id in (top, child, grandchild)}
    assert states == {TaskState.CANCELLED}
    assert node.core.tasks[stranger].state == TaskState.READY


def test_a_broken_promise_fails_those_who_wait_and_leaves_nothing() -> None:
    node = Node(drivers=2)
    object_id = node.promise()
    task_id = node.submit(dependencies=[object_id], process=ProcessNumber(2))
    node.tell(events.DriverLeft(DRIVER))
    assert node.core.tasks[task_id].state == TaskState.FAILED
    node.release(return_id(task_id, 0), process=ProcessNumber(2))

    assert node.core.objects.records == {} and node.core.tasks == {}
    assert node.core.objects.leave(DRIVER) == []


def test_timeouts_interrupt_first_and_kill_then() -> None:
    node = Node()
    node.workers(2)
    task_id = node.submit(TaskTemplate(PLAIN.function_id, "f", timeout=1.0))
    node.tick(0.9)
    assert node.controls(CancelTask) == []
    node.tick(0.2)
    node.tick(0.2)
    assert node.controls(CancelTask) == [CancelTask(task_id, "timeout")]
    node.tick(1.0)
    assert node.killed == [2]
    node.leave(2)
    assert isinstance(node.error_of(task_id), TaskTimeoutError)


# --- the end of a job ---------------------------------------------------------------------------


def test_the_tasks_of_a_driver_that_left_are_not_retried_and_start_no_workers() -> None:
    node = Node()
    node.workers(2, 3)
    node.submit()
    node.tell(events.DriverLeft(DRIVER))
    started = node.started
    (busy,) = node.killed
    node.leave(busy)
    for _ in range(5):
        node.tick(0.1)

    assert node.core.tasks == {}
    assert node.started - started <= 1
    assert node.entries.present == set()


def test_what_a_worker_submits_after_its_driver_left_is_cancelled() -> None:
    node = Node()
    node.workers(2)
    node.submit()
    node.tell(events.DriverLeft(DRIVER))
    late = node.submit(process=ProcessNumber(2))
    node.tell(events.FunctionExported(ProcessNumber(2), PLAIN.function_id, b"code", "f", []))
    assert node.core.tasks[late].state == TaskState.CANCELLED
    assert node.core.pool.functions == {}
    node.leave(2)

    assert node.core.tasks == {} and node.core.objects.records == {}


def test_a_workers_task_goes_on_when_the_worker_that_submitted_it_dies() -> None:
    node = Node()
    node.workers(2, 3)
    parent = node.submit()
    first = node.where(parent)
    child = node.submit(process=ProcessNumber(first), parent=parent)
    second = node.where(child)
    assert second != first
    node.leave(first)
    assert node.core.tasks[child].state == TaskState.ASSIGNED
    node.end(second, child)

    assert child not in node.core.tasks


def test_functions_go_with_the_last_job_that_exported_them() -> None:
    node = Node(drivers=2)
    kept = node.put()
    for driver in (1, 2):
        node.tell(
            events.FunctionExported(ProcessNumber(driver), PLAIN.function_id, b"code", "f", [kept])
        )
    node.tell(events.DriverLeft(DRIVER))
    assert PLAIN.function_id in node.core.pool.functions
    assert kept in node.core.objects.records
    node.tell(events.DriverLeft(ProcessNumber(2)))

    assert node.core.pool.functions == {} and node.core.objects.records == {}


def test_a_worker_that_ended_before_it_was_up_is_replaced() -> None:
    node = Node(cpus=1)
    assert node.started == 1
    node.submit()
    node.leave(9)

    assert node.started == 2


# --- actors -------------------------------------------------------------------------------------


def test_the_holds_of_a_dead_actor_end_once() -> None:
    node = Node()
    node.workers(2)
    kept = node.put()
    creation = node.submit(ACTOR, [kept])
    node.place(creation)
    node.end(2, creation)
    node.tell(events.KillActorRequested(DRIVER, ActorID(creation), True))
    node.tell(events.KillActorRequested(DRIVER, ActorID(creation), True))
    assert node.killed == [2]
    node.leave(2)
    assert node.core.objects.records[kept].count == 1
    node.tell(events.DriverLeft(DRIVER))

    assert node.core.objects.records == {} and node.core.actors.records == {}
    assert node.entries.present == set()


def test_an_actor_that_is_killed_while_it_is_made_loses_its_worker() -> None:
    node = Node()
    node.workers(2)
    creation = node.submit(ACTOR)
    node.place(creation)
    node.tell(events.KillActorRequested(DRIVER, ActorID(creation), True))
    assert node.killed == [2]
    node.end(2, creation)
    node.leave(2)
    node.release(return_id(creation, 0))

    assert node.core.actors.records == {} and node.core.tasks == {}


@pytest.mark.parametrize("at", ["waiting", "placed", "alive"])
def test_an_actor_ends_with_its_driver_wherever_it_is(at: str) -> None:
    node = Node()
    node.workers(2)
    creation = node.submit(ACTOR, [node.put()])
    if at != "waiting":
        node.place(creation)
    if at == "alive":
        node.end(2, creation)
    node.tell(events.DriverLeft(DRIVER))
    node.place(creation)
    if node.killed:
        node.leave(2)

    assert node.core.actors.records == {} and node.core.tasks == {}
    assert node.entries.present == set()


def test_a_detached_actor_outlives_its_driver_and_its_job_ends_with_it() -> None:
    node = Node()
    node.workers(2, 3)
    node.tell(events.FunctionExported(DRIVER, DETACHED.function_id, b"code", "A", []))
    creation = node.submit(DETACHED, [node.put()])
    node.place(creation)
    worker = node.where(creation)
    node.end(worker, creation)
    node.tell(events.DriverLeft(DRIVER))
    node.tick(0.1)
    assert node.killed == []
    assert node.core.pool.functions != {}

    node.tell(events.KillActorRequested(ProcessNumber(0), ActorID(creation), True))
    node.leave(worker)
    node.tick(0.1)
    assert node.core.actors.records == {} and node.core.objects.records == {}
    assert node.core.pool.functions == {} and node.core.pool.job_settings == {}


def test_a_detached_actor_that_cannot_be_made_leaves_nothing() -> None:
    node = Node()
    node.workers(2)
    creation = node.submit(DETACHED)
    node.place(creation)
    node.end(2, creation, status=TaskStatus.FAILED)
    node.leave(2)
    node.release(return_id(creation, 0))

    assert node.core.actors.records == {} and node.core.objects.records == {}


def test_a_creation_that_was_placed_twice_runs_once() -> None:
    node = Node()
    creation = node.submit(ACTOR)
    node.place(creation)
    node.place(creation)
    node.workers(2, 3)
    node.place(creation)

    assert node.given(2) + node.given(3) == [creation]


def test_an_actor_for_which_no_node_came_says_what_it_asked_for() -> None:
    node = Node()
    huge = msgspec.structs.replace(ACTOR, resources={"CPU": 990_000})
    creation = node.submit(huge)
    node.tick(100)

    actor = node.core.actors.records[ActorID(creation)]
    assert actor.state == ActorState.DEAD
    assert "which asks for {'CPU': 99.0}; ask for less" in actor.cause


def test_an_infeasible_actor_that_is_killed_fails_once() -> None:
    node = Node()
    kept = node.put()
    huge = msgspec.structs.replace(ACTOR, resources={"CPU": 990_000})
    creation = node.submit(huge, [kept])
    node.tell(events.KillActorRequested(DRIVER, ActorID(creation), True))
    node.tick(100)

    assert node.core.objects.records[kept].count == 1
