"""Refs that an exception carries are as good as those in values, and are let go with it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import raydask
from tests.cluster.probes import Gate, connect_redis, eventually, eventually_nothing_is_held


@pytest.fixture(autouse=True)
def everything_is_forgotten(cluster: str) -> Iterator[None]:
    """Check after each test that node and Redis know no task or object any more."""
    yield
    gc.collect()
    eventually_nothing_is_held()
    with connect_redis(cluster) as redis:
        eventually(lambda: not list(redis.scan_iter("task:*")), "task keys in Redis")
        eventually(lambda: not list(redis.scan_iter("object:*")), "object keys in Redis")


class WithRefError(Exception):
    """Carries refs, as an argument and as an attribute."""

    def __init__(self, size: int) -> None:
        super().__init__(raydask.put(np.arange(size)))
        self.more = [raydask.put(size)]

    def __reduce__(self) -> Any:
        return (_rebuilt, (self.args, self.more))


def _rebuilt(args: tuple[Any, ...], more: list[Any]) -> WithRefError:
    error = WithRefError.__new__(WithRefError, *args)
    error.more = more
    return error


SIZES = [10, 200_000]
"""Of arrays in messages, and in the object store."""


@raydask.remote
def fail(size: int) -> None:
    raise WithRefError(size)


@raydask.remote
def depend(value: Any) -> Any:
    return value


def check(ref: raydask.ObjectRef, size: int) -> None:
    """Get what the error in a ref's place carries, when nothing but the error holds it."""
    with pytest.raises(WithRefError) as caught:
        raydask.get(ref)
    del ref
    gc.collect()
    raydask.get(raydask.remote(lambda: None).remote())
    error = caught.value
    for each in (error, error.cause):  # type: ignore[attr-defined]
        assert raydask.get(each.args[0])[-1] == size - 1
    assert raydask.get(error.cause.more[0]) == size  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", SIZES)
def test_a_tasks_error_carries_refs(size: int) -> None:
    check(fail.remote(size), size)


@pytest.mark.parametrize("size", SIZES)
def test_errors_of_dependents_carry_them_too(size: int) -> None:
    ref = fail.remote(size)
    for _ in range(5):
        ref = depend.remote(ref)
    check(ref, size)
    failed = fail.remote(size)
    raydask.wait([failed])
    ref = depend.remote(failed)
    del failed
    check(ref, size)


def test_one_failure_with_many_dependents(gate: Callable[[str], Gate]) -> None:
    @raydask.remote
    def fail_later(gate: Gate) -> None:
        gate.wait()
        raise WithRefError(200_000)

    release = gate("release")
    failing = fail_later.remote(release)
    refs = [depend.remote(failing) for _ in range(20)]
    refs += [depend.remote(ref) for ref in refs]
    del failing
    release.open()
    while refs:
        check(refs.pop(), 200_000)


@pytest.mark.parametrize("size", SIZES)
def test_an_error_that_a_parent_does_not_catch_carries_them_on(size: int) -> None:
    @raydask.remote
    def parent(times: int) -> None:
        raydask.get(parent.remote(times - 1) if times else fail.remote(size))

    check(parent.remote(2), size)


def test_each_of_several_returns_carries_them() -> None:
    refs = fail.options(num_returns=3).remote(200_000)
    while refs:
        check(refs.pop(), 200_000)


def test_errors_that_nobody_looks_at_leave_nothing() -> None:
    for size in SIZES * 10:
        fail.remote(size)
        depend.remote(fail.remote(size))
        raydask.wait([fail.remote(size)])


@pytest.mark.parametrize("kind", ["plain", "threads", "coroutines"])
@pytest.mark.parametrize("size", SIZES)
def test_an_actors_error_carries_refs(kind: str, size: int) -> None:
    @raydask.remote
    class Plain:
        def fail(self) -> None:
            raise WithRefError(size)

    @raydask.remote
    class Coroutines:
        async def fail(self) -> None:
            await asyncio.sleep(0)
            raise WithRefError(size)

    if kind == "coroutines":
        actor = Coroutines.remote()
    else:
        actor = Plain.options(max_concurrency=4 if kind == "threads" else 1).remote()
    check(actor.fail.remote(), size)
    check(depend.remote(actor.fail.remote()), size)
    actor.fail.remote()


def test_an_actor_that_cannot_be_made_leaves_nothing() -> None:
    @raydask.remote
    class Failing:
        def __init__(self) -> None:
            raise WithRefError(200_000)

        def call(self) -> None:
            pass

    failing = Failing.remote()
    with pytest.raises(raydask.errors.ActorDiedError):
        raydask.get(failing.call.remote())


def test_a_task_is_tried_again_whatever_its_error_carries(gate: Callable[[str], Gate]) -> None:
    done = gate("done")

    @raydask.remote(max_retries=2, retry_exceptions=True)
    def fail_once(gate: Gate) -> str:
        if gate.is_open:
            return "done"
        gate.open()
        raise WithRefError(200_000)

    @raydask.remote(max_retries=2, retry_exceptions=True)
    def fail_always() -> None:
        raise WithRefError(200_000)

    assert raydask.get(fail_once.remote(done)) == "done"
    check(fail_always.remote(), 200_000)


def test_a_call_is_tried_again_whatever_its_error_carries() -> None:
    @raydask.remote
    class Failing:
        def __init__(self) -> None:
            self.calls = 0

        @raydask.method(max_task_retries=2, retry_exceptions=True)
        def fail(self, times: int) -> int:
            self.calls += 1
            if self.calls <= times:
                raise WithRefError(200_000)
            return self.calls

    assert raydask.get(Failing.remote().fail.remote(2)) == 3
    check(Failing.remote().fail.remote(9), 200_000)


def test_a_dask_graph_raises_the_error_with_its_refs() -> None:
    def fail_in_graph(size: int) -> None:
        raise WithRefError(size)

    graph = {"failed": (fail_in_graph, 200_000), "after": (list, ["failed"]), "x": (len, "after")}
    with pytest.raises(WithRefError) as caught:
        raydask.get(graph, "x")
    assert raydask.get(caught.value.args[0])[-1] == 199_999
