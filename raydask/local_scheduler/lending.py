"""Tasks at home here that other nodes run. Pure.

What the workers here cannot begin soon is *demanded*: the global scheduler is told how many tasks
of each shape wait, and answers with *leases*: so and so many at once with this node and that.
The home fills them, and chooses which task goes where: first those whose inputs are there, then
those that cost little to move.

A task whose inputs are mostly on another node is *bound* to it, and so is one that would begin
there sooner than here: it waits for a lease for as long as moving its inputs would take, and then
runs wherever there is a free worker, unless its turn comes sooner than they could be there.

Tasks that wait behind others at a node which does not get on are recalled when they could begin
elsewhere at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from msgspec import structs

from raydask.ids import FunctionID, ObjectID, ProcessNumber, TaskID
from raydask.local_scheduler.actions import Send, SendGlobal
from raydask.local_scheduler.borrowing import Borrowing
from raydask.local_scheduler.fetching import Fetching
from raydask.local_scheduler.inputs import (
    has_stored_inputs,
    shares_of_inputs,
    stored_here,
    wanted_by,
    whereabouts,
)
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.policy import ReadyQueue
from raydask.local_scheduler.records import Remote, TaskRecord, TemplateRecord
from raydask.local_scheduler.shapes import Shape, ShapeTable
from raydask.local_scheduler.tasks import TaskTable
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.placement import Strategy
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
_SOON_SECONDS = 0.01
"""What begins here within this time is not demanded of others."""
_REPORT_SECONDS = 0.1
_WORTH_A_SLOT = 0.02
"""The seconds that a task of unknown duration counts for: it shall have a slot for itself."""
_MOST_NAMED = 1024
"""Of how many nodes the global scheduler is told that inputs are there."""
_GROWTH_SECONDS = 0.005
"""After so much time more demand is reported, if it is a lot more; as leases are not divided more
often."""
_GROWTH = 1.25
_RECALL_SECONDS = 0.05
"""After so much time without an end of any, tasks that wait at a node are recalled."""
_MOST_RECALLED = 256
_MOST_COMING = 64
"""Tasks whose inputs are brought here together."""
_SAMPLE = 16
"""How many tasks of a queue are looked at to say how long they take."""
_SCANNED = 64
"""How many tasks that should stay are looked at for one that may go."""


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
    nodes : set of int
        The other nodes that live; whoever owns it keeps it up to date.
    tell : callable
        Sends a node a message.

    Attributes
    ----------
    lent : dict of int to dict of TaskID to TaskRecord
        By node, of those that have been lent anything.
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
        nodes: set[int],
        tell: Callable[[int, object], None],
    ) -> None:
        self._node = node
        self._nodes = nodes
        self._work = work
        self._objects = objects
        self._pool = pool
        self._fetching = fetching
        self._borrowing = borrowing
        self._outgoing = outgoing
        self._tell = tell
        self._shapes = ShapeTable()
        self.lent: dict[int, dict[TaskID, TaskRecord]] = {}
        self._told_templates: dict[int, set[TemplateRecord]] = {}
        self._told_functions: dict[int, set[tuple[int, FunctionID]]] = {}
        self._jobs: dict[int, set[int]] = {}
        """The nodes that tasks of a job have been lent to."""
        self._leaving: set[int] = set()
        self._reported_at = float("-inf")
        self._recalled_at = float("-inf")
        self._turn = 0
        self._now = 0.0
        self.creation_failed: Callable[[int, wire.TaskResult], bool] = _unexpected
        """Told of results of what is no task that was lent under a lease."""
        self.creation_given_back: Callable[[int, TaskID], None] = _nothing_to_place

    # --- nodes and jobs -------------------------------------------------------------------

    def node_leaves(self, node: int, now: float) -> None:
        """Lend nothing more to a node that leaves."""
        self._leaving.add(node)
        for shape in self._shapes.values():
            shape.lease(node, 0)
            for bound in list(shape.bound.get(node, {}).values()):
                shape.unbind(bound.task)
                self.place(bound.task, now)

    def node_lost(self, node: int, cause: str, now: float) -> None:
        """Retry what a dead node had, and place anew what was to go there."""
        self._leaving.discard(node)
        tasks = self.lent.pop(node, {})
        self._told_templates.pop(node, None)
        self._told_functions.pop(node, None)
        for nodes in self._jobs.values():
            nodes.discard(node)
        for shape in self._shapes.values():
            for task in shape.remove_node(node):
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
        for shape in self._shapes.forget_job(job):
            if shape.reported:
                self._demand([ShapeDemand(shape.number, shape.resources, 0)])

    def lends_to(self, node: int) -> bool:
        """Say whether a node is there and does not leave."""
        return node in self._nodes and node not in self._leaving

    def ask_again(self) -> None:
        """Tell a global scheduler that has just come what is wanted; it knows of no leases."""
        for shape in self._shapes.values():
            shape.reported = 0
            shape.end_leases()

    # --- where a task runs ----------------------------------------------------------------

    def place(self, task: TaskRecord, now: float) -> None:
        """Bind a task to where its inputs are, or have them brought here."""
        if not task.template.feasible:
            self._work.passed_up.pass_up(task, self._work.now)
            return
        here, at, size = shares_of_inputs(task, self._objects, self.lends_to)
        best = max(at, key=at.__getitem__, default=0)
        if not self._pool.locality:
            best = self._any_node()
            at, here = {best: 1}, 0
        if not best:
            self.bring(task)
            return
        transfer = size / _BANDWIDTH
        cost = task.template.cost
        seconds = _WORTH_A_SLOT if cost is None else cost + transfer
        patience = max(_LEAST_PATIENCE, transfer)
        shape = self._shapes.of(task)
        more = (here - at[best]) / _BANDWIDTH
        if more >= 0 and not self._is_sooner(task, shape, best, more):
            best, patience = self._node, 0.0
        shape.bind(task, best, now, now + patience, seconds, transfer)

    def _is_sooner(self, task: TaskRecord, shape: Shape, node: int, more: float) -> bool:
        """Say whether a task begins sooner at a node, where more seconds go into its inputs."""
        queue = self._pool.queues.get(task.template.shape)
        if queue is None:
            return False
        cost = task.template.cost
        ahead = len(shape.coming) + len(shape.bound.get(self._node, ())) + queue.ahead_of(task)
        return shape.wait_at(node, cost) + more < _wait_for(ahead, queue, cost)

    def bring(self, task: TaskRecord) -> None:
        """Have a task's inputs brought here, where it shall run."""
        for record in wanted_by(task, self._objects):
            self._fetching.want(record, urgent=False)

    def _any_node(self) -> int:
        """Return each node in turn; 0: this one."""
        self._turn = (self._turn + 1) % (len(self._nodes) + 1)
        return (0, *sorted(self._nodes))[self._turn]

    def forget(self, task: TaskRecord) -> None:
        """Note that a task does not wait to be lent any more."""
        shape = self._shapes.get(task.template.shape)
        if shape is not None:
            shape.unbind(task)
            shape.coming.discard(task.spec.task_id)

    # --- leases ---------------------------------------------------------------------------

    def leases_changed(self, leases: list[wire.Lease]) -> None:
        """Take in how many tasks others will run for this node."""
        for lease in leases:
            shape = self._shapes.numbered(lease.shape)
            if shape is None:
                continue
            shape.lease(lease.node, lease.slots if self.lends_to(lease.node) else 0)

    def balance(self, now: float) -> None:
        """Lend what can be lent, and say what else is wanted; called after each event."""
        self._now = now
        for key, queue in self._pool.queues.items():
            if queue and not (key[1] or key[2] or key[4] or self._shapes.get(key)):
                head = queue.head()
                assert head is not None
                self._shapes.of(head)
        for key, shape in self._shapes.items():
            if shape.matched:
                self._lend_to_inputs(shape)
            queue_now = self._pool.queues.get(key)
            if queue_now and shape.open:
                self._lend_ready(shape, queue_now)
            if shape.waiting:
                self._run_anywhere(shape, now)
        if not 0 <= now - self._recalled_at < _RECALL_SECONDS:
            self._recalled_at = now
            self._recall(now)
            self._shapes.forget_unused(self._pool.queues)
        self._report(now)

    def _lend_to_inputs(self, shape: Shape) -> None:
        """Lend the tasks whose inputs are at nodes that have room."""
        for node in list(shape.matched):
            known = shape.nodes[node]
            tasks: list[TaskRecord] = []
            while node in shape.matched:
                task = next(iter(shape.bound[node].values())).task
                if not known.has_room(task.template.cost):
                    shape.close(node)
                    break
                shape.unbind(task)
                self._count_lent(shape, node, task)
                tasks.append(task)
            self._send(node, tasks)

    def _lend_ready(self, shape: Shape, queue: ReadyQueue) -> None:
        """Lend what is ready here and waits for a worker."""
        head = queue.head()
        wait = _wait_for(1, queue, head.template.cost if head is not None else None)

        def may_go(task: TaskRecord, ahead: int) -> bool:
            if not task.spec.dependencies:
                return True
            most = max(_LARGE, (ahead + 1) * wait * _BANDWIDTH / 2)
            return stored_here(task, self._objects) < most

        while queue and shape.open:
            node = next(iter(shape.open))
            known = shape.nodes[node]
            tasks: list[TaskRecord] = []
            while queue:
                head = queue.head()
                assert head is not None
                if not known.has_room(head.template.cost):
                    shape.close(node)
                    break
                taken = queue.take(1, may_go, _SCANNED)
                if not taken:
                    self._send(node, tasks)
                    return
                self._count_lent(shape, node, taken[0])
                tasks.append(taken[0])
            self._send(node, tasks)

    def _run_anywhere(self, shape: Shape, now: float) -> None:
        """Run tasks that have waited long enough for where their inputs are, if they could run."""
        resources = self._pool.resources
        if self._node in shape.bound:
            # As many as could run here at once may be on their way, so that no worker waits.
            slots = resources.how_often_in_all(shape.resources, _MOST_COMING)
            self._take_in(shape, shape.take_bound(self._node, slots - len(shape.coming)))
        room = resources.how_often(shape.resources, _MOST_COMING) - len(shape.coming)
        if room > 0:
            self._take_in(shape, shape.impatient(now, room))
        if not (shape.open and shape.has_impatient(now)):
            return
        for node, slots in shape.idle_slots():
            tasks = shape.impatient(now, slots)
            if not tasks:
                return
            for task in tasks:
                self._count_lent(shape, node, task)
            if not shape.nodes[node].has_room(0.0):
                shape.close(node)
            self._send(node, tasks)

    def _take_in(self, shape: Shape, tasks: list[TaskRecord]) -> None:
        """Have the inputs of tasks brought here, which will run here then."""
        for task in tasks:
            shape.coming.add(task.spec.task_id)
            self.bring(task)

    def _recall(self, now: float) -> None:
        """Recall tasks that wait where nothing gets on, if they could begin elsewhere."""
        for key, shape in self._shapes.items():
            if not shape.lent or shape.waiting or key[4] or self._pool.queues.get(key):
                continue
            if shape.has_idle_slots or self._pool.resources.how_often(shape.resources, 1):
                for node, count in shape.stuck(now, _RECALL_SECONDS):
                    self._recall_from(node, key, min(count, _MOST_RECALLED))

    def _recall_from(self, node: int, key: tuple[Any, ...], count: int) -> None:
        latest = (
            task_id
            for task_id, task in reversed(self.lent[node].items())
            if task.template.shape == key and not has_stored_inputs(task, self._objects)
        )
        task_ids = list(islice(latest, count))
        if task_ids:
            self._tell(node, wire.RecallTasks(task_ids))

    # --- what is wanted of others -----------------------------------------------------------

    def _report(self, now: float) -> None:
        changed = []
        passed = now - self._reported_at
        due = not 0 <= passed < _REPORT_SECONDS
        for key, shape in self._shapes.items():
            if key[4]:
                continue  # these need no lease
            count, seconds = self._estimate(key, shape)
            # Tasks that are bound do not wait long for a lease where their inputs are.
            elsewhere = bool(shape.bound) and not shape.preferred.issuperset(shape.bound)
            if count == shape.reported and not elsewhere:
                continue
            began_or_ended = not count or not shape.reported
            grew = count > shape.reported * _GROWTH and passed >= _GROWTH_SECONDS
            if due or began_or_ended or grew or elsewhere:
                shape.reported = count
                shape.preferred = frozenset(shape.bound)
                nodes = shape.nodes_of_bound(_MOST_NAMED) if shape.bound else []
                nodes = [node for node in nodes if node != self._node]
                changed.append(ShapeDemand(shape.number, shape.resources, count, seconds, nodes))
        if changed:
            self._reported_at = now
            self._demand(changed)

    def _estimate(self, key: tuple[Any, ...], shape: Shape) -> tuple[int, float]:
        """Return how many tasks wait for others to run them, or are with others already.

        And for how many seconds one uses a slot, on average.
        """
        count = shape.waiting + shape.lent
        seconds = shape.bound_seconds + shape.lent_seconds
        queue = self._pool.queues.get(key)
        if queue:
            cost = queue.mean_cost(_SAMPLE)
            if cost is None or len(queue) * cost > _SOON_SECONDS * max(1, len(queue.workers)):
                count += len(queue)
                seconds += len(queue) * (_WORTH_A_SLOT if cost is None else cost)
        return count, seconds / count if count else -1.0

    def _demand(self, demands: list[ShapeDemand]) -> None:
        self._outgoing.actions.append(SendGlobal(wire.Demands(demands)))

    @property
    def is_busy(self) -> bool:
        """Whether tasks wait for a lease or for their inputs."""
        return any(shape.bound for shape in self._shapes.values())

    # --- lending --------------------------------------------------------------------------

    def lend(self, node: int, tasks: list[TaskRecord]) -> None:
        """Have a node run tasks of one job, whose inputs all exist."""
        for task in tasks:
            self._count_lent(self._shapes.of(task), node, task)
        self._send(node, tasks)

    def lend_creation(self, node: int, creation: TaskRecord) -> None:
        """Have a node create an actor that the global scheduler has placed there."""
        self._send(node, [creation])

    def _count_lent(self, shape: Shape, node: int, task: TaskRecord) -> None:
        # The estimate stays with the task: as much is taken off again when it has ended.
        cost = task.template.cost
        task.cost = _WORTH_A_SLOT if cost is None else cost
        shape.lend(node, task.cost, self._now)
        self.lent.setdefault(node, {})[task.spec.task_id] = task

    def _send(self, node: int, tasks: list[TaskRecord]) -> None:
        if not tasks:
            return
        told = self._told_templates.setdefault(node, set())
        values: dict[ObjectID, ObjectValue] = {}
        located: dict[ObjectID, wire.Whereabouts] = {}
        templates = []
        for task in tasks:
            if task.template not in told:
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
        attempts = {task.spec.task_id: task.attempts - 1 for task in tasks if task.attempts > 1}
        self._tell(
            node,
            wire.Lend(
                self._pool.job_settings[job],
                templates,
                specs,
                list(values.values()),
                list(located.values()),
                self._pool.starts.modules.get(job, []),
                attempts,
            ),
        )

    def _introduce(self, node: int, template: TemplateRecord) -> wire.LentTemplate:
        self._told_templates[node].add(template)
        function_id = template.template.function_id
        function = self._pool.functions.get(function_id)
        told = self._told_functions.setdefault(node, set())
        mark = (template.shape[0], function_id)
        lent = template.template
        if lent.strategy is None and not template.feasible:
            # Passed up: it is where it has been placed, and takes nothing of a lease there.
            lent = structs.replace(lent, strategy=Strategy("NODE", node=node))
        if function is None or mark in told:
            return wire.LentTemplate(template.number, lent, b"", [])
        told.add(mark)
        return wire.LentTemplate(template.number, lent, function.code, function.nested)

    # --- what becomes of lent tasks -------------------------------------------------------

    def results(self, node: int, results: list[wire.TaskResult]) -> None:
        """Take in how tasks have ended on another node."""
        for result in results:
            task = self._take(node, result.task_id)
            if task is None and self.creation_failed(node, result):
                self._let_go(node, result.values)
                continue
            if task is None or not self._work.lent_ended(task, result):
                # Nothing is taken over: this comes before the task is lent again.
                kept = _kept_there(result.values)
                if kept:
                    self._tell(node, wire.Forget(kept))
                continue
            for value in result.values:
                self.deliver(node, value)
            self._work.close_delivered(task)

    def _take(self, node: int, task_id: TaskID) -> TaskRecord | None:
        task = self.lent.get(node, {}).pop(task_id, None)
        if task is not None:
            shape = self._shapes.get(task.template.shape)
            if shape is not None:
                shape.take_back(node, task.cost, self._now)
        return task

    def deliver(self, node: int, value: ObjectValue, holder: ProcessNumber | None = None) -> None:
        """Take in a value of an object of ours that a node has made, and keeps if it is stored.

        `holder` is a process that holds the object because it has called for it, if it is new.
        """
        if value.kind != _STORED:
            self._work.deliver([value], holder)
            if value.nested:
                self._let_go(node, [value])
            return
        record = self._objects.records.get(value.object_id)
        if record is None and holder is not None:
            self._objects.create(value.object_id, holder, None)
            record = self._objects.records[value.object_id]
        if record is None or record.value is not None:
            self._let_go(node, [value])
            return
        remote = record.remote
        if remote is None:
            remote = record.remote = Remote(is_ours=True)
        if remote.exists:
            if node not in remote.nodes:
                self._let_go(node, [value])
            return
        remote.size = value.size
        remote.nodes[node] = True
        remote.kept_by = node
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
            else:
                self.creation_given_back(node, task_id)

    def cancel(self, task: TaskRecord, *, force: bool, recursive: bool) -> None:
        """Cancel a task that a node has, with `recursive` also what it has submitted there."""
        if task.lent_to in self._nodes:
            message = wire.CancelLent([task.spec.task_id], force, recursive)
            self._tell(task.lent_to, message)


def _wait_for(count: int, queue: ReadyQueue, cost: float | None) -> float:
    """Return after how many seconds so many more tasks of a queue have begun."""
    return count * (_WORTH_A_SLOT if cost is None else cost) / max(1, len(queue.workers))


def _unexpected(node: int, result: wire.TaskResult) -> bool:
    return False


def _nothing_to_place(node: int, task_id: TaskID) -> None:
    pass


def _kept_there(values: list[ObjectValue]) -> list[ObjectID]:
    """Return the values that the node which made them keeps until it is told to forget them."""
    return [value.object_id for value in values if value.kind == _STORED or value.nested]


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
