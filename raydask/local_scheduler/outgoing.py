"""What the core has to say while it handles one event, gathered into few messages. Pure."""

from __future__ import annotations

from raydask.ids import ObjectID, ProcessNumber
from raydask.local_scheduler.actions import Action, Send
from raydask.wire.messages import ObjectValue, Ready, Values

_LARGEST_MESSAGE = 1 << 20
"""Bytes of values."""
_FEW = 8
"""So many values are one message without being weighed."""


class Outgoing:
    """Actions and batched messages of one turn.

    Attributes
    ----------
    actions : list of Action
        In the order in which they are to be done; what is batched comes after them.
    """

    __slots__ = ("_ready", "_values", "actions")

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self._values: dict[ProcessNumber, list[ObjectValue]] = {}
        self._ready: dict[ProcessNumber, list[ObjectID]] = {}

    def value(self, process: ProcessNumber, value: ObjectValue) -> None:
        """Send a value to a process."""
        batch = self._values.get(process)
        if batch is None:
            self._values[process] = [value]
        else:
            batch.append(value)

    def values(self, process: ProcessNumber, values: list[ObjectValue]) -> None:
        """Send values to a process; the list becomes this one's."""
        batch = self._values.get(process)
        if batch is None:
            self._values[process] = values
        else:
            batch += values

    def ready(self, process: ProcessNumber, object_id: ObjectID) -> None:
        """Tell a process that an object exists."""
        self._ready.setdefault(process, []).append(object_id)

    def take(self) -> list[Action]:
        """Return what has been gathered, and begin anew."""
        actions = self.actions
        if self._values:
            for process, values in self._values.items():
                actions += [Send(process, Values(part)) for part in parts_of(values)]
            self._values = {}
        if self._ready:
            for process, object_ids in self._ready.items():
                actions.append(Send(process, Ready(object_ids)))
            self._ready = {}
        self.actions = []
        return actions


def parts_of(values: list[ObjectValue]) -> list[list[ObjectValue]]:
    """Return the values of one turn in messages of at most ``_LARGEST_MESSAGE``, or of one value.

    Whoever receives a message has all of it in memory, twice for a moment.
    """
    if len(values) <= _FEW or sum([len(value.data) for value in values]) <= _LARGEST_MESSAGE:
        return [values]
    parts: list[list[ObjectValue]] = [[]]
    size = 0
    for value in values:
        size += len(value.data)
        if size > _LARGEST_MESSAGE and parts[-1]:
            parts.append([])
            size = len(value.data)
        parts[-1].append(value)
    return parts
