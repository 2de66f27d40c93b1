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
    chunks = column.__arrow_array__()
    return _column, (chunks.chunk(0) if chunks.num_chunks == 1 else chunks, column.dtype)


def _column(chunks: Any, dtype: Any) -> Any:
    return dtype.__from_arrow__(chunks)


REDUCERS = {
    pd.arrays.ArrowExtensionArray: _reduce_column,
    pd.arrays.ArrowStringArray: _reduce_column,
}
"""By type, what returns ``__reduce__``'s tuple for a value of it."""
