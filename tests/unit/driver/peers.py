"""Processes as a test moves them: the real counting, mailbox and outbox, and links by hand.

What a process sends lies in its link until the test lets it arrive, and so does what the node
sends to it, in order: every interleaving that two sockets allow can be had.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

from raydask.driver.mailbox import Mailbox
from raydask.driver.object_ref import ObjectRef, new_ref, received_ref
from raydask.driver.outbox import Outbox
from raydask.driver.references import ReferenceTable, Use
from raydask.ids import IDSource, NodeNumber, ObjectID, ProcessNumber, return_id
from raydask.task import TaskSpec, TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.framing import FrameDecoder
from raydask.wire.messages import Assignment, ObjectValue, TaskResult, TaskStatus, ValueKind

INLINE, STORED, ERROR = int(ValueKind.INLINE), int(ValueKind.STORED), int(ValueKind.ERROR)
SIZE = 4096


class Link:
    """One direction of a connection: messages in order, until somebody takes them."""

    def __init__(self) -> None:
        self.messages: deque[Any] = deque()
        self._decoder = FrameDecoder()

    def send(self, data: bytes) -> None:
        """Take whole frames."""
        self.messages.extend(self._decoder.feed(data))


class Locals:
    """What the code that runs in a process holds: refs, and uses of what it has read."""

    def __init__(self) -> None:
        self.refs: list[ObjectRef] = []
        self.views: list[tuple[ObjectID, Use]] = []

    def clear(self) -> None:
        """Let go of it all."""
        self.refs.clear()
        self.views.clear()


class Task:
    """A task that a worker runs, and what the node holds for it."""

    def __init__(self, assignment: Assignment, lent: list[ObjectID]) -> None:
        self.assignment = assignment
        self.lent = lent
        self.locals = Locals()


class Peer:
    """A driver or a worker.

    Attributes
    ----------
    kept : Locals
        What outlives tasks: the variables of a driver, of a worker's modules.
    task : Task or None
        What a worker runs.
    """

    def __init__(self, number: ProcessNumber) -> None:
        self.number = number
        self.ids = IDSource(NodeNumber(1), number)
        self.table = ReferenceTable()
        self.mailbox = Mailbox(self.table)
        self.to_node = Link()
        self.from_node = Link()
        connection: Any = self.to_node
        self.outbox = Outbox(connection, self.table, list, lambda: None, lambda: 0.0)
        self.kept = Locals()
        self.task: Task | None = None
        self.inbox: deque[Assignment] = deque()
        self._templates: list[TaskTemplate] = []

    # --- what its code does ---------------------------------------------------------------

    @property
    def locals(self) -> Locals:
        """Where what its code gets goes first."""
        return self.kept if self.task is None else self.task.locals

    def refs(self) -> list[ObjectRef]:
        """All refs that its code can use."""
        return [*self.kept.refs, *([] if self.task is None else self.task.locals.refs)]

    def put(self, value: ObjectValue) -> None:
        """Put a value."""
        self.locals.refs.append(new_ref(value.object_id, self.table))
        self.outbox.add_put(value)

    def submit(
        self, template: TaskTemplate, dependencies: list[ObjectRef], borrowed: list[ObjectRef]
    ) -> list[ObjectID]:
        """Submit a task; return what it will make."""
        if template not in self._templates:
            self.outbox.unsent_templates[len(self._templates)] = template
            self._templates.append(template)
        task_id = self.ids.next_task_id()
        made = [return_id(task_id, index) for index in range(template.num_returns)]
        self.locals.refs += [new_ref(each, self.table) for each in made]
        self.outbox.add_spec(
            TaskSpec(
                task_id,
                self._templates.index(template),
                b"",
                [ObjectID(ref.binary()) for ref in dependencies],
                [ObjectID(ref.binary()) for ref in borrowed],
            )
        )
        return made

    def readable(self) -> list[ObjectID]:
        """The values that have arrived and that its code has refs of."""
        held = {ref.binary() for ref in self.refs()}
        return [object_id for object_id in self.mailbox.values if object_id in held]

    def ask(self, object_id: ObjectID) -> None:
        """Ask for a value."""
        missing = self.mailbox.to_request([object_id])
        self.outbox.flush(*([wire.Get(missing, False, [])] if missing else []))

    def read_arrived(self, object_id: ObjectID) -> None:
        """Read a value that has arrived, as ``get`` does."""
        (value,), uses = self.mailbox.look_up([object_id])
        self.read(value)
        del uses
        self.mailbox.taken([object_id])

    def read(self, value: ObjectValue) -> None:
        """Unpickle a value, or the error in its place: refs and views come to exist."""
        if value.kind == STORED:
            self.locals.views.append((value.object_id, Use(value.object_id, self.table)))
        self.locals.refs += [received_ref(each, self.table) for each in value.nested]

    # --- tasks ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin the next task."""
        assignment = self.inbox.popleft()
        lent = [value.object_id for value in assignment.values] + assignment.borrowed
        if lent:
            self.table.lend(lent)
        self.task = Task(assignment, lent)
        for value in assignment.values:
            self.read(value)
        self.task.locals.refs += [received_ref(each, self.table) for each in assignment.borrowed]

    def end(self, values: list[ObjectValue], status: TaskStatus, *, keep: bool) -> None:
        """End the task with these values; its code keeps what it has in a module, or does not."""
        task = self.task
        assert task is not None
        for value in values:
            for nested in value.nested:
                self.table.adopt(nested)
        self.task = None
        if keep:
            self.kept.refs += task.locals.refs
            self.kept.views += task.locals.views
        task.locals.clear()
        if task.lent:
            self.table.end_loan(task.lent)
        self.outbox.add_result(
            TaskResult(task.assignment.task_id, int(status), values, 0.0, 0.0001)
        )
        for value in values:
            self.table.dropped.extend(value.nested)

    # --- what the node says ---------------------------------------------------------------

    def take(self, message: Any) -> None:
        """Act on a message from the node."""
        if isinstance(message, wire.Values):
            self.mailbox.deliver(message.values)
        elif isinstance(message, wire.Execute):
            self.inbox.extend(message.assignments)

    # --- what can be seen from outside ----------------------------------------------------

    def held(self) -> Counter[ObjectID]:
        """How often this process's code holds each object, by refs and by views."""
        return Counter(
            [
                *(ObjectID(ref.binary()) for ref in self.refs()),
                *(object_id for object_id, _ in self.views()),
            ]
        )

    def views(self) -> Iterator[tuple[ObjectID, Use]]:
        """All uses that its code has."""
        yield from self.kept.views
        if self.task is not None:
            yield from self.task.locals.views

    def counted(self) -> Counter[ObjectID]:
        """How often the table says that each object is held."""
        return Counter(self.table.counts) - _ended(self.table.dropped, self.table.unused)


def _ended(*queues: Iterable[ObjectID]) -> Counter[ObjectID]:
    return Counter(each for queue in queues for each in list(queue))
