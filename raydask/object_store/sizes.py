"""Sizes of what is in the arena, for who gives it out and for who writes in it."""

from __future__ import annotations

ALIGNMENT = 4096
"""Bytes: every offset and every size is a multiple of this, whatever the machine's page."""

DEFAULT_SLAB_SIZE = 8 << 20
"""Bytes of a slab, where the arena is large enough for many of them."""

_MASK = ALIGNMENT - 1


def rounded(size: int) -> int:
    """Return the bytes that a block of `size` bytes occupies: whole pages, at least one."""
    return (size + _MASK) & ~_MASK or ALIGNMENT
