"""The tasks that create actors, from asking for a place to the actor's end. Pure.

Such a task goes the way of all tasks (`TaskTable`), with these differences.  The global scheduler
says where it runs, even if that is here.  Its worker belongs to the actor afterwards.  It is run
again when the actor is restarted, and holds its inputs for that: it ends for good when the actor
is dead.  The actor ends when nobody holds the task's return any more, which its handles do.

The actors' own states are in `ActorTable`; those of other nodes that live here are in `Hosting`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydask.control.write_behind_state import Journal
from raydask.errors import ActorDiedError
from raydask.ids import ActorID, ProcessNumber, return_id
from raydask.local_scheduler.actors import ActorTable
from raydask.local_scheduler.records import (
    OPEN,
    ActorRecord,
    TaskRecord,
    TaskState,
    WorkerRecord,
)
from raydask.local_scheduler.worker_pool import WorkerPool
from raydask.serialization import serialize, serialize_error
from raydask.wire.messages import ActorState, ObjectValue, TaskResult, TaskStatus, ValueKind

if TYPE_CHECKING:
    from raydask.local_scheduler.tasks import TaskTable

_INLINE = int(ValueKind.INLINE)
_OK = int(TaskStatus.OK)
_NONE = serialize(None).to_bytes()
_NOT_RUN = "its __init__ could not run, because an argument of it failed or it was cancelled"


class Creations:
    """The creations of actors among a node's tasks.

    Parameters
    ----------
    work : TaskTable
        Has them, as all tasks.
    pool : WorkerPool
    actors : ActorTable
    journal : Journal
        Of the tasks.
    """

    def __init__(
        self, work: TaskTable, pool: WorkerPool, actors: ActorTable, journal: Journal
    ) -> None:
        self._work = work
        self._pool = pool
        self._actors = actors
        self._journal = journal

    # --- here -----------------------------------------------------------------------------

    def ask_for_place(self, task: TaskRecord) -> None:
        """Ask where an actor is to live whose creation could begin."""
        if not task.template.feasible:
            self._work.passed_up.wait_for_place(task, self._work.now)
        self._actors.ask_for_place(task)

    def begin(self, task: TaskRecord) -> None:
        """Make the creation of an actor ready that is to live here.

        If inputs are elsewhere, they are brought here first, and a place is asked for again.
        """
        elsewhere = self._work.elsewhere
        assert elsewhere is not None
        if task.away:
            elsewhere.closed(task)
        if self._work.count_away(task):
            if task.away:
                elsewhere.bring(task)
            else:
                self._pool.ready(task)

    def ended(self, worker: WorkerRecord, task: TaskRecord, result: TaskResult) -> None:
        """Take in how a creation has ended in its worker, which is the actor's from now on."""
        if task.is_guest and self._work.elsewhere is not None:
            self._work.elsewhere.creation_ended(worker, task, result)
            return
        actor = self._actors.creation_of(task)
        worker.actor_id = None if actor is None else actor.actor_id
        self._pool.ended(worker, task, self._work.now)
        if actor is None or actor.state == ActorState.DEAD:
            worker.actor_id = None
            self._pool.kill(worker, "its actor has ended")
            return
        if result.status != _OK:
            cause = f"its __init__ raised {result.error}"
            actor.worker = worker
            self._actors.failed(actor, cause)
            self._work.fail(task, result.values[0].data, nested=result.values[0].nested)
            return
        task.state = TaskState.FINISHED
        self._actors.created(actor, worker)
        self._succeeded(task)

    def _succeeded(self, task: TaskRecord) -> None:
        self._journal.put(task.spec.task_id, task)
        value = ObjectValue(return_id(task.spec.task_id, 0), _INLINE, _NONE)
        self._work.deliver([value])

    def worker_died(self, task: TaskRecord, cause: str) -> None:
        """Take in that a worker has died that was to create an actor."""
        actor = self._actors.creation_of(task)
        if actor is not None:
            self.actor_process_died(actor, cause)
        elif task.is_guest and self._work.elsewhere is not None:
            self._work.elsewhere.creation_died(task, cause)

    def guest_ended(
        self, task: TaskRecord, state: TaskState, result: TaskResult | None = None
    ) -> None:
        """End a guest that creates an actor; with a result that its home is told."""
        task.state = state
        if result is None:
            self._work.close(task)
        else:
            self._work.close_guest(task, result)

    # --- on other nodes -------------------------------------------------------------------

    def created_elsewhere(self, actor: ActorRecord, process: ProcessNumber, pid: int) -> None:
        """Take in that the node that was lent an actor's creation has done it."""
        task = actor.creation
        task.lent_to = 0
        task.state = TaskState.FINISHED
        self._actors.created_elsewhere(actor, process, pid)
        self._succeeded(task)

    def failed_elsewhere(self, actor: ActorRecord, result: TaskResult) -> None:
        """Take in that the node that was lent an actor's creation has failed at it."""
        task = actor.creation
        task.started = result.started
        self._work.note(task, "FAILED", result.error)
        task.lent_to = actor.host = 0
        raised = f"its __init__ raised {result.error}" if result.error else ""
        self._actors.failed(actor, raised or _NOT_RUN)
        value = result.values[0]
        self._work.fail(task, value.data, nested=value.nested)

    def given_back(self, actor: ActorRecord) -> None:
        """Ask for another place for an actor whose host has not begun its creation."""
        actor.host = 0
        self._work.given_back(actor.creation)

    # --- the actor's end ------------------------------------------------------------------

    def actor_process_died(self, actor: ActorRecord, cause: str) -> None:
        """Take in that an actor's process has died: it is restarted, or dead."""
        if self._actors.worker_died(actor, cause):
            self._actor_is_dead(actor)
        elif not actor.creation.template.feasible:
            self._work.passed_up.wait_for_place(actor.creation, self._work.now)

    def kill_actor(self, actor_id: ActorID, no_restart: bool) -> None:
        """End an actor as a user asks, for good or only its process."""
        actor = self._actors.records.get(actor_id)
        if actor is None or actor.state == ActorState.DEAD:
            return
        if no_restart:
            self.end_actor(actor, "raydask.kill() ended it")
        else:
            self._actors.kill(actor, "raydask.kill() ended its process", no_restart=False)

    def end_actor(self, actor: ActorRecord, cause: str) -> None:
        """End an actor for good."""
        if actor.state == ActorState.DEAD:
            return
        self._actors.failed(actor, cause)
        self._actor_is_dead(actor)

    def _actor_is_dead(self, actor: ActorRecord) -> None:
        """Let go of what an actor's creation held."""
        task = actor.creation
        if task.state == TaskState.READY:
            self._pool.withdraw({task})
        if task.state in OPEN:
            if task.worker is not None:
                self._pool.kill(task.worker, actor.cause)
            error = ActorDiedError(f"the actor died before it was created: {actor.cause}")
            self._work.fail(task, serialize_error(error))
        else:
            self._work.close(task)

    def no_place_came(self, task: TaskRecord, cause: str) -> None:
        """Note that an actor is dead for which there was no node in time, if this creates one."""
        actor = self._actors.creation_of(task)
        if actor is not None and actor.state != ActorState.DEAD:
            self._actors.failed(actor, cause)

    def failed(self, task: TaskRecord) -> None:
        """Note that an actor is dead whose creation fails, unless it is known to be."""
        actor = self._actors.creation_of(task)
        if actor is not None and actor.state != ActorState.DEAD:
            self._actors.failed(actor, _NOT_RUN)

    def forget(self, task: TaskRecord) -> bool:
        """Forget the actor of a creation that nothing holds; say whether the task may go too.

        It may not when the actor is not dead, which is ended first.
        """
        actor = self._actors.creation_of(task)
        if actor is not None:
            if actor.state != ActorState.DEAD:
                self.end_actor(actor, "nobody held a handle to it any more")
                return False
            self._actors.forget(actor)
        return True
