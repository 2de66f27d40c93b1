"""Dask's nodes as tasks: the same results, one program for each kind of task."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from functools import partial
from operator import add, getitem, mul
from typing import Any

import cloudpickle
import numpy as np
import pytest
from dask._task_spec import (
    Alias,
    DataNode,
    Dict,
    GraphNode,
    List,
    Task,
    TaskRef,
    convert_legacy_graph,
)

from raydask.compat.dask.conversion import Conversion
from raydask.compat.dask.literals import SHARED_FROM
from raydask.compat.dask.ordering import run_order
from raydask.compat.dask.program import Program
from raydask.compat.dask.splitting import find_splits
from raydask.graph import GraphTask, Output


def converted(graph: dict[Any, Any], keys: Iterable[Any]) -> Conversion:
    nodes = convert_legacy_graph(graph)
    order = run_order(nodes, keys)
    return Conversion(nodes, order, {}, find_splits(nodes, order, keys, {}))


def run(conversion: Conversion, key: Any) -> Any:
    """Run the tasks one after the other, everything pickled on its way, as workers do."""
    results: list[Any] = []
    for task in conversion.tasks:
        function = pickle.loads(cloudpickle.dumps(task.function))
        arguments = [_value(argument, results) for argument in task.args]
        keywords = {name: _value(value, results) for name, value in (task.kwargs or {}).items()}
        result = function(*arguments, **keywords)
        results.extend(result if task.num_returns > 1 else [result])
    return conversion.values_of([key], dict(enumerate(results)))[key]


def _value(argument: object, results: list[Any]) -> object:
    return pickle.loads(
        cloudpickle.dumps(results[argument] if isinstance(argument, Output) else argument)
    )


def functions(tasks: list[GraphTask]) -> set[int]:
    return {id(task.function) for task in tasks}


def record(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return args, kwargs


class Doubled(Task):
    """A kind of node that the compiler does not know."""

    __slots__ = ()

    def __call__(self, values: Any = ()) -> Any:
        return 2 * super().__call__(values)


A, B = TaskRef("a"), TaskRef("b")

NODES: list[tuple[GraphNode, Any]] = [
    (Task("x", add, A, B), 3),
    (Task("x", add, A, 5), 6),
    (Task("x", record, A, b=B, c=7), ((1,), {"b": 2, "c": 7})),
    (Task("x", record, A, A), ((1, 1), {})),
    (Task("x", sum, List(A, B, 5)), 8),
    (Task("x", record, Dict({"k": List(A, Dict({"l": B}))})), (({"k": [1, {"l": 2}]},), {})),
    (Task("x", add, Task(None, mul, A, 10), Task(None, mul, B, 100)), 210),
    (Task("x", record, (1, [2]), k={"v": None}), (((1, [2]),), {"k": {"v": None}})),
    (Task("x", partial(record, 0, z=9), A), ((0, 1), {"z": 9})),
    (Task("x", lambda a, f: f(a), A, lambda a: a + 41), 42),
    (Task("x", record, TaskRef("data")), (([3, 4],), {})),
    (Task("x", record, DataNode(None, {5})), (({5},), {})),
    (Task("x", record, Alias("a")), ((1,), {})),
    (Doubled("x", add, A, B), 6),
    (Task("x", sum, List(Doubled(None, add, A, B), 1)), 7),
    (Task.fuse(Task("m", mul, A, 3), Task("x", add, TaskRef("m"), B), key="x"), 5),
]


@pytest.mark.parametrize(("node", "expected"), NODES)
def test_a_node_gives_what_dask_gives(node: GraphNode, expected: Any) -> None:
    graph = {
        "a": Task("a", add, 0, 1),
        "b": Task("b", add, 1, 1),
        "data": DataNode("data", [3, 4]),
        "x": node,
    }
    values = {"a": 1, "b": 2, "data": [3, 4]}

    assert run(converted(graph, ["x"]), "x") == expected
    assert node({key: values[key] for key in node.dependencies}) == expected


def test_calls_of_plain_arguments_are_the_functions_own() -> None:
    conversion = converted({"a": (abs, -1), "b": (add, "a", 2.5)}, ["b"])

    assert [task.function for task in conversion.tasks] == [abs, add]
    assert conversion.tasks[1].args == (Output(0), 2.5)
    assert type(conversion.tasks[1].args[0]) is Output


def test_tasks_of_one_shape_share_one_program() -> None:
    graph = {f"x{i}": (sum, [(abs, -i), (abs, i), i]) for i in range(20)}
    conversion = converted(graph, list(graph))

    assert len(functions(conversion.tasks)) == 1
    assert run(conversion, "x7") == 21


def test_fused_blocks_share_one_program() -> None:
    """Whether Dask gives them one inner graph, as for blockwise layers, or one for each."""
    inner = {"m": Task("m", mul, TaskRef("in"), 3), "o": Task("o", add, TaskRef("m"), 1)}
    graph: dict[Any, Any] = {f"a{i}": Task(f"a{i}", abs, i) for i in range(10)}
    own = Task.fuse(*inner.values(), key="fused")
    for i in range(10):
        ref = TaskRef(f"a{i}")
        graph[f"shared{i}"] = Task(f"shared{i}", own.func, inner, "o", ("in",), ref)
        middle, last = Task(f"m{i}", mul, ref, 3), Task(f"o{i}", add, TaskRef(f"m{i}"), 1)
        graph[f"own{i}"] = Task.fuse(middle, last, key=f"own{i}")
    conversion = converted(graph, [key for key in graph if not key.startswith("a")])

    programs = [task.function for task in conversion.tasks if isinstance(task.function, Program)]
    assert len(programs) == 20
    assert len({id(program) for program in programs}) == 1
    assert [run(conversion, f"{kind}{i}") for kind in ("shared", "own") for i in range(10)] == [
        3 * i + 1 for i in range(10)
    ] * 2


def test_what_many_tasks_share_is_sent_once() -> None:
    shared = {"columns": ["a", "b"]}
    graph = {f"x{i}": Task(f"x{i}", record, shared, (i, i)) for i in range(50)}
    conversion = converted(graph, list(graph))

    carrying = [task for task in conversion.tasks if any(a is shared for a in task.args)]
    assert len(carrying) == SHARED_FROM - 1
    assert len(functions(conversion.tasks)) == 2
    assert run(conversion, "x49") == ((shared, (49, 49)), {})


def test_what_tasks_share_is_each_runs_own() -> None:
    """A task that changes a shared argument in place is not seen by the next one."""
    shared: list[int] = []
    graph = {
        f"x{i}": Task(f"x{i}", lambda items: items.append(1) or len(items), shared)
        for i in range(10)
    }
    function = converted(graph, list(graph)).tasks[-1].function
    there = pickle.loads(cloudpickle.dumps(function))

    assert isinstance(function, Program)
    assert [there(), there(), there()] == [1, 1, 1]


def test_equal_partials_are_one_function() -> None:
    graph = {f"x{i}": Task(f"x{i}", partial(record, axis=(0,)), i) for i in range(10)}

    assert len(functions(converted(graph, list(graph)).tasks)) == 1


def test_partials_that_only_look_equal_are_not() -> None:
    graph = {f"x{flag!r}": Task(f"x{flag!r}", partial(record, flag), 0) for flag in (1, True, 1.0)}

    assert len(functions(converted(graph, list(graph)).tasks)) == 3


def test_data_and_aliases_make_no_task() -> None:
    graph = {"data": 1, "alias": "data", "a": (add, "alias", 1), "again": "a"}
    conversion = converted(graph, ["data", "alias", "again"])

    assert len(conversion.tasks) == 1
    assert conversion.values == {"data": 1, "alias": 1}
    assert run(conversion, "again") == 2


def test_intermediate_results_are_let_go_after_their_last_use() -> None:
    chain = [Task(f"t{i}", add, TaskRef(f"t{i - 1}") if i else 0, 1) for i in range(5)]
    node = Task.fuse(*chain, key="x")
    program = converted({"x": node}, ["x"]).tasks[0].function

    assert isinstance(program, Program)
    assert all(step.last_uses for step in program.steps)


def test_names_are_those_of_the_layers() -> None:
    graph = {("sum-0f8fad5bd9cb469fa16570867728950e", i): (abs, i) for i in range(3)}

    assert {task.name for task in converted(graph, list(graph)).tasks} == {"sum"}


def test_array_and_scalar_literals_are_kept_apart() -> None:
    graph = {f"x{i}": Task(f"x{i}", np.add, np.arange(3), i) for i in range(10)}
    conversion = converted(graph, list(graph))

    assert len(functions(conversion.tasks)) == 1
    np.testing.assert_array_equal(run(conversion, "x4"), [4, 5, 6])


def parts(*wanted: Any) -> dict[Any, Any]:
    """A graph in which ``parts`` is taken apart, and ``sum`` uses the pieces."""
    graph: dict[Any, Any] = {"parts": (divmod, 17, 5)}
    graph |= {("part", index): (getitem, "parts", index) for index in wanted}
    return graph | {"sum": (sum, [("part", index) for index in wanted])}


def test_a_result_that_is_only_taken_apart_becomes_several_outputs() -> None:
    conversion = converted(parts(0, 1), ["sum"])

    assert [task.num_returns for task in conversion.tasks] == [2, 1]
    assert conversion.keys == ["parts", "sum"]
    assert run(conversion, "sum") == 3 + 2


@pytest.mark.parametrize(
    ("graph", "keys"),
    [
        (parts(0, 1), ["sum", "parts"]),
        (parts(0, 1) | {"whole": (len, "parts")}, ["sum", "whole"]),
        (parts(1), ["sum"]),
    ],
    ids=["requested", "used whole", "one piece"],
)
def test_a_result_that_is_wanted_whole_stays_whole(graph: dict[Any, Any], keys: list[str]) -> None:
    conversion = converted(graph, keys)

    assert all(task.num_returns == 1 for task in conversion.tasks)
    assert run(conversion, "sum") == sum(divmod(17, 5)[index] for _, index in _pieces(graph))


def test_a_piece_can_be_requested() -> None:
    conversion = converted(parts(0, 1), [("part", 1), "sum"])

    assert run(conversion, ("part", 1)) == 2


def _pieces(graph: dict[Any, Any]) -> list[Any]:
    return [key for key in graph if isinstance(key, tuple)]
