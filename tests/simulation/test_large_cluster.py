"""The simulator of large clusters, on small ones: it must tell good schedules from bad ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raydask.testing import workloads
from raydask.testing.large_cluster import LargeCluster, Settings
from raydask.testing.workloads import Workload

CPUS = 4


def run(settings: Settings, *some: Workload) -> LargeCluster:
    cluster = LargeCluster(settings, list(some))
    cluster.run(1000.0)
    return cluster


def makespan(cluster: LargeCluster) -> float:
    drivers = cluster.drivers
    return max(driver.ended for driver in drivers) - min(driver.began for driver in drivers)


def durations(seed: int = 0) -> workloads.Duration:
    return workloads.durations(0.1, seed)


BUILDERS: dict[str, Callable[[], Workload]] = {
    "independent": lambda: workloads.independent(800, durations(), 8),
    "tree of 16": lambda: workloads.tree(800, durations(), 8, 16),
    "stencil": lambda: workloads.stencil(24, 20, durations(), 8),
    "map-reduce": lambda: workloads.map_reduce(800, 20, durations(), 8),
    "shuffle": lambda: workloads.shuffle(20, durations(), 8),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_makespan_is_near_an_ideal_list_schedule(name: str) -> None:
    workload = BUILDERS[name]()

    cluster = run(Settings(6, CPUS), workload)

    assert cluster.drivers[0].failed == 0
    assert cluster.runs == len(workload)
    assert makespan(cluster) < 1.25 * workloads.list_schedule(workload, 6 * CPUS)


def test_large_results_are_moved_and_tasks_go_where_they_are() -> None:
    workload = workloads.tree(400, durations(), 1_000_000, 2)

    cluster = run(Settings(6, CPUS), workload)

    assert cluster.drivers[0].failed == 0
    inputs = sum(map(len, workload.inputs)) * 1_000_000
    assert 0 < cluster.pulled < 0.7 * inputs


def test_the_home_of_all_is_no_hub_for_large_results() -> None:
    workload = workloads.tree(2000, durations(), 10_000_000, 2)

    cluster = run(Settings(6, CPUS, bandwidth=3e8), workload)

    assert makespan(cluster) < 1.3 * workloads.list_schedule(workload, 6 * CPUS)


def test_homes_get_equal_parts() -> None:
    some = [workloads.independent(600, durations(seed), 8) for seed in range(3)]

    cluster = run(Settings(6, CPUS), *some)

    assert min(cluster.shares) > 0.8 * max(cluster.shares)


def test_everything_ends_although_nodes_die() -> None:
    workload = workloads.independent(1200, durations(), 8)

    cluster = run(Settings(6, CPUS, deaths=3, death_span=2.0, seed=1), workload)

    assert cluster.drivers[0].failed == 0
    assert cluster.runs >= len(workload)
    assert sum(node.alive for node in cluster.nodes.values()) == 3


def test_results_that_die_with_their_node_end_what_needs_them() -> None:
    workload = workloads.tree(400, durations(), 1_000_000, 2)

    cluster = run(Settings(6, CPUS, deaths=2, death_span=1.0, seed=1), workload)

    assert cluster.drivers[0].finished


def test_nothing_is_left_when_all_refs_have_gone() -> None:
    cluster = run(Settings(4, CPUS), workloads.tree(300, durations(), 1_000_000, 2))

    for node in cluster.nodes.values():
        assert not node.core.objects.records
        assert not node.core.tasks
        assert node.store.sealed == 0


def test_the_same_seed_is_the_same_run() -> None:
    def once() -> tuple[float, dict[str, int]]:
        cluster = run(Settings(4, CPUS), workloads.tree(300, durations(), 200_000, 2))
        return makespan(cluster), dict(cluster.messages)

    assert once() == once()


def test_the_bounds_of_a_chain_and_of_independent_tasks() -> None:
    chain = Workload()
    for task in range(5):
        chain.add(1.0, (task - 1,) if task else ())
    wide = workloads.independent(5, lambda: 1.0, 8)

    assert chain.lower_bound(4) == 5
    assert wide.lower_bound(4) == 1.25
    assert (chain.simple_bound(4), wide.simple_bound(4)) == (5, 1.25)
    assert workloads.list_schedule(chain, 4) == 5
    assert workloads.list_schedule(wide, 4) == 2


def test_the_bound_of_a_graph_that_narrows_is_sharper_than_the_simple_one() -> None:
    narrowing = workloads.tree(64, lambda: 1.0, 8, 2)  # 32, 16, 8, 4, 2, 1

    assert narrowing.simple_bound(8) == 63 / 8
    assert narrowing.lower_bound(8) == 56 / 8 + 3
    assert workloads.list_schedule(narrowing, 8) >= 56 / 8 + 3
