"""What a node has lent, and may lend, of the tasks that ask for the same. Pure.

Every event of a home ends with the question of what could be lent now.  So that the answer does
not cost more the more nodes there are, what changes is noted where it changes:

open
    Nodes with a lease that is not used up, the one that has waited longest first.
bound
    Tasks that wait for a lease at the node where their inputs are.
matched
    Nodes that are open and have tasks bound to them.
coming
    Tasks that will run here, because their inputs are being brought here.

Ahead
-----
A node is given as many tasks as it has slots, and so many beyond that as are worth no more than a
few hundredths of a second for each slot: it goes on while the news of what has ended is under
way.  Tasks whose duration is unknown, or long, are not given ahead.
"""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, Sized, ValuesView
from itertools import islice
from math import inf
from typing import Any, NamedTuple

from raydask.ids import TaskID
from raydask.local_scheduler.records import TaskRecord

_AHEAD_SECONDS = 0.02
"""Of work for each slot."""
_MOST_AHEAD = 256
"""Tasks for each slot."""
_STUCK_TIMES = 2.0
"""A node is not waited for that has not got on for so many times what a task and moving its inputs
take."""
_LOOK_SECONDS = 0.005
"""After which a task is looked at again that has waited long enough and better stays."""


class LentToNode:
    """What one node has of a shape.

    Attributes
    ----------
    slots : int
        Of the lease; 0: there is none any more.
    count : int
        How many tasks it has.
    seconds : float
        What those take together, estimated.
    progress : float
        When it was last seen to get on.
    """

    __slots__ = ("count", "progress", "seconds", "slots")

    def __init__(self) -> None:
        self.slots = 0
        self.count = 0
        self.seconds = 0.0
        self.progress = 0.0

    def has_room(self, cost: float | None) -> bool:
        """Say whether it may be given a task that takes so many seconds (None: unknown)."""
        if self.count < self.slots:
            return True
        if cost is None or self.count >= self.slots * _MOST_AHEAD:
            return False
        return self.seconds + cost <= self.slots * _AHEAD_SECONDS


class Bound(NamedTuple):
    """A task that is bound to a node.

    Attributes
    ----------
    task : TaskRecord
    since, until : float
        From when until when it waits for that in any case.
    transfer : float
        Seconds that moving its inputs to another node would take, estimated.
    """

    task: TaskRecord
    since: float
    until: float
    transfer: float

    def is_patient(self, now: float) -> bool:
        """Say whether it still waits; it does not if the clock has been set back."""
        return self.since <= now < self.until


class Shape:
    """The tasks that ask for the same in one job.

    Parameters
    ----------
    number : int
        The node's number for it.
    job : int
    resources : dict of str to int

    Attributes
    ----------
    nodes : dict of int to LentToNode
        Those that have a lease, or tasks.
    lent : int
        How many tasks others have.
    lent_seconds : float
        What these take together, estimated.
    open, matched : dict of int to None
        Nodes, in order.
    bound : dict of int to dict of TaskID to Bound
        By the node where their inputs are.
    bound_seconds : float
        What these take together, estimated.
    coming : set of TaskID
    reported : int
        The number that the global scheduler was told last.
    preferred : frozenset of int
        The nodes that tasks were bound to then.
    """

    __slots__ = (
        "_all_patient",
        "_bound_to",
        "bound",
        "bound_seconds",
        "coming",
        "job",
        "lent",
        "lent_seconds",
        "matched",
        "nodes",
        "number",
        "open",
        "preferred",
        "reported",
        "resources",
    )

    def __init__(self, number: int, job: int, resources: dict[str, int]) -> None:
        self.number = number
        self.job = job
        self.resources = resources
        self.nodes: dict[int, LentToNode] = {}
        self.lent = 0
        self.lent_seconds = 0.0
        self.open: dict[int, None] = {}
        self.matched: dict[int, None] = {}
        self.bound: dict[int, dict[TaskID, Bound]] = {}
        self.bound_seconds = 0.0
        self._bound_to: dict[TaskID, tuple[int, float]] = {}
        self.coming: set[TaskID] = set()
        self._all_patient = (0.0, 0.0)
        """From when until when nothing that is bound has waited long enough."""
        self.reported = 0
        self.preferred: frozenset[int] = frozenset()

    @property
    def is_unused(self) -> bool:
        """Whether nothing is known of it but what its tasks ask for."""
        return not (self.nodes or self.lent or self._bound_to or self.coming or self.reported)

    # --- leases ---------------------------------------------------------------------------

    def lease(self, node: int, slots: int) -> None:
        """Take in that so many tasks may be with a node."""
        known = self.nodes.get(node)
        if known is None:
            if not slots:
                return
            known = self.nodes[node] = LentToNode()
        known.slots = slots
        self._open_or_close(node, known)

    def end_leases(self) -> None:
        """Forget all leases."""
        self.preferred = frozenset()
        for node in list(self.nodes):
            self.lease(node, 0)

    def remove_node(self, node: int) -> list[TaskRecord]:
        """Forget a dead node; return the tasks that were bound to it."""
        known = self.nodes.pop(node, None)
        if known is not None:
            self._count(-known.count, -known.seconds)
        self.close(node)
        tasks = [each.task for each in self.bound.get(node, {}).values()]
        for task in tasks:
            self.unbind(task)
        return tasks

    def _open_or_close(self, node: int, known: LentToNode) -> None:
        # Whether there is room for what is next is found out when it is to be lent.
        if known.slots and known.has_room(0.0):
            if node not in self.open:
                self.open[node] = None
                if node in self.bound:
                    self.matched[node] = None
            return
        self.close(node)
        if not known.slots and not known.count:
            del self.nodes[node]

    def close(self, node: int) -> None:
        """Note that there is no room for more at a node, until something changes there."""
        self.open.pop(node, None)
        self.matched.pop(node, None)

    # --- tasks that are lent ----------------------------------------------------------------

    def lend(self, node: int, seconds: float, now: float) -> None:
        """Count a task that a node is given, and that takes so long, estimated."""
        known = self.nodes.get(node)
        if known is None:
            known = self.nodes[node] = LentToNode()
        if known.count <= known.slots:
            known.progress = now
        known.count += 1
        known.seconds += seconds
        self._count(1, seconds)

    def take_back(self, node: int, seconds: float, now: float) -> None:
        """Count a task that a node has no more; `seconds` as when it was lent."""
        known = self.nodes.get(node)
        if known is None:
            return
        known.count -= 1
        known.seconds = known.seconds - seconds if known.count else 0.0
        known.progress = now
        self._count(-1, -seconds)
        self._open_or_close(node, known)

    def _count(self, tasks: int, seconds: float) -> None:
        self.lent += tasks
        # Nothing of what is lost to rounding shall stay.
        self.lent_seconds = self.lent_seconds + seconds if self.lent else 0.0

    @property
    def has_idle_slots(self) -> bool:
        """Whether a task that waits elsewhere could begin at once at some node."""
        return bool(self.idle_slots())

    def idle_slots(self) -> list[tuple[int, int]]:
        """Return nodes that have fewer tasks than slots, and how many fewer."""
        # Others may be open because they can be given short tasks ahead.
        opened = ((node, self.nodes[node]) for node in self.open)
        return [(node, at.slots - at.count) for node, at in opened if at.count < at.slots]

    def stuck(self, now: float, patience: float) -> list[tuple[int, int]]:
        """Return nodes that have more than their slots and do not get on, and how many more."""
        found = []
        for node, known in self.nodes.items():
            if known.count > known.slots and not 0 <= now - known.progress <= patience:
                known.progress = now
                found.append((node, known.count - known.slots))
        return found

    # --- tasks that are bound ---------------------------------------------------------------

    def bind(
        self,
        task: TaskRecord,
        node: int,
        since: float,
        until: float,
        seconds: float,
        transfer: float = 0.0,
    ) -> None:
        """Let a task wait for a lease at a node until a time; it may have waited for another.

        Parameters
        ----------
        task : TaskRecord
        node : int
        since : float
            Now.
        until : float
        seconds : float
            For how long it will use a slot, estimated.
        transfer : float
            For how long its inputs would be on their way to another node, estimated.
        """
        self.unbind(task)
        bound = Bound(task, since, until, transfer)
        self.bound.setdefault(node, {})[task.spec.task_id] = bound
        self._bound_to[task.spec.task_id] = (node, seconds)
        self.bound_seconds += seconds
        begin, end = self._all_patient
        self._all_patient = (max(begin, since), min(end, until))
        if node in self.open:
            self.matched[node] = None

    @property
    def waiting(self) -> int:
        """How many tasks are bound."""
        return len(self._bound_to)

    def take_bound(self, node: int, most: int) -> list[TaskRecord]:
        """Take out at most so many of the tasks that are bound to a node."""
        bound = islice(self.bound.get(node, {}).values(), max(0, most))
        tasks = [each.task for each in bound]
        for task in tasks:
            self.unbind(task)
        return tasks

    def unbind(self, task: TaskRecord) -> None:
        """Note that a task does not wait any more, if it did."""
        place = self._bound_to.pop(task.spec.task_id, None)
        if place is not None:
            node, seconds = place
            self.bound_seconds = self.bound_seconds - seconds if self._bound_to else 0.0
            tasks = self.bound[node]
            del tasks[task.spec.task_id]
            if not tasks:
                del self.bound[node]
                self.matched.pop(node, None)

    def has_impatient(self, now: float) -> bool:
        """Say whether any task has waited long enough."""
        begin, end = self._all_patient
        if begin <= now < end:
            return False
        heads = [next(iter(tasks.values())) for tasks in self.bound.values()]
        if not all(head.is_patient(now) for head in heads):
            return True
        self._all_patient = (now, min((head.until for head in heads), default=inf))
        return False

    def impatient(self, now: float, most: int) -> list[TaskRecord]:
        """Take out at most so many of the tasks that have waited long enough.

        Those stay whose turn at their node comes sooner than their inputs would be elsewhere.
        """
        begin, end = self._all_patient
        if begin <= now < end:
            return []
        found: list[TaskRecord] = []
        earliest = inf
        for node, tasks in self.bound.items():
            movable = self._movable(node, now)
            for count, each in enumerate(tasks.values()):
                if each.is_patient(now):
                    earliest = min(earliest, each.until)
                    break
                if count + 1 > movable:
                    earliest = min(earliest, now + _LOOK_SECONDS)
                    break
                if len(found) >= most:
                    earliest = min(earliest, now)
                    break
                found.append(each.task)
        self._all_patient = (now, earliest)
        for task in found:
            self.unbind(task)
        return found

    def wait_at(self, node: int, cost: float | None) -> float:
        """Return after how many seconds a node would begin one more task; `cost` as of the others.

        Infinite if it has no lease, or the cost is not known.
        """
        known = self.nodes.get(node)
        if known is None or not known.slots or cost is None:
            return inf
        return (known.seconds + len(self.bound.get(node, ())) * cost) / known.slots

    def _movable(self, node: int, now: float) -> float:
        """Return how many of the tasks bound to a node others could begin sooner than it does."""
        first = next(iter(self.bound[node].values()))
        cost = first.task.template.cost
        known = self.nodes.get(node)
        if known is None or not known.slots or not cost or not first.transfer:
            return inf
        if not 0 <= now - known.progress <= _STUCK_TIMES * (cost + first.transfer):
            return inf
        return (self.wait_at(node, cost) - first.transfer) * known.slots / cost

    def nodes_of_bound(self, most: int) -> list[int]:
        """Return the nodes that most tasks are bound to."""
        return sorted(self.bound, key=lambda node: -len(self.bound[node]))[:most]


class ShapeTable:
    """The shapes of one node's tasks, each with a number by which the global scheduler knows it."""

    def __init__(self) -> None:
        self._numbers = 0
        self._shapes: dict[tuple[Any, ...], Shape] = {}
        self._by_number: dict[int, Shape] = {}

    def of(self, task: TaskRecord) -> Shape:
        """Return a task's shape, a new one if it is the first of its kind."""
        key = task.template.shape
        shape = self._shapes.get(key)
        if shape is None:
            self._numbers += 1
            shape = Shape(self._numbers, task.job, task.template.template.resources)
            self._shapes[key] = self._by_number[self._numbers] = shape
        return shape

    def get(self, key: tuple[Any, ...]) -> Shape | None:
        """Return the shape of templates with this key, or None."""
        return self._shapes.get(key)

    def numbered(self, number: int) -> Shape | None:
        """Return the shape with this number, or None if it has been forgotten."""
        return self._by_number.get(number)

    def items(self) -> ItemsView[tuple[Any, ...], Shape]:
        """Return the shapes with their keys."""
        return self._shapes.items()

    def values(self) -> ValuesView[Shape]:
        """Return the shapes."""
        return self._shapes.values()

    def forget_job(self, job: int) -> list[Shape]:
        """Forget the shapes of a job; return them."""
        keys = [key for key, shape in self._shapes.items() if shape.job == job]
        return [self._pop(key) for key in keys]

    def forget_unused(self, queues: Mapping[tuple[Any, ...], Sized]) -> None:
        """Forget shapes that have nothing and of which no task is ready.

        Each placement group has some of its own.
        """
        for key, shape in list(self._shapes.items()):
            if shape.is_unused and not queues.get(key):
                self._pop(key)

    def _pop(self, key: tuple[Any, ...]) -> Shape:
        shape = self._shapes.pop(key)
        del self._by_number[shape.number]
        return shape
