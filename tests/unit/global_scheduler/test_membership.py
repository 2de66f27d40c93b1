"""The core: nodes that learn of one another, part, die, and lease."""

from __future__ import annotations

import pytest

from raydask.control.tables import NodeEntry, decode
from raydask.global_scheduler import events
from raydask.global_scheduler.actions import Disconnect, WakeAfter
from raydask.global_scheduler.leases import PAUSE_SECONDS
from raydask.global_scheduler.partings import GRACE_SECONDS
from raydask.global_scheduler.silences import LONGEST_LOOK
from raydask.global_scheduler.state import NODE_GRACE_SECONDS, VIEW_NODES, VIEW_SECONDS
from raydask.ids import NodeNumber
from raydask.wire import messages as wire
from tests.unit.global_scheduler.cluster import TICK_SECONDS, Cluster, kinds, units


@pytest.fixture
def cluster() -> Cluster:
    """A head's node, 1, and two others; all can connect to one another."""
    made = Cluster()
    made.join(1, head=True, link="a:1", CPU=4)
    made.join(2, link="b:1", CPU=4)
    made.join(3, link="c:1", CPU=4)
    made.actions.clear()
    return made


def registration(number: int, cluster: str = "") -> wire.RegisterNode:
    return wire.RegisterNode(number, 7, "here", "host", {}, {}, 10, [], "", "", cluster)


def dead(cluster: Cluster, told: int) -> list[int]:
    """The nodes that a node has been told are dead."""
    return [number for message in cluster.sent(wire.NodesDied, told) for number, _ in message.nodes]


# --- who is there -------------------------------------------------------------------------


def test_who_registers_learns_of_all_and_all_of_it(cluster: Cluster) -> None:
    cluster.join(4, link="d:1", CPU=4)

    (whole,) = cluster.sent(wire.NodesAppeared, 4)
    assert whole.nodes == [(1, "a:1", "a:11"), (2, "b:1", "b:11"), (3, "c:1", "c:11")]
    for other in (1, 2, 3):
        (news,) = cluster.sent(wire.NodesAppeared, other)
        assert news.nodes == [(4, "d:1", "d:11")]


def test_a_node_is_in_the_control_state_before_others_are_told(cluster: Cluster) -> None:
    cluster.join(4, link="d:1", CPU=4)

    said = kinds(cluster.actions)
    assert said.index("Persist") < len(said) - said[::-1].index("NodesAppeared") - 1
    assert said[said.index("Persist") :].count("NodesAppeared") == 3


def test_nodes_that_nobody_can_connect_to_are_told_and_not_told_of(cluster: Cluster) -> None:
    cluster.join(4, CPU=4)

    assert len(cluster.sent(wire.NodesAppeared, 4)) == 1
    assert cluster.sent(wire.NodesAppeared) == []


def test_a_node_that_comes_back_is_news_only_if_it_has_moved(cluster: Cluster) -> None:
    cluster.lose(2)
    cluster.join(2, link="b:1", CPU=4)
    assert len(cluster.sent(wire.NodesAppeared, 2)) == 1
    assert cluster.sent(wire.NodesAppeared) == []

    cluster.join(2, link="z:1", CPU=4)
    assert cluster.sent(wire.NodesAppeared, 3)[0].nodes == [(2, "z:1", "z:11")]


def test_after_a_restart_nodes_learn_of_one_another_as_they_come(cluster: Cluster) -> None:
    other = cluster.restarted()
    other.join(1, head=True, link="a:1", CPU=4)
    assert other.sent(wire.NodesAppeared) == []
    other.join(2, link="b:1", CPU=4)

    assert other.sent(wire.NodesAppeared, 1)[0].nodes == [(2, "b:1", "b:11")]
    assert other.sent(wire.NodesAppeared, 2)[0].nodes == [(1, "a:1", "a:11")]


def test_nodes_of_another_cluster_are_refused(cluster: Cluster) -> None:
    assert "another's" in cluster.core.refusal_of(registration(4, "another's"), head=False)
    assert cluster.core.refusal_of(registration(4, "mine"), head=False) == ""
    assert cluster.core.refusal_of(registration(4), head=False) == ""


# --- deaths -------------------------------------------------------------------------------


def test_all_are_told_of_a_death(cluster: Cluster) -> None:
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS - 0.1)
    assert cluster.sent(wire.NodesDied) == []
    cluster.after(0.1)

    assert (dead(cluster, 1), dead(cluster, 3)) == ([2], [2])


def test_a_death_is_in_the_control_state_before_it_is_told(cluster: Cluster) -> None:
    cluster.after(10.0)
    cluster.lose(2)
    cluster.actions.clear()
    cluster.after(NODE_GRACE_SECONDS)

    told = kinds(cluster.actions)
    assert told.index("Persist") < told.index("NodesDied")


def test_only_time_in_which_a_node_could_have_come_back_counts(cluster: Cluster) -> None:
    cluster.lose(2)
    cluster.pause(600.0)
    cluster.after(NODE_GRACE_SECONDS - LONGEST_LOOK - 0.1)
    assert cluster.node(2).state == "ALIVE"
    cluster.after(0.1)

    assert cluster.node(2).state == "DEAD"


def test_of_a_loss_that_is_read_late_the_time_begins_then(cluster: Cluster) -> None:
    cluster.now += 600.0
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS - 0.1)
    assert cluster.node(2).state == "ALIVE"
    cluster.after(0.1 + TICK_SECONDS)

    assert cluster.node(2).state == "DEAD"


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_keeps_nobody_alive_and_kills_nobody(
    cluster: Cluster, jump: float
) -> None:
    cluster.lose(2)
    cluster.pause(jump)
    cluster.after(NODE_GRACE_SECONDS - LONGEST_LOOK - 0.1)
    assert cluster.node(2).state == "ALIVE"
    cluster.after(LONGEST_LOOK + 0.1)

    assert cluster.node(2).state == "DEAD"


def test_after_a_restart_nodes_are_awaited_from_when_they_can_be_heard(cluster: Cluster) -> None:
    cluster.lose(2)
    other = Cluster(began=False)
    entries = [decode(text, NodeEntry) for text in other.nodes.take_over(cluster.nodes)]
    other.tell(events.EntriesReread(entries, [], []))
    other.pause(30.0)  # until it listens
    other.after(NODE_GRACE_SECONDS - 0.1)
    assert (other.node(2).state, other.node(3).state) == ("ALIVE", "ALIVE")
    other.after(0.1)

    assert (other.node(2).state, other.node(3).state) == ("DEAD", "DEAD")


def test_what_a_dead_node_still_had_to_say_is_not_taken_in(cluster: Cluster) -> None:
    actor_id = cluster.create(2, CPU=1)
    cluster.report(2, actor_id, wire.ActorState.ALIVE)
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS)
    assert cluster.actor(actor_id).state == "DEAD"
    cluster.report(2, actor_id, wire.ActorState.ALIVE)
    cluster.pass_up(2, CPU=16)
    cluster.beat(2, CPU=4)
    cluster.tell(events.NameClaimed(NodeNumber(2), 1, "late", "space", actor_id, b""))
    cluster.sent(wire.Infeasible)
    cluster.join(4, CPU=16)

    assert cluster.actor(actor_id).state == "DEAD"
    assert cluster.sent(wire.Placed) == []
    assert cluster.sent(wire.Infeasible) == []
    assert cluster.find("late") == b""


def test_the_dead_stay_dead_and_later_nodes_know_them(cluster: Cluster) -> None:
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS)
    assert "did not come back" in cluster.core.refusal_of(registration(2), head=False)
    cluster.sent(wire.NodesDied)
    cluster.join(4, link="d:1", CPU=4)
    assert dead(cluster, 4) == [2]

    other = cluster.restarted()
    assert "did not come back" in other.core.refusal_of(registration(2), head=False)
    other.join(3, link="c:1", CPU=4)
    assert dead(other, 3) == [2]


def test_the_heads_node_is_awaited_for_ever(cluster: Cluster) -> None:
    cluster.lose(1)
    cluster.after(1000.0)
    assert cluster.node(1).state == "ALIVE"

    other = cluster.restarted()
    other.after(1000.0)
    assert other.node(1).state == "ALIVE"
    assert other.node(3).state == "DEAD"


def test_there_is_one_head(cluster: Cluster) -> None:
    cluster.lose(1)
    cluster.join(4, head=True, CPU=4)
    cluster.after(NODE_GRACE_SECONDS)

    assert cluster.node(1).state == "DEAD"


# --- partings -----------------------------------------------------------------------------


def test_of_two_nodes_that_lost_one_another_one_is_dead(cluster: Cluster) -> None:
    cluster.complain(2, 3)
    cluster.after(GRACE_SECONDS - 0.1)
    assert cluster.sent(wire.NodesDied) == []
    cluster.after(0.1)

    assert [dead(cluster, told) for told in (1, 2, 3)] == [[3], [3], [3]]
    assert cluster.node(3).death_cause == "node 2 cannot reach it: connection reset"
    assert Disconnect(3) in cluster.actions  # type: ignore[arg-type]
    cluster.after(10.0)
    assert cluster.node(2).state == "ALIVE"


def test_the_head_does_not_go(cluster: Cluster) -> None:
    cluster.complain(2, 1)
    cluster.complain(3, 1)
    cluster.after(GRACE_SECONDS)

    assert cluster.node(1).state == "ALIVE"
    assert set(dead(cluster, 1)) == {2, 3}


def test_a_node_that_has_gone_is_dead_at_once_if_others_miss_it(cluster: Cluster) -> None:
    cluster.lose(2)
    cluster.complain(3, 2)
    cluster.after(GRACE_SECONDS)

    assert (cluster.node(2).state, cluster.node(3).state) == ("DEAD", "ALIVE")


def test_who_complains_of_the_dead_hears_that_they_are(cluster: Cluster) -> None:
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS)
    cluster.sent(wire.NodesDied)
    cluster.complain(3, 2)

    assert dead(cluster, 3) == [2]
    cluster.after(GRACE_SECONDS)
    assert cluster.node(3).state == "ALIVE"


def test_a_node_that_nobody_here_knows_is_dead_if_others_miss_it(cluster: Cluster) -> None:
    cluster.complain(3, 9)
    cluster.after(GRACE_SECONDS)

    assert dead(cluster, 3) == [9]
    assert cluster.core.refusal_of(registration(9), head=False)


# --- leases -------------------------------------------------------------------------------


def test_demands_are_answered_at_once(cluster: Cluster) -> None:
    cluster.demand(1, 6, CPU=1)

    (answer,) = cluster.sent(wire.Leases, 1)
    assert answer.leases == [wire.Lease(1, 2, 4), wire.Lease(1, 3, 2)]


def test_what_comes_soon_after_waits_for_the_next_division(cluster: Cluster) -> None:
    for busy in (2, 3):
        cluster.beat(busy, CPU=0)
    cluster.demand(1, 1, CPU=5)
    cluster.demand(2, 2, CPU=1)
    cluster.demand(3, 2, CPU=1)
    (wake,) = [action for action in cluster.actions if isinstance(action, WakeAfter)]
    assert wake.seconds == pytest.approx(PAUSE_SECONDS)
    assert cluster.sent(wire.Leases, 2) == []

    cluster.after(wake.seconds)
    assert cluster.sent(wire.Leases, 2) and cluster.sent(wire.Leases, 3)


def test_a_timer_that_is_early_is_set_again(cluster: Cluster) -> None:
    cluster.demand(1, 2, CPU=1)
    cluster.demand(2, 2, CPU=1)
    cluster.actions.clear()
    cluster.after(PAUSE_SECONDS - 0.001)

    assert kinds(cluster.actions) == ["WakeAfter"]


def test_load_reports_and_placements_change_what_can_be_leased(cluster: Cluster) -> None:
    message = wire.Heartbeat(2, units(CPU=1), 0, 0.0, 0, lent=units(CPU=2))
    cluster.beat(3, CPU=0)
    cluster.tell_load(message)
    cluster.demand(1, 6, CPU=1)

    assert cluster.sent(wire.Leases, 1)[0].leases == [wire.Lease(1, 2, 3)]
    cluster.create(2, CPU=1)
    cluster.after(1.0)
    assert cluster.sent(wire.Leases, 1)[0].leases == [wire.Lease(1, 2, 2)]


def test_leases_at_the_dead_end_and_those_of_the_dead_too(cluster: Cluster) -> None:
    cluster.demand(1, 6, CPU=1)
    cluster.sent(wire.Leases)
    cluster.complain(2, 3)
    cluster.after(GRACE_SECONDS)
    assert wire.Lease(1, 3, 0) in cluster.sent(wire.Leases, 1)[0].leases

    cluster.demand(3, 6, CPU=1)
    cluster.after(1.0)
    assert cluster.sent(wire.Leases) == []


# --- views --------------------------------------------------------------------------------


def test_views_of_many_nodes_are_rarer() -> None:
    cluster = Cluster()
    for number in range(1, 2 * VIEW_NODES + 1):
        cluster.join(number, CPU=4)
    cluster.pause(10.0)
    cluster.actions.clear()
    cluster.beat(1, CPU=3)
    cluster.after(VIEW_SECONDS)
    assert cluster.sent(wire.ClusterView) == []

    cluster.after(VIEW_SECONDS)
    assert len(cluster.sent(wire.ClusterView)) == 2 * VIEW_NODES


def test_what_a_node_says_of_a_task_that_was_placed_there_is_news(cluster: Cluster) -> None:
    cluster.after(1.0)
    cluster.sent(wire.ClusterView)
    cluster.pass_up(1, CPU=3)
    (placed,) = cluster.sent(wire.Placed, 1)
    ((_, node),) = placed.placements
    cluster.after(VIEW_SECONDS)
    cluster.sent(wire.ClusterView)
    cluster.beat(node, CPU=1)
    cluster.after(VIEW_SECONDS)

    assert cluster.sent(wire.ClusterView, 2)[-1].nodes[node][1] == units(CPU=1)
