"""The inputs of tasks: which are not here, and where other nodes find those that are. Pure."""

from __future__ import annotations

from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.records import ObjectRecord, Remote, TaskRecord
from raydask.wire import messages as wire


def wanted_by(task: TaskRecord, objects: ObjectTable) -> list[ObjectRecord]:
    """Return the records of a task's inputs that are not here."""
    records = (objects.records[object_id] for object_id in dict.fromkeys(task.spec.dependencies))
    return [record for record in records if record.value is None]


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
