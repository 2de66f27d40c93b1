"""Tasks of another node that this one runs, and objects that it fetches and serves for that."""

from __future__ import annotations

from typing import Any

import pytest

from raydask.ids import (
    IDSource,
    NodeNumber,
    ObjectID,
    ProcessNumber,
    TaskID,
    peer_process,
    return_id,
)
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import AnswerRegion, CancelPull, Send, StartPull
from raydask.placement import Strategy
from raydask.task import TaskSpec, TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.messages import JobSettings, ObjectValue, TaskResult, TaskStatus, ValueKind
from tests.unit.local_scheduler.node import PLAIN, Node

HOME, THIRD = 2, 3
JOB = 2 * 65536 + 1
_STORED = int(ValueKind.STORED)


class Host(Node):
    """Node 1, with a home that lends it tasks and a third node."""

    def __init__(self, cpus: int = 1) -> None:
        super().__init__(cpus)
        self.tell(events.NodesCame([HOME, THIRD]))
        self.workers(10)
        self.ids = IDSource(NodeNumber(HOME), ProcessNumber(7))
        self.introduced = False

    def say(self, message: object, node: int = HOME) -> None:
        self.tell(events.PeerSaid(node, message))

    def lend(
        self,
        dependencies: list[ObjectID] | None = None,
        values: list[ObjectValue] | None = None,
        located: list[wire.Whereabouts] | None = None,
        attempts: int = 0,
        template: TaskTemplate = PLAIN,
    ) -> TaskID:
        templates = [] if self.introduced else [wire.LentTemplate(5, template, b"code", [])]
        self.introduced = True
        spec = TaskSpec(self.ids.next_task_id(), 5, b"", dependencies or [], [])
        settings = JobSettings(JOB, "", [], "/")
        begun = {spec.task_id: attempts} if attempts else {}
        self.say(wire.Lend(settings, templates, [spec], values or [], located or [], [], begun))
        return spec.task_id

    def foreign(self) -> ObjectID:
        return self.ids.next_put_id()

    def told(self, node: int = HOME) -> list[Any]:
        return [
            action.message
            for action in self.actions
            if isinstance(action, Send) and action.process == peer_process(node)
        ]

    def asked(self, object_id: ObjectID) -> int:
        """The number of the last question for an object."""
        record = self.core.objects.records[object_id]
        assert record.remote is not None and record.remote.fetch is not None
        return record.remote.fetch.asked

    def done(self, kind: type) -> list[Any]:
        return [action for action in self.actions if isinstance(action, kind)]

    def give_room(self) -> None:
        answer = self.done(AnswerRegion)[-1]
        assert answer.process == 0
        self.tell(events.RoomAnswered(answer.number, answer.offset, answer.error))

    def end_with(self, task_id: TaskID, value: ObjectValue) -> None:
        result = TaskResult(task_id, int(TaskStatus.OK), [value], 0.0, 0.001)
        self.tell(events.TasksEnded(ProcessNumber(10), [result]))


def test_a_guest_runs_and_its_home_gets_the_result() -> None:
    host = Host()
    task = host.lend()
    assert host.given(10) == [task]
    host.end(10, task)

    results = host.told()[-1]
    assert isinstance(results, wire.LentResults)
    assert [each.task_id for each in results.results] == [task]
    assert not host.core.objects.records
    assert task not in host.core.tasks
    assert not host.entries.present - {b"f"}  # its entry is its home's


def test_a_guest_gets_small_inputs_with_it() -> None:
    host = Host()
    given = host.foreign()
    task = host.lend([given], [ObjectValue(given, 0, b"input")])
    assert host.given(10) == [task]
    host.end(10, task)
    assert not host.core.objects.records


def test_a_guests_large_input_is_fetched_first() -> None:
    host = Host()
    given = host.foreign()
    task = host.lend([given], located=[wire.Whereabouts(given, 4096, [HOME, THIRD])])
    host.give_room()
    assert host.told(THIRD) == [wire.Fetch(given, host.asked(given))]
    assert host.given(10) == []

    host.say(wire.Places([wire.Place(given, host.asked(given), 8192, 4096)]), THIRD)
    (pull,) = host.done(StartPull)
    assert (pull.node, pull.source, pull.size) == (THIRD, 8192, 4096)
    host.tell(events.PullEnded(pull.number, ""))
    assert host.given(10) == [task]
    assert host.told(THIRD)[-1] == wire.Unpin([given])
    assert wire.CopiesMade([given]) in host.told()


def test_another_source_is_asked_when_one_has_it_not() -> None:
    host = Host()
    given = host.foreign()
    host.lend([given], located=[wire.Whereabouts(given, 4096, [HOME, THIRD])])
    host.give_room()
    host.say(wire.NotHere(given, host.asked(given)), THIRD)
    assert host.told()[-1] == wire.Fetch(given, host.asked(given))
    host.say(wire.NotHere(given, host.asked(given)))
    assert host.told()[-1] == wire.Want([given], again=True)


def test_a_copy_stays_until_its_home_forgets_it() -> None:
    host = Host()
    given = host.foreign()
    task = fetched(host, given)
    host.end(10, task)
    assert given in host.core.objects.records
    assert len(host.core.store) == 1

    host.say(wire.Forget([given]))
    assert not host.core.objects.records
    assert len(host.core.store) == 0


def fetched(host: Host, given: ObjectID) -> TaskID:
    task = host.lend([given], located=[wire.Whereabouts(given, 4096, [HOME])])
    host.give_room()
    host.say(wire.Places([wire.Place(given, host.asked(given), 0, 4096)]))
    host.tell(events.PullEnded(host.done(StartPull)[-1].number, ""))
    return task


def test_a_copy_is_served_to_others() -> None:
    host = Host()
    given = host.foreign()
    fetched(host, given)
    host.say(wire.Fetch(given, 7), THIRD)
    (places,) = (each for each in host.told(THIRD) if isinstance(each, wire.Places))
    assert [place.size for place in places.places] == [4096]
    assert host.core.store.pins(given) == 2  # the guest's and the reader's
    host.say(wire.Unpin([given]), THIRD)
    assert host.core.store.pins(given) == 1


def test_who_asks_for_what_is_still_coming_reads_along() -> None:
    host = Host()
    given = host.foreign()
    host.lend([given], located=[wire.Whereabouts(given, 4096, [HOME])])
    host.give_room()
    host.say(wire.Fetch(given, 7), THIRD)
    assert host.told(THIRD) == []
    host.say(wire.Places([wire.Place(given, host.asked(given), 0, 4096)]))
    assert [type(message) for message in host.told(THIRD)] == [wire.Places]

    host.tell(events.PullEnded(host.done(StartPull)[-1].number, ""))
    assert host.core.store.pins(given) == 2
    host.say(wire.Unpin([given]), THIRD)
    assert host.core.store.pins(given) == 1


def test_a_pull_that_nobody_wants_any_more_is_cancelled() -> None:
    host = Host()
    given = host.foreign()
    task = host.lend([given], located=[wire.Whereabouts(given, 4096, [HOME])])
    host.give_room()
    host.say(wire.Places([wire.Place(given, host.asked(given), 0, 4096)]))
    host.say(wire.CancelLent([task], False, recursive=False))

    (cancelled,) = host.done(CancelPull)
    assert host.core.store.unsealed
    host.tell(events.PullEnded(cancelled.number, "it was cancelled"))
    assert not host.core.store.unsealed
    assert not host.core.objects.records


def test_a_large_result_is_kept_for_its_home() -> None:
    host = Host()
    task = host.lend()
    host.tell(events.RegionRequested(ProcessNumber(10), 1, 4096))
    offset = host.done(AnswerRegion)[-1].offset
    object_id = return_id(task, 0)
    host.end_with(task, ObjectValue(object_id, _STORED, b"", offset, 4096))

    (value,) = host.told()[-1].results[0].values
    assert (value.kind, value.offset, value.size) == (_STORED, 0, 4096)
    assert len(host.core.store) == 1
    host.say(wire.Forget([object_id]))
    assert len(host.core.store) == 0


def test_a_ref_that_a_process_keeps_is_borrowed_before_the_result_goes() -> None:
    host = Host()
    given = host.foreign()
    task = host.lend([given], [ObjectValue(given, 0, b"input")])
    host.tell(events.ObjectsAcquired(ProcessNumber(10), [given]))
    assert host.told()[-1] == wire.Borrow(1, [given])
    host.end(10, task)
    assert host.told()[-1] == wire.Borrow(1, [given])

    host.say(wire.Borrowed(1))
    assert isinstance(host.told()[-1], wire.LentResults)
    host.release(given, process=ProcessNumber(10))
    assert host.told()[-1] == wire.Release([given])


def test_a_guest_whose_worker_dies_is_its_homes_to_retry() -> None:
    host = Host()
    task = host.lend()
    host.leave(10)
    (result,) = host.told()[-1].results
    assert (result.task_id, result.retryable) == (task, True)
    assert task not in host.core.tasks


def test_a_guest_knows_how_often_it_was_started_at_home() -> None:
    host = Host()
    task = host.lend(attempts=2)
    (execute,) = host.sent(wire.Execute)
    (assignment,) = execute.assignments
    assert (assignment.task_id, assignment.attempt) == (task, 2)


def test_guests_that_have_not_begun_can_be_taken_back() -> None:
    host = Host()
    running, waiting = host.lend(), host.lend()
    host.say(wire.RecallTasks([running, waiting]))
    assert host.told()[-1] == wire.GiveBack([waiting])
    assert waiting not in host.core.tasks


def test_a_dead_homes_guests_end() -> None:
    host = Host()
    host.lend()
    host.lend()
    host.tell(events.NodesLost([(HOME, "it burned")]))
    assert host.killed == [10]
    host.leave(10)
    assert not host.core.tasks
    assert JOB not in host.core.pool.job_settings


def test_the_home_says_when_a_job_has_ended() -> None:
    host = Host()
    task = host.lend()
    host.end(10, task)
    assert JOB in host.core.pool.job_settings
    host.tick(1.0)
    assert JOB in host.core.pool.job_settings
    host.say(wire.EndGuestJob(JOB))
    assert JOB not in host.core.pool.job_settings


def test_a_home_says_what_is_here_and_where_the_rest_is() -> None:
    host = Host()
    small = host.put(data=b"small")
    host.say(wire.Want([small]))
    assert host.told()[-1] == wire.Values([ObjectValue(small, 0, b"small")])
    unknown = ObjectID(bytes([0, 0, 0, 1]) + bytes(16))
    host.say(wire.Want([unknown]))
    assert host.told()[-1].values[0].kind == ValueKind.ERROR


def test_holding_for_another_node_is_as_for_a_process() -> None:
    host = Host()
    small = host.put()
    host.say(wire.Borrow(1, [small]))
    assert host.told()[-1] == wire.Borrowed(1)
    host.release(small)
    assert small in host.core.objects.records
    host.say(wire.Release([small]))
    assert small not in host.core.objects.records


@pytest.mark.parametrize(
    ("strategy", "counted"), [(None, {"CPU": 10_000}), (Strategy("NODE", node=1), {})]
)
def test_only_guests_that_came_under_a_lease_count_as_lent(
    strategy: Strategy | None, counted: dict[str, int]
) -> None:
    host = Host()
    template = TaskTemplate(PLAIN.function_id, "f", resources=PLAIN.resources, strategy=strategy)
    task_id = host.lend(template=template)
    assert host.given(10) == [task_id]
    assert host.core.lent_resources == counted
