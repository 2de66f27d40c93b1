"""What a worker runs for a task that is more than one call on plain arguments.

A Dask task may hold lists and dictionaries of references, tasks within tasks, and, where
Dask's optimizers fused several tasks into one, a whole inner graph.  Pickling those nodes
with every task would cost more than most tasks do, and Dask runs an inner graph by sorting
it anew each time.  So the driver compiles a node into a *program*, the straight line of
calls that it amounts to, and sends with the task no more than the values that differ.
Tasks of one layer share one program, which is exported once, as any function is.

This module is all that a worker imports for Dask's sake; Dask itself comes in only with
the functions that need it.

Vocabulary
----------
register
    A number that stands for a value while a program runs.  Operands are numbered 0, 1, …
    constants -1, -2, … and results of steps from ``FIRST_RESULT`` on.
operand
    A value that the task brings: a dependency's value, or an argument of its own.
constant
    A value that all tasks of the program share.
step
    One call.  The last step's result is the program's.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Sequence
from typing import Any

FIRST_RESULT = 1 << 30
"""The register of the first step's result."""


class Frozen:
    """A pickled constant: each run gets a copy of its own, which it may modify."""

    __slots__ = ("pickled",)

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled


class Step:
    """One call.

    Attributes
    ----------
    function : callable
    arguments : tuple of int
        Registers of the positional arguments.
    keywords : tuple of (str, int)
        Names and registers of the keyword arguments.
    last_uses : tuple of int
        Registers that no later step reads; their values are let go after the call.
    """

    __slots__ = ("arguments", "function", "keywords", "last_uses")

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[int, ...],
        keywords: tuple[tuple[str, int], ...],
        last_uses: tuple[int, ...] = (),
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.keywords = keywords
        self.last_uses = last_uses

    def __reduce__(self) -> tuple[Any, ...]:
        return Step, (self.function, self.arguments, self.keywords, self.last_uses)


class Program:
    """A straight line of calls, run on a task's operands."""

    __slots__ = ("__name__", "constants", "steps")

    def __init__(self, name: str, constants: tuple[object, ...], steps: tuple[Step, ...]) -> None:
        self.__name__ = name
        self.constants = constants
        self.steps = steps

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self.__name__, self.constants, self.steps)

    def __repr__(self) -> str:
        return f"<Program {self.__name__}: {len(self.steps)} steps>"

    def __call__(self, *operands: Any) -> Any:
        """Run the steps and return the last one's result."""
        values: dict[int, Any] = dict(enumerate(operands))
        del operands
        for position, constant in enumerate(self.constants):
            if type(constant) is Frozen:
                constant = pickle.loads(constant.pickled)
            values[-1 - position] = constant
        result: Any = None
        for register, step in enumerate(self.steps, FIRST_RESULT):
            arguments = [values[used] for used in step.arguments]
            if step.keywords:
                keywords = {name: values[used] for name, used in step.keywords}
                for used in step.last_uses:
                    del values[used]
                result = step.function(*arguments, **keywords)
            else:
                for used in step.last_uses:
                    del values[used]
                result = step.function(*arguments)
            values[register] = result
        return result


def as_list(*items: Any) -> list[Any]:
    """Return the items as a list."""
    return list(items)


def as_tuple(*items: Any) -> tuple[Any, ...]:
    """Return the items as a tuple."""
    return items


def as_set(*items: Any) -> set[Any]:
    """Return the items as a set."""
    return set(items)


def as_dict(*items: Any) -> dict[Any, Any]:
    """Return a dictionary of the items, which are keys and values in turn."""
    return dict(zip(items[::2], items[1::2], strict=True))


def same(value: Any) -> Any:
    """Return `value`: the program of a node that only passes a value on."""
    return value


def run_node(node: Callable[..., Any], keys: Sequence[Hashable], *values: Any) -> Any:
    """Run a node of a kind that the compiler does not know, the way Dask itself does."""
    return node(dict(zip(keys, values, strict=True)))
