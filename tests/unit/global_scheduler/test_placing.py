"""Strategies: where what is passed up goes."""

from __future__ import annotations

from collections import Counter

import pytest

from raydask.global_scheduler import events
from raydask.global_scheduler.state import NODE_GRACE_SECONDS
from raydask.ids import ActorID, NodeNumber
from raydask.placement import LabelRule, Strategy
from raydask.wire import messages as wire
from tests.unit.global_scheduler.cluster import Cluster, units


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.join(1, CPU=4, labels={"rack": "a"})
    made.join(2, CPU=4, labels={"rack": "b", "ssd": ""})
    made.join(3, CPU=4, GPU=1, labels={"rack": "b"})
    return made


def nodes_for(
    cluster: Cluster, strategy: Strategy, count: int = 1, **wanted: float
) -> Counter[int]:
    cluster.pass_up(1, count, strategy=strategy, **wanted)
    return Counter(node for said in cluster.sent(wire.Placed, 1) for _, node in said.placements)


def refusal(cluster: Cluster, strategy: Strategy, **wanted: float) -> wire.Infeasible:
    assert nodes_for(cluster, strategy, **wanted) == {}
    (said,) = cluster.sent(wire.Infeasible, 1)
    return said


@pytest.mark.parametrize("cpus", [0, 1, 3])
def test_what_is_spread_goes_round(cluster: Cluster, cpus: float) -> None:
    assert nodes_for(cluster, Strategy("SPREAD"), 9, CPU=cpus) == {1: 3, 2: 3, 3: 3}
    assert nodes_for(cluster, Strategy("SPREAD"), 3, CPU=cpus) == {1: 1, 2: 1, 3: 1}


def test_what_is_spread_goes_where_there_is_room_first(cluster: Cluster) -> None:
    cluster.beat(1, CPU=0)
    assert nodes_for(cluster, Strategy("SPREAD"), 4, CPU=1) == {2: 2, 3: 2}
    assert nodes_for(cluster, Strategy("SPREAD"), 2, GPU=1) == {3: 2}


def test_a_nodes_tasks_go_there_however_busy_it_is(cluster: Cluster) -> None:
    cluster.beat(2, CPU=0, queued=50, seconds=60.0)
    for soft in (False, True):
        assert nodes_for(cluster, Strategy("NODE", 2, soft=soft), 3, CPU=1) == {2: 3}


def test_a_node_that_is_not_there_is_named(cluster: Cluster) -> None:
    said = refusal(cluster, Strategy("NODE", 9), CPU=1)
    assert said.final
    assert "node 9 alone, which this cluster does not have" in said.detail
    cluster.lose(2)
    assert nodes_for(cluster, Strategy("NODE", 2), CPU=1) == {}
    assert cluster.sent(wire.Infeasible) == []
    cluster.after(NODE_GRACE_SECONDS)
    (said,) = cluster.sent(wire.Infeasible)
    assert said.final
    assert "node 2 alone, which is dead: its connection ended" in said.detail
    assert nodes_for(cluster, Strategy("NODE", 2, soft=True), CPU=1).keys() <= {1, 3}


def test_a_node_that_has_too_little_is_not_waited_for(cluster: Cluster) -> None:
    said = refusal(cluster, Strategy("NODE", 1), GPU=1)
    assert said.final
    assert "GPU 1" in said.detail
    assert nodes_for(cluster, Strategy("NODE", 1, soft=True), GPU=1) == {3: 1}


@pytest.mark.parametrize(
    ("hard", "preferred", "expected"),
    [
        ([("rack", "in", "a", "c")], [], {1}),
        ([("rack", "not in", "a")], [], {2, 3}),
        ([("ssd", "exists")], [], {2}),
        ([("ssd", "absent"), ("rack", "in", "b")], [], {3}),
        ([("rack", "in", "b")], [("ssd", "exists")], {2}),
        ([("rack", "in", "a")], [("ssd", "exists")], {1}),
        ([], [("rack", "in", "z")], {1, 2, 3}),
    ],
)
def test_labels(
    cluster: Cluster,
    hard: list[tuple[str, ...]],
    preferred: list[tuple[str, ...]],
    expected: set[int],
) -> None:
    def rules(given: list[tuple[str, ...]]) -> tuple[LabelRule, ...]:
        return tuple(LabelRule(label, kind, tuple(values)) for label, kind, *values in given)  # type: ignore[arg-type]

    strategy = Strategy("LABELS", hard=rules(hard), preferred=rules(preferred))
    assert nodes_for(cluster, strategy, 6, CPU=1).keys() == expected


def test_labels_that_no_node_has_wait_for_one(cluster: Cluster) -> None:
    strategy = Strategy("LABELS", hard=(LabelRule("rack", "in", ("z",)),))
    said = refusal(cluster, strategy, CPU=1)
    assert (said.final, "labels (rack in z)" in said.detail) == (False, True)
    cluster.join(4, CPU=4, labels={"rack": "z"})
    (placed,) = cluster.sent(wire.Placed, 1)
    assert placed.placements == [(said.task_ids[0], 4)]


def test_an_actor_has_a_strategy_too(cluster: Cluster) -> None:
    actor_id = ActorID(cluster.new_id())
    strategy = Strategy("NODE", 3)
    request = events.ActorRequested(
        NodeNumber(1), actor_id, "A", units(CPU=1), 0, False, 65537, strategy
    )
    cluster.tell(request)
    assert cluster.sent(wire.ActorPlaced, 1)[0].node == 3


def test_what_is_withdrawn_is_forgotten(cluster: Cluster) -> None:
    (task,) = cluster.pass_up(1, CPU=64)
    assert cluster.core.status()[0].infeasible == 1
    cluster.tell(events.TasksWithdrawn(NodeNumber(1), [task]))
    assert cluster.core.status()[0].infeasible == 0
    cluster.join(4, CPU=64)
    assert cluster.sent(wire.Placed) == []
