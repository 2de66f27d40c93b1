"""Rare operations that processes ask their node for, and names of actors."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from raydask.control import tables
from raydask.errors import RaydaskError, UsageError
from raydask.ids import ActorID, PlacementGroupID, ProcessNumber, TaskID
from raydask.local_scheduler import events
from raydask.local_scheduler.call_sites import CallSiteTable
from raydask.local_scheduler.memory_report import Surroundings, report
from raydask.local_scheduler.process_memory import private_memory
from raydask.placement import ungrouped
from raydask.serialization import serialize_error
from raydask.task import in_units
from raydask.wire import messages as wire
from raydask.wire.handshake import versions_here
from raydask.wire.memory import MemoryReport, Query
from raydask.wire.status import NodeStatus

if TYPE_CHECKING:
    from raydask.local_scheduler.server import NodeServer, Peer

_encode = msgspec.msgpack.encode
_QUIET_SECONDS = 0.005
_LONGEST_OUTPUT_SECONDS = 2.0


class _Document:
    """A job's entry as it stands."""

    def __init__(self, entry: tables.JobEntry) -> None:
        self.entry = entry

    def document(self) -> bytes:
        """Return the entry's JSON."""
        return tables.encode(self.entry)


_Question = (
    wire.ClaimName
    | wire.FindActor
    | wire.CreateGroup
    | wire.RemoveGroup
    | wire.ListGroups
    | wire.ListNodes
)


class RequestDesk:
    """Answers the requests of one node's processes.

    Parameters
    ----------
    server : NodeServer
    """

    def __init__(self, server: NodeServer) -> None:
        self._server = server
        self._numbers = 0
        self._asked: dict[int, tuple[ProcessNumber, int, object]] = {}
        self._jobs: dict[ProcessNumber, _Document] = {}
        self._view: dict[int, tuple[dict[str, int], dict[str, int], float]] = {}
        self._call_sites = CallSiteTable(server.core.objects.records)
        self._operations: dict[str, Callable[[Peer, int, bytes], object]] = {
            "region": self._region,
            "barrier": self._barrier,
            "leave": self._leave,
            "cancel": self._cancel,
            "kill_actor": self._kill_actor,
            "claim_name": self._claim_name,
            "get_actor": self._get_actor,
            "create_group": self._create_group,
            "remove_group": self._remove_group,
            "groups": self._groups,
            "nodes": self._nodes,
            "memory": self._memory,
            "end_session": self._end_session,
            "drain": self._drain,
        }

    def on_request(self, peer: Peer, message: wire.Request) -> None:
        """Answer a request, now or when the global scheduler has."""
        operation = self._operations.get(message.operation)
        try:
            if operation is None:
                raise UsageError(f"the node knows no operation {message.operation!r}")
            result = operation(peer, message.number, message.payload)
        except (RaydaskError, msgspec.DecodeError) as error:
            self.answer(peer.process, message.number, None, serialize_error(error))
            return
        if result is not _LATER:
            self.answer(peer.process, message.number, result)

    def answer(
        self, process: ProcessNumber, number: int, result: object, error: bytes = b""
    ) -> None:
        """Send the reply to a request."""
        peer = self._server.peers.get(process)
        if peer is not None:
            peer.protocol.send(wire.Reply(number, error, _encode(result)))

    # --- jobs -----------------------------------------------------------------------------

    def driver_joined(self, peer: Peer) -> None:
        """Note a job."""
        entry = tables.JobEntry(
            number=peer.job,
            state="RUNNING",
            node=self._server.identity.number,
            driver=peer.hello.pid,
            entry_point=peer.hello.entry_point,
            namespace=peer.hello.namespace,
            started=time.time(),
        )
        document = self._jobs[peer.process] = _Document(entry)
        self._server.tables.jobs.put(peer.job, document)

    def driver_left(self, peer: Peer) -> None:
        """Note that a job's driver has gone."""
        document = self._jobs.pop(peer.process, None)
        if document is not None:
            entry = document.entry
            if entry.state == "RUNNING":
                entry.state = "DEAD"
            entry.finished = time.time()
            self._server.tables.jobs.put(peer.job, document)

    def _leave(self, peer: Peer, number: int, payload: bytes) -> object:
        document = self._jobs.get(peer.process)
        if document is not None:
            document.entry.state = "FINISHED"
        self._answer_when_quiet(peer, number, -1, time.monotonic() + _LONGEST_OUTPUT_SECONDS)
        return _LATER

    def _end_session(self, peer: Peer, number: int, payload: bytes) -> object:
        self._refuse_to_end_what_a_program_has()
        self._server.later(0.0, self._server.workers.end_session)  # the answer goes first
        return True

    def _refuse_to_end_what_a_program_has(self) -> None:
        server = self._server
        if not server.identity.is_detached:
            pids = [each.hello.pid for each in server.peers.values() if each.hello.role == "driver"]
            raise UsageError(
                f"the session in {server.identity.session} ends with the program that started it "
                f"(its drivers are the processes {', '.join(map(str, sorted(pids)))}); end that"
            )

    def _drain(self, peer: Peer, number: int, payload: bytes) -> object:
        """Let the node leave, or go on with that; the answer says what it waits for."""
        seconds, by_owner = msgspec.msgpack.decode(payload, type=tuple[float, bool])
        if not by_owner:
            self._refuse_to_end_what_a_program_has()
        server = self._server
        server.handle(events.DrainRequested(seconds, is_last=not server.identity.cluster))
        draining = server.core.draining
        return "" if draining is None else draining.awaited

    def _answer_when_quiet(self, peer: Peer, number: int, before: int, deadline: float) -> None:
        """Answer when nothing more comes of what the driver's tasks have printed."""
        lines = self._server.lines_forwarded
        if lines == before or time.monotonic() > deadline:
            self.answer(peer.process, number, True)
            return
        asyncio.get_running_loop().call_later(
            _QUIET_SECONDS, self._answer_when_quiet, peer, number, lines, deadline
        )

    # --- the object store -----------------------------------------------------------------

    def _region(self, peer: Peer, number: int, payload: bytes) -> object:
        size = msgspec.msgpack.decode(payload, type=int)
        self._server.handle(events.RegionRequested(peer.process, number, size))
        return _LATER

    def _barrier(self, peer: Peer, number: int, payload: bytes) -> object:
        # The answer says that everything before the request has been read and acted on, and that
        # other nodes know of what the process holds of theirs.
        if self._server.core.between is None:
            return True
        self._server.handle(events.WordAsked(peer.process, number))
        return _LATER

    # --- where the memory is --------------------------------------------------------------

    def on_call_site(self, peer: Peer, message: wire.CallSite) -> None:
        """Note where objects were made, for whoever asks where the memory is."""
        self._call_sites.note(message.site, message.object_ids)

    def _memory(self, peer: Peer, number: int, payload: bytes) -> object:
        server = self._server
        drivers = {
            each.process: (each.hello.pid, each.hello.entry_point)
            for each in server.peers.values()
            if each.hello.role == "driver"
        }
        around = Surroundings(
            server.identity.number,
            server.identity.session,
            os.getpid(),
            drivers,
            self._call_sites.sites,
            private_memory,
        )
        query = msgspec.msgpack.decode(payload, type=Query)
        return MemoryReport([report(server.core, around, query)])

    # --- tasks and actors -----------------------------------------------------------------

    def _cancel(self, peer: Peer, number: int, payload: bytes) -> object:
        task_ids, force, recursive = msgspec.msgpack.decode(
            payload, type=tuple[list[bytes], bool, bool]
        )
        ids = [TaskID(task_id) for task_id in task_ids]
        self._server.handle(events.CancelRequested(peer.process, ids, force, recursive))
        return True

    def _kill_actor(self, peer: Peer, number: int, payload: bytes) -> object:
        actor_id, no_restart = msgspec.msgpack.decode(payload, type=tuple[bytes, bool])
        self._server.handle(events.KillActorRequested(peer.process, ActorID(actor_id), no_restart))
        return True

    def _claim_name(self, peer: Peer, number: int, payload: bytes) -> object:
        name, namespace, actor_id, handle = msgspec.msgpack.decode(
            payload, type=tuple[str, str, bytes, bytes]
        )
        claim = wire.ClaimName(0, name, namespace, ActorID(actor_id), handle)
        return self._ask(peer, number, claim)

    def _get_actor(self, peer: Peer, number: int, payload: bytes) -> object:
        name, namespace = msgspec.msgpack.decode(payload, type=tuple[str, str])
        return self._ask(peer, number, wire.FindActor(0, name, namespace))

    def _ask(self, peer: Peer, number: int, message: _Question) -> object:
        self._numbers += 1
        message.number = self._numbers
        self._asked[self._numbers] = (peer.process, number, message)
        self._server.cluster.send(message)
        return _LATER

    def ask_again(self) -> None:
        """Ask a global scheduler that has just come what another has not answered."""
        for _, _, message in self._asked.values():
            self._server.cluster.send(message)

    # --- placement groups -----------------------------------------------------------------

    def _create_group(self, peer: Peer, number: int, payload: bytes) -> object:
        message = msgspec.msgpack.decode(payload, type=wire.CreateGroup)
        if not message.detached and message.job not in self._server.core.pool.job_settings:
            raise UsageError("the job that the placement group would end with has ended")
        return self._ask(peer, number, message)

    def _remove_group(self, peer: Peer, number: int, payload: bytes) -> object:
        group_id = msgspec.msgpack.decode(payload, type=bytes)
        return self._ask(peer, number, wire.RemoveGroup(0, PlacementGroupID(group_id)))

    def _groups(self, peer: Peer, number: int, payload: bytes) -> object:
        return self._ask(peer, number, wire.ListGroups(0))

    # --- the cluster ----------------------------------------------------------------------

    def on_global_message(self, message: Any) -> None:
        """Take in what the global scheduler answers."""
        if isinstance(message, wire.ActorFound):
            asked = self._asked.pop(message.number, None)
            if asked is not None:
                process, number, _ = asked
                self.answer(process, number, (message.actor_id, message.handle))
        elif isinstance(message, wire.GroupsAnswered):
            asked = self._asked.pop(message.number, None)
            if asked is not None:
                process, number, _ = asked
                refusal = message.refusal
                error = serialize_error(UsageError(refusal)) if refusal else b""
                self.answer(process, number, message.groups, error)
        elif isinstance(message, wire.NodesListed):
            asked = self._asked.pop(message.number, None)
            if asked is not None:
                process, number, _ = asked
                self.answer(process, number, self._with_own_status(message.nodes))
        elif isinstance(message, wire.ClusterView):
            self._view = message.nodes

    def _nodes(self, peer: Peer, number: int, payload: bytes) -> object:
        if self._server.cluster.is_up and self._server.core.between is not None:
            return self._ask(peer, number, wire.ListNodes(0))
        seen = [
            NodeStatus(node, True, in_units(total), in_units(available), queued=int(queued))
            for node, (total, available, queued) in self._view.items()
        ]
        return self._with_own_status(seen)

    def _with_own_status(self, nodes: list[NodeStatus]) -> list[NodeStatus]:
        """Return the nodes with what is known of this one now."""
        server = self._server
        core = server.core
        pool = core.pool
        own = NodeStatus(
            server.identity.number,
            True,
            in_units(ungrouped(pool.resources.total)),
            in_units(ungrouped(pool.resources.available)),
            server.identity.arena_size,
            server.store.used,
            len(core.tasks),
            len(core.objects.records),
            pool.queued,
            core.infeasible,
            len(pool.workers),
            server.drivers,
            server.identity.session,
            versions_here(),
            server.bytes_sent,
            dict(server.identity.labels),
        )
        others = [status for status in nodes if status.node != own.node]
        return sorted([own, *others], key=lambda status: status.node)


_LATER = object()
