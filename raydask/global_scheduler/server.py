"""The shell around the global scheduler's core: one socket, the control state, the clock.

One asyncio loop.  Messages become events for the core; its messages go out in one write for
each connection and turn.  Where the core asks that something be in the control state
first, everything of the turn that follows waits for one write of it all.

Who connects to the unix socket is on this machine, and if it is a node, the head's.  All
other nodes come over the network; a machine that is to be a node asks for its number first,
and has further connections through which it reaches Redis (``redis_pipes``).
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
from raydask.control.control_place import ControlPlace
from raydask.control.redis_store import RedisStore
from raydask.control.store import ControlStore, ControlStoreUnavailableError
from raydask.control.tables import (
    ActorEntry,
    NamedActorEntry,
    NodeEntry,
    PlacementGroupEntry,
    decode,
)
from raydask.control.write_behind import WriteBehind
from raydask.errors import ClusterUnavailableError, InternalError, UsageError
from raydask.global_scheduler import events
from raydask.global_scheduler.actions import Action, Disconnect, Persist, Send, WakeAfter
from raydask.global_scheduler.joining import answer_to, cluster_identity
from raydask.global_scheduler.redis_pipes import RedisPipes
from raydask.global_scheduler.state import GlobalScheduler, Journals
from raydask.ids import NodeNumber
from raydask.serialization import serialize_error
from raydask.wire import messages as wire
from raydask.wire.framing import encode
from raydask.wire.guard import GuardedServer
from raydask.wire.handshake import judge
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.tls import server_tls

_log = logging.getLogger("raydask.global_scheduler")

_TICK_SECONDS = 0.25
_RETRY_SECONDS = 0.5
_PERSIST_SECONDS = 0.25
_CLOSE_SECONDS = 1.0
_PARENT_CHECK_SECONDS = 1.0
_READ_AT_ONCE = 500

_Entry = TypeVar("_Entry", NodeEntry, ActorEntry, NamedActorEntry, PlacementGroupEntry)


class GlobalSchedulerServer:
    """The global scheduler's event loop side.

    Parameters
    ----------
    core : GlobalScheduler
    writer : WriteBehind
        Whose tables the core's journals are; started, and closed by whoever made it.
    store : ControlStore
        Started; nodes get their numbers from it.
    cluster : str
        The cluster's identity.
    control : ControlPlace
        Where the control state is.
    clock : callable
        Seconds since 1970.
    """

    def __init__(
        self,
        core: GlobalScheduler,
        writer: WriteBehind,
        store: ControlStore,
        cluster: str,
        control: ControlPlace = ControlPlace([]),  # noqa: B008  (nobody changes it)
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._core = core
        self._writer = writer
        self._store = store
        self._cluster = cluster
        self._control = control
        self._pipes = RedisPipes(control.servers)
        self._joining: set[asyncio.Task[None]] = set()
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: asyncio.AbstractServer | None = None
        self._path = ""
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._nodes: dict[NodeNumber, FrameProtocol] = {}
        self._connections: set[FrameProtocol] = set()
        self._held: list[Send | Disconnect] = []
        self._holding = False
        self._encoded: tuple[object, bytes] = (None, b"")
        """What was sent last, for much goes to all nodes."""
        self._network: GuardedServer | None = None

    async def start(self, path: str) -> None:
        """Listen on a unix socket that only this user can use, and start the clock."""
        self._loop = asyncio.get_running_loop()
        self._path = path
        remove_socket(path)
        before = os.umask(0o177)
        try:
            self._listener = await self._loop.create_unix_server(
                lambda: self._make_protocol(from_network=False), path
            )
        finally:
            os.umask(before)
        self._tick()
        self._write_behind()

    async def listen(self, listener: socket.socket, secret: str, config: Config) -> None:
        """Listen on a network too, to those who know the secret."""

        def make_protocol() -> FrameProtocol:
            return self._make_protocol(from_network=True)

        self._network = GuardedServer(listener, secret, make_protocol, server_tls(config))
        self._network.start()

    def close(self) -> None:
        """Close every connection and stop the clock."""
        if self._network is not None:
            self._network.close()
        self._pipes.close()
        for task in self._joining:
            task.cancel()
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
            if isinstance(action, Persist):
                # One write for all that this turn brings: what follows is held until then.
                if not self._holding and self._loop is not None:
                    self._holding = True
                    self._loop.call_soon(self._persist)
            elif isinstance(action, WakeAfter):
                self._call_later(action.seconds, self._wake)
            elif self._holding:
                self._held.append(action)
            else:
                self._do(action)

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
            self._do(action)

    def _do(self, action: Send | Disconnect) -> None:
        protocol = self._nodes.get(action.node)
        if protocol is None:
            return
        if isinstance(action, Disconnect):
            del self._nodes[action.node]
            protocol.close()
            return
        if self._encoded[0] is not action.message:
            self._encoded = (action.message, encode(action.message))
        protocol.send_frame(self._encoded[1])

    # --- time -------------------------------------------------------------------------------

    def _tick(self) -> None:
        self.handle(events.ClockTicked())
        self._call_later(_TICK_SECONDS, self._tick)

    def _wake(self) -> None:
        self.handle(events.ClockTicked())

    def _write_behind(self) -> None:
        self._call_later(self._writer.tick(), self._write_behind)

    def _call_later(self, seconds: float, call: Callable[[], None]) -> None:
        assert self._loop is not None
        before = self._timers.get(call)
        if before is not None:
            before.cancel()
        self._timers[call] = self._loop.call_later(seconds, call)

    # --- connections ------------------------------------------------------------------------

    def _make_protocol(self, *, from_network: bool) -> FrameProtocol:
        protocol = FrameProtocol(
            lambda protocol, message: self._on_first_message(protocol, message, from_network),
            self._on_lost,
        )
        self._connections.add(protocol)
        return protocol

    def _on_first_message(self, protocol: FrameProtocol, message: Any, from_network: bool) -> None:
        if isinstance(message, wire.RegisterNode):
            self._register(protocol, message, head=not from_network)
        elif isinstance(message, wire.JoinCluster):
            protocol.on_message = self._refuse
            task = asyncio.get_running_loop().create_task(self._admit(protocol, message))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)
        elif isinstance(message, wire.Hello) and message.role == "observer":
            self._observe(protocol, message)
        elif isinstance(message, wire.Hello) and message.role == "control" and from_network:
            if self._pipes.join(protocol, message.process):
                self._connections.discard(protocol)
            else:
                _log.error("a connection is closed: there is no shard %d", message.process)
                protocol.close()
        else:
            self._refuse(protocol, message)

    async def _admit(self, protocol: FrameProtocol, message: wire.JoinCluster) -> None:
        """Answer a machine that wants to be a node; in a thread, for Redis may take its time."""
        answer = await asyncio.get_running_loop().run_in_executor(
            None,
            answer_to,
            message,
            self._store,
            self._cluster,
            self._pipes.shards,
            self._control.prefix,
        )
        protocol.send(answer)
        protocol.close()

    def _register(self, protocol: FrameProtocol, message: wire.RegisterNode, head: bool) -> None:
        node = NodeNumber(message.node)
        refusal = self._core.refusal_of(message, head)
        if refusal:
            _log.warning("node %d may not register: %s", node, refusal)
            protocol.send(wire.NodesDied([(int(node), refusal)]))
            protocol.on_message = lambda protocol, later: None
            protocol.close()
            return
        before = self._nodes.get(node)
        self._nodes[node] = protocol
        if before is not None:
            before.close()
        protocol.on_message = lambda _, later: self._on_message(protocol, node, later)
        self.handle(events.NodeRegistered(node, message, head))

    def _observe(self, protocol: FrameProtocol, hello: wire.Hello) -> None:
        refusal, _ = judge(hello, ours="the head", theirs="the observer")
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
        if self._nodes.get(node) is not protocol:
            return  # it is dead or has come anew, and this was on its way
        if isinstance(message, wire.ListNodes):
            protocol.send(wire.NodesListed(message.number, self._core.status()))
            return
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


def _on_unreachable(node: NodeNumber, message: wire.NodeUnreachable) -> events.Event:
    return events.NodeComplained(node, NodeNumber(message.node), message.cause)


def _on_leave(node: NodeNumber, message: wire.LeaveCluster) -> events.Event:
    return events.NodeLeaves(node, message.done)


def _on_demands(node: NodeNumber, message: wire.Demands) -> events.Event:
    return events.DemandsStated(node, message.demands)


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
        message.strategy,
    )


def _on_actor_changed(node: NodeNumber, message: wire.ActorChanged) -> events.Event:
    state = wire.ActorState(message.state)
    host = NodeNumber(message.node)
    return events.ActorReported(
        node, message.actor_id, host, state, message.pid, message.restarts, message.cause
    )


def _on_claim_name(node: NodeNumber, message: wire.ClaimName) -> events.Event:
    return events.NameClaimed(
        node, message.number, message.name, message.namespace, message.actor_id, message.handle
    )


def _on_find_actor(node: NodeNumber, message: wire.FindActor) -> events.Event:
    return events.NameAsked(node, message.number, message.name, message.namespace)


_EVENTS: dict[type, Callable[[NodeNumber, Any], events.Event]] = {
    wire.Heartbeat: _on_heartbeat,
    wire.NodeUnreachable: _on_unreachable,
    wire.LeaveCluster: _on_leave,
    wire.Demands: _on_demands,
    wire.PassUp: _on_pass_up,
    wire.WithdrawTasks: lambda node, message: events.TasksWithdrawn(node, message.task_ids),
    wire.CreateActor: _on_create_actor,
    wire.ActorChanged: _on_actor_changed,
    wire.ClaimName: _on_claim_name,
    wire.FindActor: _on_find_actor,
    wire.CreateGroup: events.GroupRequested,
    wire.RemoveGroup: lambda node, message: events.GroupRemovalRequested(
        node, message.number, message.group_id
    ),
    wire.ListGroups: lambda node, message: events.GroupsAsked(node, message.number),
    wire.BundlesReserved: lambda node, message: events.ReservationAnswered(
        node, message.group_id, message.attempt, message.accepted
    ),
    wire.JobEnded: lambda node, message: events.JobEnded(node, message.job),
}


def journals_of(writer: WriteBehind) -> Journals:
    """Return new tables of the writer for nodes, actors, names and placement groups."""
    return Journals(
        writer.table(schema.node_key),
        writer.table(schema.actor_key),
        writer.table(lambda key: schema.named_actor_key(*key)),
        writer.table(schema.placement_group_key),
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
        list(_entries(store, schema.PLACEMENT_GROUP_PREFIX, PlacementGroupEntry)),
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
    control: ControlPlace,
    secret: str,
    config: Config,
    listener: socket.socket | None,
) -> None:
    """Be the global scheduler of a session, until SIGTERM or until the parent is gone.

    Parameters
    ----------
    socket_path : str
        Where nodes connect; it appears once the control state has been reread.
    control : ControlPlace
        Where the control state is.
    secret : str
        The cluster's.
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
    store = RedisStore(control.servers, prefix=control.prefix)
    entries, cluster = _reread_when_reachable(store, control.cluster)
    writer = WriteBehind(store, config.control_window)
    core = GlobalScheduler(journals_of(writer), cluster, config.silent_seconds)
    server = GlobalSchedulerServer(core, writer, store, cluster, control)
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


def _reread_when_reachable(store: RedisStore, wanted: str) -> tuple[events.EntriesReread, str]:
    """Return what an earlier global scheduler left, and the cluster's identity."""
    while True:
        try:
            store.start()
            return reread(store), cluster_identity(store, wanted)
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
