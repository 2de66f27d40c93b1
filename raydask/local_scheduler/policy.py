"""Which task next, and how many to which worker. Pure.

Order
-----
Higher ``priority`` first; then deeper tasks first, so that a recursion is finished branch by
branch and keeps few workers blocked; then in the order of submission.  Dask's tasks are
submitted in the order that ``dask.order`` gives them, so for them this is depth-first.

Root tasks
----------
The tasks of a graph that have no inputs make data; most others take in more than they make.
While the object store is short of room the first are held back: only when nothing else is
under way or ready, a few of them go, one for each worker.  dask.distributed calls this
queuing; it is what keeps a graph that reads much from reading faster than it works.

Pipelining
----------
A worker holds a few milliseconds' worth of short tasks, so that it does not idle while the
scheduler is busy elsewhere, and no more, so that others find work and a mistake in
the estimate costs little.  A task whose duration is unknown is alone in its worker.  When
there is less than a full pipeline for everybody, it is shared out evenly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush

from raydask.local_scheduler.records import UNKNOWN_COST, TaskRecord, WorkerRecord
from raydask.task import RESOURCE_UNIT

_GPU = "GPU"
_SEQUENCE_BITS = 40
_DEPTH_RANGE = 4096


def order_key(priority: int, depth: int, sequence: int) -> int:
    """Return the number by which ready tasks are ordered, least first.

    `depth` counts up to 4,095 and `sequence` up to 2**40.
    """
    rank = -priority * _DEPTH_RANGE - min(depth, _DEPTH_RANGE - 1)
    return (rank << _SEQUENCE_BITS) + sequence


class ReadyQueue:
    """Ready tasks that ask for the same resources in the same job.

    Tasks mostly become ready in order; those are kept in a plain queue, and only the
    others in a heap, whose operations cost more the longer it is.

    Parameters
    ----------
    job : int
    resources : dict of str to int
    """

    __slots__ = ("_heap", "_held", "_holds", "_run", "job", "resources", "workers")

    def __init__(self, job: int, resources: dict[str, int]) -> None:
        self.job = job
        self.resources = resources
        self.workers: dict[int, WorkerRecord] = {}
        """Workers that have tasks of this queue and are not blocked."""
        self._run: deque[tuple[int, TaskRecord]] = deque()
        self._heap: list[tuple[int, TaskRecord]] = []
        self._held: list[tuple[int, TaskRecord]] = []
        self._holds = False

    def __len__(self) -> int:
        """Return how many tasks can go; those that are held back do not count."""
        return len(self._run) + len(self._heap)

    def __iter__(self) -> Iterator[TaskRecord]:
        return (task for _, task in (*self._run, *self._heap, *self._held))

    @property
    def held_back(self) -> int:
        """How many root tasks are held back."""
        return len(self._held)

    def hold_roots(self) -> None:
        """Hold root tasks back from now on."""
        self._holds = True
        roots = [item for item in (*self._run, *self._heap) if _is_root(item[1])]
        if roots:
            others = [item for item in (*self._run, *self._heap) if not _is_root(item[1])]
            self._run = deque(sorted(others))
            self._heap = []
            self._held += roots
            heapify(self._held)

    def release_roots(self, count: int | None) -> None:
        """Let so many of the root tasks go that are held back; None lets all go, now and later."""
        if count is None:
            self._holds = False
            count = len(self._held)
        for _ in range(min(count, len(self._held))):
            self._add(*heappop(self._held))

    def push(self, task: TaskRecord) -> None:
        """Add a task."""
        if self._holds and _is_root(task):
            heappush(self._held, (task.key, task))
        else:
            self._add(task.key, task)

    def _add(self, key: int, task: TaskRecord) -> None:
        run = self._run
        if not run or key >= run[-1][0]:
            run.append((key, task))
        else:
            heappush(self._heap, (key, task))

    def head(self) -> TaskRecord | None:
        """Return the task that is next, or None."""
        run, heap = self._run, self._heap
        if heap and (not run or heap[0][0] < run[0][0]):
            return heap[0][1]
        return run[0][1] if run else None

    def pop(self) -> TaskRecord:
        """Take out the task that is next."""
        run, heap = self._run, self._heap
        if heap and (not run or heap[0][0] < run[0][0]):
            return heappop(heap)[1]
        return run.popleft()[1]

    def take(
        self, count: int, is_wanted: Callable[[TaskRecord], bool], most: int
    ) -> list[TaskRecord]:
        """Take out so many of the next tasks that are wanted, of the first `most`."""
        taken: list[TaskRecord] = []
        others: list[TaskRecord] = []
        while len(taken) < count and len(others) < most and (self._run or self._heap):
            task = self.pop()
            (taken if is_wanted(task) else others).append(task)
        for task in reversed(others):
            run = self._run
            if not run or task.key <= run[0][0]:
                run.appendleft((task.key, task))
            else:
                heappush(self._heap, (task.key, task))
        return taken

    def remove(self, tasks: set[TaskRecord]) -> None:
        """Take out these tasks."""
        kept = sorted(item for item in (*self._run, *self._heap) if item[1] not in tasks)
        self._run = deque(kept)
        self._heap = []
        self._held = [item for item in self._held if item[1] not in tasks]
        heapify(self._held)


def _is_root(task: TaskRecord) -> bool:
    return task.template.template.in_graph and not task.spec.dependencies


class Pipeline:
    """How much a worker may hold.

    Parameters
    ----------
    seconds : float
        Of estimated work.
    tasks : int
    """

    __slots__ = ("_seconds", "_tasks")

    def __init__(self, seconds: float, tasks: int) -> None:
        self._seconds = seconds
        self._tasks = tasks

    def take(self, queue: ReadyQueue, worker: WorkerRecord, share: int) -> list[TaskRecord]:
        """Take tasks out of the queue for a worker, at most `share` of them."""
        taken: list[TaskRecord] = []
        held = len(worker.queue)
        load = worker.load
        while len(taken) < share:
            task = queue.head()
            if task is None:
                break
            template = task.template
            cost = template.cost
            if cost is None or template.alone:
                cost = UNKNOWN_COST
            if held and (load + cost > self._seconds or held >= self._tasks):
                break
            queue.pop()
            task.cost = cost
            load += cost
            held += 1
            taken.append(task)
        worker.load = load
        return taken


class Resources:
    """What a node has, and what of it is free.

    CPUs may be free in negative numbers: workers that come out of a blocking ``get`` go on at
    once, and nothing new starts until the account is settled.

    GPUs are also counted device by device: whole ones are given to one worker alone, and a
    fraction shares one device with others, the fullest that has the room.

    Parameters
    ----------
    total : dict of str to int
        In steps of 1 / ``RESOURCE_UNIT``.
    gpus : list of int
        The devices; where there are none, GPUs are only counted.
    """

    __slots__ = ("_devices", "available", "total")

    def __init__(self, total: dict[str, int], gpus: list[int]) -> None:
        self.total = dict(total)
        self.available = dict(total)
        self._devices = dict.fromkeys(gpus, RESOURCE_UNIT)

    def feasible(self, wanted: Mapping[str, int]) -> bool:
        """Say whether the node could ever give this."""
        total = self.total
        if not all(total.get(name, 0) >= amount for name, amount in wanted.items()):
            return False
        empty = dict.fromkeys(self._devices, RESOURCE_UNIT)
        return not empty or _choose_gpus(empty, wanted.get(_GPU, 0)) is not None

    def fits(self, wanted: Mapping[str, int]) -> bool:
        """Say whether the node can give this now."""
        available = self.available
        return all(available.get(name, 0) >= amount for name, amount in wanted.items())

    def how_often(self, wanted: Mapping[str, int], limit: int) -> int:
        """Return how many times the node could give this now, at most `limit` times."""
        available = self.available
        for name, amount in wanted.items():
            if amount:
                limit = min(limit, max(available.get(name, 0), 0) // amount)
        gpus = wanted.get(_GPU)
        if gpus and self._devices:
            free = dict(self._devices)
            for times in range(limit):
                chosen = _choose_gpus(free, gpus)
                if chosen is None:
                    return times
                for device, share in chosen:
                    free[device] -= share
        return limit

    def how_often_in_all(self, wanted: Mapping[str, int], limit: int) -> int:
        """Return how many times the node could give this were it empty, at most `limit` times."""
        for name, amount in wanted.items():
            if amount:
                limit = min(limit, self.total.get(name, 0) // amount)
        return limit

    def allocate(self, wanted: Mapping[str, int]) -> None:
        """Give."""
        available = self.available
        for name, amount in wanted.items():
            available[name] = available.get(name, 0) - amount

    def free(self, given: Mapping[str, int]) -> None:
        """Take back."""
        available = self.available
        for name, amount in given.items():
            available[name] = available.get(name, 0) + amount

    def take_gpus(self, amount: int) -> list[int]:
        """Return the devices for so much GPU; a fraction is a share of the last one."""
        chosen = _choose_gpus(self._devices, amount) or []
        for device, share in chosen:
            self._devices[device] -= share
        return [device for device, _ in chosen]

    def return_gpus(self, gpus: list[int], amount: int) -> None:
        """Take devices back that `take_gpus` gave for this amount."""
        for device in gpus:
            share = min(amount, RESOURCE_UNIT)
            self._devices[device] += share
            amount -= share


def _choose_gpus(free: Mapping[int, int], amount: int) -> list[tuple[int, int]] | None:
    """Return (device, share) for so much GPU, whole devices first; None if it does not fit."""
    count, part = divmod(amount, RESOURCE_UNIT)
    shared = None
    if part:
        roomy = [device for device in free if free[device] >= part]
        if not roomy:
            return None
        shared = min(roomy, key=free.__getitem__)
    whole = [device for device in free if free[device] == RESOURCE_UNIT and device != shared]
    if len(whole) < count:
        return None
    chosen = [(device, RESOURCE_UNIT) for device in whole[:count]]
    return chosen if shared is None else [*chosen, (shared, part)]
