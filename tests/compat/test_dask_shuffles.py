"""By what means Dask shuffles frames while raydask runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
from distributed import Client

import raydask
from raydask.cluster_utils import Cluster
from raydask.compat.dask.shuffles import METHOD
from raydask.errors import UsageError


@pytest.fixture
def table() -> Iterator[pd.DataFrame]:
    yield pd.DataFrame({"key": [number % 7 for number in range(200)], "value": range(200)})
    raydask.shutdown()


def test_by_tasks_as_long_as_a_program_is_in_a_cluster() -> None:
    assert not dask.config.get(METHOD, None)
    with Cluster(num_cpus=1) as cluster:
        with cluster.connect():
            assert dask.config.get(METHOD) == "tasks"
        assert not dask.config.get(METHOD, None)


def test_as_before_on_one_node(table: pd.DataFrame) -> None:
    raydask.init(num_cpus=1)
    assert not dask.config.get(METHOD, None)
    found = dd.from_pandas(table, npartitions=3).shuffle("key").compute(scheduler=raydask.get)
    pd.testing.assert_frame_equal(found.sort_index(), table)


def test_as_the_user_says_if_he_does(table: pd.DataFrame) -> None:
    with dask.config.set({METHOD: "disk"}):
        raydask.init(num_cpus=1)
        assert dask.config.get(METHOD) == "disk"
        found = dd.from_pandas(table, npartitions=3).shuffle("key").compute(scheduler=raydask.get)
        pd.testing.assert_frame_equal(found.sort_index(), table)
        raydask.shutdown()
        assert dask.config.get(METHOD) == "disk"


def test_by_tasks_where_a_client_is_open_and_where_dask_is_loaded_later() -> None:
    program = """
import sys, raydask
raydask.init(sys.argv[1])
import dask.dataframe as dd, pandas as pd
from distributed import Client
with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None):
    table = pd.DataFrame({"key": [1, 2, 1, 2], "value": [1, 2, 3, 4]})
    frame = dd.from_pandas(table, npartitions=2)
    print(frame.shuffle("key").value.sum().compute(scheduler=raydask.get))
raydask.shutdown()
import dask, os
print(dask.config.get("dataframe.shuffle.method"))
print(os.environ.get("DASK_DATAFRAME__SHUFFLE__METHOD"))
"""
    with Cluster(num_cpus=1) as cluster:
        command = [sys.executable, "-c", program, cluster.list_all_nodes()[0].folder]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.splitlines() == ["10", "None", "None"], run.stderr


def test_p2p_is_refused_with_the_remedy(table: pd.DataFrame) -> None:
    raydask.init(num_cpus=1)
    with (
        Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None),
        dask.config.set({METHOD: "p2p"}),
    ):
        shuffled = dd.from_pandas(table, npartitions=3).shuffle("key")
        with pytest.raises(UsageError, match=r"P2P.*dask.config.set"):
            shuffled.compute(scheduler=raydask.get)


def test_a_client_that_is_open_when_raydask_starts_is_not_asked_to_shuffle(
    table: pd.DataFrame,
) -> None:
    with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None):
        raydask.init(num_cpus=1)
        found = dd.from_pandas(table, npartitions=3).shuffle("key").compute(scheduler=raydask.get)
        pd.testing.assert_frame_equal(found.sort_index(), table)
