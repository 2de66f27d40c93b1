"""Where the node's memory is: the objects, who holds them, who reads them. Pure.

The answer is worked out from the records when somebody asks, and nothing is kept for it in
between: it takes time in proportion to what the node knows, and so costs nothing while
nobody asks.  Who holds an object is written down on the holders' side; the holders of the
objects to be listed are found by going through all that can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from heapq import nlargest
from itertools import islice
from typing import NamedTuple

from raydask.ids import (
    ObjectID,
    ProcessNumber,
    creation_object,
    is_peer,
    is_put,
    node_of_peer,
    process_of,
)
from raydask.local_scheduler.records import OPEN, ActorRecord, ObjectRecord, TaskRecord, TaskState
from raydask.local_scheduler.state import LocalScheduler
from raydask.task import TaskKind
from raydask.wire.memory import (
    Holder,
    HolderRole,
    NodeMemory,
    ObjectMemory,
    ObjectState,
    ProcessMemory,
    Query,
    StateTotal,
)
from raydask.wire.messages import ActorState

MOST_LISTED = 100
"""How many holders of one object are listed: an object may be an input of a million tasks."""

_IN_NODE_MEMORY = ("inline", "error")


class Surroundings(NamedTuple):
    """What the core does not know of its node.

    Attributes
    ----------
    node : int
    session : str
    pid : int
        Of the node's process.
    drivers : mapping of ProcessNumber to (int, str)
        Their pids and programs.
    call_sites : mapping of ObjectID to str
        Where objects were made, as far as that was recorded.
    private : callable
        Gives the private memory of a process, by its pid.
    """

    node: int
    session: str
    pid: int
    drivers: Mapping[ProcessNumber, tuple[int, str]]
    call_sites: Mapping[ObjectID, str]
    private: Callable[[int], int]


def report(core: LocalScheduler, around: Surroundings, query: Query) -> NodeMemory:
    """Return what the node's memory is used for."""
    records = core.objects.records
    totals: dict[ObjectState, StateTotal] = {}
    files: set[bytes] = set()
    for record in records.values():
        state = record.state
        total = totals.get(state)
        if total is None:
            total = totals[state] = StateTotal()
        total.count += 1
        total.size += record.size
        if state == "spilled" and record.value is not None:
            files.add(record.value.data)
    store = core.store
    return NodeMemory(
        node=around.node,
        session=around.session,
        capacity=store.capacity,
        used=store.used,
        sealed=store.sealed,
        unsealed=store.unsealed,
        spilled=store.spilled,
        spilled_files=len(files),
        inline=sum(totals[state].size for state in _IN_NODE_MEMORY if state in totals),
        arguments=sum(len(task.spec.args) for task in core.tasks.values()),
        tasks=len(core.tasks),
        totals=totals,
        processes=list(_processes(core, around)),
        objects=_objects(core, around, query),
    )


# --- processes ----------------------------------------------------------------------------


def _label(core: LocalScheduler, around: Surroundings, process: ProcessNumber) -> Holder:
    """Return a process as a holder."""
    driver = around.drivers.get(process)
    if driver is not None:
        return Holder("driver", driver[1], driver[0])
    if is_peer(process):
        return Holder("node", str(node_of_peer(process)))
    worker = core.pool.workers.get(process)
    if worker is None:
        return Holder("worker")
    name = ""
    if worker.actor_id is not None:
        actor = core.actors.records.get(worker.actor_id)
        name = "" if actor is None else f"actor {_name(actor.creation)}"
    elif worker.queue:
        name = f"task {_name(next(iter(worker.queue.values())))}"
    return Holder("worker", name, worker.pid)


def _processes(core: LocalScheduler, around: Surroundings) -> Iterator[ProcessMemory]:
    yield ProcessMemory(around.pid, "node", "", around.private(around.pid))
    records = core.objects.records
    for process in (*around.drivers, *core.pool.workers):
        label = _label(core, around, process)
        held = core.objects.held.get(process, ())
        pinned = _read_by(core, process)
        yield ProcessMemory(
            label.pid,
            label.role,
            label.name,
            around.private(label.pid),
            len(held),
            sum(records[each].size for each in held),
            len(pinned),
            sum(record.size for record in pinned),
        )


def _read_by(core: LocalScheduler, process: ProcessNumber) -> list[ObjectRecord]:
    """Return the stored objects that a process reads, or its tasks are about to."""
    told = set(core.objects.pins.get(process, ()))
    worker = core.pool.workers.get(process)
    if worker is not None:
        for task in worker.queue.values():
            told.update(task.spec.dependencies)
    records = [core.objects.records[each] for each in told if each in core.objects.records]
    return [record for record in records if record.state == "shared_memory"]


# --- objects ------------------------------------------------------------------------------


def _objects(core: LocalScheduler, around: Surroundings, query: Query) -> list[ObjectMemory]:
    chosen = _choose(core.objects.records, query)
    holders = _Found(chosen)
    pinned = _Found(
        [object_id for object_id, record in chosen.items() if record.state == "shared_memory"]
    )
    labels = {process: _label(core, around, process) for process in core.objects.held}
    for process, held in core.objects.held.items():
        holders.add(labels[process], holders.of.keys() & held)
    for process, pins in core.objects.pins.items():
        pinned.add(labels[process], pinned.of.keys() & pins.keys())
    _find_tasks(core, holders)
    for worker in core.pool.workers.values():
        for task in worker.queue.values():
            pinned.add(_holder(task, "argument"), task.spec.dependencies)
    for function_id, function in core.pool.functions.items():
        if function.nested:
            holders.add(Holder("function", function.name, 0, function_id.hex()), function.nested)
    for object_id, record in core.objects.records.items():
        if record.value is not None and record.value.nested:
            holders.add(Holder("object", "", 0, object_id.hex()), record.value.nested)
    return [
        ObjectMemory(
            object_id.hex(),
            record.size,
            record.state,
            _maker(labels, record),
            around.call_sites.get(object_id, ""),
            record.count,
            holders.of[object_id],
            pinned.of.get(object_id, []),
        )
        for object_id, record in chosen.items()
    ]


def _choose(
    records: Mapping[ObjectID, ObjectRecord], query: Query
) -> Mapping[ObjectID, ObjectRecord]:
    limit = len(records) if query.limit is None else query.limit
    if query.order == "age":
        # The table keeps the order in which objects came to be known.
        return dict(islice(records.items(), limit))
    key = _by_size if query.order == "size" else _by_holders
    return dict(nlargest(limit, records.items(), key=key))


def _by_size(item: tuple[ObjectID, ObjectRecord]) -> int:
    return item[1].size


def _by_holders(item: tuple[ObjectID, ObjectRecord]) -> int:
    return item[1].count


class _Found:
    """The holders found so far of some objects."""

    def __init__(self, object_ids: Collection[ObjectID]) -> None:
        self.of: dict[ObjectID, list[Holder]] = {object_id: [] for object_id in object_ids}

    def add(self, holder: Holder, object_ids: Iterable[ObjectID]) -> None:
        """Note a holder of these, each as often as it is named."""
        for object_id in object_ids:
            found = self.of.get(object_id)
            if found is not None and len(found) < MOST_LISTED:
                found.append(holder)


def _find_tasks(core: LocalScheduler, holders: _Found) -> None:
    for task in core.tasks.values():
        spec = task.spec
        actor = core.actors.creation_of(task)
        if task.state not in OPEN and not _lives(actor):
            continue
        if spec.dependencies:
            holders.add(_holder(task, "argument"), spec.dependencies)
        if spec.borrowed:
            holders.add(_holder(task, "borrowed"), spec.borrowed)
        if actor is not None and actor.detached:
            holders.add(_holder(task, "actor"), [creation_object(actor.actor_id)])


def _lives(actor: ActorRecord | None) -> bool:
    return actor is not None and actor.state != ActorState.DEAD


def _holder(task: TaskRecord, role: HolderRole) -> Holder:
    pid = task.worker_pid if task.worker is not None else 0
    return Holder(role, _name(task), pid, task.spec.task_id.hex())


def _name(task: TaskRecord) -> str:
    return task.template.template.name


def _maker(labels: Mapping[ProcessNumber, Holder], record: ObjectRecord) -> str:
    """Return what makes or made an object, in words."""
    task = record.task
    if task is None:
        if not is_put(record.object_id):
            return "call of an actor's method"
        maker = labels.get(process_of(record.object_id))
        return f"put by {maker.role} {maker.pid}" if maker else "put by a process that has ended"
    if task.template.template.kind == TaskKind.ACTOR_CREATION:
        return f"actor {_name(task)}"
    if task.state == TaskState.WAITING:
        waits = f"waits for {task.missing} of its inputs" if task.missing else "waits for a node"
        return f"task {_name(task)}, which {waits}"
    if task.state == TaskState.READY:
        return f"task {_name(task)}, which waits for a worker"
    if task.state == TaskState.ASSIGNED:
        return f"task {_name(task)} in worker {task.worker_pid}"
    return f"task {_name(task)}"
