"""The order of one caller's calls on one actor. Pure.

Calls run in the order in which they were made.  A call whose inputs do not exist yet holds
back the calls behind it, and only those of the same caller.

========  ======================================================================
state     meaning
========  ======================================================================
waiting   not sent: inputs are missing, a call before it waits, or the actor
          has no process to send it to
sent      on its way to the actor's process or running there
========  ======================================================================

A window bounds what is under way to the actor's process, so that a caller never blocks in a
send: while an actor is busy its socket is not read.

When the process dies, calls that were sent are sent again, in order and before those that
wait, as often as their ``max_task_retries`` allows; others fail, because nobody knows
whether they have run.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from raydask.ids import ObjectID, TaskID
from raydask.wire.messages import ObjectValue

WINDOW_CALLS = 256
WINDOW_BYTES = 1 << 16


class Call:
    """One call, as its caller keeps it until the reply.

    Attributes
    ----------
    task_id : TaskID
    template : int
        Number of the method's template in the caller's session.
    data : bytes
        The packed arguments.
    values : list of ObjectValue or None
        The dependencies' values, in order; None where one has not come.
    missing : int
        How many of them have not come.
    borrowed : list of ObjectID
    num_returns : int
    retries : int
        How often it may be sent again; -1 means always.
    held : tuple
        What must live until the call has been answered: the handle, refs in the arguments.
    """

    __slots__ = (
        "borrowed",
        "data",
        "held",
        "missing",
        "num_returns",
        "retries",
        "task_id",
        "template",
        "values",
    )

    def __init__(
        self,
        task_id: TaskID,
        template: int,
        data: bytes,
        values: list[ObjectValue | None],
        borrowed: list[ObjectID],
        num_returns: int,
        retries: int,
        held: Any,
    ) -> None:
        self.task_id = task_id
        self.template = template
        self.data = data
        self.values = values
        self.missing = len(values)
        self.borrowed = borrowed
        self.num_returns = num_returns
        self.retries = retries
        self.held = held

    @property
    def size(self) -> int:
        """Bytes that it takes on the way, roughly."""
        size = len(self.data) + 64
        for value in self.values:
            if value is not None:
                size += len(value.data)
        return size


class CallQueue:
    """The calls of one caller on one actor that have not been answered."""

    __slots__ = ("_sent", "_sent_bytes", "_waiting")

    def __init__(self) -> None:
        self._sent_bytes = 0
        self._waiting: deque[Call] = deque()
        self._sent: dict[TaskID, Call] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def submit(self, call: Call) -> None:
        """Add a call behind all others."""
        self._waiting.append(call)

    def take_sendable(self) -> list[Call]:
        """Return the calls to send now, in order; they count as sent."""
        waiting = self._waiting
        sent = self._sent
        sendable = []
        while (
            waiting
            and not waiting[0].missing
            and (not sent or (len(sent) < WINDOW_CALLS and self._sent_bytes < WINDOW_BYTES))
        ):
            call = waiting.popleft()
            sent[call.task_id] = call
            self._sent_bytes += call.size
            sendable.append(call)
        return sendable

    def answered(self, task_id: TaskID) -> Call | None:
        """Take a call out because its answer came; None if it is not waited for."""
        call = self._sent.pop(task_id, None)
        if call is not None:
            self._sent_bytes -= call.size
        return call

    @property
    def has_sendable(self) -> bool:
        """Whether a call waits for nothing but room in the window."""
        return bool(self._waiting) and not self._waiting[0].missing

    def process_died(self) -> list[Call]:
        """Put sent calls back where they may be sent again; return those that fail."""
        failed = []
        again = []
        for call in self._sent.values():
            if call.retries == 0:
                failed.append(call)
                continue
            if call.retries > 0:
                call.retries -= 1
            again.append(call)
        self._sent.clear()
        self._sent_bytes = 0
        self._waiting.extendleft(reversed(again))
        return failed

    def cancel(self, task_id: TaskID) -> Call | None:
        """Take out a call that has not been sent; None if it has been or is unknown."""
        for call in self._waiting:
            if call.task_id == task_id:
                self._waiting.remove(call)
                return call
        return None

    def has_sent(self, task_id: TaskID) -> bool:
        """Say whether the call has been sent and not been answered."""
        return task_id in self._sent

    def take_all(self) -> list[Call]:
        """Take out every call: the actor is dead."""
        calls = [*self._sent.values(), *self._waiting]
        self._sent.clear()
        self._sent_bytes = 0
        self._waiting.clear()
        return calls
