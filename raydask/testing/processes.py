"""Simulated drivers and workers.

A process here runs `programs` instead of user code and counts, batches and keeps values with
the parts that real processes use: ``ReferenceTable``, ``Outbox``, ``Mailbox``.  What it does
about tasks follows ``raydask.worker.executor`` and ``raydask.driver.session``: one task at a
time, results in batches, tasks not begun given back when it blocks or is told to.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raydask.driver.mailbox import Mailbox
from raydask.driver.object_ref import ObjectRef, new_ref, received_ref
from raydask.driver.outbox import Outbox
from raydask.driver.references import ReferenceTable, Use
from raydask.errors import GetTimeoutError, TaskCancelledError, TaskError, TaskTimeoutError
from raydask.ids import (
    IDSource,
    NodeNumber,
    ObjectID,
    ProcessNumber,
    TaskID,
    function_id,
    return_id,
    task_of,
)
from raydask.local_scheduler.actions import AnswerRegion
from raydask.local_scheduler.events import RegionRequested
from raydask.serialization import deserialize_error, serialize_error
from raydask.task import TaskKind, TaskSpec, TaskTemplate
from raydask.testing.programs import (
    Compute,
    Get,
    Given,
    Made,
    Program,
    ProgramFailed,
    Received,
    Run,
    Step,
    Wait,
    refs_of,
)
from raydask.wire import messages as wire
from raydask.wire.messages import Assignment, ObjectValue, TaskResult, TaskStatus, ValueKind

if TYPE_CHECKING:
    from raydask.testing.cluster import SimulatedCluster

_FLUSH_SECONDS = 0.001
_LONG_SECONDS = 0.001
_INLINE = int(ValueKind.INLINE)
_STORED = int(ValueKind.STORED)
_ERROR = int(ValueKind.ERROR)
_SPILLED = int(ValueKind.SPILLED)
_SIZE = 1 << 20


class Process:
    """What drivers and workers have in common.

    Parameters
    ----------
    cluster : SimulatedCluster
    number : ProcessNumber
    """

    def __init__(self, cluster: SimulatedCluster, number: ProcessNumber) -> None:
        self.cluster = cluster
        self.number = number
        self.alive = True
        self.ids = IDSource(NodeNumber(cluster.node), number)
        self.references = ReferenceTable()
        self.mailbox = Mailbox(self.references)
        self.to_node = cluster.link_to_node(self)
        self.from_node = cluster.link_from_node(self)
        connection: Any = self.to_node
        self.outbox = Outbox(
            connection, self.references, self._take_retired, self._arm, cluster.clock.read
        )
        self.run: Running | None = None
        self.depth = 0
        self.parent = TaskID(b"")
        self._armed = False
        self._templates: list[TaskTemplate] = []
        self._exported: set[str] = set()
        self._regions: dict[int, AnswerRegion] = {}
        self._retired: list[tuple[int, int]] = []
        self._region_count = 0
        self._wanted_region = 0

    @property
    def matters(self) -> bool:
        """Whether the process goes on; what one sees that is being ended, nobody learns."""
        return self.cluster.matters(self)

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self.cluster.clock.after(_FLUSH_SECONDS, self._flush_armed)

    def _flush_armed(self) -> None:
        self._armed = False
        if self.alive:
            self.outbox.flush()

    def template_number(self, template: TaskTemplate) -> int:
        """Return the number of a template, which is sent with its first task."""
        if template not in self._templates:
            self.outbox.unsent_templates[len(self._templates)] = template
            self._templates.append(template)
        return self._templates.index(template)

    def export(self, name: str) -> None:
        """See that the node has the function's code."""
        if name not in self._exported:
            self._exported.add(name)
            code = name.encode()
            self.outbox.add(wire.Export(function_id(code), code, name, []))

    def place(self, object_id: ObjectID, made: Made) -> ObjectValue:
        """Return a value as it is sent."""
        nested = [ObjectID(ref.binary()) for ref in made.refs]
        offset = self._region() if made.stored else None
        if offset is not None:
            return ObjectValue(object_id, _STORED, b"", offset, _SIZE, nested)
        return ObjectValue(object_id, _INLINE, bytes(made.size), 0, 0, nested)

    def _region(self) -> int | None:
        """Return the offset of room for an object, None where it does not come at once.

        Programs here do not wait for it: what comes late is given back.
        """
        self._region_count += 1
        number = self._wanted_region = self._region_count
        self.cluster.handle(RegionRequested(self.number, number, _SIZE))
        self._wanted_region = 0
        answer = self._regions.pop(number, None)
        return None if answer is None or answer.error else answer.offset

    def room_answered(self, answer: AnswerRegion) -> None:
        """Take in the answer to a request for room."""
        if answer.number == self._wanted_region:
            self._regions[answer.number] = answer
        elif not answer.error:
            self._retired.append((answer.offset, _SIZE))
            self._arm()

    def _take_retired(self) -> list[tuple[int, int]]:
        retired, self._retired = self._retired, []
        return retired

    def read(self, value: ObjectValue) -> Received:
        """Return a value as user code sees it, or raise the error in its place."""
        if value.kind == _ERROR:
            error = deserialize_error(value.data)
            self.cluster.note_error(self, error)
            error.__dict__["refs"] = [received_ref(each, self.references) for each in value.nested]
            raise error
        view: object = None
        if value.kind == _STORED:
            self.cluster.note_view(self, value.object_id)
            view = Use(value.object_id, self.references)
        elif value.kind == _SPILLED:
            self.cluster.note_file_read(self, value.data.decode())
            view = received_ref(value.object_id, self.references)
        return Received([received_ref(each, self.references) for each in value.nested], view)

    def held(self) -> dict[ObjectID, int]:
        """Return the refs and views that exist in this process."""
        counts = dict(self.references.counts)
        for object_id in (*self.references.dropped, *self.references.unused):
            counts[object_id] -= 1
        return {object_id: count for object_id, count in counts.items() if count}

    def looked_at(self) -> list[ObjectID]:
        """Return the stored objects of which this process has views."""
        counts = dict(self.references.in_use)
        for object_id in self.references.unused:
            counts[object_id] -= 1
        return [object_id for object_id, count in counts.items() if count]

    def die(self) -> None:
        """End without a word."""
        self.alive = False
        self.to_node.is_cut = True
        self.from_node.is_cut = True
        if self.run is not None:
            self.run.abandon()

    # --- what the node says ---------------------------------------------------------------

    def on_message(self, message: Any) -> None:
        """Act on a message from the node."""
        if not self.alive:
            return
        if isinstance(message, wire.Values):
            self.mailbox.deliver(message.values)
        elif isinstance(message, wire.Ready):
            self.mailbox.mark_ready(message.object_ids)
        else:
            self.on_other(message)
        if self.run is not None:
            self.run.look()

    def on_other(self, message: Any) -> None:
        """Act on a message that is not a value."""

    def block(self) -> list[TaskID] | None:
        """Note that the program waits; return what is given back, None if nothing is to be."""
        return None

    def unblock(self) -> None:
        """Note that the program goes on."""

    def ended(self, made: Sequence[Made] | None, error: BaseException | None) -> None:
        """Take the end of the program that ran."""
        raise NotImplementedError


class Running:
    """A program on its way."""

    def __init__(self, process: Process, generator: Run) -> None:
        self._process = process
        self._generator: Run | None = generator
        self._step: Step | None = None
        self._turn = 0
        self._explicit = False

    def go(self, value: Any = None, error: BaseException | None = None) -> None:
        """Go on with what the program waited for."""
        process = self._process
        generator = self._generator
        assert generator is not None
        self._turn += 1
        self._step = None
        try:
            step = generator.send(value) if error is None else generator.throw(error)
        except StopIteration as end:
            self._generator = generator = None
            process.run = None
            process.ended(end.value, None)
            return
        except (ProgramFailed, TaskError, TaskCancelledError, TaskTimeoutError) as raised:
            self._generator = generator = None
            process.run = None
            process.ended(None, raised.with_traceback(None))
            return
        finally:
            # The error's traceback leads here: in a circle it would keep refs after the program.
            del value, error
        self._wait(step)

    def _wait(self, step: Step) -> None:
        process = self._process
        clock = process.cluster.clock
        turn = self._turn
        if isinstance(step, Compute):
            clock.after(step.seconds, lambda: self._go_if(turn, None))
            return
        self._step = step
        if step.timeout is not None:
            clock.after(step.timeout, lambda: self._time_is_up(turn))
        ids = [ObjectID(ref.binary()) for ref in step.refs]
        if isinstance(step, Get):
            self._ask(ids)
        else:
            missing = process.mailbox.to_watch(ids)
            reclaimed = process.block()
            self._explicit = reclaimed is not None
            if missing or self._explicit:
                process.outbox.flush(wire.Watch(missing, self._explicit, reclaimed or []))
            else:
                process.outbox.flush()
        self.look()

    def _ask(self, ids: list[ObjectID]) -> None:
        process = self._process
        missing = process.mailbox.to_request(ids)
        reclaimed = process.block()
        if reclaimed is not None:
            arrived = process.mailbox.values
            missing = [object_id for object_id in ids if object_id not in arrived]
            if missing or reclaimed:
                process.outbox.flush(wire.Get(missing, True, reclaimed))
                return
        if missing:
            process.outbox.flush(wire.Get(missing, False, []))
        else:
            process.outbox.flush()

    def _go_if(self, turn: int, value: Any) -> None:
        if turn == self._turn and self._generator is not None:
            self.go(value)

    def _time_is_up(self, turn: int) -> None:
        if turn != self._turn or self._generator is None:
            return
        process = self._process
        step = self._step
        process.unblock()
        if isinstance(step, Get):
            if isinstance(process, SimulatedWorker):
                process.outbox.add(wire.Unblocked())
            self.go(error=GetTimeoutError("simulated"))
        else:
            assert isinstance(step, Wait)
            self._finish_wait(step)

    def look(self) -> None:
        """Go on if what the program waits for is here."""
        step = self._step
        if step is None or isinstance(step, Compute) or self._generator is None:
            return
        mailbox = self._process.mailbox
        ids = [ObjectID(ref.binary()) for ref in step.refs]
        if isinstance(step, Wait):
            if sum(map(mailbox.is_ready, ids)) >= step.number:
                self._finish_wait(step)
        elif all(object_id in mailbox.values for object_id in ids):
            self._process.unblock()
            self.go(*self._read(ids))

    def _read(self, ids: list[ObjectID]) -> tuple[list[Received], BaseException | None]:
        mailbox = self._process.mailbox
        try:
            return [self._process.read(mailbox.values[object_id]) for object_id in ids], None
        except BaseException as error:
            return [], error.with_traceback(None)
        finally:
            mailbox.taken(ids)

    def _finish_wait(self, step: Wait) -> None:
        process = self._process
        process.unblock()
        if self._explicit:
            process.outbox.add(wire.Unblocked())
        ids = [ObjectID(ref.binary()) for ref in step.refs]
        self.go({object_id for object_id in ids if process.mailbox.is_ready(object_id)})

    def abandon(self) -> None:
        """Drop the program: its process has died."""
        self._turn += 1
        self._generator = None
        self._step = None


class SimulatedDriver(Process):
    """A driver, which runs one program."""

    def __init__(self, cluster: SimulatedCluster, number: ProcessNumber, job: int) -> None:
        super().__init__(cluster, number)
        self.job = job
        self.finished = False
        self.error: BaseException | None = None

    def start(self, program: Program, rng: random.Random) -> None:
        """Begin to run a program."""
        self.run = Running(self, program(Context(self), Given([], [], rng, 0)))
        self.run.go()

    def ended(self, made: Sequence[Made] | None, error: BaseException | None) -> None:
        """Note that the program has ended."""
        self.finished = True
        self.error = error
        self.outbox.flush()


class SimulatedWorker(Process):
    """A worker, which runs what it is given."""

    def __init__(self, cluster: SimulatedCluster, number: ProcessNumber, source: int) -> None:
        super().__init__(cluster, number)
        self.source = source
        self.control_to_node = cluster.link_to_node(self)
        self.control_from_node = cluster.control_from_node(self)
        self.inbox: deque[Assignment] = deque()
        self.actor: Sequence[Made] | None = None
        self.reported = 0
        """How many results it has handed over to be sent."""
        self._known: dict[int, TaskTemplate] = {}
        self._functions: set[bytes] = set()
        self._running: tuple[Assignment, list[ObjectID] | None, float] | None = None
        self._blocked = False

    def die(self) -> None:
        """End without a word."""
        super().die()
        self.control_to_node.is_cut = True
        self.control_from_node.is_cut = True
        self.actor = None

    # --- what the node says ---------------------------------------------------------------

    def on_other(self, message: Any) -> None:
        """Take tasks."""
        if not isinstance(message, wire.Execute):
            return
        for new in message.templates:
            self._known[new.number] = new.template
            if new.code:
                self._functions.add(new.template.function_id)
            elif new.template.function_id not in self._functions:
                self.cluster.violated(f"worker {self.number} was not sent {new.template.name}")
        self.inbox.extend(message.assignments)
        self.cluster.note_assigned(self, message.assignments)
        if self._blocked:
            self.outbox.flush(wire.Reclaimed(self._take_inbox()))
        self._begin_next()

    def on_control(self, message: Any) -> None:
        """Act on a message from the control socket."""
        if not self.alive:
            return
        if isinstance(message, wire.Reclaim):
            task_ids = self._take_inbox()
            self.outbox.flush()
            self.control_to_node.send_message(wire.Reclaimed(task_ids))
        elif isinstance(message, wire.CancelTask):
            self._cancel(message)

    def _cancel(self, message: wire.CancelTask) -> None:
        for assignment in self.inbox:
            if assignment.task_id == message.task_id:
                self.inbox.remove(assignment)
                self._report(assignment, None, TaskCancelledError("not begun"), 0.0)
                self.outbox.flush()
                return
        if self._running is not None and self._running[0].task_id == message.task_id:
            assert self.run is not None
            kind = TaskTimeoutError if message.reason == "timeout" else TaskCancelledError
            if self._blocked:
                self.unblock()
                self.outbox.add(wire.Unblocked())
            self.run.go(error=kind("simulated"))

    def _take_inbox(self) -> list[TaskID]:
        taken = [assignment.task_id for assignment in self.inbox]
        self.inbox.clear()
        return taken

    def block(self) -> list[TaskID] | None:
        """Give back what has not begun."""
        self._blocked = True
        return self._take_inbox()

    def unblock(self) -> None:
        """Go on."""
        self._blocked = False

    # --- tasks ----------------------------------------------------------------------------

    def _begin_next(self) -> None:
        if self._running is not None or not self.alive:
            return
        if not self.inbox:
            self.outbox.flush()
            return
        assignment = self.inbox.popleft()
        if self.outbox.age > _LONG_SECONDS:
            self.outbox.flush()
        template = self._known[assignment.template]
        lent: list[ObjectID] | None = None
        if assignment.values or assignment.borrowed:
            lent = [value.object_id for value in assignment.values] + assignment.borrowed
            self.references.lend(lent)
        self.depth = assignment.depth + 1
        self.parent = assignment.task_id
        self._running = (assignment, lent, self.cluster.clock.now)
        self.cluster.note_started(self, assignment.task_id, template)
        given = Given(
            [self.read(value) for value in assignment.values],
            [received_ref(object_id, self.references) for object_id in assignment.borrowed],
            random.Random(assignment.args),
            assignment.attempt,
        )
        program = self.cluster.programs[template.name]
        self.run = Running(self, program(Context(self), given))
        del given
        self.run.go()

    def ended(self, made: Sequence[Made] | None, error: BaseException | None) -> None:
        """Report the task that ran, and begin the next."""
        assert self._running is not None
        assignment, lent, started = self._running
        self._running = None
        self.cluster.note_ended(assignment.task_id)
        template = self._known[assignment.template]
        if template.kind == TaskKind.ACTOR_CREATION and made is not None:
            self.actor, made = made, [Made()]
        result = self._result(assignment, made, error, started)
        made = None
        if lent is not None:
            self.references.end_loan(lent)
        self.reported += 1
        self.outbox.add_result(result)
        self._begin_next()

    def _report(
        self,
        assignment: Assignment,
        made: Sequence[Made] | None,
        error: BaseException | None,
        started: float,
    ) -> None:
        self.reported += 1
        self.outbox.add_result(self._result(assignment, made, error, started))

    def _result(
        self,
        assignment: Assignment,
        made: Sequence[Made] | None,
        error: BaseException | None,
        started: float,
    ) -> TaskResult:
        task_id = assignment.task_id
        count = self._known[assignment.template].num_returns
        duration = self.cluster.clock.now - started
        if made is not None:
            values = [self.place(return_id(task_id, at), made[at]) for at in range(count)]
            return TaskResult(task_id, int(TaskStatus.OK), values, started, duration)
        stopped = isinstance(error, (TaskCancelledError, TaskTimeoutError))
        data = serialize_error(error if stopped and error is not None else TaskError("simulated"))
        status = TaskStatus.CANCELLED if stopped else TaskStatus.FAILED
        nested = [ObjectID(ref.binary()) for ref in refs_of(error)]
        values = [
            ObjectValue(return_id(task_id, at), _ERROR, data, 0, 0, nested)
            for at in range(max(1, count))
        ]
        retryable = isinstance(error, ProgramFailed) and error.retryable
        return TaskResult(task_id, int(status), values, started, duration, retryable)


class Context:
    """What a program can do."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def submit(
        self,
        template: TaskTemplate,
        dependencies: Sequence[ObjectRef] = (),
        borrowed: Sequence[ObjectRef] = (),
        seed: int = 0,
    ) -> list[ObjectRef]:
        """Submit a task; its template's name is the program's."""
        process = self._process
        process.export(template.name)
        number = process.template_number(template)
        task_id = process.ids.next_task_id()
        refs = [
            new_ref(return_id(task_id, index), process.references)
            for index in range(template.num_returns)
        ]
        spec = TaskSpec(
            task_id,
            number,
            seed.to_bytes(8, "big"),
            [ObjectID(ref.binary()) for ref in dependencies],
            [ObjectID(ref.binary()) for ref in borrowed],
            process.depth,
            process.parent,
        )
        process.cluster.note_submitted(task_id)
        process.outbox.add_spec(spec)
        return refs

    def put(self, made: Made) -> ObjectRef:
        """Put a value."""
        process = self._process
        object_id = process.ids.next_put_id()
        ref = new_ref(object_id, process.references)
        process.outbox.add_put(process.place(object_id, made))
        return ref

    def cancel(self, ref: ObjectRef, *, force: bool = False, recursive: bool = True) -> None:
        """Cancel the task that makes an object."""
        task_id = task_of(ObjectID(ref.binary()))
        self._process.outbox.flush()
        self._process.cluster.request_cancel(self._process, task_id, force, recursive)

    def kill_actor(self, ref: ObjectRef, *, no_restart: bool) -> None:
        """End an actor, given the ref of its creation."""
        self._process.outbox.flush()
        self._process.cluster.request_kill(
            self._process, task_of(ObjectID(ref.binary())), no_restart
        )
