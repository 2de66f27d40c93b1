"""From the nodes of a Dask graph to tasks for ``raydask.graph.submit_graph``.

A node whose arguments are references and scalars, which is most of them, becomes a call of
its own function.  Any other is compiled; see `raydask.compat.dask.compilation`.  Data in
the graph become arguments, and aliases vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any

from dask._task_spec import Alias, DataNode, GraphNode, Task, TaskRef, _execute_subgraph
from dask.utils import key_split

from raydask.compat.dask.annotations import TaskOptions
from raydask.compat.dask.compilation import Call, Compiler
from raydask.compat.dask.literals import SCALARS, Literals
from raydask.compat.dask.splitting import Picks
from raydask.graph import GraphTask, Output


class Conversion:
    """The tasks of one graph.  Keep it until they are done: it holds refs of theirs.

    Parameters
    ----------
    graph : mapping of key to GraphNode
    order : iterable of key
        The keys to compute, dependencies first.
    options : mapping of key to TaskOptions
        For the keys that have any.
    splits : mapping of key to mapping of key to index
        The nodes whose values are only taken apart; see `raydask.compat.dask.splitting`.

    Attributes
    ----------
    tasks : list of GraphTask
        In the given order.
    keys : list of key
        The key of each task.
    outputs : dict of key to Output
        Where a key's value comes out.
    values : dict of key to object
        The values of keys that are data.
    """

    def __init__(
        self,
        graph: Mapping[Any, GraphNode],
        order: Iterable[Any],
        options: Mapping[Any, TaskOptions],
        splits: Mapping[Any, Mapping[Any, Any]],
    ) -> None:
        self.tasks: list[GraphTask] = []
        self.keys: list[Any] = []
        self.outputs: dict[Any, Output] = {}
        self.values: dict[Any, object] = {}
        self._literals = Literals()
        self._compiler = Compiler(self._literals, self.outputs, self.values)
        self._names: dict[Hashable, tuple[str, object]] = {}
        self._splits = splits
        self._picks: dict[Hashable, tuple[Picks, object]] = {}
        self._output_count = 0
        for key in order:
            if key in self.outputs:
                continue  # it was picked out of its source
            node = graph[key]
            kind = type(node)
            if kind is DataNode:
                self.values[key] = node.value
            elif kind is Alias:
                if node.target in self.values:
                    self.values[key] = self.values[node.target]
                else:
                    self.outputs[key] = self.outputs[node.target]
            else:
                self._add(key, node, options.get(key))

    def outputs_of(self, keys: Iterable[Any]) -> list[int]:
        """Return the outputs that are the values of `keys`, each once."""
        outputs = self.outputs
        return list(dict.fromkeys(int(outputs[key]) for key in keys if key in outputs))

    def values_of(self, keys: Iterable[Any], results: Mapping[int, Any]) -> dict[Any, Any]:
        """Return the values of `keys`, given those of their outputs."""
        outputs, values = self.outputs, self.values
        return {key: results[outputs[key]] if key in outputs else values[key] for key in keys}

    def _add(self, key: Any, node: GraphNode, options: TaskOptions | None) -> None:
        function, arguments, keywords = self._plain_call(node) or self._compiler.compile(key, node)
        source: Hashable = key[0] if type(key) is tuple and key else id(function)
        known = self._names.get(source)
        if known is None:
            known = self._names[source] = (key_split(key), function)
        self.keys.append(key)
        picked = self._splits.get(key)
        if picked is not None:
            function = self._pick(function, tuple(picked.values()))
        if options is None:
            task = GraphTask(function, arguments, keywords, known[0])
        else:
            task = options.task(function, arguments, keywords, known[0])
        for one in (key,) if picked is None else picked:
            self.outputs[one] = Output(self._output_count)
            self._output_count += 1
        if picked is not None:
            task.num_returns = len(picked)
        self.tasks.append(task)

    def _pick(self, function: Callable[..., Any], indexes: tuple[Any, ...]) -> Picks:
        identity = (id(function), indexes)
        known = self._picks.get(identity)
        if known is None:
            known = self._picks[identity] = (Picks(function, indexes), function)
        return known[0]

    def _plain_call(self, node: GraphNode) -> Call | None:
        """Return the node as a call of its own function, where that is all it is."""
        if type(node) is not Task or node.func is _execute_subgraph:
            return None
        outputs = self.outputs
        arguments = []
        for argument in node.args:
            kind = type(argument)
            if kind is TaskRef:
                output = outputs.get(argument.key)
                if output is None:
                    return None
                arguments.append(output)
            elif kind in SCALARS:
                arguments.append(argument)
            else:
                return None
        keywords = node.kwargs
        for argument in keywords.values():
            if type(argument) not in SCALARS:
                return None
        function = node.func
        if type(function) is partial:
            function = self._literals.function(function)
        return function, tuple(arguments), keywords or None
