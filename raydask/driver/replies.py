"""The node's replies to a process's requests, each for whoever asked.

A request has a number.  Its reply is taken by the thread that waits for it, or given to a
callback.  An interrupted thread leaves a callback in its place, so that what the reply brings,
room in the object store for one, is not lost.

Replies are delivered by whichever thread reads the connection.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from raydask.wire.messages import Reply

OnReply = Callable[[Reply], None]


class Replies:
    """The replies that have come and those that somebody is to be told of."""

    __slots__ = ("_callbacks", "_lock", "_replies", "next_number")

    def __init__(self) -> None:
        self.next_number = itertools.count(1).__next__
        """Returns the number of a new request."""
        self._replies: dict[int, Reply] = {}
        self._callbacks: dict[int, OnReply] = {}
        # Without it a reply could come between a look for it and the callback's registration.
        self._lock = threading.Lock()

    def __contains__(self, number: object) -> bool:
        """Say whether the reply has come and not been taken."""
        return number in self._replies

    def take(self, number: int) -> Reply | None:
        """Return the reply, once; None if it has not come."""
        return self._replies.pop(number, None)

    def call_back(self, number: int, callback: OnReply) -> None:
        """Call `callback` with the reply, now or when it comes."""
        with self._lock:
            reply = self._replies.pop(number, None)
            if reply is None:
                self._callbacks[number] = callback
        if reply is not None:
            callback(reply)

    def deliver(self, reply: Reply) -> None:
        """Take in a reply."""
        with self._lock:
            callback = self._callbacks.pop(reply.number, None)
            if callback is None:
                self._replies[reply.number] = reply
        if callback is not None:
            callback(reply)
