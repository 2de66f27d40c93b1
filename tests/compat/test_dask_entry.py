"""The ways in which Dask takes a scheduler, and where ``get`` may be called."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from operator import add
from typing import Any

import dask
import dask.array as da
import pytest
from dask import delayed

import raydask


def where() -> int:
    import os

    return os.getpid()


@pytest.fixture
def somewhere_else() -> Any:
    """A computation that tells whether it ran in another process."""
    import os

    value = delayed(where, pure=False)()
    return lambda **options: value.compute(**options) != os.getpid()


@pytest.mark.usefixtures("cluster")
def test_as_an_argument(somewhere_else: Any) -> None:
    assert somewhere_else(scheduler=raydask.get)


@pytest.mark.usefixtures("cluster")
def test_by_name(somewhere_else: Any) -> None:
    assert somewhere_else(scheduler="raydask")
    assert somewhere_else(scheduler="RayDask")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("scheduler", [raydask.get, "raydask"])
def test_by_configuration(scheduler: Any, somewhere_else: Any) -> None:
    with dask.config.set(scheduler=scheduler):
        assert somewhere_else()


@pytest.mark.usefixtures("cluster")
def test_options_for_other_schedulers_do_no_harm() -> None:
    assert delayed(abs)(-1).compute(scheduler=raydask.get, num_workers=1, chunksize=3, bogus=1) == 1


@pytest.mark.usefixtures("cluster")
def test_from_several_threads_at_once() -> None:
    together = threading.Barrier(6)

    def total(i: int) -> float:
        together.wait()
        return float((da.ones((60, 60), chunks=20) + i).sum().compute(scheduler=raydask.get))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(total, range(6))) == [3_600.0 * (i + 1) for i in range(6)]


def nested(depth: int) -> int:
    if depth == 0:
        return 1
    parts = [delayed(nested)(depth - 1) for _ in range(2)]
    return int(delayed(add)(*parts).compute(scheduler=raydask.get))


@pytest.mark.usefixtures("cluster")
def test_from_within_tasks() -> None:
    """More levels than there are CPUs: a task that waits makes room for others."""
    assert delayed(nested)(3).compute(scheduler=raydask.get) == 8


@pytest.mark.usefixtures("cluster")
def test_from_within_remote_functions() -> None:
    ref = raydask.remote(nested).remote(2)

    assert raydask.get(ref) == 4


STARTS_ITSELF = """
import dask, raydask
from operator import add
assert dask.compute(dask.delayed(add)(1, 2), scheduler=raydask.get, num_workers=1) == (3,)
assert raydask.cluster_resources()["CPU"] == 1
assert dask.delayed(add)(1, 2).compute(scheduler="raydask") == 3
"""


def test_raydask_is_started_on_first_use() -> None:
    """And ended with the interpreter, silently."""
    done = subprocess.run(
        [sys.executable, "-c", STARTS_ITSELF],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_raydask_does_not_import_dask() -> None:
    check = "import sys, raydask; assert 'dask' not in sys.modules, 'dask came along'"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


@pytest.mark.parametrize("order", ["import dask, raydask", "import dask.array, raydask"])
def test_the_name_is_known_once_raydask_is_imported(order: str) -> None:
    check = f"{order}; import dask.base; assert 'raydask' in dask.base.named_schedulers"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_programs_need_no_dask_in_workers() -> None:
    check = "import sys, raydask.compat.dask.program; assert 'dask' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


LOSES_ITS_CLUSTER = """
import dask, raydask
from operator import add
from raydask.cluster_utils import Cluster
from raydask.errors import ClusterUnavailableError
with Cluster(num_cpus=1) as cluster:
    cluster.connect()
    assert dask.delayed(add)(1, 2).compute(scheduler="raydask") == 3
    cluster.head_node.kill()
    for scheduler in (raydask.get, "raydask"):
        try:
            dask.delayed(add)(1, 2).compute(scheduler=scheduler)
        except ClusterUnavailableError:
            continue
        raise SystemExit("it has run elsewhere")
"""


def test_what_was_meant_for_a_cluster_that_is_lost_does_not_run_elsewhere() -> None:
    subprocess.run([sys.executable, "-c", LOSES_ITS_CLUSTER], check=True, timeout=60)
