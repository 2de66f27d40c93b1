"""Calls on actors: from the caller's process straight to the actor's.

A caller on the actor's node talks to its worker over a socket of their own; the node is asked
only where the worker is (``FollowActor``) and tells when that changes.  Where the actor is on
another node, the connection goes through both nodes, which join it and read nothing
(`local_scheduler.relays`); the actor cannot read this node's object store then, and asks its own
node for what is there.  The answer comes back the same way and stays in the caller's mailbox: it
is *private*, the node has never heard of it.  Two things make it known there:

* Its ref leaves the process (`promise`): the caller puts the value as soon as it has it.
* The value is large, or contains refs: then the actor's worker gives it to the node, which
  holds it for the caller and passes it on (``PutFor``), and the answer says ``ELSEWHERE``.
  From another node the values come another way than the answer: until they have come, the call
  counts as under way, for the actor's node may die in between.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from raydask.actor.ordering import Call, CallQueue
from raydask.driver.object_ref import ObjectRef, received_ref
from raydask.driver.outbox import BATCH_SECONDS, BATCH_SIZE
from raydask.driver.references import Use
from raydask.errors import ActorDiedError, TaskCancelledError
from raydask.ids import ActorID, ObjectID, TaskID, return_id, task_of
from raydask.serialization import serialize_error
from raydask.session_folder import NODE_SOCKET
from raydask.task import TaskTemplate
from raydask.wire.connection import BlockingConnection, ConnectionLost, connect_unix
from raydask.wire.framing import encode
from raydask.wire.messages import (
    ActorLocated,
    ActorState,
    Assignment,
    CancelTask,
    Execute,
    FollowActor,
    Get,
    Hello,
    NewTemplate,
    ObjectValue,
    Results,
    TaskStatus,
    ValueKind,
)

if TYPE_CHECKING:
    from raydask.driver.session import Session

_ERROR = int(ValueKind.ERROR)
_STORED = int(ValueKind.STORED)
_IN_STORE = (_STORED, int(ValueKind.SPILLED))
_WITH_NODE = int(ValueKind.ELSEWHERE)
_ELSEWHERE = int(TaskStatus.ELSEWHERE)
_RECONNECT_SECONDS = 2.0


class _Route:
    """The way to one actor."""

    __slots__ = (
        "actor_id",
        "cause",
        "connection",
        "incarnation",
        "is_distant",
        "known",
        "located",
        "queue",
        "sent_at",
        "state",
        "unsent",
    )

    def __init__(self, actor_id: ActorID) -> None:
        self.actor_id = actor_id
        self.queue = CallQueue()
        self.connection: BlockingConnection | None = None
        self.is_distant = False
        """Whether the actor is on another node."""
        self.known: set[int] = set()
        self.located: ActorLocated | None = None
        self.unsent = 0
        self.sent_at = 0.0
        self.state = ActorState.PENDING
        self.incarnation = -1
        self.cause = ""


class ActorCaller:
    """All calls of one process on actors.

    Parameters
    ----------
    session : Session
        Whose identifiers, mailbox and outbox the calls use.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.RLock()
        self._routes: dict[ActorID, _Route] = {}
        self._dirty: dict[ActorID, _Route] = {}
        self._templates: dict[int, TaskTemplate] = {}
        self._promised: set[ObjectID] = set()
        self._distant: dict[ActorID, _Route] = {}
        """Those of the routes that have led to other nodes."""

    def register_template(self, template: TaskTemplate) -> int:
        """Return the number of a method's template."""
        with self._lock:
            number = len(self._templates)
            self._templates[number] = template
        return number

    def call(
        self,
        actor_id: ActorID,
        template: int,
        num_returns: int,
        retries: int,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        handle: object,
    ) -> list[ObjectRef]:
        """Call a method; return the refs of its returns. `handle` keeps the actor alive."""
        session = self._session
        session.check_lost()
        packed = session.pack(args, kwargs)
        task_id = session.ids.next_task_id()
        refs = session.new_returns(task_id, num_returns)
        session.references.private.update([ref._id for ref in refs])
        held: object = handle
        if packed.dependencies or packed.borrowed:
            table = session.references
            held = (
                handle,
                packed.held,
                [received_ref(i, table) for i in (*packed.dependencies, *packed.borrowed)],
            )
        values: list[ObjectValue | None] = [None] * len(packed.dependencies)
        call = Call(
            task_id, template, packed.data, values, packed.borrowed, num_returns, retries, held
        )
        with self._lock:
            route = self._routes.get(actor_id)
            if route is None:
                route = self._open_route(actor_id)
            if route.state == ActorState.DEAD:
                self._fail([call], route.cause)
                return refs
            route.queue.submit(call)
            if packed.borrowed:
                self._await_node(route, call)
            if packed.dependencies:
                self._await_inputs(route, call, packed.dependencies)
            elif not packed.borrowed and route.connection is not None:
                self._buffered(route)
        return refs

    def _open_route(self, actor_id: ActorID) -> _Route:
        route = self._routes[actor_id] = _Route(actor_id)
        self._session.outbox.add(FollowActor(actor_id))
        return route

    def _await_inputs(self, route: _Route, call: Call, dependencies: list[ObjectID]) -> None:
        mailbox = self._session.mailbox
        pending = [
            object_id
            for index, object_id in enumerate(dependencies)
            if not mailbox.call_back(object_id, partial(self._input_came, route, call, index))
        ]
        missing = mailbox.to_request(pending)
        if missing:
            self._session.outbox.add(Get(missing, False, []))
        if call.missing:
            self._session.hub.arm()

    def _await_node(self, route: _Route, call: Call) -> None:
        """Hold a call back until the node has read all that this process has told it.

        The actor will ask the node for what the refs among the arguments refer to, on a
        connection of its own: the node must have heard of it by then.
        """
        call.missing += 1
        self._session.after_node(partial(self._one_less, route, call))

    def _input_came(self, route: _Route, call: Call, index: int, value: ObjectValue) -> None:
        call.values[index] = value
        if value.kind == _STORED:
            # The actor reads it where it is: it must stay there until the call is answered.
            call.held = (call.held, Use(value.object_id, self._session.references))
        self._one_less(route, call)

    def _one_less(self, route: _Route, call: Call) -> None:
        """Note that one of the things that a call waits for has come."""
        with self._lock:
            call.missing -= 1
            if not call.missing and route.connection is not None:
                self._buffered(route)

    # --- sending --------------------------------------------------------------------------

    def _buffered(self, route: _Route) -> None:
        route.unsent += 1
        if route.unsent >= BATCH_SIZE or time.monotonic() - route.sent_at > BATCH_SECONDS:
            self._send(route)
            return
        if not self._dirty:
            self._session.hub.arm()
        self._dirty[route.actor_id] = route

    @property
    def has_buffered(self) -> bool:
        """Whether calls wait to be sent."""
        return bool(self._dirty)

    def flush(self) -> bool:
        """Send all buffered calls; say whether there were any."""
        if not self._dirty:
            return False
        with self._lock:
            dirty, self._dirty = self._dirty, {}
            for route in dirty.values():
                self._send(route)
        return bool(dirty)

    def _send(self, route: _Route) -> None:
        route.unsent = 0
        connection = route.connection
        if connection is None:
            return
        calls = route.queue.take_sendable()
        if not calls:
            return
        templates = []
        for call in calls:
            if call.template not in route.known:
                route.known.add(call.template)
                templates.append(NewTemplate(call.template, self._templates[call.template], b""))
        depth = self._session.depth
        message = Execute(
            templates,
            [
                Assignment(
                    call.task_id,
                    call.template,
                    call.data,
                    _readable(call.values, route.is_distant),
                    call.borrowed,
                    depth,
                    retries=call.retries,
                )
                for call in calls
            ],
        )
        route.sent_at = time.monotonic()
        try:
            connection.send(encode(message))
        except ConnectionLost:
            pass  # reading the connection says so too, and that is handled there

    # --- what comes back ------------------------------------------------------------------

    def _on_message(self, route: _Route, message: Results) -> None:
        for result in message.results:
            with self._lock:
                is_elsewhere = result.status == _ELSEWHERE
                if is_elsewhere and route.is_distant and self._still_comes(result.task_id):
                    continue
                call = route.queue.answered(result.task_id)
            if call is None or is_elsewhere:
                continue
            if result.retryable and call.retries:
                if call.retries > 0:
                    call.retries -= 1
                with self._lock:
                    route.queue.submit(call)
                    self._buffered(route)
                continue
            self._deliver(result.values)
        with self._lock:
            if route.queue.has_sendable:
                self._send(route)

    def _deliver(self, values: list[ObjectValue]) -> None:
        if self._promised:
            for value in values:
                self.keep_promise(value)
        self._session.mailbox.deliver(values)
        abandoned = self._session.references.abandoned
        if abandoned:
            abandoned.difference_update([value.object_id for value in values])

    def _still_comes(self, task_id: TaskID) -> bool:
        """Say whether the node has yet to bring what a distant actor has returned."""
        references = self._session.references
        object_id = return_id(task_id, 0)
        with references.lock:
            unknown = object_id in references.private or object_id in references.abandoned
        return unknown or object_id in self._promised

    def came_by_node(self, object_ids: list[ObjectID]) -> None:
        """Note which of these are results of calls: the node has them, and holds them for us."""
        references = self._session.references
        if not (references.private or references.abandoned or self._promised):
            return
        references.came_by_node(object_ids)
        with self._lock:
            self._promised.difference_update(object_ids)
            for route in self._distant.values():
                # Before the answer or after it: from here on the call has its values.
                for object_id in object_ids:
                    route.queue.answered(task_of(object_id))
                if route.queue.has_sendable:
                    self._send(route)

    def keep_promise(self, value: ObjectValue) -> None:
        """Put the value, if it is one that was promised and has not been put."""
        # In one step: whoever finds that another thread has put it may rely on that.
        with self._lock:
            if value.object_id in self._promised:
                self._promised.discard(value.object_id)
                self._session.outbox.add_put(value)

    def promise(self, object_id: ObjectID) -> None:
        """See that the node gets this result when it comes."""
        with self._lock:
            self._promised.add(object_id)

    # --- where actors are -----------------------------------------------------------------

    def on_located(self, message: ActorLocated) -> None:
        """Act on an actor's new state."""
        with self._lock:
            route = self._routes.get(message.actor_id)
            if route is None or route.state == ActorState.DEAD:
                return
            route.state = ActorState(message.state)
            route.cause = message.cause
            if route.state == ActorState.DEAD:
                self._disconnect(route)
                self._fail(route.queue.take_all(), message.cause)
            elif route.state == ActorState.ALIVE:
                if route.incarnation == message.incarnation:
                    return  # connected; or its process is ending, and the node will say how
                self._connect(route, message)

    def _connect(self, route: _Route, message: ActorLocated) -> None:
        self._disconnect(route)
        welcome = self._session.welcome
        is_distant = message.host not in (0, welcome.node)
        try:
            if is_distant:
                connection = connect_unix(os.path.join(welcome.session, NODE_SOCKET))
            else:
                connection = connect_unix(message.address)
        except OSError:
            return  # it has died since; the node will say what becomes of it
        self._fail(
            route.queue.process_died(),
            "its process was restarted, or could not be reached, while the call was under way; "
            "give the actor max_task_retries to have such calls sent again",
        )
        route.connection = connection
        route.is_distant = is_distant
        if is_distant:
            self._distant[route.actor_id] = route
        route.located = message
        route.incarnation = message.incarnation
        route.known = set()
        if is_distant:
            connection.send_message(Hello("call", 0, process=message.process, node=message.host))
        connection.send_message(Hello("caller", 0, process=welcome.process, node=welcome.node))
        self._session.hub.register(
            connection, partial(self._on_message, route), partial(self._on_lost, route)
        )
        self._send(route)

    def _on_lost(self, route: _Route, error: BaseException) -> None:
        with self._lock:
            self._disconnect(route)
            if route.state == ActorState.DEAD:
                return
            self._session.outbox.add(FollowActor(route.actor_id))
            self._session.hub.arm()
        # Most often its process has died, and the node says so in a moment.  If not, only the
        # connection has ended, and nobody but this process knows.
        timer = threading.Timer(_RECONNECT_SECONDS, self._reconnect, (route, route.incarnation))
        timer.daemon = True
        timer.start()

    def _reconnect(self, route: _Route, incarnation: int) -> None:
        with self._lock:
            located = route.located
            still = route.connection is None and route.state == ActorState.ALIVE
            if located is not None and still and located.incarnation == incarnation:
                self._connect(route, located)

    def _disconnect(self, route: _Route) -> None:
        connection = route.connection
        if connection is not None:
            route.connection = None
            self._session.hub.unregister(connection)
            connection.close()

    def _fail(self, calls: list[Call], cause: str) -> None:
        if calls:
            self._fail_with(calls, serialize_error(ActorDiedError(f"the actor is dead: {cause}")))

    def _fail_with(self, calls: list[Call], error: bytes) -> None:
        values = [
            ObjectValue(return_id(call.task_id, index), _ERROR, error)
            for call in calls
            for index in range(call.num_returns)
        ]
        self._deliver(values)
        self._session.hub.wake()

    def cancel(self, task_id: TaskID) -> bool:
        """Cancel a call; say whether this process knows it."""
        with self._lock:
            for route in self._routes.values():
                call = route.queue.cancel(task_id)
                if call is not None:
                    error = TaskCancelledError("the call was cancelled before it was sent")
                    self._fail_with([call], serialize_error(error))
                    return True
                if route.queue.has_sent(task_id) and route.connection is not None:
                    route.connection.send_message(CancelTask(task_id, "cancelled"))
                    return True
        return False

    def fail_all(self, error: bytes) -> None:
        """Fail every call with this serialized error: the node is gone."""
        with self._lock:
            for route in self._routes.values():
                self._fail_with(route.queue.take_all(), error)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for route in self._routes.values():
                if route.connection is not None:
                    route.connection.close()
            self._routes.clear()


def _readable(values: list[ObjectValue | None], is_distant: bool) -> list[ObjectValue]:
    """Return a call's values, which have all come, as the actor can read them."""
    come: list[ObjectValue] = values  # type: ignore[assignment]  # see above
    if not is_distant or not come:
        return come
    return [
        ObjectValue(value.object_id, _WITH_NODE) if value.kind in _IN_STORE else value
        for value in come
    ]
