"""The shell between nodes: who can be reached where, links for messages, connections for objects.

Each node dials a link of its own to each other one when it first has something to say; what i says
to j goes over the connection that i has dialed, in order.  A link that is lost may have lost
messages with it, so the two nodes cannot both go on: the global scheduler is told, and says which
of them is dead.  Until it does, nothing more is said.  A link that cannot be made is tried again
for as long as a machine may be silent.

What carries tasks or refs of this node's is said when the control state has what could rebuild
them (`WriteBarrier`), unless the settings say that it need not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from raydask.ids import home_of_job
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import CancelPull, ForgetPull, StartPull
from raydask.local_scheduler.relays import Relays
from raydask.object_store.partial_objects import PartialObjects
from raydask.object_store.puller import Puller
from raydask.object_store.transfer import TransferServer
from raydask.version import VERSION
from raydask.wire import messages as wire
from raydask.wire.authentication import AuthenticationError
from raydask.wire.blocking_guard import GuardedListener, connect_blocking
from raydask.wire.endpoint import Endpoint, parse_endpoint
from raydask.wire.guard import GuardedServer, connect_guarded
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.pipe import PipeEnd
from raydask.wire.tls import client_tls, server_tls

if TYPE_CHECKING:
    from raydask.local_scheduler.server import NodeServer
    from raydask.local_scheduler.write_barrier import WriteBarrier

_log = logging.getLogger("raydask.node")

_RETRY_SECONDS = 0.25
_NODES = 1 << 32
"""Numbers of nodes are below this."""
_MOST_EARLY = 1000
"""How many messages of a node are kept until the global scheduler has said that there is one."""


class _Way:
    """How another node is reached."""

    def __init__(self, number: int, link: Endpoint, data: Endpoint) -> None:
        self.number = number
        self.link = link
        self.data = data
        self.protocol: FrameProtocol | None = None
        self.unsent: list[object] = []
        self.dialing: asyncio.Task[None] | None = None
        self.is_lost = False


class NodeLinks:
    """A node's connections to the other nodes of its cluster.

    Parameters
    ----------
    server : NodeServer
    secret : str
        The cluster's.
    arena_fd : int
        The arena's file; to be kept open until `close`.
    spill_path : callable
        Gives the path of a spill file by its number.
    """

    def __init__(
        self, server: NodeServer, secret: str, arena_fd: int, spill_path: Callable[[int], str]
    ) -> None:
        self._server = server
        self._secret = secret
        self._client_tls = client_tls(server.config)
        self._number = server.identity.number
        self._ways: dict[int, _Way] = {}
        self._dead: set[int] = set()
        self._early: dict[int, list[Any]] = {}
        self._incoming: dict[int, FrameProtocol] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: GuardedServer | None = None
        self._data_listener: GuardedListener | None = None
        self.relays = Relays(self._number, self._connect_call, server.address_of)
        self._barrier: WriteBarrier | None = None
        self._partial = PartialObjects()
        size = server.identity.arena_size
        self.transfers = TransferServer(arena_fd, size, spill_path, self._partial)
        self.puller = Puller(arena_fd, size, self._partial, self._connect_data, self._pull_ended)

    async def start(self, link: socket.socket, data: socket.socket) -> None:
        """Listen to other nodes: on `link` for messages, on `data` for who fetches objects."""
        self._loop = asyncio.get_running_loop()
        tls: ssl.SSLContext | None = server_tls(self._server.config)
        self._listener = GuardedServer(link, self._secret, self._make_protocol, tls)
        self._listener.start()
        self._data_listener = GuardedListener(data, self._secret, tls, self.transfers.serve)
        self._data_listener.start()

    def close(self) -> None:
        """Close everything, and wait for the threads."""
        if self._listener is not None:
            self._listener.close()
        self.relays.close()
        if self._barrier is not None:
            self._barrier.close()
        for way in self._ways.values():
            self._drop(way)
        for protocol in self._incoming.values():
            protocol.on_lost = None
            protocol.close()
        if self._data_listener is not None:
            self._data_listener.close()
        self.puller.close()
        self.transfers.close()

    # --- nodes ----------------------------------------------------------------------------

    def appeared(self, nodes: list[tuple[int, str, str]]) -> None:
        """Take in where other nodes are."""
        new = []
        for number, link, data in nodes:
            if number not in (self._number, *self._ways) and number not in self._dead:
                self._ways[number] = _Way(number, parse_endpoint(link), parse_endpoint(data))
                new.append(number)
        if not new:
            return
        if self._barrier is None and self._server.config.write_barrier:
            self._barrier = self._make_barrier()
        self._server.handle(events.NodesCame(new))
        for number in new:
            for message in self._early.pop(number, ()):
                self._said(number, message)

    def _make_barrier(self) -> WriteBarrier:
        # A node that is alone has no use for it.
        from raydask.local_scheduler.lineage import Hurry, Lineage
        from raydask.local_scheduler.write_barrier import WriteBarrier

        assert self._loop is not None
        server = self._server
        core = server.core
        tables = server.tables
        hurry = Hurry(tables.tasks.hurry, tables.objects.hurry, tables.functions.hurry)
        lineage = Lineage(core.tasks, core.objects.records, core.pool.functions, hurry)
        return WriteBarrier(lineage, server.writer, self._say, self._loop)

    def died(self, nodes: list[tuple[int, str]]) -> None:
        """Do without nodes that the global scheduler has declared dead."""
        for number, _ in nodes:
            self._dead.add(number)
            self._early.pop(number, None)
            incoming = self._incoming.pop(number, None)
            if incoming is not None:
                incoming.on_lost = None
                incoming.close()
            way = self._ways.pop(number, None)
            self.relays.node_lost(number)
            if way is not None:
                self._drop(way)
                self.puller.forget_node(number)
        self._server.handle(events.NodesLost(nodes))

    def _drop(self, way: _Way) -> None:
        way.is_lost = True
        way.unsent.clear()
        if self._barrier is not None:
            self._barrier.forget_node(way.number)
        if way.dialing is not None:
            way.dialing.cancel()
        if way.protocol is not None:
            way.protocol.on_lost = None
            way.protocol.close()

    def _cannot_reach(self, number: int, cause: str) -> None:
        """Have the global scheduler decide, once, between this node and another."""
        way = self._ways.get(number)
        if way is None or way.is_lost:
            return
        between = self._server.core.between
        leaves = between is not None and number in between.evacuation.leaving
        # One that leaves may have gone before this has been said.
        _log.log(logging.INFO if leaves else logging.WARNING, "node %d is lost: %s", number, cause)
        self._drop(way)
        self._server.cluster.send(wire.NodeUnreachable(number, cause))

    def ask_again(self) -> None:
        """Tell a global scheduler that has just come of the nodes that are out of reach."""
        for way in self._ways.values():
            if way.is_lost:
                self._server.cluster.send(wire.NodeUnreachable(way.number, "it was lost before"))

    # --- messages to others ---------------------------------------------------------------

    def send(self, number: int, message: object) -> None:
        """Send a node a message, when it may leave this one and there is a link to it."""
        way = self._ways.get(number)
        if way is None or way.is_lost:
            return
        if self._barrier is None:
            self._say(number, message)
        else:
            self._barrier.send(number, message)

    def _say(self, number: int, message: object) -> None:
        way = self._ways.get(number)
        if way is None or way.is_lost:
            return
        if way.protocol is not None:
            way.protocol.send(message)
            return
        way.unsent.append(message)
        if way.dialing is None:
            assert self._loop is not None
            way.dialing = self._loop.create_task(self._dial(way))

    async def _dial(self, way: _Way) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._server.config.silent_seconds
        while True:
            try:
                protocol: FrameProtocol = await connect_guarded(
                    way.link, self._secret, partial(self._make_outgoing, way), self._client_tls
                )
                break
            except (OSError, asyncio.TimeoutError, AuthenticationError) as error:
                if loop.time() >= deadline:
                    way.dialing = None
                    self._cannot_reach(way.number, f"{way.link}: {str(error) or 'it is too slow'}")
                    return
                await asyncio.sleep(_RETRY_SECONDS)
        way.protocol = protocol
        protocol.send(wire.Hello("node", os.getpid(), VERSION, process=self._number))
        for message in way.unsent:
            protocol.send(message)
        way.unsent.clear()

    def _make_outgoing(self, way: _Way) -> FrameProtocol:
        def on_lost(protocol: FrameProtocol, error: BaseException | None) -> None:
            self._cannot_reach(way.number, f"its link has ended: {error or 'it was closed'}")

        return FrameProtocol(lambda protocol, message: None, on_lost, self._server.writes)

    # --- messages from others -------------------------------------------------------------

    def _make_protocol(self) -> FrameProtocol:
        return FrameProtocol(self._on_first_message, None, self._server.writes)

    def _on_first_message(self, protocol: FrameProtocol, hello: Any) -> None:
        if isinstance(hello, wire.Hello) and hello.role == "call" and hello.node not in self._dead:
            self.relays.serve(protocol, hello.node, hello.process)
            return
        if not isinstance(hello, wire.Hello) or hello.role != "node":
            _log.warning("a link began with %s", type(hello).__name__)
            protocol.close()
            return
        number = hello.process
        is_known = number in self._dead or number in self._incoming or number == self._number
        if is_known or not 0 < number < _NODES:
            protocol.close()
            return
        self._incoming[number] = protocol
        protocol.on_message = lambda _, message: self._said(number, message)
        protocol.on_lost = lambda _, error: self._incoming_lost(number, protocol, error)

    def _incoming_lost(
        self, number: int, protocol: FrameProtocol, error: BaseException | None
    ) -> None:
        if self._incoming.get(number) is not protocol:
            return
        if number not in self._ways:
            # Whoever that was; a node that is lost before it is known tells of it itself.
            del self._incoming[number]
            self._early.pop(number, None)
        else:
            self._cannot_reach(number, f"its link to this node has ended: {error or 'closed'}")

    def _said(self, number: int, message: Any) -> None:
        if number not in self._ways:
            self._keep_early(number, message)
            return
        if isinstance(message, wire.JobLines):
            self._server.show_lines(message.job, message.lines)
            return
        between = self._server.core.between
        if between is None or type(message) not in between.messages:
            _log.warning("node %d sent %s", number, type(message).__name__)
            self.cut_off(number)
            return
        self._server.handle(events.PeerSaid(number, message))

    def _keep_early(self, number: int, message: Any) -> None:
        """Keep what a node says until the global scheduler has said that there is one."""
        if number in self._dead:
            return
        early = self._early.setdefault(number, [])
        if len(early) < _MOST_EARLY:
            early.append(message)
            return
        # What is lost, the other end has to know of: it finds that its link has ended.
        _log.warning("node %d, which nobody has told of, says too much", number)
        del self._early[number]
        self.cut_off(number)

    def cut_off(self, number: int) -> None:
        """Close the link of a node that has said what cannot be, or more than is kept."""
        incoming = self._incoming.get(number)
        if incoming is not None:
            incoming.on_message = lambda _, message: None  # more may have come with it
            incoming.close()

    def forward_lines(self, job: int, lines: list[wire.LogLine]) -> None:
        """Have lines shown that a worker here has printed for a driver of another node."""
        home = home_of_job(job)
        if home != self._number:
            self.send(home, wire.JobLines(job, lines))

    # --- calls ----------------------------------------------------------------------------

    async def _connect_call(self, number: int, make_protocol: Callable[[], PipeEnd]) -> object:
        way = self._ways.get(number)
        if way is None or way.is_lost:
            raise ConnectionError(f"node {number} is not to be reached")
        return await connect_guarded(way.link, self._secret, make_protocol, self._client_tls)

    # --- objects --------------------------------------------------------------------------

    def start_pull(self, action: StartPull) -> None:
        """Begin to fetch an object's bytes."""
        self.puller.pull(
            action.number,
            action.node,
            action.file,
            action.source,
            action.size,
            action.target,
            action.arrived,
        )

    def cancel_pull(self, action: CancelPull) -> None:
        """Give up a pull."""
        self.puller.cancel(action.number)

    def forget_pull(self, action: ForgetPull) -> None:
        """Let what is written to a place from now on be read there."""
        self._partial.forget(action.target)

    def _connect_data(self, number: int) -> socket.socket:
        way = self._ways.get(number)
        if way is None or way.is_lost:
            raise ConnectionError(f"node {number} is not to be reached")
        return connect_blocking(way.data, self._secret, self._client_tls)

    def _pull_ended(self, number: int, error: str, arrived: int) -> None:
        assert self._loop is not None
        ended = events.PullEnded(number, error, arrived)
        try:
            self._loop.call_soon_threadsafe(self._server.handle, ended)
        except RuntimeError:
            pass  # the loop has ended, and the node with it
