"""Actors whose home is this node: their lifecycle and those who follow it. Pure.

The steps are those of ``raydask.actor.recovery``.  The creation task goes through the same
queue as other tasks; its worker then belongs to the actor, with what it occupies, and
leaves the pool.  Calls do not come by here: callers talk to the worker.  An actor may live on
another node (`ActorsAbroad`); what becomes of it is decided here all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from raydask.actor.recovery import after_death, check_transition
from raydask.ids import ActorID, ProcessNumber, is_peer
from raydask.local_scheduler.actions import Send, SendGlobal
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import ActorRecord, TaskRecord, TaskState, WorkerRecord
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.wire.messages import ActorChanged, ActorLocated, ActorState, CreateActor

_EARLY_SECONDS = 10.0


class ActorsAbroad(Protocol):
    """What becomes of actors of this node where there are others."""

    def begin(self, creation: TaskRecord) -> None:
        """Create an actor here, once what its creation needs is here."""

    def host(self, actor: ActorRecord, node: int) -> None:
        """Have a node host an actor; ask for another place if it has died meanwhile, or leaves."""

    def end(self, actor: ActorRecord, cause: str) -> None:
        """End the process of an actor on the node that hosts it."""


class ActorTable:
    """The node's actors.

    Parameters
    ----------
    node : int
    pool : WorkerPool
    outgoing : Outgoing
    address_of : callable
        Gives the path of a worker's socket for callers.

    Attributes
    ----------
    records : dict of ActorID to ActorRecord
    abroad : ActorsAbroad or None
        None as long as there is no other node.
    """

    def __init__(
        self,
        node: int,
        pool: WorkerPool,
        outgoing: Outgoing,
        address_of: Callable[[ProcessNumber], str],
    ) -> None:
        self._node = node
        self._pool = pool
        self._outgoing = outgoing
        self.address_of = address_of
        self.records: dict[ActorID, ActorRecord] = {}
        self.abroad: ActorsAbroad | None = None
        self._unplaced: set[ActorID] = set()
        self._early: dict[ActorID, tuple[float, set[ProcessNumber]]] = {}

    def create(self, creation: TaskRecord) -> None:
        """Note an actor whose creation task was submitted."""
        actor_id = ActorID(creation.spec.task_id)
        actor = self.records[actor_id] = ActorRecord(actor_id, creation)
        _, actor.followers = self._early.pop(actor_id, (0.0, set()))
        # Its inputs may be long in coming; the name that it has claimed is wanted.
        self._report(actor)

    def ask_for_place(self, creation: TaskRecord) -> None:
        """Ask the global scheduler where the actor shall live."""
        options = creation.template.template.actor
        assert options is not None
        self._unplaced.add(ActorID(creation.spec.task_id))
        self._outgoing.actions.append(
            SendGlobal(
                CreateActor(
                    self._node,
                    ActorID(creation.spec.task_id),
                    creation.template.template.name,
                    creation.template.template.resources,
                    options.name,
                    options.namespace,
                    options.max_restarts,
                    options.detached,
                    creation.job,
                    creation.template.template.strategy,
                )
            )
        )

    def placed(self, actor_id: ActorID, node: int) -> None:
        """Queue the creation, or have the node do it where the actor shall live."""
        actor = self.records.get(actor_id)
        self._unplaced.discard(actor_id)
        if actor is None or actor.state == ActorState.DEAD:
            return
        creation = actor.creation
        if actor.worker is not None or creation.worker is not None or actor.host:
            return
        if creation.state == TaskState.READY:
            return
        if node != self._node:
            if self.abroad is None:
                self.ask_for_place(creation)  # there is no such node yet
            else:
                self.abroad.host(actor, node)
        elif self.abroad is None:
            self._pool.ready(creation)
        else:
            self.abroad.begin(creation)

    def created(self, actor: ActorRecord, worker: WorkerRecord) -> None:
        """Note that ``__init__`` has returned in this worker."""
        actor.worker = worker
        worker.actor_id = actor.actor_id
        actor.process = worker.process
        actor.address = self.address_of(worker.process)
        self._change(actor, ActorState.ALIVE, "")

    def created_elsewhere(self, actor: ActorRecord, process: ProcessNumber, pid: int) -> None:
        """Note that ``__init__`` has returned on the node that hosts the actor."""
        actor.process = process
        actor.pid = pid
        self._change(actor, ActorState.ALIVE, "")

    def failed(self, actor: ActorRecord, cause: str) -> None:
        """Note that the actor can never live, or lives no longer."""
        if actor.state == ActorState.DEAD:
            return
        self._change(actor, ActorState.DEAD, cause)
        if actor.worker is not None:
            self._pool.kill(actor.worker, cause)
            actor.worker = None
        elif actor.host and self.abroad is not None:
            self.abroad.end(actor, cause)
            self._leave_host(actor)

    def _leave_host(self, actor: ActorRecord) -> None:
        actor.host = actor.pid = 0
        creation = actor.creation
        creation.lent_to = 0
        if creation.state == TaskState.LENT:
            creation.state = TaskState.WAITING

    def worker_died(self, actor: ActorRecord, cause: str) -> bool:
        """Act on the death of the actor's process; say whether the actor is dead now."""
        actor.worker = None
        actor.creation.worker = None
        if actor.host:
            self._leave_host(actor)
        if actor.state == ActorState.DEAD:
            return True
        verdict = after_death(actor.state, actor.restarts_left)
        actor.restarts_left = verdict.restarts_left
        if verdict.state == ActorState.DEAD:
            self._change(actor, ActorState.DEAD, cause)
            return True
        actor.incarnation += 1
        self._change(actor, ActorState.RESTARTING, cause)
        self.ask_for_place(actor.creation)
        return False

    def kill(self, actor: ActorRecord, cause: str, no_restart: bool) -> None:
        """End the actor's process; with `no_restart` the actor itself."""
        if no_restart:
            self.failed(actor, cause)
        elif actor.worker is not None:
            self._pool.kill(actor.worker, cause)
        elif actor.host and actor.state == ActorState.ALIVE and self.abroad is not None:
            self.abroad.end(actor, cause)

    def follow(self, process: ProcessNumber, actor_id: ActorID, now: float) -> None:
        """Tell a process, or another node, where the actor is, now and when that changes."""
        actor = self.records.get(actor_id)
        if actor is None:
            # It has a name already, and its creation is on its way from another process.
            self._early.setdefault(actor_id, (now, set()))[1].add(process)
            return
        actor.followers.add(process)
        if actor.state != ActorState.PENDING:
            self._tell(actor, process)

    def tick(self, now: float) -> None:
        """Give up actors that were announced and never created."""
        for actor_id, (since, processes) in list(self._early.items()):
            if now - since > _EARLY_SECONDS:
                del self._early[actor_id]
                cause = "it was never created: the process that was to create it has died"
                for process in processes:
                    message = ActorLocated(actor_id, ActorState.DEAD, "", 0, cause)
                    self._outgoing.actions.append(Send(process, message))

    def unfollow(self, process: ProcessNumber) -> None:
        """Forget a process that has gone."""
        for actor in self.records.values():
            actor.followers.discard(process)

    def forget(self, actor: ActorRecord) -> None:
        """Forget an actor that is dead and that nobody refers to."""
        self.records.pop(actor.actor_id, None)

    def _change(self, actor: ActorRecord, state: ActorState, cause: str) -> None:
        story = f"{actor.creation.template.template.name} {actor.actor_id.hex()}: {cause}"
        check_transition(actor.state, state, story)
        actor.state = state
        actor.cause = cause
        if state != ActorState.ALIVE:
            actor.address = ""
        for process in actor.followers:
            self._tell(actor, process)
        if state == ActorState.DEAD:
            self._unplaced.discard(actor.actor_id)
        self._report(actor)

    def report_all(self) -> None:
        """Tell a global scheduler that has just come what it may not know."""
        for actor in self.records.values():
            if actor.state != ActorState.DEAD:
                self._report(actor)
            if actor.actor_id in self._unplaced:
                self.ask_for_place(actor.creation)

    @property
    def living(self) -> list[ActorID]:
        """The actors that are not dead."""
        return [actor.actor_id for actor in self.records.values() if actor.state != ActorState.DEAD]

    def _report(self, actor: ActorRecord) -> None:
        worker = actor.worker
        self._outgoing.actions.append(
            SendGlobal(
                ActorChanged(
                    actor.actor_id,
                    actor.state,
                    actor.host or self._node,
                    worker.pid if worker is not None else actor.pid,
                    actor.incarnation,
                    actor.cause,
                )
            )
        )

    def _tell(self, actor: ActorRecord, process: ProcessNumber) -> None:
        lives = actor.state == ActorState.ALIVE
        self._outgoing.actions.append(
            Send(
                process,
                ActorLocated(
                    actor.actor_id,
                    actor.state,
                    "" if is_peer(process) else actor.address,
                    actor.incarnation,
                    actor.cause,
                    (actor.host or self._node) if lives else 0,
                    actor.process if lives else 0,
                ),
            )
        )

    def creation_of(self, task: TaskRecord) -> ActorRecord | None:
        """Return the actor that a task creates, if it is a creation task."""
        return self.records.get(ActorID(task.spec.task_id))
