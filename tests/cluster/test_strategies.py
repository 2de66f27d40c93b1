"""Where tasks run that say so: spread, on a node, by labels."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

import raydask
from raydask.cluster_utils import Cluster
from raydask.errors import InfeasibleError, UsageError
from raydask.util.scheduling_strategies import (
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)
from tests.cluster.probes import eventually, process_named


@raydask.remote
def where(*inputs: object) -> int:
    node: int = raydask.get_runtime_context().node_id
    return node


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Run a head with a driver and two nodes, of 2 CPUs each."""
    with Cluster(num_cpus=2) as made:
        made.add_node(num_cpus=2, labels={"rack": "7"})
        made.add_node(num_cpus=2, labels={"rack": "8", "ssd": ""})
        made.wait_for_nodes()
        made.connect()
        yield made


def nodes_of(strategy: object, count: int = 1, *inputs: object, **options: object) -> Counter[int]:
    task = where.options(scheduling_strategy=strategy, **options)
    return Counter(raydask.get([task.remote(*inputs) for _ in range(count)], timeout=20))


def test_spread_tasks_go_round(cluster: Cluster) -> None:
    assert nodes_of("SPREAD", 30, num_cpus=0) == {1: 10, 2: 10, 3: 10}
    # Where they take CPUs, a node that says in between that it is free has more turns.
    assert min(nodes_of("SPREAD", 30)[node] for node in (1, 2, 3)) >= 5
    assert nodes_of("DEFAULT", 3).keys() <= {1, 2, 3}


def test_tasks_of_a_node_run_there_wherever_their_inputs_are(cluster: Cluster) -> None:
    here = raydask.put(np.ones(1_000_000))
    make = raydask.remote(lambda: np.ones(1_000_000))
    there = make.options(scheduling_strategy=NodeAffinitySchedulingStrategy(2)).remote()
    for node in (1, 2, 3):
        for soft in (False, True):
            strategy = NodeAffinitySchedulingStrategy(node, soft)
            assert nodes_of(strategy, 10) == {node: 10}
            assert nodes_of(strategy, 4, here, there) == {node: 4}
    assert nodes_of(NodeAffinitySchedulingStrategy("3"), 1) == {3: 1}


def test_tasks_of_a_busy_node_wait_for_it(cluster: Cluster) -> None:
    strategy = NodeAffinitySchedulingStrategy(1)
    sleep = raydask.remote(time.sleep)
    busy = [sleep.options(scheduling_strategy=strategy).remote(0.5) for _ in range(2)]
    assert nodes_of(strategy, 8) == {1: 8}
    raydask.get(busy, timeout=10)


def test_a_node_that_is_not_there_is_named(cluster: Cluster) -> None:
    with pytest.raises(InfeasibleError, match="node 9 alone, which this cluster does not have"):
        nodes_of(NodeAffinitySchedulingStrategy(9))
    assert nodes_of(NodeAffinitySchedulingStrategy(9, soft=True), 2).total() == 2


@pytest.mark.parametrize("soft", [False, True])
def test_what_runs_on_a_node_that_dies_follows_its_strategy(cluster: Cluster, soft: bool) -> None:
    strategy = NodeAffinitySchedulingStrategy(2, soft)

    @raydask.remote(scheduling_strategy=strategy)
    def linger() -> int:
        node: int = raydask.get_runtime_context().node_id
        if node == 2:
            time.sleep(60)
        return node

    ref = linger.remote()
    eventually(lambda: [each["available"]["CPU"] for each in raydask.nodes()] == [2, 1, 2])
    cluster.remove_node(cluster.worker_nodes[0], graceful=False)
    if soft:
        assert raydask.get(ref, timeout=20) in {1, 3}
        return
    with pytest.raises(InfeasibleError, match="node 2 alone, which is dead"):
        raydask.get(ref, timeout=20)


def test_spread_tasks_survive_the_death_of_a_node(cluster: Cluster) -> None:
    @raydask.remote(scheduling_strategy="SPREAD")
    def slowly(number: int) -> int:
        time.sleep(0.1)
        return number

    refs = [slowly.remote(number) for number in range(60)]
    raydask.get(refs[:6], timeout=10)
    cluster.remove_node(cluster.worker_nodes[1], graceful=False)
    assert raydask.get(refs, timeout=30) == list(range(60))


def test_labels_say_where(cluster: Cluster) -> None:
    assert nodes_of(NodeLabelSchedulingStrategy({"rack": "7"}), 5) == {2: 5}
    assert nodes_of(NodeLabelSchedulingStrategy({"rack": In("8", "9")}), 5) == {3: 5}
    assert nodes_of(NodeLabelSchedulingStrategy({"rack": NotIn("7", "8")}), 5) == {1: 5}
    assert nodes_of(NodeLabelSchedulingStrategy(soft={"ssd": Exists()}), 5) == {3: 5}
    either = NodeLabelSchedulingStrategy({"rack": ["7", "8"]}, {"rack": "99"})
    assert nodes_of(either, 5).keys() <= {2, 3}


def test_a_label_that_no_node_has_is_waited_for(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    task = where.options(scheduling_strategy=NodeLabelSchedulingStrategy({"rack": "9"}))
    ref = task.remote()
    eventually(lambda: "the labels (rack in 9), and there is none" in capfd.readouterr().err)
    assert cluster.status()[0].infeasible == 1
    node = cluster.add_node(labels={"rack": "9"})
    assert raydask.get(ref, timeout=10) == node.number


def test_an_actor_of_this_node_is_made_here(cluster: Cluster) -> None:
    @raydask.remote(scheduling_strategy=NodeAffinitySchedulingStrategy(1))
    class Where:
        def node(self) -> int:
            node: int = raydask.get_runtime_context().node_id
            return node

    actors = [Where.remote() for _ in range(3)]
    assert raydask.get([actor.node.remote() for actor in actors], timeout=10) == [1, 1, 1]


def test_an_actor_of_a_node_that_is_not_there_is_dead(cluster: Cluster) -> None:
    @raydask.remote(scheduling_strategy=NodeAffinitySchedulingStrategy(9))
    class Nowhere:
        def node(self) -> None:
            return None

    with pytest.raises(raydask.errors.ActorDiedError, match="node 9 alone"):
        raydask.get(Nowhere.remote().node.remote(), timeout=10)


def test_a_strategy_follows_a_global_scheduler_that_was_killed(cluster: Cluster) -> None:
    assert cluster.head_node is not None
    process_named(cluster.head_node.folder, "global-scheduler").kill()
    assert nodes_of(NodeAffinitySchedulingStrategy(2), 5) == {2: 5}
    assert nodes_of("SPREAD", 6).total() == 6


def test_what_is_no_strategy_is_refused() -> None:
    with pytest.raises(UsageError, match="scheduling_strategy is"):
        where.options(scheduling_strategy="SPRED")
    with pytest.raises(UsageError, match="a node's number"):
        NodeAffinitySchedulingStrategy("abc")
    with pytest.raises(UsageError, match="must be a string"):
        NodeLabelSchedulingStrategy({"rack": 7})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="needs hard or soft"):
        NodeLabelSchedulingStrategy()
