"""The actor that is measured.

In a module of its own that imports nothing: each new actor's process imports the module of its
class, and that of the cases would bring the whole harness with it.
"""

from __future__ import annotations


class Counter:
    """The smallest thing with state."""

    def __init__(self) -> None:
        self._count = 0

    def increment(self) -> int:
        """Count one further; return the count."""
        self._count += 1
        return self._count
