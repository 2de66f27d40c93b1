"""A local scheduler's core with a driver and workers that say what a test tells them to."""

from __future__ import annotations

from typing import Any

from raydask.control.write_behind_state import Source
from raydask.ids import (
    ActorID,
    FunctionID,
    IDSource,
    NodeNumber,
    ObjectID,
    ProcessNumber,
    TaskID,
    return_id,
)
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import (
    KillWorker,
    RetireWorker,
    Send,
    SendControl,
    SendGlobal,
    StartWorkers,
)
from raydask.local_scheduler.memory_watch import MemorySettings
from raydask.local_scheduler.policy import Pipeline, Resources
from raydask.local_scheduler.room import RoomSettings
from raydask.local_scheduler.state import Journals, LocalScheduler, Paths
from raydask.local_scheduler.validation import problems
from raydask.local_scheduler.worker_pool import PoolSettings
from raydask.object_store.state import StoreState
from raydask.serialization import deserialize_error
from raydask.task import ActorOptions, TaskKind, TaskSpec, TaskTemplate
from raydask.wire.messages import (
    Demands,
    Execute,
    ObjectValue,
    ShapeDemand,
    TaskResult,
    TaskStatus,
    ValueKind,
    Values,
)

DRIVER = ProcessNumber(1)
IDS = IDSource(NodeNumber(1), DRIVER)
PLAIN = TaskTemplate(FunctionID(b"f"), "f", resources={"CPU": 10_000})
ACTOR = TaskTemplate(
    FunctionID(b"a"), "A", TaskKind.ACTOR_CREATION, max_retries=0, actor=ActorOptions()
)
DETACHED = TaskTemplate(
    FunctionID(b"a"), "A", TaskKind.ACTOR_CREATION, max_retries=0, actor=ActorOptions(detached=True)
)


class Entries:
    """A journal: which entries there are."""

    def __init__(self) -> None:
        self.present: set[Any] = set()

    def put(self, identifier: Any, source: Source, /) -> None:
        self.present.add(identifier)

    def forget(self, identifier: Any, /) -> None:
        self.present.discard(identifier)


class Node:
    """A core, checked after every event; what it wants done is kept for the test to look at."""

    def __init__(
        self,
        cpus: int = 2,
        *,
        drivers: int = 1,
        store_bytes: int = 1 << 30,
        number: int = 1,
        **more: int,
    ) -> None:
        self.now = 0.0
        self.entries = Entries()
        total = {"CPU": cpus * 10_000, **more}
        self.core = LocalScheduler(
            number,
            Resources(total, []),
            Pipeline(0.004, 4),
            PoolSettings(cpus, 5.0, 0.05),
            StoreState(store_bytes),
            RoomSettings(0.8, 0.6, 30.0),
            Journals(self.entries, self.entries, self.entries, lambda event: None),
            Paths("w{}.sock".format, "spill/{}".format),
            memory_settings=MemorySettings(worker_limit=400_000_000, threshold=0.9),
        )
        self.actions: list[Any] = self.core.start()
        for driver in range(1, drivers + 1):
            self.tell(events.DriverJoined(ProcessNumber(driver), 100 + driver, "", [], "/"))
        self._templates: dict[ProcessNumber, list[TaskTemplate]] = {}

    def tell(self, event: events.Event) -> None:
        self.actions += self.core.handle(event, self.now)
        assert problems(self.core) == []

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.tell(events.ClockTicked())

    def workers(self, *numbers: int) -> None:
        for number in numbers:
            self.tell(events.WorkerJoined(ProcessNumber(number), number))

    def submit(
        self,
        template: TaskTemplate = PLAIN,
        dependencies: list[ObjectID] | None = None,
        *,
        process: ProcessNumber = DRIVER,
        borrowed: list[ObjectID] | None = None,
        parent: TaskID | None = None,
    ) -> TaskID:
        known = self._templates.setdefault(process, [])
        new = []
        if template not in known:
            known.append(template)
            new.append((len(known) - 1, template))
        spec = TaskSpec(
            IDS.next_task_id(), known.index(template), b"", dependencies or [], borrowed or []
        )
        spec.parent = parent or TaskID(b"")
        self.tell(events.TasksSubmitted(process, new, [spec]))
        return spec.task_id

    def place(self, task_id: TaskID) -> None:
        self.tell(events.ActorWasPlaced(ActorID(task_id), 1))

    def put(
        self,
        process: ProcessNumber = DRIVER,
        nested: list[ObjectID] | None = None,
        data: bytes = b"x",
    ) -> ObjectID:
        object_id = IDS.next_put_id()
        value = ObjectValue(object_id, 0, data, nested=nested or [])
        self.tell(events.ObjectsPut(process, process, [value]))
        return object_id

    def store(self, size: int) -> ObjectID:
        """Have the driver put an object of so many bytes into the object store."""
        offset = self.core.store.grant(DRIVER, size)
        assert offset is not None
        object_id = IDS.next_put_id()
        value = ObjectValue(object_id, int(ValueKind.STORED), b"", offset, size)
        self.tell(events.ObjectsPut(DRIVER, DRIVER, [value]))
        return object_id

    def promise(self) -> ObjectID:
        object_id = IDS.next_put_id()
        self.tell(events.ObjectsPromised(DRIVER, [object_id]))
        return object_id

    def end(
        self,
        worker: int,
        *task_ids: TaskID,
        status: int = TaskStatus.OK,
        seconds: float = 0.001,
        retryable: bool = False,
    ) -> None:
        kind = 0 if status == TaskStatus.OK else 2
        self.tell(
            events.TasksEnded(
                ProcessNumber(worker),
                [
                    TaskResult(
                        task_id,
                        int(status),
                        [ObjectValue(return_id(task_id, 0), kind, b"\x80error")],
                        self.now,
                        seconds,
                        retryable,
                    )
                    for task_id in task_ids
                ],
            )
        )

    def leave(self, worker: int) -> None:
        self.tell(events.WorkerLeft(ProcessNumber(worker), "it was ended by a test"))

    def release(self, *object_ids: ObjectID, process: ProcessNumber = DRIVER) -> None:
        self.tell(events.ObjectsReleased(process, list(object_ids)))

    # --- what it wants done ---------------------------------------------------------------

    def given(self, worker: int) -> list[TaskID]:
        """Every task that was sent to a worker since the start."""
        return [
            assignment.task_id
            for action in self.actions
            if isinstance(action, Send) and action.process == worker
            if isinstance(action.message, Execute)
            for assignment in action.message.assignments
        ]

    def where(self, task_id: TaskID) -> int:
        """The worker that has a task."""
        worker = self.core.tasks[task_id].worker
        assert worker is not None
        return worker.process

    @property
    def killed(self) -> list[int]:
        return [action.process for action in self.actions if isinstance(action, KillWorker)]

    @property
    def retired(self) -> list[int]:
        return [action.process for action in self.actions if isinstance(action, RetireWorker)]

    @property
    def started(self) -> int:
        return sum(action.number for action in self.actions if isinstance(action, StartWorkers))

    def sent(self, kind: type) -> list[Any]:
        """The messages of one kind to whomever, the last at the end."""
        return [
            action.message
            for action in self.actions
            if isinstance(action, Send) and isinstance(action.message, kind)
        ]

    def sent_up(self, kind: type) -> list[Any]:
        """The messages of one kind to the global scheduler, the last at the end."""
        return [
            action.message
            for action in self.actions
            if isinstance(action, SendGlobal) and isinstance(action.message, kind)
        ]

    def demands(self) -> list[ShapeDemand]:
        """What has been asked of the global scheduler, the last at the end."""
        return [demand for said in self.sent_up(Demands) for demand in said.demands]

    def controls(self, kind: type) -> list[Any]:
        return [
            action.message
            for action in self.actions
            if isinstance(action, SendControl) and isinstance(action.message, kind)
        ]

    def error_of(self, task_id: TaskID) -> BaseException:
        """The error in place of a task's return."""
        self.tell(events.ValuesRequested(DRIVER, [return_id(task_id, 0)], False, []))
        message = self.actions[-1].message
        assert isinstance(message, Values)
        return deserialize_error(message.values[-1].data)

    @property
    def free_cpus(self) -> float:
        return self.core.pool.resources.available["CPU"] / 10_000
