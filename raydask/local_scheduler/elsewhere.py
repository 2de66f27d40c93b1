"""What the tables of objects and tasks ask of whoever knows of other nodes. Pure.

`between_nodes.BetweenNodes` is both; a node that is alone has neither.
"""

from __future__ import annotations

from typing import Protocol

from raydask.ids import ObjectID, ProcessNumber
from raydask.local_scheduler.records import ObjectRecord, TaskRecord, WorkerRecord
from raydask.wire.messages import TaskResult


class Abroad(Protocol):
    """What becomes of objects that have to do with other nodes."""

    def meet(self, object_id: ObjectID) -> ObjectRecord | None:
        """Return a new record of an unknown object of another node's; None if it is ours."""

    def held(self, record: ObjectRecord) -> None:
        """Note that something more holds an object that has a `Remote`."""

    def less(self, record: ObjectRecord) -> None:
        """Note that something less holds an object that has a `Remote`, but not nothing."""

    def wanted(self, record: ObjectRecord) -> None:
        """Note that a process waits for the value of an object that is not here."""

    def watched(self, record: ObjectRecord) -> None:
        """Note that a process waits for an object to exist."""

    def tell(self, process: ProcessNumber, record: ObjectRecord) -> None:
        """Tell another node of an object of ours that exists now."""

    def let_go(self, record: ObjectRecord) -> bool:
        """Note that nothing here holds an object any more; say whether it goes."""


class Elsewhere(Protocol):
    """What becomes of tasks that have to do with other nodes."""

    def inputs_exist(self, task: TaskRecord) -> None:
        """Decide where a task runs some of whose inputs are elsewhere."""

    def input_unknown(self, record: ObjectRecord) -> None:
        """See that this node learns of an object of another node's that a task waits for."""

    def inputs_came(self, task: TaskRecord) -> None:
        """Note that all inputs of a task are here."""

    def guest_ended(self, task: TaskRecord, result: TaskResult) -> None:
        """Report how a task of another node has ended."""

    def decline(self, task: TaskRecord) -> None:
        """Give a guest back that this node has no place for any more."""

    def cancel(self, task: TaskRecord, *, force: bool, recursive: bool) -> None:
        """Cancel a task that another node has, with `recursive` also what it has submitted."""

    def closed(self, task: TaskRecord) -> None:
        """Forget a task that has ended while some of its inputs were elsewhere."""

    def bring(self, task: TaskRecord) -> None:
        """Bring the inputs of a task here."""

    def creation_ended(self, worker: WorkerRecord, task: TaskRecord, result: TaskResult) -> None:
        """Take in how the creation of another node's actor has ended."""

    def creation_died(self, task: TaskRecord, cause: str) -> None:
        """Report that a worker has died while it created another node's actor."""
