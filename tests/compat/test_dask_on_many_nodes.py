"""Dask graphs on a cluster of four nodes: all take part, and the results are right."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed

import raydask
from raydask.cluster_utils import Cluster
from raydask.errors import UsageError
from raydask.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NODES = {1, 2, 3, 4}


@pytest.fixture(scope="module", autouse=True)
def four_nodes() -> Iterator[None]:
    """Run four nodes of one CPU, whose workers know Dask, and join the first."""
    with Cluster(num_cpus=1) as cluster:
        for _ in range(3):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        cluster.connect()
        strategies = (NodeAffinitySchedulingStrategy(node) for node in NODES)
        raydask.get([know_dask.options(scheduling_strategy=each).remote() for each in strategies])
        yield


@raydask.remote
def know_dask() -> None:
    """Have the worker import what the tests use; who is late with that gets few of their tasks."""
    import dask.array
    import dask.dataframe  # noqa: F401


def where() -> int:
    return int(raydask.get_runtime_context().node_id)


def test_an_array_is_computed_by_all_nodes() -> None:
    def note_node(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        time.sleep(0.03)
        return np.full(block.shape, where())

    x = da.random.RandomState(0).random_sample((1600, 1600), chunks=(200, 200))
    nodes = x.map_blocks(note_node, dtype=int)
    ran = nodes.compute(scheduler=raydask.get)
    assert set(np.unique(ran)) == NODES
    y = (x + x.T - x.mean(axis=0)).std(axis=1)
    expected = y.compute(scheduler="sync")
    np.testing.assert_allclose(y.compute(scheduler=raydask.get), expected)


def test_a_frame_is_grouped_and_joined_by_all_nodes() -> None:
    rows = 40_000
    random = np.random.default_rng(0)
    table = pd.DataFrame({"key": random.integers(0, 500, rows), "value": random.random(rows)})
    names = pd.DataFrame({"key": np.arange(500), "name": [f"k{i}" for i in range(500)]})

    def note_node(part: pd.DataFrame) -> pd.DataFrame:
        time.sleep(0.03)
        return part.assign(node=where())

    frame = dd.from_pandas(table, npartitions=32)
    ran = frame.map_partitions(note_node, meta={"key": int, "value": float, "node": int})
    assert set(ran.node.unique().compute(scheduler=raydask.get)) == NODES
    joined = frame.merge(dd.from_pandas(names, npartitions=4), on="key", how="inner")
    sums = joined.groupby("name").value.sum()
    found = sums.compute(scheduler=raydask.get).sort_index()
    expected = table.merge(names, on="key").groupby("name").value.sum().sort_index()
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy())
    assert list(found.index) == list(expected.index)
    shuffled = frame.shuffle("key").compute(scheduler=raydask.get)
    assert len(shuffled) == rows
    assert np.isclose(shuffled.value.sum(), table.value.sum())


def test_a_tree_of_delayed_calls_keeps_its_order_and_its_errors() -> None:
    def leaf(i: int) -> Counter[int]:
        time.sleep(0.02)
        return Counter({where(): 1})

    level = [delayed(leaf)(i) for i in range(64)]
    while len(level) > 1:
        level = [delayed(lambda a, b: a + b)(*level[i : i + 2]) for i in range(0, len(level), 2)]
    (ran,) = dask.compute(level[0], scheduler=raydask.get)
    assert ran.total() == 64 and set(ran) == NODES

    failing = delayed(sum)([delayed(leaf)(0), delayed(lambda: 1 / 0)()])
    with pytest.raises(ZeroDivisionError):
        dask.compute(failing, scheduler=raydask.get)


def test_the_data_of_a_large_array_is_moved_and_freed() -> None:
    x = da.ones((4000, 4000), chunks=(1000, 1000))  # 16 pieces of 8 MB
    for _ in range(3):
        assert (x + x.T).sum().compute(scheduler=raydask.get) == 2 * 4000 * 4000


def test_frames_are_shuffled_by_tasks_and_not_through_files() -> None:
    table = pd.DataFrame({"key": np.arange(4_000) % 97, "value": np.arange(4_000.0)})
    shuffled = dd.from_pandas(table, npartitions=8).shuffle("key")
    found = shuffled.compute(scheduler=raydask.get)
    pd.testing.assert_frame_equal(found.sort_index(), table)

    with dask.config.set({"dataframe.shuffle.method": "disk"}):
        shuffled = dd.from_pandas(table, npartitions=8).shuffle("key")
        with pytest.raises(UsageError, match=r"files of one machine.*shuffle.method"):
            shuffled.compute(scheduler=raydask.get)
