"""Cores of several nodes, whose messages arrive when a test lets them."""

from __future__ import annotations

from typing import Any

from raydask.ids import IDSource, NodeNumber, ObjectID, ProcessNumber, TaskID, is_peer, node_of_peer
from raydask.local_scheduler import events
from raydask.local_scheduler.actions import (
    AnswerRegion,
    CancelPull,
    Send,
    StartPull,
    WriteSpillFile,
)
from raydask.local_scheduler.inputs import whereabouts
from raydask.local_scheduler.records import Fetch
from raydask.task import TaskSpec
from raydask.wire import messages as wire
from raydask.wire.messages import ObjectValue, ValueKind
from tests.unit.local_scheduler.node import DRIVER, PLAIN, Node

MB = 1 << 20
WORKER = 10
_REQUEST = 77


class Net:
    """Nodes with one CPU and a store of 1 GiB each, which know one another.

    Attributes
    ----------
    held : list of tuple
        (sender, receiver, message) of what `hold` keeps back.
    pulls : dict
        By node: the pulls that have begun there and not ended, by number.
    """

    def __init__(self, *numbers: int) -> None:
        self.nodes = {number: Node(1, number=number) for number in numbers}
        self.held: list[tuple[int, int, Any]] = []
        self.pulls: dict[int, dict[int, StartPull]] = {number: {} for number in numbers}
        self._held_back: set[tuple[int, int]] = set()
        self._seen = dict.fromkeys(numbers, 0)
        self._spills: dict[int, list[int]] = {number: [] for number in numbers}
        self._ids = {number: IDSource(NodeNumber(number), ProcessNumber(7)) for number in numbers}
        for number, node in self.nodes.items():
            node.tell(events.NodesCame([each for each in numbers if each != number]))
            node.workers(WORKER)
        self.run()

    def run(self) -> None:
        """Carry out all that nodes want done, until they want nothing more."""
        moved = True
        while moved:
            moved = False
            for number, node in self.nodes.items():
                while self._seen[number] < len(node.actions):
                    self._seen[number] += 1
                    self._carry_out(number, node.actions[self._seen[number] - 1])
                    moved = True

    def _carry_out(self, number: int, action: Any) -> None:
        node = self.nodes[number]
        if isinstance(action, Send) and is_peer(action.process):
            to = node_of_peer(action.process)
            if (number, to) in self._held_back:
                self.held.append((number, to, action.message))
            elif to in self.nodes:
                self.nodes[to].tell(events.PeerSaid(number, action.message))
        elif isinstance(action, AnswerRegion) and not action.process:
            node.tell(events.RoomAnswered(action.number, action.offset, action.error))
        elif isinstance(action, StartPull):
            self.pulls[number][action.number] = action
        elif isinstance(action, CancelPull):
            del self.pulls[number][action.number]
            node.tell(events.PullEnded(action.number, "it was cancelled"))
        elif isinstance(action, WriteSpillFile):
            self._spills[number].append(action.batch.file)

    def hold(self, sender: int, receiver: int) -> None:
        """Keep back what one node says to another."""
        self._held_back.add((sender, receiver))

    def let_go(self, sender: int, receiver: int) -> None:
        """Let it arrive."""
        self._held_back.discard((sender, receiver))
        late = [each for each in self.held if each[:2] == (sender, receiver)]
        self.held = [each for each in self.held if each[:2] != (sender, receiver)]
        for _, _, message in late:
            self.nodes[receiver].tell(events.PeerSaid(sender, message))
        self.run()

    def lose(self, number: int) -> None:
        """Have a node die, and all others learn of it."""
        del self.nodes[number]
        for node in self.nodes.values():
            node.tell(events.NodesLost([(number, "it burned")]))
        self.run()

    def tick(self, seconds: float, times: int = 1) -> None:
        for _ in range(times):
            for node in self.nodes.values():
                node.tick(seconds)
            self.run()

    # --- objects --------------------------------------------------------------------------

    def region(self, number: int, megabytes: int, process: int = DRIVER) -> int:
        """Have a process get room in a node's store; return where."""
        node = self.nodes[number]
        node.tell(events.RegionRequested(ProcessNumber(process), _REQUEST, megabytes * MB))
        self.run()
        self.write_spills(number)
        answers = [each for each in node.actions if isinstance(each, AnswerRegion)]
        return next(each.offset for each in reversed(answers) if each.process == process)

    def give_back(self, number: int, offset: int, megabytes: int) -> None:
        retired = events.RegionsRetired(DRIVER, [(offset, megabytes * MB)])
        self.nodes[number].tell(retired)
        self.run()

    def write_spills(self, number: int) -> None:
        """End the writing of files that a node has begun."""
        for file in self._spills[number]:
            self.nodes[number].tell(events.SpillEnded(file, ""))
        self._spills[number].clear()
        self.run()

    def put(self, number: int, megabytes: int = 200) -> ObjectID:
        """Have a node's driver put an object."""
        object_id = self._ids[number].next_put_id()
        offset = self.region(number, megabytes)
        value = ObjectValue(object_id, int(ValueKind.STORED), b"", offset, megabytes * MB)
        self.nodes[number].tell(events.ObjectsPut(DRIVER, DRIVER, [value]))
        self.run()
        return object_id

    def get(self, number: int, object_id: ObjectID) -> None:
        """Have a node's driver wait for an object."""
        self.nodes[number].tell(events.ObjectsAcquired(DRIVER, [object_id]))
        self.nodes[number].tell(events.ValuesRequested(DRIVER, [object_id], False, []))
        self.run()

    def bring(self, number: int, object_id: ObjectID) -> None:
        """Have a node's driver get an object, which arrives."""
        self.get(number, object_id)
        self.end_pulls(number)

    def unpin(self, number: int, object_id: ObjectID) -> None:
        """Have a node's driver read an object no more."""
        self.nodes[number].tell(events.ObjectsUnpinned(DRIVER, [object_id]))
        self.run()

    def drop(self, number: int, object_id: ObjectID) -> None:
        """Have it drop its ref too."""
        self.unpin(number, object_id)
        self.nodes[number].tell(events.ObjectsReleased(DRIVER, [object_id]))
        self.run()

    def end_pulls(self, number: int, error: str = "") -> None:
        for pull in list(self.pulls[number]):
            del self.pulls[number][pull]
            self.nodes[number].tell(events.PullEnded(pull, error))
            self.run()

    def fetch(self, number: int, object_id: ObjectID) -> Fetch:
        """How a node brings an object."""
        remote = self.nodes[number].core.objects.records[object_id].remote
        assert remote is not None and remote.fetch is not None
        return remote.fetch

    def kind(self, number: int, object_id: ObjectID) -> ValueKind | None:
        """The kind of value that a node has for an object."""
        record = self.nodes[number].core.objects.records.get(object_id)
        return None if record is None or record.value is None else ValueKind(record.value.kind)

    def pins(self, number: int, object_id: ObjectID) -> int:
        return self.nodes[number].core.store.pins(object_id)

    # --- tasks ----------------------------------------------------------------------------

    def lend(
        self,
        home: int,
        host: int,
        *inputs: ObjectID,
        located: list[wire.Whereabouts] | None = None,
    ) -> TaskID:
        """Have a node lend another one a task with these inputs, each of its own home's."""
        records = self.nodes[home].core.objects.records
        if located is None:
            located = [whereabouts(records[each], home, host) for each in inputs]
        spec = TaskSpec(self._ids[home].next_task_id(), 5, b"", list(inputs), [])
        settings = wire.JobSettings(home << 16 | 1, "", [], "/")
        templates = [wire.LentTemplate(5, PLAIN, b"code", [])]
        message = wire.Lend(settings, templates, [spec], [], located)
        self.nodes[host].tell(events.PeerSaid(home, message))
        self.run()
        return spec.task_id

    def cancel(self, home: int, host: int, task_id: TaskID) -> None:
        message = wire.CancelLent([task_id], False, False)
        self.nodes[host].tell(events.PeerSaid(home, message))
        self.run()
