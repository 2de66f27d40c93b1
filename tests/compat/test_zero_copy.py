"""Arrays and frames are read where they lie in the object store, and copied only as asked."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import raydask
from tests.cluster.probes import eventually_nothing_is_held, usage
from tests.compat.mappings import Place, anonymous_memory, place_of, trim

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")
sparse = pytest.importorskip("scipy.sparse")

MEGABYTE = 1 << 20
ROWS = 50_000
STEPS = np.arange(ROWS)
WORDS = [f"word {i % 1000}" for i in range(ROWS)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Run raydask on two CPUs while the module's tests last."""
    with raydask.init(num_cpus=2, object_store_memory=512 * MEGABYTE):
        yield


@pytest.fixture(autouse=True)
def everything_is_freed() -> Iterator[None]:
    """Check after each test that the node holds nothing any more."""
    yield
    gc.collect()
    eventually_nothing_is_held()


def frame(**columns: Any) -> Any:
    return pd.DataFrame(columns)


def scattered(kind: str) -> Any:
    make = getattr(sparse, kind)
    columns = STEPS if kind.startswith("dia") else STEPS % 700
    return make(sparse.coo_array((STEPS * 1.5, (STEPS, columns)), shape=(ROWS, ROWS)))


VALUES: dict[str, Callable[[], Any]] = {
    "numpy": lambda: STEPS * 0.5,
    "numpy in columns": lambda: np.asfortranarray((STEPS * 0.5).reshape(100, -1)),
    "numpy of dates": lambda: STEPS.astype("M8[ns]"),
    "numpy of strided": lambda: np.arange(2.0 * ROWS)[::2],
    "numpy of records": lambda: np.zeros(ROWS, dtype=[("at", "M8[s]"), ("x", "f8")]),
    "numpy with a mask": lambda: np.ma.masked_array(STEPS * 0.5, STEPS % 3 == 0),
    "pandas of numbers": lambda: frame(a=STEPS * 0.5, b=STEPS * 2.0, c=STEPS),
    "pandas of missing numbers": lambda: frame(a=pd.array(STEPS, dtype="Int64")),
    "pandas of dates": lambda: frame(at=pd.date_range("2000", periods=ROWS, freq="min")),
    "pandas of dates in a zone": lambda: frame(
        at=pd.date_range("2000", periods=ROWS, freq="min", tz="Europe/Berlin")
    ),
    "pandas with an index of dates": lambda: frame(a=STEPS * 0.5).set_axis(
        pd.date_range("2000", periods=ROWS, freq="min", tz="UTC")
    ),
    "pandas of periods": lambda: frame(p=pd.period_range("2000", periods=ROWS, freq="h")),
    "pandas of durations": lambda: frame(d=pd.to_timedelta(STEPS, unit="s")),
    "pandas of intervals": lambda: frame(i=pd.interval_range(0, ROWS, ROWS)),
    "pandas of few numbers": lambda: frame(
        s=pd.arrays.SparseArray(np.where(STEPS % 3, STEPS * 0.5, np.nan))
    ),
    "pandas of truths": lambda: frame(b=pd.array([i % 2 == 0 for i in STEPS], dtype="boolean")),
    "pandas of strings": lambda: frame(s=pd.array(WORDS, dtype="string[pyarrow]")),
    "pandas of Arrow's numbers": lambda: frame(a=STEPS * 0.5, b=STEPS).convert_dtypes(
        dtype_backend="pyarrow"
    ),
    "pandas of Arrow's strings": lambda: frame(s=pd.array(WORDS, dtype=pd.ArrowDtype(pa.string()))),
    "pandas of categories": lambda: frame(
        c=pd.Categorical.from_codes(STEPS % 500, categories=np.arange(500.0))
    ),
    "pandas with several indices": lambda: frame(a=STEPS * 0.5).set_axis(
        pd.MultiIndex.from_arrays([STEPS % 500, STEPS])
    ),
    "pandas of each": lambda: frame(
        n=STEPS,
        s=pd.array(WORDS, dtype="string[pyarrow]"),
        t=pd.date_range("2000", periods=ROWS, freq="min", tz="UTC"),
        c=pd.Categorical.from_codes(STEPS % 500, categories=np.arange(500.0)),
    ),
    "pyarrow array": lambda: pa.array(STEPS, mask=STEPS % 3 == 0),
    "pyarrow strings": lambda: pa.array(WORDS),
    "pyarrow chunks": lambda: pa.chunked_array([STEPS, STEPS * 2]),
    "pyarrow table": lambda: pa.table({"a": STEPS, "s": WORDS}),
    "pyarrow batch": lambda: pa.record_batch({"a": STEPS, "s": WORDS}),
    "pyarrow slice": lambda: pa.table({"a": STEPS, "s": WORDS}).slice(10_000, 20_000),
    **{
        f"scipy {kind}": lambda kind=kind: scattered(kind)  # type: ignore[misc]
        for shape in ("csr", "csc", "coo", "bsr", "dia")
        for kind in (f"{shape}_array", f"{shape}_matrix")
    },
}
FIXED = {"pandas with several indices"}
"""Where the library itself locks a part: the codes of an index."""


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_read_where_it_lies(name: str) -> None:
    value = VALUES[name]()
    ref = raydask.put(value)
    size = memory_of(value)

    for place in (place_of(raydask.get(ref)), raydask.get(raydask.remote(place_of).remote(ref))):
        assert place == Place(place.shared, 0, 0, writable=False, read_only=True)
        assert 0.99 * size <= place.shared <= size + 1_000


@pytest.mark.parametrize("name", VALUES)
def test_a_dask_task_reads_a_private_view_that_it_can_write(name: str) -> None:
    value = VALUES[name]()
    size = memory_of(value)
    graph = {"made": value, "one": (place_of, "made"), "pass": (same, "made")}
    inside, back = raydask.get(graph, ["one", "pass"])

    for place in (inside, place_of(back)):
        assert place == Place(0, place.private, 0, place.writable, read_only=False)
        assert place.writable or name in FIXED
        assert 0.99 * size <= place.private <= size + 1_000


@pytest.mark.parametrize("name", VALUES)
def test_a_copy_is_the_readers_own(name: str) -> None:
    value = VALUES[name]()
    copy = raydask.get(raydask.put(value), copy=True)
    place = place_of(copy)

    assert place == Place(0, 0, place.own, place.writable, read_only=False)
    assert place.writable or name in FIXED
    assert_equal(copy, value)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_it_was(name: str) -> None:
    value = VALUES[name]()
    assert_equal(raydask.get(raydask.put(value)), value)


def same(value: Any) -> Any:
    return value


def memory_of(value: Any) -> int:
    """Bytes of a value's arrays, before they are anywhere near the store."""
    place = place_of(value)
    assert not place.shared + place.private
    return place.own


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    elif sparse.issparse(one):
        assert one.shape == other.shape and (one != other).nnz == 0
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    else:
        assert one.equals(other)


# --- copies ------------------------------------------------------------------------------------


def test_a_copy_does_not_keep_the_object() -> None:
    copy = raydask.get(raydask.put(np.arange(4 * MEGABYTE)), copy=True)
    eventually_nothing_is_held()
    copy += 1

    assert copy[-1] == 4 * MEGABYTE


def test_copies_are_independent() -> None:
    ref = raydask.put({"large": np.zeros(MEGABYTE), "x": 1})
    small = raydask.put(np.zeros(10))
    one, two = raydask.get([ref, ref], copy=True)
    one["large"][:] = 1
    raydask.get(small, timeout=5, copy=True)[:] = 1

    assert not two["large"].any()
    assert not raydask.get(ref)["large"].any()
    assert not raydask.get(small).any()


def test_a_copy_in_a_task_is_the_tasks_own() -> None:
    @raydask.remote
    def change(refs: list[raydask.ObjectRef]) -> float:
        array = raydask.get(refs[0], copy=True)
        array[:] = 2
        return float(array.sum() - raydask.get(refs[0]).sum())

    ref = raydask.put(np.ones(MEGABYTE))
    assert raydask.get([change.remote([ref]) for _ in range(4)]) == [MEGABYTE] * 4


def test_a_copy_of_what_failed_is_the_error() -> None:
    with pytest.raises(ZeroDivisionError):
        raydask.get(raydask.remote(lambda: 1 / 0).remote(), copy=True)
    assert raydask.get(raydask.put("text"), copy=True) == "text"
    assert raydask.get([], copy=True) == []


def test_a_graph_needs_no_copies_and_says_so() -> None:
    with pytest.raises(raydask.errors.UsageError, match="copy=True is for get"):
        raydask.get({"x": 1}, "x", copy=True)


def test_a_graph_is_not_waited_for_by_the_clock_and_says_so() -> None:
    with pytest.raises(raydask.errors.UsageError, match="timeout is for get"):
        raydask.get({"x": 1}, "x", timeout=5)


# --- tasks that write into their inputs --------------------------------------------------------

SIZE = 128 * MEGABYTE
WRITTEN = 4 * MEGABYTE
TASKS = 16


def overwrite(array: Any, number: int) -> tuple[int, int, int]:
    """Write 4 of the array's 128 MB; return its sum before, after, and how memory grew."""
    before = int(array.sum())
    trim()
    memory = anonymous_memory()
    start = number * WRITTEN // 8
    array[start : start + WRITTEN // 8] = -1
    return before, int(array.sum()), anonymous_memory() - memory


@pytest.mark.parametrize("made_by", ["the driver", "a task"])
def test_tasks_that_write_into_one_input_see_the_original(made_by: str) -> None:
    total = SIZE // 8 * (SIZE // 8 - 1) // 2
    graph: dict[str, Any] = {"made": (np.arange, SIZE // 8)}
    if made_by == "the driver":
        graph["made"] = np.arange(SIZE // 8)
    keys = [f"task {number}" for number in range(TASKS)]
    graph.update({key: (overwrite, "made", number) for number, key in enumerate(keys)})
    graph["after"] = (check_original, "made", keys)
    *results, stored = raydask.get(graph, [*keys, "after"])

    for number, (before, after, grown) in enumerate(results):
        first = number * WRITTEN // 8
        written = sum(range(first, first + WRITTEN // 8))
        assert (before, after) == (total, total - written - WRITTEN // 8)
        assert WRITTEN <= grown <= WRITTEN + MEGABYTE
    assert stored < SIZE + 64 * MEGABYTE  # one copy, and what processes have room in


def check_original(array: Any, results: list[Any]) -> int:
    """Return what the store holds, when all have written."""
    assert len(results) == TASKS
    assert (array[:: os.sysconf("SC_PAGESIZE") // 8] == np.arange(0, SIZE // 8, 512)).all()
    return usage()[2]
