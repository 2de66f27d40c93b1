"""Creations of actors that the node which was to host them gives back, not begun."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from raydask.errors import TaskCancelledError
from raydask.ids import (
    ActorID,
    FunctionID,
    PlacementGroupID,
    TaskID,
)
from raydask.local_scheduler import events
from raydask.local_scheduler.records import TaskState
from raydask.placement import Strategy, demanded
from raydask.task import ActorOptions, TaskKind, TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.messages import ActorState
from tests.unit.local_scheduler.node import ACTOR, DRIVER
from tests.unit.local_scheduler.pair import (
    HOME,
    HOST,
    RESTARTABLE,
    WORKER,
    Pair,
)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def queued(pair: Pair, template: TaskTemplate = RESTARTABLE) -> ActorID:
    """Make an actor whose creation waits on the host for a worker."""
    for worker in (WORKER, WORKER + 1):
        pair.host.leave(worker)
    actor_id = pair.create(template)
    assert pair.host.core.tasks[TaskID(actor_id)].state == TaskState.READY
    return actor_id


def drain(pair: Pair) -> None:
    """Have the host leave, and give back what it has not begun."""
    pair.host.tell(events.DrainRequested(60.0, False))
    pair.host.tick(0.1)
    pair.pass_on()


def test_a_creation_that_its_host_gives_back_gets_another_place(pair: Pair) -> None:
    actor_id = queued(pair)
    drain(pair)
    assert TaskID(actor_id) not in pair.host.core.tasks
    assert len(pair.home.sent_up(wire.CreateActor)) == 2

    pair.home.workers(31)
    pair.place(actor_id, HOME)
    assert pair.home.given(31) == [TaskID(actor_id)]
    pair.home.end(31, TaskID(actor_id))
    actor = pair.home.core.actors.records[actor_id]
    assert (actor.state, actor.restarts_left, actor.incarnation) == (ActorState.ALIVE, 1, 0)
    assert actor.creation.attempts == 1


def test_a_creation_that_comes_to_a_host_that_leaves_gets_another_place(pair: Pair) -> None:
    actor_id = ActorID(pair.home.submit(ACTOR))
    pair.host.tell(events.DrainRequested(60.0, False))
    pair.place(actor_id)
    assert TaskID(actor_id) not in pair.host.core.tasks
    assert len(pair.home.sent_up(wire.CreateActor)) == 2


def test_a_creation_that_has_lost_its_bundle_gets_another_place(pair: Pair) -> None:
    group = PlacementGroupID(b"g" * 16)
    in_group = TaskTemplate(
        FunctionID(b"a"),
        "A",
        TaskKind.ACTOR_CREATION,
        resources=demanded({"CPU": 10_000}, group, 0),
        max_retries=0,
        actor=ActorOptions(),
        strategy=Strategy("GROUP", group=group),
    )
    pair.host.tell(events.BundlesWanted(group, 1, [(0, {"CPU": 10_000})]))
    actor_id = queued(pair, in_group)
    pair.host.tell(events.BundlesUnwanted(group, [0], "the group was moved"))
    pair.pass_on()
    assert TaskID(actor_id) not in pair.host.core.tasks
    assert len(pair.home.sent_up(wire.CreateActor)) == 2


def test_no_actor_is_created_on_a_node_that_leaves(pair: Pair) -> None:
    actor_id = ActorID(pair.home.submit(ACTOR))
    pair.home.tell(events.OthersLeave([HOST]))
    pair.place(actor_id)
    assert TaskID(actor_id) not in pair.host.core.tasks
    assert len(pair.home.sent_up(wire.CreateActor)) == 2


def test_an_actor_that_only_a_leaving_node_could_run_is_not_waited_for_for_ever(
    pair: Pair,
) -> None:
    special = replace(ACTOR, resources={"disk": 1})
    actor_id = ActorID(pair.home.submit(special))
    pair.home.tell(events.OthersLeave([HOST]))
    pair.place(actor_id)
    pair.home.tick(29.0)
    assert pair.state(actor_id) == ActorState.PENDING
    pair.home.tick(2.0)
    assert pair.state(actor_id) == ActorState.DEAD


def test_an_actor_that_is_ended_while_its_creation_comes_back_lets_go_of_its_inputs(
    pair: Pair,
) -> None:
    kept = pair.home.put(data=b"x" * 10)
    for worker in (WORKER, WORKER + 1):
        pair.host.leave(worker)
    actor_id = pair.create(inputs=[kept])
    pair.home.release(kept)
    pair.held_up.add(wire.GiveBack)
    drain(pair)
    pair.home.tell(events.KillActorRequested(DRIVER, actor_id, True))
    pair.pass_on()
    assert kept in pair.home.core.objects.records

    pair.let_through()
    assert pair.state(actor_id) == ActorState.DEAD
    assert kept not in pair.home.core.objects.records
    assert len(pair.home.sent_up(wire.CreateActor)) == 1


def test_a_creation_that_was_cancelled_while_it_comes_back_is_not_placed_again(pair: Pair) -> None:
    actor_id = queued(pair)
    pair.held_up.add(wire.GiveBack)
    drain(pair)
    pair.home.tell(events.CancelRequested(DRIVER, [TaskID(actor_id)], False, True))
    pair.pass_on()
    pair.let_through()
    assert pair.state(actor_id) == ActorState.DEAD
    assert isinstance(pair.home.error_of(TaskID(actor_id)), TaskCancelledError)


def test_only_the_host_gives_a_creation_back(pair: Pair) -> None:
    pair.home.tell(events.NodesCame([3]))
    actor_id = pair.create()
    pair.home.tell(events.PeerSaid(3, wire.GiveBack([TaskID(actor_id)])))
    pair.end_creation(actor_id)
    pair.home.tell(events.PeerSaid(HOST, wire.GiveBack([TaskID(actor_id)])))
    assert pair.state(actor_id) == ActorState.ALIVE
    assert len(pair.home.sent_up(wire.CreateActor)) == 1
