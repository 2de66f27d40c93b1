"""What must hold of a local scheduler between any two events. Pure; for tests.

Each rule is a fact that two records state, or that one record states and a count repeats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

from raydask.ids import ObjectID, home_of
from raydask.local_scheduler.inline_values import LEAST_COUNTED
from raydask.local_scheduler.policy import gpus_of
from raydask.local_scheduler.records import TaskState, WorkerRecord
from raydask.local_scheduler.state import LocalScheduler
from raydask.placement import group_names
from raydask.task import RESOURCE_UNIT
from raydask.wire.messages import ActorState, ValueKind

_CPU = "CPU"
_OPEN = (TaskState.WAITING, TaskState.READY, TaskState.ASSIGNED, TaskState.LENT)


def problems(core: LocalScheduler) -> list[str]:
    """Return every rule that does not hold, as a sentence each."""
    return [
        *_resources(core),
        *_workers(core),
        *_tasks(core),
        *_objects(core),
        *_store(core),
        *_actors(core),
    ]


def _occupied(worker: WorkerRecord) -> dict[str, int]:
    allocation = worker.allocation or {}
    if worker.blocked_on is None:
        return allocation
    return {name: amount for name, amount in allocation.items() if not _is_cpu(name)}


def _is_cpu(name: str) -> bool:
    return name == _CPU or bool(group_names([name], _CPU))


def _resources(core: LocalScheduler) -> Iterator[str]:
    resources = core.pool.resources
    used: Counter[str] = Counter()
    devices: Counter[int] = Counter()
    for worker in core.pool.workers.values():
        used.update(_occupied(worker))
        amount = (worker.allocation or {}).get(gpus_of(worker.allocation or {}), 0)
        for device in worker.gpus:
            devices[device] += min(amount, RESOURCE_UNIT)
            amount -= RESOURCE_UNIT
    for bundle in core.bundles.bundles.values():
        used.update(bundle)
    for name, total in resources.total.items():
        available = resources.available[name]
        if available + used[name] != total:
            yield f"{name}: {available} free and {used[name]} in use of {total}"
        if not _is_cpu(name) and available < 0:
            yield f"{name}: {available} free"
    for device, amount in devices.items():
        if amount > RESOURCE_UNIT:
            yield f"GPU {device} is given {amount} times 1/{RESOURCE_UNIT}"


def _workers(core: LocalScheduler) -> Iterator[str]:
    for worker in core.pool.workers.values():
        name = f"worker {worker.process}"
        idle = core.pool.is_idle(worker)
        if idle and (worker.queue or worker.allocation is not None or worker.dying):
            yield f"{name} is idle and has something to do"
        leaves = worker.dying or worker.draining
        if not idle and not worker.queue and worker.actor_id is None and not leaves:
            yield f"{name} has nothing to do and is not idle"
        if worker.blocked_on is not None and not worker.queue:
            yield f"{name} is blocked in no task"
        for task in worker.queue.values():
            if task.state == TaskState.ASSIGNED and task.worker is not worker:
                yield f"{name} has task {task.spec.task_id.hex()}, which does not know it"
            if worker.job != task.job:
                yield f"{name} of job {worker.job} has a task of job {task.job}"


def _tasks(core: LocalScheduler) -> Iterator[str]:
    queued = Counter(task.spec.task_id for task in core.pool.queued_tasks())
    for task_id, count in queued.items():
        if count > 1:
            yield f"task {task_id.hex()} is queued {count} times"
    for task_id, task in core.tasks.items():
        if (task.state == TaskState.READY) != (task_id in queued):
            yield f"task {task_id.hex()} is {task.state.name}, queued {queued[task_id]} times"
        if task.state == TaskState.ASSIGNED and task.worker is not None:
            if task_id not in task.worker.queue:
                yield f"task {task_id.hex()} is not in its worker's queue"
        if task.state not in _OPEN and not task.live:
            yield f"task {task_id.hex()} has ended, has no returns, and was not forgotten"
        if task.missing < 0 or task.away < 0:
            yield f"task {task_id.hex()} misses {task.missing} inputs, {task.away} are away"
        if (task.state == TaskState.LENT) != bool(task.lent_to):
            yield f"task {task_id.hex()} is {task.state.name} and with node {task.lent_to}"
        if task.state == TaskState.WAITING:
            wanted = [core.objects.records[object_id] for object_id in task.spec.dependencies]
            away = sum(
                record.value is None and record.remote is not None and task in record.remote.wanting
                for record in wanted
            )
            if away != task.away:
                yield f"task {task_id.hex()} counts {task.away} inputs away of {away}"
    for task_id in queued:
        if task_id not in core.tasks:
            yield f"task {task_id.hex()} is queued and unknown"
    for queue_job in {task.job for task in core.pool.queued_tasks()}:
        if queue_job not in core.pool.job_settings:
            yield f"a ready task belongs to job {queue_job}, which has ended"


def _objects(core: LocalScheduler) -> Iterator[str]:
    holds: Counter[ObjectID] = Counter()
    for held in core.objects.held.values():
        holds.update(held)
    for task in core.tasks.values():
        template = task.template.template
        actor = core.actors.creation_of(task)
        lives = actor is not None and actor.state != ActorState.DEAD
        if task.state in _OPEN or lives:
            holds.update(task.spec.dependencies)
            holds.update(task.spec.borrowed)
            if template.actor is not None and template.actor.detached and not task.is_guest:
                holds[ObjectID(task.spec.task_id + bytes(4))] += 1
    for ending in core.between.distant.ending.values() if core.between is not None else ():
        holds.update(ending.held)
    for function in core.pool.functions.values():
        holds.update(function.nested)
    if core.between is not None:
        for carried in core.between.guests.carried.values():
            for attempts in carried.values():
                holds.update(chain.from_iterable(attempts))
    live: Counter[int] = Counter()
    for record in core.objects.records.values():
        if record.value is not None:
            holds.update(record.value.nested)
        elif record.remote is not None:
            holds.update(record.remote.nested)
        if record.task is not None:
            live[id(record.task)] += 1
    for object_id, record in core.objects.records.items():
        if record.count != holds[object_id]:
            yield f"object {object_id.hex()} counts {record.count} holds of {holds[object_id]}"
        if not record.count and record.value is not None and record.remote is None:
            yield f"object {object_id.hex()} is held by nobody and has a value"
        remote = record.remote
        if remote is not None and not remote.is_ours and not remote.borrowed:
            if record.count > remote.guards and _home_lives(core, object_id):
                yield f"object {object_id.hex()} is held here and its home does not know"
    for object_id in holds.keys() - core.objects.records.keys():
        yield f"object {object_id.hex()} is held and does not exist"
    for task in core.tasks.values():
        if task.live != live[id(task)]:
            yield f"task {task.spec.task_id.hex()} counts {task.live} returns"


def _home_lives(core: LocalScheduler, object_id: ObjectID) -> bool:
    return core.between is not None and home_of(object_id) in core.between.nodes


def _store(core: LocalScheduler) -> Iterator[str]:
    pins: Counter[ObjectID] = Counter()
    for told in core.objects.pins.values():
        pins.update(told)
    for worker in core.pool.workers.values():
        for task in worker.queue.values():
            pins.update(task.pinned)
    known = 0  # in memory
    inline: dict[ObjectID, int] = {}
    for object_id, record in core.objects.records.items():
        kind = None if record.value is None else record.value.kind
        if kind == ValueKind.STORED:
            known += 1
            if object_id not in core.store or core.store.is_spilled(object_id):
                yield f"object {object_id.hex()} is not where it is said to be"
            elif core.store.pins(object_id) != pins[object_id]:
                counted = core.store.pins(object_id)
                yield f"object {object_id.hex()} counts {counted} pins of {pins[object_id]}"
        elif kind == ValueKind.INLINE and record.size >= LEAST_COUNTED:
            inline[object_id] = record.size
        elif kind == ValueKind.SPILLED and not core.store.is_spilled(object_id):
            yield f"object {object_id.hex()} is not on disk"
    if known != len(core.store):
        yield f"the store has {len(core.store)} objects in memory, and {known} are known"
    if core.objects.inline.sizes != inline or core.objects.inline.size != sum(inline.values()):
        yield "the inline values are counted wrongly"
    core.store.check()


def _actors(core: LocalScheduler) -> Iterator[str]:
    for actor_id, actor in core.actors.records.items():
        if actor.state == ActorState.ALIVE and (actor.worker is None) != bool(actor.host):
            yield f"actor {actor_id.hex()} is alive and has no worker, or two"
        if actor.host and actor.host != actor.creation.lent_to and actor.creation.lent_to:
            yield f"actor {actor_id.hex()} is with node {actor.host}, its creation is not"
        if actor.worker is not None and actor.worker.actor_id != actor_id:
            yield f"actor {actor_id.hex()} has a worker that does not know it"
        if actor.state == ActorState.DEAD and actor.creation.state in _OPEN:
            yield f"actor {actor_id.hex()} is dead and its creation is open"
