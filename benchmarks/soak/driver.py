"""The soak's driver: ``python -m benchmarks.soak.driver ADDRESS TASKS WINDOW BATCH EVERY``.

It keeps WINDOW tasks under way: whenever BATCH of them have ended it looks at their results,
drops them and submits as many new ones.  The last task of each batch takes the results of some
of the others as arguments, so that references are held by tasks as well as by the driver.

On standard output it says how many tasks have ended, in a line after each EVERY, and in the end
``done``, when it holds nothing any more.  It goes when it is given a line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import raydask
from benchmarks.soak.tasks import is_made, make, size_of, total_size

_ADDED_UP = 8
"""How many results the last task of a batch adds up."""


class WrongResult(Exception):  # noqa: N818 -- what it is, where it is raised
    """A task returned something else than it must."""


class Soak:
    """A rolling window of tasks.

    Parameters
    ----------
    tasks, window, batch
        How many in all, at once, and from one look to the next.
    """

    def __init__(self, tasks: int, window: int, batch: int) -> None:
        self._tasks = tasks
        self._window = window
        self._batch = batch
        self._make = raydask.remote(make)
        self._total_size = raydask.remote(total_size)
        self._submitted = 0
        self._expected: dict[Any, tuple[int, int | None]] = {}

    def run(self, ended: Callable[[int], None]) -> None:
        """Run all tasks; `ended` is told how many have ended, after each batch.

        Raises
        ------
        WrongResult
            A task did not return what it must.
        """
        while self._submitted < self._tasks or self._expected:
            while self._submitted < self._tasks and len(self._expected) < self._window:
                self._submit_batch()
            under_way = list(self._expected)
            ready, _ = raydask.wait(under_way, num_returns=min(self._batch, len(under_way)))
            self._look_at(ready)
            ended(self._submitted - len(self._expected))

    def _submit_batch(self) -> None:
        last = min(self._submitted + self._batch, self._tasks) - 1
        refs = []
        for number in range(self._submitted, last):
            refs.append(self._make.remote(number))
            self._expected[refs[-1]] = (number, None)
        added = refs[-_ADDED_UP:]
        total = sum(size_of(number) for number in range(last - len(added), last))
        self._expected[self._total_size.remote(*added)] = (last, total)
        self._submitted = last + 1

    def _look_at(self, ready: Sequence[Any]) -> None:
        for ref, value in zip(ready, raydask.get(list(ready))):
            number, total = self._expected.pop(ref)
            if not (is_made(value, number) if total is None else value == total):
                raise WrongResult(f"task {number} returned a wrong value: {value!r:.100}")


def main(address: str, tasks: int, window: int, batch: int, every: int) -> None:
    """Join the session at `address`, run the tasks, and wait to be let go."""
    said = 0

    def say(ended: int) -> None:
        nonlocal said
        if ended - said >= every:
            said = ended
            print(ended, flush=True)

    with raydask.init(address=address, log_to_driver=False):
        Soak(tasks, window, batch).run(say)
        print("done", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:6]))
