"""Who keeps an object alive, and that nothing is kept when nobody does."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import raydask
from tests.cluster.probes import (
    Gate,
    connect_redis,
    eventually,
    eventually_nothing_is_held,
    usage,
)


@pytest.fixture(autouse=True)
def everything_is_forgotten(cluster: str) -> Any:
    """Check after each test that node and Redis know no task or object any more."""
    yield
    gc.collect()
    eventually_nothing_is_held()
    with connect_redis(cluster) as redis:
        eventually(lambda: not list(redis.scan_iter("task:*")), "task keys in Redis")
        eventually(lambda: not list(redis.scan_iter("object:*")), "object keys in Redis")


def test_a_hundred_thousand_tasks_leave_nothing() -> None:
    nothing = raydask.remote(lambda: None)
    for _ in range(10):
        raydask.get([nothing.remote() for _ in range(10_000)])


def test_refs_that_are_dropped_at_once_leave_nothing() -> None:
    nothing = raydask.remote(lambda: None)
    for _ in range(2_000):
        nothing.remote()
        raydask.put(1)


def test_an_argument_lives_as_long_as_its_task(gate: Callable[[str], Gate]) -> None:
    release = gate("release")

    @raydask.remote
    def use(gate: Gate, array: Any, nested: list[raydask.ObjectRef]) -> int:
        gate.wait()
        return int(array.sum() + raydask.get(nested[0]).sum())

    ref = use.remote(release, raydask.put(np.ones(100_000)), [raydask.put(np.ones(100_000))])
    gc.collect()
    raydask.get(raydask.remote(lambda: None).remote())
    release.open()
    assert raydask.get(ref) == 200_000


def test_a_worker_that_keeps_a_ref_keeps_the_object() -> None:
    @raydask.remote
    class Keeper:
        def keep(self, refs: list[raydask.ObjectRef]) -> None:
            self.refs = refs

        def get(self) -> Any:
            return raydask.get(self.refs[0])

        def drop(self) -> None:
            self.refs = []

    keeper = Keeper.remote()
    raydask.get(keeper.keep.remote([raydask.put("kept")]))
    assert raydask.get(keeper.get.remote()) == "kept"
    raydask.get(keeper.drop.remote())
    eventually(lambda: usage()[1] <= 1)  # the actor itself is an object


def test_what_a_dead_worker_held_is_dropped() -> None:
    @raydask.remote
    class Keeper:
        def keep(self, refs: list[raydask.ObjectRef]) -> int:
            self.refs = refs
            self.own = [raydask.put(np.ones(200_000)) for _ in range(5)]
            return os.getpid()

    keeper = Keeper.remote()
    pid = raydask.get(keeper.keep.remote([raydask.put(i) for i in range(10)]))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: usage()[1] <= 1)


def test_a_ref_returned_through_many_hands() -> None:
    @raydask.remote
    def make() -> list[raydask.ObjectRef]:
        return [raydask.put(np.arange(200_000))]

    @raydask.remote
    def pass_on(box: list[Any], times: int) -> list[Any]:
        return raydask.get(pass_on.remote(box, times - 1)) if times else box

    (ref,) = raydask.get(pass_on.remote(make.remote(), 5))
    assert raydask.get(ref)[-1] == 199_999


def test_a_pickled_ref_alone_keeps_nothing() -> None:
    data = pickle.dumps(raydask.put(1))
    eventually(lambda: usage()[1] == 0)
    with pytest.raises(raydask.errors.ObjectLostError):
        raydask.get(pickle.loads(data))


def test_actor_results_leave_nothing() -> None:
    @raydask.remote
    class Maker:
        def small(self) -> int:
            return 1

        def large(self) -> Any:
            return np.ones(100_000)

        def nested(self) -> Any:
            return [raydask.put(1), raydask.put(np.ones(100_000))]

    maker = Maker.remote()
    for _ in range(50):
        raydask.get([maker.small.remote(), maker.large.remote()])
        raydask.get(raydask.get(maker.nested.remote()))
        maker.large.remote()
        maker.nested.remote()
    raydask.get(raydask.remote(lambda array: None).remote(maker.large.remote()))
    raydask.get(raydask.remote(lambda refs: None).remote([maker.small.remote()]))


def test_cancelled_and_failed_tasks_leave_nothing() -> None:
    fail = raydask.remote(lambda x: 1 / 0)
    refs = [fail.remote(raydask.put(i)) for i in range(50)]
    chained = [fail.remote(ref) for ref in refs]
    raydask.wait(chained, num_returns=50, timeout=5)
    slow = [fail.options(num_cpus=2).remote(ref) for ref in refs]
    for ref in slow:
        raydask.cancel(ref)


def test_what_threads_drop_is_forgotten() -> None:
    from concurrent.futures import ThreadPoolExecutor

    double = raydask.remote(lambda x: 2 * x)

    def work(i: int) -> int:
        return raydask.get(double.remote(raydask.put(i)))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(500))) == list(range(0, 1000, 2))


def test_a_ref_in_a_cycle_is_freed_by_the_collector() -> None:
    cycle: list[Any] = [raydask.put(1)]
    cycle.append(cycle)
    assert usage()[1] == 1
    del cycle


def test_arguments_of_calls_leave_nothing() -> None:
    @raydask.remote
    class Reader:
        def read(self, array: Any, more: list[Any]) -> Any:
            return array[:10], more

    reader = Reader.remote()
    for _ in range(20):
        array = np.ones(100_000)
        raydask.get(reader.read.remote(array, [array]))
        raydask.get(reader.read.remote(raydask.put(array), [raydask.put(1)]))
        reader.read.remote(raydask.remote(np.ones).remote(100_000), [])


def test_one_ref_given_twice_leaves_nothing() -> None:
    add = raydask.remote(lambda a, b, c: a + b + len(c))
    for _ in range(20):
        ref = raydask.put(1)
        assert raydask.get(add.remote(ref, ref, [ref, ref])) == 4


def test_several_returns_that_hold_refs() -> None:
    @raydask.remote(num_returns=3)
    def make() -> Any:
        return ([raydask.put(i)] for i in range(3))

    for _ in range(30):
        _, (second,), _ = raydask.get(make.remote())
        assert raydask.get(second) == 1


def test_promised_results_leave_nothing() -> None:
    @raydask.remote
    class Maker:
        def make(self, size: int) -> Any:
            return np.ones(size)

    maker = Maker.remote()
    total = raydask.remote(lambda array: array.sum())
    for size in (10, 100_000) * 10:
        assert raydask.get(total.remote(maker.make.remote(size))) == size
        total.remote(maker.make.remote(size))
        box = raydask.put([maker.make.remote(size)])
        assert raydask.get(raydask.get(box))[0].sum() == size


def test_errors_leave_nothing() -> None:
    @raydask.remote
    class Failing:
        def fail(self, array: Any) -> None:
            raise ValueError(len(array))

    failing = Failing.remote()
    for _ in range(10):
        with pytest.raises(ValueError, match="100000"):
            raydask.get(failing.fail.remote(np.ones(100_000)))
        failing.fail.remote(np.ones(100_000))
        raydask.remote(lambda array: 1 / 0).remote(raydask.put(np.ones(100_000)))
