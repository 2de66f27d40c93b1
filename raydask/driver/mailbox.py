"""Values that have arrived and those that are awaited.

``get`` asks the node for what it lacks, in the same write as whatever was buffered, and
takes values as they come.  A value stays here until the ``get`` that asked for it has read
it; the results of direct actor calls stay until their last ref goes, because nobody else
has them.  Whoever waits and finds a value neither here nor asked for asks again: another
thread may have taken it.
"""

from __future__ import annotations

from collections.abc import Callable

from raydask.driver.references import ReferenceTable, Use
from raydask.ids import ObjectID
from raydask.wire.messages import ObjectValue, ValueKind

Callback = Callable[[ObjectValue], None]

_STORED = int(ValueKind.STORED)


class Mailbox:
    """Incoming values of one process."""

    def __init__(self, references: ReferenceTable) -> None:
        self._references = references
        self.values: dict[ObjectID, ObjectValue] = {}
        self.requested: set[ObjectID] = set()
        self.ready: set[ObjectID] = set()
        self.watched: set[ObjectID] = set()
        self._callbacks: dict[ObjectID, list[Callback]] = {}
        references.forget = self.forget
        references.is_kept = self.values.__contains__

    def deliver(self, values: list[ObjectValue]) -> None:
        """Take in values that arrived."""
        counts = self._references.counts
        requested = self.requested
        callbacks = self._callbacks
        arrived = self.values
        for value in values:
            object_id = value.object_id
            requested.discard(object_id)
            if value.kind == _STORED:
                self._deliver_stored(value)
                continue
            if object_id in counts:
                arrived[object_id] = value
            if callbacks:
                with self._references.lock:
                    waiting = callbacks.pop(object_id, ())
                for callback in waiting:
                    callback(value)

    def _deliver_stored(self, value: ObjectValue) -> None:
        references = self._references
        object_id = value.object_id
        with references.lock:
            references.place_told(object_id)
            waiting = self._callbacks.pop(object_id, ())
            if object_id in references.counts:
                self.values[object_id] = value
            else:
                references.may_be_idle(object_id)
            use = Use(object_id, references) if waiting else None
        for callback in waiting:
            callback(value)
        del use

    def mark_ready(self, object_ids: list[ObjectID]) -> None:
        """Note that the node has these objects."""
        counts = self._references.counts
        self.ready.update([object_id for object_id in object_ids if object_id in counts])
        self.watched.difference_update(object_ids)

    def to_request(self, object_ids: list[ObjectID]) -> list[ObjectID]:
        """Return which of these must be asked for, and note that they are."""
        values = self.values
        requested = self.requested
        private = self._references.private
        missing = [
            object_id
            for object_id in object_ids
            if object_id not in values and object_id not in requested and object_id not in private
        ]
        requested.update(missing)
        return missing

    def to_watch(self, object_ids: list[ObjectID]) -> list[ObjectID]:
        """Return which of these must be watched for, and note that they are."""
        private = self._references.private
        missing = [
            object_id
            for object_id in object_ids
            if object_id not in self.ready
            and object_id not in self.values
            and object_id not in self.watched
            and object_id not in private
        ]
        self.watched.update(missing)
        return missing

    def is_ready(self, object_id: ObjectID) -> bool:
        """Say whether the object is known to exist."""
        return object_id in self.values or object_id in self.ready

    def look_up(self, object_ids: list[ObjectID]) -> tuple[list[ObjectValue], list[Use]]:
        """Return values that have arrived, and what keeps the stored ones where they are.

        Raises
        ------
        KeyError
            One of them is not here.
        """
        values = self.values
        found = [values[object_id] for object_id in object_ids]
        stored = [value.object_id for value in found if value.kind == _STORED]
        if not stored:
            return found, []
        references = self._references
        with references.lock:
            # Another thread may have taken some meanwhile, and given their pins back.
            found = [values[object_id] for object_id in object_ids]
            return found, [Use(object_id, references) for object_id in stored]

    def taken(self, object_ids: list[ObjectID]) -> None:
        """Drop values that have been read and can be asked for again."""
        values = self.values
        private = self._references.private
        for object_id in object_ids:
            if object_id not in private:
                value = values.pop(object_id, None)
                if value is not None and value.kind == _STORED:
                    self._references.may_be_idle(object_id)

    def call_back(self, object_id: ObjectID, callback: Callback) -> bool:
        """Call `callback` with the value when it arrives; say whether it is here already.

        A stored object stays where it is while `callback` runs.
        """
        waiting = [callback]
        references = self._references
        with references.lock:
            value = self.values.get(object_id)
            if value is None:
                self._callbacks.setdefault(object_id, []).append(callback)
                # Inline values come without the lock: this one may have, and found nobody.
                value = self.values.get(object_id)
                if value is None:
                    return False
                waiting = self._callbacks.pop(object_id)
            use = Use(object_id, references) if value.kind == _STORED else None
        for waiter in waiting:
            waiter(value)
        del use
        return True

    def awaited(self, object_ids: list[ObjectID]) -> list[ObjectID]:
        """Return those of the objects whose values somebody is to be called back with."""
        with self._references.lock:
            return [object_id for object_id in object_ids if object_id in self._callbacks]

    def fail_all(self, error: bytes, kind: int) -> None:
        """Give everything that is awaited this serialized error: the node is gone."""
        waiting, self._callbacks = self._callbacks, {}
        for object_id, callbacks in waiting.items():
            for callback in callbacks:
                callback(ObjectValue(object_id, kind, error))

    def forget(self, object_id: ObjectID) -> bool:
        """Drop what is here of an object that nobody in this process holds.

        Returns
        -------
        bool
            Whether its value was here.
        """
        self.ready.discard(object_id)
        value = self.values.pop(object_id, None)
        if value is None:
            return False
        if value.kind == _STORED:
            self._references.may_be_idle(object_id)
        return True
