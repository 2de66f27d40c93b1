"""One node, simulated: the real local scheduler with simulated processes around it.

Everything happens on one virtual clock and from one seed.  After every event the core's own
accounts are checked (`validation.problems`), and what can only be seen from outside: that
no object goes while a process has a ref or view of it, that no task runs twice at once, that
a worker is never given more than its pipeline.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from raydask.control.write_behind_state import Source
from raydask.errors import ObjectLostError, OwnerDiedError
from raydask.ids import (
    ActorID,
    NodeNumber,
    ObjectID,
    ProcessNumber,
    TaskID,
    is_peer,
    job_number,
    node_of_peer,
)
from raydask.local_scheduler import actions, events
from raydask.local_scheduler.memory_watch import MemorySettings
from raydask.local_scheduler.policy import Pipeline, Resources
from raydask.local_scheduler.records import TRANSITIONS, TaskState
from raydask.local_scheduler.room import RoomSettings
from raydask.local_scheduler.state import Journals, LocalScheduler, Paths
from raydask.local_scheduler.validation import problems
from raydask.local_scheduler.worker_pool import PoolSettings
from raydask.object_store.spilled import SpillBatch
from raydask.object_store.state import StoreState
from raydask.task import TaskTemplate
from raydask.testing.clock import VirtualClock
from raydask.testing.fork_servers import SimulatedForkServers
from raydask.testing.links import Link
from raydask.testing.processes import Process, SimulatedDriver, SimulatedWorker
from raydask.testing.programs import Program
from raydask.wire import messages as wire
from raydask.wire.messages import Assignment

_TICK_SECONDS = 0.02
_WORKER_LIMIT = 400
_MEMORY = 4 << 30


class InvariantViolated(AssertionError):  # noqa: N818  (says what happened)
    """The simulated cluster did something that must never happen."""


class Faults(NamedTuple):
    """How often what goes wrong; all are probabilities.

    Attributes
    ----------
    failed_start : float
        Of each worker, that it ends before it is up.
    crash : float
        Of each task that begins, that its worker dies while it runs.
    failed_write : float
        Of each file of spilled objects, that it cannot be written.
    memory : float
        Of each tick, that workers and machine are measured, with any figures.
    lost_server : float
        Of each job's fork server, that it ends within a second.
    """

    failed_start: float = 0.0
    crash: float = 0.0
    failed_write: float = 0.0
    memory: float = 0.0
    lost_server: float = 0.0


class Network(Protocol):
    """The other nodes, and what is between them."""

    rng: random.Random
    clock: VirtualClock
    runs: dict[TaskID, int]
    running: dict[TaskID, SimulatedWorker]
    nodes: dict[int, SimulatedCluster]
    has_lost: bool
    """Whether any node has died."""

    def send(self, sender: int, receiver: int, message: object) -> None:
        """Send a node's message to another."""

    def pull(self, node: SimulatedCluster, action: actions.StartPull | actions.CancelPull) -> None:
        """Begin or cancel a pull of a node's."""

    def tell_global(self, node: SimulatedCluster, message: object) -> bool:
        """Give the global scheduler a message; say whether it has understood it."""


class _Journal:
    """Remembers which entries exist, in place of the control state."""

    def __init__(self) -> None:
        self.entries: set[Any] = set()
        self.forgotten: list[Any] = []

    def put(self, identifier: Any, source: Source, /) -> None:
        self.entries.add(identifier)

    def forget(self, identifier: Any, /) -> None:
        self.entries.discard(identifier)
        self.forgotten.append(identifier)


class SimulatedCluster:
    """A node with drivers and workers.

    Parameters
    ----------
    seed : int
    programs : dict of str to Program
        What tasks run, by their template's name.
    cpus : int
    resources : dict of str to int
        Others, in steps of 1 / ``RESOURCE_UNIT``.
    gpus : list of int
        Devices.
    faults : Faults
    pipeline : Pipeline, optional
    store_bytes : int
        Of the object store; where that is little, objects are spilled.
    """

    def __init__(
        self,
        seed: int,
        programs: dict[str, Program],
        *,
        cpus: int = 2,
        resources: dict[str, int] | None = None,
        gpus: Sequence[int] = (),
        faults: Faults = Faults(),  # noqa: B008  (immutable)
        pipeline: Pipeline | None = None,
        store_bytes: int = 1 << 40,
        network: Network | None = None,
        node: int = 1,
    ) -> None:
        self.network = network
        self.rng = random.Random(seed) if network is None else network.rng
        self.clock = VirtualClock() if network is None else network.clock
        self.node = NodeNumber(node)
        self.alive = True
        self.programs = programs
        self.faults = faults
        self.pipeline_tasks = 8
        self.tasks_journal = _Journal()
        self.objects_journal = _Journal()
        self.functions_journal = _Journal()
        self.store = StoreState(store_bytes)
        total = {"CPU": cpus * 10_000, **(resources or {})}
        self.core = LocalScheduler(
            self.node,
            Resources(total, list(gpus)),
            pipeline or Pipeline(0.004, self.pipeline_tasks),
            PoolSettings(cpus, 2.0, 0.05),
            self.store,
            RoomSettings(patience=1.0, inline=0.02),
            Journals(
                self.tasks_journal, self.objects_journal, self.functions_journal, lambda event: None
            ),
            Paths("w{}.sock".format, "spill/{}".format),
            5.0,
            MemorySettings(_MEMORY // 5, 0.6),
        )
        self.processes: dict[ProcessNumber, Process] = {}
        self.fork_servers = SimulatedForkServers(self)
        self.started_workers = 0
        self.files: set[int] = set()
        self.spilled_files = 0
        self.moved_values = 0
        self.runs: dict[TaskID, int] = {} if network is None else network.runs
        self.submitted: set[TaskID] = set()
        self.errors: list[type[BaseException]] = []
        self._states: dict[TaskID, TaskState] = {}
        self._numbers = 0
        self._running: dict[TaskID, SimulatedWorker] = {} if network is None else network.running
        self._jobs = 0

    # --- running --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._carry_out(self.core.start())
        self._tick()

    def _tick(self) -> None:
        if not self.alive:
            return
        self.handle(events.ClockTicked())
        if self.rng.random() < self.faults.memory:
            self._measure()
        for process in list(self.processes.values()):
            if process.alive:
                process.outbox.flush()  # as the background thread of a process does
        self.clock.after(_TICK_SECONDS, self._tick)

    def _measure(self) -> None:
        private = {number: self._memory_of(number) for number in self.core.pool.workers}
        self.handle(events.MemoryMeasured(private, self.rng.randrange(_MEMORY), _MEMORY))

    def _memory_of(self, number: ProcessNumber) -> int:
        return self.rng.randrange(_MEMORY // 4)

    def handle(self, event: events.Event) -> None:
        """Let the core take in an event; check everything; do what it says."""
        if not self.alive:
            return
        before = {task_id: task.state for task_id, task in self.core.tasks.items()}
        wanted = self.core.handle(event, self.clock.now)
        self._check(event, before)
        self._carry_out(wanted)

    def add_driver(self, program: Program) -> SimulatedDriver:
        """Let a driver join and run a program."""
        self._numbers += 1
        self._jobs += 1
        job = job_number(self.node, self._jobs)
        driver = SimulatedDriver(self, ProcessNumber(self._numbers), job)
        self.processes[driver.number] = driver
        self.handle(events.DriverJoined(driver.number, driver.job, "default", [], "/"))
        driver.start(program, random.Random(self.rng.random()))
        return driver

    def name_modules(self, driver: SimulatedDriver) -> None:
        """Let a driver name modules that its functions import, if it is still there."""
        self._if_there(driver, events.ModulesNamed(driver.number, ["a_module"]))

    def end_driver(self, driver: SimulatedDriver) -> None:
        """Let a driver end as if killed."""
        if driver.alive:
            driver.die()
            self.clock.at(driver.to_node.arrived_at, partial(self._driver_gone, driver))

    def _driver_gone(self, driver: SimulatedDriver) -> None:
        if self.processes.pop(driver.number, None) is not None:
            self.handle(events.DriverLeft(driver.number))

    def crash(self, worker: SimulatedWorker) -> None:
        """Let a worker die; the node learns of it after what was under way."""
        if not worker.alive:
            return
        worker.die()
        for task_id in [each for each, who in self._running.items() if who is worker]:
            del self._running[task_id]
            if worker.reported > worker.to_node.results:
                # The node takes the first task that it has no result of for the one that ran.
                self.runs[task_id] -= 1
        self.clock.at(worker.to_node.arrived_at + 0.0001, partial(self._worker_gone, worker))

    def _worker_gone(self, worker: SimulatedWorker) -> None:
        self.processes.pop(worker.number, None)
        self.handle(events.WorkerLeft(worker.number, "it was made to crash", worker.source))

    def workers(self) -> list[SimulatedWorker]:
        """Return the workers that live."""
        return [
            process
            for process in self.processes.values()
            if isinstance(process, SimulatedWorker) and process.alive
        ]

    # --- links ----------------------------------------------------------------------------

    def link_to_node(self, process: Process) -> Link:
        """Return a new link from a process to the node."""
        return Link(self.clock, self.rng, partial(self._receive, process))

    def link_from_node(self, process: Process) -> Link:
        """Return a new link from the node to a process."""
        return Link(self.clock, self.rng, process.on_message)

    def control_from_node(self, worker: SimulatedWorker) -> Link:
        """Return a new link from the node to a worker's control socket."""
        return Link(self.clock, self.rng, worker.on_control)

    def _receive(self, process: Process, message: Any) -> None:
        if process.number in self.processes:
            event = event_of(process.number, message)
            if event is not None:
                self.handle(event)

    def request_cancel(
        self, process: Process, task_id: TaskID, force: bool, recursive: bool
    ) -> None:
        """Let the node take a request to cancel, in order with what the process has sent."""
        event = events.CancelRequested(process.number, [task_id], force, recursive)
        self.clock.at(process.to_node.arrived_at, partial(self._if_there, process, event))

    def request_kill(self, process: Process, task_id: TaskID, no_restart: bool) -> None:
        """Let the node take a request to kill an actor."""
        event = events.KillActorRequested(process.number, ActorID(task_id), no_restart)
        self.clock.at(process.to_node.arrived_at, partial(self._if_there, process, event))

    def kill_actor(self, actor_id: ActorID) -> None:
        """End an actor for good."""
        self.handle(events.KillActorRequested(ProcessNumber(0), actor_id, True))

    def _if_there(self, process: Process, event: events.Event) -> None:
        if process.number in self.processes:
            self.handle(event)

    # --- what the core wants --------------------------------------------------------------

    def _carry_out(self, wanted: list[actions.Action]) -> None:
        for action in wanted:
            if isinstance(action, actions.Send):
                process = self.processes.get(action.process)
                if process is not None:
                    process.from_node.send_message(action.message)
                elif self.network is not None and is_peer(action.process):
                    self.network.send(self.node, node_of_peer(action.process), action.message)
            elif isinstance(action, actions.SendControl):
                process = self.processes.get(action.process)
                if isinstance(process, SimulatedWorker):
                    process.control_from_node.send_message(action.message)
            elif isinstance(action, actions.StartWorkers):
                self._start_workers(action)
            elif isinstance(action, actions.PrepareWorkers):
                self.fork_servers.prepare(action)
            elif isinstance(action, actions.EndForkServer):
                self.fork_servers.end(action.job)
            elif isinstance(action, actions.KillWorker):
                self.clock.after(0.002 * self.rng.random(), partial(self._kill, action.process))
            elif isinstance(action, actions.AnswerRegion):
                process = self.processes.get(action.process)
                if process is not None:
                    process.room_answered(action)
                elif not action.process:
                    answer = events.RoomAnswered(action.number, action.offset, action.error)
                    self.clock.after(0.0, partial(self.handle, answer))
            elif isinstance(action, actions.ForgetPull):
                pass
            elif isinstance(action, (actions.StartPull, actions.CancelPull)):
                assert self.network is not None
                self.network.pull(self, action)
            elif isinstance(action, actions.WriteSpillFile):
                self._write(action.batch)
            elif isinstance(action, actions.GiveBackMemory):
                self._give_back(action.runs, wanted)
            elif isinstance(action, actions.FillMemory):
                self.moved_values += 1
            elif isinstance(action, actions.DeleteSpillFile):
                self.files.discard(action.file)
            elif isinstance(action, actions.RetireWorker):
                self._kill(action.process)
            elif isinstance(action, actions.MeasureWorker):
                measured = events.WorkerMeasured(action.process, self._memory_of(action.process))
                self.clock.after(0.0, partial(self.handle, measured))
            elif isinstance(action, actions.SendGlobal):
                self._tell_global(action.message)
            elif isinstance(action, actions.EndSession):
                self.violated(f"node {self.node} has not been let go")
            else:
                self.violated(f"process {action.process} was cut off: {action.reason}")

    def _give_back(self, runs: list[tuple[int, int]], together_with: list[actions.Action]) -> None:
        if not isinstance(together_with[0], actions.GiveBackMemory):
            self.violated("memory is given back after somebody may have been told of it")
        for record in self.core.objects.records.values():
            value = record.value
            if value is not None and value.kind == wire.ValueKind.STORED:
                for offset, size in runs:
                    if offset < value.offset + value.size and value.offset < offset + size:
                        self.violated(f"the memory of {record.object_id.hex()} is given back")

    def _write(self, batch: SpillBatch) -> None:
        error = "the disk is full" if self.rng.random() < self.faults.failed_write else ""
        if not error:
            self.files.add(batch.file)
            self.spilled_files += 1
        self.clock.after(
            0.02 * self.rng.random(), partial(self.handle, events.SpillEnded(batch.file, error))
        )

    def _kill(self, number: ProcessNumber) -> None:
        process = self.processes.get(number)
        if isinstance(process, SimulatedWorker):
            self.crash(process)

    def _start_workers(self, action: actions.StartWorkers) -> None:
        self.started_workers += action.number
        if self.started_workers > _WORKER_LIMIT:
            self.violated("workers are started without end")
        if action.job:
            self.fork_servers.fork(action)
            return
        for _ in range(action.number):
            self.clock.after(0.005 * (1 + self.rng.random()), partial(self.worker_up, 0))

    def worker_up(self, job: int) -> None:
        """Let a worker come, for a job or 0, or fail to."""
        if self.rng.random() < self.faults.failed_start:
            if self.rng.random() < 0.5:
                self.handle(events.WorkersFailed(1, job))
            else:
                self._numbers += 1
                number = ProcessNumber(self._numbers)
                self.handle(events.WorkerLeft(number, "it ended early", job))
            return
        self._numbers += 1
        worker = SimulatedWorker(self, ProcessNumber(self._numbers), job)
        self.processes[worker.number] = worker
        self.handle(events.WorkerJoined(worker.number, worker.number, job))

    def _tell_global(self, message: object) -> None:
        answer: events.Event
        if self.network is not None and self.network.tell_global(self, message):
            return
        if isinstance(message, wire.CreateActor):
            answer = events.ActorWasPlaced(message.actor_id, self.node)
        elif isinstance(message, wire.PassUp):
            ids = [task.task_id for task in message.tasks]
            answer = events.TasksFoundInfeasible(ids, "there is one node")
        else:
            return
        self.clock.after(0.001 * self.rng.random(), partial(self.handle, answer))

    # --- what processes note --------------------------------------------------------------

    def note_submitted(self, task_id: TaskID) -> None:
        """Note a task that a program has submitted."""
        self.submitted.add(task_id)

    def note_assigned(self, worker: SimulatedWorker, assignments: list[Assignment]) -> None:
        """Check what a worker has been given."""
        if len(worker.inbox) > 2 * self.pipeline_tasks:
            self.violated(f"worker {worker.number} holds {len(worker.inbox)} tasks")

    def note_started(
        self, worker: SimulatedWorker, task_id: TaskID, template: TaskTemplate
    ) -> None:
        """Note a task that begins, and perhaps see to it that its worker dies."""
        other = self._running.get(task_id)
        task = self.core.tasks.get(task_id)
        if other is not None:
            self.violated(f"task {task_id.hex()} runs twice at once")
        self._running[task_id] = worker
        self.runs[task_id] = self.runs.get(task_id, 0) + 1
        if task is not None and template.max_retries >= 0 and not template.retry_exceptions:
            if self.runs[task_id] > template.max_retries + 1 and template.actor is None:
                self.violated(f"task {task_id.hex()} ran {self.runs[task_id]} times")
        if self.rng.random() < self.faults.crash:
            self.clock.after(0.002 * self.rng.random(), partial(self.crash, worker))

    def note_ended(self, task_id: TaskID) -> None:
        """Note a task that has ended in its worker."""
        self._running.pop(task_id, None)

    def note_error(self, process: Process, error: BaseException) -> None:
        """Check an error that a program got in place of a value."""
        self.errors.append(type(error))
        lost = isinstance(error, ObjectLostError) and not isinstance(error, OwnerDiedError)
        if self.network is not None and self.network.has_lost:
            return
        if lost and self.matters(process):
            self.violated(f"process {process.number} lost an object: {error}")

    def note_view(self, process: Process, object_id: ObjectID) -> None:
        """Check a view that a program makes."""
        if not self.matters(process):
            return
        if object_id not in self.store or self.store.is_spilled(object_id):
            self.violated(f"process {process.number} looks at freed memory: {object_id.hex()}")
        if not self.store.pins(object_id):
            self.violated(f"process {process.number} looks at what can move: {object_id.hex()}")

    def note_file_read(self, process: Process, path: str) -> None:
        """Check that a file is there that a program reads."""
        if int(path.rpartition("/")[2]) not in self.files and self.matters(process):
            self.violated(f"process {process.number} reads the spill file {path}, which is gone")

    def matters(self, process: Process) -> bool:
        """Say whether a process goes on; what one sees that is being ended, nobody learns."""
        worker = self.core.pool.workers.get(process.number)
        return process.alive and not (worker is not None and worker.dying)

    # --- checks ---------------------------------------------------------------------------

    def violated(self, what: str) -> None:
        """Stop: something happened that must not."""
        raise InvariantViolated(f"at {self.clock.now:.6f}: {what}")

    def _check(self, event: events.Event, before: dict[TaskID, TaskState]) -> None:
        found = problems(self.core)
        forgotten, self.objects_journal.forgotten = self.objects_journal.forgotten, []
        for object_id in forgotten:
            for process in self._everybody():
                if process.matters and object_id in process.held():
                    found.append(f"{object_id.hex()} was freed while {process.number} has a ref")
        for process in self.processes.values():
            if self.matters(process):
                for object_id in process.looked_at():
                    if object_id not in self.store or self.store.is_spilled(object_id):
                        found.append(f"{object_id.hex()} moved while {process.number} looks at it")
        for task_id, state in before.items():
            task = self.core.tasks.get(task_id)
            if task is not None and task.state not in _REACHABLE[state]:
                found.append(f"{task_id.hex()} went from {state.name} to {task.state.name}")
        if found:
            self.violated(f"after {event!r:.300}: " + "; ".join(found))

    def _everybody(self) -> list[Process]:
        nodes = [self] if self.network is None else self.network.nodes.values()
        return [process for node in nodes if node.alive for process in node.processes.values()]

    def leftovers(self) -> list[str]:
        """Return what is still there and should not be, once nothing is held any more."""
        core = self.core
        found = [f"object {object_id.hex()}" for object_id in core.objects.records]
        found += [f"task {task_id.hex()}" for task_id in core.tasks]
        if self.store.sealed or self.store.spilled:
            found.append(f"{self.store.sealed} bytes stored, {self.store.spilled} spilled")
        found += [f"spill file {file}" for file in self.files]
        found += [f"actor {actor_id.hex()}" for actor_id in core.actors.records]
        for name, journal in (
            ("task", self.tasks_journal),
            ("object", self.objects_journal),
            ("function", self.functions_journal),
        ):
            found += [f"{name} entry {identifier.hex()}" for identifier in journal.entries]
        if core.pool.resources.available != core.pool.resources.total:
            found.append(f"resources in use: {core.pool.resources.available}")
        if core.pool.queued:
            found.append(f"{core.pool.queued} ready tasks")
        return found


def _closure() -> dict[TaskState, frozenset[TaskState]]:
    """Which states can follow which within one event."""
    reachable = {}
    for state in TaskState:
        seen = {state}
        pending = [state]
        while pending:
            new = TRANSITIONS[pending.pop()] - seen
            seen |= new
            pending += new
        reachable[state] = frozenset(seen)
    return reachable


_REACHABLE = _closure()


def event_of(process: ProcessNumber, message: Any) -> events.Event | None:
    """Return the event that a message is, as the node's server has it."""
    if isinstance(message, wire.Submit):
        return events.TasksSubmitted(process, message.templates, message.specs)
    if isinstance(message, wire.Get):
        return events.ValuesRequested(
            process, message.object_ids, message.blocks, message.reclaimed
        )
    if isinstance(message, wire.Watch):
        return events.ObjectsWatched(process, message.object_ids, message.blocks, message.reclaimed)
    if isinstance(message, wire.Unblocked):
        return events.WorkerUnblocked(process)
    if isinstance(message, wire.Release):
        return events.ObjectsReleased(process, message.object_ids)
    if isinstance(message, wire.Acquire):
        return events.ObjectsAcquired(process, message.object_ids)
    if isinstance(message, wire.Pin):
        return events.ObjectsPinned(process, message.object_ids)
    if isinstance(message, wire.Unpin):
        return events.ObjectsUnpinned(process, message.object_ids)
    if isinstance(message, wire.RetireRegions):
        return events.RegionsRetired(process, message.runs)
    if isinstance(message, wire.Put):
        return events.ObjectsPut(process, process, message.values)
    if isinstance(message, wire.Export):
        return events.FunctionExported(
            process, message.function_id, message.code, message.name, message.nested
        )
    if isinstance(message, wire.Results):
        return events.TasksEnded(process, message.results)
    if isinstance(message, wire.Reclaimed):
        return events.TasksReclaimed(process, message.task_ids)
    if isinstance(message, wire.Promise):
        return events.ObjectsPromised(process, message.object_ids)
    return None
