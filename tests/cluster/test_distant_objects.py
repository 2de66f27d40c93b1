"""Large objects that are made on one node and read on others."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import raydask
from raydask.cluster_utils import Cluster
from raydask.util import NodeMemory, memory_report
from tests.cluster.nodes import eventually_idle, eventually_nothing_is_held_by, on, where
from tests.cluster.probes import Gate, eventually, run_driver

MB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_stays_in_the_stores(four_nodes: Cluster) -> Iterator[None]:
    yield
    gc.collect()
    eventually_nothing_is_held_by(four_nodes)
    for node in four_nodes.list_all_nodes():
        memory = memory_of(node.folder)
        assert (memory.sealed, memory.spilled, memory.inline) == (0, 0, 0)


def memory_of(folder: str) -> NodeMemory:
    (memory,) = memory_report(folder).nodes
    return memory


def sealed(cluster: Cluster) -> list[int]:
    """Return how many megabytes of objects are in the stores of the nodes."""
    return [memory_of(node.folder).sealed // MB for node in cluster.list_all_nodes()]


def make(value: int, megabytes: int = 4) -> np.ndarray[Any, Any]:
    return np.full(megabytes * MB // 8, value)


def total(array: np.ndarray[Any, Any]) -> float:
    return float(array.sum())


def test_an_array_of_each_node_is_read_on_each() -> None:
    arrays = {node: on(node, make).remote(node, 1) for node in (1, 2, 3, 4)}
    sums = {
        (source, reader): on(reader, total).remote(array)
        for source, array in arrays.items()
        for reader in (1, 2, 3, 4)
    }
    found = raydask.get(list(sums.values()), timeout=30)
    assert found == [source * (MB // 8) for source, _ in sums]


def test_what_the_driver_gets_is_the_value_and_a_view_of_the_store() -> None:
    ref = on(3, make).remote(7)
    array = raydask.get(ref, timeout=10)
    assert array.shape == (MB // 2,) and (array == 7).all()
    assert not array.flags.writeable
    assert np.shares_memory(array, raydask.get(ref))


def test_more_than_the_store_here_holds_is_got_at_once(four_nodes: Cluster) -> None:
    (here,) = {memory_of(node.folder).capacity for node in four_nodes.list_all_nodes()}
    refs = [on(2 + value % 3, make).remote(value, 8) for value in range(2 * here // (8 * MB))]
    arrays = raydask.get(refs, timeout=60)
    assert [int(array[-1]) for array in arrays] == list(range(len(refs)))


def test_an_array_that_was_put_is_read_everywhere_from_a_closure_and_a_list() -> None:
    array = np.random.default_rng(0).random(MB)
    ref = raydask.put(array)

    def read(refs: list[raydask.ObjectRef]) -> float:
        (ref,) = refs
        return float(raydask.get(ref).sum())

    found = raydask.get([on(node, read).remote([ref]) for node in (2, 3, 4)], timeout=20)
    assert found == [pytest.approx(float(array.sum()))] * 3


def test_refs_in_a_large_value_live_as_long_as_it(four_nodes: Cluster) -> None:
    def make_both() -> tuple[np.ndarray[Any, Any], raydask.ObjectRef]:
        return make(1), raydask.put(make(2))

    both = on(2, make_both).remote()
    raydask.wait([both], timeout=10)
    eventually(lambda: sealed(four_nodes) == [0, 8, 0, 0])

    def read(pair: tuple[np.ndarray[Any, Any], raydask.ObjectRef]) -> float:
        array, ref = pair
        return total(array) + total(raydask.get(ref))

    assert raydask.get(on(4, read).remote(both), timeout=10) == 3 * (MB // 2)
    _, inner = raydask.get(both, timeout=10)
    del both, _
    assert total(raydask.get(inner, timeout=10)) == MB


def test_waiting_for_a_distant_object_does_not_bring_it(four_nodes: Cluster) -> None:
    ref = on(2, make).remote(1)
    assert raydask.wait([ref], timeout=10) == ([ref], [])
    assert sealed(four_nodes) == [0, 4, 0, 0]
    raydask.get(ref)
    assert sealed(four_nodes) == [4, 4, 0, 0]


def test_copies_go_with_the_last_ref(four_nodes: Cluster) -> None:
    ref = on(2, make).remote(1)
    raydask.get([on(node, total).remote(ref) for node in (3, 4)], timeout=10)
    assert sealed(four_nodes)[1:] == [4, 4, 4]
    del ref
    eventually(lambda: sealed(four_nodes) == [0, 0, 0, 0])


def test_tasks_run_where_their_large_inputs_are(four_nodes: Cluster) -> None:
    def work(array: np.ndarray[Any, Any]) -> int:
        time.sleep(0.03)
        return where()

    arrays = [on(node, make).remote(node, 24) for node in (2, 3, 4)]
    raydask.wait(arrays, num_returns=3, timeout=10)
    eventually_idle(four_nodes)  # as the global scheduler sees it
    task = raydask.remote(work)
    hits = 0
    for _ in range(5):
        found = raydask.get([task.remote(array) for array in arrays], timeout=10)
        hits += sum(node == each for node, each in zip((2, 3, 4), found, strict=True))
    assert hits >= 10  # a busy machine may be too slow to wait for a lease


def test_arrays_that_together_are_more_than_a_store_go_through_it(four_nodes: Cluster) -> None:
    # 20 MB each, in stores of 128 MB: they are spilled where they are made, and read from there.
    arrays = [on(2, make).remote(value, 20) for value in range(9)]
    raydask.wait(arrays, num_returns=9, timeout=30)
    sums = raydask.get([on(3, total).remote(array) for array in arrays], timeout=60)
    assert sums == [value * 20 * MB / 8 for value in range(9)]
    assert sum(total(raydask.get(array, timeout=30)) for array in arrays) == sum(sums)


def test_a_broadcast_reaches_all_at_once(four_nodes: Cluster) -> None:
    ref = raydask.put(make(3, 40))
    readers = [on(node, total).remote(ref) for node in (2, 3, 4)]
    assert raydask.get(readers, timeout=30) == [3 * 40 * MB / 8] * 3
    assert sealed(four_nodes) == [40, 40, 40, 40]


def test_a_reduction_over_arrays_of_all_nodes() -> None:
    task = raydask.remote(make)
    arrays = [task.remote(value, 2) for value in range(16)]
    add = raydask.remote(lambda x, y: x + y)
    while len(arrays) > 1:
        arrays = [add.remote(arrays[i], arrays[i + 1]) for i in range(0, len(arrays), 2)]
    assert (raydask.get(arrays[0], timeout=30) == sum(range(16))).all()


def test_a_program_at_another_node_reads_what_the_head_has(four_nodes: Cluster) -> None:
    script = """
        import numpy as np
        import raydask

        raydask.init({folder!r})

        @raydask.remote(resources={{"n1": 1}})
        def make():
            return np.arange(1_000_000)

        ref = make.remote()
        print(int(raydask.get(ref, timeout=10).sum()))
        put = raydask.put(np.ones(1_000_000))
        total = raydask.remote(lambda x, y: float((x * y).sum()))
        print(raydask.get(total.options(resources={{"n4": 1}}).remote(ref, put), timeout=10))
    """
    code, out, err = run_driver(script.format(folder=four_nodes.worker_nodes[0].folder))
    assert (code, out.split(), err) == (0, ["499999500000", "499999500000.0"], "")


def test_the_report_says_which_nodes_hold_an_object(
    four_nodes: Cluster, gate: Callable[[str], Gate]
) -> None:
    release = gate("release")
    ref = raydask.put(make(1))

    def hand_on(refs: list[raydask.ObjectRef]) -> raydask.ObjectRef:
        return on(4, lambda _: release.wait()).remote(refs)

    child = raydask.get(on(3, hand_on).remote([ref]), timeout=10)
    head, _, third, _ = (node.folder for node in four_nodes.list_all_nodes())

    def holders(folder: str) -> set[tuple[str, str, int]]:
        (row,) = [each for each in memory_of(folder).objects if each.id == ref.hex()]
        return {(each.role, each.name, each.pid) for each in row.holders}

    driver = ("driver", sys.argv[0], os.getpid())
    eventually(lambda: holders(head) == {driver, ("node", "3", 0)})
    eventually(lambda: [role for role, _, _ in holders(third)] == ["borrowed"])
    release.open()
    raydask.get(child, timeout=10)
    eventually(lambda: holders(head) == {driver})
