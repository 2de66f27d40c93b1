"""What becomes of workers for their memory: measurements in, who is ended and why out."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from raydask.errors import OutOfMemoryError, WorkerCrashedError
from raydask.ids import FunctionID, ProcessNumber, TaskID
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import MeasureWorker
from raydask.local_scheduler.records import TaskState
from raydask.task import ActorOptions, TaskTemplate
from raydask.wire.messages import ActorLocated, ActorState, Notice
from tests.unit.local_scheduler.node import ACTOR, DRIVER, PLAIN, Node

MB = 1_000_000
TOTAL = 10_000 * MB
LOW, HIGH = 5_000 * MB, 9_500 * MB  # the threshold is at 9,000 MB, the worker limit 400 MB
NO_RETRY = replace(PLAIN, function_id=FunctionID(b"g"), name="g", max_retries=0)
ENFORCED = replace(NO_RETRY, name="tight", enforced_memory=100 * MB)
RESTARTABLE = replace(ACTOR, actor=ActorOptions(max_restarts=1))


@pytest.fixture
def node() -> Node:
    node = Node(4)
    node.workers(11, 12, 13, 14)
    return node


def measure(node: Node, used: int = LOW, **private: int) -> None:
    """Tell of a measurement: private MB as ``w11=300``; workers that are not named have 20."""
    node.now += 0.1
    sizes = {process: private.get(f"w{process}", 20) * MB for process in node.core.pool.workers}
    node.tell(events.MemoryMeasured(sizes, used, TOTAL))


def answer(node: Node, worker: int, private: int) -> None:
    """Answer the pool's wish to measure a worker."""
    asked = [one.process for one in node.actions if isinstance(one, MeasureWorker)]
    assert worker in asked
    node.tell(events.WorkerMeasured(ProcessNumber(worker), private * MB))


def make_actor(node: Node, template: TaskTemplate = ACTOR) -> tuple[TaskID, int]:
    actor = node.submit(template)
    node.place(actor)
    worker = node.where(actor)
    node.end(worker, actor)
    return actor, worker


def notices(node: Node) -> list[str]:
    return [notice.text for notice in node.sent(Notice)]


# --- recycling ------------------------------------------------------------------------------


def test_a_worker_above_the_limit_is_replaced_when_idle(node: Node) -> None:
    started = node.started
    measure(node, w12=401, w13=400)

    assert node.retired == [12] and node.killed == []
    assert node.started == started + 1
    node.leave(12)
    assert node.started == started + 1, "one in its place is enough"


def test_a_busy_worker_above_the_limit_is_drained_and_measured_again(node: Node) -> None:
    task = node.submit()
    worker = node.where(task)
    measure(node, **{f"w{worker}": 600})
    assert node.retired == [] and node.killed == []

    node.end(worker, task)
    assert not node.core.pool.is_idle(node.core.pool.workers[ProcessNumber(worker)])
    answer(node, worker, 500)
    assert node.retired == [worker]


def test_a_drained_worker_that_has_shrunk_is_kept(node: Node) -> None:
    task = node.submit()
    worker = node.where(task)
    measure(node, **{f"w{worker}": 600})
    node.end(worker, task)
    answer(node, worker, 100)

    assert node.retired == []
    later = [node.submit() for _ in range(4)]
    assert worker in map(node.where, later)


def test_a_drained_worker_is_given_nothing_more() -> None:
    node = Node(1)
    node.workers(11)
    first = node.submit()
    node.end(11, first)
    first, second = node.submit(), node.submit()  # short by now, so both are in the pipeline
    measure(node, w11=600)
    third = node.submit()
    node.end(11, first)

    assert node.given(11)[-2:] == [first, second]
    assert node.core.tasks[third].state == TaskState.READY


def test_actors_are_not_recycled(node: Node) -> None:
    _, worker = make_actor(node)
    measure(node, **{f"w{worker}": 5000})

    assert node.retired == [] and node.killed == []


# --- enforced memory ------------------------------------------------------------------------


def test_what_a_worker_had_before_is_not_charged(node: Node) -> None:
    task = node.submit(ENFORCED)
    worker = node.where(task)
    answer(node, worker, 300)
    measure(node, **{f"w{worker}": 400})

    assert node.killed == []


def test_a_task_beyond_its_memory_is_ended(node: Node) -> None:
    task = node.submit(ENFORCED)
    worker = node.where(task)
    answer(node, worker, 20)
    assert node.core.is_busy, "it is to be measured often"
    measure(node, **{f"w{worker}": 171})
    assert node.killed == [worker]
    node.leave(worker)

    error = node.error_of(task)
    assert isinstance(error, OutOfMemoryError)
    text = str(error)
    assert "'tight'" in text and "151 MB" in text and "100 MB" in text and "max_retries" in text


def test_retries_are_used_when_given(node: Node) -> None:
    task = node.submit(replace(ENFORCED, max_retries=1))
    worker = node.where(task)
    answer(node, worker, 20)
    measure(node, **{f"w{worker}": 200})
    node.leave(worker)
    assert "'tight'" in notices(node)[0] and "tried again" in notices(node)[0]

    again = node.where(task)
    assert again != worker
    answer(node, again, 20)
    measure(node, **{f"w{again}": 200})
    node.leave(again)
    assert "started 2 times" in str(node.error_of(task))


def test_the_next_task_of_the_worker_is_measured_on_its_own(node: Node) -> None:
    task = node.submit(ENFORCED)
    worker = node.where(task)
    answer(node, worker, 20)
    node.end(worker, task)
    others = [node.submit() for _ in range(4)]
    assert worker in map(node.where, others)
    measure(node, **{f"w{worker}": 300})

    assert node.killed == []


def test_an_actor_beyond_its_memory_dies_of_it(node: Node) -> None:
    actor = node.submit(replace(ACTOR, enforced_memory=100 * MB))
    node.place(actor)
    worker = node.where(actor)
    answer(node, worker, 20)
    node.end(worker, actor)
    node.tell(events.ActorFollowed(DRIVER, actor))
    measure(node, **{f"w{worker}": 121})
    assert node.killed == [worker]
    node.leave(worker)

    located = node.sent(ActorLocated)
    assert located[-1].state == ActorState.DEAD
    assert "ended for its memory" in located[-1].cause and "100 MB" in located[-1].cause


# --- the monitor ----------------------------------------------------------------------------


def test_nothing_is_ended_below_the_threshold(node: Node) -> None:
    task = node.submit()
    measure(node, 9_000 * MB, **{f"w{node.where(task)}": 390})

    assert node.killed == node.retired == []
    assert node.core.is_busy, "it is near, and to be measured often"


def test_idle_workers_go_first_and_one_at_a_time(node: Node) -> None:
    task = node.submit()
    worker = node.where(task)
    idle = [one for one in (11, 12, 13, 14) if one != worker]
    sizes = {f"w{worker}": 390, f"w{idle[0]}": 200, f"w{idle[1]}": 300}
    measure(node, HIGH, **sizes)
    assert node.retired == [idle[1]]
    measure(node, HIGH, **sizes)
    assert node.retired == [idle[1]], "its end has not been seen yet"
    node.leave(idle[1])
    measure(node, HIGH, **sizes)
    assert node.retired == [idle[1], idle[0]] and node.killed == []


def busy(node: Node, *templates: TaskTemplate) -> list[tuple[TaskID, int]]:
    """Let one task after the other begin, a measurement apart."""
    begun = []
    for template in templates:
        task = node.submit(template)
        begun.append((task, node.where(task)))
        measure(node)
    return begun


def test_the_last_to_begin_of_the_large_is_ended(node: Node) -> None:
    (_, old), (task, young), (_, small) = busy(node, PLAIN, PLAIN, PLAIN)
    measure(node, HIGH, **{f"w{old}": 390, f"w{young}": 300, f"w{small}": 100})

    assert node.killed == [young]
    node.leave(young)
    assert node.core.tasks[task].state == TaskState.WAITING
    assert node.core.tasks[task].retries == 2


def test_tasks_with_retries_go_before_those_without(node: Node) -> None:
    (_, old), (_, young) = busy(node, PLAIN, NO_RETRY)
    measure(node, 9_100 * MB, **{f"w{old}": 200, f"w{young}": 390})

    assert node.killed == [old]


def test_a_task_without_retries_goes_where_others_have_too_little(node: Node) -> None:
    (_, old), (task, young) = busy(node, PLAIN, NO_RETRY)
    measure(node, HIGH, **{f"w{old}": 150, f"w{young}": 390})
    assert node.killed == [young]
    node.leave(young)

    error = node.error_of(task)
    assert isinstance(error, OutOfMemoryError)
    text = str(error)
    assert "'g'" in text and "390 MB" in text and "95.0%" in text and "90.0%" in text


def test_actors_go_last(node: Node) -> None:
    _, lasting = make_actor(node)
    _, restartable = make_actor(node, RESTARTABLE)
    ((_, task),) = busy(node, NO_RETRY)
    sizes = {f"w{lasting}": 1000, f"w{restartable}": 1000, f"w{task}": 1000}
    for _ in range(3):
        measure(node, HIGH, **sizes)
        node.leave(node.killed[-1])

    assert node.killed == [restartable, task, lasting]


def test_small_workers_are_spared_and_the_drivers_told_once(node: Node) -> None:
    busy(node, PLAIN, PLAIN)
    for _ in range(3):
        measure(node, HIGH, w11=90, w12=90, w13=90, w14=90)
    assert node.killed == node.retired == []
    assert len(notices(node)) == 1 and "worth ending" in notices(node)[0]

    measure(node, LOW)
    measure(node, HIGH)
    assert len(notices(node)) == 2


# --- what was ended is tried again ----------------------------------------------------------


def end_for_memory(node: Node, task: TaskID) -> None:
    worker = node.where(task)
    measure(node, HIGH, **{f"w{worker}": 390})
    assert node.killed[-1] == worker
    node.leave(worker)
    node.workers(worker + 100)


def test_it_waits_longer_each_time_and_until_memory_is_free(node: Node) -> None:
    ((task, _),) = busy(node, PLAIN)
    record = node.core.tasks[task]
    for wait in (1, 2, 4):
        end_for_memory(node, task)
        node.now += wait - 0.15
        measure(node)
        assert record.state == TaskState.WAITING
        node.now += 0.1
        measure(node, HIGH)
        assert record.state == TaskState.WAITING
        measure(node)
        assert record.state == TaskState.ASSIGNED  # type: ignore[comparison-overlap]
    end_for_memory(node, task)
    assert "started 4 times" in str(node.error_of(task))


def test_it_does_not_wait_forever(node: Node) -> None:
    ((task, _),) = busy(node, PLAIN)
    end_for_memory(node, task)
    node.now += 32
    measure(node, HIGH)

    assert node.core.tasks[task].state == TaskState.ASSIGNED


def test_it_can_be_cancelled_while_it_waits(node: Node) -> None:
    ((task, _),) = busy(node, PLAIN)
    end_for_memory(node, task)
    node.tell(events.CancelRequested(DRIVER, [task], False, False))
    node.now += 10
    measure(node)

    assert node.core.tasks[task].state == TaskState.CANCELLED
    assert node.free_cpus == 4


def test_a_worker_whose_task_ends_before_it_does_costs_that_task_nothing(node: Node) -> None:
    ((task, worker),) = busy(node, PLAIN)
    measure(node, HIGH, **{f"w{worker}": 390})
    node.end(worker, task)
    node.leave(worker)

    assert node.core.tasks[task].state == TaskState.FINISHED


def test_a_death_of_another_cause_is_told_as_such(node: Node) -> None:
    task = node.submit(NO_RETRY)
    node.leave(node.where(task))

    assert type(node.error_of(task)) is WorkerCrashedError


# --- max_calls ------------------------------------------------------------------------------


def test_a_worker_is_replaced_after_so_many_calls() -> None:
    node = Node(1)
    node.workers(11)
    template = replace(PLAIN, max_calls=2)
    tasks = [node.submit(template) for _ in range(4)]
    assert node.given(11) == tasks[:1], "a counted call has its worker for itself"
    node.end(11, tasks[0])
    node.end(11, tasks[1])

    assert node.given(11) == tasks[:2]
    assert node.retired == [11] and node.killed == []
    assert node.free_cpus == 0, "what it occupies is free when it has gone"
    node.workers(12)
    assert node.given(12) == []
    node.leave(11)
    assert node.given(12) == tasks[2:3]
    assert node.core.tasks[tasks[2]].attempts == 1


def test_other_functions_do_not_count() -> None:
    node = Node(1)
    node.workers(11)
    other = replace(PLAIN, function_id=FunctionID(b"h"), max_calls=2)
    for template in (replace(PLAIN, max_calls=2), PLAIN, other, PLAIN):
        node.end(11, node.submit(template))

    assert node.retired == []
