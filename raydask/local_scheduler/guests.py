"""Tasks of other nodes that this one runs. Pure.

A guest is submitted here by its home as if by a process: it waits for its inputs, which are
brought here, and for a worker.  Its results go home, small ones in the message; large ones stay
in the store here, held by the home, until that lets go of them.  Whatever becomes of a guest is
for its home to say, so one whose worker has died is reported and not run again here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from raydask.errors import TaskCancelledError
from raydask.ids import ObjectID, TaskID, home_of_job, node_of_peer, peer_process
from raydask.local_scheduler.borrowing import Borrowing
from raydask.local_scheduler.functions import FunctionTable
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.records import (
    ObjectRecord,
    Remote,
    TaskRecord,
    TaskState,
    TemplateRecord,
)
from raydask.local_scheduler.tasks import TaskTable
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.object_store.state import StoreState
from raydask.serialization import serialize_error
from raydask.task import TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.messages import ObjectValue, TaskResult, ValueKind

_STORED = int(ValueKind.STORED)


class Guests:
    """The guests of one node.

    Parameters
    ----------
    work : TaskTable
    objects : ObjectTable
    pool : WorkerPool
    store : StoreState
    functions : FunctionTable
    borrowing : Borrowing
    new_template : callable
        Makes the record of a template, for a job and the node that lends its tasks.

    Attributes
    ----------
    jobs : dict of int to set of int
        Jobs of which there are or were guests, with the nodes that they came from.
    carried : dict
        By home and by object: what values that have gone home contain, which is held until the
        home holds it, or wants none of it.  One for each attempt: the task may run here again.
    """

    def __init__(
        self,
        work: TaskTable,
        objects: ObjectTable,
        pool: WorkerPool,
        store: StoreState,
        functions: FunctionTable,
        borrowing: Borrowing,
        new_template: Callable[[TaskTemplate, int, int], TemplateRecord],
    ) -> None:
        self._work = work
        self._objects = objects
        self._pool = pool
        self._store = store
        self._functions = functions
        self._borrowing = borrowing
        self._new_template = new_template
        self.jobs: dict[int, set[int]] = {}
        self.carried: dict[int, dict[ObjectID, list[list[ObjectID]]]] = {}
        self._templates: dict[int, dict[int, TemplateRecord]] = {}
        self._results: dict[int, list[TaskResult]] = {}

    def lend(self, node: int, message: wire.Lend) -> None:
        """Take in tasks that a node wants to be run here."""
        settings = message.settings
        job = settings.job
        self._pool.job_settings.setdefault(job, settings)
        self.jobs.setdefault(job, set()).add(node)
        self._pool.starts.prepare(settings, message.modules, self._work.now)
        templates = self._templates.setdefault(node, {})
        for lent in message.templates:
            template = lent.template
            templates[lent.number] = self._new_template(template, job, node)
            if lent.code:
                self._functions.export(
                    template.function_id, lent.code, template.name, lent.nested, job, is_ours=False
                )
        process = peer_process(node)
        for spec in message.specs:
            attempts = message.attempts.get(spec.task_id, 0)
            self._work.submit(spec, templates[spec.template], process, job, attempts)

    def knows(self, node: int, template: int) -> bool:
        """Say whether a node has sent the template with this number."""
        return template in self._templates.get(node, ())

    def recall(self, node: int, task_ids: list[TaskID]) -> list[TaskID]:
        """Take back guests that have not begun; return which."""
        found = []
        for task_id in task_ids:
            task = self._work.records.get(task_id)
            if task is None or not task.is_guest or node_of_peer(task.submitter) != node:
                continue
            if task.state in (TaskState.READY, TaskState.WAITING):
                found.append(task)
        self._pool.withdraw({task for task in found if task.state == TaskState.READY})
        for task in found:
            self._work.dismiss(task)
        return [task.spec.task_id for task in found]

    def give_back(self) -> None:
        """Give all guests back to their homes that have not begun."""
        guests: dict[int, list[TaskID]] = {}
        for task in self._work.records.values():
            if task.is_guest and task.state in (TaskState.READY, TaskState.WAITING):
                guests.setdefault(node_of_peer(task.submitter), []).append(task.spec.task_id)
        for node, task_ids in guests.items():
            self._borrowing.say(node, wire.GiveBack(self.recall(node, task_ids)))

    def cancel(self, node: int, message: wire.CancelLent) -> None:
        """Cancel guests."""
        records = self._work.records
        process = peer_process(node)
        tasks = [records[task_id] for task_id in message.task_ids if task_id in records]
        tasks = [task for task in tasks if task.is_guest and task.submitter == process]
        if message.recursive:
            tasks = self._work.with_children(tasks)
        error = serialize_error(TaskCancelledError("the task was cancelled"))
        self._work.cancel_all(tasks, error, message.force, recursive=message.recursive)

    def ended(self, task: TaskRecord, result: TaskResult) -> None:
        """Note how a guest has ended; its home is told with the others of this event."""
        node = node_of_peer(task.submitter)
        result.values = [self._for_home(node, value) for value in result.values]
        self._results.setdefault(node, []).append(result)

    def return_values(self, node: int, process: int, values: list[ObjectValue]) -> None:
        """Give a process of another node what an actor here has made for it."""
        kept = [self._for_home(node, value) for value in values]
        self._borrowing.say(node, wire.ReturnValues(process, kept))

    def _for_home(self, node: int, value: ObjectValue) -> ObjectValue:
        """Keep for a home what it cannot be sent whole; return what it is sent."""
        if value.kind != _STORED:
            if value.nested and peer_process(node) in self._objects.held:
                for nested in value.nested:
                    self._objects.hold(nested)
                carried = self.carried.setdefault(node, {})
                carried.setdefault(value.object_id, []).append(list(value.nested))
            return value
        held = self._objects.held.get(peer_process(node))
        if held is None:  # its node has died
            self._store.free(value.object_id)
            return value
        record = self._objects.records.get(value.object_id)
        if record is None:
            record = ObjectRecord(value.object_id, None)
            record.remote = Remote(is_ours=False)
            self._objects.records[value.object_id] = record
        assert record.remote is not None
        if value.object_id not in held:
            held.add(value.object_id)
            record.count += 1
            record.remote.guards += 1
        if record.value is None:
            record.remote.nested = value.nested
            for nested in value.nested:
                self._objects.hold(nested)
            copy = ObjectValue(value.object_id, value.kind, value.data, value.offset, value.size)
            self._work.came(record, copy)
        return ObjectValue(value.object_id, _STORED, b"", 0, value.size, value.nested)

    def flush(self) -> None:
        """Tell homes how guests have ended; called after each event."""
        if self._results:
            for node, results in self._results.items():
                self._borrowing.say(node, wire.LentResults(results))
            self._results = {}

    def forget(self, node: int, object_id: ObjectID) -> bool:
        """Let go of what a value contains that has gone home; say whether there was any."""
        carried = self.carried.get(node, {})
        attempts = carried.get(object_id)
        if not attempts:
            return False
        for nested in attempts.pop(0):
            self._objects.drop(nested)
        if not attempts:
            del carried[object_id]
        return True

    def end_job(self, job: int) -> None:
        """Forget a job.

        Nodes that do not know yet that it has ended may still lend tasks of it: their templates
        stay until they say that they do.
        """
        self.jobs.pop(job, None)

    def forget_templates(self, node: int, job: int) -> None:
        """Forget the templates of a job that has ended at a node which lent tasks of it."""
        templates = self._templates.get(node, {})
        for number in [each for each, known in templates.items() if known.shape[0] == job]:
            del templates[number]

    def node_lost(self, node: int) -> list[int]:
        """End the guests of a dead node; return the jobs that end with it."""
        self._templates.pop(node, None)
        self._results.pop(node, None)
        for attempts in self.carried.pop(node, {}).values():
            for nested in chain.from_iterable(attempts):
                self._objects.drop(nested)
        process = peer_process(node)
        guests = [
            task
            for task in self._work.records.values()
            if task.is_guest and task.submitter == process
        ]
        error = serialize_error(TaskCancelledError(f"node {node}, the task's home, is dead"))
        self._work.cancel_all(guests, error, force=True)
        ended = []
        for job, nodes in self.jobs.items():
            nodes.discard(node)
            # Two that have lent each other tasks of a job do not keep it.
            if not nodes or home_of_job(job) == node:
                ended.append(job)
        return ended
