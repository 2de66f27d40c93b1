"""Clusters of machines with a network between them: slow, lossy, cut, encrypted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raydask
from tests.cluster.networks import NetworkCluster, cluster_on, why_not
from tests.cluster.probes import Gate, eventually

CERTIFICATES = Path(__file__).parents[1] / "unit" / "wire" / "certificates"
RESOURCES = ["{}", '{"joined": 2, "one": 1}', '{"joined": 2, "two": 1}']
"""Of the head and of two nodes, which have the numbers 1, 2 and 3."""


@pytest.fixture(scope="module", autouse=True)
def networks_can_be_made() -> None:
    """Skip the module where the machine does not allow it."""
    reason = why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def three() -> Iterator[NetworkCluster]:
    with cluster_on(RESOURCES) as cluster:
        yield cluster


@raydask.remote
def where() -> int:
    return raydask.get_runtime_context().node_id


@raydask.remote
def small(number: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return number * number


@raydask.remote
def large(number: int, size: int) -> bytes:
    return bytes([number]) * size


@raydask.remote
def first_bytes(*values: bytes) -> list[int]:
    return [value[0] for value in values]


@raydask.remote
def spread(count: int, seconds: float, begun: Gate) -> int:
    """Have others do most of it; a home of tasks that is not the head."""
    begun.open()
    tasks = small.options(num_cpus=0, resources={"joined": 1})
    return sum(raydask.get([tasks.remote(i, seconds) for i in range(count)]))


def connected(cluster: NetworkCluster) -> raydask.ClusterContext:
    """Join at the head, once it knows all nodes."""
    context = raydask.init(cluster.folders[0])
    eventually(lambda: len(raydask.nodes()) == len(cluster.folders))
    return context


def do_everything(size: int) -> None:
    """Have results of both kinds go between all nodes."""
    for name, number in (("one", 2), ("two", 3)):
        assert raydask.get(where.options(resources={name: 1}).remote(), timeout=30) == number
    squares = [small.remote(i) for i in range(300)]
    on = [large.options(num_cpus=0, resources={name: 0.1}) for name in ("one", "two")]
    values = [on[i % 2].remote(i, size) for i in range(8)]
    readers = [
        first_bytes.options(num_cpus=0, resources={name: 0.1}).remote(*values)
        for name in ("one", "two")
    ]
    assert raydask.get(readers, timeout=60) == [list(range(8))] * 2
    assert raydask.get(squares, timeout=60) == [i * i for i in range(300)]
    assert [len(value) for value in raydask.get(values, timeout=60)] == [size] * 8


def test_results_small_and_large_go_between_machines(three: NetworkCluster) -> None:
    with connected(three):
        do_everything(4_000_000)
    assert three.alive() == [1, 2, 3]


def test_a_slow_network_that_loses_packets_only_takes_longer() -> None:
    with cluster_on(RESOURCES, delay=0.02, loss=0.01) as cluster, connected(cluster):
        do_everything(500_000)
        assert cluster.alive() == [1, 2, 3]


def test_connections_between_machines_can_be_encrypted() -> None:
    files = {
        "RAYDASK_TLS_CERTIFICATE": "node.pem",
        "RAYDASK_TLS_KEY": "node.key",
        "RAYDASK_TLS_AUTHORITY": "authority.pem",
    }
    tls = {name: str(CERTIFICATES / file) for name, file in files.items()}
    with cluster_on(RESOURCES, **tls) as cluster, connected(cluster):
        do_everything(2_000_000)
        assert cluster.alive() == [1, 2, 3]


def test_of_two_nodes_whose_link_is_cut_one_is_dead_and_the_job_ends_right(
    three: NetworkCluster, gate: Callable[..., Gate]
) -> None:
    _, one, two = three.network.machines
    begun = gate()
    with connected(three):
        # Its home is node 2, and node 3 has some of its tasks.
        job = spread.options(resources={"one": 1}).remote(40, 0.2, begun)
        eventually(lambda: begun.is_open)
        eventually(lambda: raydask.available_resources().get("joined", 0) == 0)
        three.network.cut(one, two)
        assert raydask.get(job, timeout=60) == sum(i * i for i in range(40))
        eventually(lambda: three.alive() == [1, 2], seconds=20)
        eventually(lambda: three.is_gone(2), seconds=20)
        assert raydask.get(small.remote(3), timeout=10) == 9


def test_a_node_that_is_cut_off_is_dead_and_ends_by_itself() -> None:
    with cluster_on(RESOURCES, RAYDASK_HEAD_SECONDS="2") as cluster, connected(cluster):
        tasks = small.options(num_cpus=0, resources={"joined": 1})
        kept = large.options(num_cpus=0, resources={"two": 1}).remote(1, 1_000_000)
        raydask.wait([kept], timeout=20)
        squares = [tasks.remote(i, 0.2) for i in range(40)]
        eventually(lambda: raydask.available_resources().get("joined", 0) == 0)
        cluster.network.cut_off(cluster.network.machines[2])
        assert raydask.get(squares, timeout=60) == [i * i for i in range(40)]
        eventually(lambda: cluster.alive() == [1, 2], seconds=20)
        eventually(lambda: cluster.is_gone(2), seconds=30)
        # Nobody waits for what was there alone.
        reader = first_bytes.options(resources={"one": 1}).remote(kept)
        assert raydask.wait([reader], timeout=10)[0] == [reader]


def test_who_cannot_reach_a_node_that_is_cut_off_lives_on(
    three: NetworkCluster, gate: Callable[..., Gate]
) -> None:
    begun = gate()
    with connected(three):
        # Its home is node 3, which would have to go if node 2 still spoke.
        job = spread.options(resources={"two": 1}).remote(40, 0.2, begun)
        eventually(lambda: begun.is_open)
        eventually(lambda: raydask.available_resources().get("joined", 0) == 0)
        three.network.cut_off(three.network.machines[1])
        assert raydask.get(job, timeout=60) == sum(i * i for i in range(40))
        eventually(lambda: three.alive() == [1, 3], seconds=20)
        # It learns what has become of it when the network is back.
        three.network.heal()
        eventually(lambda: three.is_gone(1), seconds=20)
        assert three.alive() == [1, 3]


@pytest.mark.parametrize("everybody", [False, True], ids=["from-one", "from-all"])
def test_a_cut_that_heals_soon_kills_nobody(
    three: NetworkCluster, everybody: bool, gate: Callable[..., Gate]
) -> None:
    _, one, two = three.network.machines
    begun = gate()
    with connected(three):
        job = spread.options(resources={"one": 1}).remote(60, 0.2, begun)
        eventually(lambda: begun.is_open)
        eventually(lambda: raydask.available_resources().get("joined", 0) == 0)
        if everybody:
            three.network.cut_off(two)
        else:
            three.network.cut(one, two)
        time.sleep(3.0)  # the length of the cut is what is tried
        three.network.heal()
        assert raydask.get(job, timeout=60) == sum(i * i for i in range(60))
        do_everything(500_000)
        time.sleep(1.5)  # longer than a complaint waits
        assert three.alive() == [1, 2, 3]
