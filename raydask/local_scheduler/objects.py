"""The objects that this node has to do with: who holds them, who waits for them. Pure.

Nearly all are at home here.  Of those that are not, and of those that are on other nodes too,
the record has a `Remote`; what follows from that is for `Abroad` to say.

An object exists while something holds it.  Holders are processes (each counts once, see
``raydask.driver.references``), unfinished tasks that depend on it or were lent it, exported
functions whose closure refers to it, and objects that contain its ref.  When the last
holder goes, the value goes, and with it the hold on what it contains.

A value that nobody holds any more when it comes is freed at once.  Values in a circle, each of
which contains the next one's ref, hold one another: `free_circles` finds them at the end of a job.

To hold an object is not to read it.  A stored object may be moved to disk while it is held,
but not while anybody reads it where it is: it is *pinned* once for each time that a process
was told its place, until the process gives that back, and for each task that has it among its
inputs, from the task's assignment to its end.

A store full of what is read would have room for nothing else.  So when it is short of room and
much of it is being read already, who asks for an object is told later: that it is on disk, when it
has been written, or its place, when there is room again or somebody else has pinned it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from raydask.control.write_behind_state import Journal
from raydask.errors import ObjectLostError, OwnerDiedError
from raydask.ids import ObjectID, ProcessNumber, is_peer
from raydask.local_scheduler.actions import FillMemory
from raydask.local_scheduler.circles import contents_of, in_circles
from raydask.local_scheduler.elsewhere import Abroad
from raydask.local_scheduler.inline_values import LEAST_COUNTED, InlineValues
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import ObjectRecord, TaskRecord
from raydask.object_store.spilled import Evicted
from raydask.object_store.state import StoreState
from raydask.serialization import serialize_error
from raydask.wire.messages import ObjectValue, ValueKind

_INLINE = int(ValueKind.INLINE)
_STORED = int(ValueKind.STORED)
_SPILLED = int(ValueKind.SPILLED)
_ERROR = int(ValueKind.ERROR)
_NODE_ITSELF = ProcessNumber(0)
"""As a client of the store; processes are numbered from 1."""


class ObjectTable:
    """All objects that this node has to do with.

    Parameters
    ----------
    store : StoreState
        Where the stored ones are.
    outgoing : Outgoing
    journal : Journal
    on_task_forgotten : callable
        Told of each finished task whose last return has gone.
    on_unblocked : callable
        Told of each process that is sent a value, and which.

    Attributes
    ----------
    records : dict of ObjectID to ObjectRecord
    inline : InlineValues
    held : dict of ProcessNumber to set of ObjectID
    pins : dict of ProcessNumber to dict of ObjectID to int
        How often each process was told an object's place and has not given it back.
    told_later : dict of ObjectID
        Stored objects whose readers wait until they are on disk, or there is room.
    may_be_read : callable
        Says whether so many bytes more may be read where they are in the store; set by whoever
        makes room.
    abroad : Abroad or None
        None as long as there is no other node.
    """

    def __init__(
        self,
        store: StoreState,
        outgoing: Outgoing,
        journal: Journal,
        on_task_forgotten: Callable[[TaskRecord], None],
        on_unblocked: Callable[[ProcessNumber, ObjectID], None],
    ) -> None:
        self._store = store
        self._outgoing = outgoing
        self._journal = journal
        self._on_task_forgotten = on_task_forgotten
        self._on_unblocked = on_unblocked
        self.records: dict[ObjectID, ObjectRecord] = {}
        self.inline = InlineValues()
        self.held: dict[ProcessNumber, set[ObjectID]] = {}
        self.pins: dict[ProcessNumber, dict[ObjectID, int]] = {}
        self.told_later: dict[ObjectID, None] = {}
        self.may_be_read: Callable[[int], bool] = _always
        self._promised: dict[ObjectID, ProcessNumber] = {}
        self.abroad: Abroad | None = None

    # --- holders --------------------------------------------------------------------------

    def join(self, process: ProcessNumber) -> None:
        """Note a process that may hold objects."""
        self.held[process] = set()
        self.pins[process] = {}

    def leave(self, process: ProcessNumber) -> list[ObjectID]:
        """Drop all that a process held; return the objects that it had promised."""
        for object_id, times in self.pins.pop(process, {}).items():
            for _ in range(times):
                self._end_pin(object_id)
        for object_id in self.held.pop(process, ()):
            if is_peer(process):
                self._unguard(object_id)
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
            if record is None and self.abroad is not None and not is_peer(process):
                record = self.abroad.meet(object_id)
            if record is not None and object_id not in held:
                held.add(object_id)
                record.count += 1
                if record.remote is not None:
                    self._abroad.held(record)

    @property
    def _abroad(self) -> Abroad:
        assert self.abroad is not None  # or nothing would be remote
        return self.abroad

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
                if record.remote is not None:
                    if is_peer(process):
                        self._unguard(object_id)
                    if record.count:
                        self._abroad.less(record)
                    else:
                        self._free(record)
                elif not record.count and record.value is not None:
                    self._free(record)

    def hold(self, object_id: ObjectID) -> ObjectRecord:
        """Hold an object for a task, a function or a containing object.

        An object that is unknown here, because it has been freed, comes back as one whose
        value is an `ObjectLostError`.
        """
        record = self.records.get(object_id)
        if record is None:
            record = self._unknown(object_id)
        record.count += 1
        if record.remote is not None:
            self._abroad.held(record)
        return record

    def _unknown(self, object_id: ObjectID) -> ObjectRecord:
        record = self.abroad.meet(object_id) if self.abroad is not None else None
        if record is None:
            record = self.records[object_id] = ObjectRecord(object_id, None)
            record.value = self._lost(object_id)
        return record

    def hold_for_guest(self, object_id: ObjectID) -> ObjectRecord:
        """Hold an object for a task of another node, whose home sees to it that it lives."""
        record = self.records.get(object_id)
        if record is None:
            record = self._unknown(object_id)
        record.count += 1
        if record.remote is not None and not record.remote.is_ours:
            record.remote.guards += 1
            self._abroad.held(record)
        return record

    def drop_for_guest(self, object_id: ObjectID) -> None:
        """End what `hold_for_guest` began."""
        self._unguard(object_id)
        self.drop(object_id)

    def _unguard(self, object_id: ObjectID) -> None:
        record = self.records.get(object_id)
        if record is not None and record.remote is not None and not record.remote.is_ours:
            record.remote.guards -= 1

    def drop(self, object_id: ObjectID) -> None:
        """End a hold of a task, a function or a containing object."""
        record = self.records.get(object_id)
        if record is None:
            return
        record.count -= 1
        if record.count:
            if record.remote is not None:
                self._abroad.less(record)
        elif record.value is not None or record.remote is not None:
            self._free(record)

    def _free(self, record: ObjectRecord) -> None:
        # A loop, because objects can be nested deeper than functions can.
        unheld = [record]
        while unheld:
            record = unheld.pop()
            if record.remote is not None and not self._abroad.let_go(record):
                continue
            value = record.value
            object_id = record.object_id
            del self.records[object_id]
            if record.remote is None or record.remote.is_ours:
                self._journal.forget(object_id)
            if value is not None:
                if value.kind in (_STORED, _SPILLED):
                    self._store.free(object_id)
                elif len(value.data) >= LEAST_COUNTED:
                    self.inline.discard(object_id)
            for nested in contents_of(record):
                inner = self.records.get(nested)
                if inner is not None:
                    inner.count -= 1
                    if inner.count:
                        if inner.remote is not None:
                            self._abroad.less(inner)
                    elif inner.value is not None or inner.remote is not None:
                        unheld.append(inner)
            task = record.task
            if task is not None:
                task.live -= 1
                if not task.live:
                    self._on_task_forgotten(task)

    def free_circles(self) -> None:
        """Free values that nothing holds but one another; see ``circles``."""
        for object_id in in_circles(self.records):
            record = self.records.get(object_id)
            if record is not None:  # else it went with another one of its circle
                self._free(record)

    # --- pins -----------------------------------------------------------------------------

    def pin(self, process: ProcessNumber, object_ids: Iterable[ObjectID]) -> None:
        """Note that a process reads these where they are."""
        pins = self.pins.get(process)
        if pins is None:
            return
        for object_id in object_ids:
            record = self.records.get(object_id)
            if record is not None and record.value is not None and record.value.kind == _STORED:
                pins[object_id] = pins.get(object_id, 0) + 1
                self._store.pin(object_id)
                if object_id in self.told_later:
                    self._tell_those_waiting_for(object_id)

    def unpin(self, process: ProcessNumber, object_ids: Iterable[ObjectID]) -> None:
        """Note that a process has ended one reading of each of these."""
        pins = self.pins.get(process)
        if pins is None:
            return
        for object_id in object_ids:
            left = pins.get(object_id, 0) - 1
            if left < 0:
                continue
            if left:
                pins[object_id] = left
            else:
                del pins[object_id]
            self._end_pin(object_id)

    def pin_inputs(self, task: TaskRecord) -> None:
        """Keep the stored inputs of a task where they are: a worker is told where."""
        pinned = []
        for object_id in task.spec.dependencies:
            value = self.records[object_id].value
            if value is not None and value.kind == _STORED:
                self._store.pin(object_id)
                pinned.append(object_id)
                if object_id in self.told_later:
                    self._tell_those_waiting_for(object_id)
        task.pinned = pinned

    def unpin_inputs(self, task: TaskRecord) -> None:
        """End what `pin_inputs` began, if it did."""
        pinned, task.pinned = task.pinned, ()
        for object_id in pinned:
            self._end_pin(object_id)

    def _end_pin(self, object_id: ObjectID) -> None:
        record = self.records.get(object_id)
        # It may have been freed meanwhile, when nobody held it any more.
        if record is not None and record.value is not None and record.value.kind == _STORED:
            self._store.unpin(object_id)
            if record.remote is not None and not self._store.pins(object_id):
                self.settle(record)

    def spilled(self, evicted: list[Evicted], path: Callable[[int], str]) -> None:
        """Note objects that have left the arena and are read from their files from now on."""
        for each in evicted:
            data = path(each.file).encode()
            self._move(each.object_id, _SPILLED, data, each.position, each.size)

    def store_oldest_inline(self) -> bool:
        """Move the oldest inline value into the object store; say whether there was room."""
        object_id = self.inline.oldest()
        value = self.records[object_id].value
        assert value is not None
        size = len(value.data)
        offset = self._store.grant(_NODE_ITSELF, size)
        if offset is None:
            return False
        self._store.seal(_NODE_ITSELF, object_id, offset, size)
        self._outgoing.actions.append(FillMemory(offset, value.data))
        self.inline.discard(object_id)
        self._move(object_id, _STORED, b"", offset, size)
        return True

    def _move(self, object_id: ObjectID, kind: int, data: bytes, offset: int, size: int) -> None:
        record = self.records[object_id]
        assert record.value is not None
        value = record.value = ObjectValue(object_id, kind, data, offset, size, record.value.nested)
        if record.remote is None or record.remote.is_ours:
            self._journal.put(object_id, record)
        if record.waiters is not None:
            self._tell(record, value)

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
                    self._store.free(object_id)
                return []
            self.create(object_id, holder, None)
            record = self.records[object_id]
        if record.value is not None or (record.remote is not None and record.remote.exists):
            return []  # the first value stands: a retry came after all
        if self._promised:
            self._promised.pop(object_id, None)
        for nested in value.nested:
            self.hold(nested)
        record.value = value
        if len(value.data) >= LEAST_COUNTED and value.kind == _INLINE:
            self.inline.add(object_id, len(value.data))
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
        waiters = record.waiters
        if waiters is not None:
            waits = value.kind == _STORED and self._is_told_later(value)
            record.waiters = (
                {each: None for each in waiters if not is_peer(each)} if waits else None
            )
            if self.told_later and not waits:
                self.told_later.pop(object_id, None)
            for process in waiters:
                if is_peer(process):
                    self._abroad.tell(process, record)
                    continue
                if waits:
                    continue
                if value.kind == _STORED:
                    self.pin(process, (object_id,))
                self._outgoing.value(process, value)
                self._on_unblocked(process, object_id)
        if record.watchers is not None:
            for process in record.watchers:
                self._outgoing.ready(process, object_id)
            record.watchers = None

    def _is_told_later(self, value: ObjectValue) -> bool:
        """Say whether readers of a stored value are told later, and note that they are."""
        object_id = value.object_id
        if self._store.pins(object_id) or self.may_be_read(value.size):
            return False
        self.told_later[object_id] = None
        return True

    def tell_those_waiting(self) -> None:
        """Tell those who wait for objects where they are, as far as these may be read there."""
        while self.told_later:
            object_id = next(iter(self.told_later))
            self._tell_those_waiting_for(object_id)
            if object_id in self.told_later:
                return

    def _tell_those_waiting_for(self, object_id: ObjectID) -> None:
        record = self.records.get(object_id)
        if record is None or record.value is None or record.waiters is None:
            del self.told_later[object_id]  # freed meanwhile
        else:
            self._tell(record, record.value)

    def request(self, process: ProcessNumber, object_ids: list[ObjectID]) -> list[ObjectID]:
        """Give a process values as they come; return the ids of those that are to come."""
        records = self.records
        here = []
        stored = []
        pending = []
        for object_id in object_ids:
            record = records.get(object_id)
            if record is None and self.abroad is not None:
                record = self.abroad.meet(object_id)
            if record is None:
                here.append(self._lost(object_id))
            elif (value := record.value) is not None:
                if value.kind == _STORED:
                    if self._is_told_later(value):
                        _note_waiter(record, process)
                        pending.append(object_id)
                        continue
                    stored.append(object_id)
                here.append(value)
            else:
                _note_waiter(record, process)
                pending.append(object_id)
                if record.remote is not None:
                    self._abroad.wanted(record)
        if stored:
            # They stay where they are until the process gives them back.
            self.pin(process, stored)
        if here:
            self._outgoing.values(process, here)
        return pending

    def watch(self, process: ProcessNumber, object_ids: list[ObjectID]) -> None:
        """Tell a process when these objects exist."""
        for object_id in object_ids:
            record = self.records.get(object_id)
            if record is None and self.abroad is not None:
                record = self.abroad.meet(object_id)
            if record is None or record.value is not None or _is_elsewhere(record):
                self._outgoing.ready(process, object_id)
                continue
            if record.watchers is None:
                record.watchers = {process: None}
            else:
                record.watchers[process] = None
            if record.remote is not None:
                self._abroad.watched(record)

    # --- other nodes ----------------------------------------------------------------------

    def exists_elsewhere(self, record: ObjectRecord, nested: list[ObjectID]) -> list[TaskRecord]:
        """Note that an object is stored on another node; return the tasks that waited for that.

        Parameters
        ----------
        record : ObjectRecord
            Whose `Remote` says where.
        nested : list of ObjectID
            What its value contains, if its home is here.
        """
        remote = record.remote
        assert remote is not None
        remote.exists = True
        if remote.is_ours:
            self._promised.pop(record.object_id, None)
            remote.nested = nested
            for inner in nested:
                self.hold(inner)
            self._journal.put(record.object_id, record)
        watchers, record.watchers = record.watchers, None
        for process in watchers or ():
            self._outgoing.ready(process, record.object_id)
        for process in list(record.waiters or ()):
            if is_peer(process):
                self._abroad.tell(process, record)
                del record.waiters[process]  # type: ignore[union-attr]  # it has this key
        if record.waiters:
            self._abroad.wanted(record)
        dependents, record.dependents = record.dependents, None
        if remote.is_ours and not record.count:
            self._free(record)
        return dependents or []

    def came(self, record: ObjectRecord, value: ObjectValue) -> dict[TaskRecord, int]:
        """Take in the value of an object that was elsewhere; return the tasks that want it.

        Those that waited for it to exist are still in ``record.dependents``.
        """
        remote = record.remote
        assert remote is not None
        value.nested, remote.nested = remote.nested, []
        record.value = value
        if len(value.data) >= LEAST_COUNTED and value.kind == _INLINE:
            self.inline.add(record.object_id, len(value.data))
        if remote.is_ours:
            self._journal.put(record.object_id, record)
        wanting, remote.wanting = remote.wanting, {}
        self._tell(record, value)
        return wanting

    def settle(self, record: ObjectRecord) -> None:
        """Free an object that has come and that nothing holds."""
        if not record.count and record.object_id in self.records:
            self._free(record)

    def _lost(self, object_id: ObjectID) -> ObjectValue:
        error = ObjectLostError(
            f"object {object_id.hex()} does not exist: it was freed when its last ref went, or "
            "its ref comes from another session; keep a ref as long as it is needed"
        )
        return ObjectValue(object_id, _ERROR, serialize_error(error))


def _is_elsewhere(record: ObjectRecord) -> bool:
    return record.remote is not None and record.remote.exists


def _always(size: int) -> bool:
    return True


def _note_waiter(record: ObjectRecord, process: ProcessNumber) -> None:
    if record.waiters is None:
        record.waiters = {process: None}
    else:
        record.waiters[process] = None
