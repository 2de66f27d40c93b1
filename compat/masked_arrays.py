"""NumPy's masked arrays pickled as their data and their mask.

Both are arrays, whose memory then stays beside the pickle (see `raydask.compat.numpy`).
NumPy itself writes both into the pickle, and forgets whether the mask is hard.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def _reduce_masked(array: np.ma.MaskedArray[Any, Any]) -> Any:
    mask = None if array.mask is np.ma.nomask else array.mask
    return _masked, (array.data, mask, array.fill_value, array.hardmask)


def _masked(data: Any, mask: Any, fill_value: Any, hard: bool) -> np.ma.MaskedArray[Any, Any]:
    return np.ma.MaskedArray(
        data,
        mask=np.ma.nomask if mask is None else mask,
        fill_value=fill_value,
        hard_mask=hard,
        copy=False,
    )


REDUCERS = {np.ma.MaskedArray: _reduce_masked}
"""By type, what returns ``__reduce__``'s tuple for a value of it."""
