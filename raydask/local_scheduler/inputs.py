"""The inputs of tasks: which are not here, and where other nodes find those that are. Pure."""

from __future__ import annotations

from collections.abc import Callable

from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.records import ObjectRecord, Remote, TaskRecord
from raydask.wire import messages as wire
from raydask.wire.messages import ValueKind

_IN_STORE = (int(ValueKind.STORED), int(ValueKind.SPILLED))


def wanted_by(task: TaskRecord, objects: ObjectTable) -> list[ObjectRecord]:
    """Return the records of a task's inputs that are not here."""
    records = (objects.records[object_id] for object_id in dict.fromkeys(task.spec.dependencies))
    return [record for record in records if record.value is None]


def shares_of_inputs(
    task: TaskRecord, objects: ObjectTable, is_there: Callable[[int], bool]
) -> tuple[int, dict[int, int], int]:
    """Return how much of a task's inputs is here, and where the rest is.

    Parameters
    ----------
    task : TaskRecord
    objects : ObjectTable
    is_there : callable
        Whether another node counts.

    Returns
    -------
    tuple of int, dict of int to int, int
        The bytes that are here; those that are not, by node; and all that are not.
    """
    here = away = 0
    at: dict[int, int] = {}
    for object_id in dict.fromkeys(task.spec.dependencies):
        record = objects.records[object_id]
        if record.value is not None:
            here += record.size
            continue
        assert record.remote is not None
        away += record.remote.size
        for node in filter(is_there, record.remote.nodes):
            at[node] = at.get(node, 0) + record.remote.size
    return here, at, away


def stored_here(task: TaskRecord, objects: ObjectTable) -> int:
    """Return how many bytes of a task's inputs are in the store here."""
    values = (objects.records[each].value for each in task.spec.dependencies)
    return sum(value.size for value in values if value is not None and value.kind in _IN_STORE)


def has_stored_inputs(task: TaskRecord, objects: ObjectTable) -> bool:
    """Say whether a task has inputs that have been, or are being, moved to where it is."""
    values = (objects.records[each].value for each in task.spec.dependencies)
    return any(value is None or value.kind in _IN_STORE for value in values)


def whereabouts(
    record: ObjectRecord, node: int, reader: int, *, whole: bool = False
) -> wire.Whereabouts:
    """Return where `reader` can fetch a stored object, and count it among those that fetch it.

    Parameters
    ----------
    record : ObjectRecord
    node : int
        This one.
    reader : int
    whole : bool
        Whether to name only nodes that have all of the object.
    """
    remote = record.remote
    if remote is None:
        remote = record.remote = Remote(is_ours=True)
    if record.value is not None:
        remote.exists = True
        remote.size = record.value.size
        remote.nodes.setdefault(node, True)
    before = []
    for each, is_whole in remote.nodes.items():
        if each == reader:
            if whole:
                continue
            break
        if is_whole or not whole:
            before.append(each)
    if remote.is_ours:
        if whole:
            remote.nodes.pop(reader, None)
        remote.nodes.setdefault(reader, False)
    return wire.Whereabouts(record.object_id, remote.size, before)
