"""Placement groups: resources of several nodes, reserved together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import raydask
from raydask.cluster_utils import Cluster
from raydask.errors import ActorDiedError, InfeasibleError, UsageError
from raydask.util import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from raydask.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.cluster.probes import eventually, process_named, run_driver


@raydask.remote
def where() -> int:
    node: int = raydask.get_runtime_context().node_id
    return node


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Run a head with a driver and two nodes, of 2 CPUs each."""
    with Cluster(num_cpus=2) as made:
        made.add_node(num_cpus=2)
        made.add_node(num_cpus=2)
        made.wait_for_nodes()
        made.connect()
        yield made


def inside(group: PlacementGroup, index: int = -1, **options: Any) -> dict[str, Any]:
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index), **options}


def places(group: PlacementGroup) -> list[int]:
    """Return where tasks in each bundle run."""
    tasks = [where.options(**inside(group, index)) for index in range(group.bundle_count)]
    return raydask.get([task.remote() for task in tasks], timeout=20)


def state_of(group: PlacementGroup) -> str:
    state: str = placement_group_table(group)["state"]
    return state


def free_cpus() -> float:
    return raydask.available_resources()["CPU"]


def test_a_group_is_reserved_and_given_back(cluster: Cluster) -> None:
    group = placement_group([{"CPU": 2}, {"CPU": 1}], "STRICT_SPREAD", name="mine")
    assert raydask.get(group.ready(), timeout=10) == group
    assert group.wait(1)
    described = placement_group_table(group)
    assert described["state"] == "CREATED"
    assert list(described["bundles_to_node_id"].values()) == places(group)
    assert len(set(places(group))) == 2
    eventually(lambda: free_cpus() == 3)
    assert raydask.cluster_resources()["CPU"] == 6
    assert not any("group" in name for node in raydask.nodes() for name in node["resources"])

    assert get_placement_group("mine") == group
    with pytest.raises(UsageError, match="exists already"):
        placement_group([{"CPU": 1}], name="mine")
    remove_placement_group(group)
    remove_placement_group(group)
    assert state_of(group) == "REMOVED"
    assert placement_group_table() == {}
    eventually(lambda: free_cpus() == 6)
    with pytest.raises(UsageError, match="no placement group named 'mine'"):
        get_placement_group("mine")


@pytest.mark.parametrize(
    ("strategy", "nodes"), [("PACK", 1), ("SPREAD", 2), ("STRICT_PACK", 1), ("STRICT_SPREAD", 2)]
)
def test_strategies(cluster: Cluster, strategy: Any, nodes: int) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy)
    assert len(set(places(group))) == nodes


def test_many_tasks_use_all_bundles_and_no_more(cluster: Cluster) -> None:
    group = placement_group([{"CPU": 1}] * 3, "STRICT_SPREAD")

    @raydask.remote(**inside(group))
    def busy() -> tuple[int, float, float]:
        began = time.time()
        time.sleep(0.1)
        return raydask.get_runtime_context().node_id, began, time.time()

    runs = raydask.get([busy.remote() for _ in range(12)], timeout=20)
    assert {node for node, _, _ in runs} == {1, 2, 3}
    for _, began, _ in runs:
        assert sum(start <= began < end for _, start, end in runs) <= 3


def test_tasks_that_wait_for_children_in_their_bundle_go_on(cluster: Cluster) -> None:
    group = placement_group([{"CPU": 1}])

    @raydask.remote
    def recurse(group: PlacementGroup, depth: int) -> int:
        if not depth:
            return 0
        again = recurse.options(**inside(group, 0))
        below: int = raydask.get(again.remote(group, depth - 1))
        return 1 + below

    assert raydask.get(recurse.options(**inside(group, 0)).remote(group, 4), timeout=20) == 4


def test_there_is_room_for_all_bundles_or_the_group_waits(cluster: Cluster) -> None:
    first = placement_group([{"CPU": 2}] * 2, "STRICT_SPREAD")
    assert first.wait(10)
    second = placement_group([{"CPU": 2}] * 2, "STRICT_SPREAD")
    assert not second.wait(0.5)
    assert state_of(second) == "PENDING"
    eventually(lambda: free_cpus() == 2)
    remove_placement_group(first)
    assert second.wait(10)


def test_a_group_waits_for_tasks_to_end(cluster: Cluster) -> None:
    sleep = raydask.remote(time.sleep).options(scheduling_strategy="SPREAD")
    busy = [sleep.remote(2.0) for _ in range(6)]
    eventually(lambda: free_cpus() == 0)
    group = placement_group([{"CPU": 2}] * 3, "STRICT_SPREAD")
    assert group.wait(10)
    raydask.get(busy, timeout=2)
    assert sorted(places(group)) == [1, 2, 3]


def test_a_group_that_no_nodes_can_hold_is_reported_and_counted(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    group = placement_group([{"CPU": 1}] * 4, "STRICT_SPREAD", name="wide")
    eventually(lambda: "no nodes can hold placement group 'wide'" in capfd.readouterr().err, "", 5)
    assert cluster.status()[0].infeasible == 1
    assert raydask.nodes()[0]["infeasible"] == 1
    assert "on 3 nodes" in placement_group_table(group)["infeasible"]
    node = cluster.add_node(num_cpus=1)
    assert group.wait(10)
    assert node.number in places(group)
    eventually(lambda: cluster.status()[0].infeasible == 0)


def test_removing_a_group_ends_what_runs_in_it(cluster: Cluster) -> None:
    group = placement_group([{"CPU": 2}] * 3, "STRICT_SPREAD")
    sleep = raydask.remote(time.sleep)
    running = [sleep.options(**inside(group, index)).remote(60) for index in range(3)]
    waiting = [sleep.options(**inside(group, num_cpus=2)).remote(60) for _ in range(3)]

    @raydask.remote(max_restarts=5, **inside(group, places(group).index(1), num_cpus=0))
    class Here:
        def ping(self) -> None:
            return None

    actor = Here.remote()
    raydask.get(actor.ping.remote(), timeout=10)
    remove_placement_group(group)
    for ref in running + waiting:
        with pytest.raises(InfeasibleError, match="was removed"):
            raydask.get(ref, timeout=10)
    with pytest.raises(ActorDiedError, match="was removed"):
        raydask.get(actor.ping.remote(), timeout=10)
    assert nobody_is_disturbed()
    eventually(lambda: free_cpus() == 6)


def nobody_is_disturbed() -> bool:
    tasks = [where.options(scheduling_strategy="SPREAD").remote() for _ in range(6)]
    return set(raydask.get(tasks, timeout=10)) == {1, 2, 3}


def test_bundles_that_are_lost_with_a_node_are_placed_anew(cluster: Cluster) -> None:
    group = placement_group([{"CPU": 2}] * 3, "STRICT_SPREAD")
    assert group.wait(10)
    lost = places(group).index(3)

    @raydask.remote(**inside(group, lost))
    def linger() -> int:
        node: int = raydask.get_runtime_context().node_id
        if node == 3:
            time.sleep(60)
        return node

    ref = linger.remote()
    cluster.remove_node(cluster.worker_nodes[1], graceful=False)
    eventually(lambda: state_of(group) == "RESCHEDULING", seconds=15)
    node = cluster.add_node(num_cpus=2)
    assert raydask.get(ref, timeout=10) == node.number
    assert places(group)[lost] == node.number
    assert state_of(group) == "CREATED"


def test_groups_survive_their_global_scheduler(cluster: Cluster) -> None:
    group = placement_group([{"CPU": 2}] * 2, "STRICT_SPREAD")
    assert group.wait(10)
    before = places(group)
    waits = placement_group([{"CPU": 2}] * 2, "STRICT_SPREAD")
    assert cluster.head_node is not None
    process_named(cluster.head_node.folder, "global-scheduler").kill()
    assert places(group) == before
    assert placement_group_table(group)["state"] == "CREATED"
    assert state_of(waits) == "PENDING"
    remove_placement_group(group)
    assert waits.wait(10)


PROGRAM = """
import raydask
from raydask.util import placement_group

raydask.init({folder!r})
assert placement_group([{{"CPU": 1}}]).wait(10)
assert placement_group([{{"CPU": 1}}], name="stays", lifetime="detached").wait(10)
{end}
"""


@pytest.mark.parametrize("end", ["raydask.shutdown()", "import os; os._exit(3)"])
def test_a_group_ends_with_its_driver_unless_it_is_detached(cluster: Cluster, end: str) -> None:
    assert cluster.head_node is not None
    folder = cluster.worker_nodes[0].folder
    run_driver(PROGRAM.format(folder=folder, end=end))
    eventually(lambda: [each["name"] for each in placement_group_table().values()] == ["stays"])
    eventually(lambda: free_cpus() == 5)
    group = get_placement_group("stays")
    assert places(group)[0] in {1, 2, 3}


def test_a_node_that_is_alone_has_groups_too() -> None:
    with raydask.init(num_cpus=2):
        group = placement_group([{"CPU": 1}, {"CPU": 1}])
        assert places(group) == [1, 1]
        with pytest.raises(UsageError, match="is more than bundle 0"):
            where.options(**inside(group, 0, num_cpus=2))
        remove_placement_group(group)
        with pytest.raises(InfeasibleError, match="was removed"):
            raydask.get(where.options(**inside(group)).remote(), timeout=10)
        assert raydask.get(where.options(num_cpus=2).remote(), timeout=10) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "bundles are a list"),
        (([{}],), "reserves something"),
        (([{"CPU": -1}],), "CPU must be a number"),
        (([{"CPU": 1}], "PILE"), "strategy is one of PACK"),
        (([{"CPU": 1}], "PACK", "", "forever"), "lifetime must be"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        placement_group(*arguments)
