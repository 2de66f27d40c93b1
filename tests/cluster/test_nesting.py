"""Tasks that submit tasks and wait for them, to any depth, on one CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import raydask
from tests.cluster.probes import eventually


@pytest.fixture(scope="module", autouse=True)
def one_cpu() -> Iterator[None]:
    """Run raydask on a single CPU."""
    with raydask.init(num_cpus=1):
        yield


def test_fibonacci_by_recursive_tasks() -> None:
    @raydask.remote
    def fib(n: int) -> int:
        return n if n < 2 else sum(raydask.get([fib.remote(n - 1), fib.remote(n - 2)]))

    assert raydask.get(fib.remote(12), timeout=30) == 144


def test_a_hundred_tasks_wait_for_one_another() -> None:
    @raydask.remote
    def descend(n: int) -> int:
        return 1 + raydask.get(descend.remote(n - 1)) if n else 0

    assert raydask.get(descend.remote(100), timeout=30) == 100


def test_the_workers_of_a_deep_recursion_end_again() -> None:
    def has_settled() -> bool:
        return raydask.available_resources().get("CPU") == 1

    eventually(has_settled)


def test_a_task_waits_for_many() -> None:
    double = raydask.remote(lambda x: 2 * x)

    @raydask.remote
    def total(n: int) -> int:
        return sum(raydask.get([double.remote(i) for i in range(n)]))

    assert raydask.get(total.remote(1000), timeout=30) == 999_000


def test_a_task_uses_wait() -> None:
    @raydask.remote
    def first() -> Any:
        refs = [raydask.remote(lambda i=i: i).remote() for i in range(5)]
        ready, rest = raydask.wait(refs, num_returns=3)
        return len(ready), len(rest), sorted(raydask.get(refs))

    assert raydask.get(first.remote(), timeout=30) == (3, 2, [0, 1, 2, 3, 4])


def test_threads_of_a_task_get() -> None:
    @raydask.remote
    def main() -> list[int]:
        double = raydask.remote(lambda x: 2 * x)
        with ThreadPoolExecutor(4) as pool:
            # These threads hold no CPU; the task's own thread, which waits, does.
            futures = [
                pool.submit(raydask.get, double.options(num_cpus=0).remote(i)) for i in range(8)
            ]
            return [future.result() for future in futures]

    assert raydask.get(main.remote(), timeout=30) == list(range(0, 16, 2))


def test_a_get_that_times_out_in_a_task() -> None:
    @raydask.remote
    def impatient() -> tuple[str, int]:
        slow = raydask.remote(lambda: time.sleep(0.3) or 5).remote()
        try:
            raydask.get(slow, timeout=0.05)
            said = "came"
        except raydask.errors.GetTimeoutError:
            said = "late"
        return said, raydask.get(slow)

    assert raydask.get(impatient.remote(), timeout=30) == ("late", 5)


def test_a_result_may_be_a_ref_that_is_not_ready() -> None:
    @raydask.remote
    def outer() -> raydask.ObjectRef:
        return raydask.remote(lambda: "inner").remote()

    inner = raydask.get(outer.remote())
    assert raydask.get(inner) == "inner"


def test_an_inner_error_that_is_not_caught_comes_through() -> None:
    @raydask.remote
    def inner() -> None:
        raise KeyError("deep")

    @raydask.remote
    def outer(depth: int) -> Any:
        return raydask.get(outer.remote(depth - 1) if depth else inner.remote())

    with pytest.raises(KeyError, match="deep") as caught:
        raydask.get(outer.remote(3), timeout=30)
    assert isinstance(caught.value, raydask.errors.TaskError)
    assert "in inner" in str(caught.value.remote_traceback)


def test_short_tasks_behind_a_long_one_run_elsewhere() -> None:
    @raydask.remote
    def outer() -> float:
        refs = [raydask.remote(lambda: 1).remote() for _ in range(100)]
        return float(sum(raydask.get(refs)))

    outers = [outer.remote() for _ in range(10)]
    assert raydask.get(outers, timeout=30) == [100.0] * 10


def test_a_task_that_waits_for_an_actor_gives_its_cpu() -> None:
    @raydask.remote(num_cpus=1)
    class Slow:
        def value(self) -> int:
            return 5

    @raydask.remote
    def use() -> int:
        return raydask.get(Slow.remote().value.remote())

    assert raydask.get(use.remote(), timeout=10) == 5
