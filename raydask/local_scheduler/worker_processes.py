"""The node's workers as processes: having them forked and ended, and hearing how they ended.

The supervisor forks them, or the job's own fork server; what they say comes by the supervisor's
connection.  A worker's end is three pieces of news in any order: its connection closes, its exit
is reported, and its output is read to the end.  The core is told when all are there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from raydask.local_scheduler import events
from raydask.local_scheduler.actions import (
    EndForkServer,
    KillWorker,
    PrepareWorkers,
    RetireWorker,
    StartWorkers,
)
from raydask.local_scheduler.exits import describe_exit
from raydask.wire import messages as wire
from raydask.wire.loop_connection import FrameProtocol

if TYPE_CHECKING:
    from raydask.local_scheduler.server import NodeServer, Peer

_log = logging.getLogger("raydask.node")

_ORPHAN_SECONDS = 2.0
_LAST_WORDS_SECONDS = 0.05


class WorkerProcesses:
    """The workers' processes of one node.

    Parameters
    ----------
    server : NodeServer
    """

    def __init__(self, server: NodeServer) -> None:
        self._server = server
        self._by_pid: dict[int, Peer] = {}
        self._supervisor: FrameProtocol | None = None

    def start(self, supervisor: FrameProtocol) -> None:
        """Begin to talk to the supervisor."""
        self._supervisor = supervisor
        supervisor.on_message = self._on_supervisor_message

    def _tell_supervisor(self, message: object) -> None:
        if self._supervisor is not None:
            self._supervisor.send(message)

    # --- what the core wants --------------------------------------------------------------

    def start_workers(self, action: StartWorkers) -> None:
        """Have workers forked."""
        self._tell_supervisor(wire.ForkWorkers(action.number, action.job))

    def prepare(self, action: PrepareWorkers) -> None:
        """Have a job's fork server, and have it import."""
        self._tell_supervisor(
            wire.PrepareWorkers(action.job, action.modules, action.search_path, action.folder)
        )

    def end_fork_server(self, action: EndForkServer) -> None:
        """End a job's fork server."""
        self._tell_supervisor(wire.EndForkServer(action.job))

    def kill(self, action: KillWorker) -> None:
        """End a worker at once."""
        peer = self._server.peers.get(action.process)
        if peer is not None:
            self._tell_supervisor(wire.EndChild(peer.hello.pid))

    def retire(self, action: RetireWorker) -> None:
        """Have a worker end by itself."""
        peer = self._server.peers.get(action.process)
        if peer is not None:
            _log.info("worker %d is to end: %s", peer.hello.pid, action.reason)
            peer.protocol.close()  # it flushes what it has printed, and ends

    def end_session(self, reason: str = "") -> None:
        """End everything; `reason` says why, if nobody has asked for it."""
        self._tell_supervisor(wire.EndSession(reason))

    # --- workers come and go --------------------------------------------------------------

    def came(self, peer: Peer) -> None:
        """Note a worker that has said hello."""
        self._by_pid[peer.hello.pid] = peer

    def lost(self, peer: Peer) -> None:
        """Note that a worker's connection is closed."""
        if peer.exit_cause:
            self._ended(peer)
        else:
            # Its exit is reported in a moment; if not, it lives without a connection.
            self._server.later(_ORPHAN_SECONDS, self._end_orphan, peer)

    def _end_orphan(self, peer: Peer) -> None:
        if not peer.exit_cause:
            self._tell_supervisor(wire.EndChild(peer.hello.pid))

    def _ended(self, peer: Peer) -> None:
        """Act on the end of a worker when what it printed last has been read."""
        if not peer.outputs:
            self._gone(peer)
        else:
            # Something that it started may keep them open for long.
            self._server.later(_LAST_WORDS_SECONDS, self._gone, peer)

    def output_ended(self, peer: Peer) -> None:
        """Note that one of a worker's outputs has been read to its end."""
        peer.outputs -= 1
        if not peer.outputs and peer.closed and peer.exit_cause:
            self._gone(peer)

    def _gone(self, peer: Peer) -> None:
        server = self._server
        if server.peers.get(peer.process) is not peer:
            return
        if peer.log is not None:
            peer.log.close()
            if peer.log.last_lines:
                peer.exit_cause += "; its last output: " + " | ".join(peer.log.last_lines)
        server.forget(peer)
        self._by_pid.pop(peer.hello.pid, None)
        if peer.control is None:
            self._failed_to_start(peer.exit_cause, peer.hello.job)
        else:
            server.handle(events.WorkerLeft(peer.process, peer.exit_cause, peer.hello.job))

    def _failed_to_start(self, cause: str, job: int) -> None:
        log = f"fork-server-{job}" if job else "workers"
        _log.error("a worker ended before it was up: %s; see logs/%s.log", cause, log)
        self._server.handle(events.WorkersFailed(1, job))

    # --- the supervisor -------------------------------------------------------------------

    def _on_supervisor_message(self, protocol: FrameProtocol, message: Any) -> None:
        if isinstance(message, wire.EndSession):
            self._server.cluster.leave()
        elif isinstance(message, wire.ChildExited):
            self._exited(message)
        elif isinstance(message, wire.WorkersPrepared):
            self._server.handle(events.WorkersPrepared(message.job))
        elif isinstance(message, wire.ForkServerEnded):
            _log.info("job %d has no fork server of its own", message.job)
            self._server.handle(events.ForkServerEnded(message.job))

    def _exited(self, message: wire.ChildExited) -> None:
        peer = self._by_pid.get(message.pid)
        cause = describe_exit(message, kernel_kills=self._server.recent_kernel_kills())
        if peer is not None:
            peer.exit_cause = cause
            if peer.closed:
                self._ended(peer)
        elif message.job >= 0:
            self._failed_to_start(cause, message.job)
