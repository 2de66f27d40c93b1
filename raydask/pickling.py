"""Pickles of protocol 5 with their buffers beside them, made fast and with better reductions.

Fast: picklers are used again, because making one takes longer than a small value takes to
pickle.

Better: where a library would write large buffers into the pickle, or more of them than a value
uses, an adapter reduces that library's types instead (`_ADAPTERS`).  It is loaded when its
library has been, and works for these pickles alone: nothing is registered for the process.
What a program has registered itself (``copyreg``) goes first.
"""

from __future__ import annotations

import copyreg
import functools
import importlib
import io
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable
from typing import Any, NamedTuple

Pickled = tuple[bytes, list[pickle.PickleBuffer]]
"""A pickle, and the buffers that belong beside it."""

_ADAPTERS = {
    "numpy": "raydask.compat.numpy",
    "numpy.ma": "raydask.compat.masked_arrays",
    "pandas": "raydask.compat.pandas",
    "pyarrow": "raydask.compat.pyarrow",
}
"""By library, the module whose ``REDUCERS`` its types are pickled with."""

_REUSED_LIMIT = 1 << 16
"""Bytes of the largest pickle after which a pickler is used again: its memo only grows."""

_NO_FILE = "<dynamic-code>"
"""What cloudpickle writes in the place of a file's name."""

_SPAWNED_MAIN = "__mp_main__"
"""The main script's module in a process that `multiprocessing` has spawned."""

_reducers: dict[Any, Callable[[Any], Any]] = {}
_dispatch_table: dict[Any, Callable[[Any], Any]] = {}
_adapted: set[str] = set()


class _Sink:
    """The file that a pickler writes to."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


class _ReusablePickler(NamedTuple):
    """A pickler, where it writes, and the buffers that it leaves out."""

    dump: Callable[[object], None]
    clear_memo: Callable[[], None]
    written: list[bytes]
    buffers: list[pickle.PickleBuffer]


def _make_pickler() -> _ReusablePickler:
    written: list[bytes] = []
    buffers: list[pickle.PickleBuffer] = []
    pickler: Any = pickle.Pickler(_Sink(written.append), 5, buffer_callback=buffers.append)
    pickler.dispatch_table = _dispatch_table
    return _ReusablePickler(pickler.dump, pickler.clear_memo, written, buffers)


_idle: list[_ReusablePickler] = []


_modules = sys.modules
_registered = copyreg.dispatch_table
_seen_modules = _seen_registered = 0
"""How many of each there were when the dispatch table was made."""


def plain_dumps(value: object) -> Pickled:
    """Pickle a value with the standard pickler.

    Raises
    ------
    Exception
        Whatever a value that cannot be pickled raises.
    """
    if len(_modules) != _seen_modules or len(_registered) != _seen_registered:
        _refresh()
    try:
        pickler = _idle.pop()
    except IndexError:
        pickler = _make_pickler()
    dump, clear_memo, written, buffers = pickler
    dump(value)  # where this fails, the pickler is not used again
    pickled = written[0] if len(written) == 1 else b"".join(written)
    written.clear()
    if len(pickled) <= _REUSED_LIMIT:
        if buffers:
            left_out = buffers.copy()
            buffers.clear()
        else:
            left_out = []
        clear_memo()
        _idle.append(pickler)
        return pickled, left_out
    return pickled, buffers


def cloud_dumps(value: object) -> Pickled:
    """Pickle a value with cloudpickle, which can do what is defined in the main script or inline.

    Raises
    ------
    Exception
        Whatever a value that cannot be pickled raises.
    """
    buffers: list[pickle.PickleBuffer] = []
    return _cloud_dump(value, buffer_callback=buffers.append), buffers


def code_dumps(function: object) -> bytes:
    """Pickle a function or class with cloudpickle, with whatever it refers to, in one piece.

    Raises
    ------
    Exception
        Whatever raises that it refers to and that cannot be pickled.
    """
    return _cloud_dump(function)


def _cloud_dump(value: object, **options: Any) -> bytes:
    target = io.BytesIO()
    _cloud_pickler()(target, protocol=5, **options).dump(value)
    return target.getvalue()


@functools.cache
def _cloud_pickler() -> Any:
    import cloudpickle  # heavy, and most programs never need it in most processes

    spawned = sys.modules.get(_SPAWNED_MAIN)
    if spawned is not None:
        cloudpickle.register_pickle_by_value(spawned)
    theirs = cloudpickle.CloudPickler
    table = ChainMap(_reducers, theirs.dispatch_table)
    reduce_code = functools.partial(_reduce_code, theirs.dispatch_table[types.CodeType])
    return type(
        "CloudPickler",
        (theirs,),
        {"dispatch_table": ChainMap({types.CodeType: reduce_code}, table)},
    )


def _reduce_code(reduce: Callable[[Any], Any], code: types.CodeType) -> Any:
    """Reduce code as cloudpickle does, but with the name of its file.

    cloudpickle leaves it out since version 3.1.3, so that pickles are the same wherever a function
    was defined. Without it a traceback from a worker shows no line of the function.
    """
    make, arguments = reduce(code)
    return make, tuple(code.co_filename if each == _NO_FILE else each for each in arguments)


def _refresh() -> None:
    """Take in the adapters of libraries that have been loaded, and what was registered."""
    global _seen_modules, _seen_registered
    modules, registered = len(_modules), len(_registered)
    for library, adapter in _ADAPTERS.items():
        if library not in _adapted and _modules.get(library) is not None:
            _adapted.add(library)
            try:
                _reducers.update(importlib.import_module(adapter).REDUCERS)
            except Exception:  # a stand-in or too old: its values are pickled as it says itself
                continue
    _dispatch_table.update({**_reducers, **_registered})
    _seen_modules, _seen_registered = modules, registered
