"""What other nodes say of objects, theirs and ours, and what they are told. Pure.

An object's home says what the object is (`Values`) or where (`Located`), to whoever wants it; other
nodes hold it there and let it go (`Borrow`, `Release`), and say which copies there are
(`CopiesMade`, `CopiesDropped`).  What follows for what is brought here is in `Fetching`, for what
is held here in `Borrowing`.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from raydask.errors import OwnerDiedError
from raydask.ids import NodeNumber, ObjectID, ProcessNumber, home_of, node_of_peer, peer_process
from raydask.local_scheduler.fetching import Arrived, Fetching
from raydask.local_scheduler.guests import Guests
from raydask.local_scheduler.inputs import whereabouts
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.records import ObjectRecord
from raydask.local_scheduler.tasks import TaskTable
from raydask.serialization import serialize_error
from raydask.wire import messages as wire
from raydask.wire.messages import ObjectValue, ValueKind

_IN_STORES = (int(ValueKind.STORED), int(ValueKind.SPILLED))
_ERROR = int(ValueKind.ERROR)


Handlers = dict[type, Callable[[int, Any], None]]
"""What takes in each kind of message, given the node that says it."""


class PeerObjects:
    """What one node and others say to each other of objects.

    Parameters
    ----------
    node : NodeNumber
    nodes : set of int
        The other nodes there are; whoever knows of them keeps it up to date.
    work : TaskTable
    objects : ObjectTable
    fetching : Fetching
    guests : Guests
    tell : callable
        Sends a node a message.
    arrived : callable
        Takes in the value of an object that was elsewhere.
    """

    def __init__(
        self,
        node: NodeNumber,
        nodes: Set[int],
        work: TaskTable,
        objects: ObjectTable,
        fetching: Fetching,
        guests: Guests,
        tell: Callable[[int, object], None],
        arrived: Callable[[Arrived], None],
    ) -> None:
        self._node = node
        self._nodes = nodes
        self._work = work
        self._objects = objects
        self._fetching = fetching
        self._guests = guests
        self._tell = tell
        self._arrived = arrived

    @property
    def handlers(self) -> Handlers:
        """What takes in each kind of message about objects."""
        return {
            wire.Borrow: self._on_borrow,
            wire.Release: self._on_release,
            wire.Want: self._on_want,
            wire.Values: self._on_values,
            wire.Located: self._on_located,
            wire.Fetch: lambda node, said: self._fetching.serve(node, said.object_id, said.number),
            wire.Places: self._on_places,
            wire.NotHere: self._fetching.not_here,
            wire.Unpin: lambda node, said: self._fetching.unpin(node, said.object_ids),
            wire.CopiesMade: self._on_copies_made,
            wire.CopiesDropped: self._on_copies_dropped,
            wire.Forget: self._on_forget,
        }

    def tell(self, process: ProcessNumber, record: ObjectRecord) -> None:
        """Tell another node what an object of ours is, or where."""
        node = node_of_peer(process)
        value = record.value
        if value is not None and value.kind not in _IN_STORES:
            self._tell(node, wire.Values([value]))
        else:
            self._tell(node, wire.Located([whereabouts(record, self._node, node)]))

    def take_value(self, value: ObjectValue) -> None:
        """Take in the value of an object of another node's, unless it is here."""
        record = self._objects.records.get(value.object_id)
        if record is None or record.remote is None or record.remote.is_ours:
            return
        record.remote.asked = False
        if record.value is None:
            self._fetching.unwanted(record)
            bare = ObjectValue(value.object_id, value.kind, value.data)
            self._work.came(record, bare, value.nested)

    def take_place(self, place: wire.Whereabouts, node: int) -> None:
        """Take in where `node` says an object of another node's is."""
        record = self._objects.records.get(place.object_id)
        remote = record.remote if record is not None else None
        if record is None or remote is None or record.value is not None:
            return
        if remote.is_ours:
            return
        at_home = home_of(place.object_id) == node
        if at_home:
            remote.asked = False
        is_answer = at_home or bool(place.nodes)  # that it is nowhere is for its home to say
        if is_answer:
            # Which may not know yet that one of them is dead, and that would never answer.
            remote.nodes = {each: True for each in place.nodes if each in self._nodes}
        remote.size = place.size
        if not remote.exists:
            self._work.found_elsewhere(record, [])
        if is_answer:
            self._fetching.located(record, nowhere=not place.nodes)
        if (remote.wanting and any(task.is_guest for task in remote.wanting)) or record.waiters:
            self._fetching.want(record, urgent=bool(record.waiters))

    def _on_borrow(self, node: int, message: wire.Borrow) -> None:
        self._objects.acquire(peer_process(node), message.object_ids)
        self._tell(node, wire.Borrowed(message.number))

    def _on_release(self, node: int, message: wire.Release) -> None:
        self._objects.release(peer_process(node), message.object_ids)

    def _on_want(self, node: int, message: wire.Want) -> None:
        process = peer_process(node)
        for object_id in message.object_ids:
            record = self._objects.records.get(object_id)
            if record is None:
                cause = "it was freed when its last ref went"
                self._tell(node, wire.Values([without_owner(object_id, cause)]))
            elif record.value is None and not (record.remote is not None and record.remote.exists):
                if record.waiters is None:
                    record.waiters = {}
                record.waiters[process] = None
            elif message.again and (record.value is None or record.value.kind in _IN_STORES):
                place = whereabouts(record, self._node, node, whole=True)
                self._tell(node, wire.Located([place]))
            else:
                self.tell(process, record)

    def _on_values(self, node: int, message: wire.Values) -> None:
        for value in message.values:
            self.take_value(value)

    def _on_located(self, node: int, message: wire.Located) -> None:
        for place in message.objects:
            self.take_place(place, node)

    def _on_places(self, node: int, message: wire.Places) -> None:
        for place in message.places:
            self._fetching.placed(node, place)

    def _on_copies_made(self, node: int, message: wire.CopiesMade) -> None:
        unknown = []
        for object_id in message.object_ids:
            record = self._objects.records.get(object_id)
            if record is None:
                unknown.append(object_id)
                continue
            if record.remote is None and record.value is not None:
                if record.value.kind in _IN_STORES:
                    whereabouts(record, self._node, node)
            remote = record.remote
            if remote is not None and remote.is_ours and remote.exists:
                remote.nodes[node] = True
        if unknown:
            self._tell(node, wire.Forget(unknown))

    def _on_copies_dropped(self, node: int, message: wire.CopiesDropped) -> None:
        for object_id in message.object_ids:
            record = self._objects.records.get(object_id)
            if record is not None and record.remote is not None:
                record.remote.nodes.pop(node, None)

    def _on_forget(self, node: int, message: wire.Forget) -> None:
        for object_id in message.object_ids:
            if self._guests.forget(node, object_id):
                continue
            record = self._objects.records.get(object_id)
            if record is None or record.remote is None or record.remote.is_ours:
                continue
            record.remote.forgotten = True
            self._objects.release(peer_process(node), [object_id])
            self._objects.settle(record)

    def node_lost(self, node: int, cause: str) -> None:
        """Find out what is lost with a node."""
        process = peer_process(node)
        for record in list(self._objects.records.values()):
            if record.waiters is not None:
                record.waiters.pop(process, None)
            remote = record.remote
            if remote is None:
                continue
            if remote.is_ours:
                was_there = remote.nodes.pop(node, None)
                others = [each for each, whole in remote.nodes.items() if whole]
                if was_there and record.value is None and remote.exists and not others:
                    self._fetching.unwanted(record)
                    self._fetching.lose(record, f"node {node}, which had it, is dead: {cause}")
                continue
            remote.nodes.pop(node, None)
            if home_of(record.object_id) == node:
                remote.borrowed = False
                remote.forgotten = True
                if record.value is None:
                    self._fetching.unwanted(record)
                    value = without_owner(record.object_id, f"node {node}, its home: {cause}")
                    self._arrived(Arrived(record, value))
                else:
                    self._objects.settle(record)


def without_owner(object_id: ObjectID, cause: str) -> ObjectValue:
    """Return the error that an object becomes which its home can tell nothing of any more."""
    error = OwnerDiedError(f"object {object_id.hex()} is lost: {cause}")
    return ObjectValue(object_id, _ERROR, serialize_error(error))
