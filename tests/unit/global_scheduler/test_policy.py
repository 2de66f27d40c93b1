"""Which node is chosen, and what is said when none is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raydask.control.tables import NodeEntry
from raydask.global_scheduler.policy import (
    best_node,
    describe_infeasible,
    fits,
    is_feasible,
    node_for_actor,
    note_placement,
)
from raydask.global_scheduler.records import NodeRecord
from tests.unit.global_scheduler.cluster import units


def node(number: int, *, queued: int = 0, seconds: float = 0.0, **total: float) -> NodeRecord:
    record = NodeRecord(NodeEntry(number, "ALIVE", "host", "here", 7), units(**total))
    record.queued, record.queue_seconds = queued, seconds
    return record


def number_of(chosen: NodeRecord | None) -> int | None:
    return None if chosen is None else chosen.number


def test_only_a_feasible_node_is_chosen() -> None:
    nodes = [node(1, CPU=64), node(2, CPU=2, GPU=1, seconds=100.0)]

    assert number_of(best_node(nodes, units(GPU=1))) == 2
    assert best_node(nodes, units(CPU=3, GPU=1)) is None


def test_the_shortest_wait_wins_then_the_shortest_queue_then_the_emptiest_node() -> None:
    waiting = [node(1, CPU=4, seconds=2.0), node(2, CPU=4, seconds=1.0, queued=9)]
    queueing = [node(1, CPU=4, queued=2), node(2, CPU=4, queued=1)]
    filling = [node(1, CPU=4), node(2, CPU=8)]
    same = [node(2, CPU=4), node(1, CPU=4)]

    assert [
        number_of(best_node(nodes, units(CPU=1))) for nodes in (waiting, queueing, filling, same)
    ] == [2, 2, 2, 1]


def test_an_actor_stays_where_it_was_asked_for_while_it_fits() -> None:
    busy, idle = node(1, CPU=2, queued=5), node(2, CPU=2)
    assert node_for_actor([busy, idle], busy, units(CPU=1)) is busy

    busy.available = units(CPU=0)
    assert node_for_actor([busy, idle], busy, units(CPU=1)) is idle
    # What asks for nothing fits even where CPUs are overdrawn.
    busy.available = units(CPU=-1)
    assert node_for_actor([busy, idle], busy, units(CPU=0)) is busy


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.integers(1, 60))
def test_a_burst_is_spread_as_the_nodes_have_room(cpus: list[int], count: int) -> None:
    nodes = [node(number, CPU=cpu) for number, cpu in enumerate(cpus, 1)]
    for _ in range(count):
        chosen = best_node(nodes, units(CPU=1))
        assert chosen is not None
        note_placement(chosen, units(CPU=1))

    # Nobody waits while there is room somewhere, and nobody's queue is two longer.
    queues = [each.queued for each in nodes]
    assert sum(queues) == max(0, count - sum(cpus))
    assert max(queues) - min(queues) <= 1


@given(
    st.dictionaries(st.sampled_from("ABC"), st.integers(0, 5), max_size=3),
    st.dictionaries(st.sampled_from("ABC"), st.integers(0, 5), max_size=3),
)
def test_what_fits_is_feasible(total: dict[str, int], wanted: dict[str, int]) -> None:
    record = NodeRecord(NodeEntry(1, "ALIVE", "host", "here", 7), total)

    assert fits(record, wanted) == is_feasible(record, wanted)
    note_placement(record, wanted)
    assert is_feasible(record, wanted) or not fits(record, wanted)


def test_infeasibility_is_explained_in_whole_units() -> None:
    nodes = [node(1, CPU=8, memory=64_000_000_000), node(2, CPU=2, GPU=1)]

    assert describe_infeasible(nodes, units(CPU=64, GPU=0.5)) == (
        "it asks for CPU 64, GPU 0.5, and the largest that any node has is CPU 8, GPU 1"
    )
    assert "CPU 8, GPU 1, but no node has all of it" in describe_infeasible(
        nodes, units(CPU=4, GPU=1)
    )
    assert "any node has is memory 64,000,000,000" in describe_infeasible(nodes, units(memory=1e12))
    assert describe_infeasible([], units(CPU=1)) == "it asks for CPU 1, and there is no node"


def test_nodes_that_other_bundles_have_are_named() -> None:
    small = node(3, CPU=1)
    assert describe_infeasible([], units(CPU=2), {2, 1}) == (
        "it asks for CPU 2, and there is no node other than 1, 2, where its other bundles are"
    )
    assert describe_infeasible([small], units(CPU=2), {1}) == (
        "it asks for CPU 2, and the largest that any node other than 1, where its other bundles "
        "are, has is CPU 1"
    )
