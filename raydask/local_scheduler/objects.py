"""The objects whose home is this node: who holds them, who waits for them. Pure.

An object exists while something holds it.  Holders are processes (each counts once, see
``raydask.driver.references``), unfinished tasks that depend on it or were lent it, exported
functions whose closure refers to it, and objects that contain its ref.  When the last
holder goes, the value goes, and with it the hold on what it contains.

A value that nobody holds any more when it comes is freed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from raydask.control.write_behind_state import Journal
from raydask.errors import ObjectLostError, OwnerDiedError
from raydask.ids import ObjectID, ProcessNumber
from raydask.local_scheduler.actions import FreeStored
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import ObjectRecord, TaskRecord
from raydask.serialization import serialize_error
from raydask.wire.messages import ObjectValue, ValueKind

_STORED = int(ValueKind.STORED)
_ERROR = int(ValueKind.ERROR)


class ObjectTable:
    """All objects at home here.

    Parameters
    ----------
    outgoing : Outgoing
    journal : Journal
    on_task_forgotten : callable
        Told of each finished task whose last return has gone.
    on_unblocked : callable
        Told of each process that is sent a value, and which.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        journal: Journal,
        on_task_forgotten: Callable[[TaskRecord], None],
        on_unblocked: Callable[[ProcessNumber, ObjectID], None],
    ) -> None:
        self._outgoing = outgoing
        self._journal = journal
        self._on_task_forgotten = on_task_forgotten
        self._on_unblocked = on_unblocked
        self.records: dict[ObjectID, ObjectRecord] = {}
        self.held: dict[ProcessNumber, set[ObjectID]] = {}
        self._promised: dict[ObjectID, ProcessNumber] = {}

    # --- holders --------------------------------------------------------------------------

    def join(self, process: ProcessNumber) -> None:
        """Note a process that may hold objects."""
        self.held[process] = set()

    def leave(self, process: ProcessNumber) -> list[ObjectID]:
        """Drop all that a process held; return the objects that it had promised."""
        for object_id in self.held.pop(process, ()):
            self.drop(object_id)
        return [oid for oid, owner in self._promised.items() if owner == process]

    def create(self, object_id: ObjectID, holder: ProcessNumber, task: TaskRecord | None) -> None:
        """Note an object that is to come, held by a process."""
        record = ObjectRecord(object_id, task)
        self.records[object_id] = record
        if task is not None:
            task.live += 1
        held = self.held.get(holder)
        if held is not None:
            held.add(object_id)
            record.count = 1
        self._journal.put(object_id, record)

    def acquire(self, process: ProcessNumber, object_ids: Iterable[ObjectID]) -> None:
        """Note that a process holds these too."""
        held = self.held.get(process)
        if held is None:
            return
        for object_id in object_ids:
            record = self.records.get(object_id)
            if record is not None and object_id not in held:
                held.add(object_id)
                record.count += 1

    def release(self, process: ProcessNumber, object_ids: Iterable[ObjectID]) -> None:
        """Note that a process holds these no more."""
        held = self.held.get(process)
        if held is None:
            return
        records = self.records
        for object_id in object_ids:
            if object_id in held:
                held.remove(object_id)
                record = records[object_id]
                record.count -= 1
                if not record.count and record.value is not None:
                    self._free(record)

    def hold(self, object_id: ObjectID) -> ObjectRecord:
        """Hold an object for a task, a function or a containing object.

        An object that is unknown here, because it has been freed, comes back as one whose
        value is an `ObjectLostError`.
        """
        record = self.records.get(object_id)
        if record is None:
            record = self.records[object_id] = ObjectRecord(object_id, None)
            record.value = self._lost(object_id)
        record.count += 1
        return record

    def drop(self, object_id: ObjectID) -> None:
        """End a hold of a task, a function or a containing object."""
        record = self.records.get(object_id)
        if record is None:
            return
        record.count -= 1
        if not record.count and record.value is not None:
            self._free(record)

    def _free(self, record: ObjectRecord) -> None:
        # A loop, because objects can be nested deeper than functions can.
        unheld = [record]
        while unheld:
            record = unheld.pop()
            value = record.value
            object_id = record.object_id
            del self.records[object_id]
            self._journal.forget(object_id)
            if value is not None:
                if value.kind == _STORED:
                    self._outgoing.actions.append(FreeStored(object_id))
                for nested in value.nested:
                    inner = self.records.get(nested)
                    if inner is not None:
                        inner.count -= 1
                        if not inner.count and inner.value is not None:
                            unheld.append(inner)
            task = record.task
            if task is not None:
                task.live -= 1
                if not task.live:
                    self._on_task_forgotten(task)

    # --- values ---------------------------------------------------------------------------

    def promise(self, process: ProcessNumber, object_ids: Iterable[ObjectID]) -> None:
        """Note objects that a process holds and will put."""
        for object_id in object_ids:
            if object_id not in self.records:
                self.create(object_id, process, None)
                self._promised[object_id] = process

    def broken_promise(self, object_id: ObjectID) -> ObjectValue:
        """Return the error in place of an object whose promiser has died."""
        error = OwnerDiedError(
            f"object {object_id.hex()} was the result of a call whose caller has died before it "
            "came; call again"
        )
        return ObjectValue(object_id, _ERROR, serialize_error(error))

    def fulfill(self, value: ObjectValue, holder: ProcessNumber | None) -> list[TaskRecord]:
        """Take in a value; return the tasks that were waiting for it.

        Parameters
        ----------
        value : ObjectValue
        holder : ProcessNumber or None
            A process that holds the object because it made it, if the object is new here.
        """
        object_id = value.object_id
        record = self.records.get(object_id)
        if record is None:
            if holder is None:
                # Nobody waits for it: its task was forgotten, with whoever wanted it.
                if value.kind == _STORED:
                    self._outgoing.actions.append(FreeStored(object_id))
                return []
            self.create(object_id, holder, None)
            record = self.records[object_id]
        if record.value is not None:
            return []  # the first value stands: a retry came after all
        if self._promised:
            self._promised.pop(object_id, None)
        for nested in value.nested:
            self.hold(nested)
        record.value = value
        self._journal.put(object_id, record)
        if record.waiters is not None or record.watchers is not None:
            self._tell(record, value)
        if not record.count:
            self._free(record)
            return []
        dependents = record.dependents
        if dependents is None:
            return []
        record.dependents = None
        return dependents

    def _tell(self, record: ObjectRecord, value: ObjectValue) -> None:
        object_id = record.object_id
        if record.waiters is not None:
            for process in record.waiters:
                self._outgoing.value(process, value)
                self._on_unblocked(process, object_id)
            record.waiters = None
        if record.watchers is not None:
            for process in record.watchers:
                self._outgoing.ready(process, object_id)
            record.watchers = None

    def request(self, process: ProcessNumber, object_ids: list[ObjectID]) -> list[ObjectID]:
        """Give a process values as they come; return the ids of those that are to come."""
        records = self.records
        outgoing = self._outgoing
        pending = []
        for object_id in object_ids:
            record = records.get(object_id)
            if record is None:
                outgoing.value(process, self._lost(object_id))
            elif record.value is not None:
                outgoing.value(process, record.value)
            else:
                if record.waiters is None:
                    record.waiters = {process: None}
                else:
                    record.waiters[process] = None
                pending.append(object_id)
        return pending

    def watch(self, process: ProcessNumber, object_ids: list[ObjectID]) -> None:
        """Tell a process when these objects exist."""
        for object_id in object_ids:
            record = self.records.get(object_id)
            if record is None or record.value is not None:
                self._outgoing.ready(process, object_id)
            elif record.watchers is None:
                record.watchers = {process: None}
            else:
                record.watchers[process] = None

    def _lost(self, object_id: ObjectID) -> ObjectValue:
        error = ObjectLostError(
            f"object {object_id.hex()} does not exist: it was freed when its last ref went, or "
            "its ref comes from another session; keep a ref as long as it is needed"
        )
        return ObjectValue(object_id, _ERROR, serialize_error(error))
