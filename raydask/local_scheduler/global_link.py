"""The node's end of its connection to the global scheduler: what it says, and what it is told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from raydask.local_scheduler import events
from raydask.placement import ungrouped
from raydask.wire import messages as wire
from raydask.wire.handshake import versions_here
from raydask.wire.loop_connection import FrameProtocol

if TYPE_CHECKING:
    from raydask.local_scheduler.server import NodeServer


class GlobalLink:
    """Speaks with the global scheduler, whichever process that is.

    Parameters
    ----------
    server : NodeServer
    """

    def __init__(self, server: NodeServer) -> None:
        self._server = server
        self._protocol: FrameProtocol | None = None
        self._leaves = self._is_out = False

    def connected(self, protocol: FrameProtocol) -> None:
        """Use a connection to the global scheduler, and introduce the node to it."""
        server = self._server
        identity = server.identity
        self._protocol = protocol
        protocol.on_message = self._on_message
        protocol.send(
            wire.RegisterNode(
                identity.number,
                os.getpid(),
                identity.session,
                os.uname().nodename,
                ungrouped(server.core.pool.resources.total),
                dict(identity.labels),
                identity.arena_size,
                server.core.actors.living,
                identity.link,
                identity.data,
                identity.cluster,
                versions_here(),
                server.core.bundles.held,
                server.core.jobs,
            )
        )
        server.handle(events.GlobalSchedulerCame())
        server.desk.ask_again()
        if server.links is not None:
            server.links.ask_again()

    def lost(self) -> None:
        """Do without a global scheduler until there is one again."""
        self._protocol = None
        if self._leaves:
            self._server.workers.end_session()

    @property
    def is_up(self) -> bool:
        """Whether there is a global scheduler."""
        return self._protocol is not None

    def send(self, message: object) -> None:
        """Send a message to the global scheduler, if there is one."""
        if self._protocol is not None:
            self._protocol.send(message)

    def leave(self) -> None:
        """Have the cluster let the node go at once; the session ends when it has, or is away."""
        self._leaves = True
        if self._protocol is None or self._is_out:
            self._server.workers.end_session()
        else:
            self.send(wire.LeaveCluster(done=True))

    def heartbeat(self) -> None:
        """Say how busy the node is."""
        server = self._server
        core = server.core
        pool = core.pool
        self.send(
            wire.Heartbeat(
                server.identity.number,
                pool.resources.available,
                pool.queued,
                pool.queued_seconds,
                server.store.used,
                len(core.tasks),
                len(core.objects.records),
                len(pool.workers),
                server.drivers,
                core.lent_resources,
                server.bytes_sent,
            )
        )

    def _on_message(self, protocol: FrameProtocol, message: Any) -> None:
        server = self._server
        if isinstance(message, wire.ActorPlaced):
            server.handle(events.ActorWasPlaced(message.actor_id, message.node))
        elif isinstance(message, wire.Placed):
            server.handle(events.TasksPlaced(message.placements))
        elif isinstance(message, wire.Infeasible):
            server.handle(
                events.TasksFoundInfeasible(message.task_ids, message.detail, message.final)
            )
        elif isinstance(message, wire.Leases):
            server.handle(events.LeasesChanged(message.leases))
        elif isinstance(message, wire.ReserveBundles):
            server.handle(events.BundlesWanted(message.group_id, message.attempt, message.bundles))
        elif isinstance(message, wire.ReturnBundles):
            server.handle(events.BundlesUnwanted(message.group_id, message.indexes, message.cause))
        elif isinstance(message, wire.GroupJudged):
            server.handle(events.GroupWasJudged(message.group_id, message.job, message.infeasible))
        elif isinstance(message, wire.NodesAppeared):
            if server.links is not None:
                server.links.appeared(message.nodes)
        elif isinstance(message, wire.NodesDied):
            self._on_nodes_died(message)
        elif isinstance(message, wire.NodesLeave):
            server.handle(events.OthersLeave(message.nodes))
        else:
            server.desk.on_global_message(message)

    def _on_nodes_died(self, message: wire.NodesDied) -> None:
        server = self._server
        for node, cause in message.nodes:
            if node == server.identity.number:
                self._is_out = True
                has_left = cause == wire.HAS_LEFT
                reason = "" if has_left else f"the cluster has given this node up: {cause}"
                server.workers.end_session(reason)
                return
        if server.links is not None:
            server.links.died(message.nodes)
