"""The shell around the local scheduler's core: sockets, the arena, the control state.

One asyncio loop.  Every message becomes an event for the core, and the core's actions are
carried out at once; what they write is gathered and goes out in one write for each
connection and turn.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from raydask.config import Config, shared_packages
from raydask.control import schema
from raydask.control.write_behind import WriteBehind
from raydask.control.write_behind_state import DirtyTable
from raydask.ids import (
    FunctionID,
    ObjectID,
    ProcessNumber,
    TaskID,
    is_peer,
    job_number,
    node_of_peer,
)
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import (
    Action,
    AnswerRegion,
    CancelPull,
    DeleteSpillFile,
    EndForkServer,
    EndProcess,
    EndSession,
    FillMemory,
    ForgetPull,
    GiveBackMemory,
    KillWorker,
    MeasureWorker,
    PrepareWorkers,
    RetireWorker,
    Send,
    SendControl,
    SendGlobal,
    StartPull,
    StartWorkers,
    WriteSpillFile,
)
from raydask.local_scheduler.global_link import GlobalLink
from raydask.local_scheduler.memory_rounds import MemoryRounds, memory_settings
from raydask.local_scheduler.policy import Pipeline, Resources
from raydask.local_scheduler.requests import RequestDesk
from raydask.local_scheduler.room import RoomSettings
from raydask.local_scheduler.shown_lines import ShownLines
from raydask.local_scheduler.state import Journals, LocalScheduler, Paths
from raydask.local_scheduler.worker_logs import WorkerLog
from raydask.local_scheduler.worker_pool import PoolSettings
from raydask.local_scheduler.worker_processes import WorkerProcesses
from raydask.object_store.spiller import Spiller
from raydask.object_store.state import StoreState
from raydask.task import RESOURCE_UNIT
from raydask.wire import messages as wire
from raydask.wire.handshake import judge
from raydask.wire.loop_connection import FrameProtocol, OutputProtocol, PendingWrites

if TYPE_CHECKING:
    from raydask.local_scheduler.node_links import NodeLinks

_log = logging.getLogger("raydask.node")

_FAST_TICK = 0.02
_SLOW_TICK = 0.25
_HEARTBEAT_SECONDS = 1.0


class NodeIdentity(NamedTuple):
    """What the node tells those who connect.

    Attributes
    ----------
    number : int
    session : str
        The session's folder.
    arena_path : str
    arena_size : int
    gpus : list of int
    is_detached : bool
        Whether the session has no driver of its own, whose end it ends with.
    labels : mapping of str to str
    link, data : str
        Where other nodes connect to this one, as in ``RegisterNode``.
    cluster : str
        The identity of the cluster that the node has joined; empty at its head.
    head_versions : mapping of str to str
        What that head runs, by names of ``raydask.wire.versions``; empty at a head.
    """

    number: int
    session: str
    arena_path: str
    arena_size: int
    gpus: list[int]
    is_detached: bool = False
    labels: Mapping[str, str] = MappingProxyType({})
    link: str = ""
    data: str = ""
    cluster: str = ""
    head_versions: Mapping[str, str] = MappingProxyType({})


class Tables(NamedTuple):
    """What of this node is in the control state."""

    jobs: DirtyTable[int]
    tasks: DirtyTable[TaskID]
    objects: DirtyTable[ObjectID]
    functions: DirtyTable[FunctionID]


class Peer:
    """A driver or worker that has said hello."""

    def __init__(self, process: ProcessNumber, hello: wire.Hello, protocol: FrameProtocol) -> None:
        self.process = process
        self.hello = hello
        self.protocol = protocol
        self.control: FrameProtocol | None = None
        self.job = 0
        self.task_name = ""
        self.closed = False
        self.exit_cause = ""
        self.log: WorkerLog | None = None
        self.shown: ShownLines | None = None
        """What a driver that wants lines is shown."""
        self.outputs = 0
        """How many of its output sockets are open."""


class NodeServer:
    """The node's event loop side.

    Parameters
    ----------
    identity : NodeIdentity
    config : Config
    resources : dict of str to int
        What the node has, in steps of 1 / ``RESOURCE_UNIT``.
    writer : WriteBehind
    spiller : Spiller
        Both started; closed by whoever made them.
    """

    def __init__(
        self,
        identity: NodeIdentity,
        config: Config,
        resources: dict[str, int],
        writer: WriteBehind,
        spiller: Spiller,
    ) -> None:
        self.identity = identity
        self.config = config
        self._preload = shared_packages(config)
        self.writer = writer
        self.tables = Tables(
            writer.table(schema.job_key),
            writer.table(schema.task_key),
            writer.table(schema.object_key),
            writer.table(schema.function_key),
        )
        self._spiller = spiller
        self.store = StoreState(identity.arena_size, config.slab_size)
        idle = max(1, resources.get("CPU", 0) // RESOURCE_UNIT)
        self.core = LocalScheduler(
            identity.number,
            Resources(resources, identity.gpus),
            Pipeline(config.pipeline_seconds, config.pipeline_tasks),
            PoolSettings(
                idle,
                config.idle_worker_seconds,
                config.reclaim_after,
                config.start_timeout,
                config.locality,
            ),
            self.store,
            RoomSettings(
                config.store_high_watermark,
                config.store_low_watermark,
                config.store_full_seconds,
                config.inline_share,
            ),
            Journals(self.tables.tasks, self.tables.objects, self.tables.functions, writer.record),
            Paths(self.address_of, spiller.path_of),
            config.infeasible_seconds,
            memory_settings(config, identity.arena_size, idle),
        )
        self._memory = MemoryRounds(identity.arena_path, config, self.core, self.handle)
        self.writes = PendingWrites()
        self.lines_forwarded = 0
        self.peers: dict[ProcessNumber, Peer] = {}
        self._process_count = 0
        self._job_count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._heartbeat_at = 0.0
        self.links: NodeLinks | None = None
        """Set by whoever starts the node, where other nodes can reach it."""
        self.cluster = GlobalLink(self)
        self.desk = RequestDesk(self)
        self.workers = WorkerProcesses(self)
        self._do = self._action_table()
        self._on = self._message_table()

    def _action_table(self) -> dict[type, Callable[[Any], None]]:
        """Return what carries out each action."""
        return {
            Send: self._do_send,
            SendControl: self._do_send_control,
            SendGlobal: lambda action: self.cluster.send(action.message),
            StartWorkers: self.workers.start_workers,
            PrepareWorkers: self.workers.prepare,
            EndForkServer: self.workers.end_fork_server,
            KillWorker: self.workers.kill,
            WriteSpillFile: self._do_write_spill_file,
            DeleteSpillFile: lambda action: self._spiller.delete(action.file),
            FillMemory: lambda action: self._spiller.fill(action.offset, action.data),
            GiveBackMemory: lambda action: self._spiller.give_back(action.runs),
            AnswerRegion: self._do_answer_region,
            RetireWorker: self.workers.retire,
            MeasureWorker: self._memory.measure_worker,
            EndProcess: self._do_end_process,
            StartPull: self._do_start_pull,
            CancelPull: self._do_cancel_pull,
            EndSession: lambda action: self.workers.end_session(),
            ForgetPull: self._do_forget_pull,
        }

    def _message_table(self) -> dict[type, Callable[[Peer, Any], None]]:
        """Return what handles each message of a process."""
        return {
            wire.Submit: self._on_submit,
            wire.Get: self._on_get,
            wire.Watch: self._on_watch,
            wire.Unblocked: self._on_unblocked,
            wire.Release: self._on_release,
            wire.Acquire: self._on_acquire,
            wire.Put: self._on_put,
            wire.PutFor: self._on_put_for,
            wire.Promise: self._on_promise,
            wire.FollowActor: self._on_follow,
            wire.RetireRegions: self._on_retire,
            wire.Pin: self._on_pin,
            wire.Unpin: self._on_unpin,
            wire.Export: self._on_export,
            wire.Preload: self._on_preload,
            wire.Request: self.desk.on_request,
            wire.CallSite: self.desk.on_call_site,
            wire.Results: self._on_results,
            wire.Reclaimed: self._on_reclaimed,
        }

    # --- lifecycle ------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop, supervisor: FrameProtocol) -> None:
        """Begin to work: start workers and the clock."""
        self._loop = loop
        self.workers.start(supervisor)
        self._memory.start()
        self._carry_out(self.core.start())
        self._tick()
        self._write_behind()

    def make_protocol(self) -> FrameProtocol:
        """Return the protocol of a new connection."""
        return FrameProtocol(self._on_first_message, None, self.writes)

    @property
    def drivers(self) -> int:
        """How many drivers there are."""
        return sum(peer.hello.role == "driver" for peer in self.peers.values())

    def later(self, seconds: float, call: Callable[..., None], *args: object) -> None:
        """Have something done in a while, if the node still works then."""
        if self._loop is not None:
            self._loop.call_later(seconds, call, *args)

    def recent_kernel_kills(self) -> int:
        """Return how many processes the kernel has just ended because memory had run out."""
        return self._memory.recent_kernel_kills()

    def handle(self, event: events.Event) -> None:
        """Tell the core, and do what it says."""
        self._carry_out(self.core.handle(event, time.time()))

    def _carry_out(self, actions: list[Action]) -> None:
        do = self._do
        for action in actions:
            do[type(action)](action)

    def _tick(self) -> None:
        assert self._loop is not None
        now = time.time()
        self.handle(events.ClockTicked())
        if now - self._heartbeat_at >= _HEARTBEAT_SECONDS:
            self._heartbeat_at = now
            self.cluster.heartbeat()
        self._memory.tick(now)
        pause = _FAST_TICK if self.core.is_busy else _SLOW_TICK
        self._ticker = self._loop.call_later(pause, self._tick)

    def _write_behind(self) -> None:
        assert self._loop is not None
        self._loop.call_later(self.writer.tick(), self._write_behind)

    @property
    def bytes_sent(self) -> int:
        """How many bytes of objects have been sent to other nodes."""
        return self.links.transfers.bytes_sent if self.links is not None else 0

    def address_of(self, process: ProcessNumber) -> str:
        """Return the path of a worker's socket for callers of its actor."""
        return os.path.join(self.identity.session, f"w{process}.sock")

    # --- connections ----------------------------------------------------------------------

    def _on_first_message(self, protocol: FrameProtocol, hello: Any) -> None:
        if not isinstance(hello, wire.Hello):
            _log.warning("a connection began with %s instead of Hello", type(hello).__name__)
            protocol.close()
            return
        if hello.role in ("driver", "worker", "observer"):
            self._welcome(protocol, hello)
        elif hello.role == "control":
            self._control_connected(protocol, hello)
        elif hello.role == "call" and self.links is not None:
            self.links.relays.call(protocol, hello.node, hello.process)
        elif hello.role in ("stdout", "stderr"):
            peer = self.peers.get(ProcessNumber(hello.process))
            if peer is not None:
                peer.outputs += 1
                protocol.on_lost = lambda _, error: self.workers.output_ended(peer)
                protocol.become_raw(OutputProtocol(peer, hello.role, self._forward_lines))
        else:
            _log.warning("a connection claims the unknown role %r", hello.role)
            protocol.close()

    def _welcome(self, protocol: FrameProtocol, hello: wire.Hello) -> None:
        head = self.identity.head_versions
        refusal, warning = judge(
            hello,
            ours="this node",
            theirs=f"the {hello.role}",
            beside=[("the head", head)] if head else [],
        )
        self._process_count += 1
        process = ProcessNumber(self._process_count)
        job = 0
        if hello.role == "driver" and not refusal:
            self._job_count += 1
            job = job_number(self.identity.number, self._job_count)
        protocol.send(
            wire.Welcome(
                self.identity.number,
                process,
                job,
                self.identity.arena_path,
                self.identity.arena_size,
                self.store.slab_size,
                self.config.inline_limit,
                self.identity.session,
                refusal,
                self.config.record_call_sites,
                self._preload,
                warning,
            )
        )
        if refusal:
            protocol.close()
            return
        peer = Peer(process, hello, protocol)
        peer.job = job
        self.peers[process] = peer
        protocol.on_message = lambda _, message: self._dispatch(peer, message)
        protocol.on_lost = lambda _, error: self._peer_lost(peer)
        if hello.role == "driver":
            if hello.log_to_driver:
                peer.shown = ShownLines(protocol)
            self.desk.driver_joined(peer)
            self.handle(
                events.DriverJoined(process, job, hello.namespace, hello.search_path, hello.folder)
            )
        elif hello.role == "worker":
            self.workers.came(peer)
            path = Path(self.identity.session) / "logs" / f"worker-{hello.pid}.log"
            peer.log = WorkerLog(path, self.config.log_bytes)

    def _control_connected(self, protocol: FrameProtocol, hello: wire.Hello) -> None:
        peer = self.peers.get(ProcessNumber(hello.process))
        if peer is None:
            protocol.close()
            return
        peer.control = protocol
        protocol.on_message = lambda _, message: self._dispatch(peer, message)
        self.handle(events.WorkerJoined(peer.process, peer.hello.pid, peer.hello.job))

    def _dispatch(self, peer: Peer, message: Any) -> None:
        handler = self._on.get(type(message))
        if handler is None:
            _log.warning("process %d sent %s", peer.process, type(message).__name__)
            peer.protocol.close()
            return
        handler(peer, message)

    def _peer_lost(self, peer: Peer) -> None:
        peer.closed = True
        if peer.hello.role == "driver":
            self.desk.driver_left(peer)
            self.forget(peer)
            self.handle(events.DriverLeft(peer.process))
            return
        if peer.hello.role == "observer":
            self.forget(peer)
            return
        self.workers.lost(peer)

    def forget(self, peer: Peer) -> None:
        """Drop a process that has gone."""
        self.peers.pop(peer.process, None)
        if peer.control is not None:
            peer.control.close()

    # --- what processes say ---------------------------------------------------------------

    def _on_submit(self, peer: Peer, message: wire.Submit) -> None:
        self.handle(events.TasksSubmitted(peer.process, message.templates, message.specs))

    def _on_get(self, peer: Peer, message: wire.Get) -> None:
        self.handle(
            events.ValuesRequested(
                peer.process, message.object_ids, message.blocks, message.reclaimed
            )
        )

    def _on_watch(self, peer: Peer, message: wire.Watch) -> None:
        self.handle(
            events.ObjectsWatched(
                peer.process, message.object_ids, message.blocks, message.reclaimed
            )
        )

    def _on_unblocked(self, peer: Peer, message: wire.Unblocked) -> None:
        self.handle(events.WorkerUnblocked(peer.process))

    def _on_release(self, peer: Peer, message: wire.Release) -> None:
        self.handle(events.ObjectsReleased(peer.process, message.object_ids))

    def _on_acquire(self, peer: Peer, message: wire.Acquire) -> None:
        self.handle(events.ObjectsAcquired(peer.process, message.object_ids))

    def _on_put(self, peer: Peer, message: wire.Put) -> None:
        self.handle(events.ObjectsPut(peer.process, peer.process, message.values))

    def _on_put_for(self, peer: Peer, message: wire.PutFor) -> None:
        holder = ProcessNumber(message.process)
        if message.node in (0, self.identity.number):
            self.handle(events.ObjectsPut(peer.process, holder, message.values))
        else:
            self.handle(events.ResultsReturned(peer.process, message.node, holder, message.values))

    def _on_promise(self, peer: Peer, message: wire.Promise) -> None:
        self.handle(events.ObjectsPromised(peer.process, message.object_ids))

    def _on_follow(self, peer: Peer, message: wire.FollowActor) -> None:
        self.handle(events.ActorFollowed(peer.process, message.actor_id))

    def _on_export(self, peer: Peer, message: wire.Export) -> None:
        self.handle(
            events.FunctionExported(
                peer.process, message.function_id, message.code, message.name, message.nested
            )
        )

    def _on_preload(self, peer: Peer, message: wire.Preload) -> None:
        self.handle(events.ModulesNamed(peer.process, message.modules))

    def _on_results(self, peer: Peer, message: wire.Results) -> None:
        self.handle(events.TasksEnded(peer.process, message.results))

    def _on_reclaimed(self, peer: Peer, message: wire.Reclaimed) -> None:
        self.handle(events.TasksReclaimed(peer.process, message.task_ids))

    def _on_retire(self, peer: Peer, message: wire.RetireRegions) -> None:
        self.handle(events.RegionsRetired(peer.process, message.runs))

    def _on_pin(self, peer: Peer, message: wire.Pin) -> None:
        self.handle(events.ObjectsPinned(peer.process, message.object_ids))

    def _on_unpin(self, peer: Peer, message: wire.Unpin) -> None:
        self.handle(events.ObjectsUnpinned(peer.process, message.object_ids))

    def _forward_lines(self, peer: Peer, stream: str, lines: list[str]) -> None:
        if peer.log is not None:
            peer.log.write(lines)
        self.lines_forwarded += len(lines)
        worker = self.core.pool.workers.get(peer.process)
        job = worker.job if worker is not None else peer.job
        name = peer.task_name
        batch = [wire.LogLine(peer.hello.pid, name, stream, line) for line in lines]
        self.show_lines(job, batch)
        if self.links is not None:
            self.links.forward_lines(job, batch)

    def show_lines(self, job: int, lines: list[wire.LogLine]) -> None:
        """Have a job's driver show what its workers have printed, if it is here."""
        for peer in self.peers.values():
            if peer.shown is not None and peer.job == job:
                peer.shown.show(lines)

    # --- what the core wants --------------------------------------------------------------

    def _do_send(self, action: Send) -> None:
        peer = self.peers.get(action.process)
        if peer is None:
            if self.links is not None and is_peer(action.process):
                self.links.send(node_of_peer(action.process), action.message)
            return
        message = action.message
        if type(message) is wire.Execute and message.templates:
            peer.task_name = message.templates[-1].template.name
        peer.protocol.send(message)

    def _do_send_control(self, action: SendControl) -> None:
        peer = self.peers.get(action.process)
        if peer is not None and peer.control is not None:
            peer.control.send(action.message)

    def _do_write_spill_file(self, action: WriteSpillFile) -> None:
        loop = self._loop
        assert loop is not None
        call = loop.call_soon_threadsafe

        def on_done(file: int, error: OSError | None) -> None:
            try:
                call(self._spill_file_ended, file, error)
            except RuntimeError:
                pass  # the loop has ended, and the node with it

        self._spiller.write(action.batch, on_done)

    def _spill_file_ended(self, file: int, error: OSError | None) -> None:
        if error is not None:
            _log.error("spill file %d cannot be written: %s", file, error)
        self.handle(events.SpillEnded(file, "" if error is None else str(error)))

    def _do_answer_region(self, action: AnswerRegion) -> None:
        if not action.process:
            # Room for an object that this node fetches itself.
            answer = events.RoomAnswered(action.number, action.offset, action.error)
            self.later(0.0, self.handle, answer)
            return
        offset = None if action.error else action.offset
        self.desk.answer(action.process, action.number, offset, action.error)

    def _do_start_pull(self, action: StartPull) -> None:
        if self.links is not None:
            self.links.start_pull(action)

    def _do_cancel_pull(self, action: CancelPull) -> None:
        if self.links is not None:
            self.links.cancel_pull(action)

    def _do_forget_pull(self, action: ForgetPull) -> None:
        if self.links is not None:
            self.links.forget_pull(action)

    def _do_end_process(self, action: EndProcess) -> None:
        _log.error("process %d is cut off: %s", action.process, action.reason)
        if self.links is not None and is_peer(action.process):
            self.links.cut_off(node_of_peer(action.process))
        peer = self.peers.get(action.process)
        if peer is not None:
            peer.protocol.close()
