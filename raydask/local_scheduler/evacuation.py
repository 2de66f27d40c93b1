"""Other nodes that leave, and objects of this one that they keep. Pure.

The results of lent tasks stay where they were made, kept for this node, which is their home.  When
their keeper leaves they are brought here, whether anything wants them or not, and it forgets
them.  Copies that it has of other objects are of no matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from raydask.ids import ObjectID
from raydask.local_scheduler.fetching import Fetching
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.records import ObjectRecord
from raydask.wire.messages import Forget

_PAUSE_SECONDS = 0.1


class Evacuation:
    """The nodes that leave, and what is brought here from them.

    Parameters
    ----------
    objects : ObjectTable
    fetching : Fetching
    tell : callable
        Sends a node a message.

    Attributes
    ----------
    leaving : set of int
    """

    def __init__(
        self, objects: ObjectTable, fetching: Fetching, tell: Callable[[int, object], None]
    ) -> None:
        self._objects = objects
        self._fetching = fetching
        self._tell = tell
        self.leaving: set[int] = set()
        self._coming: dict[ObjectID, ObjectRecord] = {}
        self._looked_at = float("-inf")

    def begin(self, node: int) -> None:
        """Bring here what a node keeps that leaves."""
        self.leaving.add(node)
        self.bring(list(self._objects.records.values()))

    def bring(self, records: Iterable[ObjectRecord]) -> None:
        """Bring these here, as far as nodes keep them that leave."""
        for record in records:
            if record.remote is None or record.remote.kept_by not in self.leaving:
                continue
            if record.value is not None:
                self.arrived(record)
            else:
                self._coming[record.object_id] = record
                self._fetching.want(record, urgent=False)

    def arrived(self, record: ObjectRecord) -> None:
        """Have an object forgotten by whoever kept it: it is here."""
        self._coming.pop(record.object_id, None)
        remote = record.remote
        if remote is None or self._objects.records.get(record.object_id) is not record:
            return
        if remote.kept_by in self.leaving:
            remote.nodes.pop(remote.kept_by, None)
            self._tell(remote.kept_by, Forget([record.object_id]))
            remote.kept_by = 0

    def node_lost(self, node: int) -> None:
        """Await nothing of a node that has gone."""
        self.leaving.discard(node)
        for object_id, record in list(self._coming.items()):
            if record.remote is None or record.remote.kept_by == node:
                del self._coming[object_id]

    def balance(self, now: float) -> None:
        """Want again what was given up on its way, because nothing else wants it any more."""
        if self._coming and not 0 <= now - self._looked_at < _PAUSE_SECONDS:
            self._looked_at = now
            records = self._objects.records
            for object_id, record in list(self._coming.items()):
                if records.get(object_id) is record:
                    self.bring([record])
                else:
                    del self._coming[object_id]

    @property
    def is_busy(self) -> bool:
        """Whether anything is still to come."""
        return bool(self._coming)
