"""Bundles of placement groups on a node, and tasks that the global scheduler places."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from raydask.errors import ActorDiedError, InfeasibleError
from raydask.ids import FunctionID, PlacementGroupID, ProcessNumber, TaskID, job_number
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import SendGlobal
from raydask.local_scheduler.policy import Resources
from raydask.local_scheduler.requests import RequestDesk
from raydask.placement import Strategy, demanded, supplied
from raydask.task import RESOURCE_UNIT, ActorOptions, TaskKind, TaskTemplate
from raydask.wire import messages as wire
from tests.unit.local_scheduler.node import DRIVER, Node

GROUP = PlacementGroupID(b"g" * 16)
OTHER = PlacementGroupID(b"h" * 16)
JOB = job_number(1, 1)
UNIT = RESOURCE_UNIT


def in_group(cpus: float = 1, index: int = -1, **more: Any) -> TaskTemplate:
    wanted = demanded({"CPU": round(cpus * UNIT)} if cpus else {}, GROUP, index)
    strategy = Strategy("GROUP", group=GROUP)
    return TaskTemplate(FunctionID(b"f"), "f", resources=wanted, strategy=strategy, **more)


def spread() -> TaskTemplate:
    wanted = {"CPU": UNIT}
    return TaskTemplate(FunctionID(b"s"), "s", resources=wanted, strategy=Strategy("SPREAD"))


def said(node: Node, kind: type) -> list[Any]:
    """Take out what the global scheduler was told of one kind."""
    found = node.sent_up(kind)
    node.actions = [
        action
        for action in node.actions
        if not (isinstance(action, SendGlobal) and isinstance(action.message, kind))
    ]
    return found


def reserve(node: Node, *cpus: float, group: PlacementGroupID = GROUP, first: int = 0) -> bool:
    bundles = [(first + index, {"CPU": round(each * UNIT)}) for index, each in enumerate(cpus)]
    node.tell(events.BundlesWanted(group, 3, bundles))
    (answer,) = said(node, wire.BundlesReserved)
    assert (answer.group_id, answer.attempt) == (group, 3)
    return bool(answer.accepted)


def placed(node: Node, template: TaskTemplate) -> TaskID:
    task_id = node.submit(template)
    (message,) = said(node, wire.PassUp)
    assert message.tasks[0].strategy == template.strategy
    node.tell(events.TasksPlaced([(task_id, 1)]))
    return task_id


def give_back(node: Node, *indexes: int) -> None:
    node.tell(events.BundlesUnwanted(GROUP, list(indexes), "the group was removed"))


def test_bundles_are_reserved_all_or_none() -> None:
    node = Node(cpus=3)
    assert not reserve(node, 1, 1, 2)
    assert node.free_cpus == 3
    assert node.core.bundles.held == []
    assert reserve(node, 1, 1)
    assert not reserve(node, 2, group=OTHER)
    assert reserve(node, 1, group=OTHER)
    assert node.free_cpus == 0
    assert node.core.bundles.held == [(GROUP, 0), (GROUP, 1), (OTHER, 0)]


def test_tasks_run_in_their_bundle_and_no_others_do() -> None:
    node = Node(cpus=2)
    node.workers(11, 12, 13)
    assert reserve(node, 1)
    first, second = placed(node, in_group(index=0)), placed(node, in_group())
    plain, late = node.submit(), node.submit()
    assert sorted(map(node.where, (first, plain))) == [12, 13]
    assert {task: node.core.tasks[task].worker for task in (second, late)} == dict.fromkeys(
        (second, late)
    )
    node.end(node.where(first), first)
    assert node.core.tasks[second].worker is not None


def test_a_task_with_a_strategy_never_enters_the_queue_by_itself() -> None:
    node = Node()
    node.workers(11, 12)
    template = TaskTemplate(
        FunctionID(b"f"), "f", resources={"CPU": UNIT}, strategy=Strategy("SPREAD")
    )
    task_id = node.submit(template)
    assert len(said(node, wire.PassUp)) == 1
    assert node.core.pool.queued == 0
    node.tick(1000.0)
    assert not node.core.infeasible
    node.tell(events.GlobalSchedulerCame())
    assert len(said(node, wire.PassUp)) == 1
    node.tell(events.TasksPlaced([(task_id, 1)]))
    worker = node.where(task_id)
    node.leave(worker)  # and it is retried by its strategy
    assert len(said(node, wire.PassUp)) == 1


def test_a_task_that_can_never_run_fails_with_the_reason() -> None:
    node = Node()
    task_id = node.submit(in_group())
    node.tell(events.TasksFoundInfeasible([task_id], "its group was removed", True))
    error = node.error_of(task_id)
    assert isinstance(error, InfeasibleError)
    assert "its group was removed" in str(error)


def test_what_could_run_later_fails_after_a_while_and_is_withdrawn() -> None:
    node = Node()
    task_id = node.submit(in_group())
    node.tell(events.TasksFoundInfeasible([task_id], "its group is too large"))
    assert node.core.infeasible == 1
    node.tick(100.0)
    assert "too large" in str(node.error_of(task_id))
    assert said(node, wire.WithdrawTasks) == [wire.WithdrawTasks([task_id])]
    assert node.core.infeasible == 0


def test_with_a_bundle_goes_what_runs_and_what_waits_in_it() -> None:
    node = Node(cpus=2)
    node.workers(11, 12)
    assert reserve(node, 1)
    running, waiting = placed(node, in_group()), placed(node, in_group())
    worker = node.where(running)
    give_back(node, 0)
    assert node.killed == [worker]
    assert node.free_cpus == 2
    assert [each.tasks[0].task_id for each in said(node, wire.PassUp)] == [waiting]
    node.leave(worker)
    assert [each.tasks[0].task_id for each in said(node, wire.PassUp)] == [running]
    node.tell(events.TasksFoundInfeasible([running, waiting], "removed", True))
    assert isinstance(node.error_of(running), InfeasibleError)
    assert reserve(node, 2, group=OTHER)
    assert not any(GROUP.hex() in name for name in node.core.pool.resources.available)


def test_what_is_not_in_the_group_goes_on() -> None:
    node = Node(cpus=2)
    node.workers(11, 12)
    assert reserve(node, 1, group=OTHER)
    plain = node.submit()
    assert reserve(node, 0, group=GROUP, first=7)
    give_back(node, 7, 8)
    assert node.killed == []
    assert node.core.tasks[plain].worker is not None


def test_an_actor_in_a_bundle_ends_with_it() -> None:
    node = Node(cpus=2)
    node.workers(11, 12)
    assert reserve(node, 1)
    template = TaskTemplate(
        FunctionID(b"a"),
        "A",
        TaskKind.ACTOR_CREATION,
        resources=demanded({}, GROUP, 0),
        max_retries=0,
        actor=ActorOptions(max_restarts=5),
        strategy=Strategy("GROUP", group=GROUP),
    )
    actor = node.submit(template)
    (request,) = said(node, wire.CreateActor)
    assert request.strategy == template.strategy
    node.tick(1000.0)
    node.place(actor)
    node.end(node.where(actor), actor)
    give_back(node, 0)
    node.leave(node.killed[0])
    assert len(said(node, wire.CreateActor)) == 1
    node.tell(events.TasksFoundInfeasible([actor], "its group was removed", True))
    assert node.core.actors.records[actor].state == wire.ActorState.DEAD  # type: ignore[index]
    waiting = node.submit(template)
    node.tell(events.TasksFoundInfeasible([waiting], "its group was removed", True))
    assert isinstance(node.error_of(waiting), ActorDiedError)


def test_a_worker_that_blocks_gives_its_bundles_cpus_to_another() -> None:
    node = Node(cpus=1)
    node.workers(11, 12)
    assert reserve(node, 1)
    outer, inner = placed(node, in_group(index=0)), placed(node, in_group(index=0))
    worker = ProcessNumber(node.where(outer))
    promised = node.promise()
    node.tell(events.ValuesRequested(worker, [promised], True, []))
    assert node.core.tasks[inner].worker is not None
    node.tell(events.WorkerUnblocked(worker))
    node.end(node.where(inner), inner)
    node.end(worker, outer)


def test_tasks_that_take_nothing_of_a_bundle_do_not_start_workers_without_end() -> None:
    node = Node(cpus=1)
    assert reserve(node, 1)
    for _ in range(100):
        placed(node, in_group(cpus=0))
    assert node.started <= 20


def test_users_are_told_of_a_group_that_the_cluster_cannot_hold() -> None:
    node = Node()
    node.tell(events.GroupWasJudged(GROUP, 101, "no nodes can hold it"))
    node.tell(events.GroupWasJudged(GROUP, 101, "no nodes can hold it"))
    notices = [notice.text for notice in node.sent(wire.Notice)]
    assert notices == ["no nodes can hold it. It waits for nodes that can"]
    assert node.core.infeasible == 1
    node.tell(events.GroupWasJudged(GROUP, 101, ""))
    assert node.core.infeasible == 0


def test_tasks_of_a_group_that_can_be_held_after_all_wait_on() -> None:
    node = Node()
    task_id, lone = node.submit(in_group()), node.submit(spread())
    node.tell(events.GroupWasJudged(GROUP, 101, "no nodes can hold it"))
    node.tell(events.TasksFoundInfeasible([task_id, lone], "no nodes can hold it"))
    node.tick(20.0)
    node.tell(events.GroupWasJudged(GROUP, 101, ""))
    assert node.core.infeasible == 1
    node.tick(1000.0)
    assert isinstance(node.error_of(lone), InfeasibleError)
    assert said(node, wire.WithdrawTasks) == [wire.WithdrawTasks([lone])]
    assert node.core.infeasible == 0

    node.tell(events.TasksFoundInfeasible([task_id], "again too large"))
    node.tick(1100.0)
    assert "again too large" in str(node.error_of(task_id))


def test_a_new_global_scheduler_says_anew_whether_a_group_can_be_held() -> None:
    node = Node()
    task_id = node.submit(in_group())
    node.tell(events.TasksFoundInfeasible([task_id], "no nodes can hold it"))
    node.tell(events.GlobalSchedulerCame())
    assert len(said(node, wire.PassUp)) == 2
    assert node.core.infeasible == 0
    node.tick(1000.0)
    assert said(node, wire.WithdrawTasks) == []


def test_a_group_of_a_job_that_has_ended_is_not_asked_for() -> None:
    node = Node()
    node.tell(events.DriverJoined(ProcessNumber(9), JOB, "", [], "/"))
    asked: list[Any] = []
    replies: list[Any] = []
    process = SimpleNamespace(process=9, protocol=SimpleNamespace(send=replies.append))
    server = SimpleNamespace(
        core=node.core, peers={9: process}, cluster=SimpleNamespace(send=asked.append)
    )
    desk = RequestDesk(server)  # type: ignore[arg-type]

    def ask(number: int, detached: bool) -> None:
        group = wire.CreateGroup(0, GROUP, [{}], "PACK", "", "", JOB, detached)
        payload = msgspec.msgpack.encode(group)
        desk.on_request(process, wire.Request(number, "create_group", payload))  # type: ignore[arg-type]

    ask(1, detached=False)
    assert (len(asked), replies) == (1, [])
    node.tell(events.DriverLeft(ProcessNumber(9)))
    ask(2, detached=True)
    assert (len(asked), replies) == (2, [])
    ask(3, detached=False)

    assert len(asked) == 2
    (reply,) = replies
    assert (reply.number, b"has ended" in reply.error) == (3, True)


def test_the_global_scheduler_is_told_of_the_end_of_this_nodes_jobs() -> None:
    node = Node()
    process = ProcessNumber(9)
    node.tell(events.DriverJoined(process, JOB, "", [], "/"))
    assert node.core.jobs == [JOB]
    node.tell(events.DriverLeft(process))
    node.tell(events.DriverLeft(DRIVER))  # of another node, as its number says
    assert said(node, wire.JobEnded) == [wire.JobEnded(JOB)]
    assert node.core.jobs == []


@pytest.mark.parametrize("name", ["whole", "own"])
def test_a_bundles_gpus_are_for_its_tasks_alone(name: str) -> None:
    resources = Resources({"GPU": 3 * UNIT}, [5, 6, 7])
    bundle = {"GPU": 15_000}
    made = supplied(bundle, GROUP, 0)
    assert resources.reserve(bundle, made)
    assert resources.how_often({"GPU": UNIT}, 9) == 1
    wanted = demanded({"GPU": UNIT}, GROUP, 0 if name == "own" else -1)
    gpus = max((each for each in wanted if each.startswith("GPU")), key=len)
    assert resources.how_often(wanted, 9) == 1
    taken = resources.take_gpus(UNIT, gpus)
    resources.allocate(wanted)
    assert resources.how_often(wanted, 9) == 0
    plain = resources.take_gpus(UNIT)
    assert set(taken).isdisjoint(plain)
    resources.return_gpus(plain, UNIT)

    resources.give_back(bundle, made)
    assert resources.how_often({"GPU": UNIT}, 9) == 2  # the third is in use until its worker ends
    resources.return_gpus(taken, UNIT, gpus)
    resources.free(wanted)
    assert resources.how_often({"GPU": UNIT}, 9) == 3
    resources.forget_unused()
    assert resources.available == {"GPU": 3 * UNIT}


def test_two_bundles_of_a_group_share_no_more_than_they_have() -> None:
    resources = Resources({"GPU": 2 * UNIT}, [5, 6])
    for index in (0, 1):
        bundle = {"GPU": UNIT}
        assert resources.reserve(bundle, supplied(bundle, GROUP, index))
    own = [resources.take_gpus(UNIT, f"GPU_group_{GROUP.hex()}_{index}") for index in (0, 1)]
    assert sorted(own) == [[5], [6]]
    assert not resources.reserve({"GPU": 1}, supplied({"GPU": 1}, OTHER, 0))


def test_the_queue_of_a_group_goes_when_nothing_uses_it() -> None:
    node = Node()
    node.workers(10, 11)
    assert reserve(node, 1)
    task_id = placed(node, in_group())
    node.tick(2.0)
    assert len(node.core.pool.queues) == 1

    node.end(node.where(task_id), task_id)
    give_back(node, 0)
    node.tick(2.0)
    assert not node.core.pool.queues
