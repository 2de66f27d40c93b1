"""What users ask for beside the graph: `dask.annotate`, and options of ``compute``.

=======================  ==================================================================
annotation               what it does here
=======================  ==================================================================
``priority``             higher runs first
``retries``              how often a task that raised is run again
``resources``            what a task takes of the cluster's resources; ``CPU`` and ``GPU``
                         are what ``num_cpus`` and ``num_gpus`` are elsewhere
``workers``              refused, unless ``allow_other_workers`` is true: workers have no
                         addresses
any other                nothing, as with Dask's own schedulers
=======================  ==================================================================

What a key's layer says counts before what is said of the whole graph.  Callables are called
with the key, as Dask promises.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dask.highlevelgraph import HighLevelGraph

from raydask.errors import UsageError
from raydask.graph import GraphTask

_KNOWN = ("priority", "retries", "resources", "workers", "allow_other_workers")
_RESOURCE_NAMES = {"CPU": "num_cpus", "GPU": "num_gpus"}


class TaskOptions:
    """What is asked for one task.

    Attributes
    ----------
    retries : int or None
        How often it is run again when it raises; None if nothing was said.
    priority : int
        Higher goes first.
    resources : dict of str to float or None
    """

    __slots__ = ("priority", "resources", "retries")

    def __init__(
        self,
        retries: int | None = None,
        priority: int = 0,
        resources: dict[str, float] | None = None,
    ) -> None:
        self.retries = retries
        self.priority = priority
        self.resources = resources

    def task(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any] | None,
        name: str,
    ) -> GraphTask:
        """Return the task that is the given call, with these options."""
        task = GraphTask(
            function, arguments, keywords, name, priority=self.priority, resources=self.resources
        )
        if self.retries is not None:
            task.retries = self.retries
            task.retry_exceptions = self.retries > 0
        return task


def collect_options(
    dsk: object, keys: Iterable[Any], said_of_all: Mapping[str, Any]
) -> dict[Any, TaskOptions]:
    """Return the options of those keys for which anything was asked.

    Parameters
    ----------
    dsk : dict, HighLevelGraph or expression
    keys : iterable of key
    said_of_all : mapping of str to object
        Annotations that hold for the whole graph.

    Raises
    ------
    UsageError
        An annotation cannot be honoured.
    """
    by_kind = _annotations_of(dsk)
    if not by_kind and not said_of_all:
        return {}
    found = {key: _annotations_for(key, by_kind, said_of_all) for key in keys}
    found = {key: annotations for key, annotations in found.items() if annotations}
    priorities = _whole_numbers({a.get("priority", 0) for a in found.values()})
    return {
        key: TaskOptions(
            annotations.get("retries"),
            priorities[annotations.get("priority", 0)],
            _resources(annotations.get("resources", {})),
        )
        for key, annotations in found.items()
    }


def _annotations_of(dsk: Any) -> Mapping[str, Mapping[Any, Any]]:
    if hasattr(dsk, "__dask_annotations__"):
        return dsk.__dask_annotations__()  # type: ignore[no-any-return]
    by_kind: defaultdict[str, dict[Any, Any]] = defaultdict(dict)
    if isinstance(dsk, HighLevelGraph):
        for layer in dsk.layers.values():
            for kind, value in (layer.annotations or {}).items():
                by_kind[kind].update(dict.fromkeys(layer, value))
    return by_kind


def _annotations_for(
    key: Any, by_kind: Mapping[str, Mapping[Any, Any]], said_of_all: Mapping[str, Any]
) -> dict[str, Any]:
    annotations = {}
    for kind in _KNOWN:
        value = by_kind.get(kind, {}).get(key)
        if value is None:
            value = said_of_all.get(kind)
        if callable(value):
            value = value(key)
        if value is not None:
            annotations[kind] = value
    if annotations.get("workers") and not annotations.get("allow_other_workers"):
        raise UsageError(
            f"task {key!r} asks for workers={annotations['workers']!r}, but raydask's workers "
            "have no addresses: ask for resources= instead, or add allow_other_workers=True"
        )
    return annotations


def _resources(annotated: Mapping[str, float]) -> dict[str, float]:
    return {_RESOURCE_NAMES.get(name, name): amount for name, amount in annotated.items()}


def _whole_numbers(priorities: set[float]) -> dict[float, int]:
    """Return an integer for every priority, in the same order, 0 for 0."""
    if all(priority == int(priority) for priority in priorities):
        return {priority: int(priority) for priority in priorities}
    ranks = {priority: rank for rank, priority in enumerate(sorted({*priorities, 0}))}
    return {priority: rank - ranks[0] for priority, rank in ranks.items()}
