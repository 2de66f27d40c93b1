"""The core: nodes that leave are given nothing, and are let go when they want to be."""

from __future__ import annotations

import pytest

from raydask.global_scheduler import events
from raydask.global_scheduler.actions import Disconnect
from raydask.global_scheduler.leases import PAUSE_SECONDS
from raydask.ids import NodeNumber
from raydask.wire import messages as wire
from tests.unit.global_scheduler.cluster import Cluster


@pytest.fixture
def cluster() -> Cluster:
    """A head's node, 1, and two others with more."""
    made = Cluster()
    made.join(1, head=True, link="a:1", CPU=1)
    made.join(2, link="b:1", CPU=4)
    made.join(3, link="c:1", CPU=4)
    made.actions.clear()
    return made


def leave(cluster: Cluster, node: int, *, done: bool = False) -> None:
    cluster.tell(events.NodeLeaves(NodeNumber(node), done))


def leases(cluster: Cluster, home: int) -> dict[int, int]:
    return {
        lease.node: lease.slots
        for message in cluster.sent(wire.Leases, home)
        for lease in message.leases
    }


def test_all_others_are_told_once(cluster: Cluster) -> None:
    leave(cluster, 2)
    leave(cluster, 2)
    assert [each.nodes for each in cluster.sent(wire.NodesLeave, 1)] == [[2]]
    assert [each.nodes for each in cluster.sent(wire.NodesLeave, 3)] == [[2]]
    assert cluster.sent(wire.NodesLeave, 2) == []


def test_who_comes_later_is_told_too(cluster: Cluster) -> None:
    leave(cluster, 2)
    cluster.join(4, link="d:1", CPU=4)
    assert [each.nodes for each in cluster.sent(wire.NodesLeave, 4)] == [[2]]


def test_its_leases_end_and_no_new_ones_begin(cluster: Cluster) -> None:
    cluster.demand(1, 8, CPU=1)
    cluster.after(PAUSE_SECONDS)
    assert leases(cluster, 1) == {2: 4, 3: 4}
    cluster.actions.clear()

    leave(cluster, 2)
    cluster.after(PAUSE_SECONDS)
    assert leases(cluster, 1) == {2: 0}
    cluster.actions.clear()
    cluster.demand(3, 8, CPU=1)
    cluster.after(1.0)
    assert 2 not in leases(cluster, 3)


def test_its_own_tasks_may_still_run_elsewhere(cluster: Cluster) -> None:
    leave(cluster, 2)
    cluster.demand(2, 4, CPU=1)
    cluster.after(PAUSE_SECONDS)
    assert leases(cluster, 2)


def test_nothing_is_placed_there_for_others(cluster: Cluster) -> None:
    cluster.lose(3)
    cluster.after(60)
    leave(cluster, 2)
    cluster.actions.clear()
    tasks = cluster.pass_up(1, CPU=4)
    assert cluster.sent(wire.Placed, 1) == []
    assert cluster.sent(wire.Infeasible, 1)[0].task_ids == tasks


def test_what_it_alone_could_run_of_its_own_it_runs(cluster: Cluster) -> None:
    cluster.lose(3)
    cluster.after(60)
    leave(cluster, 2)
    (task,) = cluster.pass_up(2, CPU=4)
    assert cluster.sent(wire.Placed, 2)[0].placements == [(task, 2)]
    actor = cluster.create(2, CPU=4)
    assert cluster.sent(wire.ActorPlaced, 2) == [wire.ActorPlaced(actor, 2)]


def test_who_is_done_is_let_go_and_has_left_for_all(cluster: Cluster) -> None:
    leave(cluster, 2)
    cluster.complain(1, 2)
    leave(cluster, 2, done=True)
    for told in (1, 2, 3):
        (news,) = cluster.sent(wire.NodesDied, told)
        assert news.nodes == [(2, wire.HAS_LEFT)]
    assert Disconnect(NodeNumber(2)) in cluster.actions
    assert cluster.node(2).death_cause == wire.HAS_LEFT
    cluster.actions.clear()
    cluster.after(5)
    assert cluster.sent(wire.NodesDied) == []


def test_another_global_scheduler_lets_it_go_that_knows_nothing_of_it_before(
    cluster: Cluster,
) -> None:
    leave(cluster, 2)
    other = cluster.restarted()
    other.join(2, link="b:1", CPU=4)
    leave(other, 2, done=True)
    assert other.node(2).death_cause == wire.HAS_LEFT


def test_the_heads_node_is_never_let_go(cluster: Cluster) -> None:
    leave(cluster, 1, done=True)
    assert cluster.sent(wire.NodesDied) == []
