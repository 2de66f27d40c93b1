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

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from itertools import chain, islice
from operator import itemgetter

from raydask.local_scheduler.records import UNKNOWN_COST, TaskRecord, WorkerRecord
from raydask.placement import group_names, is_weightless, whole_group_name
from raydask.task import RESOURCE_UNIT

_CPU = "CPU"
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

    __slots__ = (
        "_heap",
        "_held",
        "_holds",
        "_run",
        "gpus",
        "is_weightless",
        "job",
        "resources",
        "workers",
    )

    def __init__(self, job: int, resources: dict[str, int]) -> None:
        self.job = job
        self.resources = resources
        self.is_weightless = is_weightless(resources)
        """Whether its tasks ask for nothing that bounds how many of them run at once."""
        self.gpus = gpus_of(resources)
        """What the GPUs are called that they ask for; empty: none."""
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

    def ahead_of(self, task: TaskRecord) -> int:
        """Return how many tasks would at most be ahead of one that were added."""
        return bisect_left(self._run, task.key, key=itemgetter(0)) + len(self._heap)

    def mean_cost(self, most: int) -> float | None:
        """Return the mean duration of the tasks; None if it is unknown.

        Estimated from `most` of them, about those that are next.
        """
        some = islice(chain(self._run, self._heap), most)
        costs = [cost for _, task in some if (cost := task.template.cost) is not None]
        return sum(costs) / len(costs) if costs else None

    def pop(self) -> TaskRecord:
        """Take out the task that is next."""
        run, heap = self._run, self._heap
        if heap and (not run or heap[0][0] < run[0][0]):
            return heappop(heap)[1]
        return run.popleft()[1]

    def take(
        self, count: int, is_wanted: Callable[[TaskRecord, int], bool], most: int
    ) -> list[TaskRecord]:
        """Take out so many of the next tasks that are wanted, of the first `most`.

        `is_wanted` is given a task, and how many are ahead of it that are left.
        """
        taken: list[TaskRecord] = []
        others: list[TaskRecord] = []
        while len(taken) < count and len(others) < most and (self._run or self._heap):
            task = self.pop()
            (taken if is_wanted(task, len(others)) else others).append(task)
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

    What placement groups reserve is here under names of its own (``raydask.placement``); the
    devices of their bundles are set aside for those who ask for GPUs by these names.

    Parameters
    ----------
    total : dict of str to int
        In steps of 1 / ``RESOURCE_UNIT``.
    gpus : list of int
        The devices; where there are none, GPUs are only counted.
    """

    __slots__ = ("_aside", "_bundles", "_devices", "available", "total")

    def __init__(self, total: dict[str, int], gpus: list[int]) -> None:
        self.total = dict(total)
        self.available = dict(total)
        self._devices = dict.fromkeys(gpus, RESOURCE_UNIT)
        self._aside: dict[str, dict[int, int]] = {}
        """What is free of the devices set aside for a group, by what its GPUs are called."""
        self._bundles: dict[str, list[tuple[int, int]]] = {}
        """The devices of a bundle, and how much of each, by what its GPUs are called."""

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
        name = gpus_of(wanted) if self._devices else ""
        if name:
            gpus = wanted[name]
            free = dict(self._devices) if name == _GPU else self._set_aside(name)
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

    def take_gpus(self, amount: int, name: str = _GPU) -> list[int]:
        """Return the devices for so much GPU of this name; a fraction is a share of the last."""
        pool = self._devices if name == _GPU else self._aside.get(whole_group_name(name), {})
        free = pool if name == _GPU else self._set_aside(name)
        chosen = _choose_gpus(free, amount) or []
        for device, share in chosen:
            pool[device] -= share
        return [device for device, _ in chosen]

    def return_gpus(self, gpus: list[int], amount: int, name: str = _GPU) -> None:
        """Take devices back that `take_gpus` gave for this amount of this name."""
        pool = self._devices if name == _GPU else self._aside.get(whole_group_name(name))
        for device in gpus:
            share = min(amount, RESOURCE_UNIT)
            if pool is not None and device in pool:
                pool[device] += share
            else:
                self._devices[device] += share  # its bundle has been given back
            amount -= share

    # --- bundles of placement groups ------------------------------------------------------

    def reserve(self, bundle: Mapping[str, int], made: Mapping[str, int]) -> bool:
        """Make resources of a group's own out of a bundle; say whether there was room for it."""
        amount = bundle.get(_GPU, 0)
        chosen = _choose_gpus(self._devices, amount) if amount and self._devices else []
        if chosen is None or not self.fits(bundle):
            return False
        self.allocate(bundle)
        for name, more in made.items():
            self.total[name] = self.total.get(name, 0) + more
            self.available[name] = self.available.get(name, 0) + more
        if chosen:
            whole, own = sorted(group_names(made, _GPU), key=len)
            self._bundles[own] = chosen
            pool = self._aside.setdefault(whole, {})
            for device, share in chosen:
                self._devices[device] -= share
                pool[device] = pool.get(device, 0) + share
        return True

    def give_back(self, bundle: Mapping[str, int], made: Mapping[str, int]) -> None:
        """Undo `reserve`; what is still in use of it is below zero until it is free."""
        self.free(bundle)
        for name, less in made.items():
            self.total[name] -= less
            self.available[name] -= less
            if self.total[name] <= 0:
                del self.total[name]
        self.forget_unused()
        for own in group_names(made, _GPU):
            for device, share in self._bundles.pop(own, ()):
                pool = self._aside[whole_group_name(own)]
                # What a worker that is about to end has of it, that gives back to all.
                unused = min(share, pool[device])
                pool[device] -= unused
                self._devices[device] += unused
        for whole in [name for name in group_names(made, _GPU) if name not in self.total]:
            self._aside.pop(whole, None)

    def forget_unused(self) -> None:
        """Forget resources of bundles that have been given back and that nobody uses any more."""
        for name in [name for name in self.available if name not in self.total]:
            if self.available[name] >= 0:
                del self.available[name]

    def _set_aside(self, name: str) -> dict[int, int]:
        """Return what is free of the devices that GPUs of this name can be on."""
        pool = self._aside.get(whole_group_name(name), {})
        own = self._bundles.get(name)
        return dict(pool) if own is None else {device: pool[device] for device, _ in own}


def cpus_of(allocation: Mapping[str, int]) -> dict[str, int]:
    """Return what of the resources is CPUs, of the node or of a placement group."""
    if _CPU in allocation:
        return {_CPU: allocation[_CPU]}
    return {name: allocation[name] for name in group_names(allocation, _CPU)}


def gpus_of(wanted: Mapping[str, int]) -> str:
    """Return what the GPUs are called among these resources, most narrowly; empty: none are."""
    if _GPU in wanted:
        return _GPU
    return max(group_names(wanted, _GPU), key=len, default="")


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
