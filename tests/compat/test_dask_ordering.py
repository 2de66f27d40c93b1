"""The order of a graph's tasks: what is needed, dependencies first, little held at once."""

from __future__ import annotations

import random
from operator import add
from typing import Any

import pytest
from dask._task_spec import convert_legacy_graph
from dask.order import diagnostics, order
from hypothesis import given
from hypothesis import strategies as st

from raydask.compat.dask.ordering import run_order


def graph_of(dsk: dict[Any, Any]) -> dict[Any, Any]:
    return dict(convert_legacy_graph(dsk))


def binary_tree(leaves: int) -> tuple[dict[Any, Any], Any]:
    dsk: dict[Any, Any] = {("leaf", i): (abs, i) for i in range(leaves)}
    level = list(dsk)
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=True))
        above = [("sum", len(level), i) for i in range(len(pairs))]
        dsk.update({key: (add, *pair) for key, pair in zip(above, pairs, strict=True)})
        level = above
    return dsk, level[0]


@st.composite
def forests(draw: st.DrawFn) -> dict[Any, Any]:
    """Every task but the last ones feeds at most one later task."""
    size = draw(st.integers(1, 40))
    feeds = [draw(st.integers(i + 1, size)) for i in range(size)]
    return {i: (sum, [f"t{j}" for j in range(i) if feeds[j] == i]) for i in range(size)}


def named(dsk: dict[int, Any]) -> dict[Any, Any]:
    return {f"t{i}": task for i, task in dsk.items()}


def most_held(graph: dict[Any, Any], keys: list[Any]) -> int:
    priorities = {key: place for place, key in enumerate(keys)}
    _, pressure = diagnostics(graph, o=priorities)
    return max(pressure, default=0)


def test_dependencies_come_first_and_only_what_is_needed_comes() -> None:
    dsk = graph_of({"a": 1, "b": (abs, "a"), "c": (add, "a", "b"), "d": (abs, "c"), "e": "b"})

    keys = run_order(dsk, ["c", "e"])

    assert set(keys) == {"a", "b", "c", "e"}
    for place, key in enumerate(keys):
        assert set(dsk[key].dependencies) <= set(keys[:place])


@given(forests())
def test_a_forest_holds_no_more_results_than_with_dasks_order(dsk: dict[Any, Any]) -> None:
    graph = graph_of(named(dsk))
    roots = [key for key in graph if all(key not in node.dependencies for node in graph.values())]

    keys = run_order(graph, roots)

    assert sorted(keys) == sorted(graph)
    for place, key in enumerate(keys):
        assert set(graph[key].dependencies) <= set(keys[:place])
    one_root = len(roots) == 1
    if one_root:
        priorities = order(graph)
        assert most_held(graph, keys) <= most_held(graph, sorted(graph, key=priorities.__getitem__))


def test_a_tree_of_a_thousand_tasks_holds_as_many_results_as_it_is_high() -> None:
    dsk, root = binary_tree(512)
    keys = list(dsk)
    random.Random(0).shuffle(keys)
    graph = graph_of({key: dsk[key] for key in keys})

    assert most_held(graph, run_order(graph, [root])) <= 10


def test_data_and_aliases_do_not_spoil_a_forest() -> None:
    graph = graph_of({"x": 1, "a": (add, "x", 1), "b": (add, "x", 2), "s": (add, "a", "b")})

    keys = run_order(graph, ["s"])

    assert keys[0] == "x"
    assert keys[-1] == "s"


def test_what_has_several_users_is_ordered_by_dask() -> None:
    graph = graph_of({"a": (abs, 1), "b": (abs, "a"), "c": (abs, "a"), "d": (add, "b", "c")})

    priorities = order(graph)

    assert run_order(graph, ["d"]) == sorted(graph, key=priorities.__getitem__)


def test_a_chain_of_ten_thousand_is_no_recursion() -> None:
    graph = graph_of({i: (abs, i - 1) if i else (abs, -1) for i in range(10_000)})

    assert run_order(graph, [9_999]) == list(range(10_000))


@pytest.mark.parametrize(
    "dsk",
    [
        {"a": (abs, "b"), "b": (abs, "a")},
        {"a": (abs, "b"), "b": (abs, "a"), "r": (abs, "a")},
    ],
)
def test_a_cycle_is_named(dsk: dict[Any, Any]) -> None:
    with pytest.raises(RuntimeError, match="Cycle detected"):
        run_order(graph_of(dsk), ["a"])


def test_a_requested_key_that_is_missing_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        run_order(graph_of({"a": 1}), ["nowhere"])


def test_a_dependency_that_is_missing_is_named_with_its_users() -> None:
    graph = graph_of({"a": (abs, "b"), "b": 1})
    del graph["b"]

    with pytest.raises(ValueError, match="Missing dependency 'b' for dependents \\['a'\\]"):
        run_order(graph, ["a"])
