"""The session: one process's connection to its node, and the only "current" slot.

A session is put together from parts that each do one thing: references count, the outbox
batches what goes out, the mailbox keeps what came in, the codec places and reads values,
the hub waits, and the actor caller talks to actors' workers.  This module joins them:
it submits, gets, waits, puts, and hands incoming messages to whom they concern.

A worker's session is the same, with a `Workplace` beside it: the executor, which has tasks
to give back when its thread blocks.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from raydask.driver import arguments
from raydask.driver.actor_calls import ActorCaller
from raydask.driver.call_sites import CallSiteRecorder
from raydask.driver.exports import Exports
from raydask.driver.mailbox import Mailbox
from raydask.driver.object_ref import ObjectRef, new_ref
from raydask.driver.outbox import Outbox
from raydask.driver.printing import print_lines, print_notice
from raydask.driver.references import ReferenceTable, Use
from raydask.driver.replies import OnReply, Replies
from raydask.driver.values import ValueCodec
from raydask.errors import ClusterUnavailableError, GetTimeoutError, UsageError
from raydask.ids import (
    IDSource,
    NodeNumber,
    ObjectID,
    ProcessNumber,
    TaskID,
    return_id,
)
from raydask.object_store.client import StoreClient
from raydask.serialization import (
    Serialized,
    deserialize_error,
    serialize,
    serialize_error,
)
from raydask.task import TaskSpec, TaskTemplate
from raydask.wire.connection import BlockingConnection, ConnectionLost
from raydask.wire.hub import Hub
from raydask.wire.messages import (
    ActorLocated,
    Get,
    LogLines,
    Notice,
    ObjectValue,
    Progress,
    Promise,
    Ready,
    Reply,
    Request,
    RetireRegions,
    Unblocked,
    ValueKind,
    Values,
    Watch,
    Welcome,
)

if TYPE_CHECKING:
    import concurrent.futures

T = TypeVar("T")


class Workplace(Protocol):
    """What a worker's executor offers to its session."""

    def block(self) -> list[TaskID] | None:
        """Note that this thread waits; return the tasks not begun, None if it has no CPU."""

    def unblock(self) -> None:
        """Note that this thread goes on."""


class Supervised(Protocol):
    """The processes of a session that this process started."""

    def stop(self) -> None:
        """End them."""


class Session:
    """A process's part in a cluster.

    Parameters
    ----------
    connection : BlockingConnection
        To the node, past its ``Welcome``.
    welcome : Welcome
    arena : int
        Descriptor of the node's arena.
    namespace : str
        For named actors.
    """

    def __init__(
        self, connection: BlockingConnection, welcome: Welcome, arena: int, namespace: str
    ) -> None:
        self.welcome = welcome
        self.namespace = namespace
        self.job = welcome.job
        self.depth = 0
        self.parent = TaskID(b"")
        self.workplace: Workplace | None = None
        self.supervised: Supervised | None = None
        self.lost: BaseException | None = None
        self.connection = connection
        self.ids = IDSource(NodeNumber(welcome.node), ProcessNumber(welcome.process))
        self.references = ReferenceTable()
        self.mailbox = Mailbox(self.references)
        self.store = StoreClient(
            arena, welcome.arena_size, self._request_region, slab_size=welcome.slab_size
        )
        self.codec = ValueCodec(self.store, self.references, welcome.inline_limit)
        self.hub = Hub(self._flush_what_is_due)
        self.outbox = Outbox(connection, self.references, self.store.take_retired, self.hub.arm)
        self.exports = Exports(self.outbox.add, welcome.preload)
        self.call_sites = CallSiteRecorder(self.outbox.add) if welcome.record_call_sites else None
        self.actors = ActorCaller(self)
        self.references.on_escape = self._escape
        self.observers: dict[TaskID, Callable[[TaskID, int], None]] = {}
        self._replies = Replies()
        self._template_numbers = itertools.count().__next__
        self.handlers: dict[type, Callable[[Any], None]] = {
            Values: self._on_values,
            Ready: self._on_ready,
            Reply: self._replies.deliver,
            LogLines: print_lines,
            Notice: print_notice,
            Progress: self._on_progress,
            ActorLocated: self.actors.on_located,
        }

    # --- lifecycle ------------------------------------------------------------------------

    def start(self) -> None:
        """Map the arena and begin to read."""
        self.store.start()
        self.hub.register(self.connection, self._on_message, self._on_lost)
        self.hub.start()

    def close(self) -> None:
        """Leave: nothing is sent from here on, and every wait ends."""
        if self.lost is None:
            self.lost = ClusterUnavailableError("raydask.shutdown() was called")
        self.references.closed = True
        self.hub.wake()
        self.hub.close()
        self.actors.close()
        self.connection.close()
        self.store.close()

    def _on_message(self, message: Any) -> None:
        self.handlers[type(message)](message)

    def _on_lost(self, error: BaseException) -> None:
        if self.lost is None:
            self.lost = ClusterUnavailableError(
                f"the node of this session is gone ({error}); its log is in "
                f"{self.welcome.session}/logs if the folder still exists. "
                "Call raydask.shutdown() and raydask.init() to start anew"
            )
        data = serialize_error(self.lost)
        self.mailbox.fail_all(data, ValueKind.ERROR)
        self.actors.fail_all(data)

    def check_lost(self) -> None:
        """Raise why the node is gone, if it is."""
        if self.lost is not None:
            raise self.lost

    def flush(self) -> bool:
        """Send everything that is buffered; say whether there was anything."""
        if self.lost is not None:
            return False
        try:
            called = self.actors.flush()
            return self.outbox.flush() or called
        except ConnectionLost:
            return False  # whoever reads the connection learns of it too, and says so

    def _flush_what_is_due(self) -> bool:
        if self.actors.has_buffered or self.outbox.is_due:
            return self.flush()
        return False

    def _send_now(self, *messages: object) -> None:
        self.check_lost()
        self.actors.flush()
        try:
            self.outbox.flush(*messages)
        except ConnectionLost as error:
            self._on_lost(error)
            self.check_lost()

    # --- submission -----------------------------------------------------------------------

    def register_template(self, template: TaskTemplate) -> int:
        """Return the number under which tasks of this session name the template."""
        number = self._template_numbers()
        self.outbox.unsent_templates[number] = template
        return number

    def submit(
        self,
        template: int,
        num_returns: int,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        task_id: TaskID | None = None,
    ) -> list[ObjectRef]:
        """Submit one task; return a ref for each of its returns."""
        if self.lost is not None:
            raise self.lost
        packed = self.pack(args, kwargs)
        if task_id is None:
            task_id = self.ids.next_task_id()
        refs = self.new_returns(task_id, num_returns)
        self.add_task(task_id, template, packed)
        return refs

    def add_task(self, task_id: TaskID, template: int, packed: arguments.PackedArguments) -> None:
        """Have a task go to the node with the next batch."""
        self.escape_private(packed.dependencies)
        self.outbox.add_spec(
            TaskSpec(
                task_id,
                template,
                packed.data,
                packed.dependencies,
                packed.borrowed,
                self.depth,
                self.parent,
            )
        )

    def new_returns(self, task_id: TaskID, count: int) -> list[ObjectRef]:
        """Return the first refs of a new task's returns."""
        table = self.references
        if self.call_sites is not None:
            self.call_sites.note([return_id(task_id, index) for index in range(count)])
        if count == 1:
            return [new_ref(ObjectID(task_id + b"\0\0\0\0"), table)]
        return [
            new_ref(ObjectID(task_id + index.to_bytes(4, "big")), table) for index in range(count)
        ]

    def pack(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> arguments.PackedArguments:
        """Return a call's arguments packed, large ones put into the object store."""
        return arguments.pack(args, kwargs, self.codec.inline_limit, self.put_serialized)

    # --- values ---------------------------------------------------------------------------

    def put(self, value: object) -> ObjectRef:
        """Put a value; return its ref."""
        self.check_lost()
        if isinstance(value, ObjectRef):
            raise UsageError(
                "put() was given an ObjectRef; the object exists already: pass the ref itself, "
                "or put a list that contains it"
            )
        return self.put_serialized(serialize(value))

    def put_serialized(self, serialized: Serialized) -> ObjectRef:
        """Put a value that is serialized already; return its ref."""
        object_id = self.ids.next_put_id()
        value = self.codec.place(object_id, serialized)
        ref = new_ref(object_id, self.references)
        if self.call_sites is not None:
            self.call_sites.note([object_id])
        self.outbox.add_put(value)
        return ref

    def get(
        self,
        object_ids: Sequence[ObjectID],
        timeout: float | None,
        *,
        writable: bool = False,
        copy: bool = False,
    ) -> list[Any]:
        """Return the objects' values, in order; see `ValueCodec.read` for the ways to read.

        Raises
        ------
        GetTimeoutError
            Not all came within `timeout` seconds.
        BaseException
            The first error that stands in a value's place.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        ids = list(object_ids)
        try:
            values, uses = self._await_values(ids, deadline)
            result = self.codec.read_all(values, writable, copy)
            del uses  # the views have uses of their own
            return result
        finally:
            self.mailbox.taken(ids)

    def locate(self, object_ids: Sequence[ObjectID]) -> tuple[list[ObjectValue], list[Use]]:
        """Return where objects are, in order, and what keeps the stored ones there.

        Raises
        ------
        ClusterUnavailableError
            The node is gone.
        """
        ids = list(object_ids)
        try:
            return self._await_values(ids, None)
        finally:
            self.mailbox.taken(ids)

    def _await_values(
        self, ids: list[ObjectID], deadline: float | None
    ) -> tuple[list[ObjectValue], list[Use]]:
        arrived = self.mailbox.values
        explicit = self._ask(ids)
        count = len(ids)
        position = 0

        def done() -> bool:
            nonlocal position
            while position < count:
                object_id = ids[position]
                if object_id not in arrived:
                    if self.lost is not None:
                        return True
                    if self._is_forgotten(object_id):
                        self._ask(ids[position:])
                    return False
                position += 1
            return True

        finished = False
        try:
            while True:
                if not self.hub.wait_until(done, deadline):
                    break
                try:
                    found = self.mailbox.look_up(ids)
                except KeyError:  # another thread took one, or the node is lost
                    self.check_lost()
                    position = 0
                    continue
                finished = True
                return found
        finally:
            if self.workplace is not None and (explicit or not finished):
                self._unblock()
            elif self.workplace is not None:
                self.workplace.unblock()
        missing = sum(object_id not in arrived for object_id in ids)
        raise GetTimeoutError(
            f"{missing} of {len(ids)} objects did not exist when get() reached its timeout; "
            "their tasks go on, and get() can be called again"
        )

    def _is_forgotten(self, object_id: ObjectID) -> bool:
        return (
            object_id not in self.mailbox.requested
            and object_id not in self.mailbox.values
            and object_id not in self.references.private
        )

    def _ask(self, ids: list[ObjectID]) -> bool:
        """Ask the node for what is missing; say whether it must be told when this ends."""
        missing = self.mailbox.to_request(ids)
        if self.workplace is not None:
            reclaimed = self.workplace.block()
            if reclaimed is not None:
                return self._ask_blocking(ids, reclaimed)
        if missing:
            self._send_now(Get(missing, False, []))
        else:
            self.flush()
        return False

    def _ask_blocking(self, ids: list[ObjectID], reclaimed: list[TaskID]) -> bool:
        # The node must know all that this thread waits for, asked for before or not.
        private = self.references.private
        arrived = self.mailbox.values
        pending = [object_id for object_id in ids if object_id not in arrived]
        ours = [object_id for object_id in pending if object_id not in private]
        if len(ours) == len(pending):
            if ours or reclaimed:
                self._send_now(Get(ours, True, reclaimed))
            else:
                self.flush()
            return False
        self._send_now(Get(ours, False, []), Watch([], True, reclaimed))
        return True

    def _unblock(self) -> None:
        assert self.workplace is not None
        self.workplace.unblock()
        self.outbox.add(Unblocked())

    def wait(
        self, object_ids: Sequence[ObjectID], num_returns: int, timeout: float | None
    ) -> set[ObjectID]:
        """Return those of the objects that exist, once `num_returns` do or time is up."""
        deadline = None if timeout is None else time.monotonic() + timeout
        ids = list(object_ids)
        mailbox = self.mailbox
        self.check_lost()
        missing = mailbox.to_watch(ids)
        reclaimed = self.workplace.block() if self.workplace is not None else None
        blocks = reclaimed is not None
        if missing or blocks:
            self._send_now(Watch(missing, blocks, reclaimed or []))
        else:
            self.flush()

        def done() -> bool:
            if self.lost is not None:
                return True
            return sum(map(mailbox.is_ready, ids)) >= num_returns

        try:
            self.hub.wait_until(done, deadline)
        finally:
            if blocks:
                self._unblock()
        self.check_lost()
        return {object_id for object_id in ids if mailbox.is_ready(object_id)}

    def future_of(self, ref: ObjectRef) -> concurrent.futures.Future[Any]:
        """Return a future of the ref's value."""
        from concurrent.futures import Future  # 0.1 MB, for programs that ask for one

        self.check_lost()
        future: concurrent.futures.Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def resolve(value: ObjectValue, ref: ObjectRef = ref) -> None:
            try:
                result = self.codec.read(value)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        if not self.mailbox.call_back(ref.live_id(), resolve):
            missing = self.mailbox.to_request([ref._id])
            if missing:
                self._send_now(Get(missing, False, []))
            else:
                self.flush()
            self.hub.arm()
        return future

    # --- results that only this process knows ------------------------------------------------

    def escape_private(self, object_ids: Sequence[ObjectID]) -> None:
        """See that the node knows these objects, which are about to leave this process."""
        private = self.references.private
        if private:
            for object_id in object_ids:
                if object_id in private:
                    self._escape(object_id)

    def _escape(self, object_id: ObjectID) -> None:
        """Tell the node of an actor's result, because its ref is about to leave."""
        # Promised first: whether the value has come is only then a question with one answer.
        self.actors.promise(object_id)
        value = self.mailbox.values.get(object_id)
        if value is None:
            self.outbox.add(Promise([object_id]))
        else:
            self.actors.keep_promise(value)
        # Last: from here on other threads ask the node for it, which must have heard of it.
        self.references.private.discard(object_id)

    # --- requests -------------------------------------------------------------------------

    def request(
        self,
        operation: str,
        payload: object,
        result: type[T],
        unclaimed: OnReply = lambda reply: None,
    ) -> T:
        """Ask the node for a rare operation and return its reply.

        Parameters
        ----------
        operation : str
        payload : object
        result : type
            What the reply is.
        unclaimed : callable
            Takes the reply if this is interrupted.

        Raises
        ------
        RaydaskError
            What the node answered with.
        """
        self.check_lost()
        replies = self._replies
        number = replies.next_number()
        try:
            self._send_now(Request(number, operation, msgspec.msgpack.encode(payload)))
            self.hub.wait_until(lambda: number in replies or self.lost is not None, None)
        except BaseException:  # an interrupt, for one
            replies.call_back(number, unclaimed)
            raise
        reply = replies.take(number)
        if reply is None:
            assert self.lost is not None
            raise self.lost
        if reply.error:
            raise deserialize_error(reply.error)
        return msgspec.msgpack.decode(reply.payload, type=result)

    def after_node(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the node has read everything that was said before this."""
        number = self._replies.next_number()
        self._replies.call_back(number, lambda reply: callback())
        self.outbox.add(Request(number, "barrier", msgspec.msgpack.encode(None)))
        self.hub.arm()

    def _request_region(self, size: int) -> int:
        def give_back(reply: Reply) -> None:
            if not reply.error:
                offset = msgspec.msgpack.decode(reply.payload, type=int)
                self.outbox.add(RetireRegions([(offset, size)]))
                self.hub.arm()

        return self.request("region", size, int, give_back)

    # --- incoming -------------------------------------------------------------------------

    def _on_values(self, message: Values) -> None:
        self.actors.came_by_node([value.object_id for value in message.values])
        self.mailbox.deliver(message.values)

    def _on_ready(self, message: Ready) -> None:
        object_ids = message.object_ids
        self.actors.came_by_node(object_ids)
        self.mailbox.mark_ready(object_ids)
        # A result of a call that the node has now may be awaited already.
        missing = self.mailbox.to_request(self.mailbox.awaited(object_ids))
        if missing:
            self.outbox.add(Get(missing, False, []))

    def _on_progress(self, message: Progress) -> None:
        for task_id, step in message.steps:
            observer = self.observers.get(task_id)
            if observer is not None:
                if step:
                    del self.observers[task_id]
                observer(task_id, step)


# --- the current session ---------------------------------------------------------------------

_current: Session | None = None


def current_session() -> Session:
    """Return this process's session.

    Raises
    ------
    UsageError
        There is none.
    """
    if _current is None:
        raise UsageError("raydask is not running in this process: call raydask.init() first")
    return _current


def find_session() -> Session | None:
    """Return this process's session, or None."""
    return _current


def install_session(session: Session | None) -> None:
    """Make this the process's session; None means there is none from here on."""
    global _current
    _current = session
