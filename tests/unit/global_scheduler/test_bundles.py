"""Placement groups: all bundles have a place, or none has."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydask.global_scheduler.bundles import place_bundles
from raydask.ids import NodeNumber
from raydask.placement import GroupStrategy
from tests.unit.global_scheduler.cluster import units


def nodes_of(*cpus: float, **more: float) -> dict[NodeNumber, dict[str, int]]:
    return {NodeNumber(number): units(CPU=cpu, **more) for number, cpu in enumerate(cpus, 1)}


def placed(strategy: GroupStrategy, cpus: list[float], bundles: list[float]) -> list[int] | None:
    found = place_bundles(nodes_of(*cpus), [units(CPU=bundle) for bundle in bundles], strategy)
    return None if found is None else [int(number) for number in found]


@pytest.mark.parametrize(
    ("strategy", "cpus", "bundles", "expected"),
    [
        ("PACK", [8, 4, 2], [1, 1, 2], [2, 2, 2]),
        ("PACK", [2, 2, 2], [1, 2, 1], [2, 1, 2]),
        ("PACK", [2, 2], [2, 2, 1], None),
        ("SPREAD", [4, 4, 4], [1, 1, 1], [1, 2, 3]),
        ("SPREAD", [4, 4], [1, 1, 1, 1], [1, 2, 1, 2]),
        ("SPREAD", [1, 8], [1, 1, 4], [1, 2, 2]),
        ("STRICT_PACK", [2, 8, 4], [1, 2, 1], [3, 3, 3]),
        ("STRICT_PACK", [2, 2], [1, 2], None),
        ("STRICT_SPREAD", [4, 4, 4], [1, 3, 1], [2, 1, 3]),
        ("STRICT_SPREAD", [8, 8], [1, 1, 1], None),
        ("STRICT_SPREAD", [1, 4, 2], [2, 1, 4], [3, 1, 2]),
        ("PACK", [], [1], None),
        ("STRICT_SPREAD", [1], [], []),
    ],
)
def test_strategies(
    strategy: GroupStrategy, cpus: list[float], bundles: list[float], expected: list[int] | None
) -> None:
    assert placed(strategy, cpus, bundles) == expected


def test_every_resource_of_a_bundle_is_on_its_node() -> None:
    nodes = {NodeNumber(1): units(CPU=8), NodeNumber(2): units(CPU=2, GPU=1)}
    bundles = [units(CPU=1), units(CPU=1, GPU=1), units(CPU=0)]

    assert place_bundles(nodes, bundles, "STRICT_PACK") == [2, 2, 2]
    assert place_bundles(nodes, [*bundles, units(GPU=0.5)], "PACK") is None
    spread = place_bundles(nodes, bundles[:2], "STRICT_SPREAD")
    assert spread == [1, 2]


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=6),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), max_size=6),
    st.sampled_from(get_args(GroupStrategy)),
)
def test_what_is_placed_fits_and_keeps_to_its_strategy(
    nodes: list[tuple[int, int]], bundles: list[tuple[int, int]], strategy: GroupStrategy
) -> None:
    there = {NodeNumber(number): units(CPU=c, GPU=g) for number, (c, g) in enumerate(nodes, 1)}
    wanted = [units(CPU=c, GPU=g) for c, g in bundles]
    found = place_bundles(there, wanted, strategy)
    if found is None:
        assert bundles
        return
    used: Counter[tuple[int, str]] = Counter()
    for number, bundle in zip(found, wanted, strict=True):
        for name, amount in bundle.items():
            used[number, name] += amount
    assert all(amount <= there[NodeNumber(n)].get(name, 0) for (n, name), amount in used.items())
    if strategy == "STRICT_PACK":
        assert len(set(found)) <= 1
    if strategy == "STRICT_SPREAD":
        assert len(set(found)) == len(found)
