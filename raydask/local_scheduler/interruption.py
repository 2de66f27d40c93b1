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

    def interrupt(self, task: TaskRecord, reason: str, doom: bytes | None) -> None:
        """Interrupt a task that a worker has.

        Parameters
        ----------
        task : TaskRecord
        reason : str
            ``"cancelled"`` or ``"timeout"``.
        doom : bytes or None
            None: by word.  Otherwise the worker is ended, and this serialized error is what
            becomes of the task.
        """
        worker = task.worker
        if worker is None:
            return
        if doom is not None:
            self._doomed[task.spec.task_id] = doom
            self._pool.kill(worker, f"task {task.template.template.name!r} was ended: {reason}")
        else:
            message = CancelTask(task.spec.task_id, reason)
            self._outgoing.actions.append(SendControl(worker.process, message))

    def take_doom(self, task_id: TaskID) -> bytes | None:
        """Return the error of a task whose worker was ended because of it."""
        return self._doomed.pop(task_id, None)

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
                self.interrupt(task, _TIMED_OUT, serialize_error(error))
            elif task.error != _TIMED_OUT:
                task.error = _TIMED_OUT
                self.interrupt(task, _TIMED_OUT, None)
