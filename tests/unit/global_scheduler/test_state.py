"""The core: places, nodes that come and go, actors, views."""

from __future__ import annotations

import pytest

from raydask.global_scheduler.actions import Send
from raydask.global_scheduler.state import DEAD_ACTORS_KEPT, NODE_GRACE_SECONDS
from raydask.ids import ActorID, TaskID
from raydask.wire import messages as wire
from raydask.wire.messages import ActorState
from tests.unit.global_scheduler.cluster import Cluster, kinds, units


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.join(1, CPU=4)
    made.join(2, CPU=4, GPU=1)
    return made


# --- tasks --------------------------------------------------------------------------------


def test_tasks_are_placed_in_one_answer(cluster: Cluster) -> None:
    cluster.beat(1, CPU=0, queued=3, seconds=3.0)
    tasks = cluster.pass_up(1, count=3, CPU=1)

    (answer,) = cluster.sent(wire.Placed, 1)
    assert answer.placements == [(task, 2) for task in tasks]


def test_an_infeasible_task_is_reported_once_and_placed_when_a_node_can_run_it(
    cluster: Cluster,
) -> None:
    tasks = cluster.pass_up(1, count=2, CPU=16)

    (report,) = cluster.sent(wire.Infeasible, 1)
    assert report.task_ids == tasks
    assert "CPU 16" in report.detail
    assert "CPU 4" in report.detail
    cluster.beat(1, CPU=4)
    cluster.join(2, CPU=4, GPU=1)
    assert cluster.sent(wire.Infeasible) == []
    cluster.join(3, CPU=16)
    assert cluster.sent(wire.Placed, 1)[0].placements == [(task, 3) for task in tasks]
    cluster.join(3, CPU=16)
    assert cluster.sent(wire.Placed) == []


def test_what_only_an_awaited_node_can_run_waits_for_it(cluster: Cluster) -> None:
    cluster.lose(2)
    (back, gone) = (cluster.pass_up(1, GPU=1)[0], cluster.pass_up(1, GPU=0.5)[0])
    assert cluster.sent(wire.Infeasible) == []

    cluster.join(2, CPU=4, GPU=1)
    assert dict(cluster.sent(wire.Placed, 1)[0].placements) == {back: 2, gone: 2}


def test_what_waited_for_a_node_that_died_is_infeasible(cluster: Cluster) -> None:
    cluster.lose(2)
    tasks = cluster.pass_up(1, GPU=1)
    cluster.after(NODE_GRACE_SECONDS)

    assert cluster.sent(wire.Infeasible, 1)[0].task_ids == tasks


def test_what_a_dead_node_asked_for_is_forgotten(cluster: Cluster) -> None:
    cluster.pass_up(2, CPU=16)
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS)
    cluster.join(3, CPU=16)

    assert cluster.sent(wire.Placed) == []


# --- nodes and views ----------------------------------------------------------------------


def test_a_lost_node_gets_time_to_come_back(cluster: Cluster) -> None:
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS - 0.1)
    assert cluster.node(2).state == "ALIVE"

    cluster.after(0.1)
    assert cluster.node(2).state == "DEAD"
    assert cluster.node(2).died == cluster.now
    assert "did not come back" in cluster.node(2).death_cause


def test_a_node_that_comes_back_is_the_same_node(cluster: Cluster) -> None:
    started = cluster.node(2).started
    cluster.lose(2)
    cluster.after(1.0)
    cluster.join(2, CPU=4, GPU=1)
    cluster.after(60.0)

    assert (cluster.node(2).state, cluster.node(2).started) == ("ALIVE", started)


def test_nodes_are_shown_in_whole_units(cluster: Cluster) -> None:
    assert cluster.node(2).resources == {"CPU": 4.0, "GPU": 1.0}


def test_whoever_watches_sees_each_node_and_what_no_node_can_run(cluster: Cluster) -> None:
    cluster.join(1, CPU=4)
    cluster.join(2, CPU=1)
    cluster.beat(1, queued=3, CPU=0.5)
    cluster.pass_up(2, 2, GPU=1)
    cluster.lose(1)
    one, two = cluster.core.status()

    assert (one.node, one.alive, one.queued, one.infeasible) == (1, False, 3, 0)
    assert (one.resources, one.available) == ({"CPU": 4}, {"CPU": 0.5})
    assert (two.node, two.alive, two.infeasible, two.session) == (2, True, 2, "here")


def test_a_node_that_registers_sees_all_nodes_at_once(cluster: Cluster) -> None:
    cluster.sent(wire.ClusterView)
    cluster.join(3, CPU=1)

    assert set(cluster.sent(wire.ClusterView, 3)[0].nodes) == {1, 2, 3}


def test_views_are_coalesced_and_go_to_everybody(cluster: Cluster) -> None:
    cluster.after(1.0)
    cluster.sent(wire.ClusterView)
    cluster.after(0.5)
    for free in (3, 2, 1):
        cluster.beat(1, CPU=free, queued=2)
    assert len(cluster.sent(wire.ClusterView)) == 2

    cluster.after(0.3)
    assert cluster.sent(wire.ClusterView) == []
    cluster.after(0.2)
    (view,) = cluster.sent(wire.ClusterView, 2)
    assert view.nodes[1] == (units(CPU=4), units(CPU=1), 2.0)
    cluster.after(5.0)
    cluster.beat(1, CPU=1, queued=2)
    assert len(cluster.sent(wire.ClusterView, 1)) == 1
    assert cluster.sent(wire.ClusterView) == []


def test_a_clock_that_goes_back_does_not_stop_views(cluster: Cluster) -> None:
    cluster.sent(wire.ClusterView)
    cluster.now -= 3600.0
    cluster.beat(1, CPU=1)

    assert len(cluster.sent(wire.ClusterView)) == 2


def test_a_lost_node_is_not_in_the_view(cluster: Cluster) -> None:
    cluster.after(1.0)
    cluster.sent(wire.ClusterView)
    cluster.lose(2)
    cluster.after(1.0)

    assert set(cluster.sent(wire.ClusterView, 1)[0].nodes) == {1}


# --- actors -------------------------------------------------------------------------------


def test_an_actor_is_in_the_control_state_before_its_place_is_told(cluster: Cluster) -> None:
    actor_id = ActorID(cluster.new_id())
    cluster.actions.clear()
    cluster.create(1, actor_id, CPU=1)

    assert kinds(cluster.actions) == ["Persist", "ActorPlaced"]
    assert cluster.sent(wire.ActorPlaced, 1) == [wire.ActorPlaced(actor_id, 1)]
    entry = cluster.actor(actor_id)
    assert (entry.state, entry.node, entry.class_name) == ("PENDING", 1, "Counter")
    assert (entry.max_restarts, entry.job, entry.detached) == (2, 65537, False)


def test_an_actor_goes_where_it_can_run(cluster: Cluster) -> None:
    actor_id = cluster.create(1, GPU=1)

    assert cluster.sent(wire.ActorPlaced, 1)[0].node == 2
    cluster.report(2, actor_id, ActorState.ALIVE)
    assert (cluster.actor(actor_id).state, cluster.actor(actor_id).pid) == ("ALIVE", 99)
    assert cluster.actor(actor_id).started == cluster.now


def test_an_actors_entry_names_the_node_where_it_lives_and_not_its_home(cluster: Cluster) -> None:
    actor_id = cluster.create(1, GPU=1)
    assert cluster.actor(actor_id).node == 2
    cluster.report(1, actor_id, ActorState.ALIVE, host=2)
    assert cluster.actor(actor_id).node == 2

    cluster.sent(wire.ActorPlaced)
    cluster.create(1, actor_id, GPU=1)
    assert cluster.sent(wire.ActorPlaced, 1) == [wire.ActorPlaced(actor_id, 2)]


def test_an_infeasible_actor_is_reported_as_a_task_and_placed_later(cluster: Cluster) -> None:
    actor_id = cluster.create(1, CPU=16)
    assert cluster.sent(wire.Infeasible, 1)[0].task_ids == [TaskID(actor_id)]

    cluster.join(3, CPU=16)
    assert cluster.sent(wire.ActorPlaced, 1)[0].node == 3


def test_an_actor_that_dies_unplaced_is_not_placed_later(cluster: Cluster) -> None:
    actor_id = cluster.create(1, CPU=16)
    cluster.report(1, actor_id, ActorState.DEAD, "killed")
    cluster.join(3, CPU=16)

    assert cluster.sent(wire.ActorPlaced) == []
    assert cluster.actor(actor_id).death_cause == "killed"


def test_an_actor_that_restarts_gets_a_new_place(cluster: Cluster) -> None:
    actor_id = cluster.create(1, GPU=1)
    cluster.report(2, actor_id, ActorState.ALIVE)
    cluster.report(2, actor_id, ActorState.RESTARTING, "killed")
    assert cluster.actor(actor_id).state == "RESTARTING"

    cluster.sent(wire.ActorPlaced)
    cluster.create(1, actor_id, GPU=1)
    assert cluster.sent(wire.ActorPlaced, 1)[0].node == 2


def test_a_question_about_an_actor_that_lives_is_answered_with_its_place(cluster: Cluster) -> None:
    actor_id = cluster.create(1, GPU=1)
    cluster.report(2, actor_id, ActorState.ALIVE)
    cluster.sent(wire.ActorPlaced)
    cluster.create(1, actor_id, GPU=1)

    assert cluster.sent(wire.ActorPlaced, 1)[0].node == 2
    assert cluster.actor(actor_id).state == "ALIVE"


def test_death_is_final_when_the_node_reports_it(cluster: Cluster) -> None:
    actor_id = cluster.create(1, CPU=1)
    cluster.report(1, actor_id, ActorState.DEAD, "its __init__ raised")
    cluster.report(1, actor_id, ActorState.ALIVE)
    cluster.join(1, [actor_id], CPU=4)

    assert cluster.actor(actor_id).state == "DEAD"


def test_actors_die_with_their_node_and_live_again_with_it(cluster: Cluster) -> None:
    kept, lost = cluster.create(2, GPU=0.5), cluster.create(2, GPU=0.5)
    for actor_id in (kept, lost):
        cluster.claim(1, f"name {actor_id.hex()}", actor_id)
        cluster.report(2, actor_id, ActorState.ALIVE)
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS)
    assert "node 2 is dead" in cluster.actor(kept).death_cause
    assert cluster.find(f"name {kept.hex()}") == b""

    cluster.join(2, [kept], CPU=4, GPU=1)
    assert (cluster.actor(kept).state, cluster.actor(lost).state) == ("ALIVE", "DEAD")
    assert cluster.find(f"name {kept.hex()}") == kept
    assert cluster.find(f"name {lost.hex()}") == b""


def test_what_becomes_of_an_actor_on_a_dead_node_is_for_its_home_to_say(cluster: Cluster) -> None:
    actor_id = cluster.create(1, GPU=1)
    cluster.claim(1, "counter", actor_id)
    cluster.report(2, actor_id, ActorState.ALIVE)
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS)
    assert (cluster.node(2).state, cluster.find("counter")) == ("DEAD", actor_id)

    cluster.report(1, actor_id, ActorState.RESTARTING, "its node is dead")
    assert cluster.actor(actor_id).state == "RESTARTING"


def test_who_is_told_of_a_place_knows_the_node(cluster: Cluster) -> None:
    cluster.create(1, CPU=16)
    cluster.actions.clear()
    cluster.join(3, link="there:1", CPU=16)

    told = kinds([each for each in cluster.actions if isinstance(each, Send) and each.node == 1])
    assert told.index("NodesAppeared") < told.index("ActorPlaced")


def test_a_node_that_comes_back_without_an_actor_has_lost_it(cluster: Cluster) -> None:
    here, elsewhere = cluster.create(1, CPU=1), cluster.create(2, GPU=1)
    cluster.report(1, here, ActorState.ALIVE)
    cluster.report(2, elsewhere, ActorState.ALIVE)
    cluster.lose(1)
    cluster.join(1, [], CPU=4)
    assert (cluster.actor(here).state, cluster.actor(elsewhere).state) == ("DEAD", "ALIVE")

    cluster.report(1, here, ActorState.DEAD, "killed by its user")
    assert cluster.actor(here).death_cause == "killed by its user"


def test_the_latest_dead_actors_are_kept(cluster: Cluster) -> None:
    dead = [cluster.create(1, CPU=0) for _ in range(DEAD_ACTORS_KEPT + 3)]
    for actor_id in dead:
        cluster.report(1, actor_id, ActorState.DEAD)

    assert cluster.actors.forgotten == dead[:3]
    assert set(cluster.actors.sources) == set(dead[3:])


# --- a restarted global scheduler ---------------------------------------------------------


def test_a_restarted_one_waits_for_the_nodes_it_read_of(cluster: Cluster) -> None:
    other = cluster.restarted()
    other.join(1, CPU=4)
    task = other.pass_up(1, GPU=1)
    assert other.sent(wire.Infeasible) == []
    other.join(2, CPU=4, GPU=1)

    assert other.sent(wire.Placed, 1)[0].placements == [(task[0], 2)]


def test_a_restarted_one_knows_names_and_handles(cluster: Cluster) -> None:
    actor_id = ActorID(cluster.new_id(1))
    cluster.claim(1, "counter", actor_id, b"handle")
    cluster.create(1, actor_id, CPU=1)
    cluster.report(1, actor_id, ActorState.ALIVE)
    other = cluster.restarted()
    other.join(1, [actor_id], CPU=4)

    assert other.claim(1, "counter", ActorID(other.new_id())) == wire.ActorFound(
        5, actor_id, b"handle"
    )
    other.report(1, actor_id, ActorState.DEAD)
    assert other.names.forgotten == [("space", "counter")]


def test_a_restarted_one_buries_what_does_not_come_back(cluster: Cluster) -> None:
    actor_id = cluster.create(1, GPU=1)
    cluster.claim(1, "counter", actor_id)
    cluster.report(2, actor_id, ActorState.ALIVE)
    other = cluster.restarted()
    other.join(1, [], CPU=4)
    other.after(NODE_GRACE_SECONDS)

    assert other.node(2).state == "DEAD"
    assert other.actor(actor_id).state == "DEAD"
    assert other.find("counter") == b""


def test_a_restarted_one_frees_the_names_of_dead_actors(cluster: Cluster) -> None:
    actor_id = cluster.create(1, CPU=1)
    cluster.claim(1, "counter", actor_id)
    source = cluster.names.sources[("space", "counter")]
    cluster.report(1, actor_id, ActorState.DEAD)
    cluster.names.put(("space", "counter"), source)  # the crash came before the deletion

    other = cluster.restarted()
    assert other.names.forgotten == [("space", "counter")]


def test_questions_can_be_asked_again_after_a_restart(cluster: Cluster) -> None:
    actor_id = cluster.create(1, CPU=16)
    other = cluster.restarted()
    other.join(1, [actor_id], CPU=4)
    other.create(1, actor_id, CPU=16)
    assert other.sent(wire.Infeasible, 1)[0].task_ids == [TaskID(actor_id)]

    other.join(3, CPU=16)
    assert other.sent(wire.ActorPlaced, 1) == [wire.ActorPlaced(actor_id, 3)]
