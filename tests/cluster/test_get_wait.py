"""get, put, wait, refs as values, futures and await."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raydask
from tests.cluster.probes import Gate, eventually, run_driver, usage

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def blocked(gate: Callable[[str], Gate]) -> Any:
    """A task that runs until the gate is open: its ref and the gate."""
    release = gate("release")

    @raydask.remote(num_cpus=0)
    def hold() -> str:
        release.wait()
        return "released"

    ref = hold.remote()
    yield ref, release
    release.open()
    raydask.get(ref)


# --- get ------------------------------------------------------------------------------------


def test_get_keeps_order_and_takes_duplicates() -> None:
    refs = [raydask.put(i) for i in range(5)]
    assert raydask.get([refs[3], refs[0], refs[3], refs[4]]) == [3, 0, 3, 4]
    assert raydask.get(tuple(refs)) == [0, 1, 2, 3, 4]
    assert raydask.get([]) == []


def test_get_can_be_called_again() -> None:
    ref = raydask.remote(lambda: [1]).remote()
    first, second = raydask.get(ref), raydask.get(ref)
    assert first == second == [1]
    assert first is not second


def test_get_times_out_and_the_task_goes_on(blocked: Any) -> None:
    ref, release = blocked
    done = raydask.put(1)
    started = time.monotonic()
    with pytest.raises(raydask.errors.GetTimeoutError, match="1 of 2 objects did not exist"):
        raydask.get([done, ref], timeout=0.1)
    assert 0.1 <= time.monotonic() - started < 2
    with pytest.raises(TimeoutError):
        raydask.get(ref, timeout=0)
    release.open()
    assert raydask.get(ref, timeout=5) == "released"


def test_get_with_timeout_zero_returns_what_is_there() -> None:
    ref = raydask.remote(lambda: 1).remote()
    raydask.wait([ref])
    assert eventually(lambda: raydask.get([ref], timeout=1)) == [1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "takes an ObjectRef or a list of them, not int"),
        ([1], "the list contains int: 1"),
        ({"a": 1}, "not dict"),
        ([[]], "the list contains list"),
    ],
)
def test_get_of_something_else_is_refused(given: Any, message: str) -> None:
    with pytest.raises(raydask.errors.UsageError, match=message):
        raydask.get(given)


@pytest.mark.parametrize("timeout", [-1, "soon"])
def test_a_timeout_is_seconds(timeout: Any) -> None:
    ref = raydask.put(1)
    with pytest.raises(raydask.errors.UsageError, match="timeout must be seconds"):
        raydask.get(ref, timeout=timeout)
    with pytest.raises(raydask.errors.UsageError, match="timeout must be seconds"):
        raydask.wait([ref], timeout=timeout)


def test_an_unknown_option_of_get_is_refused() -> None:
    with pytest.raises(raydask.errors.UsageError, match="no option time_out"):
        raydask.get(raydask.put(1), time_out=1)


def test_get_of_a_list_raises_the_first_error_in_it() -> None:
    @raydask.remote
    def fail(kind: type[Exception]) -> None:
        raise kind("no")

    refs = [raydask.put(1), fail.remote(KeyError), fail.remote(ValueError)]
    with pytest.raises(KeyError):
        raydask.get(refs)


# --- put ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, "text", b"bytes", {"a": [1, (2, {3})]}, 1 << 100, ...])
def test_what_is_put_comes_back(value: Any) -> None:
    assert raydask.get(raydask.put(value)) == value


def test_put_takes_a_snapshot() -> None:
    value = [1]
    ref = raydask.put(value)
    value.append(2)
    assert raydask.get(ref) == [1]


def test_put_of_a_ref_is_refused_and_of_a_list_of_refs_not() -> None:
    ref = raydask.put(1)
    with pytest.raises(raydask.errors.UsageError, match="put a list that contains it"):
        raydask.put(ref)
    (inner,) = raydask.get(raydask.put([ref]))
    assert inner == ref and raydask.get(inner) == 1


def test_put_of_what_cannot_be_pickled_fails_here() -> None:
    with pytest.raises(TypeError, match="lock"):
        raydask.put(threading.Lock())


def test_a_task_can_put_and_return_the_ref() -> None:
    @raydask.remote
    def make() -> list[raydask.ObjectRef]:
        return [raydask.put("inner")]

    (inner,) = raydask.get(make.remote())
    assert raydask.get(inner) == "inner"


# --- wait -----------------------------------------------------------------------------------


def test_wait_tells_ready_from_not_ready(blocked: Any) -> None:
    ref, _ = blocked
    done = [raydask.put(i) for i in range(3)]
    ready, rest = raydask.wait([ref, *done], num_returns=3)
    assert (ready, rest) == (done, [ref])


def test_wait_returns_at_most_num_returns_in_order() -> None:
    refs = [raydask.put(i) for i in range(5)]
    assert raydask.wait(refs, num_returns=2) == (refs[:2], refs[2:])
    assert raydask.wait(refs) == (refs[:1], refs[1:])


def test_wait_times_out(blocked: Any) -> None:
    ref, _ = blocked
    assert raydask.wait([ref], timeout=0) == ([], [ref])
    started = time.monotonic()
    assert raydask.wait([ref], timeout=0.05) == ([], [ref])
    assert time.monotonic() - started >= 0.05


def test_wait_then_get_and_get_then_wait() -> None:
    ref = raydask.remote(lambda: 7).remote()
    assert raydask.wait([ref]) == ([ref], [])
    assert raydask.get(ref) == 7
    assert raydask.wait([ref]) == ([ref], [])


def test_a_failed_task_is_ready() -> None:
    ref = raydask.remote(lambda: 1 / 0).remote()
    assert raydask.wait([ref], timeout=5) == ([ref], [])


def test_results_can_be_taken_in_the_order_in_which_they_come() -> None:
    pending = [raydask.remote(lambda i=i: i).remote() for i in range(30)]
    seen = []
    while pending:
        ready, pending = raydask.wait(pending, timeout=5)
        seen += raydask.get(ready)
    assert sorted(seen) == list(range(30))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (raydask.wait, "takes a list of ObjectRefs: wait"),
        (lambda ref: raydask.wait([ref, ref]), "refs that all differ"),
        (lambda ref: raydask.wait([ref], num_returns=2), "num_returns must be from 1 to 1, not 2"),
        (lambda ref: raydask.wait([ref], num_returns=0), "num_returns must be from 1"),
        (lambda ref: raydask.wait([1]), "the list contains int"),
    ],
)
def test_a_wait_that_makes_no_sense_is_refused(change: Callable[..., Any], message: str) -> None:
    with pytest.raises(raydask.errors.UsageError, match=message):
        change(raydask.put(1))


# --- refs as values -------------------------------------------------------------------------


def test_refs_are_hashable_comparable_and_printable() -> None:
    one, other = raydask.put(1), raydask.put(1)
    assert one != other
    assert len({one, other, copy.copy(one), copy.deepcopy(one)}) == 2
    assert one.hex() in repr(one) and bytes.fromhex(one.hex()) == one.binary()


def test_a_ref_can_be_pickled_and_comes_back_as_itself() -> None:
    ref = raydask.put("value")
    again = pickle.loads(pickle.dumps(ref))
    assert again == ref and hash(again) == hash(ref)
    del ref
    assert raydask.get(again) == "value"


def test_a_ref_of_an_object_that_was_freed_is_told() -> None:
    ref = raydask.put("value")
    data = pickle.dumps(ref)
    identifier = ref.hex()
    _, before, _ = usage()
    del ref
    eventually(lambda: usage()[1] < before)
    with pytest.raises(raydask.errors.ObjectLostError, match=f"{identifier} does not exist"):
        raydask.get(pickle.loads(data))


# --- futures --------------------------------------------------------------------------------


def test_a_future_has_the_value_or_the_error(blocked: Any) -> None:
    ref, release = blocked
    future = ref.future()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.05)
    release.open()
    assert future.result(timeout=5) == "released"
    with pytest.raises(ZeroDivisionError):
        raydask.remote(lambda: 1 / 0).remote().future().result(timeout=5)


def test_a_future_is_resolved_while_nobody_waits() -> None:
    event = threading.Event()
    future = raydask.remote(lambda: 3).remote().future()
    future.add_done_callback(lambda _: event.set())
    assert event.wait(5)
    assert future.result() == 3


def test_refs_can_be_awaited() -> None:
    async def main() -> list[Any]:
        double = raydask.remote(lambda x: 2 * x)
        return list(await asyncio.gather(*(double.remote(i) for i in range(20))))

    assert asyncio.run(main()) == list(range(0, 40, 2))


def test_an_awaited_error_is_raised() -> None:
    async def main() -> None:
        await raydask.remote(lambda: {}["missing"]).remote()

    with pytest.raises(KeyError, match="missing"):
        asyncio.run(main())


# --- threads and interrupts -----------------------------------------------------------------


def test_many_threads_get_at_once() -> None:
    square = raydask.remote(lambda x: x * x)

    def work(start: int) -> bool:
        refs = [square.remote(i) for i in range(start, start + 50)]
        one_by_one = [raydask.get(ref) for ref in refs[:10]]
        return one_by_one + raydask.get(refs[10:]) == [i * i for i in range(start, start + 50)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(0, 1600, 50)))


def test_many_threads_get_the_same_ref(blocked: Any) -> None:
    ref, release = blocked
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = [pool.submit(raydask.get, ref) for _ in range(8)]
        release.open()
        assert {result.result(5) for result in results} == {"released"}


def test_a_thread_with_a_timeout_does_not_disturb_one_without(blocked: Any) -> None:
    ref, release = blocked
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        patient = pool.submit(raydask.get, ref)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                raydask.get(ref, timeout=0.02)
        release.open()
        assert patient.result(5) == "released"


def test_ctrl_c_ends_a_get_and_leaves_the_session_usable(tmp_path: Path) -> None:
    code, out, err = run_driver(
        """
        import os, pathlib, signal, threading
        import raydask
        from tests.cluster.probes import Gate

        raydask.init(num_cpus=1)
        gate = Gate(pathlib.Path(os.environ["GATE"]))
        ref = raydask.remote(gate.wait).remote()
        # Whoever runs the tests in the background has it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            raydask.get(ref)
        except KeyboardInterrupt:
            gate.open()
            print("interrupted", raydask.get(ref), raydask.get(raydask.put(5)))
        raydask.shutdown()
        """,
        GATE=str(tmp_path),
    )
    assert (code, out, err) == (0, "interrupted None 5\n", "")
