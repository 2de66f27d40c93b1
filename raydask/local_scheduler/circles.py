"""Values in a circle, each of which contains the next one's ref: they hold one another. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain

from raydask.ids import ObjectID
from raydask.local_scheduler.records import ObjectRecord


def contents_of(record: ObjectRecord) -> list[ObjectID]:
    """Return the objects whose refs the record's value contains, and which it holds."""
    if record.value is not None:
        return record.value.nested
    return record.remote.nested if record.remote is not None else []


def in_circles(records: Mapping[ObjectID, ObjectRecord]) -> set[ObjectID]:
    """Return the objects that nothing holds but one another, in circles of refs.

    Counting holders does not find them.  Linear in the number of objects.
    """
    inside = {
        object_id: contents
        for object_id, record in records.items()
        if (contents := contents_of(record))
    }
    held_inside = Counter(chain.from_iterable(inside.values()))
    suspects = {
        object_id
        for object_id, times in held_inside.items()
        if object_id in records
        and (records[object_id].value is not None or records[object_id].remote is not None)
        and records[object_id].count == times
    }
    held = [
        nested
        for object_id, contained in inside.items()
        if object_id not in suspects
        for nested in contained
    ]
    while held:
        object_id = held.pop()
        if object_id in suspects:
            suspects.remove(object_id)
            held.extend(inside.get(object_id, ()))
    return suspects
