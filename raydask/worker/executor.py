"""Runs tasks in the worker's main thread, one after the other.

Results are buffered and go out together: when nothing is left to run, when they are a
millisecond old, and before a task that is not known to be short.  What is behind a task that
runs long is given back on the node's word (`Reclaim`), which the io thread takes while user
code runs; so is what is behind a task that blocks, which gives it back by itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from types import FrameType
from typing import Any

from raydask.driver import arguments
from raydask.driver.context import RunningTask, running_task
from raydask.driver.session import Session
from raydask.errors import TaskCancelledError, TaskTimeoutError
from raydask.ids import ActorID, FunctionID, ObjectID, TaskID
from raydask.task import TaskKind, TaskTemplate
from raydask.wire.connection import BlockingConnection, ConnectionLost
from raydask.wire.messages import (
    Assignment,
    CancelTask,
    Execute,
    JobSettings,
    Reclaim,
    Reclaimed,
    TaskResult,
    TaskStatus,
)
from raydask.worker.outcome import Outcomes, in_a_line, load_code
from raydask.worker.surroundings import take_over

_LONG_SECONDS = 0.001
_BATCH_SECONDS = 0.001
_OK = int(TaskStatus.OK)
_INTERRUPT = signal.SIGUSR1
_FRAGILE = (
    "raydask/driver/outbox.py",
    "raydask/driver/actor_calls.py",
    "raydask/driver/references.py",
    "raydask/object_store/client.py",
    "raydask/wire/connection.py",
)
"""Code that an exception from outside must not leave half done."""


class _Known:
    """A template with its function, and how long its calls take."""

    __slots__ = ("function", "seconds", "template")

    def __init__(self, template: TaskTemplate, function: Any) -> None:
        self.template = template
        self.function = function
        self.seconds = 1.0


class Executor:
    """The worker's tasks.

    Parameters
    ----------
    session : Session
    control : BlockingConnection
        The socket on which the node interferes.
    """

    def __init__(self, session: Session, control: BlockingConnection) -> None:
        self.session = session
        self._control = control
        self._inbox: deque[Assignment] = deque()
        self._known: dict[int, _Known] = {}
        self._functions: dict[FunctionID, Any] = {}
        self._outcomes = Outcomes(session)
        self._running: TaskID | None = None
        self._interrupt: tuple[TaskID, str] | None = None
        self._main = threading.get_ident()
        self._blocked = False
        self._lock = threading.Lock()
        self._actor: Any = None

    def run(self) -> None:
        """Run tasks until the node is gone."""
        session = self.session
        session.workplace = self
        session.handlers[Execute] = self._on_execute
        session.handlers[JobSettings] = self._on_job_settings
        signal.signal(_INTERRUPT, self._on_interrupt)
        session.start()
        session.hub.register(self._control, self._on_control, lambda error: None, background=True)
        inbox = self._inbox
        while session.lost is None:
            if not inbox:
                session.flush()
                session.hub.wait_until(lambda: bool(inbox) or session.lost is not None, None)
                continue
            try:
                assignment = inbox.popleft()
            except IndexError:  # reclaimed meanwhile
                continue
            self._run_one(assignment)
            if self._actor is not None:
                self._actor.run()
                break
        _leave()

    # --- one task -------------------------------------------------------------------------

    def _run_one(self, assignment: Assignment) -> None:
        session = self.session
        known = self._known[assignment.template]
        if known.seconds > _LONG_SECONDS or session.outbox.age > _BATCH_SECONDS:
            session.flush()
        template = known.template
        task_id = assignment.task_id
        lent: list[ObjectID] | None = None
        if assignment.values or assignment.borrowed:
            lent = [value.object_id for value in assignment.values]
            lent += assignment.borrowed
            session.references.lend(lent)
        session.depth = assignment.depth + 1
        session.parent = task_id
        running_task.set(RunningTask(task_id, template.name, assignment.attempt, None))
        started = time.time()
        begun = time.perf_counter()
        values = args = kwargs = value = None
        reason = ""
        try:
            read = session.codec.read
            writable = template.writable
            values = [read(stored, writable) for stored in assignment.values]
            args, kwargs = arguments.unpack(assignment.args, values, writable)
            function = known.function
            if function is None:
                function = self._load(known)
            if template.kind == TaskKind.ACTOR_CREATION:
                function = self._actor_maker(function, assignment, template)
            self._running = task_id
            if self._interrupt is not None:
                self._check_interrupt()
            value = function(*args, **kwargs)
            self._running = None
            values = args = kwargs = None
            result = self._outcomes.success(task_id, template.num_returns, value)
            status = _OK
            retryable = False
        except BaseException as error:
            self._running = None
            values = args = kwargs = None
            status, result, retryable = self._outcomes.failure(task_id, template, error)
            reason = in_a_line(error)
            del error
        value = None
        duration = time.perf_counter() - begun
        known.seconds = min(duration, known.seconds * 0.5 + duration)
        if lent is not None:
            session.references.end_loan(lent)
        session.outbox.add_result(
            TaskResult(task_id, status, result, started, duration, retryable, reason)
        )
        self._outcomes.handed_over(result)

    def _load(self, known: _Known) -> Any:
        function = load_code(known.template, self._functions)
        known.function = function
        return function

    def _actor_maker(self, cls: Any, assignment: Assignment, template: TaskTemplate) -> Any:
        from raydask.worker.actor_host import ActorHost

        def make(*args: Any, **kwargs: Any) -> None:
            actor_id = ActorID(assignment.task_id)
            running_task.set(
                RunningTask(assignment.task_id, template.name, assignment.attempt, actor_id)
            )
            self._actor = ActorHost(self.session, actor_id, template, self._outcomes)
            try:
                self._actor.create(cls, args, kwargs)
            except BaseException:
                self._actor = None
                raise

        return make

    # --- what the node says ---------------------------------------------------------------

    def _on_execute(self, message: Execute) -> None:
        for new in message.templates:
            function_id = new.template.function_id
            if new.code:
                self._functions[function_id] = new.code
            self._known[new.number] = _Known(new.template, None)
        if message.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, message.gpus))
        with self._lock:
            self._inbox.extend(message.assignments)
        if self._blocked:
            self._give_back()

    def _on_job_settings(self, message: JobSettings) -> None:
        self.session.namespace = message.namespace
        self.session.job = message.job
        take_over(message.search_path, message.folder)

    def _give_back(self) -> None:
        task_ids = self._take_inbox()
        if task_ids:
            self.session.outbox.flush(Reclaimed(task_ids))

    def _take_inbox(self) -> list[TaskID]:
        with self._lock:
            taken = []
            while self._inbox:
                taken.append(self._inbox.popleft().task_id)
            return taken

    # --- blocking -------------------------------------------------------------------------

    def block(self) -> list[TaskID] | None:
        """Note that a thread waits; the main thread gives back what it has not begun."""
        if threading.get_ident() != self._main or self._running is None:
            return None
        self._blocked = True
        return self._take_inbox()

    def unblock(self) -> None:
        """Note that the thread goes on."""
        if threading.get_ident() == self._main:
            self._blocked = False

    # --- the io thread --------------------------------------------------------------------

    def _on_control(self, message: Any) -> None:
        if isinstance(message, Reclaim):
            task_ids = self._take_inbox()
            try:
                self.session.outbox.flush()
                self._control.send_message(Reclaimed(task_ids))
            except ConnectionLost:
                pass
        elif isinstance(message, CancelTask):
            self._cancel(message)

    def _cancel(self, message: CancelTask) -> None:
        with self._lock:
            # The main thread takes from the inbox meanwhile, without the lock.
            waiting = [one for one in list(self._inbox) if one.task_id == message.task_id]
            for assignment in list(waiting):
                try:
                    self._inbox.remove(assignment)
                except (IndexError, ValueError):
                    waiting.remove(assignment)
        for assignment in waiting:
            self._outcomes.cancelled(assignment, self._known[assignment.template].template)
            self.session.flush()
            return
        self._interrupt = (message.task_id, message.reason)
        if self._running == message.task_id:
            signal.pthread_kill(self._main, _INTERRUPT)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        # Runs in the main thread, between two of its bytecodes or out of a system call.
        while frame is not None:
            if frame.f_code.co_filename.endswith(_FRAGILE):
                # An exception here would cut what is being sent; try again in a moment.
                threading.Timer(0.005, signal.pthread_kill, (self._main, _INTERRUPT)).start()
                return
            frame = frame.f_back
        self._check_interrupt()

    def _check_interrupt(self) -> None:
        interrupt = self._interrupt
        if interrupt is None or self._running is None or interrupt[0] != self._running:
            return
        self._interrupt = None
        self._running = None
        if interrupt[1] == "timeout":
            raise TaskTimeoutError("the task ran longer than its timeout option allows")
        raise TaskCancelledError("the task was cancelled while it ran")


def _leave() -> None:
    """End the process without running what the fork server's interpreter would at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
    os._exit(0)
