"""Whole histories of one node: whatever happens, in whatever order it arrives.

The cluster checks its invariants after every event; these tests add what must hold at the
end: every program comes to its end, and nothing is left when nothing is held.
"""

from __future__ import annotations

import gc

import pytest

from raydask.testing.cluster import Faults, SimulatedCluster
from raydask.testing.processes import SimulatedDriver
from tests.simulation.programs import ACTORS, DETACHED, ODD, PROGRAMS, SIMPLE, TREE, Story

TOTAL = {"GPU": 20_000, "memory": 10_000}


def cluster_of(seed: int, faults: Faults = Faults()) -> SimulatedCluster:  # noqa: B008
    cluster = SimulatedCluster(seed, PROGRAMS, cpus=2, resources=TOTAL, gpus=[0, 1], faults=faults)
    cluster.start()
    return cluster


def run_to_the_end(cluster: SimulatedCluster, drivers: list[SimulatedDriver]) -> None:
    for _ in range(240):
        if all(driver.finished or not driver.alive for driver in drivers):
            break
        cluster.clock.run_for(0.25)
    else:
        pytest.fail("a program waits for ever")
    cluster.clock.run_for(12)
    gc.collect()


def assert_nothing_is_left(cluster: SimulatedCluster, drivers: list[SimulatedDriver]) -> None:
    for driver in drivers:
        cluster.end_driver(driver)
    cluster.clock.run_for(5)
    assert cluster.leftovers() == []


@pytest.mark.parametrize("seed", range(40))
def test_quiet_history(seed: int) -> None:
    cluster = cluster_of(seed)
    drivers = [cluster.add_driver(Story(60, SIMPLE, cancels=False))]
    run_to_the_end(cluster, drivers)

    assert [entry for entry in cluster.leftovers() if not entry.startswith("function")] == []
    assert_nothing_is_left(cluster, drivers)


@pytest.mark.parametrize("seed", range(40))
def test_history_with_everything(seed: int) -> None:
    cluster = cluster_of(seed + 1000)
    kinds = (*SIMPLE, *ODD, *ACTORS, TREE, TREE, TREE)
    drivers = [cluster.add_driver(Story(60, kinds)) for _ in range(2)]
    run_to_the_end(cluster, drivers)
    assert_nothing_is_left(cluster, drivers)


@pytest.mark.parametrize("seed", range(40))
def test_history_in_which_workers_die(seed: int) -> None:
    cluster = cluster_of(seed + 2000, Faults(failed_start=0.1, crash=0.05))
    drivers = [cluster.add_driver(Story(50, (*SIMPLE, *ACTORS, TREE, TREE)))]
    run_to_the_end(cluster, drivers)
    assert_nothing_is_left(cluster, drivers)


@pytest.mark.parametrize("seed", range(40))
def test_history_in_which_drivers_leave_at_any_time(seed: int) -> None:
    cluster = cluster_of(seed + 3000, Faults(crash=0.02))
    kinds = (*SIMPLE, *ACTORS, DETACHED, TREE, TREE)
    drivers = []
    for _ in range(4):
        driver = cluster.add_driver(Story(60, kinds))
        drivers.append(driver)
        cluster.clock.run_for(cluster.rng.choice((0.001, 0.05, 0.3)))
        cluster.end_driver(driver)
    run_to_the_end(cluster, drivers)
    for actor in list(cluster.core.actors.records.values()):
        cluster.kill_actor(actor.actor_id)
    cluster.clock.run_for(5)
    assert_nothing_is_left(cluster, drivers)
