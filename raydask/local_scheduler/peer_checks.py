"""What another node may say: messages are checked before anything is changed. Pure.

A frame that cannot be decoded ends its link in any case.  Here is what remains: messages of the
right types that name what cannot be, such as a place outside of any arena, a template that was
never sent or a result that its task does not have.  A node that says such a thing is not to be
trusted with the rest: `check` raises, nothing of the message is taken in, and the link is closed.

What is merely late (a task that has been cancelled, an object that is gone) is not wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

from raydask.errors import RaydaskError
from raydask.ids import TASK_ID_SIZE, ActorID, ObjectID, TaskID, home_of, index_of, task_of
from raydask.local_scheduler.guests import Guests
from raydask.local_scheduler.lending import Lending
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.tasks import TaskTable
from raydask.task import TaskKind, TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.messages import ActorState, ObjectValue, TaskResult, TaskStatus, ValueKind

_OBJECT_ID_SIZE = TASK_ID_SIZE + 4
_MOST_BYTES = 1 << 48
"""Nothing is larger, and no place is further away."""
_MOST_RETURNS = 1 << 20
_IN_MESSAGES = frozenset((int(ValueKind.INLINE), int(ValueKind.ERROR)))
_OF_RESULTS = _IN_MESSAGES | {int(ValueKind.STORED)}
_STATUSES = frozenset(map(int, TaskStatus))
_ACTOR_STATES = frozenset(map(int, ActorState))
_MOST_PROCESSES = 1 << 32
_KINDS = frozenset((TaskKind.NORMAL, TaskKind.ACTOR_CREATION))
_STEPS = frozenset((0, 1, 2))


class PeerError(RaydaskError):
    """Another node has said what cannot be."""


class PeerChecks:
    """The rules for what other nodes say to one node.

    Parameters
    ----------
    node : int
        This one.
    work : TaskTable
    objects : ObjectTable
    lending : Lending
    guests : Guests
    """

    def __init__(
        self, node: int, work: TaskTable, objects: ObjectTable, lending: Lending, guests: Guests
    ) -> None:
        self._node = node
        self._work = work
        self._objects = objects
        self._lending = lending
        self._guests = guests
        self._rules: dict[type, Callable[[int, Any], None]] = {
            wire.Lend: self._lend,
            wire.LentResults: self._results,
            wire.Progress: self._progress,
            wire.GiveBack: lambda node, said: _are_tasks(said.task_ids),
            wire.RecallTasks: lambda node, said: _are_tasks(said.task_ids),
            wire.CancelLent: lambda node, said: _are_tasks(said.task_ids),
            wire.Borrow: self._of_this_node,
            wire.Release: self._of_this_node,
            wire.Want: self._of_this_node,
            wire.CopiesMade: self._of_this_node,
            wire.CopiesDropped: self._of_this_node,
            wire.Values: self._values,
            wire.Located: lambda node, said: self._located(node, said.objects, node),
            wire.Fetch: lambda node, said: _are_objects((said.object_id,)),
            wire.Places: self._places,
            wire.NotHere: lambda node, said: _are_objects((said.object_id,)),
            wire.Unpin: lambda node, said: _are_objects(said.object_ids),
            wire.Forget: lambda node, said: _are_objects(said.object_ids, node),
            wire.ActorCreated: self._created,
            wire.ActorProcessDied: lambda _, said: _is_actor(said.actor_id, self._node),
            wire.FollowActor: lambda _, said: _is_actor(said.actor_id, self._node),
            wire.KillActor: lambda _, said: _is_actor(said.actor_id, self._node),
            wire.EndActorProcess: lambda node, said: _is_actor(said.actor_id, node),
            wire.ActorLocated: _actor_located,
            wire.ReturnValues: self._returned,
        }

    def check(self, node: int, message: object) -> None:
        """Look at what a node says.

        Raises
        ------
        PeerError
            It cannot be.
        """
        rule = self._rules.get(type(message))
        if rule is not None:
            rule(node, message)

    # --- tasks ----------------------------------------------------------------------------

    def _lend(self, node: int, said: wire.Lend) -> None:
        if said.settings.job <= 0:
            raise PeerError(f"there is no job {said.settings.job}")
        for lent in said.templates:
            _is_template(lent.template)
            _are_objects(lent.nested)
        known = {lent.number for lent in said.templates}
        new: set[TaskID] = set()
        for spec in said.specs:
            task_id = spec.task_id
            if len(task_id) != TASK_ID_SIZE or home_of(task_id) != node:
                raise PeerError(f"task {task_id.hex()} is none of node {node}")
            if task_id in new or task_id in self._work.records:
                raise PeerError(f"task {task_id.hex()} is here already")
            if spec.template not in known and not self._guests.knows(node, spec.template):
                raise PeerError(f"a task names template {spec.template}, which was never sent")
            if spec.depth < 0:
                raise PeerError(f"task {task_id.hex()} has depth {spec.depth}")
            _are_objects(spec.dependencies)
            _are_objects(spec.borrowed)
            new.add(task_id)
        for task_id, attempts in said.attempts.items():
            if task_id not in new or attempts <= 0:
                raise PeerError(f"task {task_id.hex()} cannot have been started {attempts} times")
        for value in said.values:
            _is_value(value, _IN_MESSAGES)
        self._located(node, said.located)

    def _results(self, node: int, said: wire.LentResults) -> None:
        lent = self._lending.lent.get(node, {})
        ended: set[TaskID] = set()
        for result in said.results:
            task_id = result.task_id
            if len(task_id) != TASK_ID_SIZE or task_id in ended:
                raise PeerError(f"task {task_id.hex()} cannot have ended so")
            ended.add(task_id)
            task = lent.get(task_id)
            _is_result(result, None if task is None else task.template.template.num_returns)

    def _progress(self, node: int, said: wire.Progress) -> None:
        for _, step in said.steps:
            if step not in _STEPS:
                raise PeerError(f"tasks have no step {step}")

    # --- actors ---------------------------------------------------------------------------

    def _created(self, node: int, said: wire.ActorCreated) -> None:
        _is_actor(said.actor_id, self._node)
        _is_process(said.process)
        if said.pid <= 0:
            raise PeerError(f"an actor has the process identifier {said.pid}")

    def _returned(self, node: int, said: wire.ReturnValues) -> None:
        _is_process(said.process)
        for value in said.values:
            _is_value(value, _OF_RESULTS)
            _are_objects((value.object_id,), self._node)

    # --- objects --------------------------------------------------------------------------

    def _of_this_node(self, node: int, said: Any) -> None:
        _are_objects(said.object_ids, self._node)

    def _values(self, node: int, said: wire.Values) -> None:
        for value in said.values:
            _is_value(value, _IN_MESSAGES)
            _are_objects((value.object_id,), node)

    def _located(self, node: int, places: list[wire.Whereabouts], home: int | None = None) -> None:
        for place in places:
            _are_objects((place.object_id,), home)
            _is_size(place.size)
            record = self._objects.records.get(place.object_id)
            remote = record.remote if record is not None else None
            if remote is not None and remote.fetch is not None and remote.size != place.size:
                raise PeerError(
                    f"object {place.object_id.hex()} has {remote.size} bytes, and not {place.size}"
                )

    def _places(self, node: int, said: wire.Places) -> None:
        for place in said.places:
            _are_objects((place.object_id,))
            for number in (place.offset, place.size, place.file):
                _is_size(number)
            record = self._objects.records.get(place.object_id)
            remote = record.remote if record is not None else None
            fetch = remote.fetch if remote is not None else None
            if remote is None or fetch is None or fetch.source != node:
                continue
            if fetch.asked != place.number:
                continue
            if remote.size != place.size:
                raise PeerError(
                    f"object {place.object_id.hex()} has {remote.size} bytes, and not {place.size}"
                )


def _are_tasks(task_ids: Iterable[TaskID]) -> None:
    for task_id in task_ids:
        if len(task_id) != TASK_ID_SIZE:
            raise PeerError(f"{task_id.hex()!r} is no task's identifier")


def _is_actor(actor_id: ActorID, home: int) -> None:
    if len(actor_id) != TASK_ID_SIZE:
        raise PeerError(f"{actor_id.hex()!r} is no actor's identifier")
    if home_of(actor_id) != home:
        raise PeerError(f"actor {actor_id.hex()} is not at home on node {home}")


def _is_process(number: int) -> None:
    if not 0 < number < _MOST_PROCESSES:
        raise PeerError(f"there is no process {number}")


def _actor_located(node: int, said: wire.ActorLocated) -> None:
    _is_actor(said.actor_id, node)
    if said.state not in _ACTOR_STATES:
        raise PeerError(f"actors have no state {said.state}")
    if said.incarnation < 0:
        raise PeerError(f"an actor has the incarnation {said.incarnation}")
    for number in (said.host, said.process):
        if not 0 <= number < _MOST_PROCESSES:
            raise PeerError(f"there is no node or process {number}")


def _are_objects(object_ids: Iterable[ObjectID], home: int | None = None) -> None:
    for object_id in object_ids:
        if len(object_id) != _OBJECT_ID_SIZE:
            raise PeerError(f"{object_id.hex()!r} is no object's identifier")
        if home is not None and home_of(object_id) != home:
            raise PeerError(f"object {object_id.hex()} is not at home on node {home}")


def _is_size(number: int) -> None:
    if not 0 <= number < _MOST_BYTES:
        raise PeerError(f"there is no place or size of {number} bytes")


def _is_value(value: ObjectValue, kinds: Collection[int]) -> None:
    if value.kind not in kinds:
        raise PeerError(f"a value of kind {value.kind} does not travel so")
    _is_size(value.size)
    _are_objects((value.object_id, *value.nested))


def _is_template(template: TaskTemplate) -> None:
    if template.kind not in _KINDS:
        raise PeerError(f"tasks of kind {template.kind} are not lent")
    if not 0 <= template.num_returns <= _MOST_RETURNS:
        raise PeerError(f"a template has {template.num_returns} returns")
    if min(template.resources.values(), default=0) < 0 or template.enforced_memory < 0:
        raise PeerError(f"a template asks for {template.resources}")
    if template.timeout is not None and not math.isfinite(template.timeout):
        raise PeerError(f"a template has the timeout {template.timeout}")


def _is_result(result: TaskResult, returns: int | None) -> None:
    """Check a result of a task; `returns` is how many it has, None: that is not known any more."""
    if result.status not in _STATUSES:
        raise PeerError(f"a task has ended with status {result.status}")
    if not (math.isfinite(result.started) and 0 <= result.duration < math.inf):
        raise PeerError(f"a task began at {result.started} and took {result.duration} s")
    for value in result.values:
        _is_value(value, _OF_RESULTS)
        if task_of(value.object_id) != result.task_id:
            raise PeerError(f"object {value.object_id.hex()} is no return of its task")
    indexes = {index_of(value.object_id) for value in result.values}
    if returns is not None and indexes != set(range(returns)):
        raise PeerError(f"task {result.task_id.hex()} has {returns} returns, and not {indexes}")
