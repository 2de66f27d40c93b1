"""The shell around the global scheduler's core: one socket, the control state, the clock.

One asyncio loop.  Messages become events for the core; its messages go out in one write for
each connection and turn.  Where the core asks that something be in the control state
first, everything of the turn that follows waits for one write of it all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import uvloop

from raydask.config import Config
from raydask.control import schema
from raydask.control.redis_store import RedisStore
from raydask.control.store import ControlStore, ControlStoreUnavailableError
from raydask.control.tables import ActorEntry, NamedActorEntry, NodeEntry, decode
from raydask.control.write_behind import WriteBehind
from raydask.errors import ClusterUnavailableError, InternalError, UsageError
from raydask.global_scheduler import events
from raydask.global_scheduler.actions import Action, Send
from raydask.global_scheduler.state import GlobalScheduler, Journals
from raydask.ids import NodeNumber
from raydask.serialization import serialize_error
from raydask.wire import messages as wire
from raydask.wire.guard import Strangers, guarded_by
from raydask.wire.handshake import refusal_of
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.tls import server_tls

_log = logging.getLogger("raydask.global_scheduler")

_TICK_SECONDS = 0.25
_RETRY_SECONDS = 0.5
_PERSIST_SECONDS = 0.25
_CLOSE_SECONDS = 1.0
_PARENT_CHECK_SECONDS = 1.0
_READ_AT_ONCE = 500

_Entry = TypeVar("_Entry", NodeEntry, ActorEntry, NamedActorEntry)


class GlobalSchedulerServer:
    """The global scheduler's event loop side.

    Parameters
    ----------
    core : GlobalScheduler
    writer : WriteBehind
        Whose tables the core's journals are; started, and closed by whoever made it.
    clock : callable
        Seconds since 1970.
    """

    def __init__(
        self,
        core: GlobalScheduler,
        writer: WriteBehind,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._core = core
        self._writer = writer
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: asyncio.AbstractServer | None = None
        self._path = ""
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._nodes: dict[NodeNumber, FrameProtocol] = {}
        self._connections: set[FrameProtocol] = set()
        self._held: list[Send] = []
        self._holding = False
        self._strangers = Strangers()
        self._network: asyncio.AbstractServer | None = None

    async def start(self, path: str) -> None:
        """Listen on a unix socket that only this user can use, and start the clock."""
        self._loop = asyncio.get_running_loop()
        self._path = path
        remove_socket(path)
        before = os.umask(0o177)
        try:
            self._listener = await self._loop.create_unix_server(self._make_protocol, path)
        finally:
            os.umask(before)
        self._tick()
        self._write_behind()

    async def listen(self, listener: socket.socket, secret: str, config: Config) -> None:
        """Listen on a network too, to those who know the secret."""
        assert self._loop is not None
        make = guarded_by(secret, self._make_protocol, self._strangers)
        tls = server_tls(config)
        self._network = await self._loop.create_server(make, sock=listener, ssl=tls)

    def close(self) -> None:
        """Close every connection and stop the clock."""
        if self._network is not None:
            self._network.close()
        self._strangers.close()
        for timer in self._timers.values():
            timer.cancel()
        if self._listener is not None:
            self._listener.close()
            remove_socket(self._path)
        for protocol in self._connections:
            protocol.on_lost = None
            protocol.close()

    def handle(self, event: events.Event) -> None:
        """Tell the core, and do what it says."""
        self._carry_out(self._core.handle(event, self._clock()))

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if not isinstance(action, Send):
                # One write for all that this turn brings: what follows is held until then.
                if not self._holding and self._loop is not None:
                    self._holding = True
                    self._loop.call_soon(self._persist)
            elif self._holding:
                self._held.append(action)
            else:
                self._send(action)

    def _persist(self) -> None:
        try:
            # While the store is known to be away, waiting for it would only slow everyone.
            if self._writer.failure is None:
                self._writer.flush(time.monotonic() + _PERSIST_SECONDS)
        except ControlStoreUnavailableError as error:
            _log.warning("actors and names are not safe from a crash for now: %s", error)
        held, self._held = self._held, []
        self._holding = False
        for action in held:
            self._send(action)

    def _send(self, action: Send) -> None:
        protocol = self._nodes.get(action.node)
        if protocol is not None:
            protocol.send(action.message)

    # --- time -------------------------------------------------------------------------------

    def _tick(self) -> None:
        self.handle(events.ClockTicked())
        self._call_later(_TICK_SECONDS, self._tick)

    def _write_behind(self) -> None:
        self._call_later(self._writer.tick(), self._write_behind)

    def _call_later(self, seconds: float, call: Callable[[], None]) -> None:
        assert self._loop is not None
        self._timers[call] = self._loop.call_later(seconds, call)

    # --- connections ------------------------------------------------------------------------

    def _make_protocol(self) -> FrameProtocol:
        protocol = FrameProtocol(self._on_first_message, self._on_lost)
        self._connections.add(protocol)
        return protocol

    def _on_first_message(self, protocol: FrameProtocol, message: Any) -> None:
        if isinstance(message, wire.Hello) and message.role == "observer":
            self._observe(protocol, message)
            return
        if not isinstance(message, wire.RegisterNode):
            self._refuse(protocol, message)
            return
        node = NodeNumber(message.node)
        before = self._nodes.get(node)
        self._nodes[node] = protocol
        if before is not None:
            before.close()
        protocol.on_message = lambda _, later: self._on_message(protocol, node, later)
        self.handle(events.NodeRegistered(node, message))

    def _observe(self, protocol: FrameProtocol, hello: wire.Hello) -> None:
        refusal = refusal_of(hello)
        if refusal:
            error = serialize_error(ClusterUnavailableError(refusal))
            protocol.send(wire.Reply(0, error, b""))
            protocol.close()
            return
        protocol.on_message = self._on_request

    def _on_request(self, protocol: FrameProtocol, message: Any) -> None:
        if not isinstance(message, wire.Request):
            self._refuse(protocol, message)
        elif message.operation == "nodes":
            payload = msgspec.msgpack.encode(self._core.status())
            protocol.send(wire.Reply(message.number, b"", payload))
        else:
            error = UsageError(f"the global scheduler knows no operation {message.operation!r}")
            protocol.send(wire.Reply(message.number, serialize_error(error), b""))

    def _on_message(self, protocol: FrameProtocol, node: NodeNumber, message: Any) -> None:
        convert = _EVENTS.get(type(message))
        if convert is None:
            self._refuse(protocol, message)
            return
        try:
            event = convert(node, message)
        except ValueError as error:
            _log.error("node %d is cut off: %s", node, error)
            protocol.close()
            return
        self.handle(event)

    def _refuse(self, protocol: FrameProtocol, message: object) -> None:
        _log.error("a connection is closed: %s is not expected here", type(message).__name__)
        protocol.close()

    def _on_lost(self, protocol: FrameProtocol, error: BaseException | None) -> None:
        self._connections.discard(protocol)
        for node, current in self._nodes.items():
            if current is protocol:
                del self._nodes[node]
                self.handle(events.NodeLost(node))
                return


def _on_heartbeat(node: NodeNumber, message: wire.Heartbeat) -> events.Event:
    return events.LoadReported(node, message)


def _on_pass_up(node: NodeNumber, message: wire.PassUp) -> events.Event:
    return events.TasksPassedUp(node, message.tasks)


def _on_create_actor(node: NodeNumber, message: wire.CreateActor) -> events.Event:
    return events.ActorRequested(
        node,
        message.actor_id,
        message.class_name,
        message.resources,
        message.max_restarts,
        message.detached,
        message.job,
    )


def _on_actor_changed(node: NodeNumber, message: wire.ActorChanged) -> events.Event:
    state = wire.ActorState(message.state)
    return events.ActorReported(
        node, message.actor_id, state, message.pid, message.restarts, message.cause
    )


def _on_claim_name(node: NodeNumber, message: wire.ClaimName) -> events.Event:
    return events.NameClaimed(
        node, message.number, message.name, message.namespace, message.actor_id, message.handle
    )


def _on_find_actor(node: NodeNumber, message: wire.FindActor) -> events.Event:
    return events.NameAsked(node, message.number, message.name, message.namespace)


_EVENTS: dict[type, Callable[[NodeNumber, Any], events.Event]] = {
    wire.Heartbeat: _on_heartbeat,
    wire.PassUp: _on_pass_up,
    wire.CreateActor: _on_create_actor,
    wire.ActorChanged: _on_actor_changed,
    wire.ClaimName: _on_claim_name,
    wire.FindActor: _on_find_actor,
}


def journals_of(writer: WriteBehind) -> Journals:
    """Return new tables of the writer for nodes, actors and names."""
    return Journals(
        writer.table(schema.node_key),
        writer.table(schema.actor_key),
        writer.table(lambda key: schema.named_actor_key(*key)),
    )


def reread(store: ControlStore) -> events.EntriesReread:
    """Return the entries that an earlier global scheduler left.

    Raises
    ------
    ControlStoreError
    """
    return events.EntriesReread(
        list(_entries(store, schema.NODE_PREFIX, NodeEntry)),
        list(_entries(store, schema.ACTOR_PREFIX, ActorEntry)),
        list(_entries(store, schema.NAMED_ACTOR_PREFIX, NamedActorEntry)),
    )


def _entries(store: ControlStore, prefix: str, entry_type: type[_Entry]) -> Iterator[_Entry]:
    # A scan may give a key twice.
    keys = list(dict.fromkeys(store.scan(prefix)))
    for start in range(0, len(keys), _READ_AT_ONCE):
        some = keys[start : start + _READ_AT_ONCE]
        for key, document in zip(some, store.read(some), strict=True):
            if document is None:
                continue
            try:
                yield decode(document, entry_type)
            except msgspec.DecodeError as error:
                _log.error("%s in the control state is passed over: %s", key, error)


def remove_socket(path: str) -> None:
    """Remove a socket that an earlier process left, if there is one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def run_global_scheduler(
    socket_path: str,
    urls: list[str],
    secret: str,
    config: Config,
    listener: socket.socket | None,
) -> None:
    """Be the global scheduler of a session, until SIGTERM or until the parent is gone.

    Parameters
    ----------
    socket_path : str
        Where nodes connect; it appears once the control state has been reread.
    urls : list of str
        Of the Redis servers, in the order of their shards.
    secret : str
        The cluster's, which is Redis' password too.
    config : Config
    listener : socket.socket or None
        On a network.

    Raises
    ------
    ControlStoreError
        The control state refuses to be used.  While it cannot be reached this waits.
    InternalError
        See `run_until_told`.
    """
    parent = os.getppid()
    store = RedisStore(urls, password=secret)
    entries = _reread_when_reachable(store)
    writer = WriteBehind(store, config.control_window)
    core = GlobalScheduler(journals_of(writer))
    server = GlobalSchedulerServer(core, writer)
    writer.start()
    server.handle(entries)
    try:
        # On the loop of the node, of which they share what is in the library.
        uvloop.run(_serve(server, socket_path, parent, listener, secret, config))
    finally:
        try:
            writer.close(time.monotonic() + _CLOSE_SECONDS)
        except ControlStoreUnavailableError as error:
            # At the end of a session Redis may be gone first.
            _log.info("the last changes were not written: %s", error)
        store.close()


def _reread_when_reachable(store: RedisStore) -> events.EntriesReread:
    while True:
        try:
            store.start()
            return reread(store)
        except ControlStoreUnavailableError as error:
            _log.warning("waiting for the control state: %s", error)
            time.sleep(_RETRY_SECONDS)


async def _serve(
    server: GlobalSchedulerServer,
    path: str,
    parent: int,
    listener: socket.socket | None,
    secret: str,
    config: Config,
) -> None:
    await server.start(path)
    if listener is not None:
        await server.listen(listener, secret, config)
    await run_until_told(server, parent)


async def run_until_told(server: GlobalSchedulerServer, parent: int) -> None:
    """Let a started server work until SIGTERM, or until `parent` is this one's parent no more.

    Raises
    ------
    InternalError
        On the first bug: a new process that rereads the control state is a better state to
        go on from than this one.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    failures: list[dict[str, Any]] = []

    def on_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        failures.append(context)
        told.set()

    loop.set_exception_handler(on_failure)
    loop.add_signal_handler(signal.SIGTERM, told.set)
    while not told.is_set() and os.getppid() == parent:
        try:
            await asyncio.wait_for(told.wait(), _PARENT_CHECK_SECONDS)
        except asyncio.TimeoutError:
            pass
    server.close()
    if failures:
        raise InternalError(
            f"the global scheduler gives way to a new one: {failures[0].get('message')}; please "
            "report this with its cause"
        ) from failures[0].get("exception")
