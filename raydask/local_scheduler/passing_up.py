"""Tasks that this node cannot run, and what the global scheduler says of them. Pure.

A task is passed up when its inputs exist and its resources are more than the node has in all, or
it has a strategy, which is for the global scheduler to follow.  It waits there for a node.  The
driver is told at once when there is none that could run it, and after a while the task fails, so
that nothing waits for ever for what will not come.  What can be placed later, because its
placement group is not reserved yet, may wait for as long as that takes, also after it has been
said for a while that the cluster could not hold the group.
"""

from __future__ import annotations

from raydask.errors import InfeasibleError
from raydask.ids import PlacementGroupID, TaskID
from raydask.local_scheduler.actions import SendGlobal
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import TaskRecord
from raydask.task import TaskKind, in_units
from raydask.wire.messages import PassedUp, PassUp, WithdrawTasks

_NEVER = float("inf")


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
        self._staying: set[TaskID] = set()
        self._details: dict[TaskID, str] = {}

    @property
    def infeasible(self) -> int:
        """How many there are that no node could run, as far as is known."""
        return sum(deadline < _NEVER for _, deadline in self._waiting.values())

    def wait_for_place(self, task: TaskRecord, now: float) -> None:
        """Note a task; whoever calls this has asked the global scheduler, or `pass_up` does."""
        if not self._waiting:
            self._said.clear()
        waits_for_node = task.template.template.strategy is None
        deadline = now + self._patience if waits_for_node else _NEVER
        self._waiting[task.spec.task_id] = (task, deadline)

    def pass_up(self, task: TaskRecord, now: float) -> None:
        """Ask the global scheduler for a place."""
        self.wait_for_place(task, now)
        self._ask(task)

    def ask_again(self) -> None:
        """Ask for all that wait: what an earlier global scheduler was told may be lost.

        Actors ask for themselves.  Whether a group could be held is found out and said anew.
        """
        for task, _ in list(self._waiting.values()):
            if _group_of(task) is not None:
                self._believe(task)
            if task.template.template.kind == TaskKind.NORMAL:
                self._ask(task)

    def _ask(self, task: TaskRecord) -> None:
        template = task.template.template
        passed = PassedUp(task.spec.task_id, template.name, template.resources, template.strategy)
        self._outgoing.actions.append(SendGlobal(PassUp(self._node, [passed])))

    def take(self, task_id: TaskID) -> TaskRecord | None:
        """Take a task out, because it has a place or is wanted no more."""
        self._staying.discard(task_id)
        self._details.pop(task_id, None)
        entry = self._waiting.pop(task_id, None)
        return entry[0] if entry is not None else None

    def stay(self, task: TaskRecord) -> None:
        """Note that a task has its place here and waits for its inputs to come."""
        self._staying.add(task.spec.task_id)

    def stays(self, task: TaskRecord) -> bool:
        """Say whether a task has its place here; it is taken out."""
        found = task.spec.task_id in self._staying
        self._staying.discard(task.spec.task_id)
        return found

    def doubt(self, task: TaskRecord, detail: str, now: float) -> None:
        """Let a task fail after a while: no node could run it, for this reason."""
        deadline = min(self._waiting[task.spec.task_id][1], now + self._patience)
        self._waiting[task.spec.task_id] = (task, deadline)
        if task.template.template.strategy is not None:
            self._details[task.spec.task_id] = detail

    def believe(self, group_id: PlacementGroupID) -> None:
        """Let a group's tasks wait for as long as it takes: the cluster could hold it now."""
        for task, _ in list(self._waiting.values()):
            if _group_of(task) == group_id:
                self._believe(task)

    def _believe(self, task: TaskRecord) -> None:
        self._waiting[task.spec.task_id] = (task, _NEVER)
        self._details.pop(task.spec.task_id, None)

    def withdraw(self, task_id: TaskID) -> None:
        """Take a task out that has ended, and have the global scheduler forget it."""
        if self.take(task_id) is not None:
            self._outgoing.actions.append(SendGlobal(WithdrawTasks([task_id])))

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

    def overdue(self, now: float) -> list[tuple[TaskRecord, InfeasibleError]]:
        """Return the tasks that have waited too long, each with its error."""
        overdue = [task for task, deadline in self._waiting.values() if now > deadline]
        return [(task, self._error(task)) for task in overdue]

    def _error(self, task: TaskRecord) -> InfeasibleError:
        template = task.template.template
        detail = self._details.get(task.spec.task_id)
        if detail is not None:
            return cannot_run(task, detail)
        wanted = in_units(template.resources)
        return InfeasibleError(
            f"no node could run {template.name!r}, which asks for {wanted}; ask for less, or "
            "start a node that has it"
        )


def _group_of(task: TaskRecord) -> PlacementGroupID | None:
    strategy = task.template.template.strategy
    return strategy.group if strategy is not None and strategy.kind == "GROUP" else None


def cannot_run(task: TaskRecord, detail: str) -> InfeasibleError:
    """Return the error of a task that no node can run, for this reason."""
    name = task.template.template.name
    return InfeasibleError(f"no node can run {name!r}: {detail}")
