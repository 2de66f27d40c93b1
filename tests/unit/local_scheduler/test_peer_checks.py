"""What other nodes say that cannot be: their link is closed, and nothing is taken in."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raydask.ids import (
    ActorID,
    FunctionID,
    IDSource,
    NodeNumber,
    ObjectID,
    ProcessNumber,
    TaskID,
    peer_process,
    return_id,
)
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import EndProcess, ForgetPull, StartPull
from raydask.task import TaskKind, TaskSpec, TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.messages import ObjectValue, TaskResult, ValueKind, Whereabouts
from tests.unit.local_scheduler.node import DRIVER, IDS, Node

OTHER = IDSource(NodeNumber(2), ProcessNumber(7))
THEIRS = OTHER.next_put_id()
TASK = OTHER.next_task_id()
SETTINGS = wire.JobSettings(2 << 16, "", [], "/")
STORED, INLINE = int(ValueKind.STORED), int(ValueKind.INLINE)


def template(**options: Any) -> wire.LentTemplate:
    options = {"resources": {"CPU": 10_000}, **options}
    return wire.LentTemplate(1, TaskTemplate(FunctionID(b"f" * 16), "f", **options), b"code", [])


def lend(
    *specs: TaskSpec,
    templates: list[wire.LentTemplate] | None = None,
    values: list[ObjectValue] | None = None,
    located: list[Whereabouts] | None = None,
    settings: wire.JobSettings = SETTINGS,
    attempts: dict[TaskID, int] | None = None,
) -> wire.Lend:
    known = [template()] if templates is None else templates
    tasks = list(specs)
    return wire.Lend(settings, known, tasks, values or [], located or [], [], attempts or {})


def spec(task_id: TaskID = TASK, number: int = 1, **more: Any) -> TaskSpec:
    return TaskSpec(task_id, number, b"", more.pop("inputs", []), more.pop("borrowed", []), **more)


def result(task_id: TaskID, *values: ObjectValue, **more: Any) -> wire.LentResults:
    more = {"status": 0, "started": 1.0, "duration": 0.1, **more}
    return wire.LentResults(
        [TaskResult(task_id, more["status"], list(values), more["started"], more["duration"])]
    )


@pytest.fixture
def node() -> Node:
    """A node that another one knows, and a third."""
    node = Node()
    node.tell(events.NodesCame([2, 3]))
    return node


def lent_task(node: Node) -> TaskID:
    """Have node 2 run a task of this node."""
    task_id = node.submit()
    (shape,) = node.core.between.lending._shapes.values()  # type: ignore[union-attr]
    node.tell(events.LeasesChanged([wire.Lease(shape.number, 2, 1)]))
    assert task_id in node.core.between.lending.lent[2]  # type: ignore[union-attr]
    return task_id


def cut_off(node: Node) -> list[ProcessNumber]:
    return [action.process for action in node.actions if isinstance(action, EndProcess)]


WRONG = {
    "a job that cannot be": lend(settings=wire.JobSettings(0, "", [], "/")),
    "a task with a short identifier": lend(spec(TaskID(b"short"))),
    "a task of another node": lend(spec(IDS.next_task_id())),
    "a task twice": lend(spec(), spec()),
    "a template that was not sent": lend(spec(number=5)),
    "a depth below zero": lend(spec(depth=-1)),
    "attempts below zero": lend(spec(), attempts={TASK: -1}),
    "attempts of a task that is not there": lend(attempts={TASK: 1}),
    "an input with a short identifier": lend(spec(inputs=[ObjectID(b"x")])),
    "a borrowed object with a long one": lend(spec(borrowed=[ObjectID(bytes(30))])),
    "resources below zero": lend(templates=[template(resources={"CPU": -10_000})]),
    "returns below zero": lend(templates=[template(num_returns=-1)]),
    "very many returns": lend(templates=[template(num_returns=1 << 40)]),
    "a method to lend": lend(templates=[template(kind=TaskKind.ACTOR_METHOD)]),
    "an endless timeout": lend(templates=[template(timeout=math.inf)]),
    "a stored value in a message": lend(values=[ObjectValue(THEIRS, STORED, b"", 0, 100)]),
    "a value of no kind": lend(values=[ObjectValue(THEIRS, 77, b"")]),
    "a size below zero": lend(located=[Whereabouts(THEIRS, -1, [2])]),
    "a size beyond all arenas": lend(located=[Whereabouts(THEIRS, 1 << 60, [2])]),
    "a step that tasks have not": wire.Progress([(TASK, 9)]),
    "identifiers of no tasks": wire.GiveBack([TaskID(b"")]),
    "a recall of no tasks": wire.RecallTasks([TaskID(bytes(17))]),
    "a cancelling of no tasks": wire.CancelLent([TaskID(b"1")], False, True),
    "a borrow of its own object": wire.Borrow(1, [THEIRS]),
    "a want of its own object": wire.Want([THEIRS]),
    "a release of no object": wire.Release([ObjectID(b"")]),
    "a copy of an object of its own": wire.CopiesMade([THEIRS]),
    "an object of this node to forget": wire.Forget([IDS.next_put_id()]),
    "a value of an object of this node": wire.Values([ObjectValue(IDS.next_put_id(), INLINE)]),
    "a place of an object of this node": wire.Located([Whereabouts(IDS.next_put_id(), 1, [2])]),
    "an offset below zero": wire.Places([wire.Place(THEIRS, 1, -8, 100)]),
    "a file below zero": wire.Places([wire.Place(THEIRS, 1, 0, 100, -1)]),
    "a fetch of no object": wire.Fetch(ObjectID(bytes(19)), 1),
    "a status that tasks have not": result(TASK, status=9),
    "a time that is no number": result(TASK, started=math.nan),
    "a duration below zero": result(TASK, duration=-1.0),
    "a return of another task": result(TASK, ObjectValue(THEIRS, INLINE)),
    "an actor of its own that it created": wire.ActorCreated(ActorID(TASK), 1, 1),
    "an actor in no process": wire.ActorCreated(ActorID(IDS.next_task_id()), 0, 1),
    "an actor without a process identifier": wire.ActorCreated(ActorID(IDS.next_task_id()), 1, -1),
    "a death of an actor of its own": wire.ActorProcessDied(ActorID(TASK), ""),
    "a wish to follow an actor of its own": wire.FollowActor(ActorID(TASK)),
    "a wish to kill no actor": wire.KillActor(ActorID(b""), True),
    "an end of an actor of this node": wire.EndActorProcess(ActorID(IDS.next_task_id()), ""),
    "a place of an actor of this node": wire.ActorLocated(
        ActorID(IDS.next_task_id()), 1, "", 0, "", 2, 1
    ),
    "a state that actors have not": wire.ActorLocated(ActorID(TASK), 8, "", 0, "", 2, 1),
    "an incarnation below zero": wire.ActorLocated(ActorID(TASK), 1, "", -1, "", 2, 1),
    "a host below zero": wire.ActorLocated(ActorID(TASK), 1, "", 0, "", -2, 1),
    "what an actor made for another node": wire.ReturnValues(1, [ObjectValue(THEIRS, INLINE)]),
    "what an actor made for nobody": wire.ReturnValues(
        -1, [ObjectValue(IDS.next_put_id(), INLINE)]
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_closes_the_link_and_changes_nothing(node: Node, what: str) -> None:
    held = node.put()
    before = (set(node.core.tasks), set(node.core.objects.records), node.core.store.used)
    node.tell(events.PeerSaid(2, WRONG[what]))
    assert cut_off(node) == [peer_process(2)]
    assert (set(node.core.tasks), set(node.core.objects.records), node.core.store.used) == before
    node.release(held)
    assert not node.core.objects.records


def test_what_is_late_or_unknown_is_no_crime(node: Node) -> None:
    ours = IDS.next_put_id()
    for message in (
        result(IDS.next_task_id()),
        wire.Progress([(TASK, 1)]),
        wire.GiveBack([IDS.next_task_id()]),
        wire.RecallTasks([TASK]),
        wire.CancelLent([TASK], True, True),
        wire.EndGuestJob(77),
        wire.Borrow(1, [ours]),
        wire.Borrowed(99),
        wire.Release([ours]),
        wire.Want([ours]),
        wire.Fetch(ours, 1),
        wire.Places([wire.Place(THEIRS, 1, 0, 100)]),
        wire.NotHere(THEIRS, 1),
        wire.Unpin([ours, THEIRS]),
        wire.CopiesMade([ours]),
        wire.CopiesDropped([ours]),
        wire.Forget([THEIRS]),
        wire.Values([ObjectValue(THEIRS, INLINE)]),
        wire.Located([Whereabouts(THEIRS, 5, [2, 3, 99])]),
    ):
        node.tell(events.PeerSaid(2, message))
    assert cut_off(node) == []
    assert not node.core.objects.records and not node.core.tasks


def test_a_result_must_have_all_returns_of_its_task(node: Node) -> None:
    task_id = lent_task(node)
    node.tell(events.PeerSaid(2, result(task_id)))
    assert cut_off(node) == [peer_process(2)]
    node.tell(events.PeerSaid(2, result(task_id, ObjectValue(return_id(task_id, 0), INLINE))))
    assert task_id not in node.core.between.lending.lent[2]  # type: ignore[union-attr]


def test_a_task_that_is_here_is_not_lent_again(node: Node) -> None:
    node.tell(events.PeerSaid(2, lend(spec())))
    node.tell(events.PeerSaid(2, lend(spec(), templates=[])))
    assert cut_off(node) == [peer_process(2)]


def test_only_its_own_guests_and_jobs_are_for_a_node_to_end(node: Node) -> None:
    node.tell(events.PeerSaid(2, lend(spec())))
    ours = node.submit()
    node.tell(events.PeerSaid(3, wire.CancelLent([TASK, ours], True, True)))
    node.tell(events.PeerSaid(3, wire.EndGuestJob(SETTINGS.job)))
    assert {TASK, ours} <= set(node.core.tasks)
    node.tell(events.PeerSaid(2, wire.EndGuestJob(SETTINGS.job)))
    assert TASK not in node.core.tasks


# --- fetches --------------------------------------------------------------------------------


def fetch(node: Node, size: int = 100) -> StartPull:
    """Have an object of node 2's fetched there; return what is to be read."""
    node.tell(events.ObjectsAcquired(DRIVER, [THEIRS]))
    node.tell(events.ValuesRequested(DRIVER, [THEIRS], False, []))
    node.tell(events.PeerSaid(2, wire.Located([Whereabouts(THEIRS, size, [2])])))
    node.tell(events.RoomAnswered(1, answer_of(node), b""))
    node.tell(events.PeerSaid(2, wire.Places([wire.Place(THEIRS, 2, 4096, size)])))
    (pull,) = [action for action in node.actions if isinstance(action, StartPull)]
    return pull


def answer_of(node: Node) -> int:
    (answer,) = [action for action in node.actions if type(action).__name__ == "AnswerRegion"]
    return int(answer.offset)


def test_the_size_of_an_object_does_not_change_while_it_is_fetched(node: Node) -> None:
    pull = fetch(node)
    node.tell(events.PeerSaid(2, wire.Located([Whereabouts(THEIRS, 200, [2])])))
    assert cut_off(node) == [peer_process(2)]
    node.tell(events.PullEnded(pull.number, ""))
    assert node.core.objects.records[THEIRS].size == 100


def test_a_place_is_not_used_again_before_its_readers_are_done(node: Node) -> None:
    pull = fetch(node)
    node.tell(events.PeerSaid(3, wire.Fetch(THEIRS, 1)))
    assert len(node.sent(wire.Places)) == 1
    node.tell(events.NodesLost([(2, "it is gone")]))
    node.tell(events.PullEnded(pull.number, "its source is gone"))
    assert node.core.store.used
    assert not [action for action in node.actions if isinstance(action, ForgetPull)]
    node.tell(events.PeerSaid(3, wire.Unpin([THEIRS])))
    assert not node.core.store.used
    assert node.actions[-1] == ForgetPull(pull.target)


def test_an_object_that_cannot_be_fetched_is_given_up_after_a_while(node: Node) -> None:
    pull = fetch(node)
    while THEIRS in node.core.objects.records and node.core.objects.records[THEIRS].value is None:
        node.tell(events.PullEnded(pull.number, "the port is closed"))
        node.tell(events.PeerSaid(2, wire.Places([wire.Place(THEIRS, 2, 4096, 100)])))
        asks = [each for each in node.sent(wire.Want) if each.again]
        if len(asks) > len(node.sent(wire.Fetch)) // 5 - 1:
            node.tell(events.PeerSaid(2, wire.Located([Whereabouts(THEIRS, 100, [2])])))
            node.tick(0.1)
        assert node.now < 60
    value = node.core.objects.records[THEIRS].value
    assert value is not None and b"the port is closed" in value.data


def test_the_children_of_a_lent_task_are_spared_if_they_are_to_be(node: Node) -> None:
    task_id = lent_task(node)
    node.tell(events.CancelRequested(DRIVER, [task_id], False, False))
    node.tell(events.CancelRequested(DRIVER, [task_id], False, True))
    assert [each.recursive for each in node.sent(wire.CancelLent)] == [False, True]


def test_a_template_is_known_until_its_lender_says_that_its_job_has_ended(node: Node) -> None:
    job = wire.JobSettings(3 << 16, "", [], "/")  # of node 3
    node.tell(events.PeerSaid(2, lend(spec(), settings=job)))
    node.tell(events.NodesLost([(3, "it is gone")]))
    assert TASK not in node.core.tasks
    late = OTHER.next_task_id()
    node.tell(events.PeerSaid(2, lend(spec(late), templates=[], settings=job)))
    assert late in node.core.tasks
    node.tell(events.PeerSaid(2, wire.EndGuestJob(job.job)))
    assert late not in node.core.tasks and cut_off(node) == []
