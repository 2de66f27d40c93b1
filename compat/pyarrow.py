"""PyArrow's arrays pickled with the memory that they use, and no more.

PyArrow keeps an array's buffers beside a pickle of protocol 5, so they are read from the
object store without a copy.  But it keeps whole buffers: of a slice of ten rows of a table,
the memory of all rows would be stored, and once for each slice of one buffer.  A
slice that uses less than half of its buffers is therefore copied first.

The columns of tables, of record batches, of data frames and of chunked arrays are such arrays.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

_SPARED = 4096
"""Bytes; to save fewer is not worth a look."""


def _reduce_array(array: Any) -> Any:
    return _compact(array).__reduce__()


def _compact(array: Any) -> Any:
    try:
        size = array.get_total_buffer_size()
        # Most arrays are small, and the second question takes eight times as long as the first.
        if size > _SPARED and size > 2 * array.nbytes + _SPARED:
            return pa.concat_arrays([array])
    except pa.ArrowException:
        pass  # a type for which it counts or copies nothing: it is stored as it is
    return array


REDUCERS = {
    kind: _reduce_array
    for kind in vars(pa).values()
    if isinstance(kind, type) and issubclass(kind, pa.Array)
}
"""By type, what returns ``__reduce__``'s tuple for a value of it."""
