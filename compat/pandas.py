"""Pandas' columns of Arrow data pickled as they are.

Pandas joins such a column's chunks before it pickles them, and copies the column even where
there is one chunk: memory and time for nothing.  Here the chunks are pickled, whose memory
stays beside the pickle (see `raydask.compat.pyarrow`).

Columns of other types are NumPy's arrays to the pickler, or Python's objects.
"""

from __future__ import annotations

from typing import Any

import pandas as pd


def _reduce_column(column: Any) -> Any:
    return _column, (column.__arrow_array__(), column.dtype)


def _column(chunks: Any, dtype: Any) -> Any:
    return pd.array(chunks, dtype=dtype, copy=False)


REDUCERS = {
    pd.arrays.ArrowExtensionArray: _reduce_column,
    pd.arrays.ArrowStringArray: _reduce_column,
}
"""By type, what returns ``__reduce__``'s tuple for a value of it."""
