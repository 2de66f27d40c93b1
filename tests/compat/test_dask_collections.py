"""Dask's collections computed on raydask give what Dask's own scheduler gives."""

from __future__ import annotations

import operator
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed

import raydask

pytestmark = pytest.mark.usefixtures("cluster")


def table(rows: int = 2_000) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "group": np.arange(rows) % 17,
            "value": random.random(rows),
            "text": [f"t{i % 5}" for i in range(rows)],
        }
    )


def frame() -> Any:
    return dd.from_pandas(table(), npartitions=7)


def array() -> Any:
    return da.random.RandomState(0).random_sample((300, 300), chunks=(100, 100))


def same(expression: Any) -> None:
    expected = expression.compute(scheduler="sync")
    found = expression.compute(scheduler=raydask.get)
    if isinstance(expected, (pd.DataFrame, pd.Series)):
        pd.testing.assert_frame_equal(
            pd.DataFrame(found).sort_index(), pd.DataFrame(expected).sort_index()
        )
    else:
        np.testing.assert_allclose(found, expected)


def increment(x: int) -> int:
    return x + 1


def test_delayed_tree() -> None:
    level = [delayed(increment)(i) for i in range(64)]
    while len(level) > 1:
        level = [delayed(operator.add)(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]

    assert level[0].compute(scheduler=raydask.get) == sum(range(65))


def test_delayed_with_containers_keywords_attributes_and_several_outputs() -> None:
    pair = delayed(lambda x: (x, {"k": x}), nout=2)(21)
    first, second = pair
    total = delayed(lambda parts, *, plus: sum(parts) + plus)([first, second["k"]], plus=first)

    assert total.compute(scheduler=raydask.get) == 63
    assert total.real.compute(scheduler=raydask.get) == 63


def test_several_collections_at_once() -> None:
    found = dask.compute(
        delayed(increment)(1),
        [delayed(max)([1, 5])],
        {"s": array().sum(), "n": 3},
        scheduler=raydask.get,
    )
    one, maxima, mapping = found

    assert one == 2
    assert mapping["n"] == 3
    np.testing.assert_allclose(mapping["s"], array().sum().compute(scheduler="sync"))
    assert maxima == [5]


@pytest.mark.parametrize(
    "expression",
    [
        lambda x: (x + x.T).mean(),
        lambda x: x.rechunk((50, 150)).std(axis=0),
        lambda x: da.linalg.svd(x.rechunk((100, 300)))[1],
        lambda x: x[::2, 5:200].cumsum(axis=1),
        lambda x: da.map_overlap(lambda block: block * 2, x, depth=2, boundary="reflect"),
        lambda x: (x @ x)[x.sum(axis=1).argmax()],
        lambda x: da.from_array(np.arange(90_000.0).reshape(300, 300), chunks=100) - x,
    ],
)
def test_arrays(expression: Any) -> None:
    same(expression(array()))


@pytest.mark.parametrize(
    "expression",
    [
        lambda df: df,
        lambda df: df.groupby("group").value.mean(),
        lambda df: df.groupby("text").agg({"value": ["sum", "std"]}),
        lambda df: df.merge(df[["group"]].drop_duplicates(), on="group").value.sum(),
        lambda df: df.set_index("value").text.str.upper().value_counts(),
        lambda df: df.assign(twice=df.value * 2).describe(),
        lambda df: df.map_partitions(lambda part: part.nlargest(3, "value"), meta=df._meta),
    ],
)
def test_dataframes(expression: Any) -> None:
    same(expression(frame()))


@pytest.mark.parametrize("method", ["tasks", "disk"])
def test_shuffles(method: str) -> None:
    with dask.config.set({"dataframe.shuffle.method": method}):
        same(frame().shuffle("text").groupby("text").value.std())


def test_bags() -> None:
    bag = db.from_sequence(range(1_000), npartitions=7)
    counts = bag.map(lambda x: x % 5).filter(lambda x: x != 3).frequencies()

    assert dict(counts.compute(scheduler=raydask.get)) == {0: 200, 1: 200, 2: 200, 4: 200}
    assert bag.fold(operator.add).compute(scheduler=raydask.get) == 499_500


def test_persist_and_go_on() -> None:
    persisted = array().persist(scheduler=raydask.get)

    same(persisted.sum(axis=0))
    assert len(frame().persist(scheduler=raydask.get).compute(scheduler=raydask.get)) == 2_000


def test_graphs_by_hand() -> None:
    graph = {"x": 1, "y": (operator.add, "x", 10), "z": (sum, ["x", "y", (operator.neg, "y")])}

    assert raydask.get(graph, "z") == 1
    assert raydask.get(graph, ["x", ["y", "z"], []]) == (1, (11, 1), ())
    assert raydask.get(graph, []) == ()
    assert raydask.get({("x", 0): (increment, 1)}, [("x", 0)]) == (2,)


def test_high_level_graphs() -> None:
    x = array()

    (blocks,) = raydask.get(x.dask, [x.__dask_keys__()])

    np.testing.assert_array_equal(np.block([list(row) for row in blocks]), x.compute())


def test_large_arguments_cross_once_and_arrive() -> None:
    big = np.arange(1_000_000.0)
    parts = [delayed(lambda a, i: a[i])(big, i) for i in range(0, 1_000_000, 100_000)]

    found = dask.compute(*parts, scheduler=raydask.get, optimize_graph=False)

    assert list(found) == list(range(0, 1_000_000, 100_000))


def double_in_place(x: Any) -> Any:
    x *= 2
    return x.sum()


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_tasks_may_change_their_inputs_and_nobody_else_sees_it(size: int) -> None:
    """Inputs that another task made, and inputs that stand in the graph."""
    made = delayed(np.ones)(size)
    given = np.ones(size)
    doubled = [delayed(double_in_place)(made) for _ in range(4)]
    doubled += [delayed(double_in_place)(given) for _ in range(6)]

    found = dask.compute(*doubled, delayed(np.sum)(made), scheduler=raydask.get)

    assert list(found) == [2 * size] * 10 + [size]
    assert given.sum() == size


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_results_belong_to_the_caller(size: int) -> None:
    (x,) = dask.compute(da.ones(size, chunks=size), scheduler=raydask.get)

    x += 1

    assert x.sum() == 2 * size


def test_pandas_results_may_be_changed() -> None:
    found = dd.from_pandas(table(100_000), npartitions=1).compute(scheduler=raydask.get)

    found.loc[0, "value"] = -1.0
    found["value"] += 1

    assert found.value.iloc[0] == 0
