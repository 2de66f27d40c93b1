"""What waits for a place: looked at when its answer may have changed, and once for all its like."""

from __future__ import annotations

import pytest

from raydask.global_scheduler import events, placing
from raydask.global_scheduler.placing import Chooser
from raydask.global_scheduler.state import NODE_GRACE_SECONDS
from raydask.ids import NodeNumber
from raydask.placement import LabelRule, Strategy
from raydask.wire import messages as wire
from tests.unit.global_scheduler.cluster import Cluster


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    for number in range(1, 4):
        made.join(number, CPU=4)
    return made


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> list[placing.Unplaced]:
    """What a place was sought for."""
    found: list[placing.Unplaced] = []
    choose = Chooser.choose

    def noted(self, item, asking, connected):  # type: ignore[no-untyped-def]
        found.append(item)
        return choose(self, item, asking, connected)

    monkeypatch.setattr(Chooser, "choose", noted)
    return found


def test_what_is_alike_is_refused_at_once(
    cluster: Cluster, choices: list[placing.Unplaced]
) -> None:
    tasks = cluster.pass_up(1, 100, GPU=1)

    assert len(choices) == 1
    assert [said.task_ids for said in cluster.sent(wire.Infeasible, 1)] == [tasks]


def test_a_node_that_cannot_run_it_and_a_death_are_no_reason_to_look_again(
    cluster: Cluster, choices: list[placing.Unplaced]
) -> None:
    for amount in range(1, 51):
        cluster.pass_up(1, 2, GPU=amount)
    del choices[:]
    cluster.join(4, CPU=16)
    cluster.lose(4)
    cluster.after(NODE_GRACE_SECONDS)
    assert cluster.node(4).state == "DEAD"
    assert choices == []

    cluster.join(5, GPU=1)
    assert len(cluster.sent(wire.Placed, 1)[0].placements) == 2
    assert len(choices) == 2


def test_a_node_that_comes_back_with_less_is_awaited_no_more(cluster: Cluster) -> None:
    cluster.join(4, GPU=1)
    cluster.lose(4)
    tasks = cluster.pass_up(1, 2, GPU=1)
    assert cluster.sent(wire.Infeasible) == []
    cluster.join(4, CPU=1)

    assert cluster.sent(wire.Infeasible, 1)[0].task_ids == tasks


def test_who_could_not_be_told_is_when_it_is_back(cluster: Cluster) -> None:
    tasks = cluster.pass_up(2, 2, GPU=1)
    cluster.lose(2)
    cluster.join(4, GPU=1)
    assert cluster.sent(wire.Placed) == []
    cluster.join(2, CPU=4)

    (placed,) = cluster.sent(wire.Placed, 2)
    assert placed.placements == [(task, 4) for task in tasks]


def test_what_is_asked_again_is_answered_again_and_withdrawn_is_forgotten(
    cluster: Cluster,
) -> None:
    wanted = wire.PassedUp(cluster.new_id(), "f", {"GPU": 10_000}, None)
    for _ in range(2):
        cluster.tell(events.TasksPassedUp(NodeNumber(1), [wanted]))
    assert len(cluster.sent(wire.Infeasible, 1)) == 2
    assert cluster.core.status()[0].infeasible == 1

    cluster.tell(events.TasksWithdrawn(NodeNumber(1), [wanted.task_id, wanted.task_id]))
    assert cluster.core.status()[0].infeasible == 0
    cluster.join(4, GPU=1)
    assert cluster.sent(wire.Placed) == []


def test_what_differs_in_its_strategy_or_its_node_is_not_alike(cluster: Cluster) -> None:
    ssd = Strategy("LABELS", hard=(LabelRule("ssd", "exists"),))
    cluster.pass_up(1, GPU=1)
    cluster.pass_up(2, GPU=1)
    cluster.pass_up(1, strategy=ssd, GPU=1)
    cluster.sent(wire.Infeasible)
    cluster.join(4, GPU=1)
    assert [len(cluster.sent(wire.Placed, node)) for node in (1, 2)] == [1, 1]

    cluster.join(5, labels={"ssd": ""}, GPU=1)
    assert cluster.sent(wire.Placed, 1)[0].placements[0][1] == 5
