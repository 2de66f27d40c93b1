"""Stopping tasks that a worker has: by word, and if that does not help by force. Pure."""

from __future__ import annotations

from raydask.errors import TaskTimeoutError
from raydask.ids import TaskID
from raydask.local_scheduler.actions import SendControl
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import TaskRecord
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.serialization import serialize_error
from raydask.wire.messages import CancelTask

_GRACE_SECONDS = 1.0
_TIMED_OUT = "timeout"


class Interruptions:
    """Tasks that shall not go on.

    Parameters
    ----------
    pool : WorkerPool
    outgoing : Outgoing
    """

    def __init__(self, pool: WorkerPool, outgoing: Outgoing) -> None:
        self._pool = pool
        self._outgoing = outgoing
        self._doomed: dict[TaskID, bytes] = {}

    def doom(self, task: TaskRecord, error: bytes) -> None:
        """See that the task does not run again; `error` is what becomes of it instead.

        A word may come too late: the worker may have given the task back, or die of something
        else, or the function may fail in a way that its options retry.
        """
        self._doomed[task.spec.task_id] = error

    def doom_of(self, task: TaskRecord) -> bytes | None:
        """Return the serialized error of a task that shall not run again."""
        return self._doomed.get(task.spec.task_id)

    def forget(self, task: TaskRecord) -> None:
        """Forget a task that has ended."""
        self._doomed.pop(task.spec.task_id, None)

    def interrupt(self, task: TaskRecord, reason: str, *, force: bool) -> None:
        """Interrupt a task that a worker has.

        Parameters
        ----------
        task : TaskRecord
        reason : str
            ``"cancelled"`` or ``"timeout"``.
        force : bool
            Whether to end the worker, which may be running another task, rather than to ask.
        """
        worker = task.worker
        if worker is None:
            return
        if force:
            self._pool.kill(worker, f"task {task.template.template.name!r} was ended: {reason}")
        else:
            message = CancelTask(task.spec.task_id, reason)
            self._outgoing.actions.append(SendControl(worker.process, message))

    def act_on_overdue(self, tasks: list[TaskRecord], now: float) -> None:
        """Interrupt tasks that run longer than they may, and end those that do not react."""
        for task in tasks:
            if now > task.deadline + _GRACE_SECONDS:
                template = task.template.template
                error = TaskTimeoutError(
                    f"task {template.name!r} ran longer than its timeout of "
                    f"{template.timeout:g} s and did not react to the interrupt; its worker was "
                    "ended"
                )
                self.doom(task, serialize_error(error))
                self.interrupt(task, _TIMED_OUT, force=True)
            elif task.error != _TIMED_OUT:
                task.error = _TIMED_OUT
                self.interrupt(task, _TIMED_OUT, force=False)
