"""Whole histories of one node: whatever happens, in whatever order it arrives.

The cluster checks its invariants after every event; these tests add what must hold at the
end: every program comes to its end, and nothing is left when nothing is held.
"""

from __future__ import annotations

import gc
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydask.task import TaskTemplate
from raydask.testing.cluster import Faults, SimulatedCluster
from raydask.testing.processes import SimulatedDriver
from tests.simulation.programs import (
    ACTORS,
    COUNTED,
    DETACHED,
    ENFORCED,
    ODD,
    PROGRAMS,
    SIMPLE,
    TREE,
    Story,
)

TOTAL = {"GPU": 20_000, "memory": 10_000}


def cluster_of(
    seed: int,
    faults: Faults = Faults(),  # noqa: B008
    store_bytes: int = 1 << 40,
) -> SimulatedCluster:
    cluster = SimulatedCluster(
        seed,
        PROGRAMS,
        cpus=2,
        resources=TOTAL,
        gpus=[0, 1],
        faults=faults,
        store_bytes=store_bytes,
    )
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


@pytest.mark.parametrize("seed", range(20))
def test_quiet_history(seed: int) -> None:
    cluster = cluster_of(seed)
    drivers = [cluster.add_driver(Story(60, SIMPLE, cancels=False))]
    run_to_the_end(cluster, drivers)

    assert [entry for entry in cluster.leftovers() if not entry.startswith("function")] == []
    assert_nothing_is_left(cluster, drivers)


@pytest.mark.parametrize("seed", range(20))
def test_history_with_everything(seed: int) -> None:
    cluster = cluster_of(seed + 1000)
    kinds = (*SIMPLE, *ODD, *ACTORS, TREE, TREE, TREE)
    drivers = [cluster.add_driver(Story(60, kinds)) for _ in range(2)]
    run_to_the_end(cluster, drivers)
    assert_nothing_is_left(cluster, drivers)


@pytest.mark.parametrize("seed", range(20))
def test_history_in_which_workers_die(seed: int) -> None:
    cluster = cluster_of(seed + 2000, Faults(failed_start=0.1, crash=0.05))
    drivers = [cluster.add_driver(Story(50, (*SIMPLE, *ACTORS, TREE, TREE)))]
    run_to_the_end(cluster, drivers)
    assert_nothing_is_left(cluster, drivers)


@pytest.mark.parametrize("seed", range(20))
def test_history_in_which_memory_runs_out(seed: int) -> None:
    cluster = cluster_of(seed + 4000, Faults(crash=0.01, memory=0.15))
    kinds = (*SIMPLE, *ACTORS, TREE, COUNTED, COUNTED, ENFORCED)
    drivers = [cluster.add_driver(Story(50, kinds))]
    run_to_the_end(cluster, drivers)
    assert_nothing_is_left(cluster, drivers)


@pytest.mark.parametrize("seed", range(20))
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


@pytest.mark.parametrize("seed", range(20))
def test_history_in_which_jobs_have_fork_servers(seed: int) -> None:
    cluster = cluster_of(seed + 5000, Faults(failed_start=0.05, crash=0.02, lost_server=0.3))
    kinds = (*SIMPLE, *ODD, *ACTORS, DETACHED, TREE, TREE)
    drivers = []
    for _ in range(3):
        driver = cluster.add_driver(Story(60, kinds))
        drivers.append(driver)
        for _ in range(2):
            cluster.clock.after(cluster.rng.random(), partial(cluster.name_modules, driver))
    cluster.clock.run_for(cluster.rng.choice((0.1, 0.4, 2.0)))
    cluster.end_driver(drivers[0])
    run_to_the_end(cluster, drivers)
    for actor in list(cluster.core.actors.records.values()):
        cluster.kill_actor(actor.actor_id)
    cluster.clock.run_for(5)

    assert cluster.fork_servers.workers > 0
    assert_nothing_is_left(cluster, drivers)
    assert not cluster.fork_servers.jobs


@pytest.mark.parametrize("seed", range(8))
def test_history_in_a_small_store(seed: int) -> None:
    faults = Faults(crash=0.02, failed_write=0.1)
    cluster = cluster_of(seed + 4030, faults, store_bytes=(3 + seed % 3) << 20)
    kinds = (*SIMPLE, *ACTORS, TREE, TREE)
    drivers = [cluster.add_driver(Story(60, kinds)) for _ in range(2)]
    run_to_the_end(cluster, drivers)

    assert cluster.spilled_files > 0
    assert cluster.moved_values > 0
    assert_nothing_is_left(cluster, drivers)


@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from((*SIMPLE, *ODD, *ACTORS, TREE)), min_size=1, max_size=4),
    st.integers(1, 40),
    st.sampled_from((0.0, 0.1)),
)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_short_histories_of_few_kinds_of_tasks(
    seed: int, kinds: list[TaskTemplate], steps: int, crash: float
) -> None:
    cluster = cluster_of(seed, Faults(crash=crash))
    drivers = [cluster.add_driver(Story(steps, kinds))]
    run_to_the_end(cluster, drivers)
    assert_nothing_is_left(cluster, drivers)


def test_a_history_is_a_function_of_its_seed() -> None:
    told = []
    for _ in range(2):
        cluster = cluster_of(7, Faults(crash=0.05))
        drivers = [cluster.add_driver(Story(40, (*SIMPLE, TREE)))]
        run_to_the_end(cluster, drivers)
        told.append((cluster.runs, cluster.errors, cluster.started_workers))

    assert told[0] == told[1]
    assert len(told[0][0]) > 10
