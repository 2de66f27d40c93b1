"""Bringing objects here that are stored on other nodes, and serving those that are here. Pure.

::

    wanted --home answers--> located --its turn, room--> asked --placed--> pulled --> here
                                ^                          |                 |
                                +----the next source-------+--not there------+--it failed

What a process waits for comes before what tasks will need, and both in the order in which they
were wanted.  How much is brought at once is bounded by a share of the store.  Room is taken
before a source is asked, so that nothing is pinned elsewhere while this node waits for room.

The home of an object names the nodes that have it or are fetching it, in the order in which they
came to it.  A node asks the last of those that came before it, and one that has only begun to
fetch serves what it has of it: so a broadcast goes through the nodes like through a pipeline.
When none of them can give it, the home is asked again and names only nodes that have all of it.

What was true when the home named them may be so no more: a node has dropped its copy, and fetches
it again.  That two do not wait for one another, nobody lets others wait for an object that is still
in his queue, nor the one that he waits for himself; and whoever waits long for an answer asks
another.  With every question goes a number, which tells its answer from one to a question that was
taken back.

Who reads along with a fetch that comes to nothing has been told a place, and may only begin to
read there.  So the place is used for nothing else before he has said that he is done with it, and
until then his reading is refused there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from raydask.errors import ObjectLostError
from raydask.ids import NodeNumber, ObjectID, ProcessNumber, home_of, peer_process
from raydask.local_scheduler.actions import CancelPull, ForgetPull, StartPull
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.outgoing import Outgoing
from raydask.local_scheduler.records import Fetch, ObjectRecord
from raydask.local_scheduler.room import Room
from raydask.object_store.state import StoreState
from raydask.serialization import serialize_error
from raydask.wire import messages as wire
from raydask.wire.messages import ObjectValue, ValueKind

_STORED = int(ValueKind.STORED)
_SPILLED = int(ValueKind.SPILLED)
_ERROR = int(ValueKind.ERROR)
_ITSELF = ProcessNumber(0)
"""This node, as a client of its store."""
_MOST = 32
"""How many objects are brought at once."""
_ATTEMPTS = 5
"""How often a source is asked that breaks off; whether it is dead is not for this node to say."""
_ROUNDS = 8
"""How often an object's home is asked again, before the object is given up."""
_PAUSE = 0.05
"""Seconds before the second of these rounds begins; each pause is twice as long as the last."""
_PATIENCE = 10.0
"""Seconds for which a source may say nothing; what it writes down first takes 5 at most."""
_LOOK_SECONDS = 1.0
"""Between two looks for sources that say nothing."""
_SHARE = 4
"""The part of the store that they may take: 1 / this."""


class Arrived(NamedTuple):
    """An object that is here now, or an error in its place."""

    record: ObjectRecord
    value: ObjectValue


class _Remnant:
    """A place that a fetch had which has come to nothing."""

    __slots__ = ("is_written", "object_id", "offset", "readers", "size")

    def __init__(
        self, object_id: ObjectID, offset: int, size: int, readers: dict[int, int], is_written: bool
    ) -> None:
        self.object_id = object_id
        self.offset = offset
        self.size = size
        self.readers = readers
        """Nodes that were told to read there, and how often."""
        self.is_written = is_written
        """Whether a pull writes there that has been cancelled and has not ended."""


class Fetching:
    """The objects that one node brings here, and those that it serves.

    Parameters
    ----------
    node : NodeNumber
    objects : ObjectTable
    store : StoreState
    room : Room
    outgoing : Outgoing
    tell : callable
        Sends a node a message.
    arrived : callable
        Takes in what has come.
    """

    def __init__(
        self,
        node: NodeNumber,
        objects: ObjectTable,
        store: StoreState,
        room: Room,
        outgoing: Outgoing,
        tell: Callable[[int, object], None],
        arrived: Callable[[Arrived], None],
    ) -> None:
        self._node = node
        self._objects = objects
        self._store = store
        self._room = room
        self._outgoing = outgoing
        self._tell = tell
        self._arrived = arrived
        self._numbers = 0
        self._fetches: dict[int, ObjectRecord] = {}
        """By number: those that have room or wait for it."""
        self._queued: dict[ObjectID, ObjectRecord] = {}
        self._urgent: dict[ObjectID, None] = {}
        """Of what is queued, what a process waits for."""
        self._abandoned: dict[int, int] = {}
        """Fetches that nobody wants any more and that wait for room, and for how much."""
        self._remnants: dict[int, _Remnant] = {}
        """Of fetches that have ended, by number, as long as anybody writes or reads there."""
        self._paused: dict[int, float] = {}
        """Fetches that begin another round, and when; negative: that is to be set."""
        self._looked_at = 0.0
        self._bytes = 0
        self._limit = max(1, store.capacity // _SHARE)
        self._serving: dict[ObjectID, dict[int, int]] = {}
        """Nodes that read an object here that is still being pulled, and how often."""

    # --- wanting --------------------------------------------------------------------------

    def want(self, record: ObjectRecord, *, urgent: bool) -> None:
        """Bring an object here as soon as it exists."""
        remote = record.remote
        assert remote is not None
        if record.value is not None:
            return
        fetch = remote.fetch
        if fetch is not None:
            if urgent and record.object_id in self._queued:
                self._urgent[record.object_id] = None
            return
        if not remote.exists:
            self.ask_home(record)
            return
        self._numbers += 1
        fetch = remote.fetch = Fetch(self._numbers, record.object_id)
        self._queued[record.object_id] = record
        if urgent:
            self._urgent[record.object_id] = None

    def ask_home(self, record: ObjectRecord) -> None:
        """Ask an object's home for it, or where it is."""
        remote = record.remote
        assert remote is not None
        if not remote.is_ours and not remote.asked:
            remote.asked = True
            self._tell(home_of(record.object_id), wire.Want([record.object_id]))

    def unwanted(self, record: ObjectRecord) -> None:
        """Do not bring an object here that nothing wants any more."""
        remote = record.remote
        assert remote is not None
        fetch = remote.fetch
        if fetch is not None:
            self._end(record, fetch)

    def is_served(self, record: ObjectRecord) -> bool:
        """Say whether other nodes read along with a fetch, or wait to, so that it must go on."""
        fetch = record.remote.fetch if record.remote is not None else None
        return fetch is not None and bool(fetch.followers or self._serving.get(record.object_id))

    def located(self, record: ObjectRecord, *, nowhere: bool) -> None:
        """Go on with a fetch whose home has named other sources, or that there are none.

        They may be nodes that this one does not know of yet.
        """
        fetch = record.remote.fetch if record.remote is not None else None
        if fetch is None or fetch.offset < 0 or fetch.source or fetch.number in self._paused:
            return
        fetch.rounds += 1
        fetch.tried.clear()
        if nowhere:
            self._end(record, fetch)
            self.lose(record, "no node has it")
        elif fetch.rounds > _ROUNDS:
            self._end(record, fetch)
            self.lose(record, f"it cannot be fetched from where it is: {fetch.error}")
        elif fetch.rounds > 1:
            self._paused[fetch.number] = -1.0
        else:
            self._ask_source(record, fetch)

    def _end(self, record: ObjectRecord, fetch: Fetch) -> None:
        remote = record.remote
        assert remote is not None
        remote.fetch = None
        self._queued.pop(record.object_id, None)
        self._urgent.pop(record.object_id, None)
        self._refuse_followers(fetch)
        if self._fetches.pop(fetch.number, None) is None:
            return
        self._bytes -= remote.size
        self._paused.pop(fetch.number, None)
        if fetch.offset < 0:
            self._abandoned[fetch.number] = remote.size
            return
        readers = self._serving.pop(record.object_id, {})
        self._remnants[fetch.number] = _Remnant(
            record.object_id, fetch.offset, remote.size, readers, fetch.placed
        )
        if fetch.placed:
            self._outgoing.actions.append(CancelPull(fetch.number))
        if fetch.source:
            # It says where it has the object, and keeps it there until it is told this.
            self._tell(fetch.source, wire.Unpin([record.object_id]))
        self._clear(fetch.number)

    def _clear(self, number: int) -> None:
        """Have a place used again that nobody writes to or reads from any more."""
        remnant = self._remnants[number]
        if not remnant.is_written and not remnant.readers:
            del self._remnants[number]
            self._store.abandon(_ITSELF, remnant.offset, remnant.size)
            self._outgoing.actions.append(ForgetPull(remnant.offset))

    def _refuse_followers(self, fetch: Fetch) -> None:
        followers, fetch.followers = fetch.followers, []
        for node, number in followers:
            self._tell(node, wire.NotHere(fetch.object_id, number))

    # --- bringing -------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Take room for what is next; called after each event."""
        if self._paused:
            self._end_pauses(now)
        if self._fetches and not 0 <= now - self._looked_at < _LOOK_SECONDS:
            self._looked_at = now
            self._leave_the_silent(now)
        while self._queued and len(self._fetches) < _MOST:
            record = self._next()
            remote = record.remote
            assert remote is not None and remote.fetch is not None
            if self._fetches and self._bytes + remote.size > self._limit:
                return
            del self._queued[record.object_id]
            self._urgent.pop(record.object_id, None)
            self._fetches[remote.fetch.number] = record
            self._bytes += remote.size
            self._room.request(_ITSELF, remote.fetch.number, remote.size, now)

    def _end_pauses(self, now: float) -> None:
        for number, until in list(self._paused.items()):
            record = self._fetches[number]
            fetch = record.remote.fetch if record.remote is not None else None
            assert fetch is not None
            if until < 0:
                self._paused[number] = now + _PAUSE * 2 ** (fetch.rounds - 2)
            elif now >= until:
                del self._paused[number]
                self._ask_source(record, fetch)

    def _leave_the_silent(self, now: float) -> None:
        """Ask others than sources that have said nothing for long; again, where there are none."""
        for record in list(self._fetches.values()):
            fetch = record.remote.fetch if record.remote is not None else None
            assert fetch is not None
            if not fetch.source or fetch.placed:
                continue
            if fetch.asked_at < 0:
                fetch.asked_at = now
            elif now - fetch.asked_at > _PATIENCE:
                silent = fetch.source
                self._tell(silent, wire.Unpin([record.object_id]))
                fetch.tried[silent] = fetch.tried.get(silent, 0) + 1
                fetch.error = f"node {silent} did not answer"
                self._ask_source(record, fetch, silent)

    def _next(self) -> ObjectRecord:
        return self._queued[next(iter(self._urgent or self._queued))]

    def room_answered(self, number: int, offset: int, error: bytes) -> None:
        """Go on with a fetch that has room now, or fail it."""
        record = self._fetches.get(number)
        if record is None:
            size = self._abandoned.pop(number)
            if not error:
                self._store.abandon(_ITSELF, offset, size)
            return
        remote = record.remote
        assert remote is not None and remote.fetch is not None
        if error:
            self._end(record, remote.fetch)
            del self._abandoned[number]
            if not (remote.wanting or record.waiters):
                return  # it was brought here for its own sake, and is where it was
            self._arrived(Arrived(record, ObjectValue(record.object_id, _ERROR, error)))
            return
        remote.fetch.offset = offset
        self._ask_source(record, remote.fetch)

    def _ask_source(self, record: ObjectRecord, fetch: Fetch, silent: int = 0) -> None:
        """Ask the next of those who may have an object, and not the one that was silent."""
        remote = record.remote
        assert remote is not None
        candidates = list(remote.nodes)
        if self._node in remote.nodes:
            candidates = candidates[: candidates.index(self._node)]
        candidates = [
            node for node in candidates if fetch.tried.get(node, 0) < _ATTEMPTS and node != silent
        ]
        fetch.placed = False
        fetch.source = 0
        if candidates:
            self._ask(candidates[-1], fetch)
        elif remote.is_ours:
            self._ask_whoever_has_it(record, fetch, silent)
        elif not remote.asked:
            remote.asked = True
            # Nobody waits for who asks again.
            self._refuse_followers(fetch)
            self._tell(home_of(record.object_id), wire.Want([record.object_id], again=True))

    def _ask_whoever_has_it(self, record: ObjectRecord, fetch: Fetch, silent: int) -> None:
        """Ask who has all of an object of ours; when there is nobody, it is lost."""
        remote = record.remote
        assert remote is not None
        whole = [node for node, is_whole in remote.nodes.items() if is_whole and node != self._node]
        whole = [node for node in whole if fetch.tried.get(node, 0) < _ATTEMPTS]
        whole = [node for node in whole if node != silent] or whole
        self._refuse_followers(fetch)
        if whole:
            self._ask(whole[-1], fetch)
            return
        self._end(record, fetch)
        self.lose(record, f"no node that had it could give it: {fetch.error}")

    def _ask(self, node: int, fetch: Fetch) -> None:
        self._numbers += 1
        fetch.source = node
        fetch.asked = self._numbers
        fetch.asked_at = -1.0
        self._tell(node, wire.Fetch(fetch.object_id, fetch.asked))

    def lose(self, record: ObjectRecord, cause: str) -> None:
        """Put an error in the place of an object that is nowhere any more."""
        error = ObjectLostError(f"object {record.object_id.hex()} is lost: {cause}")
        value = ObjectValue(record.object_id, _ERROR, serialize_error(error))
        self._arrived(Arrived(record, value))

    def placed(self, node: int, place: wire.Place) -> None:
        """Read an object where a source says that it is."""
        record = self._objects.records.get(place.object_id)
        fetch = record.remote.fetch if record is not None and record.remote is not None else None
        if record is None or fetch is None or fetch.source != node or fetch.placed:
            return  # given up meanwhile, and the source has been told
        if fetch.asked != place.number:
            return  # and asked again
        remote = record.remote
        assert remote is not None
        fetch.placed = True
        pull = StartPull(
            fetch.number,
            node,
            place.file,
            place.offset,
            remote.size,
            fetch.offset,
            fetch.arrived,
        )
        self._outgoing.actions.append(pull)
        followers, fetch.followers = fetch.followers, []
        for follower, number in followers:
            self._serve_part(follower, number, record, fetch)

    def not_here(self, node: int, said: wire.NotHere) -> None:
        """Ask another source: this one does not have it."""
        record = self._objects.records.get(said.object_id)
        remote = record.remote if record is not None else None
        if record is None or remote is None:
            return
        fetch = remote.fetch
        if fetch is None or fetch.source != node or fetch.placed or fetch.asked != said.number:
            return
        if remote.is_ours:
            remote.nodes.pop(node, None)
        fetch.tried[node] = _ATTEMPTS
        fetch.error = f"node {node} does not have it"
        self._ask_source(record, fetch)

    def pull_ended(self, number: int, error: str, arrived: int) -> None:
        """Take in an object that has come, or ask another source for the rest."""
        remnant = self._remnants.get(number)
        if remnant is not None:
            remnant.is_written = False
            self._clear(number)
            return
        record = self._fetches.get(number)
        if record is None:
            return
        remote = record.remote
        assert remote is not None and remote.fetch is not None
        fetch = remote.fetch
        object_id = record.object_id
        self._tell(fetch.source, wire.Unpin([object_id]))
        if error:
            # Whoever reads along is cut off, and will ask others; or he has yet to begin.
            fetch.error = error
            fetch.arrived = arrived
            fetch.tried[fetch.source] = fetch.tried.get(fetch.source, 0) + 1
            self._ask_source(record, fetch)
            return
        del self._fetches[number]
        self._bytes -= remote.size
        remote.fetch = None
        self._store.seal(_ITSELF, object_id, fetch.offset, remote.size)
        if remote.is_ours:
            remote.nodes[self._node] = True
        else:
            self._tell(home_of(object_id), wire.CopiesMade([object_id]))
        value = ObjectValue(object_id, _STORED, b"", fetch.offset, remote.size)
        self._arrived(Arrived(record, value))

    # --- serving --------------------------------------------------------------------------

    def serve(self, node: int, object_id: ObjectID, number: int) -> None:
        """Say where an object is, and keep it there."""
        record = self._objects.records.get(object_id)
        fetch = record.remote.fetch if record is not None and record.remote is not None else None
        value = record.value if record is not None else None
        if value is not None and value.kind == _STORED:
            self._objects.pin(peer_process(node), (object_id,))
            self._say_where(node, wire.Place(object_id, number, value.offset, value.size))
        elif value is not None and value.kind == _SPILLED:
            extent = self._store.extent(object_id)
            place = wire.Place(object_id, number, extent.position, extent.size, extent.file)
            self._say_where(node, place)
        elif record is not None and fetch is not None and fetch.placed:
            self._serve_part(node, number, record, fetch)
        elif fetch is not None and self._lets_wait(fetch, node):
            fetch.followers.append((node, number))
        else:
            self._tell(node, wire.NotHere(object_id, number))

    def _lets_wait(self, fetch: Fetch, node: int) -> bool:
        """Say whether a node may wait here for where an object will be."""
        if fetch.offset < 0:
            return fetch.number in self._fetches  # it will have room soon
        return fetch.source not in (0, node)

    def _serve_part(self, node: int, number: int, record: ObjectRecord, fetch: Fetch) -> None:
        """Let a node read along with a pull."""
        assert record.remote is not None
        readers = self._serving.setdefault(record.object_id, {})
        readers[node] = readers.get(node, 0) + 1
        place = wire.Place(record.object_id, number, fetch.offset, record.remote.size)
        self._say_where(node, place)

    def _say_where(self, node: int, place: wire.Place) -> None:
        self._tell(node, wire.Places([place]))

    def pin_for_readers(self, object_id: ObjectID) -> None:
        """Keep an object that has come where it is for those that read along."""
        for node, times in self._serving.pop(object_id, {}).items():
            for _ in range(times):
                self._objects.pin(peer_process(node), (object_id,))

    def unpin(self, node: int, object_ids: list[ObjectID]) -> None:
        """Note that a node has read these, or has given up waiting for them."""
        for object_id in object_ids:
            if self._remnants and self._left_remnant(node, object_id):
                continue
            readers = self._serving.get(object_id)
            if readers and node in readers:
                _count_less(readers, node)
                continue
            record = self._objects.records.get(object_id)
            if record is not None and record.remote is not None and record.remote.fetch is not None:
                followers = record.remote.fetch.followers
                waiting = next((each for each in followers if each[0] == node), None)
                if waiting is not None:
                    followers.remove(waiting)
                    continue
            self._objects.unpin(peer_process(node), (object_id,))

    def _left_remnant(self, node: int, object_id: ObjectID) -> bool:
        """Note that a node is done with a place where there is nothing, if it was told one."""
        for number, remnant in self._remnants.items():
            if remnant.object_id == object_id and node in remnant.readers:
                _count_less(remnant.readers, node)
                self._clear(number)
                return True
        return False

    # --- deaths ---------------------------------------------------------------------------

    def node_lost(self, node: int) -> None:
        """Fetch from others what a dead node was asked for."""
        for number, remnant in list(self._remnants.items()):
            if remnant.readers.pop(node, None) is not None:
                self._clear(number)
        for readers in self._serving.values():
            readers.pop(node, None)
        for record in list(self._objects.records.values()):
            remote = record.remote
            if remote is None:
                continue
            remote.nodes.pop(node, None)
            fetch = remote.fetch
            if fetch is None:
                continue
            fetch.followers = [each for each in fetch.followers if each[0] != node]
            if fetch.source == node and not fetch.placed and fetch.offset >= 0:
                self._ask_source(record, fetch)
        # A pull that is under way ends by itself: its connection does.

    @property
    def is_busy(self) -> bool:
        """Whether anything is being brought here."""
        return bool(self._fetches or self._queued or self._remnants)


def _count_less(readers: dict[int, int], node: int) -> None:
    readers[node] -= 1
    if not readers[node]:
        del readers[node]
