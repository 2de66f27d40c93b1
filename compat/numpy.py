"""NumPy's arrays pickled so that their memory stays beside the pickle.

NumPy keeps the memory of a plain array out of a pickle of protocol 5, so that it is copied
once on its way into the object store and never on its way out.  What it writes into the
pickle all the same, and this module does not:

======================================  =====================================================
array                                   how it is pickled here
======================================  =====================================================
of dates or durations, or of a type     as an array of integers or plain bytes, which is then
made of those                           seen as what it was
strided, neither row by row nor         a contiguous copy (NumPy makes one too)
column by column
``matrix``, ``memmap``, ``recarray``    the plain array, which is then seen as the subclass
======================================  =====================================================

Arrays of Python objects have no memory to keep beside: each element is pickled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_DATES = "mM"
_COMPOUND = "V"


def _reduce_array(array: np.ndarray[Any, Any]) -> Any:
    dtype = array.dtype
    if dtype.hasobject or not dtype.itemsize:
        return array.__reduce_ex__(5)
    if not array.flags.forc:
        array = np.ascontiguousarray(array)
    kind = dtype.kind
    if kind in _DATES:
        return _seen_as, (array.view("i8"), dtype)
    if kind == _COMPOUND and not _is_buffer(array):
        return _seen_as, (array.view(f"V{dtype.itemsize}"), dtype)
    return array.__reduce_ex__(5)


def _is_buffer(array: np.ndarray[Any, Any]) -> bool:
    try:
        memoryview(array.data)
    except (ValueError, BufferError):
        return False
    return True


def _reduce_subclass(array: np.ndarray[Any, Any]) -> Any:
    return _seen_as, (array.view(np.ndarray), type(array))


def _seen_as(array: np.ndarray[Any, Any], kind: Any) -> np.ndarray[Any, Any]:
    """Return the memory of `array` as an array of this data type or of this class."""
    return array.view(kind)


REDUCERS = {
    np.ndarray: _reduce_array,
    np.matrix: _reduce_subclass,
    np.memmap: _reduce_subclass,
    np.recarray: _reduce_subclass,
}
"""By type, what returns ``__reduce__``'s tuple for a value of it."""
