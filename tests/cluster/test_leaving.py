"""Nodes that leave: what they run and keep outlives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import raydask
from raydask.cluster_utils import Cluster
from raydask.driver.observer import drain_node
from tests.cluster.probes import Gate, eventually, process_named, session_processes
from tests.cluster.test_commands import SECRET, command, start

_BLOCKING = ("--num-cpus", "1", "--block", "--drain", "--object-store-memory", "100000000")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Run a head, at which nothing can run, and two nodes; be connected to the head."""
    with Cluster(num_cpus=0) as made:
        made.add_node(num_cpus=2, resources={"first": 2})
        made.add_node(num_cpus=2)
        made.wait_for_nodes()
        made.connect()
        eventually(lambda: len(raydask.nodes()) == 3)
        yield made


def test_what_a_node_keeps_is_there_when_it_has_left(cluster: Cluster) -> None:
    @raydask.remote(max_retries=0)
    def made(number: int) -> np.ndarray:
        return np.full(10_000 * (number % 4) + 1, number)

    refs = [made.options(resources={"first": 1}).remote(number) for number in range(8)]
    refs += [made.remote(number) for number in range(8, 40)]
    raydask.wait(refs, num_returns=len(refs), timeout=20)
    cluster.remove_node(cluster.worker_nodes[0], drain=True)
    cluster.wait_for_nodes(8)
    for number, value in enumerate(raydask.get(refs, timeout=20)):
        assert (value == number).all() and len(value) == 10_000 * (number % 4) + 1


def test_a_task_that_runs_comes_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    gate, begun = Gate(tmp_path), tmp_path / "begun"

    @raydask.remote(max_retries=0, resources={"first": 1})
    def patient() -> str:
        begun.touch()
        gate.wait()
        return os.environ["RAYDASK_SESSION"]

    ref = patient.remote()
    eventually(begun.exists)
    node = cluster.worker_nodes[0]
    drain_node(node.folder, 60.0, by_owner=True)
    assert node.pid
    gate.open()
    assert raydask.get(ref, timeout=20) == node.folder
    eventually(lambda: not os.path.exists(node.folder))


def test_at_the_deadline_it_goes_and_its_task_runs_again(cluster: Cluster, tmp_path: Path) -> None:
    gate, begun = Gate(tmp_path), tmp_path / "begun"

    @raydask.remote(num_cpus=1)
    def patient() -> str:
        with begun.open("a") as file:
            file.write(os.environ["RAYDASK_SESSION"] + "\n")
        gate.wait()
        return os.environ["RAYDASK_SESSION"]

    ref = patient.remote()
    first = eventually(lambda: begun.exists() and begun.read_text()).strip()
    node = next(node for node in cluster.worker_nodes if node.folder == first)
    cluster.remove_node(node, drain=True, drain_seconds=0.3)
    other = eventually(lambda: begun.read_text().split()[1:])[0]
    assert other != first
    gate.open()
    assert raydask.get(ref, timeout=20) == other


def test_stop_drains_what_start_has_begun() -> None:
    folder, endpoint = start("--num-cpus", "1", RAYDASK_SECRET=SECRET)
    joined = command("start", "--address", endpoint, "--num-cpus", "1", RAYDASK_SECRET=SECRET)
    other = joined.stdout.splitlines()[0].split()[3]
    result = command("stop", "--drain", "--drain-seconds", "20")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"ended the session in {other}" in result.stdout
    for each in (folder, other):
        assert not os.path.exists(each) and session_processes(each) == []


def test_a_blocking_node_leaves_on_sigterm_and_lets_tasks_end(tmp_path: Path) -> None:
    with Cluster(num_cpus=0) as cluster:
        process = subprocess.Popen(
            [sys.executable, "-m", "raydask", "start", "--address", cluster.address, *_BLOCKING],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None and process.stdout.readline()
            cluster.connect()
            eventually(lambda: len(raydask.nodes()) == 2)
            gate, begun = Gate(tmp_path), tmp_path / "begun"

            @raydask.remote(max_retries=0)
            def patient() -> int:
                begun.touch()
                gate.wait()
                return 5

            ref = patient.remote()
            eventually(begun.exists)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            gate.open()
            assert raydask.get(ref, timeout=20) == 5
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.mark.parametrize("stuck", [False, True])
def test_a_node_that_ends_says_goodbye_first(stuck: bool) -> None:
    with Cluster(num_cpus=0) as cluster:
        node = cluster.add_node()
        cluster.wait_for_nodes()
        process = process_named(node.folder, "node")
        if stuck:
            process.suspend()  # it cannot say anything, and is not waited for
        cluster.remove_node(node)
        assert not os.path.exists(node.folder) and not process.is_running()
        if not stuck:
            assert [each.node for each in cluster.status()] == [1]
        cluster.wait_for_nodes()


def test_a_node_without_its_head_leaves_without_waiting() -> None:
    with Cluster() as cluster:
        node = cluster.add_node()
        cluster.wait_for_nodes()
        assert cluster.head_node is not None
        cluster.head_node.kill()
        begun = time.monotonic()
        node.drain(60.0)
        assert time.monotonic() - begun < 15
        assert not os.path.exists(node.folder)
