"""Tasks that this node cannot run, and what the global scheduler says of them. Pure.

A task is passed up when its inputs exist and its resources are more than the node has in all.
It waits there for a node that has them.  The driver is told at once when there is none, and
after a while the task fails, so that nothing waits for ever for what will not come.
"""

from __future__ import annotations

from raydask.errors import InfeasibleError
from raydask.ids import TaskID
from raydask.local_scheduler.actions import SendGlobal
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import TaskRecord
from raydask.serialization import serialize_error
from raydask.task import TaskKind, in_units
from raydask.wire.messages import PassedUp, PassUp


class PassedUpTasks:
    """The tasks whose place is not known.

    Parameters
    ----------
    node : int
    outgoing : Outgoing
    patience : float
        Seconds after which a task fails.
    """

    def __init__(self, node: int, outgoing: Outgoing, patience: float) -> None:
        self._node = node
        self._outgoing = outgoing
        self._patience = patience
        self._waiting: dict[TaskID, tuple[TaskRecord, float]] = {}
        self._said: set[tuple[int, str, str]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def wait_for_place(self, task: TaskRecord, now: float) -> None:
        """Note a task; whoever calls this has asked the global scheduler, or `pass_up` does."""
        if not self._waiting:
            self._said.clear()
        self._waiting[task.spec.task_id] = (task, now + self._patience)

    def pass_up(self, task: TaskRecord, now: float) -> None:
        """Ask the global scheduler for a place."""
        self.wait_for_place(task, now)
        self._ask(task)

    def ask_again(self) -> None:
        """Ask for all that wait: what an earlier global scheduler was told may be lost.

        Actors ask for themselves.
        """
        for task, _ in self._waiting.values():
            if task.template.template.kind == TaskKind.NORMAL:
                self._ask(task)

    def _ask(self, task: TaskRecord) -> None:
        template = task.template.template
        passed = PassedUp(task.spec.task_id, template.name, template.resources)
        self._outgoing.actions.append(SendGlobal(PassUp(self._node, [passed])))

    def take(self, task_id: TaskID) -> TaskRecord | None:
        """Take a task out, because it has a place or is wanted no more."""
        entry = self._waiting.pop(task_id, None)
        return entry[0] if entry is not None else None

    def find(self, task_id: TaskID) -> TaskRecord | None:
        """Return a task that waits, or None."""
        entry = self._waiting.get(task_id)
        return entry[0] if entry is not None else None

    def notice(self, task: TaskRecord, detail: str) -> str:
        """Return what the user is told of a task for which there is no node.

        Empty: of its like the same has been said, and some of them still wait.
        """
        said = (task.job, task.template.template.name, detail)
        if said in self._said:
            return ""
        self._said.add(said)
        return (
            f"no node can run {task.template.template.name!r}: {detail}. It fails after "
            f"{self._patience:g} s unless a node that can joins"
        )

    def take_overdue(self, now: float) -> list[tuple[TaskRecord, bytes]]:
        """Take out the tasks that have waited too long, each with its serialized error."""
        overdue = [task for task, deadline in self._waiting.values() if now > deadline]
        for task in overdue:
            del self._waiting[task.spec.task_id]
        return [(task, self._error(task)) for task in overdue]

    def _error(self, task: TaskRecord) -> bytes:
        template = task.template.template
        wanted = in_units(template.resources)
        return serialize_error(
            InfeasibleError(
                f"no node could run {template.name!r}, which asks for {wanted}; ask for less, or "
                "start a node that has it"
            )
        )
