"""Where the values inside a graph travel.

=================================  ======================================================
value                              way
=================================  ======================================================
scalar (number, string, None)      with the task: it costs less than any other way
function, class                    in the program, which is exported once
large (``LARGE_LITERAL``)          in the object store, put there once however many tasks
                                   use the object; the tasks get a ref
any other                          with the task; from its ``SHARED_FROM``-th use on in the
                                   program
=================================  ======================================================

So what differs from task to task never makes a program of its own for each, nor does a
partition that two or three tasks use; and what a layer's tasks share is sent once.  Objects
are told apart by identity, so all that was looked at is kept alive as long as the
`Literals`, and so are the refs.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle
from dask.sizeof import sizeof

import raydask
from raydask.compat.dask.program import Frozen

LARGE_LITERAL = 100_000
"""Bytes; from this size on a value goes to the object store."""

SHARED_FROM = 4
"""From this use of a value on, it counts as one that many tasks share."""

SCALARS = frozenset((type(None), bool, int, float, complex, str, bytes))
"""Types whose values travel with the task."""

_CODE = (type, types.FunctionType, types.BuiltinFunctionType, partial)
_IMMUTABLE = SCALARS | {slice, range}


class Constant:
    """A value that belongs into the program.

    Attributes
    ----------
    identity : int
        The same for two constants exactly if they are one object.
    value : object
        What the program holds: the value, or a `Frozen` copy where a run might modify it.
    """

    __slots__ = ("identity", "value")

    def __init__(self, identity: int, value: object) -> None:
        self.identity = identity
        self.value = value


class _Seen:
    __slots__ = ("placed", "uses", "value")

    def __init__(self, value: object, placed: object) -> None:
        self.value = value
        self.placed = placed
        self.uses = 0


class Literals:
    """Decides for the values of one graph."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self._constants: dict[int, Constant] = {}
        self._partials: dict[int, tuple[object, Callable[..., Any]]] = {}
        self._partial_of: dict[bytes, Callable[..., Any]] = {}

    def place(self, value: object) -> object:
        """Return what travels with the task in place of `value`, or the `Constant` it is."""
        if type(value) in SCALARS and not _is_long(value):
            return value
        if isinstance(value, _CODE):
            return self._constant(self.function(value))
        known = self._seen.get(id(value))
        if known is None:
            placed = value
            if not isinstance(value, raydask.ObjectRef) and sizeof(value) >= LARGE_LITERAL:
                placed = raydask.put(value)
            known = self._seen[id(value)] = _Seen(value, placed)
        known.uses += 1
        if known.uses < SHARED_FROM or isinstance(known.placed, raydask.ObjectRef):
            return known.placed
        return self._constant(value)

    def function(self, function: Any) -> Any:
        """Return one object for all equal partials: Dask may make one for every block."""
        if type(function) is not partial:
            return function
        known = self._partials.get(id(function))
        if known is None:
            try:
                first = self._partial_of.setdefault(pickle.dumps(function, 5), function)
            except Exception:  # cloudpickle's affair, and whatever a class may raise
                first = function
            known = self._partials[id(function)] = (function, first)
        return known[1]

    def _constant(self, value: object) -> Constant:
        constant = self._constants.get(id(value))
        if constant is None:
            held = value if _is_immutable(value) else Frozen(cloudpickle.dumps(value, 5))
            self._seen.setdefault(id(value), _Seen(value, value))
            constant = self._constants[id(value)] = Constant(id(value), held)
        return constant


def _is_long(value: object) -> bool:
    return type(value) in (str, bytes) and len(value) >= LARGE_LITERAL  # type: ignore[arg-type]


def _is_immutable(value: object) -> bool:
    if type(value) is tuple:
        return all(map(_is_immutable, value))
    return type(value) in _IMMUTABLE or isinstance(value, _CODE)
