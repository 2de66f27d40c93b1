"""A worker that is an actor: takes calls from their callers and runs them.

The main thread listens on the worker's own socket.  What runs a call depends on the actor:

=============================  ===============================================================
actor                          its calls run
=============================  ===============================================================
plain                          in the main thread, one after the other
``max_concurrency`` above 1    in a pool of so many threads, begun in order
with ``async def`` methods     as coroutines in one event loop in a thread of its own, at
                               most ``max_concurrency`` at a time; plain methods too
=============================  ===============================================================

Answers are written without ever blocking: a caller may itself be blocked sending calls.
What a caller does not read at once is kept and sent when it does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from raydask.driver import arguments
from raydask.driver.context import RunningTask, running_task
from raydask.driver.object_ref import received_ref
from raydask.driver.session import Session
from raydask.errors import ClusterUnavailableError, TaskCancelledError
from raydask.ids import ActorID, ObjectID, TaskID
from raydask.task import TaskTemplate
from raydask.wire.connection import BlockingConnection, ConnectionLost
from raydask.wire.framing import encode
from raydask.wire.messages import (
    Assignment,
    CancelTask,
    Execute,
    Hello,
    ObjectValue,
    PutFor,
    Results,
    TaskResult,
    TaskStatus,
    ValueKind,
)
from raydask.worker.outcome import Outcomes

_BATCH_SECONDS = 0.001
_OK = int(TaskStatus.OK)
_STORED = int(ValueKind.STORED)
_ELSEWHERE = int(TaskStatus.ELSEWHERE)
_WITH_NODE = int(ValueKind.ELSEWHERE)


class _Caller:
    """A process that calls this actor."""

    __slots__ = ("answers", "connection", "node", "process", "templates")

    def __init__(self, connection: BlockingConnection) -> None:
        self.connection = connection
        self.process = 0
        self.node = 0
        self.templates: dict[int, tuple[TaskTemplate, str]] = {}
        self.answers: list[TaskResult] = []


class _Call(NamedTuple):
    """A call that has come and not been answered.

    `fetched` are those of its inputs that a caller on another node could not send; `held` is what
    keeps them here.
    """

    caller: _Caller
    assignment: Assignment
    fetched: Sequence[ObjectID] = ()
    held: list[object] | None = None


class _Listener:
    """The listening socket, in the shape in which the hub reads connections."""

    def __init__(self, host: ActorHost, path: str) -> None:
        self._host = host
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(path)
        self._socket.listen(128)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive_ready(self) -> list[Any]:
        """Take in the callers that have connected; there are never messages."""
        while True:
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return []
            self._host.connected(BlockingConnection(sock))


class ActorHost:
    """The actor of this process.

    Parameters
    ----------
    session : Session
    actor_id : ActorID
    template : TaskTemplate
        Of the creation task.
    outcomes : Outcomes
    """

    def __init__(
        self, session: Session, actor_id: ActorID, template: TaskTemplate, outcomes: Outcomes
    ) -> None:
        assert template.actor is not None
        self._session = session
        self._actor_id = actor_id
        self._options = template.actor
        self._outcomes = outcomes
        self._instance: Any = None
        self._calls: deque[_Call] = deque()
        self._dirty: dict[_Caller, None] = {}
        self._lock = threading.Lock()
        self._flushed_at = 0.0
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: asyncio.Semaphore | None = None
        self._coroutines: dict[TaskID, asyncio.Task[None]] = {}

    # --- creation -------------------------------------------------------------------------

    def create(self, cls: type, args: Any, kwargs: Any) -> None:
        """Make the instance and begin to listen; raises what ``__init__`` raises."""
        if self._options.is_async:
            self._start_loop()
        elif self._options.max_concurrency > 1:
            self._threads = concurrent.futures.ThreadPoolExecutor(
                self._options.max_concurrency, thread_name_prefix="raydask-actor"
            )
        self._instance = cls(*args, **kwargs)
        welcome = self._session.welcome
        path = os.path.join(welcome.session, f"w{welcome.process}.sock")
        listener: Any = _Listener(self, path)
        self._session.hub.register(listener, lambda message: None, lambda error: None)

    def _start_loop(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(
            target=self._loop.run_forever, name="raydask-actor-loop", daemon=True
        ).start()
        self._slots = asyncio.Semaphore(self._options.max_concurrency)

    def connected(self, connection: BlockingConnection) -> None:
        """Take in a caller."""
        caller = _Caller(connection)
        self._session.hub.register(
            connection, partial(self._on_message, caller), partial(self._on_lost, caller)
        )

    def _on_lost(self, caller: _Caller, error: BaseException) -> None:
        caller.connection.close()
        with self._lock:
            self._dirty.pop(caller, None)

    def _on_message(self, caller: _Caller, message: Any) -> None:
        if isinstance(message, Execute):
            for new in message.templates:
                method = new.template.name.rpartition(".")[2]
                caller.templates[new.number] = (new.template, method)
            self._calls.extend([_Call(caller, one) for one in message.assignments])
        elif isinstance(message, Hello):
            caller.process = message.process
            caller.node = message.node
        elif isinstance(message, CancelTask):
            self._cancel(message.task_id)

    def _cancel(self, task_id: TaskID) -> None:
        for call in list(self._calls):
            if call.assignment.task_id == task_id:
                try:
                    self._calls.remove(call)
                except ValueError:
                    break  # it has just begun
                template, _ = call.caller.templates[call.assignment.template]
                self._fail(call, template, TaskCancelledError("the call was cancelled"))
                self._flush()  # the main thread may be waiting for the next call
                return
        task = self._coroutines.get(task_id)
        if task is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(task.cancel)

    # --- the main thread ------------------------------------------------------------------

    def run(self) -> None:
        """Take and run calls until the node is gone."""
        session = self._session
        session.depth = 1
        # A thread that waits gives back neither tasks nor CPUs: actors hold none by default.
        session.workplace = None
        session.flush()
        calls = self._calls
        while session.lost is None:
            if not calls:
                self._flush()
                session.hub.wait_until(lambda: bool(calls) or session.lost is not None, None)
                continue
            try:
                call = calls.popleft()
            except IndexError:
                continue
            if call.assignment.values:
                call = self._with_inputs(call)
            if self._loop is not None:
                asyncio.run_coroutine_threadsafe(self._run_async(call), self._loop)
            elif self._threads is not None:
                self._threads.submit(self._run_in_thread, call)
            else:
                self._run_call(call)
                if time.monotonic() - self._flushed_at > _BATCH_SECONDS:
                    self._flush()

    def _with_inputs(self, call: _Call) -> _Call:
        """Have the node bring what the caller could not send."""
        values = call.assignment.values
        wanted = [value.object_id for value in values if value.kind == _WITH_NODE]
        if not wanted:
            return call
        session = self._session
        held: list[object] = [received_ref(each, session.references) for each in wanted]
        try:
            located, uses = session.locate(wanted)
        except ClusterUnavailableError:
            return call  # it will not be answered
        held.append(uses)
        found = dict(zip(wanted, located))
        call.assignment.values = [found.get(value.object_id, value) for value in values]
        return _Call(call.caller, call.assignment, wanted, held)

    def _run_in_thread(self, call: _Call) -> None:
        self._run_call(call)
        self._flush()

    def _run_call(self, call: _Call) -> None:
        assignment = call.assignment
        template, method = call.caller.templates[assignment.template]
        lent = self._begin(assignment, template)
        started = time.time()
        begun = time.perf_counter()
        args = kwargs = value = None
        try:
            args, kwargs = self._arguments(assignment)
            value = getattr(self._instance, method)(*args, **kwargs)
            args = kwargs = None
            values = self._outcomes.success(assignment.task_id, template.num_returns, value)
            status, retryable = _OK, False
        except BaseException as error:
            args = kwargs = None
            status, values, retryable = self._outcomes.failure(assignment.task_id, template, error)
            del error
        value = None
        duration = time.perf_counter() - begun
        self._answer(
            call, lent, TaskResult(assignment.task_id, status, values, started, duration, retryable)
        )

    def _begin(self, assignment: Assignment, template: TaskTemplate) -> list[ObjectID] | None:
        running_task.set(
            RunningTask(assignment.task_id, template.name, assignment.attempt, self._actor_id)
        )
        if not assignment.values and not assignment.borrowed:
            return None
        lent = [value.object_id for value in assignment.values] + assignment.borrowed
        self._session.references.lend(lent)
        return lent

    def _arguments(self, assignment: Assignment) -> tuple[Any, Any]:
        if not assignment.values:
            return arguments.unpack(assignment.args, [], False)
        read = self._session.codec.read
        values = [read(value) for value in assignment.values]
        return arguments.unpack(assignment.args, values, False)

    # --- coroutines -----------------------------------------------------------------------

    async def _run_async(self, call: _Call) -> None:
        assert self._slots is not None
        assignment = call.assignment
        template, method = call.caller.templates[assignment.template]
        task = asyncio.current_task()
        assert task is not None
        self._coroutines[assignment.task_id] = task
        started = time.time()
        begun = time.perf_counter()
        lent: list[ObjectID] | None = None
        args = kwargs = value = None
        try:
            async with self._slots:
                lent = self._begin(assignment, template)
                args, kwargs = self._arguments(assignment)
                value = getattr(self._instance, method)(*args, **kwargs)
                if inspect.isawaitable(value):
                    value = await value
                args = kwargs = None
            values = self._outcomes.success(assignment.task_id, template.num_returns, value)
            status, retryable = _OK, False
        except BaseException as error:
            args = kwargs = None
            shown: BaseException = error
            if isinstance(error, asyncio.CancelledError):
                shown = TaskCancelledError("the call was cancelled while it ran")
            status, values, retryable = self._outcomes.failure(assignment.task_id, template, shown)
            del error, shown
        finally:
            del self._coroutines[assignment.task_id]
        value = None
        duration = time.perf_counter() - begun
        self._answer(
            call, lent, TaskResult(assignment.task_id, status, values, started, duration, retryable)
        )
        if self._loop is not None and len(self._dirty) == 1:
            self._loop.call_soon(self._flush)

    # --- answers --------------------------------------------------------------------------

    def _fail(self, call: _Call, template: TaskTemplate, error: BaseException) -> None:
        status, values, _ = self._outcomes.failure(call.assignment.task_id, template, error)
        self._answer(call, None, TaskResult(call.assignment.task_id, status, values, 0.0, 0.0))

    def _answer(self, call: _Call, lent: list[ObjectID] | None, result: TaskResult) -> None:
        session = self._session
        keeps = lent is not None and bool(session.references.end_loan(lent))
        if call.held is not None:
            call.held.clear()
            session.references.settle()
            counts = session.references.counts
            keeps = keeps or any(object_id in counts for object_id in call.fetched)
        if keeps:
            # The caller lets go of its arguments when it has the answer; the node must know
            # before that that this actor keeps some of them.
            session.request("barrier", None, bool)
        if result.retryable and call.assignment.retries:
            # The caller sends the call again, and the error is of no use to anybody.
            self._outcomes.handed_over(result.values)
            result.values = []
        for value in result.values:
            if value.kind == _STORED or value.nested:
                self._hand_to_node(call.caller, result.values)
                self._outcomes.handed_over(result.values)
                result.values = []
                result.status = _ELSEWHERE
                break
        with self._lock:
            call.caller.answers.append(result)
            self._dirty[call.caller] = None

    def _hand_to_node(self, caller: _Caller, values: list[ObjectValue]) -> None:
        # What this process holds of their contents is released after this.
        self._session.outbox.flush(PutFor(caller.process, values, caller.node))

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        if self._dirty:
            with self._lock:
                dirty, self._dirty = self._dirty, {}
                batches = []
                for caller in dirty:
                    batches.append((caller, caller.answers))
                    caller.answers = []
            for caller, answers in batches:
                self._send(caller, encode(Results(answers)) if answers else b"")
        self._session.flush()

    def _send(self, caller: _Caller, data: bytes) -> None:
        try:
            finished = caller.connection.post(data)
        except ConnectionLost:
            return  # the caller has ended; reading its connection says so too
        if not finished:
            threading.Thread(
                target=self._send_rest, args=(caller,), name="raydask-answers", daemon=True
            ).start()

    def _send_rest(self, caller: _Caller) -> None:
        """Send what a slow caller has not read yet, as it reads."""
        poller = select.poll()
        poller.register(caller.connection, select.POLLOUT)
        try:
            while not caller.connection.post(b""):
                poller.poll(1000)
        except (ConnectionLost, ValueError):
            pass  # the caller has ended
