"""Results that are only ever taken apart become several results.

A shuffle's tasks return a dictionary of frames, and for each frame there is a task that picks
it out.  Run as they stand, every one of those would read the whole dictionary.  Where a
node's value is used for nothing but ``value[index]``, its task returns the picked items
instead, each an object of its own, and the tasks that would pick them are not run.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from operator import getitem
from typing import Any

from dask._task_spec import Alias, GraphNode, Task, TaskRef

_INDEXES = (int, str)
_REFERENCES = (TaskRef, Alias)
"""How an argument names another node: an Alias is what Dask makes of an old-style graph's key."""


class Picks:
    """A call whose result is taken apart at once: what a worker runs for such a node."""

    __slots__ = ("__name__", "function", "indexes")

    def __init__(self, function: Callable[..., Any], indexes: tuple[Any, ...]) -> None:
        self.function = function
        self.indexes = indexes
        self.__name__ = getattr(function, "__name__", "picks")

    def __reduce__(self) -> tuple[Any, ...]:
        return Picks, (self.function, self.indexes)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return the items of the function's result."""
        value = self.function(*args, **kwargs)
        return tuple([value[index] for index in self.indexes])


def find_splits(
    graph: Mapping[Any, GraphNode],
    order: Iterable[Any],
    requested: Iterable[Any],
    options: Container[Any],
) -> dict[Any, dict[Any, Any]]:
    """Return the nodes whose values are only taken apart.

    Parameters
    ----------
    graph : mapping of key to GraphNode
    order : iterable of key
        The keys to compute.
    requested : iterable of key
        Those whose values are wanted as they are.
    options : container of key
        Those that are to be run in a way of their own, and therefore as tasks.

    Returns
    -------
    dict of key to dict of key to index
        For each such node, the keys of the nodes that pick, and what.
    """
    picks: dict[Any, dict[Any, Any]] = {}
    whole: set[Any] = set(requested)
    for key in order:
        node = graph[key]
        index = _picked(node)
        if index is None or key in options:
            whole.update(node.dependencies)
        else:
            (source,) = node.dependencies
            picks.setdefault(source, {})[key] = index[0]
    return {
        source: picked
        for source, picked in picks.items()
        if len(picked) > 1 and source not in whole and type(graph.get(source)) is Task
    }


def _picked(node: GraphNode) -> tuple[Any] | None:
    """Return the index, alone in a tuple, of a node that is ``value[index]``."""
    if type(node) is not Task or node.func is not getitem or node.kwargs:
        return None
    if len(node.args) != 2 or type(node.args[0]) not in _REFERENCES:
        return None
    return (node.args[1],) if type(node.args[1]) in _INDEXES else None
