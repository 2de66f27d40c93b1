"""The local scheduler's core: events in, actions out. Pure.

It is the home of every task and object made on its node.  It takes tasks from submission to
their end (`TaskTable`), gives ready ones to workers (`WorkerPool`), counts who holds what
(`ObjectTable`), follows the lives of actors (`ActorTable`), and ends with a job what belongs to it
(`Jobs`).  This module is what they have in common: the table of events, and the processes that
come and go.  Time comes in with every event; what is to be done goes out as actions; changes are
noted in journals, from which the control state is written behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from raydask.control.write_behind_state import Journal, Source
from raydask.errors import InternalError, TaskCancelledError
from raydask.ids import (
    NodeNumber,
    ObjectID,
    ProcessNumber,
    TaskID,
    home_of,
    home_of_job,
)
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import Action, EndProcess, Send
from raydask.local_scheduler.actors import ActorTable
from raydask.local_scheduler.bundles import BundleTable
from raydask.local_scheduler.drivers import Drivers
from raydask.local_scheduler.functions import FunctionTable
from raydask.local_scheduler.interruption import Interruptions
from raydask.local_scheduler.jobs import Jobs
from raydask.local_scheduler.memory_watch import MemorySettings, MemoryWatch
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.passing_up import PassedUpTasks
from raydask.local_scheduler.placements import Placements
from raydask.local_scheduler.policy import Pipeline, Resources
from raydask.local_scheduler.records import (
    TaskRecord,
    TaskState,
    TemplateRecord,
    WorkerRecord,
)
from raydask.local_scheduler.room import Room, RoomSettings
from raydask.local_scheduler.tasks import TaskTable
from raydask.local_scheduler.worker_pool import PoolSettings, WorkerPool
from raydask.object_store.state import StoreState
from raydask.serialization import serialize_error
from raydask.task import TaskTemplate
from raydask.wire.messages import Reply

if TYPE_CHECKING:
    from raydask.local_scheduler.between_nodes import BetweenNodes
    from raydask.local_scheduler.draining import Draining


_TRUE = b"\xc3"
"""In msgpack."""


class Journals(NamedTuple):
    """Where the control state's tables learn what has changed."""

    tasks: Journal
    objects: Journal
    functions: Journal
    record: Callable[[Source], None]
    """Takes what happened to a task, for the stream of events."""


class Paths(NamedTuple):
    """Where in the file system things are that others are told of."""

    worker_socket: Callable[[ProcessNumber], str]
    """Of a worker, for callers of its actor."""
    spill_file: Callable[[int], str]
    """Of spilled objects, by its number."""


class LocalScheduler:
    """The core of one node.

    Parameters
    ----------
    node : int
    resources : Resources
    pipeline : Pipeline
    settings : PoolSettings
    store : StoreState
    room_settings : RoomSettings
    journals : Journals
    paths : Paths
    infeasible_seconds : float
        How long a task that no node could run waits for one that can.
    memory_settings : MemorySettings
    """

    def __init__(
        self,
        node: int,
        resources: Resources,
        pipeline: Pipeline,
        settings: PoolSettings,
        store: StoreState,
        room_settings: RoomSettings,
        journals: Journals,
        paths: Paths,
        infeasible_seconds: float = 30.0,
        memory_settings: MemorySettings = MemorySettings(),  # noqa: B008  (immutable)
    ) -> None:
        self._outgoing = Outgoing()
        self.store = store
        self.objects = ObjectTable(
            store, self._outgoing, journals.objects, self._forget_task, self._value_came_to
        )
        self.pool = WorkerPool(
            settings, resources, pipeline, self.objects, self._outgoing, journals.tasks
        )
        self.actors = ActorTable(node, self.pool, self._outgoing, paths.worker_socket)
        self._templates: dict[ProcessNumber, dict[int, TemplateRecord]] = {}
        self._template_count = 0
        self._drivers = Drivers(self.pool, self._outgoing)
        self._functions = FunctionTable(self.objects, journals.functions)
        self.pool.functions = self._functions.records
        self._passed_up = PassedUpTasks(node, self._outgoing, infeasible_seconds)
        self._interruptions = Interruptions(self.pool, self._outgoing)
        self.memory = MemoryWatch(memory_settings, self.pool, self.actors, self._drivers.tell)
        self._work = TaskTable(
            node,
            store,
            self.objects,
            self.pool,
            self.actors,
            self._passed_up,
            self._interruptions,
            self.memory,
            self._outgoing,
            journals.tasks,
            journals.record,
        )
        self.room = self._new_room(room_settings, paths)
        self.tasks = self._work.records
        self.bundles = BundleTable(self.pool, self._work, self._outgoing, self._drivers.tell)
        self._node = NodeNumber(node)
        self._jobs = self._new_jobs()
        self._placements = Placements(
            self._node, self._work, self.actors, self._passed_up, self._drivers.tell
        )
        self.between: BetweenNodes | None = None
        self.draining: Draining | None = None
        self._now = 0.0
        self._handlers = self._table()

    def _new_room(self, settings: RoomSettings, paths: Paths) -> Room:
        return Room(
            settings,
            self.store,
            self.objects,
            self._outgoing,
            paths.spill_file,
            self._drivers.announce,
            self.pool.others_work,
        )

    def _new_jobs(self) -> Jobs:
        return Jobs(
            self._node,
            self._drivers,
            self._work,
            self.pool,
            self.actors,
            self.bundles,
            self._functions,
            self._outgoing,
        )

    def _table(self) -> dict[type, Callable[[Any], None]]:
        """Return what handles each event."""
        objects = self.objects
        return {
            events.DriverJoined: self._on_driver_joined,
            events.DriverLeft: self._on_driver_left,
            events.WorkerJoined: self._on_worker_joined,
            events.WorkerLeft: self._on_worker_left,
            events.WorkersFailed: self._on_workers_failed,
            events.ModulesNamed: self._on_modules_named,
            events.WorkersPrepared: lambda event: self.pool.prepared(event.job),
            events.ForkServerEnded: lambda event: self.pool.starts.server_ended(event.job),
            events.TasksSubmitted: self._on_submitted,
            events.FunctionExported: self._on_exported,
            events.ValuesRequested: self._on_requested,
            events.ObjectsWatched: self._on_watched,
            events.WorkerUnblocked: self._on_unblocked,
            events.ObjectsPut: self._on_put,
            events.ResultsReturned: self._on_results_returned,
            events.WordAsked: self._on_word_asked,
            events.ObjectsPromised: lambda event: objects.promise(event.process, event.object_ids),
            events.ObjectsAcquired: lambda event: objects.acquire(event.process, event.object_ids),
            events.ObjectsReleased: lambda event: objects.release(event.process, event.object_ids),
            events.ObjectsPinned: lambda event: objects.pin(event.process, event.object_ids),
            events.ObjectsUnpinned: lambda event: objects.unpin(event.process, event.object_ids),
            events.RegionRequested: self._on_region_requested,
            events.RegionsRetired: self._on_regions_retired,
            events.SpillEnded: self._on_spill_ended,
            events.TasksEnded: self._on_ended,
            events.TasksReclaimed: self._on_reclaimed,
            events.CancelRequested: self._on_cancel,
            events.ActorFollowed: self._on_followed,
            events.KillActorRequested: self._on_kill_actor,
            events.ActorWasPlaced: self._on_actor_placed,
            events.TasksFoundInfeasible: self._placements.found_infeasible,
            events.TasksPlaced: self._placements.placed,
            events.BundlesWanted: self.bundles.reserve,
            events.BundlesUnwanted: self.bundles.give_back,
            events.GroupWasJudged: self.bundles.judged,
            events.GlobalSchedulerCame: self._on_global_scheduler,
            events.WorkerMeasured: self._on_worker_measured,
            events.MemoryMeasured: self._on_memory_measured,
            events.NodesCame: self._on_nodes_came,
            events.NodesLost: self._on_nodes_lost,
            events.PeerSaid: self._on_peer_said,
            events.LeasesChanged: self._on_leases_changed,
            events.RoomAnswered: self._on_room_answered,
            events.PullEnded: self._on_pull_ended,
            events.DrainRequested: self._on_drain_requested,
            events.OthersLeave: self._on_others_leave,
            events.ClockTicked: self._on_tick,
        }

    def start(self) -> list[Action]:
        """Return what is to be done first."""
        self.pool.prestart()
        return self._outgoing.take()

    def handle(self, event: events.Event, now: float) -> list[Action]:
        """Take in what has happened; return what is to be done.

        Parameters
        ----------
        event : Event
        now : float
            Seconds since the epoch.
        """
        self._now = self._work.now = now
        self._handlers[type(event)](event)
        between = self.between
        if between is not None and self.room.is_short:
            between.make_room(self.room.wanted)
        self.room.balance(now)
        self.pool.schedule(now, self.room.is_short)
        if between is not None:
            between.balance(now)
        return self._outgoing.take()

    # --- processes ------------------------------------------------------------------------

    def _on_driver_joined(self, event: events.DriverJoined) -> None:
        self._templates[event.process] = {}
        self.objects.join(event.process)
        self._drivers.joined(event)

    def _on_worker_joined(self, event: events.WorkerJoined) -> None:
        self._templates[event.process] = {}
        self.objects.join(event.process)
        self.pool.join(event.process, event.pid, self._now, event.job)

    def _on_workers_failed(self, event: events.WorkersFailed) -> None:
        self.pool.starts.failed(event.number, event.job, self._now)

    def _on_modules_named(self, event: events.ModulesNamed) -> None:
        settings = self.pool.job_settings.get(self._drivers.job_of(event.process))
        if settings is not None:
            self.pool.starts.prepare(settings, event.modules, self._now)

    def _on_driver_left(self, event: events.DriverLeft) -> None:
        job = self._drivers.jobs.pop(event.process, None)
        if job is None:
            return
        self._jobs.end(job)
        self._leave(event.process)

    def _on_worker_left(self, event: events.WorkerLeft) -> None:
        worker = self.pool.workers.get(event.process)
        if worker is None:
            # It had said hello, and was not yet up.
            self.pool.starts.failed(1, event.job, self._now)
            return
        cause = worker.dying or event.cause
        tasks = self.pool.leave(worker)
        if worker.actor_id is not None:
            actor = self.actors.records.get(worker.actor_id)
            if actor is not None and actor.worker is worker:
                self._work.creations.actor_process_died(actor, cause)
            elif self.between is not None:
                self.between.hosting.worker_died(worker, cause)
        verdict = self.memory.verdict_on(event.process)
        for position, task in enumerate(tasks):
            if task.state == TaskState.ASSIGNED:
                # The task that it was ended for may have ended in the meantime.
                own = verdict if verdict is not None and verdict.task is task else None
                self._work.worker_died_with(task, cause, position == 0, own)
        self._leave(event.process)
        if worker.job and worker.job not in self.pool.job_settings:
            # With this worker the last that its job held may have gone.
            self._jobs.one_has_ended = True
        self.pool.refill(worker.job)

    def _leave(self, process: ProcessNumber) -> None:
        self._templates.pop(process, None)
        self.actors.unfollow(process)
        if self.between is not None:
            self.between.distant.unfollow(process)
        self.room.leave(process)
        for object_id in self.objects.leave(process):
            self._work.deliver([self.objects.broken_promise(object_id)])

    # --- submission -----------------------------------------------------------------------

    def _on_submitted(self, event: events.TasksSubmitted) -> None:
        process = event.process
        templates = self._templates.get(process)
        if templates is None:
            return
        job = self._drivers.job_of(process)
        for number, template in event.templates:
            templates[number] = self._new_template(template, job)
        for spec in event.specs:
            known = templates.get(spec.template)
            if known is None:
                reason = f"a task names template {spec.template}, which was never sent"
                self._outgoing.actions.append(EndProcess(process, reason))
                return
            self._work.submit(spec, known, process, job)
        if job not in self.pool.job_settings:
            # Sent by a worker that was told to end with its driver and has not ended yet.
            late = [self.tasks[spec.task_id] for spec in event.specs if spec.task_id in self.tasks]
            error = serialize_error(TaskCancelledError("the driver of the task has ended"))
            self._work.cancel_all(late, error)

    def _new_template(self, template: TaskTemplate, job: int, home: int = 0) -> TemplateRecord:
        self._template_count += 1
        is_ours_to_place = template.strategy is None
        feasible = is_ours_to_place and self.pool.resources.feasible(template.resources)
        return TemplateRecord(self._template_count, template, job, home, feasible=feasible)

    def _on_global_scheduler(self, event: events.GlobalSchedulerCame) -> None:
        self._passed_up.ask_again()
        self.actors.report_all()
        if self.between is not None:
            self.between.lending.ask_again()
        if self.draining is not None:
            self.draining.say_so()

    def _on_exported(self, event: events.FunctionExported) -> None:
        job = self._drivers.job_of(event.process)
        if job in self.pool.job_settings:
            self._functions.export(event.function_id, event.code, event.name, event.nested, job)

    # --- values ---------------------------------------------------------------------------

    def _on_requested(self, event: events.ValuesRequested) -> None:
        pending = self.objects.request(event.process, event.object_ids)
        worker = self.pool.workers.get(event.process)
        if worker is None:
            return
        if event.reclaimed:
            self._take_back(worker, event.reclaimed)
        if event.blocks and pending:
            self.pool.block(worker, set(pending))

    def _on_watched(self, event: events.ObjectsWatched) -> None:
        self.objects.watch(event.process, event.object_ids)
        worker = self.pool.workers.get(event.process)
        if worker is not None:
            self._take_back(worker, event.reclaimed)
            if event.blocks:
                self.pool.block(worker, set())

    def _forget_task(self, task: TaskRecord) -> None:
        self._work.forget(task)

    def _value_came_to(self, process: ProcessNumber, object_id: ObjectID) -> None:
        worker = self.pool.workers.get(process)
        if worker is not None and worker.blocked_on:
            worker.blocked_on.discard(object_id)
            if not worker.blocked_on:
                self.pool.unblock(worker, self._now)

    def _on_unblocked(self, event: events.WorkerUnblocked) -> None:
        worker = self.pool.workers.get(event.process)
        if worker is not None:
            self.pool.unblock(worker, self._now)

    def _on_put(self, event: events.ObjectsPut) -> None:
        tell = event.holder != event.process
        for value in event.values:
            self._work.deliver([self._work.seal(event.process, value)], event.holder)
            if tell:
                self.objects.request(event.holder, [value.object_id])

    def _on_results_returned(self, event: events.ResultsReturned) -> None:
        if self.between is not None:
            self.between.return_values(event.process, event.node, event.holder, event.values)

    def _on_word_asked(self, event: events.WordAsked) -> None:
        word = Send(event.process, Reply(event.number, b"", _TRUE))
        if self.between is None:
            self._outgoing.actions.append(word)
        else:
            self.between.borrowing.then(word)

    # --- room in the object store ---------------------------------------------------------

    def _on_region_requested(self, event: events.RegionRequested) -> None:
        self.room.request(event.process, event.number, event.size, self._now)

    def _on_regions_retired(self, event: events.RegionsRetired) -> None:
        try:
            for offset, size in event.runs:
                self.store.abandon(event.process, offset, size)
        except InternalError as error:
            self._outgoing.actions.append(EndProcess(event.process, str(error)))

    def _on_spill_ended(self, event: events.SpillEnded) -> None:
        self.room.spill_ended(event.file, event.error, self._now)

    # --- the end of a task ----------------------------------------------------------------

    def _on_ended(self, event: events.TasksEnded) -> None:
        worker = self.pool.workers.get(event.process)
        if worker is None:
            return
        queue = worker.queue
        for result in event.results:
            task = queue.get(result.task_id)
            if task is not None:
                self._work.ended(worker, task, result)

    def _on_reclaimed(self, event: events.TasksReclaimed) -> None:
        worker = self.pool.workers.get(event.process)
        if worker is not None:
            worker.reclaiming = False
            worker.progress = self._now
            self._take_back(worker, event.task_ids)

    def _take_back(self, worker: WorkerRecord, task_ids: list[TaskID]) -> None:
        for task in self.pool.take_back(worker, task_ids, self._now):
            self._work.run_again(task)

    # --- cancelling -----------------------------------------------------------------------

    def _on_cancel(self, event: events.CancelRequested) -> None:
        found = [self.tasks[task_id] for task_id in event.task_ids if task_id in self.tasks]
        if event.recursive:
            found = self._work.with_children(found)
        error = serialize_error(TaskCancelledError("the task was cancelled"))
        self._work.cancel_all(found, error, event.force, recursive=event.recursive)

    def _on_tick(self, event: events.ClockTicked) -> None:
        self._interruptions.act_on_overdue(self.pool.tick(self._now), self._now)
        self.actors.tick(self._now)
        self.room.tick(self._now)
        if self.draining is not None:
            self.draining.tick(self._now)
        self._jobs.end_abandoned()
        for task, error in self._passed_up.overdue(self._now):
            self._work.creations.no_place_came(task, str(error))
            self._work.fail(task, serialize_error(error))
        if self._jobs.one_has_ended:
            self._jobs.one_has_ended = False
            self.objects.free_circles()

    # --- actors ---------------------------------------------------------------------------

    def _on_actor_placed(self, event: events.ActorWasPlaced) -> None:
        self._passed_up.take(TaskID(event.actor_id))
        self.actors.placed(event.actor_id, event.node)

    def _on_followed(self, event: events.ActorFollowed) -> None:
        if self.between is not None and home_of(event.actor_id) != self._node:
            self.between.distant.follow(event.process, event.actor_id)
        else:
            self.actors.follow(event.process, event.actor_id, self._now)

    def _on_kill_actor(self, event: events.KillActorRequested) -> None:
        if self.between is not None and home_of(event.actor_id) != self._node:
            self.between.distant.kill(event.actor_id, no_restart=event.no_restart)
        else:
            self._work.creations.kill_actor(event.actor_id, event.no_restart)

    @property
    def jobs(self) -> list[int]:
        """The jobs of this node that have not ended."""
        return [job for job in self.pool.job_settings if home_of_job(job) == self._node]

    # --- memory and load ------------------------------------------------------------------

    def _on_worker_measured(self, event: events.WorkerMeasured) -> None:
        self.memory.worker_measured(event.process, event.private, self._now)

    def _on_memory_measured(self, event: events.MemoryMeasured) -> None:
        for task in self.memory.measured(event, self._now):
            self._work.run_again(task)

    @property
    def infeasible(self) -> int:
        """How many tasks, actors and placement groups wait for nodes that could have them."""
        return self._passed_up.infeasible + len(self.bundles.infeasible)

    @property
    def is_busy(self) -> bool:
        """Whether the clock must tick often."""
        return (
            self.pool.is_busy
            or self.room.is_waited_for
            or self.memory.is_urgent
            or (self.between is not None and self.between.is_busy)
            or self.draining is not None
        )

    # --- other nodes ----------------------------------------------------------------------

    @property
    def lent_resources(self) -> dict[str, int]:
        """What tasks of other nodes use here, in steps of 1 / ``RESOURCE_UNIT``."""
        return self.pool.lent_resources() if self.between is not None else {}

    def _on_nodes_came(self, event: events.NodesCame) -> None:
        if self.between is None:
            # A node that is alone has no use for it.
            from raydask.local_scheduler.between_nodes import BetweenNodes

            self.between = BetweenNodes(
                self._node,
                self._work,
                self.objects,
                self.pool,
                self._functions,
                self.store,
                self.room,
                self._outgoing,
                self.actors,
                self._new_template,
                self._jobs.end,
                self._work.creations.kill_actor,
            )
            self._placements.between = self._jobs.between = self.between
            self.between.draining = self.draining
        self.between.nodes_came(event.nodes)

    def _on_nodes_lost(self, event: events.NodesLost) -> None:
        if self.between is not None:
            self.between.nodes_lost(event.nodes, self._now)

    def _on_peer_said(self, event: events.PeerSaid) -> None:
        if self.between is not None:
            self.between.said(event.node, event.message, self._now)

    def _on_leases_changed(self, event: events.LeasesChanged) -> None:
        if self.between is not None:
            self.between.lending.leases_changed(event.leases)

    def _on_room_answered(self, event: events.RoomAnswered) -> None:
        if self.between is not None:
            self.between.fetching.room_answered(event.number, event.offset, event.error)

    def _on_pull_ended(self, event: events.PullEnded) -> None:
        if self.between is not None:
            self.between.fetching.pull_ended(event.number, event.error, event.arrived)

    # --- leaving --------------------------------------------------------------------------

    def _on_drain_requested(self, event: events.DrainRequested) -> None:
        if self.draining is None:
            from raydask.local_scheduler.draining import begin_to_leave

            self.draining = begin_to_leave(self, self._outgoing, self._drivers.jobs, event.is_last)
        self.draining.hasten(self._now + event.seconds)

    def _on_others_leave(self, event: events.OthersLeave) -> None:
        if self.between is not None:
            self.between.nodes_leave(event.nodes, self._now)
