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
from collections import ChainMap
from collections.abc import Callable
from typing import Any

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

_reducers: dict[Any, Callable[[Any], Any]] = {}
_dispatch_table: dict[Any, Callable[[Any], Any]] = {}
_adapted: set[str] = set()


class _Sink:
    """The file that a pickler writes to."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


class _ReusablePickler:
    """A pickler, where it writes, and the buffers that it leaves out."""

    __slots__ = ("_pickler", "buffers", "clear", "dump", "written")

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.buffers: list[pickle.PickleBuffer] = []
        pickler: Any = pickle.Pickler(
            _Sink(self.written.append), 5, buffer_callback=self.buffers.append
        )
        pickler.dispatch_table = _dispatch_table
        self.dump = pickler.dump
        self.clear = pickler.clear_memo


_idle: list[_ReusablePickler] = []


_modules = sys.modules
_registered = copyreg.dispatch_table
_seen = [0, 0]
"""How many of each there were when the dispatch table was made."""


def plain_dumps(value: object) -> Pickled:
    """Pickle a value with the standard pickler.

    Raises
    ------
    Exception
        Whatever a value that cannot be pickled raises.
    """
    if [len(_modules), len(_registered)] != _seen:
        _refresh()
    try:
        pickler = _idle.pop()
    except IndexError:
        pickler = _ReusablePickler()
    pickler.dump(value)  # where this fails, the pickler is not used again
    written = pickler.written
    pickled = written[0] if len(written) == 1 else b"".join(written)
    buffers = pickler.buffers
    if len(pickled) <= _REUSED_LIMIT:
        if buffers:
            buffers = buffers.copy()
            pickler.buffers.clear()
        written.clear()
        pickler.clear()
        _idle.append(pickler)
    return pickled, buffers


def cloud_dumps(value: object) -> Pickled:
    """Pickle a value with cloudpickle, which can do what is defined in ``__main__`` or inline.

    Raises
    ------
    Exception
        Whatever a value that cannot be pickled raises.
    """
    target = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _cloud_pickler()(target, protocol=5, buffer_callback=buffers.append).dump(value)
    return target.getvalue(), buffers


@functools.cache
def _cloud_pickler() -> Any:
    import cloudpickle  # heavy, and most programs never need it in most processes

    theirs = cloudpickle.CloudPickler
    table = ChainMap(_reducers, theirs.dispatch_table)
    return type("CloudPickler", (theirs,), {"dispatch_table": table})


def _refresh() -> None:
    """Take in the adapters of libraries that have been loaded, and what was registered."""
    seen = [len(_modules), len(_registered)]
    for library, adapter in _ADAPTERS.items():
        if library not in _adapted and _modules.get(library) is not None:
            _adapted.add(library)
            try:
                _reducers.update(importlib.import_module(adapter).REDUCERS)
            except Exception:  # a stand-in or too old: its values are pickled as it says itself
                continue
    _dispatch_table.update({**_reducers, **_registered})
    _seen[:] = seen
