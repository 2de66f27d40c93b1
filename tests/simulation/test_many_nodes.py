"""Whole histories of several nodes: whatever happens, in whatever order it arrives."""

from __future__ import annotations

import gc
import random

import pytest

from raydask.testing.cluster import Faults
from raydask.testing.nodes import SimulatedNodes
from raydask.testing.processes import SimulatedDriver
from tests.simulation.programs import ACTORS, DETACHED, ODD, PROGRAMS, SIMPLE, TREE, Story

RESOURCES = {"GPU": 20_000, "memory": 10_000}


def run_to_the_end(nodes: SimulatedNodes, drivers: list[SimulatedDriver]) -> None:
    for _ in range(240):
        if all(driver.finished or not driver.alive for driver in drivers):
            break
        nodes.clock.run_for(0.25)
    else:
        pytest.fail("a program waits for ever")
    nodes.clock.run_for(12)
    gc.collect()


def assert_nothing_is_left(nodes: SimulatedNodes, drivers: list[SimulatedDriver]) -> None:
    for driver in drivers:
        driver.cluster.end_driver(driver)
    nodes.clock.run_for(5)
    left = nodes.leftovers()
    assert left == [], left


@pytest.mark.parametrize("seed", range(20))
def test_quiet_history(seed: int) -> None:
    nodes = SimulatedNodes(seed, PROGRAMS, resources=RESOURCES)
    nodes.start()
    drivers = [nodes.nodes[1].add_driver(Story(60, SIMPLE, cancels=False))]
    run_to_the_end(nodes, drivers)
    assert nodes.lent or seed
    assert_nothing_is_left(nodes, drivers)


@pytest.mark.parametrize("seed", range(20))
def test_history_with_everything(seed: int) -> None:
    nodes = SimulatedNodes(seed + 1000, PROGRAMS, resources=RESOURCES, failed_pull=0.05)
    nodes.start()
    kinds = (*SIMPLE, *ODD, TREE, TREE, TREE)
    drivers = [node.add_driver(Story(40, kinds)) for node in nodes.nodes.values()]
    run_to_the_end(nodes, drivers)
    assert_nothing_is_left(nodes, drivers)


@pytest.mark.parametrize("seed", range(20))
def test_history_in_which_nodes_and_workers_die(seed: int) -> None:
    nodes = SimulatedNodes(seed + 2000, PROGRAMS, 4, resources=RESOURCES, faults=Faults(crash=0.02))
    nodes.start()
    kinds = (*SIMPLE, *ODD, TREE, TREE, TREE)
    drivers = [node.add_driver(Story(40, kinds)) for node in nodes.nodes.values()]
    rng = random.Random(seed)
    for number in rng.sample((2, 3, 4), rng.randint(1, 2)):
        nodes.clock.run_for(0.2 * rng.random())
        nodes.kill(number)
    run_to_the_end(nodes, drivers)
    assert_nothing_is_left(nodes, [driver for driver in drivers if driver.cluster.alive])


@pytest.mark.parametrize("seed", range(20))
def test_history_in_small_stores(seed: int) -> None:
    nodes = SimulatedNodes(
        seed + 3000, PROGRAMS, resources=RESOURCES, store_bytes=24 << 20, failed_pull=0.02
    )
    nodes.start()
    drivers = [node.add_driver(Story(40, (*SIMPLE, TREE))) for node in nodes.nodes.values()]
    run_to_the_end(nodes, drivers)
    assert_nothing_is_left(nodes, drivers)


@pytest.mark.parametrize("seed", range(20))
def test_history_in_which_nodes_leave(seed: int) -> None:
    """No task fails that would not have, and no object is lost: the simulation checks that."""
    nodes = SimulatedNodes(seed + 4000, PROGRAMS, 5, resources=RESOURCES, failed_pull=0.02)
    nodes.start()
    kinds = (*SIMPLE, TREE, TREE)
    drivers = [nodes.nodes[number].add_driver(Story(60, kinds)) for number in (1, 2)]
    rng = random.Random(seed)
    leaving = rng.sample((3, 4, 5), rng.randint(1, 3))
    for number in leaving:
        nodes.clock.run_for(0.3 * rng.random())
        nodes.drain(number)
    run_to_the_end(nodes, drivers)
    assert_nothing_is_left(nodes, drivers)
    assert not any(nodes.nodes[number].alive for number in leaving)


def end_actors(nodes: SimulatedNodes) -> None:
    """End the detached actors, which outlive their drivers."""
    for node in nodes.alive:
        for actor_id in list(node.core.actors.records):
            node.kill_actor(actor_id)


@pytest.mark.parametrize("seed", range(20))
def test_history_with_actors(seed: int) -> None:
    nodes = SimulatedNodes(seed + 4000, PROGRAMS, resources=RESOURCES, faults=Faults(crash=0.02))
    nodes.start()
    kinds = (*SIMPLE, *ACTORS, *ACTORS, DETACHED, TREE, TREE)
    drivers = [node.add_driver(Story(40, kinds)) for node in nodes.nodes.values()]
    run_to_the_end(nodes, drivers)
    assert nodes.hosted
    end_actors(nodes)
    assert_nothing_is_left(nodes, drivers)


@pytest.mark.parametrize("seed", range(20))
def test_history_with_actors_in_which_nodes_die(seed: int) -> None:
    nodes = SimulatedNodes(seed + 5000, PROGRAMS, 4, resources=RESOURCES, faults=Faults(crash=0.02))
    nodes.start()
    kinds = (*SIMPLE, *ACTORS, *ACTORS, DETACHED, TREE, TREE)
    drivers = [node.add_driver(Story(40, kinds)) for node in nodes.nodes.values()]
    rng = random.Random(seed)
    for number in rng.sample((2, 3, 4), rng.randint(1, 2)):
        nodes.clock.run_for(0.2 * rng.random())
        nodes.kill(number)
    run_to_the_end(nodes, drivers)
    end_actors(nodes)
    assert_nothing_is_left(nodes, [driver for driver in drivers if driver.cluster.alive])
