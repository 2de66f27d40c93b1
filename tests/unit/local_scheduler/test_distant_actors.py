"""Actors that live on another node than their home: two cores that talk to each other."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from raydask.errors import ActorDiedError, ObjectLostError
from raydask.ids import (
    ActorID,
    IDSource,
    NodeNumber,
    ObjectID,
    ProcessNumber,
    TaskID,
    home_of,
    is_peer,
    node_of_peer,
    return_id,
)
from raydask.local_scheduler import events
from raydask.serialization import deserialize_error, serialize_error
from raydask.task import TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.messages import ActorState, ObjectValue, TaskResult, TaskStatus, ValueKind
from tests.unit.local_scheduler.node import ACTOR, DETACHED, DRIVER
from tests.unit.local_scheduler.pair import (
    CALLER,
    HOME,
    HOST,
    RESTARTABLE,
    WORKER,
    Pair,
    told,
)


@pytest.fixture
def pair() -> Pair:
    return Pair()


# --- creation ---------------------------------------------------------------------------------


def test_the_host_creates_it_and_its_home_says_where_it_is(pair: Pair) -> None:
    actor_id = pair.create()
    (worker,) = (each for each in (WORKER, WORKER + 1) if pair.host.given(each))
    pair.follow(HOME, DRIVER, actor_id)
    assert told(pair.home, DRIVER, wire.ActorLocated) == []

    pair.end_creation(actor_id)
    (located,) = told(pair.home, DRIVER, wire.ActorLocated)
    assert (located.state, located.host, located.process) == (ActorState.ALIVE, HOST, worker)
    changed = pair.home.sent_up(wire.ActorChanged)[-1]
    assert (changed.state, changed.node, changed.pid) == (ActorState.ALIVE, HOST, worker)
    assert pair.host.core.pool.workers[ProcessNumber(worker)].actor_id == actor_id
    assert TaskID(actor_id) not in pair.host.core.tasks


def test_a_place_on_a_node_that_is_not_there_is_asked_for_again(pair: Pair) -> None:
    actor_id = ActorID(pair.home.submit(ACTOR))
    pair.place(actor_id, 9)
    assert [each.actor_id for each in pair.home.sent_up(wire.CreateActor)] == [actor_id] * 2

    pair.place(actor_id)
    pair.place(actor_id)  # a second answer changes nothing
    pair.end_creation(actor_id)
    assert pair.state(actor_id) == ActorState.ALIVE


def test_inputs_go_with_it(pair: Pair) -> None:
    actor_id = pair.create(inputs=[pair.home.put(data=b"input")])
    pair.end_creation(actor_id)
    (execute,) = (
        message
        for each in (WORKER, WORKER + 1)
        for message in told(pair.host, ProcessNumber(each), wire.Execute)
    )
    assert [value.data for value in execute.assignments[0].values] == [b"input"]


def test_what_init_raised_is_the_creations_error(pair: Pair) -> None:
    actor_id = pair.create()
    worker = pair.host.where(TaskID(actor_id))
    error = serialize_error(ValueError("bad"))
    value = ObjectValue(return_id(TaskID(actor_id), 0), int(ValueKind.ERROR), error)
    result = TaskResult(
        TaskID(actor_id), int(TaskStatus.FAILED), [value], 0.0, 0.0, error="ValueError: bad"
    )
    pair.host.tell(events.TasksEnded(ProcessNumber(worker), [result]))
    pair.pass_on()

    assert pair.state(actor_id) == ActorState.DEAD
    assert "ValueError: bad" in pair.home.core.actors.records[actor_id].cause
    assert isinstance(pair.home.error_of(TaskID(actor_id)), ValueError)
    assert pair.host.killed == [worker]
    pair.host.leave(worker)
    pair.pass_on()


def test_inputs_stay_until_the_host_has_ended_a_creation(pair: Pair) -> None:
    kept = pair.home.put(data=b"x" * 10)
    actor_id = pair.create(inputs=[kept])
    worker = pair.host.where(TaskID(actor_id))
    pair.home.release(kept)
    pair.home.tell(events.KillActorRequested(DRIVER, actor_id, True))
    pair.pass_on()
    assert pair.host.killed == [worker]
    assert kept in pair.home.core.objects.records

    pair.host.leave(worker)
    pair.pass_on()
    assert kept not in pair.home.core.objects.records
    assert isinstance(pair.home.error_of(TaskID(actor_id)), ActorDiedError)


def test_a_creation_that_has_no_worker_yet_is_dropped(pair: Pair) -> None:
    first, second, third = (pair.create() for _ in range(3))
    assert pair.host.core.tasks[TaskID(third)].worker is None
    pair.home.tell(events.KillActorRequested(DRIVER, third, True))
    pair.pass_on()

    assert TaskID(third) not in pair.host.core.tasks
    assert pair.state(third) == ActorState.DEAD
    assert {pair.host.where(TaskID(each)) for each in (first, second)} == {WORKER, WORKER + 1}


# --- deaths -----------------------------------------------------------------------------------


def test_its_home_decides_when_its_process_has_died(pair: Pair) -> None:
    actor_id = pair.created(RESTARTABLE)
    pair.follow(HOME, DRIVER, actor_id)
    hosted = pair.host.core.between
    assert hosted is not None
    pair.host.leave(hosted.hosting.hosted[actor_id].worker.process)
    pair.pass_on()
    assert pair.state(actor_id) == ActorState.RESTARTING
    assert len(pair.home.sent_up(wire.CreateActor)) == 2

    pair.place(actor_id)
    pair.end_creation(actor_id)
    located = told(pair.home, DRIVER, wire.ActorLocated)
    assert [(each.state, each.incarnation) for each in located] == [
        (ActorState.ALIVE, 0),
        (ActorState.RESTARTING, 1),
        (ActorState.ALIVE, 1),
    ]
    pair.host.leave(hosted.hosting.hosted[actor_id].worker.process)
    pair.pass_on()
    assert pair.state(actor_id) == ActorState.DEAD


def test_a_worker_that_dies_in_the_creation_counts_as_a_death(pair: Pair) -> None:
    actor_id = pair.create(RESTARTABLE)
    pair.host.leave(pair.host.where(TaskID(actor_id)))
    pair.pass_on()
    assert pair.state(actor_id) == ActorState.RESTARTING
    pair.place(actor_id, HOME)
    pair.home.workers(31)
    assert pair.home.given(31) == [TaskID(actor_id)]


@pytest.mark.parametrize("is_created", [True, False])
def test_the_death_of_its_host_is_the_death_of_its_process(pair: Pair, is_created: bool) -> None:
    actor_id = (pair.created if is_created else pair.create)(RESTARTABLE)
    pair.home.tell(events.NodesLost([(HOST, "it burned")]))
    actor = pair.home.core.actors.records[actor_id]
    assert (actor.state, actor.host) == (ActorState.RESTARTING, 0)
    assert "it burned" in actor.cause


def test_an_actor_that_only_its_dead_host_could_run_is_not_waited_for_for_ever(pair: Pair) -> None:
    special = replace(RESTARTABLE, resources={"disk": 1})
    actor_id = ActorID(pair.home.submit(special))
    record = pair.home.core.actors.records[actor_id]
    pair.home.tell(events.ActorWasPlaced(actor_id, HOST))
    created = wire.ActorCreated(actor_id, WORKER, WORKER)
    pair.home.tell(events.PeerSaid(HOST, created))
    assert record.state == ActorState.ALIVE
    pair.home.tell(events.NodesLost([(HOST, "it burned")]))
    pair.home.tick(29.0)
    assert record.state == ActorState.RESTARTING
    pair.home.tick(2.0)
    assert record.state == ActorState.DEAD


def test_the_death_of_its_home_ends_it(pair: Pair) -> None:
    pair.created(DETACHED)
    pair.host.tell(events.NodesLost([(HOME, "it burned")]))
    assert len(pair.host.killed) == 1


# --- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [HOME, HOST])
def test_kill_ends_its_process_on_the_host(pair: Pair, by: int) -> None:
    actor_id = pair.created(RESTARTABLE)
    pair.nodes[by].tell(events.KillActorRequested(CALLER, actor_id, False))
    pair.pass_on()
    (worker,) = pair.host.killed
    pair.host.leave(worker)
    pair.pass_on()
    assert pair.state(actor_id) == ActorState.RESTARTING

    pair.nodes[by].tell(events.KillActorRequested(CALLER, actor_id, True))
    pair.pass_on()
    assert pair.state(actor_id) == ActorState.DEAD


def test_it_ends_with_its_last_handle(pair: Pair) -> None:
    actor_id = pair.created()
    pair.home.release(return_id(TaskID(actor_id), 0))
    pair.pass_on()
    assert len(pair.host.killed) == 1
    pair.host.leave(pair.host.killed[0])
    pair.pass_on()
    assert actor_id not in pair.home.core.actors.records


def test_a_handle_on_another_node_keeps_it(pair: Pair) -> None:
    actor_id = pair.created()
    handle = return_id(TaskID(actor_id), 0)
    pair.host.tell(events.DriverJoined(CALLER, 999, "", [], "/"))
    pair.host.tell(events.ObjectsAcquired(CALLER, [handle]))
    pair.pass_on()
    pair.home.release(handle)
    assert pair.state(actor_id) == ActorState.ALIVE

    pair.host.release(handle, process=CALLER)
    pair.pass_on()
    assert len(pair.host.killed) == 1


@pytest.mark.parametrize(("template", "ends"), [(ACTOR, 1), (DETACHED, 0)])
def test_it_ends_with_its_job_unless_it_is_detached(
    pair: Pair, template: TaskTemplate, ends: int
) -> None:
    actor_id = pair.created(template)
    pair.home.tell(events.DriverLeft(DRIVER))
    pair.pass_on()
    pair.host.tick(1.0)
    assert len(pair.host.killed) == ends
    if not ends:
        pair.home.tell(events.KillActorRequested(ProcessNumber(0), actor_id, True))
        pair.pass_on()
        pair.host.leave(pair.host.killed[0])
        pair.pass_on()
        for node in pair.nodes.values():
            node.tick(1.0)
            pair.pass_on()
    assert 101 not in pair.home.core.pool.job_settings
    assert 101 not in pair.host.core.pool.job_settings


# --- following --------------------------------------------------------------------------------


def test_who_follows_it_on_its_host_is_told_the_workers_socket(pair: Pair) -> None:
    actor_id = pair.created()
    pair.follow(HOST, CALLER, actor_id)
    (located,) = told(pair.host, CALLER, wire.ActorLocated)
    assert located.address == f"w{located.process}.sock"
    assert located.host == HOST


def test_a_node_follows_an_actor_once_for_all_its_processes(pair: Pair) -> None:
    actor_id = ActorID(pair.home.submit(RESTARTABLE))
    others = [ProcessNumber(number) for number in (70, 71)]
    for process in others:
        pair.follow(HOST, process, actor_id)
    pair.place(actor_id, HOME)
    pair.home.workers(31)
    pair.home.end(31, TaskID(actor_id))
    pair.pass_on()
    pair.follow(HOST, ProcessNumber(72), actor_id)
    for process in (*others, ProcessNumber(72)):
        (located,) = told(pair.host, process, wire.ActorLocated)
        assert (located.address, located.host, located.process) == ("", HOME, 31)
    peers = pair.home.core.actors.records[actor_id].followers
    assert [node_of_peer(each) for each in peers if is_peer(each)] == [HOST]

    pair.host.tell(events.NodesLost([(HOME, "it burned")]))
    assert "it burned" in told(pair.host, others[0], wire.ActorLocated)[-1].cause
    pair.follow(HOST, others[0], actor_id)
    assert told(pair.host, others[0], wire.ActorLocated)[-1].state == ActorState.DEAD


# --- results of calls, and what an actor keeps ------------------------------------------------


def results_of_a_call(pair: Pair, value: ObjectValue) -> None:
    """Let a worker of the host have made a value for the driver at home."""
    made = events.ResultsReturned(ProcessNumber(WORKER), HOME, DRIVER, [value])
    pair.host.tell(made)
    pair.pass_on()


def stored_by_worker(pair: Pair, object_id: ObjectID, size: int = 1000) -> ObjectValue:
    offset = pair.host.core.store.grant(ProcessNumber(WORKER), size)
    assert offset is not None
    return ObjectValue(object_id, int(ValueKind.STORED), b"", offset, size)


def test_a_large_result_stays_with_the_host_and_the_caller_is_told(pair: Pair) -> None:
    result = return_id(IDSource(NodeNumber(HOME), DRIVER).next_task_id(), 3)
    results_of_a_call(pair, stored_by_worker(pair, result))
    assert told(pair.home, DRIVER, wire.Ready) == [wire.Ready([result])]
    remote = pair.home.core.objects.records[result].remote
    assert remote is not None and remote.exists and HOST in remote.nodes
    assert result in pair.host.core.store

    pair.home.release(result)
    pair.pass_on()
    assert result not in pair.home.core.objects.records
    assert result not in pair.host.core.store


def test_a_call_that_has_answered_twice_keeps_one_result(pair: Pair) -> None:
    result = return_id(IDSource(NodeNumber(HOME), DRIVER).next_task_id(), 3)
    for _ in range(2):
        results_of_a_call(pair, stored_by_worker(pair, result))
    assert result in pair.host.core.store
    pair.home.release(result)
    pair.pass_on()
    assert result not in pair.host.core.store


def test_a_result_for_a_caller_that_has_gone_is_freed(pair: Pair) -> None:
    result = return_id(IDSource(NodeNumber(HOME), ProcessNumber(8)).next_task_id(), 3)
    value = stored_by_worker(pair, result)
    pair.host.tell(events.ResultsReturned(ProcessNumber(WORKER), HOME, ProcessNumber(8), [value]))
    pair.pass_on()
    assert result not in pair.home.core.objects.records
    assert result not in pair.host.core.store


def test_refs_in_a_result_live_until_its_home_holds_them(pair: Pair) -> None:
    inner = IDSource(NodeNumber(HOST), ProcessNumber(WORKER)).next_put_id()
    worker = ProcessNumber(WORKER)
    pair.host.tell(events.ObjectsPut(worker, worker, [ObjectValue(inner, 0, b"inner")]))
    result = return_id(IDSource(NodeNumber(HOME), DRIVER).next_task_id(), 3)
    results_of_a_call(pair, ObjectValue(result, 0, b"ref", nested=[inner]))
    pair.host.release(inner, process=worker)
    pair.pass_on()
    assert [value.data for value in told(pair.home, DRIVER, wire.Values)[-1].values] == [b"ref"]
    assert inner in pair.host.core.objects.records

    pair.home.release(result)
    pair.pass_on()
    assert inner not in pair.host.core.objects.records


def test_the_word_that_all_is_known_waits_for_the_homes(pair: Pair) -> None:
    worker = ProcessNumber(WORKER)
    kept = pair.home.put()
    pair.held_up.add(wire.Borrowed)
    pair.host.tell(events.ObjectsAcquired(worker, [kept]))
    pair.host.tell(events.WordAsked(worker, 5))
    pair.pass_on()
    assert told(pair.host, worker, wire.Reply) == []

    pair.let_through()
    assert told(pair.host, worker, wire.Reply) == [wire.Reply(5, b"", b"\xc3")]
    pair.host.tell(events.WordAsked(worker, 6))
    assert told(pair.host, worker, wire.Reply)[-1].number == 6


def test_a_large_result_is_lost_with_its_host(pair: Pair) -> None:
    result = return_id(IDSource(NodeNumber(HOME), DRIVER).next_task_id(), 3)
    results_of_a_call(pair, stored_by_worker(pair, result))
    assert home_of(result) == HOME
    pair.home.tell(events.NodesLost([(HOST, "it burned")]))
    pair.home.tell(events.ValuesRequested(DRIVER, [result], False, []))
    (value,) = told(pair.home, DRIVER, wire.Values)[-1].values
    assert isinstance(deserialize_error(value.data), ObjectLostError)
