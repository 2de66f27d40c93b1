"""Actors at work: state, order, arguments, results, concurrency."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import raydask
from tests.cluster.probes import Gate
from tests.cluster.samples import Counter, Log

pytestmark = pytest.mark.usefixtures("cluster")


# --- state and order ------------------------------------------------------------------------


def test_an_actor_keeps_state_in_a_process_of_its_own() -> None:
    one, two = Counter.remote(10, step=2), Counter.remote()
    assert raydask.get([one.add.remote(), one.add.remote(5), two.add.remote()]) == [12, 17, 1]
    pids = raydask.get([one.pid.remote(), two.pid.remote(), one.pid.remote()])
    assert pids[0] == pids[2] != pids[1] and os.getpid() not in pids


def test_calls_of_one_caller_run_in_order() -> None:
    log = Log.remote()
    for i in range(1000):
        log.append.remote(i)
    assert raydask.get(log.read.remote()) == list(range(1000))


def test_a_call_whose_argument_is_late_keeps_its_place(gate: Callable[[str], Gate]) -> None:
    release = gate("release")

    @raydask.remote
    def late() -> str:
        release.wait()
        return "late"

    log = Log.remote()
    log.append.remote("first")
    log.append.remote(late.remote())
    log.append.remote("last")
    release.open()
    assert raydask.get(log.read.remote(), timeout=5) == ["first", "late", "last"]


def test_many_callers_each_in_order() -> None:
    log = Log.remote()

    @raydask.remote
    def write(log: Any, writer: int) -> None:
        raydask.get([log.append.remote((writer, i)) for i in range(50)])

    raydask.get([write.remote(log, writer) for writer in range(4)])
    entries = raydask.get(log.read.remote())
    for writer in range(4):
        assert [i for who, i in entries if who == writer] == list(range(50))


def test_threads_of_one_caller_share_an_actor() -> None:
    counter = Counter.remote()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: raydask.get(counter.add.remote()), range(300)))
    assert raydask.get(counter.get.remote()) == 300


def test_calls_before_the_actor_is_up_wait_for_it(gate: Callable[[str], Gate]) -> None:
    release = gate("release")

    @raydask.remote
    class Slow:
        def __init__(self) -> None:
            release.wait()

        def value(self) -> int:
            return 1

    slow = Slow.remote()
    refs = [slow.value.remote() for _ in range(10)]
    assert raydask.wait(refs, timeout=0.05)[0] == []
    release.open()
    assert raydask.get(refs, timeout=5) == [1] * 10


# --- arguments and results ------------------------------------------------------------------


def test_several_returns_and_keyword_arguments() -> None:
    @raydask.remote
    class Maker:
        @raydask.method(num_returns=2)
        def pair(self, a: int, *, b: int = 5) -> tuple[int, int]:
            return a, b

        def triple(self) -> list[int]:
            return [1, 2, 3]

    maker = Maker.remote()
    assert raydask.get(maker.pair.remote(1, b=2)) == [1, 2]
    assert raydask.get(maker.triple.options(num_returns=3).remote()) == [1, 2, 3]
    assert maker.triple.options(num_returns=0).remote() is None


def test_refs_are_resolved_at_the_top_level_only() -> None:
    log = Log.remote()
    ref = raydask.put("value")
    log.append.remote(ref)
    log.append.remote([ref])
    first, (second,) = raydask.get(log.read.remote())
    assert first == "value" and second == ref


@pytest.mark.parametrize("size", [10, 50_000, 2_000_000])
def test_results_and_arguments_of_every_size(size: int) -> None:
    @raydask.remote
    class Echo:
        def same(self, value: Any) -> Any:
            return value

        def add(self, value: Any) -> Any:
            return value + 1

    echo = Echo.remote()
    array = np.arange(size)
    assert (raydask.get(echo.same.remote(array)) == array).all()
    assert (raydask.get(echo.add.remote(raydask.put(array))) == array + 1).all()


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_result_goes_to_a_task_and_to_another_actor(size: int) -> None:
    @raydask.remote
    class Source:
        def make(self) -> Any:
            return np.ones(size)

    total = raydask.remote(lambda array: int(array.sum()))
    log, source = Log.remote(), Source.remote()
    ref = source.make.remote()
    # Both while the result is pending and after it has come.
    pending = total.remote(ref)
    assert raydask.get(pending) == size
    assert raydask.get(total.remote(ref)) == size
    raydask.get(log.append.remote(total.remote(source.make.remote())))
    assert raydask.get(log.read.remote()) == [size]
    assert raydask.get(ref).sum() == size


def test_a_pending_result_can_leave_inside_a_value(gate: Callable[[str], Gate]) -> None:
    release = gate("release")

    @raydask.remote
    class Slow:
        def make(self) -> str:
            release.wait()
            return "made"

    @raydask.remote
    def unwrap(refs: list[raydask.ObjectRef]) -> Any:
        return raydask.get(refs[0])

    slow = Slow.remote()
    inside = unwrap.remote([slow.make.remote()])
    box = raydask.put([slow.make.remote()])
    release.open()
    assert raydask.get(inside, timeout=5) == "made"
    assert raydask.get(raydask.get(box)[0], timeout=5) == "made"


def test_a_result_that_holds_a_ref() -> None:
    @raydask.remote
    class Maker:
        def make(self) -> dict[str, raydask.ObjectRef]:
            return {"ref": raydask.put(np.ones(300_000)), "small": raydask.put(5)}

    maker = Maker.remote()
    made = raydask.get(maker.make.remote())
    assert raydask.get(made["ref"]).sum() == 300_000
    assert raydask.get(made["small"]) == 5


def test_an_actor_keeps_arrays_and_refs_after_the_call() -> None:
    @raydask.remote
    class Keeper:
        def keep(self, array: Any, refs: list[raydask.ObjectRef]) -> None:
            self.array = array
            self.refs = refs

        def total(self) -> float:
            return float(self.array.sum() + sum(raydask.get(self.refs)))

    keeper = Keeper.remote()
    array, ref = raydask.put(np.ones(500_000)), raydask.put(5)
    raydask.get(keeper.keep.remote(array, [ref]))
    del array, ref
    # Others would get the memory if it had been freed.
    for _ in range(10):
        raydask.put(np.zeros(500_000))
    assert raydask.get(keeper.total.remote()) == 500_005


def test_wait_and_futures_work_for_calls() -> None:
    counter = Counter.remote()
    refs = [counter.add.remote() for _ in range(5)]
    ready, rest = raydask.wait(refs, num_returns=5, timeout=5)
    assert (len(ready), rest) == (5, [])
    assert counter.add.remote().future().result(5) == 6

    async def main() -> list[int]:
        return list(await asyncio.gather(*[counter.add.remote() for _ in range(3)]))

    assert asyncio.run(main()) == [7, 8, 9]


# --- concurrency ----------------------------------------------------------------------------


def test_max_concurrency_runs_calls_in_threads() -> None:
    @raydask.remote(max_concurrency=3)
    class Meeting:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(3)

        def meet(self) -> int:
            self.barrier.wait(5)
            return threading.get_ident()

    meeting = Meeting.remote()
    assert len(set(raydask.get([meeting.meet.remote() for _ in range(3)]))) == 3


def test_a_plain_actor_runs_one_call_at_a_time() -> None:
    @raydask.remote
    class Plain:
        def span(self) -> tuple[float, float]:
            begun = time.monotonic()
            time.sleep(0.01)
            return begun, time.monotonic()

    plain = Plain.remote()
    spans = raydask.get([plain.span.remote() for _ in range(5)])
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_coroutine_methods_run_together() -> None:
    @raydask.remote
    class Async:
        def __init__(self) -> None:
            self.waiting = 0
            self.all_here = asyncio.Event()

        async def meet(self, n: int) -> int:
            self.waiting += 1
            if self.waiting == n:
                self.all_here.set()
            await self.all_here.wait()
            return self.waiting

        def plain(self) -> int:
            return self.waiting

        async def fail(self) -> None:
            raise KeyError("async")

        async def use(self, ref: list[raydask.ObjectRef]) -> Any:
            return await ref[0]

    actor = Async.remote()
    assert raydask.get([actor.meet.remote(50) for _ in range(50)], timeout=5) == [50] * 50
    assert raydask.get(actor.plain.remote(), timeout=5) == 50
    assert raydask.get(actor.use.remote([raydask.put("inner")]), timeout=5) == "inner"
    with pytest.raises(KeyError, match="async"):
        raydask.get(actor.fail.remote(), timeout=5)


def test_max_concurrency_limits_coroutines() -> None:
    @raydask.remote(max_concurrency=2)
    class Limited:
        def __init__(self) -> None:
            self.running = self.most = 0

        async def run(self) -> int:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.005)
            self.running -= 1
            return self.most

    limited = Limited.remote()
    assert max(raydask.get([limited.run.remote() for _ in range(10)], timeout=5)) == 2
