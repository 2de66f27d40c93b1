"""Where the threads of a driver or worker wait for messages.

There is no event loop in these processes: the thread that wants something reads the sockets
itself, because a hand-over between threads costs more than the rest of a call.  So:

* Any thread that waits calls `Hub.wait_until`.  One of them at a time, the *leader*, polls
  and handles what arrives for all; the *followers* sleep until it has handled something or
  leaves, and then one of them leads.
* A background thread leads when nobody else does, so that log lines are printed, futures
  are resolved and results of actors are passed on while the program computes.  It keeps
  away for a few milliseconds after a foreground thread has read: a program that calls ``get``
  in a loop never meets it.
* It also flushes what others have buffered and not sent (`Hub.arm`), about a millisecond
  after it was buffered, and reads the sockets that are its own (`Hub.register`
  with ``background=True``), such as a worker's control socket.

Handlers run in the leader's thread, one at a time, and must not wait for messages.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from raydask.wire.connection import BlockingConnection, ConnectionLost
from raydask.wire.framing import MalformedFrameError

_QUIET_SECONDS = 0.005
_FLUSH_SECONDS = 0.001
_QUIET_ROUNDS = 10
_IDLE_SECONDS = 0.1
_LEAVE_SECONDS = 1.0

_log = logging.getLogger("raydask.wire")

OnMessage = Callable[[Any], None]
OnLost = Callable[[BaseException], None]


class _Waker:
    """A pipe that makes a poll return."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        return self._reader

    def wake(self) -> None:
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            pass  # it is full, so a wake-up is under way
        except OSError:
            pass  # closed: there is nobody left to wake

    def clear(self) -> None:
        try:
            while os.read(self._reader, 512):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        reader, writer = self._reader, self._writer
        # Whoever wakes it from now on must not write into a file that got the same number.
        self._reader = self._writer = -1
        os.close(reader)
        os.close(writer)


class Hub:
    """The connections of one process and the threads that wait for them.

    Parameters
    ----------
    flush : callable
        Sends what is buffered and says whether there was anything.
    """

    def __init__(self, flush: Callable[[], bool]) -> None:
        self._flush = flush
        self._handlers: dict[int, tuple[BlockingConnection, OnMessage, OnLost]] = {}
        self._pending: deque[tuple[OnMessage, Any]] = deque()
        """Messages that have been read and not handled; the leader's alone."""
        self._lead = threading.Lock()
        self._arrived = threading.Condition()
        self._foreground = 0
        self._foreground_left = 0.0
        self._foreground_lock = threading.Lock()
        self._background_leads = False
        self._armed = False
        self._stopping = False
        self._leader_waker = _Waker()
        self._background_waker = _Waker()
        self._leader_poll = select.poll()
        self._leader_poll.register(self._leader_waker, select.POLLIN)
        self._own_poll = select.poll()
        self._own_poll.register(self._background_waker, select.POLLIN)
        self._full_poll = select.poll()
        self._full_poll.register(self._leader_waker, select.POLLIN)
        self._full_poll.register(self._background_waker, select.POLLIN)
        self._thread = threading.Thread(target=self._run_background, name="raydask-io", daemon=True)

    def start(self) -> None:
        """Start the background thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the background thread; connections stay with whoever made them.

        What the waiting threads wait for must be over, so that they leave when they are woken.
        """
        self._stopping = True
        self._background_waker.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._leader_waker.wake()
        # Not under the hands of the leader.  One that does not leave (a handler of its own may
        # have called this) keeps the pipes.
        if self._lead.acquire(timeout=_LEAVE_SECONDS):
            self._leader_waker.close()
            self._background_waker.close()
            self._lead.release()

    def register(
        self,
        connection: BlockingConnection,
        on_message: OnMessage,
        on_lost: OnLost,
        *,
        background: bool = False,
    ) -> None:
        """Read `connection` from now on.

        Parameters
        ----------
        connection : BlockingConnection
        on_message, on_lost : callable
            Called with each message, and once with the error when the connection ends.
        background : bool
            Whether only the background thread reads it, whoever leads.
        """
        descriptor = connection.fileno()
        self._handlers[descriptor] = (connection, on_message, on_lost)
        if background:
            self._own_poll.register(descriptor, select.POLLIN)
        else:
            self._leader_poll.register(descriptor, select.POLLIN)
        self._full_poll.register(descriptor, select.POLLIN)
        self._leader_waker.wake()
        self._background_waker.wake()

    def unregister(self, connection: BlockingConnection) -> None:
        """Stop reading `connection`."""
        descriptor = connection.fileno()
        if self._handlers.pop(descriptor, None) is None:
            return
        for poller in (self._leader_poll, self._own_poll, self._full_poll):
            try:
                poller.unregister(descriptor)
            except KeyError:
                pass

    def arm(self) -> None:
        """See that what has been buffered is sent within a millisecond or so."""
        if not self._armed:
            self._armed = True
            self._background_waker.wake()

    def wait_until(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Handle messages until `done` or until the monotonic time `deadline`.

        Returns
        -------
        bool
            What `done` returned last.
        """
        with self._foreground_lock:
            self._foreground += 1
        if self._background_leads:
            self._background_waker.wake()
        try:
            while not done():
                timeout = None if deadline is None else deadline - time.monotonic()
                if timeout is not None and timeout <= 0:
                    return False
                if self._lead.acquire(blocking=False):
                    try:
                        if done():
                            return True
                        self._handle_events(self._leader_poll, timeout, self._pending)
                    finally:
                        self._lead.release()
                        self._notify()
                else:
                    with self._arrived:
                        if self._lead.locked():
                            self._arrived.wait(timeout)
            return True
        finally:
            with self._foreground_lock:
                self._foreground -= 1
                self._foreground_left = time.monotonic()

    def wake(self) -> None:
        """Make the waiting threads look at their conditions again."""
        self._leader_waker.wake()
        self._notify()

    def _notify(self) -> None:
        with self._arrived:
            self._arrived.notify_all()

    def _handle_events(
        self, poller: select.poll, timeout: float | None, pending: deque[tuple[OnMessage, Any]]
    ) -> None:
        while pending:  # an interrupt, such as Ctrl-C, came between these and the one before
            handle, message = pending.popleft()
            handle(message)
            timeout = 0
        for descriptor, _ in poller.poll(None if timeout is None else timeout * 1000):
            entry = self._handlers.get(descriptor)
            if entry is None:
                if descriptor == self._leader_waker.fileno():
                    self._leader_waker.clear()
                elif descriptor == self._background_waker.fileno():
                    self._background_waker.clear()
                continue
            connection, on_message, on_lost = entry
            try:
                messages = connection.receive_ready()
            except (ConnectionLost, MalformedFrameError) as error:
                self.unregister(connection)
                on_lost(error)
                continue
            pending.extend([(on_message, message) for message in messages])
            while pending:
                handle, message = pending.popleft()
                handle(message)

    def _handle_own_events(self, timeout: float) -> None:
        """Handle what is for the background thread alone, whoever leads meanwhile."""
        self._handle_events(self._own_poll, timeout, deque())

    # --- the background thread ------------------------------------------------------------

    def _run_background(self) -> None:
        while not self._stopping:
            try:
                self._background_turn()
            except Exception:
                if self._is_stopping():
                    return
                _log.exception("raydask's background thread failed; it goes on")

    def _is_stopping(self) -> bool:
        return self._stopping

    def _is_recent(self) -> bool:
        """Say whether a foreground thread has read just now, and may soon again."""
        return time.monotonic() - self._foreground_left < _QUIET_SECONDS

    def _background_turn(self) -> None:
        if self._armed:
            self._flush_for_a_while()
        else:
            self._flush()  # refs that were dropped since, by a program that says nothing
        if self._foreground:
            # A foreground thread tells nobody when it leaves, which would cost a system call
            # for every get; so look now and then.
            self._handle_own_events(_IDLE_SECONDS)
        elif self._is_recent() or not self._lead.acquire(blocking=False):
            self._handle_own_events(_QUIET_SECONDS)
        else:
            try:
                self._background_leads = True
                if not self._foreground:
                    self._handle_events(self._full_poll, _IDLE_SECONDS, self._pending)
            finally:
                self._background_leads = False
                self._lead.release()
                self._notify()

    def _flush_for_a_while(self) -> None:
        quiet = 0
        while quiet < _QUIET_ROUNDS and not self._stopping:
            self._handle_own_events(_FLUSH_SECONDS)
            quiet = 0 if self._flush() else quiet + 1
            if self._foreground:
                continue
            if quiet and not self._is_recent() and self._lead.acquire(blocking=False):
                try:
                    self._handle_events(self._leader_poll, 0, self._pending)
                finally:
                    self._lead.release()
                    self._notify()
        self._armed = False
        # Somebody may have buffered between the last flush and the line above.
        self._flush()
