"""Where a job's workers come from, while its fork server imports, works, and is gone."""

from __future__ import annotations

from typing import Any

import pytest

from raydask.ids import ProcessNumber
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import (
    EndForkServer,
    PrepareWorkers,
    RetireWorker,
    Send,
    StartWorkers,
)
from raydask.wire.messages import JobSettings
from tests.unit.local_scheduler.node import DRIVER, Node

JOB = 101
OTHER_DRIVER = ProcessNumber(2)


@pytest.fixture
def node() -> Node:
    """Return a node of two CPUs whose first driver has named modules."""
    node = Node(drivers=2)
    node.tell(events.ModulesNamed(DRIVER, ["numpy"]))
    return node


def started(node: Node) -> list[tuple[int, int]]:
    """Return how many workers have been started since, and for which job."""
    return [(action.number, action.job) for action in drain(node, StartWorkers)]


def drain(node: Node, kind: type) -> list[Any]:
    found = [action for action in node.actions if isinstance(action, kind)]
    node.actions = [action for action in node.actions if not isinstance(action, kind)]
    return found


def prepared(node: Node) -> None:
    node.tell(events.WorkersPrepared(JOB))


def join(node: Node, *numbers: int, job: int = JOB) -> None:
    for number in numbers:
        node.tell(events.WorkerJoined(ProcessNumber(number), number, job))


def test_modules_are_imported_with_the_settings_of_the_job(node: Node) -> None:
    assert drain(node, PrepareWorkers) == [PrepareWorkers(JOB, ["numpy"], [], "/")]


def test_while_modules_are_imported_the_job_takes_no_fresh_worker(node: Node) -> None:
    started(node)
    join(node, 11, 12, job=0)
    task = node.submit()
    other = node.submit(process=OTHER_DRIVER)

    assert node.given(11) + node.given(12) == [other]
    assert started(node) == []
    prepared(node)
    assert started(node) == [(1, JOB)]
    join(node, 13)
    assert node.given(13) == [task]


def test_a_worker_of_the_job_that_is_there_goes_on_and_is_replaced_when_idle() -> None:
    node = Node()
    node.workers(11)
    first = node.submit()
    node.tell(events.ModulesNamed(DRIVER, ["numpy"]))
    second = node.submit()
    node.end(11, first)
    assert node.given(11) == [first, second]
    prepared(node)
    drain(node, StartWorkers)
    assert node.retired == []

    node.end(11, second)
    assert node.retired == [11]
    assert started(node) == [(1, JOB)]


def test_idle_ones_are_replaced_at_once() -> None:
    node = Node()
    node.workers(11, 12)
    for task in [node.submit(), node.submit()]:
        node.end(node.where(task), task)
    node.tell(events.ModulesNamed(DRIVER, ["numpy"]))
    started(node)
    prepared(node)

    assert sorted(node.retired) == [11, 12]
    assert started(node) == [(1, JOB), (1, JOB)]
    assert len(drain(node, RetireWorker)) == 2


def test_a_worker_is_told_its_job_before_its_first_task(node: Node) -> None:
    node.submit()
    prepared(node)
    join(node, 11)
    settings, execute = [a.message for a in node.actions if isinstance(a, Send) and a.process == 11]
    assert settings == JobSettings(JOB, "", [], "/")
    assert execute.assignments


@pytest.mark.parametrize("when", ["while it imports", "when it is ready"])
def test_a_job_without_its_fork_server_takes_any_worker(node: Node, when: str) -> None:
    started(node)
    task = node.submit()
    if when == "when it is ready":
        prepared(node)
        assert started(node) == [(1, JOB)]
    node.tell(events.ForkServerEnded(JOB))
    assert started(node) == []  # those from before the job are still to come
    join(node, 11, job=0)
    assert node.given(11) == [task]

    drain(node, PrepareWorkers)
    node.tell(events.ModulesNamed(DRIVER, ["pandas"]))
    prepared(node)
    assert drain(node, PrepareWorkers) == []
    assert node.retired == []


def test_a_fork_server_that_imports_for_too_long_is_given_up(node: Node) -> None:
    task = node.submit()
    join(node, 11, job=0)
    assert node.given(11) == []
    node.tick(31)
    assert node.given(11) == [task]
    assert drain(node, EndForkServer) == [EndForkServer(JOB)]


def test_one_whose_workers_do_not_come_is_not_asked_again(node: Node) -> None:
    task = node.submit()
    prepared(node)
    join(node, 11, job=0)
    node.tick(20)
    assert node.given(11) == []
    node.tick(11)
    assert node.given(11) == [task]
    assert drain(node, EndForkServer) == []  # others of its workers may be at work


def test_a_failed_start_is_made_up_for(node: Node) -> None:
    node.submit()
    prepared(node)
    started(node)
    node.tell(events.WorkersFailed(1, JOB))
    assert started(node) == [(1, JOB)]


def test_the_fork_server_ends_with_its_job(node: Node) -> None:
    node.submit()
    prepared(node)
    node.tell(events.DriverLeft(DRIVER))
    assert drain(node, EndForkServer) == [EndForkServer(JOB)]

    join(node, 11)  # forked before
    assert node.retired == [11]
    node.tell(events.ForkServerEnded(JOB))
    node.leave(11)


def test_a_job_that_named_none_has_none() -> None:
    node = Node()
    node.submit()
    node.tell(events.DriverLeft(DRIVER))
    assert drain(node, EndForkServer) == []


def test_of_a_busy_node_the_workers_beyond_the_cpus_end(node: Node) -> None:
    join(node, 11, 12, job=0)
    node.submit()
    node.submit()
    prepared(node)
    join(node, 13, 14)
    node.tick(6)
    assert sorted(node.retired) == [11, 12]
