"""Nodes that come, are missing, and are killed while others work with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raydask
from raydask.cluster_utils import Cluster, ClusterNode
from raydask.errors import InfeasibleError, ObjectLostError, OwnerDiedError, WorkerCrashedError
from tests.cluster.nodes import eventually_idle, eventually_nothing_is_held_by, on, where
from tests.cluster.probes import Gate, driver, eventually

MakeGate = Callable[[str], Gate]


@pytest.fixture
def three() -> Iterator[Cluster]:
    """Run three nodes of one CPU, of which number `i` has the resource ``n<i>``, and join them."""
    with Cluster(num_cpus=1, resources={"n1": 10}) as cluster:
        for number in (2, 3):
            cluster.add_node(num_cpus=1, resources={f"n{number}": 10})
        cluster.wait_for_nodes()
        cluster.connect()
        yield cluster


def kill(cluster: Cluster, number: int) -> None:
    """Kill a node as if its machine had lost its power."""
    (node,) = [node for node in cluster.worker_nodes if node.number == number]
    cluster.remove_node(node, graceful=False)


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return where()


def make(value: int) -> np.ndarray[Any, Any]:
    return np.full(500_000, value)


# --- what no node has -----------------------------------------------------------------------


def test_what_no_node_can_run_is_told_and_runs_once_one_joins_that_can(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Cluster(num_cpus=1) as cluster:
        cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        cluster.connect()
        ref = raydask.remote(where).options(resources={"disk": 1}).remote()
        large = raydask.remote(where).options(num_cpus=4).remote()
        told = ""

        def is_told() -> bool:
            nonlocal told
            told += capfd.readouterr().err
            return told.count("no node can run 'where'") == 2

        eventually(is_told, seconds=5)
        assert "it asks for CPU 1, disk 1, and" in told and "it asks for CPU 4, and" in told
        assert raydask.wait([ref, large], timeout=0.1) == ([], [ref, large])
        node = cluster.add_node(num_cpus=4, resources={"disk": 2})
        assert raydask.get([ref, large], timeout=10) == [node.number] * 2


def test_what_waits_too_long_for_a_node_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDASK_INFEASIBLE_SECONDS", "0.5")
    with Cluster(num_cpus=1) as cluster:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        cluster.connect()
        with pytest.raises(InfeasibleError, match="'disk': 1"):
            raydask.get(raydask.remote(where).options(resources={"disk": 1}).remote(), timeout=5)


def test_a_node_that_joins_late_takes_part() -> None:
    with Cluster(num_cpus=1) as cluster:
        cluster.connect()
        task = raydask.remote(nap)
        refs = [task.remote(0.05) for _ in range(100)]
        cluster.add_node(num_cpus=1)
        assert set(raydask.get(refs, timeout=30)) == {1, 2}


# --- nodes that are killed ------------------------------------------------------------------


def test_tasks_of_a_killed_node_are_retried_elsewhere(three: Cluster, tmp_path: Path) -> None:
    @raydask.remote
    def work(i: int) -> tuple[int, int]:
        (tmp_path / f"{where()}-{time.monotonic_ns()}").touch()
        time.sleep(0.05)
        return i, where()

    refs = [work.remote(i) for i in range(150)]
    eventually(lambda: list(tmp_path.glob("3-*")))
    kill(three, 3)
    found = raydask.get(refs, timeout=60)
    assert [i for i, _ in found] == list(range(150))
    assert {node for _, node in found} >= {1, 2}
    three.wait_for_nodes()
    del refs
    eventually_idle(three)
    eventually_nothing_is_held_by(three)


def test_a_task_without_retries_fails_with_its_node(three: Cluster, gate: MakeGate) -> None:
    begun = gate("begun")

    def hold() -> None:
        begun.open()
        time.sleep(60)

    once = on(3, hold, max_retries=0).remote()
    eventually(lambda: begun.is_open)
    kill(three, 3)
    with pytest.raises(WorkerCrashedError, match="node 3 is dead"):
        raydask.get(once, timeout=10)


def test_nested_tasks_survive_the_death_of_a_node_that_ran_some(three: Cluster) -> None:
    @raydask.remote
    def fib(n: int) -> int:
        time.sleep(0.01)
        return n if n < 2 else sum(raydask.get([fib.remote(n - 1), fib.remote(n - 2)]))

    ref = fib.remote(8)
    raydask.wait([ref], timeout=0.5)
    kill(three, 2)
    assert raydask.get(ref, timeout=60) == 21


def test_what_only_a_dead_node_had_is_lost(three: Cluster) -> None:
    lost = on(3, make).remote(1)
    copied = on(3, make).remote(2)
    raydask.wait([lost, copied], num_returns=2, timeout=10)
    assert raydask.get(on(2, lambda a: int(a[0])).remote(copied), timeout=10) == 2
    kill(three, 3)
    with pytest.raises(ObjectLostError, match="node 3, which had it, is dead"):
        raydask.get(lost, timeout=10)
    assert (raydask.get(copied, timeout=10) == 2).all()
    with pytest.raises(ObjectLostError):
        raydask.get(on(2, len).remote(lost), timeout=10)


def test_what_a_dead_nodes_task_had_put_is_lost_with_its_home(three: Cluster) -> None:
    def put() -> list[raydask.ObjectRef]:
        return [raydask.put("small"), raydask.put(make(1))]

    small, large = raydask.get(on(3, put).remote(), timeout=10)
    kill(three, 3)
    for ref in (small, large):
        with pytest.raises(OwnerDiedError, match="node 3, its home"):
            raydask.get(ref, timeout=10)


def test_a_get_that_waits_is_told_when_the_home_dies(three: Cluster, gate: MakeGate) -> None:
    begun = gate("begun")

    def hold() -> None:
        begun.open()
        time.sleep(60)

    def submit() -> list[raydask.ObjectRef]:
        return [on(2, hold).remote()]

    (ref,) = raydask.get(on(3, submit).remote(), timeout=10)
    eventually(lambda: begun.is_open)
    waiting = on(1, lambda refs: raydask.get(refs[0])).remote([ref])
    kill(three, 3)
    with pytest.raises(OwnerDiedError):
        raydask.get(waiting, timeout=10)
    with pytest.raises(OwnerDiedError):
        raydask.get(ref, timeout=10)
    eventually_idle(three)  # the task that node 2 ran for node 3 has been ended


def test_what_a_driver_at_a_dead_node_ran_ends_everywhere(three: Cluster, gate: MakeGate) -> None:
    begun = gate("begun")
    script = f"""
        import pathlib, time
        import raydask

        raydask.init({three.worker_nodes[1].folder!r})

        def hold():
            pathlib.Path({begun.path!r}).touch()
            time.sleep(60)

        ref = raydask.remote(hold).options(resources={{"n2": 1}}).remote()
        try:
            raydask.get(ref)
        except raydask.errors.ClusterUnavailableError as error:
            print("unavailable")
    """
    with driver(script) as running:
        eventually(lambda: begun.is_open)
        kill(three, 3)
        assert running.read_line() == "unavailable"
    eventually_idle(three)


@pytest.mark.parametrize("graceful", [True, False])
def test_a_broadcast_goes_on_when_a_node_on_its_way_is_lost(three: Cluster, graceful: bool) -> None:
    added = three.add_node(num_cpus=1, resources={"n4": 1})
    three.wait_for_nodes()
    ref = raydask.put(np.arange(8_000_000))
    total = raydask.remote(lambda array: int(array.sum()))
    readers = [total.options(resources={f"n{n}": 1}).remote(ref) for n in (2, 3, 4)]
    three.remove_node(added, graceful)
    whole = 8_000_000 * 7_999_999 // 2
    assert raydask.get(readers[:2], timeout=30) == [whole, whole]
    raydask.cancel(readers[2])


def test_nodes_come_and_go_while_tasks_run(three: Cluster) -> None:
    @raydask.remote
    def step(x: int) -> int:
        time.sleep(0.02)
        return x + 1

    chains = [step.remote(0) for _ in range(12)]
    extra: list[ClusterNode] = []
    for turn in range(12):
        chains = [step.remote(chain) for chain in chains]
        if turn % 4 == 1:
            extra.append(three.add_node(num_cpus=1))
        if turn % 4 == 3:
            three.remove_node(extra.pop(), graceful=turn != 3)
    assert raydask.get(chains, timeout=60) == [13] * 12
    three.wait_for_nodes()
    del chains
    eventually_idle(three)
    eventually_nothing_is_held_by(three)
