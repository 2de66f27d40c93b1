"""Which task next, how many to whom, and what a node can give."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydask.ids import FunctionID, IDSource, NodeNumber, ProcessNumber
from raydask.local_scheduler.policy import Pipeline, ReadyQueue, Resources, order_key
from raydask.local_scheduler.records import TaskRecord, TemplateRecord, WorkerRecord
from raydask.task import RESOURCE_UNIT, TaskSpec, TaskTemplate

IDS = IDSource(NodeNumber(1), ProcessNumber(1))
UNIT = RESOURCE_UNIT


def task_of_cost(cost: float | None, key: int = 0, *, alone: bool = False) -> TaskRecord:
    template = TaskTemplate(FunctionID(b""), "f", max_retries=0 if alone else 3)
    record = TemplateRecord(1, template, 1)
    record.cost = cost
    spec = TaskSpec(IDS.next_task_id(), 0, b"", [], [])
    return TaskRecord(spec, record, 1, ProcessNumber(1), key, 0.0)


def filled(*tasks: TaskRecord) -> ReadyQueue:
    queue = ReadyQueue(1, {"CPU": UNIT})
    for task in tasks:
        queue.push(task)
    return queue


def worker_with(held: int = 0, load: float = 0.0) -> WorkerRecord:
    worker = WorkerRecord(ProcessNumber(9), 9, 0.0)
    worker.queue = {IDS.next_task_id(): task_of_cost(0.0) for _ in range(held)}
    worker.load = load
    return worker


def test_priority_beats_depth_and_depth_beats_submission() -> None:
    keys = [
        order_key(1, 0, 9),
        order_key(0, 5000, 7),
        order_key(0, 4095, 8),
        order_key(0, 1, 6),
        order_key(0, 0, 1),
        order_key(0, 0, 2),
        order_key(-1, 4095, 0),
    ]
    assert keys == sorted(keys)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["push", "pop", "remove"]))))
def test_ready_queue_is_a_sorted_list(steps: list[tuple[int, str]]) -> None:
    queue = ReadyQueue(1, {})
    model: list[tuple[int, TaskRecord]] = []
    for number, (key, step) in enumerate(steps):
        if step == "push":
            task = task_of_cost(None, key * 1000 + number)
            queue.push(task)
            model.append((task.key, task))
        elif step == "pop" and model:
            assert queue.pop() is model.pop(0)[1]
        elif step == "remove":
            gone = {task for _, task in model[key % 3 :: 3]}
            queue.remove(gone | {task_of_cost(None)})
            model = [item for item in model if item[1] not in gone]
        model.sort()
        assert len(queue) == len(model)
        assert set(queue) == {task for _, task in model}
        assert queue.head() is (model[0][1] if model else None)


def test_those_come_first_that_are_ahead_and_those_that_came_out_of_order() -> None:
    queue = filled(*(task_of_cost(None, key) for key in (10, 20, 30)))
    assert [queue.ahead_of(task_of_cost(None, key)) for key in (5, 10, 25, 31)] == [0, 0, 2, 3]
    queue.push(task_of_cost(None, 15))
    assert [queue.ahead_of(task_of_cost(None, key)) for key in (5, 31)] == [1, 4]


def test_who_is_asked_about_a_task_learns_how_many_are_left_ahead_of_it() -> None:
    tasks = [task_of_cost(None, key) for key in range(5)]
    queue = filled(*tasks)
    asked: list[int] = []

    def is_wanted(task: TaskRecord, ahead: int) -> bool:
        asked.append(ahead)
        return task.key in (1, 3)

    assert queue.take(2, is_wanted, 9) == [tasks[1], tasks[3]]
    assert asked == [0, 1, 1, 2]
    assert [queue.pop() for _ in range(len(queue))] == [tasks[0], tasks[2], tasks[4]]


def test_a_pipeline_takes_so_many_seconds_and_tasks() -> None:
    pipeline = Pipeline(0.004, 4)

    assert (
        len(pipeline.take(filled(*(task_of_cost(0.001) for _ in range(9))), worker_with(), 9)) == 4
    )
    assert (
        len(pipeline.take(filled(*(task_of_cost(0.003) for _ in range(9))), worker_with(), 9)) == 1
    )
    assert (
        len(pipeline.take(filled(*(task_of_cost(0.001) for _ in range(9))), worker_with(), 2)) == 2
    )
    assert not pipeline.take(filled(task_of_cost(0.001)), worker_with(4), 1)
    assert not pipeline.take(filled(task_of_cost(0.001)), worker_with(1, 0.0035), 1)
    assert not pipeline.take(filled(), worker_with(), 1)


def test_what_is_not_known_to_be_short_is_alone() -> None:
    pipeline = Pipeline(0.004, 4)
    unknown, alone = task_of_cost(None), task_of_cost(0.0001, alone=True)

    assert pipeline.take(filled(unknown, task_of_cost(0.0)), worker_with(), 9) == [unknown]
    assert pipeline.take(filled(alone, task_of_cost(0.0)), worker_with(), 9) == [alone]
    assert not pipeline.take(filled(unknown), worker_with(1), 9)


def test_durations_are_averaged_and_short_ones_believed_sooner() -> None:
    record = task_of_cost(None).template
    record.ended(1.0)
    assert record.cost == 1.0
    record.ended(0.0)
    assert record.cost == 0.5
    record.ended(1.5)
    assert record.cost == pytest.approx(0.7)


def test_resources_are_given_and_taken_back_exactly() -> None:
    resources = Resources({"CPU": 4 * UNIT, "x": 1}, [])
    wanted = {"CPU": 15_000, "x": 0}

    assert resources.how_often(wanted, 9) == 2
    assert resources.how_often({"x": 0}, 9) == 9
    assert resources.how_often({"y": 1}, 9) == 0
    resources.allocate(wanted)
    assert resources.available == {"CPU": 25_000, "x": 1}
    resources.free(wanted)
    assert resources.available == resources.total
    assert resources.feasible({"CPU": 40_000}) and not resources.feasible({"CPU": 40_001})
    assert not resources.feasible({"y": 1})


def test_cpus_in_the_red_give_nothing() -> None:
    resources = Resources({"CPU": UNIT}, [])
    resources.allocate({"CPU": 3 * UNIT})

    assert resources.how_often({"CPU": UNIT}, 5) == 0


def test_shares_of_gpus_fill_one_device_before_the_next() -> None:
    resources = Resources({"GPU": 2 * UNIT}, [4, 7])
    first = resources.take_gpus(3_000)
    second = resources.take_gpus(7_000)

    assert first == second
    assert resources.take_gpus(UNIT) == [11 - first[0]]
    assert resources.how_often({"GPU": 1}, 5) == 0 or resources.take_gpus(1) == []


def test_two_shares_that_fit_in_sum_may_fit_on_no_device() -> None:
    resources = Resources({"GPU": 2 * UNIT}, [0, 1])
    for _ in range(2):
        resources.allocate({"GPU": 6_000})
        resources.take_gpus(6_000)

    assert resources.available["GPU"] == 8_000
    assert resources.how_often({"GPU": 6_000}, 5) == 0
    assert resources.how_often({"GPU": 4_000}, 5) == 2


def test_a_whole_device_is_not_a_shared_one() -> None:
    resources = Resources({"GPU": 2 * UNIT}, [0, 1])
    resources.allocate({"GPU": 5_000})
    shared = resources.take_gpus(5_000)

    assert resources.how_often({"GPU": UNIT}, 5) == 1
    assert resources.how_often({"GPU": 15_000}, 5) == 1
    both = resources.take_gpus(15_000)
    assert both == [1 - shared[0], shared[0]]


def test_what_no_set_of_devices_could_give_is_infeasible() -> None:
    resources = Resources({"GPU": 25_000}, [0, 1])

    assert resources.feasible({"GPU": 2 * UNIT})
    assert not resources.feasible({"GPU": 25_000})
    assert Resources({"GPU": 25_000}, []).feasible({"GPU": 25_000})


@settings(derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from((1_000, 3_000, 5_000, 10_000, 15_000, 20_000)), st.integers(0, 3))
    )
)
def test_devices_are_never_given_twice(steps: list[tuple[int, int]]) -> None:
    resources = Resources({"GPU": 3 * UNIT}, [0, 1, 2])
    given_out: list[tuple[list[int], int]] = []
    for amount, step in steps:
        if step == 0 and given_out:
            devices, back = given_out.pop(amount % len(given_out))
            resources.return_gpus(devices, back)
            resources.free({"GPU": back})
        elif resources.how_often({"GPU": amount}, 1):
            resources.allocate({"GPU": amount})
            given_out.append((resources.take_gpus(amount), amount))
        use = dict.fromkeys(range(3), 0)
        for devices, rest in given_out:
            for device in devices:
                use[device] += min(rest, UNIT)
                rest -= UNIT
            assert rest <= 0
        assert max(use.values()) <= UNIT
        assert sum(use.values()) == resources.total["GPU"] - resources.available["GPU"]
    for devices, amount in given_out:
        resources.return_gpus(devices, amount)
        resources.free({"GPU": amount})
    assert resources.how_often({"GPU": UNIT}, 9) == 3
