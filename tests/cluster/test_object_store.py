"""The object store: no copies on the way out, and memory that comes back."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

import raydask
from raydask.errors import ObjectStoreFullError
from tests.cluster.probes import eventually, eventually_nothing_is_held, usage

pytestmark = pytest.mark.usefixtures("cluster")

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def everything_is_freed() -> Any:
    """Check after each test that the node holds nothing any more."""
    yield
    gc.collect()
    eventually_nothing_is_held()


def array_of(megabytes: int, value: int = 1) -> Any:
    return np.full(megabytes * MEGABYTE // 8, value, dtype=np.int64)


def test_get_makes_no_copy() -> None:
    ref = raydask.put(array_of(64))
    one, two = raydask.get(ref), raydask.get(ref)
    assert np.shares_memory(one, two)
    assert not one.flags.writeable


def test_a_view_keeps_its_memory_when_the_ref_is_gone() -> None:
    kept = raydask.get(raydask.put(array_of(16, 7)))
    for value in range(5):
        raydask.put(array_of(16, value))
    assert (kept == 7).all()
    assert usage()[2] >= 16 * MEGABYTE


def test_a_slice_keeps_its_memory_when_the_array_is_gone() -> None:
    kept = raydask.get(raydask.put(array_of(16, 7)))[5:10]
    for value in range(5):
        raydask.put(array_of(16, value))
    assert (kept == 7).all()


def test_memory_comes_back_when_the_last_ref_goes() -> None:
    source = array_of(64)
    for value in range(12):  # more than the store holds
        source[-1] = value
        assert raydask.get(raydask.put(source))[-1] == value


def test_memory_comes_back_when_views_are_garbage_in_a_cycle() -> None:
    source = array_of(64)
    for _ in range(10):
        cycle: list[Any] = [raydask.get(raydask.put(source))]
        cycle.append(cycle)
        del cycle
        gc.collect()


def test_results_and_arguments_of_tasks_are_freed() -> None:
    add = raydask.remote(lambda a, b: a + b)
    ref = raydask.put(array_of(32, 0))
    for _ in range(10):
        ref = add.remote(ref, 1)
    assert raydask.get(ref)[0] == 10


def test_results_that_nobody_wants_are_freed() -> None:
    make = raydask.remote(lambda: array_of(32))
    raydask.get([raydask.remote(lambda a: None).remote(make.remote()) for _ in range(5)])
    for _ in range(5):
        make.remote()


def test_a_tasks_views_do_not_outlive_it() -> None:
    @raydask.remote
    def total(array: Any) -> int:
        return int(array[::2].sum())

    assert raydask.get([total.remote(array_of(16)) for _ in range(20)]) == [MEGABYTE] * 20


def test_a_task_may_keep_a_view_in_its_module() -> None:
    @raydask.remote
    def keep(array: Any) -> None:
        import builtins

        builtins.kept = array  # type: ignore[attr-defined]

    @raydask.remote
    def take() -> Any:
        import builtins

        array = builtins.__dict__.pop("kept", None)
        return None if array is None else int(array.sum())

    raydask.get(keep.remote(array_of(8)))
    for value in range(10):
        raydask.put(array_of(8, value))

    def found() -> Any:
        return [got for got in raydask.get([take.remote() for _ in range(4)]) if got is not None]

    assert eventually(found) == [MEGABYTE]


def test_errors_do_not_keep_arguments() -> None:
    @raydask.remote
    def fail(array: Any) -> None:
        local = array * 2
        raise ValueError(len(local))

    for _ in range(10):
        with pytest.raises(ValueError, match=str(32 * MEGABYTE // 8)):
            raydask.get(fail.remote(array_of(32)))


def test_refs_inside_values_keep_what_they_refer_to() -> None:
    box = raydask.put({"inner": [raydask.put(array_of(16, 3))]})
    outer = raydask.put([box])
    del box
    inner = raydask.get(raydask.get(outer)[0])["inner"][0]
    del outer
    assert (raydask.get(inner) == 3).all()


def test_many_small_objects_are_freed() -> None:
    refs = [raydask.put(i) for i in range(5_000)]
    assert raydask.get(refs) == list(range(5_000))
    middling = [raydask.put(np.full(20_000, i)) for i in range(200)]
    assert [int(array[0]) for array in raydask.get(middling)] == list(range(200))


def test_an_object_larger_than_the_store_is_refused() -> None:
    with pytest.raises(ObjectStoreFullError, match=r"bytes in one piece.*Biggest objects: "):
        raydask.put(array_of(600))
    assert raydask.get(raydask.put(array_of(300)))[0] == 1


def test_a_task_whose_result_does_not_fit_fails() -> None:
    with pytest.raises(ObjectStoreFullError):
        raydask.get(raydask.remote(lambda: array_of(600)).remote())


def test_many_threads_put_and_get() -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        for value in range(20):
            array = raydask.get(raydask.put(np.full(50_000, number * 100 + value)))
            if not (array == number * 100 + value).all():
                wrong.append((number, value))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert wrong == []


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 3)),
        np.arange(10**6).reshape(100, -1).T,
        np.arange(10**6)[::2],
        np.asfortranarray(np.ones((500, 500))),
        np.array(["a", None, 5] * 50_000, dtype=object),
        bytearray(b"x" * 300_000),
        [np.ones(30_000), {"b": np.zeros(30_000, dtype="f4")}],
    ],
    ids=["empty", "transposed", "strided", "fortran", "objects", "bytearray", "nested"],
)
def test_values_of_many_shapes_come_back_equal(value: Any) -> None:
    for back in (
        raydask.get(raydask.put(value)),
        raydask.get(raydask.remote(lambda x: x).remote(value)),
    ):
        np.testing.assert_equal(back, value)
        assert type(back) is type(value)
