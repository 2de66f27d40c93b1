"""The small values in the node's own memory: how much they are, and which come first. Pure.

Values up to the inline limit travel in messages and stay with their home, where a read costs
no mapping and no pin.  A graph may have any number of them, so their sum is bounded: beyond it
the oldest are moved to the object store (`Room.balance`), from which they can be spilled like
everything else there.

Values of less than a page are not counted.  In the store each would take a page, and the records
of such an object and of its task take as much memory as the value.
"""

from __future__ import annotations

from collections import OrderedDict

from raydask.ids import ObjectID
from raydask.object_store.sizes import ALIGNMENT

LEAST_COUNTED = ALIGNMENT
"""Bytes from which on a value counts."""


class InlineValues:
    """Which inline values a node has, in the order in which they came.

    Attributes
    ----------
    size : int
        Bytes that they are.
    sizes : OrderedDict of ObjectID to int
        Bytes of each, by age.
    """

    __slots__ = ("size", "sizes")

    def __init__(self) -> None:
        # A plain dict would search past all that was taken from its front.
        self.sizes: OrderedDict[ObjectID, int] = OrderedDict()
        self.size = 0

    def add(self, object_id: ObjectID, size: int) -> None:
        """Note a value of `size` bytes, `LEAST_COUNTED` or more."""
        self.sizes[object_id] = size
        self.size += size

    def discard(self, object_id: ObjectID) -> None:
        """Forget a value, if it is here."""
        self.size -= self.sizes.pop(object_id, 0)

    def oldest(self) -> ObjectID:
        """Return the one that came first; there is one."""
        return next(iter(self.sizes))
