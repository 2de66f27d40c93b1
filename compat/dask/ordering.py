"""In which order to run the tasks of a graph, so that few results wait in memory.

`dask.order` decides, except for forests: graphs in which every result is used by at most
one task, such as reductions and independent tasks.  For those the best order is known
(Sethi and Ullman, "The Generation of Optimal Code for Arithmetic Expressions", 1970, for
results of one size): depth first, and of the inputs of a task the one first whose own
computation holds the most results at once.  It is found in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dask._task_spec import DataNode, GraphNode
from dask.order import order


def run_order(graph: Mapping[Any, GraphNode], keys: Iterable[Any]) -> list[Any]:
    """Return the keys of all nodes that `keys` need, in the order to run them.

    Parameters
    ----------
    graph : mapping of key to GraphNode
    keys : iterable of key

    Raises
    ------
    KeyError
        A requested key is not in the graph.
    ValueError
        A node depends on a key that is not in the graph.
    RuntimeError
        The graph has a cycle.
    """
    roots = list(dict.fromkeys(keys))
    data, tasks, used, is_forest = _needed(graph, roots)
    if is_forest:
        forest = _forest_order(tasks, [root for root in roots if root in tasks.keys() - used])
        if len(forest) == len(tasks):
            return [*data, *forest]
        # A cycle that nothing leads into looks like a forest; `order` will name it.
    priorities = order({**data, **tasks})
    return sorted(priorities, key=priorities.__getitem__)


def _needed(
    graph: Mapping[Any, GraphNode], roots: list[Any]
) -> tuple[dict[Any, GraphNode], dict[Any, GraphNode], set[Any], bool]:
    """Return what `roots` need: data, tasks, which of them are used, whether by one only."""
    data: dict[Any, GraphNode] = {}
    tasks: dict[Any, GraphNode] = {}
    used: set[Any] = set()
    is_forest = True
    stack = list(roots)
    while stack:
        key = stack.pop()
        if key in tasks or key in data:
            continue
        try:
            node = graph[key]
        except KeyError:
            if key not in used:
                raise
            users = [user for user, node in tasks.items() if key in node.dependencies]
            message = f"Missing dependency {key!r} for dependents {users}"
            raise ValueError(message) from None
        if type(node) is DataNode:
            data[key] = node
            continue
        tasks[key] = node
        for dependency in node.dependencies:
            if dependency not in used:
                used.add(dependency)
                stack.append(dependency)
            elif dependency not in data:
                is_forest = is_forest and type(graph.get(dependency)) is DataNode
    return data, tasks, used, is_forest


def _forest_order(tasks: Mapping[Any, GraphNode], roots: list[Any]) -> list[Any]:
    inputs: dict[Any, list[Any]] = {}
    stack = list(roots)
    while stack:
        key = stack.pop()
        inputs[key] = used = [key for key in tasks[key].dependencies if key in tasks]
        stack.extend(used)

    position = {key: place for place, key in enumerate(tasks)}
    most_held: dict[Any, int] = {}
    for key in reversed(inputs):
        used = inputs[key]
        if len(used) > 1:
            used.sort(key=position.__getitem__)
            used.sort(key=most_held.__getitem__, reverse=True)
        held = len(used) + 1
        for already_held, one in enumerate(used):
            held = max(held, already_held + most_held[one])
        most_held[key] = held

    backwards: list[Any] = []
    stack = list(roots)
    while stack:
        key = stack.pop()
        backwards.append(key)
        stack.extend(inputs[key])
    return backwards[::-1]
