"""Remote functions: options, arguments, returns."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import raydask
from tests.cluster.probes import Gate, eventually

pytestmark = pytest.mark.usefixtures("cluster")


def add(a: int, b: int = 1) -> int:
    return a + b


def test_a_call_returns_a_ref_at_once_and_get_its_value() -> None:
    ref = raydask.remote(add).remote(1, b=2)
    assert isinstance(ref, raydask.ObjectRef)
    assert raydask.get(ref) == 3


def test_tasks_run_in_other_processes() -> None:
    assert raydask.get(raydask.remote(os.getpid).remote()) != os.getpid()


def test_a_remote_function_keeps_its_name_and_docstring() -> None:
    @raydask.remote
    def documented() -> None:
        """Say so."""

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "Say so."


def test_a_direct_call_says_what_to_write_instead() -> None:
    with pytest.raises(raydask.errors.UsageError, match=r"call add\.remote\("):
        raydask.remote(add)(1)


@pytest.mark.parametrize(
    "made",
    [lambda x: x + 1, functools.partial(add, 1), abs, max, np.sum, str.upper, len],
    ids=["lambda", "partial", "builtin", "variadic", "numpy", "method", "len"],
)
def test_any_callable_can_be_remote(made: Callable[..., Any]) -> None:
    argument: Any = "text" if made is str.upper else [3, 4] if made in (max, np.sum, len) else 5
    assert raydask.get(raydask.remote(made).remote(argument)) == made(argument)


def test_closures_travel_with_what_they_close_over() -> None:
    table = {"a": 1}

    @raydask.remote
    def look_up(key: str) -> int:
        return table[key]

    assert raydask.get(look_up.remote("a")) == 1


def test_a_remote_function_can_be_recursive_and_passed_along() -> None:
    @raydask.remote
    def countdown(n: int) -> list[int]:
        return [n] + (raydask.get(countdown.remote(n - 1)) if n else [])

    @raydask.remote
    def call(function: Any, n: int) -> Any:
        return raydask.get(function.remote(n))

    assert raydask.get(call.remote(countdown, 3)) == [3, 2, 1, 0]


# --- arguments ------------------------------------------------------------------------------


def test_refs_at_the_top_level_become_values_and_nested_ones_stay_refs() -> None:
    @raydask.remote
    def kinds(a: Any, b: Any, *rest: Any, key: Any = None, **more: Any) -> list[str]:
        values = [a, b, *rest, key, *more.values()]
        return [type(value).__name__ for value in values]

    ref = raydask.put(1)
    found = raydask.get(kinds.remote(ref, [ref], ref, (ref,), key=ref, other={"x": ref}))
    assert found == ["int", "list", "int", "tuple", "int", "dict"]


def test_a_nested_ref_can_be_got_in_the_task() -> None:
    @raydask.remote
    def total(refs: dict[str, list[raydask.ObjectRef]]) -> int:
        return sum(raydask.get(refs["all"]))

    assert raydask.get(total.remote({"all": [raydask.put(i) for i in range(5)]})) == 10


def test_tasks_chain_through_refs() -> None:
    increment = raydask.remote(add)
    ref = raydask.put(0)
    for _ in range(50):
        ref = increment.remote(ref)
    assert raydask.get(ref) == 50


def test_one_ref_can_be_given_twice() -> None:
    ref = raydask.put(2)
    assert raydask.get(raydask.remote(add).remote(ref, b=ref)) == 4
    assert raydask.get(raydask.remote(add).remote(ref, ref)) == 4


@pytest.mark.parametrize("size", [0, 1, 99_000, 101_000, 5_000_000])
def test_arguments_of_every_size_arrive_whole(size: int) -> None:
    text = b"x" * size
    array = np.arange(size // 8)
    length = raydask.remote(len)
    assert raydask.get(length.remote(text)) == size

    @raydask.remote
    def describe(first: bytes, *, second: Any) -> tuple[int, int]:
        return len(first), int(second.sum())

    assert raydask.get(describe.remote(text, second=array)) == (size, int(array.sum()))


def test_large_arguments_are_read_without_a_copy_and_only_read() -> None:
    @raydask.remote
    def write(array: Any) -> str:
        try:
            array[0] = 1
        except ValueError as error:
            return str(error)
        return "written"

    assert "read-only" in raydask.get(write.remote(np.zeros(1 << 20)))


def test_many_large_pieces_in_one_structure_arrive_whole() -> None:
    pieces = {i: np.full(5_000, i) for i in range(20)}

    @raydask.remote
    def total(pieces: dict[int, Any]) -> int:
        return sum(int(piece.sum()) for piece in pieces.values())

    assert raydask.get(total.remote(pieces)) == sum(range(20)) * 5_000


def test_wrong_arguments_fail_like_a_call() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
        raydask.get(raydask.remote(add).remote(1, wrong=2))


def test_an_argument_that_cannot_be_pickled_fails_at_the_call() -> None:
    with pytest.raises(TypeError, match="lock"):
        raydask.remote(add).remote(threading.Lock())


# --- returns --------------------------------------------------------------------------------


def test_several_returns() -> None:
    @raydask.remote(num_returns=3)
    def split() -> tuple[int, Any, str]:
        return 1, np.ones(100_000), "c"

    one, array, text = split.remote()
    assert raydask.get([text, one]) == ["c", 1]
    assert raydask.get(array).sum() == 100_000


def test_no_returns() -> None:
    assert raydask.remote(num_returns=0)(add).remote(1) is None


@pytest.mark.parametrize("given", [None, (1,), (1, 2, 3), 7])
def test_a_wrong_number_of_returns_is_told(given: Any) -> None:
    @raydask.remote(num_returns=2)
    def returns() -> Any:
        return given

    for ref in returns.remote():
        with pytest.raises(raydask.errors.UsageError, match="num_returns=2 and returned"):
            raydask.get(ref)


@pytest.mark.parametrize("size", [10, 99_990, 100_010, 3_000_000])
def test_results_of_every_size_arrive_whole(size: int) -> None:
    @raydask.remote
    def make(size: int) -> tuple[bytes, Any]:
        return b"y" * size, np.arange(size)

    text, array = raydask.get(make.remote(size))
    assert text == b"y" * size
    assert (array == np.arange(size)).all()


def test_large_results_are_read_only_views() -> None:
    array = raydask.get(raydask.remote(np.ones).remote(1 << 18))
    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2


# --- options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_cpu": 1}, "unknown option num_cpu for a remote function; there are .*num_cpus"),
        ({"num_cpus": -1}, "num_cpus must be a number that is not negative, not -1"),
        ({"num_cpus": "two"}, "num_cpus must be a number"),
        ({"num_gpus": True}, "num_gpus must be a number"),
        ({"memory": -5}, "memory must be a number"),
        ({"resources": [("a", 1)]}, "resources must be a dict"),
        ({"resources": {"CPU": 1}}, "give CPU by num_cpus"),
        ({"resources": {"a": "b"}}, "a must be a number"),
        ({"num_returns": -1}, "num_returns must be a whole number of at least 0"),
        ({"num_returns": 1.5}, "num_returns must be a whole number"),
        ({"max_retries": -2}, "max_retries must be a whole number of at least -1"),
        ({"retry_exceptions": 5}, "retry_exceptions must be True, False or a list of exception"),
        ({"retry_exceptions": [int]}, "retry_exceptions must be"),
        ({"timeout": -1}, "timeout must be a number"),
        ({"priority": "high"}, "priority must be a whole number"),
        ({"name": 5}, "name must be a string"),
    ],
)
def test_bad_options_are_refused_with_a_reason(options: dict[str, Any], message: str) -> None:
    with pytest.raises(raydask.errors.UsageError, match=message):
        raydask.remote(add).options(**options)
    with pytest.raises(raydask.errors.UsageError, match=message):
        raydask.remote(**options)(add)


def test_what_cannot_be_remote_is_refused() -> None:
    with pytest.raises(raydask.errors.UsageError, match="for functions and classes, not 5"):
        raydask.remote(num_cpus=1)(5)
    with pytest.raises(raydask.errors.UsageError, match="use @raydask.remote alone"):
        raydask.remote(5)


def test_options_change_one_use_only() -> None:
    @raydask.remote
    def name() -> str | None:
        return raydask.get_runtime_context().task_name

    assert raydask.get(name.options(name="renamed").remote()) == "renamed"
    assert raydask.get(name.remote()).endswith("name")


def test_two_cpus_run_two_tasks_at_once(gate: Callable[[str], Gate]) -> None:
    here, there = gate("here"), gate("there")

    @raydask.remote
    def meet(mine: Gate, other: Gate) -> bool:
        mine.open()
        other.wait()
        return True

    assert raydask.get([meet.remote(here, there), meet.remote(there, here)]) == [True, True]


def test_a_task_on_two_cpus_waits_until_both_are_free(gate: Callable[[str], Gate]) -> None:
    held, release, ran = gate("held"), gate("release"), gate("ran")

    @raydask.remote
    def hold() -> None:
        held.open()
        release.wait()

    @raydask.remote(num_cpus=2)
    def both() -> bool:
        ran.open()
        return release.is_open

    holder = hold.remote()
    eventually(lambda: held.is_open)
    waiting = both.remote()
    assert raydask.wait([waiting], timeout=0.2) == ([], [waiting])
    assert not ran.is_open
    release.open()
    assert raydask.get(waiting)
    raydask.get(holder)


def test_available_resources_follow_what_runs(gate: Callable[[str], Gate]) -> None:
    held, release = gate("held"), gate("release")

    @raydask.remote(num_cpus=1.5)
    def hold() -> None:
        held.open()
        release.wait()

    ref = hold.remote()
    eventually(lambda: held.is_open)
    assert raydask.available_resources()["CPU"] == 0.5
    release.open()
    raydask.get(ref)
    eventually(lambda: raydask.available_resources()["CPU"] == 2)


def test_higher_priority_goes_first(gate: Callable[[str], Gate]) -> None:
    held, release = gate("held"), gate("release")

    @raydask.remote(num_cpus=2)
    def hold() -> None:
        held.open()
        release.wait()

    @raydask.remote(num_cpus=2)
    def stamp() -> float:
        return time.monotonic()

    holder = hold.remote()
    eventually(lambda: held.is_open)
    low = [stamp.options(priority=-5).remote() for _ in range(3)]
    middle = [stamp.remote() for _ in range(3)]
    high = [stamp.options(priority=5).remote() for _ in range(3)]
    raydask.nodes()  # answered when the node has taken in what was said before
    release.open()
    times = [raydask.get(group) for group in (high, middle, low)]
    assert max(times[0]) < min(times[1]) and max(times[1]) < min(times[2])
    raydask.get(holder)


def test_the_runtime_context_tells_where_a_task_runs() -> None:
    @raydask.remote
    def context() -> dict[str, Any]:
        return raydask.get_runtime_context().get()

    inside, outside = raydask.get(context.remote()), raydask.get_runtime_context().get()
    assert inside["node_id"] == outside["node_id"]
    assert inside["job_id"] == outside["job_id"]
    assert len(inside["task_id"]) == 32
    assert outside["task_id"] is None and inside["actor_id"] is None
    assert inside["worker_pid"] != outside["worker_pid"] == os.getpid()


def test_ten_thousand_tasks_return_in_order() -> None:
    double = raydask.remote(lambda x: 2 * x)
    assert raydask.get([double.remote(i) for i in range(10_000)]) == list(range(0, 20_000, 2))
