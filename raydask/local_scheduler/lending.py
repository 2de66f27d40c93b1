"""Tasks at home here that other nodes run. Pure.

What the workers here cannot begin soon is *demanded*: the global scheduler is told how many tasks
of each shape wait, and answers with *leases*: so and so many at once with this node and that.
The home fills them, and chooses which task goes where: first those whose inputs are there, then
those that cost little to move.

A task whose inputs are mostly on another node is *bound* to it: it waits for a lease for as long
as moving its inputs here would take, and runs wherever there is a free worker then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from raydask.ids import FunctionID, ObjectID, TaskID
from raydask.local_scheduler.actions import Send, SendGlobal
from raydask.local_scheduler.borrowing import Borrowing
from raydask.local_scheduler.fetching import Fetching
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import ObjectRecord, Remote, TaskRecord, TemplateRecord
from raydask.local_scheduler.tasks import TaskTable
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.task import TaskSpec
from raydask.wire import messages as wire
from raydask.wire.messages import ObjectValue, ShapeDemand, ValueKind

_STORED = int(ValueKind.STORED)
_SPILLED = int(ValueKind.SPILLED)

_BANDWIDTH = 1e9
"""Bytes a second that a transfer is taken to reach."""
_LARGE = 1 << 20
"""Bytes of inputs from which on a task that could run here is not lightly moved."""
_LEAST_PATIENCE = 0.005
_HELD_SECONDS = 0.04
"""Of work that is with a node for each of its slots; what takes longer is there alone."""
_MOST_HELD = 256
_SAMPLE = 16
"""How many tasks of a queue are looked at to say how long they take."""
_SOON_SECONDS = 0.01
"""What begins here within this time is not demanded of others."""
_REPORT_SECONDS = 0.1
_SCANNED = 64
"""How many tasks that should stay are looked at for one that may go."""


class _Shape:
    """What is lent of the tasks that ask for the same in one job."""

    __slots__ = (
        "bound",
        "job",
        "leases",
        "lent",
        "load",
        "number",
        "preferred",
        "reported",
        "resources",
        "seconds",
    )

    def __init__(self, number: int, job: int, resources: dict[str, int]) -> None:
        self.number = number
        self.job = job
        self.resources = resources
        self.leases: dict[int, int] = {}
        self.lent: dict[int, int] = {}
        """How many tasks are with a node."""
        self.load: dict[int, float] = {}
        """Estimated seconds of these."""
        self.bound: dict[int, dict[TaskID, tuple[TaskRecord, float]]] = {}
        """By the node where their inputs are: tasks, and until when they wait for it."""
        self.reported = 0
        self.preferred: frozenset[int] = frozenset()
        """The nodes that the last report named."""
        self.seconds: float | None = None

    def give(self, node: int, task: TaskRecord) -> None:
        """Count a task that goes to a node."""
        cost = task.template.cost
        task.cost = _HELD_SECONDS if cost is None else cost
        self.lent[node] = self.lent.get(node, 0) + 1
        self.load[node] = self.load.get(node, 0.0) + task.cost

    def take_back(self, node: int, task: TaskRecord) -> None:
        """Count a task no more that a node had."""
        left = self.lent.get(node, 0) - 1
        if left > 0:
            self.lent[node] = left
            self.load[node] -= task.cost
        else:
            self.lent.pop(node, None)
            self.load.pop(node, None)

    def lose(self, node: int) -> None:
        """Forget a node."""
        self.leases.pop(node, None)
        self.lent.pop(node, None)
        self.load.pop(node, None)


class _Room:
    """How many tasks more may go to a node now: one for each slot, and more if they are short."""

    __slots__ = ("count", "more", "seconds")

    def __init__(self, shape: _Shape, node: int) -> None:
        slots = shape.leases.get(node, 0)
        lent = shape.lent.get(node, 0)
        self.count = slots - lent
        self.more = slots * _MOST_HELD - lent
        self.seconds = slots * _HELD_SECONDS - shape.load.get(node, 0.0)

    def fits(self, task: TaskRecord | None) -> bool:
        """Say whether a task may go too."""
        if self.count > 0:
            return True
        cost = task.template.cost if task is not None else None
        return cost is not None and cost <= self.seconds and self.more > 0

    def take(self, task: TaskRecord) -> None:
        """Count a task that goes."""
        cost = task.template.cost
        self.count -= 1
        self.more -= 1
        self.seconds -= _HELD_SECONDS if cost is None else cost


class Lending:
    """The tasks that one node has lent, and those that it would lend.

    Parameters
    ----------
    node : int
    work : TaskTable
    objects : ObjectTable
    pool : WorkerPool
    fetching : Fetching
    borrowing : Borrowing
    outgoing : Outgoing
    tell : callable
        Sends a node a message.

    Attributes
    ----------
    lent : dict of int to dict of TaskID to TaskRecord
        By node, all that there are.
    """

    def __init__(
        self,
        node: int,
        work: TaskTable,
        objects: ObjectTable,
        pool: WorkerPool,
        fetching: Fetching,
        borrowing: Borrowing,
        outgoing: Outgoing,
        tell: Callable[[int, object], None],
    ) -> None:
        self._node = node
        self._work = work
        self._objects = objects
        self._pool = pool
        self._fetching = fetching
        self._borrowing = borrowing
        self._outgoing = outgoing
        self._tell = tell
        self._numbers = 0
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._by_number: dict[int, _Shape] = {}
        self.lent: dict[int, dict[TaskID, TaskRecord]] = {}
        self._told_templates: dict[int, set[TemplateRecord]] = {}
        self._told_functions: dict[int, set[tuple[int, FunctionID]]] = {}
        self._jobs: dict[int, set[int]] = {}
        """The nodes that tasks of a job have been lent to."""
        self._reported_at = float("-inf")
        self._turn = 0

    # --- nodes and jobs -------------------------------------------------------------------

    def node_came(self, node: int) -> None:
        """Note a node that tasks can be lent to."""
        self.lent[node] = {}
        self._told_templates[node] = set()
        self._told_functions[node] = set()

    def node_lost(self, node: int, cause: str, now: float) -> None:
        """Retry what a dead node had, and place anew what was to go there."""
        tasks = self.lent.pop(node, {})
        self._told_templates.pop(node, None)
        self._told_functions.pop(node, None)
        for nodes in self._jobs.values():
            nodes.discard(node)
        for shape in self._shapes.values():
            shape.lose(node)
            for task, _ in list(shape.bound.pop(node, {}).values()):
                self.place(task, now)
        for task in tasks.values():
            task.lent_to = 0
            self._work.worker_died_with(task, f"node {node} is dead: {cause}", charged=True)

    def job_ended(self, job: int) -> None:
        """Have other nodes end what is left of a job, and forget its shapes."""
        for node in self._jobs.pop(job, ()):
            self._tell(node, wire.EndGuestJob(job))
            templates, functions = self._told_templates[node], self._told_functions[node]
            templates -= {template for template in templates if template.shape[0] == job}
            functions -= {mark for mark in functions if mark[0] == job}
        for key in [key for key, shape in self._shapes.items() if shape.job == job]:
            shape = self._shapes.pop(key)
            del self._by_number[shape.number]
            if shape.reported:
                self._demand([ShapeDemand(shape.number, shape.resources, 0)])

    def ask_again(self) -> None:
        """Tell a global scheduler that has just come what is wanted; it knows of no leases."""
        for shape in self._shapes.values():
            shape.reported = 0
            shape.preferred = frozenset()
            shape.leases.clear()

    # --- where a task runs ----------------------------------------------------------------

    def place(self, task: TaskRecord, now: float) -> None:
        """Bind a task to where its inputs are, or have them brought here."""
        here = 0
        away = []
        at: dict[int, int] = {}
        for object_id in dict.fromkeys(task.spec.dependencies):
            record = self._objects.records[object_id]
            if record.value is not None:
                here += record.size
                continue
            assert record.remote is not None
            away.append(record)
            for node in record.remote.nodes:
                if node in self.lent:
                    at[node] = at.get(node, 0) + record.remote.size
        if not task.template.feasible:
            self._work.pass_up(task)
            return
        best = max(at, key=at.__getitem__, default=0)
        if not self._pool.locality:
            best = self._any_node()
            at, here = {best: 1}, 0
        if not best or at[best] <= here:
            self._bring(away)
            return
        size = sum(record.remote.size for record in away if record.remote is not None)
        patience = max(_LEAST_PATIENCE, size / _BANDWIDTH)
        self._shape_of(task).bound.setdefault(best, {})[task.spec.task_id] = (task, now + patience)

    def _any_node(self) -> int:
        """Return each node in turn; 0: this one."""
        self._turn = (self._turn + 1) % (len(self.lent) + 1)
        return (0, *self.lent)[self._turn]

    def _bring(self, records: Iterable[ObjectRecord]) -> None:
        for record in records:
            self._fetching.want(record, urgent=False)

    def _shape_of(self, task: TaskRecord) -> _Shape:
        key = task.template.shape
        shape = self._shapes.get(key)
        if shape is None:
            self._numbers += 1
            shape = _Shape(self._numbers, task.job, task.template.template.resources)
            self._shapes[key] = self._by_number[self._numbers] = shape
        return shape

    def forget(self, task: TaskRecord) -> None:
        """Note that a task does not wait to be lent any more."""
        shape = self._shapes.get(task.template.shape)
        for tasks in shape.bound.values() if shape is not None else ():
            tasks.pop(task.spec.task_id, None)

    # --- leases ---------------------------------------------------------------------------

    def leases_changed(self, leases: list[wire.Lease]) -> None:
        """Take in how many tasks others will run for this node."""
        for lease in leases:
            shape = self._by_number.get(lease.shape)
            if shape is None:
                continue
            if lease.slots and lease.node in self.lent:
                shape.leases[lease.node] = lease.slots
            else:
                shape.leases.pop(lease.node, None)

    def balance(self, now: float) -> None:
        """Lend what can be lent, and say what else is wanted; called after each event."""
        for key, queue in self._pool.queues.items():
            if queue and key not in self._shapes and not (key[1] or key[2]):
                head = queue.head()
                assert head is not None
                self._shape_of(head)
        for key, shape in self._shapes.items():
            for node in list(shape.leases):
                self._fill(key, shape, node)
            if shape.bound:
                self._bring_what_waits(shape, now)
        self._report(now)

    def _fill(self, key: tuple[Any, ...], shape: _Shape, node: int) -> None:
        room = _Room(shape, node)
        bound = shape.bound.get(node)
        tasks: list[TaskRecord] = []
        while bound:
            task = next(iter(bound.values()))[0]
            if not room.fits(task):
                break
            room.take(task)
            del bound[task.spec.task_id]
            tasks.append(task)
        queue = self._pool.queue_of(key)
        if queue and room.fits(queue.head()):
            wait = (shape.seconds or 0.0) * len(queue) / max(1, len(queue.workers))
            most = max(_LARGE, int(wait * _BANDWIDTH / 2))

            def goes(task: TaskRecord) -> bool:
                if not room.fits(task) or self._stored_here(task) >= most:
                    return False
                room.take(task)
                return True

            tasks += queue.take(min(room.more, len(queue)), goes, _SCANNED)
        if tasks:
            self.lend(node, tasks)

    def _stored_here(self, task: TaskRecord) -> int:
        """Return how many bytes of a task's inputs are in the store here."""
        size = 0
        records = self._objects.records
        for object_id in task.spec.dependencies:
            value = records[object_id].value
            if value is not None and value.kind in (_STORED, _SPILLED):
                size += value.size
        return size

    def _bring_what_waits(self, shape: _Shape, now: float) -> None:
        """Have inputs brought here for tasks that have waited long enough, if they could run."""
        room = self._pool.resources.how_often(shape.resources, 64)
        for node, tasks in list(shape.bound.items()):
            for task_id, (task, until) in list(tasks.items()):
                if room <= 0 or until > now:
                    break
                room -= 1
                del tasks[task_id]
                self._bring(wanted_by(task, self._objects))
            if not tasks:
                del shape.bound[node]

    # --- what is wanted of others -----------------------------------------------------------

    def _report(self, now: float) -> None:
        changed = []
        due = not 0 <= now - self._reported_at < _REPORT_SECONDS
        for key, shape in self._shapes.items():
            count = self._count(key, shape)
            began_or_ended = bool(count) != bool(shape.reported)
            # Tasks that are bound do not wait long for a lease where their inputs are.
            urgent = began_or_ended or not shape.preferred.issuperset(shape.bound)
            if urgent or (count != shape.reported and due):
                shape.reported = count
                nodes = sorted(shape.bound, key=lambda node: -len(shape.bound[node]))
                shape.preferred = frozenset(nodes)
                queue = self._pool.queue_of(key)
                mean = queue.mean_cost(_SAMPLE) if queue else None
                shape.seconds = shape.seconds if mean is None else mean
                seconds = -1.0 if shape.seconds is None else shape.seconds
                demand = ShapeDemand(shape.number, shape.resources, count, seconds, nodes[:8])
                changed.append(demand)
        if changed:
            self._reported_at = now
            self._demand(changed)

    def _count(self, key: tuple[Any, ...], shape: _Shape) -> int:
        """Return how many tasks wait for others to run them, and are with others already."""
        count = sum(map(len, shape.bound.values())) + sum(shape.lent.values())
        queue = self._pool.queue_of(key)
        if queue:
            cost = queue.mean_cost(_SAMPLE)
            if cost is None or len(queue) * cost > _SOON_SECONDS * max(1, len(queue.workers)):
                count += len(queue)
        return count

    def _demand(self, demands: list[ShapeDemand]) -> None:
        self._outgoing.actions.append(SendGlobal(wire.Demands(demands)))

    @property
    def is_busy(self) -> bool:
        """Whether tasks wait for a lease or for their inputs."""
        return any(shape.bound for shape in self._shapes.values())

    # --- lending --------------------------------------------------------------------------

    def lend(self, node: int, tasks: list[TaskRecord]) -> None:
        """Have a node run tasks of one job, whose inputs all exist."""
        values: dict[ObjectID, ObjectValue] = {}
        located: dict[ObjectID, wire.Whereabouts] = {}
        templates = []
        for task in tasks:
            self._shape_of(task).give(node, task)
            self.lent[node][task.spec.task_id] = task
            if task.template not in self._told_templates[node]:
                templates.append(self._introduce(node, task.template))
            for object_id in task.spec.dependencies:
                record = self._objects.records[object_id]
                value = record.value
                if value is not None and value.kind not in (_STORED, _SPILLED):
                    values[object_id] = value
                elif object_id not in located:
                    located[object_id] = whereabouts(record, self._node, node)
            self._work.lent(task, node)
        job = tasks[0].job
        self._jobs.setdefault(job, set()).add(node)
        specs = [_numbered(task) for task in tasks]
        self._tell(
            node,
            wire.Lend(
                self._pool.job_settings[job],
                templates,
                specs,
                list(values.values()),
                list(located.values()),
            ),
        )

    def _introduce(self, node: int, template: TemplateRecord) -> wire.LentTemplate:
        self._told_templates[node].add(template)
        function_id = template.template.function_id
        function = self._pool.functions.get(function_id)
        told = self._told_functions[node]
        mark = (template.shape[0], function_id)
        if function is None or mark in told:
            return wire.LentTemplate(template.number, template.template, b"", [])
        told.add(mark)
        return wire.LentTemplate(template.number, template.template, function.code, function.nested)

    # --- what becomes of lent tasks -------------------------------------------------------

    def results(self, node: int, results: list[wire.TaskResult]) -> None:
        """Take in how tasks have ended on another node."""
        for result in results:
            task = self._take(node, result.task_id)
            if task is None or not self._work.lent_ended(task, result):
                # Nothing is taken over: this comes before the task is lent again.
                kept = _kept_there(result.values)
                if kept:
                    self._tell(node, wire.Forget(kept))
                continue
            shape = self._shape_of(task)
            if shape.seconds is None:
                shape.seconds = task.template.cost
            for value in result.values:
                self._deliver(node, value)
            self._work.close_lent(task)

    def _take(self, node: int, task_id: TaskID) -> TaskRecord | None:
        task = self.lent.get(node, {}).pop(task_id, None)
        if task is not None:
            shape = self._shapes.get(task.template.shape)
            if shape is not None:
                shape.take_back(node, task)
        return task

    def _deliver(self, node: int, value: ObjectValue) -> None:
        if value.kind != _STORED:
            self._work.deliver([value])
            if value.nested:
                self._let_go(node, [value])
            return
        record = self._objects.records.get(value.object_id)
        if record is None or record.value is not None:
            self._let_go(node, [value])
            return
        remote = record.remote
        if remote is None:
            remote = record.remote = Remote(is_ours=True)
        remote.size = value.size
        remote.nodes[node] = True
        self._work.found_elsewhere(record, value.nested)

    def _let_go(self, node: int, values: list[ObjectValue]) -> None:
        """Let a node forget values that it keeps for this one."""
        kept = _kept_there(values)
        if kept:
            self._borrowing.say(node, wire.Forget(kept))

    def progressed(self, node: int, steps: list[tuple[TaskID, int]]) -> None:
        """Tell submitters of tasks that have begun on another node."""
        for task_id, step in steps:
            task = self.lent.get(node, {}).get(task_id)
            if task is not None:
                progress = wire.Progress([(task_id, step)])
                self._outgoing.actions.append(Send(task.submitter, progress))

    def given_back(self, node: int, task_ids: list[TaskID]) -> None:
        """Place tasks anew that a node gives back, not begun."""
        for task_id in task_ids:
            task = self._take(node, task_id)
            if task is not None:
                self._work.given_back(task)

    def cancel(self, task: TaskRecord, *, force: bool, recursive: bool) -> None:
        """Cancel a task that a node has, with `recursive` also what it has submitted there."""
        if task.lent_to in self.lent:
            message = wire.CancelLent([task.spec.task_id], force, recursive)
            self._tell(task.lent_to, message)


def _kept_there(values: list[ObjectValue]) -> list[ObjectID]:
    """Return the values that the node which made them keeps until it is told to forget them."""
    return [value.object_id for value in values if value.kind == _STORED or value.nested]


def wanted_by(task: TaskRecord, objects: ObjectTable) -> list[ObjectRecord]:
    """Return the records of a task's inputs that are not here."""
    records = (objects.records[object_id] for object_id in dict.fromkeys(task.spec.dependencies))
    return [record for record in records if record.value is None]


def whereabouts(
    record: ObjectRecord, node: int, reader: int, *, whole: bool = False
) -> wire.Whereabouts:
    """Return where `reader` can fetch a stored object, and count it among those that fetch it.

    Parameters
    ----------
    record : ObjectRecord
    node : int
        This one.
    reader : int
    whole : bool
        Whether to name only nodes that have all of the object.
    """
    remote = record.remote
    if remote is None:
        remote = record.remote = Remote(is_ours=True)
    if record.value is not None:
        remote.exists = True
        remote.size = record.value.size
        remote.nodes.setdefault(node, True)
    before = []
    for each, is_whole in remote.nodes.items():
        if each == reader:
            if whole:
                continue
            break
        if is_whole or not whole:
            before.append(each)
    if remote.is_ours:
        if whole:
            remote.nodes.pop(reader, None)
        remote.nodes.setdefault(reader, False)
    return wire.Whereabouts(record.object_id, remote.size, before)


def _numbered(task: TaskRecord) -> TaskSpec:
    """Return the spec with its template's number on this node, by which others know it."""
    spec = task.spec
    return TaskSpec(
        spec.task_id,
        task.template.number,
        spec.args,
        spec.dependencies,
        spec.borrowed,
        spec.depth,
        spec.parent,
    )
