"""What the tests of a running session share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raydask
from raydask.cluster_utils import Cluster
from tests.cluster.probes import Gate


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Run raydask on two CPUs while the module's tests last; its address."""
    with raydask.init(num_cpus=2, object_store_memory=512 << 20) as context:
        yield context["address"]


@pytest.fixture(scope="module")
def four_nodes() -> Iterator[Cluster]:
    """Run four nodes of one CPU, of which number `i` has the resource ``n<i>``, and join them."""
    with Cluster(num_cpus=1, resources={"n1": 10}) as cluster:
        for number in (2, 3, 4):
            cluster.add_node(num_cpus=1, resources={f"n{number}": 10})
        cluster.wait_for_nodes()
        cluster.connect()
        yield cluster


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[str], Gate]:
    """Make gates by name, at which tasks wait or tell that they have begun."""
    return lambda name="gate": Gate(tmp_path, name)
