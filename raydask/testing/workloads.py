"""What a simulated large cluster computes: graphs of tasks without code, and their bounds.

A workload is a list of tasks in the order in which they are submitted, which is also the order
in which they should run.  Of each is known how long it takes, which tasks' results it needs, and
how large its own result is.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

Duration = Callable[[], float]


class Workload:
    """Tasks, numbered from 0 in the order of submission.

    Attributes
    ----------
    durations : list of float
        Seconds.
    inputs : list of sequence of int
        The tasks whose results each needs; all come before it.
    sizes : list of int
        Bytes of each result.
    kinds : list of int
        Which function each calls; how long calls take is estimated for each function.
    """

    __slots__ = ("durations", "inputs", "kinds", "sizes")

    def __init__(self) -> None:
        self.durations: list[float] = []
        self.inputs: list[Sequence[int]] = []
        self.sizes: list[int] = []
        self.kinds: list[int] = []

    def __len__(self) -> int:
        return len(self.durations)

    def add(self, duration: float, inputs: Sequence[int] = (), size: int = 8, kind: int = 0) -> int:
        """Add a task; return its number."""
        self.durations.append(duration)
        self.inputs.append(inputs)
        self.sizes.append(size)
        self.kinds.append(kind)
        return len(self.durations) - 1

    def last_uses(self) -> list[int]:
        """Return of each task the last one that needs its result; itself if none does."""
        last = list(range(len(self)))
        for task, inputs in enumerate(self.inputs):
            for each in inputs:
                last[each] = task
        return last

    @property
    def work(self) -> float:
        """Seconds that all tasks take together."""
        return sum(self.durations)

    @property
    def critical_path(self) -> float:
        """Seconds that the longest chain of tasks takes."""
        ends: list[float] = []
        for duration, inputs in zip(self.durations, self.inputs, strict=True):
            ends.append(duration + max((ends[each] for each in inputs), default=0.0))
        return max(ends, default=0.0)

    def simple_bound(self, cpus: int) -> float:
        """Return the longer of the critical path and of the work, shared by so many CPUs."""
        return max(self.critical_path, self.work / cpus)

    def lower_bound(self, cpus: int) -> float:
        """Return the seconds below which no scheduler can be on so many CPUs.

        A task after which a chain of `t` seconds must run has to end `t` seconds before the last
        one does, at the latest, and so has all the work that is followed by chains as long: it
        takes its share of the CPUs, and then comes the chain.  That for each `t`, of which 0 and
        the longest give the simple bound.  It knows that a graph which narrows cannot use all CPUs
        to its end.
        """
        chains = [0.0] * len(self)
        for task in range(len(self) - 1, -1, -1):
            chain = chains[task] + self.durations[task]
            for each in self.inputs[task]:
                chains[each] = max(chains[each], chain)
        work = bound = 0.0
        for task in sorted(range(len(self)), key=chains.__getitem__, reverse=True):
            work += self.durations[task]
            bound = max(bound, work / cpus + chains[task], self.durations[task] + chains[task])
        return bound


def list_schedule(workload: Workload, cpus: int) -> float:
    """Return the makespan of an ideal list scheduler, whose messages and transfers cost nothing.

    It knows of everything at once, and gives each free CPU the first ready task in the order of
    submission (Graham, 1966).  Near the root of a narrowing graph most CPUs cannot have work, which
    ``max(critical path, work / CPUs)`` knows nothing of; this does.
    """
    missing = [len(inputs) for inputs in workload.inputs]
    users: dict[int, list[int]] = {}
    for task, inputs in enumerate(workload.inputs):
        for each in inputs:
            users.setdefault(each, []).append(task)
    ready = [task for task, count in enumerate(missing) if not count]
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < cpus:
            task = heapq.heappop(ready)
            heapq.heappush(running, (now + workload.durations[task], task))
        now, task = heapq.heappop(running)
        for user in users.get(task, ()):
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    return now


def durations(seconds: float, seed: int) -> Duration:
    """Return what draws durations, evenly from half to one and a half times the mean."""
    uniform = random.Random(seed).uniform
    return lambda: uniform(0.5 * seconds, 1.5 * seconds)


def independent(tasks: int, duration: Duration, size: int) -> Workload:
    """Return tasks that have nothing to do with one another."""
    made = Workload()
    for _ in range(tasks):
        made.add(duration(), size=size)
    return made


def tree(tasks: int, duration: Duration, size: int, fan_in: int) -> Workload:
    """Return a reduction by a tree, of about so many tasks in all, depth first."""
    made = Workload()
    pending: list[tuple[int, int]] = []
    """Results that nothing uses yet, with their heights."""

    def join(count: int) -> None:
        inputs = pending[-count:]
        del pending[-count:]
        task = made.add(duration(), tuple(task for _, task in inputs), size, 1)
        pending.append((inputs[0][0] + 1, task))

    for _ in range(max(1, tasks * (fan_in - 1) // fan_in)):
        pending.append((0, made.add(duration(), size=size)))
        while len(pending) >= fan_in and pending[-fan_in][0] == pending[-1][0]:
            join(fan_in)
    while len(pending) > 1:
        join(min(fan_in, len(pending)))
    return made


def stencil(width: int, steps: int, duration: Duration, size: int) -> Workload:
    """Return steps of `width` tasks, each of which needs itself and its neighbours of before."""
    made = Workload()
    before = [made.add(duration(), size=size) for _ in range(width)]
    for _ in range(steps - 1):
        before = [
            made.add(duration(), tuple(before[max(0, at - 1) : at + 2]), size)
            for at in range(width)
        ]
    return made


def map_reduce(maps: int, reducers: int, duration: Duration, size: int) -> Workload:
    """Return maps, reducers that each need an equal part of them, and one task for all of those."""
    made = Workload()
    mapped = [made.add(duration(), size=size) for _ in range(maps)]
    reduced = [
        made.add(duration(), tuple(mapped[at::reducers]), size, 1)
        for at in range(min(reducers, maps))
    ]
    made.add(duration(), tuple(reduced), size, 2)
    return made


def shuffle(parts: int, duration: Duration, size: int) -> Workload:
    """Return an exchange of all with all: parts, their pieces for one another, and what they make.

    Each piece is a task, as in a shuffle of Dask's, so there are `parts` squared of them.
    """
    made = Workload()
    sources = [made.add(duration(), size=size) for _ in range(parts)]
    pieces = [
        [made.add(duration(), (source,), max(8, size // parts), 1) for _ in range(parts)]
        for source in sources
    ]
    for at in range(parts):
        made.add(duration(), tuple(some[at] for some in pieces), size, 2)
    return made
