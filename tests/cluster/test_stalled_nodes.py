"""Nodes whose process is stopped and keeps its connections."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

import raydask
from raydask.cluster_utils import Cluster, ClusterNode
from tests.cluster.probes import Gate, eventually, process_named
from tests.cluster.test_cluster_nodes import is_gone

SILENT = 3.0
"""Seconds; a node that works says something once a second."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Run a head and two nodes, none of which may be silent for long."""
    monkeypatch.setenv("RAYDASK_SILENT_SECONDS", str(SILENT))
    with Cluster() as made:
        made.add_node(resources={"joined": 4})
        made.add_node(resources={"joined": 4, "last": 1})
        made.wait_for_nodes()
        yield made


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """Stop a process, and let it go on in the end."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def node_process(node: ClusterNode | None) -> psutil.Process:
    assert node is not None
    return process_named(node.folder, "node")


def alive(cluster: Cluster) -> list[int]:
    return [status.node for status in cluster.status() if status.alive]


def test_a_stopped_node_is_dead_its_tasks_run_elsewhere_and_it_ends_when_it_goes_on(
    cluster: Cluster, gate: Callable[..., Gate]
) -> None:
    last = cluster.worker_nodes[1]
    begun = gate("begun")

    @raydask.remote(num_cpus=0)
    def first(begun: Gate, gate: Gate) -> int:
        begun.open()
        gate.wait()
        return raydask.get_runtime_context().node_id

    with cluster.connect():
        eventually(lambda: raydask.cluster_resources().get("joined") == 8)
        only_there = first.options(resources={"last": 1}).remote(begun, gate())
        eventually(lambda: begun.is_open)
        anywhere = [first.options(resources={"joined": 1}).remote(begun, gate()) for _ in range(8)]
        eventually(lambda: raydask.available_resources().get("joined") == 0)
        with stopped(node_process(last)):
            gate().open()
            assert raydask.get(anywhere, timeout=20) == [2] * 8
            eventually(lambda: alive(cluster) == [1, 2])
            eventually(lambda: "last" not in raydask.cluster_resources())
        eventually(lambda: is_gone(last.folder))
        assert raydask.wait([only_there], timeout=0.1)[0] == []
        raydask.cancel(only_there)
        assert alive(cluster) == [1, 2]


def test_a_global_scheduler_that_was_stopped_declares_nobody_dead(cluster: Cluster) -> None:
    assert cluster.head_node is not None
    process = process_named(cluster.head_node.folder, "global-scheduler")
    with stopped(process), pytest.raises(psutil.TimeoutExpired):
        process.wait(2 * SILENT)
    cluster.wait_for_nodes(8)
    with pytest.raises(AssertionError):
        eventually(lambda: alive(cluster) != [1, 2, 3], seconds=SILENT + 1)


def test_a_node_that_is_stopped_for_a_moment_lives_on(cluster: Cluster) -> None:
    process = node_process(cluster.worker_nodes[0])
    with stopped(process), pytest.raises(psutil.TimeoutExpired):
        process.wait(SILENT / 4)
    with pytest.raises(AssertionError):
        eventually(lambda: alive(cluster) != [1, 2, 3], seconds=SILENT + 1)
