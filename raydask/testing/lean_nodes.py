"""A node of a simulated large cluster: the real local scheduler, and the least around it.

What `raydask.testing.cluster` checks after every event is not checked here, and no process runs
anything.  A worker takes as long as its task's number says.  A driver submits a `Workload` and gets
what nothing in it uses, or, where that is large, the news that it exists.  Messages are handed over
as they are.  Room in the object store is there for who wants it, without asking.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from raydask.control.write_behind_state import Source
from raydask.ids import (
    FunctionID,
    IDSource,
    NodeNumber,
    ObjectID,
    ProcessNumber,
    is_peer,
    node_of_peer,
    return_id,
)
from raydask.local_scheduler import actions, events
from raydask.local_scheduler.memory_watch import MemorySettings
from raydask.local_scheduler.policy import Pipeline, Resources
from raydask.local_scheduler.room import RoomSettings
from raydask.local_scheduler.state import Journals, LocalScheduler, Paths
from raydask.local_scheduler.worker_pool import PoolSettings
from raydask.object_store.state import StoreState
from raydask.task import RESOURCE_UNIT, TaskSpec, TaskTemplate
from raydask.testing.clock import VirtualClock
from raydask.testing.workloads import Workload
from raydask.wire import messages as wire
from raydask.wire.messages import Assignment, ObjectValue, TaskResult, TaskStatus, ValueKind

INLINE_LIMIT = 100_000
_LOCAL_SECONDS = 0.00005
"""That a message between a node and its processes takes."""
_START_SECONDS = 0.01
"""That a worker takes to come."""
_BATCH_SECONDS = 0.001
"""Results of tasks that are shorter than this, and no older, go together."""
_SUBMIT_SECONDS = 0.000012
"""That a driver takes for each task which it submits."""
_FAST_TICK = 0.02
_SLOW_TICK = 0.25
_HEARTBEAT_SECONDS = 1.0
_STORE_BYTES = 1 << 44
_STORED = int(ValueKind.STORED)
_ERROR = int(ValueKind.ERROR)
_OK = int(TaskStatus.OK)
_DATA = b"value"


class Network(Protocol):
    """What is between the nodes."""

    clock: VirtualClock

    def send(self, sender: int, receiver: int, message: object) -> None:
        """Send a node's message to another."""

    def send_global(self, sender: int, message: object) -> None:
        """Send a node's message to the global scheduler."""

    def pull(self, node: LeanNode, action: actions.StartPull | actions.CancelPull) -> None:
        """Begin or cancel a pull of a node's."""

    def task_of(self, assignment: Assignment) -> tuple[float, int]:
        """Return how long a task takes, and how large its result is."""

    def ran(self, node: int, assignment: Assignment, seconds: float) -> None:
        """Note a task that has ended."""


class _NoJournal:
    """The control state that nobody writes."""

    def put(self, identifier: Any, source: Source, /) -> None:
        """Do nothing."""

    def forget(self, identifier: Any, /) -> None:
        """Do nothing."""


class LeanNode:
    """A node.

    Parameters
    ----------
    number : int
    cpus : int
    network : Network

    Attributes
    ----------
    seconds : float
        That its core has taken so far, of real time.
    """

    def __init__(self, number: int, cpus: int, network: Network) -> None:
        self.number = NodeNumber(number)
        self.network = network
        self.clock = network.clock
        self.alive = True
        self.seconds = 0.0
        self.events = 0
        self.store = StoreState(_STORE_BYTES)
        self.total = {"CPU": cpus * RESOURCE_UNIT}
        journal = _NoJournal()
        self.core = LocalScheduler(
            number,
            Resources(self.total, []),
            Pipeline(0.004, 64),
            PoolSettings(cpus, 2.0, 0.05),
            self.store,
            RoomSettings(),
            Journals(journal, journal, journal, lambda event: None),
            Paths(str, str),
            memory_settings=MemorySettings(),
        )
        self.processes: dict[ProcessNumber, LeanWorker | LeanDriver] = {}
        self._numbers = 0
        self._heartbeat_at = float("-inf")
        self._do: dict[type, Callable[[Any], None]] = {
            actions.Send: self._send,
            actions.SendControl: self._send_control,
            actions.SendGlobal: self._send_global,
            actions.StartWorkers: self._start_workers,
            actions.KillWorker: self._end_worker,
            actions.RetireWorker: self._end_worker,
            actions.AnswerRegion: self._answer_region,
            actions.StartPull: self._pull,
            actions.CancelPull: self._pull,
        }

    def start(self, offset: float) -> None:
        """Begin; its clock ticks `offset` seconds from now."""
        self._carry_out(self.core.start())
        self.clock.after(offset, self._tick)

    def handle(self, event: events.Event) -> None:
        """Let the core take in an event; do what it says."""
        if not self.alive:
            return
        began = time.thread_time()
        wanted = self.core.handle(event, self.clock.now)
        self.seconds += time.thread_time() - began
        self.events += 1
        self._carry_out(wanted)

    def add_driver(self, job: int, workload: Workload, batch: int) -> LeanDriver:
        """Let a driver join that submits a workload."""
        number = self._next_number()
        driver = LeanDriver(self, number, job, workload, batch)
        self.processes[number] = driver
        self.handle(events.DriverJoined(number, job, "", [], "/"))
        return driver

    def end_driver(self, driver: LeanDriver) -> None:
        """Let a driver leave."""
        del self.processes[driver.number]
        self.handle(events.DriverLeft(driver.number))

    def die(self) -> None:
        """End, with all that is here."""
        self.alive = False
        self.processes = {}

    def _next_number(self) -> ProcessNumber:
        self._numbers += 1
        return ProcessNumber(self._numbers)

    def _tick(self) -> None:
        if not self.alive:
            return
        self.handle(events.ClockTicked())
        if self.clock.now - self._heartbeat_at >= _HEARTBEAT_SECONDS:
            self._heartbeat_at = self.clock.now
            self.network.send_global(self.number, self._heartbeat())
        self.clock.after(_FAST_TICK if self.core.is_busy else _SLOW_TICK, self._tick)

    def _heartbeat(self) -> wire.Heartbeat:
        pool = self.core.pool
        return wire.Heartbeat(
            self.number,
            dict(pool.resources.available),
            pool.queued,
            pool.queued_seconds,
            self.store.used,
            lent=self.core.lent_resources,
        )

    # --- what the core wants --------------------------------------------------------------

    def _carry_out(self, wanted: list[actions.Action]) -> None:
        do = self._do
        for action in wanted:
            carry_out = do.get(type(action))
            if carry_out is not None:
                carry_out(action)

    def _send(self, action: actions.Send) -> None:
        process = self.processes.get(action.process)
        if process is not None:
            self.clock.after(_LOCAL_SECONDS, partial(process.receive, action.message))
        elif is_peer(action.process):
            self.network.send(self.number, node_of_peer(action.process), action.message)

    def _send_control(self, action: actions.SendControl) -> None:
        worker = self.processes.get(action.process)
        if isinstance(worker, LeanWorker) and isinstance(action.message, wire.Reclaim):
            self.clock.after(_LOCAL_SECONDS, worker.give_back)

    def _send_global(self, action: actions.SendGlobal) -> None:
        self.network.send_global(self.number, action.message)

    def _start_workers(self, action: actions.StartWorkers) -> None:
        for _ in range(action.number):
            self.clock.after(_START_SECONDS, partial(self._worker_up, action.job))

    def _worker_up(self, job: int) -> None:
        if self.alive:
            number = self._next_number()
            self.processes[number] = LeanWorker(self, number)
            self.handle(events.WorkerJoined(number, number, job))

    def _end_worker(self, action: actions.KillWorker | actions.RetireWorker) -> None:
        if self.processes.pop(action.process, None) is not None:
            left = events.WorkerLeft(action.process, "it was ended")
            self.clock.after(_LOCAL_SECONDS, partial(self.handle, left))

    def _answer_region(self, action: actions.AnswerRegion) -> None:
        answer = events.RoomAnswered(action.number, action.offset, action.error)
        self.clock.after(0.0, partial(self.handle, answer))

    def _pull(self, action: actions.StartPull | actions.CancelPull) -> None:
        self.network.pull(self, action)


class LeanWorker:
    """A worker: runs what it is given, one after the other."""

    __slots__ = ("_flushed_at", "_inbox", "_is_running", "_results", "node", "number")

    def __init__(self, node: LeanNode, number: ProcessNumber) -> None:
        self.node = node
        self.number = number
        self._inbox: deque[Assignment] = deque()
        self._results: list[TaskResult] = []
        self._is_running = False
        self._flushed_at = 0.0

    def receive(self, message: object) -> None:
        """Take tasks."""
        if isinstance(message, wire.Execute):
            self._inbox.extend(message.assignments)
            if not self._is_running:
                self._begin_next()

    def give_back(self) -> None:
        """Give back what has not begun."""
        task_ids = [assignment.task_id for assignment in self._inbox]
        self._inbox.clear()
        self._flush()
        reclaimed = events.TasksReclaimed(self.number, task_ids)
        self.node.clock.after(_LOCAL_SECONDS, partial(self.node.handle, reclaimed))

    def _begin_next(self) -> None:
        if not self._inbox:
            self._is_running = False
            self._flush()
            return
        self._is_running = True
        node = self.node
        assignment = self._inbox.popleft()
        seconds, size = node.network.task_of(assignment)
        clock = node.clock
        if seconds > _BATCH_SECONDS or clock.now - self._flushed_at > _BATCH_SECONDS:
            self._flush()
        clock.after(seconds, partial(self._ended, assignment, seconds, size))

    def _ended(self, assignment: Assignment, seconds: float, size: int) -> None:
        node = self.node
        if not node.alive:
            return
        node.network.ran(node.number, assignment, seconds)
        object_id = return_id(assignment.task_id, 0)
        if size <= INLINE_LIMIT:
            value = ObjectValue(object_id, 0, _DATA)
        else:
            offset = node.store.grant(self.number, size)
            assert offset is not None
            value = ObjectValue(object_id, _STORED, b"", offset, size)
        started = node.clock.now - seconds
        self._results.append(TaskResult(assignment.task_id, _OK, [value], started, seconds))
        self._begin_next()

    def _flush(self) -> None:
        if self._results:
            ended = events.TasksEnded(self.number, self._results)
            self._results = []
            self._flushed_at = self.node.clock.now
            self.node.clock.after(_LOCAL_SECONDS, partial(self.node.handle, ended))


class LeanDriver:
    """A driver: submits its workload, and gets what nothing in it uses.

    Attributes
    ----------
    began, submitted, ended : float
        When it submitted the first task, and the last, and when it had got everything.
    failed : int
        How many errors it got in place of values.
    """

    def __init__(
        self, node: LeanNode, number: ProcessNumber, job: int, workload: Workload, batch: int
    ) -> None:
        self.node = node
        self.number = number
        self.job = job
        self.workload = workload
        self._batch = batch
        ids = IDSource(node.number, number)
        self._task_ids = [ids.next_task_id() for _ in range(len(workload))]
        self._dead: dict[int, list[int]] = {}
        """By task: those whose results no later one uses."""
        last_uses = workload.last_uses()
        self._wanted = [each == task for task, each in enumerate(last_uses)]
        for task, last in enumerate(last_uses):
            if last != task:
                self._dead.setdefault(last, []).append(task)
        self._missing = sum(self._wanted)
        self._submitted = 0
        self.began = 0.0
        self.submitted = 0.0
        self.ended = 0.0
        self.failed = 0

    @property
    def finished(self) -> bool:
        """Whether it has got everything."""
        return not self._missing

    def start(self) -> None:
        """Begin to submit."""
        self.began = self.node.clock.now
        self._submit()

    def _submit(self) -> None:
        first = self._submitted
        end = min(first + self._batch, len(self.workload))
        self._submitted = end
        ids = self._task_ids
        inputs = self.workload.inputs
        kinds = self.workload.kinds
        templates = [] if first else [(kind, _template(kind)) for kind in sorted(set(kinds))]
        specs = [
            TaskSpec(
                ids[task], kinds[task], b"", [return_id(ids[each], 0) for each in inputs[task]], []
            )
            for task in range(first, end)
        ]
        node = self.node
        node.handle(events.TasksSubmitted(self.number, templates, specs))
        sizes = self.workload.sizes
        wanted = [task for task in range(first, end) if self._wanted[task]]
        small = [return_id(ids[task], 0) for task in wanted if sizes[task] <= INLINE_LIMIT]
        large = [return_id(ids[task], 0) for task in wanted if sizes[task] > INLINE_LIMIT]
        if small:
            node.handle(events.ValuesRequested(self.number, small, False, []))
        if large:
            node.handle(events.ObjectsWatched(self.number, large, False, []))
        unused = [
            return_id(ids[each], 0)
            for task in range(first, end)
            for each in self._dead.pop(task, ())
        ]
        if unused:
            node.handle(events.ObjectsReleased(self.number, unused))
        if end < len(self.workload):
            node.clock.after(_SUBMIT_SECONDS * (end - first), self._submit)
        else:
            self.submitted = node.clock.now

    def receive(self, message: object) -> None:
        """Take values, or the news that they exist, and let go of them."""
        ids: list[ObjectID]
        if isinstance(message, wire.Values):
            ids = [value.object_id for value in message.values]
            self.failed += sum(value.kind == _ERROR for value in message.values)
        elif isinstance(message, wire.Ready):
            ids = message.object_ids
            self.failed += sum(map(self._is_error, ids))
        else:
            return
        self.node.handle(events.ObjectsReleased(self.number, ids))
        self._missing -= len(ids)
        if not self._missing:
            self.ended = self.node.clock.now

    def _is_error(self, object_id: ObjectID) -> bool:
        value = self.node.core.objects.records[object_id].value
        return value is not None and value.kind == _ERROR


def _template(kind: int) -> TaskTemplate:
    function_id = FunctionID(b"function %07d" % kind)
    return TaskTemplate(function_id, f"function {kind}", resources={"CPU": RESOURCE_UNIT})
