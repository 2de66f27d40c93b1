"""Objects from other nodes: the end of data connections that asks, and puts them in the arena.

Pulls wait in one queue and are carried out by a few threads, which begin when there is something
to do and end when there has been nothing for a while.  Each pull asks one node for one object,
over a connection that no other pull uses meanwhile; connections are kept for the next pull from
that node.  An object comes in pieces, and the next is asked for as soon as the answer with the
one before has begun: the source is never idle in between.

A source that has yet to begin to pull the object itself says so, and the pull goes back into the
queue for a moment instead of keeping a thread.

A pull ends once, with all bytes or with an error, and nothing is written to its place in the
arena after that.  A connection to a node is lost more often than the node is: whether to ask
another source is for the caller to decide.

The protocol is in ``object_store/transfer.py``.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from raydask.errors import InternalError
from raydask.object_store.partial_objects import PATIENCE, PartialObjects
from raydask.object_store.streams import Buffer, Stream, stream_over
from raydask.object_store.transfer import TransferStatus, encode_request

_log = logging.getLogger(__name__)

MOST_PULLS = 4
"""How many pulls one node carries out at once."""

PIECE_SIZE = 8 << 20
"""Bytes of one request."""

IDLE_SECONDS = 10.0
"""After so long without anything to do threads end, and connections are closed."""

_HAND_OVER_SECONDS = 0.2
"""After so long others can have what has come, however little."""

_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds before a source that had not begun is asked again, the last for good."""

_JOIN_SECONDS = 6.0
"""How long `close` waits for a thread, which may be about to connect."""

_FAILURES: dict[int, str] = {
    TransferStatus.NOT_HERE: "it has not got the object",
    TransferStatus.REFUSED: "it has no such range",
}

OnEnd = Callable[[int, str, int], None]


class _Pull:
    """One object on its way."""

    __slots__ = (
        "arrived",
        "begun_at",
        "file",
        "node",
        "number",
        "pauses",
        "reason",
        "size",
        "source_offset",
        "stream",
        "target_offset",
    )

    def __init__(
        self,
        number: int,
        node: int,
        file: int,
        source_offset: int,
        size: int,
        target_offset: int,
        arrived: int,
    ) -> None:
        self.number = number
        self.node = node
        self.file = file
        self.source_offset = source_offset
        self.size = size
        self.target_offset = target_offset
        self.arrived = self.begun_at = arrived
        self.pauses = 0
        self.stream: Stream | None = None
        """What it is being received from: only then may its place be written to."""
        self.reason = ""
        """Why it was ended from outside."""

    def request(self, start: int, most: int) -> bytes:
        """Return the request for a part of the object."""
        length = min(most, self.size - start)
        return encode_request(self.file, self.source_offset + start, length)


class _LaterError(Exception):
    """The source has yet to begin to pull the object itself."""


class _RefusedError(Exception):
    """The source does not send the object."""


class Puller:
    """Fetches objects into one arena.

    Parameters
    ----------
    arena_fd : int
        The arena's file, writable; the caller's, to be kept open until `close`.
    arena_size : int
        Bytes.
    partial : PartialObjects
        Of the same arena: who is asked for what is still on its way looks there.
    connect : callable
        Returns a proved data connection to a node; raises OSError.  Called in threads, and
        bounded in time.
    on_end : callable
        ``on_end(number, error, arrived)`` is called once for each pull, in any thread, also that
        which cancels it; `error` is empty when all bytes are there, and the first `arrived` are in
        any case.  It must not raise.  It is not called for what `close` found unfinished.
    most : int
        How many pulls are carried out at once.
    patience : float
        Seconds without a byte after which a source is given up.
    idle_seconds : float
        After so long without anything to do threads end, and connections are closed.
    piece_size : int
        Bytes of one request.
    """

    def __init__(
        self,
        arena_fd: int,
        arena_size: int,
        partial: PartialObjects,
        connect: Callable[[int], socket.socket],
        on_end: OnEnd,
        most: int = MOST_PULLS,
        *,
        patience: float = PATIENCE,
        idle_seconds: float = IDLE_SECONDS,
        piece_size: int = PIECE_SIZE,
    ) -> None:
        self._arena_fd = arena_fd
        self._arena_size = arena_size
        self._partial = partial
        self._connect = connect
        self._on_end = on_end
        self._most = most
        self._patience = patience
        self._idle_seconds = idle_seconds
        self._piece_size = piece_size
        self._changed = threading.Condition()
        self._pulls: dict[int, _Pull] = {}
        """All that have not ended."""
        self._queue: deque[_Pull] = deque()
        self._delayed: list[tuple[float, int, _Pull]] = []
        """A heap of those that go back into the queue, by the time when they do."""
        self._order = itertools.count()
        self._threads: set[threading.Thread] = set()
        self._idle_threads = 0
        self._idle_streams: dict[int, list[tuple[float, Stream]]] = {}
        """By node, each with when it was used last, in that order."""
        self._closing = False
        self.bytes_received = 0
        """Of objects, so far."""

    def pull(
        self,
        number: int,
        node: int,
        file: int,
        source_offset: int,
        size: int,
        target_offset: int,
        arrived: int = 0,
    ) -> None:
        """Fetch an object soon; `on_end` says how that ended.

        Parameters
        ----------
        number : int
            The pull's, for `cancel` and `on_end`; of no other that has not ended.
        node : int
            Who has the object, pinned until the caller says otherwise.
        file : int
            Of the source's; 0 is its arena.
        source_offset : int
        size : int
            Bytes; may be 0.
        target_offset : int
            Where in the arena the object goes.  The place belongs to the pull until it ends.
        arrived : int
            Bytes that are there already, because another pull to this place has failed after them.
        """
        if number in self._pulls or not 0 <= target_offset <= self._arena_size - size:
            raise InternalError(
                f"pull {number}, {size} bytes to {target_offset}, cannot be; please report this bug"
            )
        pull = _Pull(number, node, file, source_offset, size, target_offset, arrived)
        self._partial.begin(target_offset, size)
        with self._changed:
            self._pulls[number] = pull
            self._queue.append(pull)
            failed = self._closing or not self._have_a_thread()
            self._changed.notify_all()
        if failed:
            self._finish(pull, "there are no threads for pulls")

    def cancel(self, number: int) -> None:
        """Give up a pull, if it has not ended: it ends with an error, soon."""
        with self._changed:
            pull = self._pulls.get(number)
            ended = self._give_up([pull] if pull else [], "cancelled")
        self._tell(ended, "cancelled")

    def forget_node(self, node: int) -> None:
        """Give up all that comes from a node, which is dead."""
        reason = f"node {node} is dead"
        with self._changed:
            ended = self._give_up([p for p in self._pulls.values() if p.node == node], reason)
            for _, stream in self._idle_streams.pop(node, ()):
                stream.close()
        self._tell(ended, reason)

    def close(self) -> None:
        """Give up everything and end all threads.  A second call does nothing."""
        with self._changed:
            self._closing = True
            ended = self._give_up(list(self._pulls.values()), "the node ends")
            threads = list(self._threads)
            self._changed.notify_all()
        self._tell(ended, "the node ends")
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)
        with self._changed:
            self._close_idle_streams(float("inf"))

    # --- the caller holds the lock ---------------------------------------------------------

    def _give_up(self, pulls: list[_Pull], reason: str) -> list[_Pull]:
        """End the connections of those that arrive; return the others, which have ended."""
        ended = []
        for pull in pulls:
            pull.reason = reason
            if pull.stream is not None:
                pull.stream.end()
            else:
                del self._pulls[pull.number]
                ended.append(pull)
        return ended

    def _have_a_thread(self) -> bool:
        """Begin one more thread if that would be of use; False if there is none at all."""
        waiting = len(self._queue) + len(self._delayed)
        if waiting > self._idle_threads and len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name="raydask-pull", daemon=True)
            try:
                thread.start()
                self._threads.add(thread)
            except RuntimeError as error:  # limit reached, or the interpreter is ending
                _log.warning(
                    "no more threads for pulls, there are %d: %s", len(self._threads), error
                )
        return bool(self._threads)

    def _keep(self, node: int, stream: Stream) -> None:
        """Have a connection ready for the next pull from the node."""
        if self._closing:
            stream.close()
        else:
            self._idle_streams.setdefault(node, []).append((time.monotonic(), stream))

    def _next_queued(self) -> _Pull | None:
        while self._queue:
            pull = self._queue.popleft()
            if self._is_live(pull):
                return pull
        return None

    def _is_live(self, pull: _Pull) -> bool:
        return self._pulls.get(pull.number) is pull

    def _end_pauses(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            self._queue.append(heapq.heappop(self._delayed)[2])

    def _close_idle_streams(self, used_before: float) -> None:
        for node, streams in list(self._idle_streams.items()):
            while streams and streams[0][0] <= used_before:
                streams.pop(0)[1].close()
            if not streams:
                del self._idle_streams[node]

    # --- threads ---------------------------------------------------------------------------

    def _work(self) -> None:
        buffer: Buffer | None = None
        while (pull := self._next()) is not None:
            try:
                if buffer is None:
                    buffer = Buffer()  # it may fail, and then with this pull alone
                error = self._carry_out(pull, buffer)
            except _LaterError:
                if self._delay(pull):
                    continue
                error = ""  # the pull has its reason
            except (OSError, MemoryError) as raised:
                error = f"there is no memory to receive it with: {raised}"
            except Exception as raised:
                _log.exception("a pull met a bug")
                error = str(raised) or type(raised).__name__
            self._finish(pull, error)

    def _next(self) -> _Pull | None:
        """Wait for something to do; None: end."""
        with self._changed:
            leaves_at = time.monotonic() + self._idle_seconds
            while not self._closing:
                now = time.monotonic()
                self._end_pauses(now)
                self._close_idle_streams(now - self._idle_seconds)
                pull = self._next_queued()
                if pull is not None:
                    return pull
                if self._delayed:
                    wakes_at = self._delayed[0][0]
                elif now < leaves_at:
                    wakes_at = leaves_at
                else:
                    break
                self._idle_threads += 1
                self._changed.wait(wakes_at - now)
                self._idle_threads -= 1
            self._threads.discard(threading.current_thread())
            if not self._threads:
                self._close_idle_streams(float("inf"))
            return None

    def _carry_out(self, pull: _Pull, buffer: Buffer) -> str:
        """Fetch the object; return why that failed, empty if it did not."""
        is_sound = False
        try:
            if pull.arrived < pull.size and self._open(pull):
                self._receive(pull, buffer)
            is_sound = True
        except _LaterError:
            is_sound = True
            raise
        except (OSError, _RefusedError) as error:
            return f"node {pull.node}: {error}"
        finally:
            self._detach(pull, is_sound)
        return ""

    def _open(self, pull: _Pull) -> bool:
        """Have the source begin with its answer; False: the pull has ended meanwhile."""
        while True:
            stream, is_used = self._take_stream(pull.node)
            if not self._attach(pull, stream):
                return False
            try:
                stream.send(pull.request(pull.arrived, self._piece_size))
                _await_ok(stream)
                return True
            except OSError as error:
                # The source may have closed a connection that was idle.
                if not is_used or pull.reason or isinstance(error, TimeoutError):
                    raise
                self._detach(pull, is_sound=False)

    def _receive(self, pull: _Pull, buffer: Buffer) -> None:
        """Receive all that has not arrived; the source has begun with the first piece."""
        stream = pull.stream
        assert stream is not None
        self._partial.start(pull.target_offset)
        self._partial.advance(pull.target_offset, pull.arrived)
        while True:
            end = min(pull.arrived + self._piece_size, pull.size)
            if end < pull.size:
                stream.send(pull.request(end, self._piece_size))
            while pull.arrived < end:
                pull.arrived += stream.receive_to_file(
                    self._arena_fd, pull.target_offset + pull.arrived, end - pull.arrived, buffer
                )
                self._partial.advance(pull.target_offset, pull.arrived)
            if end == pull.size:
                return
            _await_ok(stream)

    def _take_stream(self, node: int) -> tuple[Stream, bool]:
        """Return a connection to the node, and whether it has been used before."""
        with self._changed:
            if streams := self._idle_streams.get(node):
                return streams.pop()[1], True
        sock = self._connect(node)
        try:
            return stream_over(sock, self._patience, self._patience, _HAND_OVER_SECONDS), False
        except BaseException:
            sock.close()
            raise

    def _attach(self, pull: _Pull, stream: Stream) -> bool:
        with self._changed:
            if self._is_live(pull):
                pull.stream = stream
                return True
            self._keep(pull.node, stream)
            return False

    def _detach(self, pull: _Pull, is_sound: bool) -> None:
        """Take the connection from the pull; keep it for others if it is sound."""
        with self._changed:
            stream, pull.stream = pull.stream, None
            if stream is None:
                return
            if is_sound and not pull.reason:
                self._keep(pull.node, stream)
            else:
                stream.close()

    def _delay(self, pull: _Pull) -> bool:
        """Put it back into the queue in a moment; False: it has been given up."""
        with self._changed:
            if pull.reason:
                return False
            at = time.monotonic() + _PAUSES[min(pull.pauses, len(_PAUSES) - 1)]
            pull.pauses += 1
            heapq.heappush(self._delayed, (at, next(self._order), pull))
            self._changed.notify_all()  # this thread may find something else to do
            return True

    def _finish(self, pull: _Pull, error: str) -> None:
        with self._changed:
            if not self._is_live(pull):
                return  # it was given up before anything came, and that has been told
            del self._pulls[pull.number]
            self.bytes_received += pull.arrived - pull.begun_at
            error = pull.reason or error
        self._tell([pull], error)

    def _tell(self, pulls: list[_Pull], error: str) -> None:
        for pull in pulls:
            self._partial.end(pull.target_offset, not error)
            if not self._closing:
                try:
                    self._on_end(pull.number, error, pull.arrived)
                except Exception:
                    _log.exception("the end of a pull could not be told")


def _await_ok(stream: Stream) -> None:
    """Wait until the source begins to send the next piece.

    Raises
    ------
    _LaterError, _RefusedError, OSError
    """
    answer = stream.receive(1)
    if not answer:
        raise ConnectionResetError("it has closed the connection")
    status = answer[0]
    if status == TransferStatus.LATER:
        raise _LaterError
    if status != TransferStatus.OK:
        raise _RefusedError(_FAILURES.get(status, "it does not speak this protocol"))
