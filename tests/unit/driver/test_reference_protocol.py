"""The counting of processes and of their node together, in any order that links allow.

Real reference tables, mailboxes and outboxes on one side, the real core of the local scheduler on
the other, messages that arrive when the test says so.  At every step: what a process holds
exists, is where it is looked at, and every count is what it counts.  When all messages
have arrived: nothing exists but what can be reached, and every process is known to hold
what it holds.  In the end: nothing is left.
"""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raydask.ids import FunctionID, ObjectID, ProcessNumber, return_id
from raydask.local_scheduler import actions, events
from raydask.task import TaskTemplate
from raydask.wire import messages as wire
from raydask.wire.framing import encode
from raydask.wire.messages import ObjectValue, TaskStatus
from tests.unit.driver.peers import ERROR, INLINE, SIZE, STORED, Peer
from tests.unit.local_scheduler.node import Node

ONE = TaskTemplate(FunctionID(b"f"), "f", resources={"CPU": 10_000}, max_retries=1)
TWO = TaskTemplate(FunctionID(b"f"), "f", resources={"CPU": 10_000}, num_returns=2)
WORKERS = 3

WHO = st.integers(0, 4)
WHICH = st.integers(0, 30)
SOME = st.lists(WHICH, max_size=2)


class Protocol(RuleBasedStateMachine):
    """Two drivers, three workers, one node."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(WORKERS, drivers=2)
        self.peers = {number: Peer(number) for number in map(ProcessNumber, (1, 2))}
        self.known: set[ObjectID] = set()
        self.regions = 0
        self.last_number = 10
        self.carry_out(0)

    # --- the node -------------------------------------------------------------------------

    def tell(self, event: events.Event) -> None:
        done = len(self.node.actions)
        self.node.tell(event)
        self.known.update(self.node.core.objects.records)
        self.carry_out(done)

    def carry_out(self, start: int) -> None:
        doomed = []
        starting = 0
        for action in self.node.actions[start:]:
            if isinstance(action, actions.Send) and action.process in self.peers:
                self.peers[action.process].from_node.send(encode(action.message))
            elif isinstance(action, actions.KillWorker | actions.RetireWorker):
                doomed.append(action.process)
            elif isinstance(action, actions.StartWorkers):
                starting += action.number
            assert not isinstance(action, actions.EndProcess), action
        for number in doomed:
            if number in self.peers:
                self.end_worker(self.peers[number])
        for _ in range(starting):
            self.new_worker()

    def new_worker(self) -> None:
        self.last_number += 1
        number = ProcessNumber(self.last_number)
        self.peers[number] = Peer(number)
        self.tell(events.WorkerJoined(number, number))

    def arrive(self, peer: Peer) -> None:
        """Let the next message of a process arrive at the node."""
        event = event_of(peer.number, peer.to_node.messages.popleft())
        if event is not None:
            self.tell(event)

    # --- who and what ---------------------------------------------------------------------

    def peer(self, who: int) -> Peer:
        peers = list(self.peers.values())
        return peers[who % len(peers)]

    def pick(self, peer: Peer, indexes: list[int]) -> list[Any]:
        refs = peer.refs()
        return [refs[index % len(refs)] for index in indexes] if refs else []

    def can_act(self, peer: Peer) -> bool:
        """Whether code runs in the process."""
        return peer.number <= 2 or peer.task is not None

    def value(
        self, peer: Peer, object_id: ObjectID, nested: list[Any], kind: int = INLINE
    ) -> ObjectValue:
        ids = [ObjectID(ref.binary()) for ref in nested]
        if kind == STORED:
            self.regions += 1
            self.tell(events.RegionRequested(peer.number, self.regions, SIZE))
            answer = self.node.actions[-1]
            assert isinstance(answer, actions.AnswerRegion) and not answer.error
            return ObjectValue(object_id, STORED, b"", answer.offset, SIZE, ids)
        return ObjectValue(object_id, kind, b"\x80", 0, 0, ids)

    # --- what code does -------------------------------------------------------------------

    @rule(who=WHO, inside=SOME, stored=st.booleans())
    def put(self, who: int, inside: list[int], stored: bool) -> None:
        peer = self.peer(who)
        if self.can_act(peer):
            nested = self.pick(peer, inside)
            kind = STORED if stored else INLINE
            peer.put(self.value(peer, peer.ids.next_put_id(), nested, kind))

    @rule(who=WHO, inputs=SOME, lent=SOME, template=st.sampled_from([ONE, ONE, TWO]))
    def submit(self, who: int, inputs: list[int], lent: list[int], template: TaskTemplate) -> None:
        peer = self.peer(who)
        if self.can_act(peer):
            peer.submit(template, self.pick(peer, inputs), self.pick(peer, lent))

    @rule(who=WHO, which=WHICH)
    def ask(self, who: int, which: int) -> None:
        peer = self.peer(who)
        for ref in self.pick(peer, [which]):
            peer.ask(ObjectID(ref.binary()))

    @rule(who=WHO, which=WHICH)
    def read(self, who: int, which: int) -> None:
        peer = self.peer(who)
        held = {ref.binary() for ref in peer.refs()}
        arrived = [each for each in peer.mailbox.values if each in held]
        if arrived:
            peer.read_arrived(arrived[which % len(arrived)])

    @rule(who=WHO, which=WHICH)
    def drop_ref(self, who: int, which: int) -> None:
        refs = self.peer(who).locals.refs
        if refs:
            del refs[which % len(refs)]

    @rule(who=WHO, which=WHICH)
    def drop_view(self, who: int, which: int) -> None:
        views = self.peer(who).locals.views
        if views:
            del views[which % len(views)]

    @rule(who=WHO)
    def begin_task(self, who: int) -> None:
        peer = self.peer(who)
        if peer.inbox and peer.task is None:
            peer.begin()

    @rule(
        who=WHO,
        inside=SOME,
        kind=st.sampled_from([INLINE, STORED, ERROR]),
        keep=st.booleans(),
    )
    def end_task(self, who: int, inside: list[int], kind: int, keep: bool) -> None:
        peer = self.peer(who)
        if peer.task is None:
            return
        task_id = peer.task.assignment.task_id
        record = self.node.core.tasks.get(task_id)
        count = 1 if record is None else record.template.template.num_returns
        nested = self.pick(peer, inside)
        values = [
            self.value(peer, return_id(task_id, index), nested, kind) for index in range(count)
        ]
        status = TaskStatus.FAILED if kind == ERROR else TaskStatus.OK
        if peer.task is not None:  # asking for room may have had it ended
            peer.end(values, status, keep=keep)

    # --- what links do --------------------------------------------------------------------

    @rule(who=WHO)
    def flush(self, who: int) -> None:
        self.peer(who).outbox.flush()

    @rule(who=WHO, number=st.integers(1, 4))
    def to_node(self, who: int, number: int) -> None:
        peer = self.peer(who)
        for _ in range(number):
            if peer.to_node.messages and peer.number in self.peers:
                self.arrive(peer)

    @rule(who=WHO, number=st.integers(1, 4))
    def from_node(self, who: int, number: int) -> None:
        peer = self.peer(who)
        for _ in range(number):
            if peer.from_node.messages:
                peer.take(peer.from_node.messages.popleft())

    # --- deaths ---------------------------------------------------------------------------

    @rule(which=WHICH)
    def kill_worker(self, which: int) -> None:
        workers = [peer for peer in self.peers.values() if peer.number > 2]
        if workers:
            self.end_worker(workers[which % len(workers)])

    def end_worker(self, peer: Peer) -> None:
        """Let a worker die; what it had sent arrives, what it had buffered does not."""
        while peer.to_node.messages and peer.number in self.peers:
            self.arrive(peer)
        if self.peers.pop(peer.number, None) is not None:
            self.tell(events.WorkerLeft(peer.number, "it was ended by a test"))

    @precondition(lambda self: len(self.known) > 6)
    @rule()
    def end_second_driver(self) -> None:
        peer = self.peers.get(ProcessNumber(2))
        if peer is not None:
            while peer.to_node.messages:
                self.arrive(peer)
            del self.peers[peer.number]
            self.tell(events.DriverLeft(peer.number))

    # --- what must hold -------------------------------------------------------------------

    @invariant()
    def what_is_held_exists(self) -> None:
        records = self.node.core.objects.records
        for peer in self.peers.values():
            for object_id in peer.held():
                # What the node has not heard of yet cannot have been freed.
                assert object_id in records or object_id not in self.known

    @invariant()
    def what_is_looked_at_is_where_it_was(self) -> None:
        store = self.node.core.store
        for peer in self.peers.values():
            for object_id, _ in peer.views():
                assert object_id in store and store.pins(object_id)

    @invariant()
    def processes_count_what_they_hold(self) -> None:
        for peer in self.peers.values():
            assert peer.counted() == peer.held()

    @rule()
    def let_all_messages_arrive(self) -> None:
        self.drain()
        core = self.node.core
        reachable: set[ObjectID] = set()
        for peer in self.peers.values():
            held = set(peer.held())
            lent = set() if peer.task is None else set(peer.task.lent)
            assert held - lent <= core.objects.held[peer.number] <= held
            assert core.objects.pins[peer.number] == peer.table.told
            reachable |= held
        for task in core.tasks.values():
            if not task.finished:
                reachable.update(task.spec.dependencies, task.spec.borrowed)
        pending = list(reachable)
        while pending:
            record = core.objects.records.get(pending.pop())
            new = set(record.value.nested) - reachable if record and record.value else set()
            reachable |= new
            pending += new
        values = {each for each, record in core.objects.records.items() if record.value is not None}
        assert values <= reachable <= core.objects.records.keys()

    def drain(self) -> None:
        moved = True
        while moved:
            moved = False
            for peer in list(self.peers.values()):
                peer.outbox.flush()
                while peer.to_node.messages and peer.number in self.peers:
                    self.arrive(peer)
                    moved = True
                while peer.from_node.messages:
                    peer.take(peer.from_node.messages.popleft())
                    moved = True

    def teardown(self) -> None:
        for _ in range(1_000):
            self.let_all_messages_arrive()
            busy = [peer for peer in self.peers.values() if peer.inbox or peer.task is not None]
            if not busy:
                break
            for peer in busy:
                if peer.task is None:
                    peer.begin()
                self.end_task(list(self.peers).index(peer.number), [], INLINE, False)
        for peer in self.peers.values():
            peer.kept.clear()
        self.let_all_messages_arrive()
        core = self.node.core
        assert not core.objects.records and not core.tasks and not len(core.store)
        assert not any(core.objects.pins.values())
        assert self.node.entries.present <= {ONE.function_id}
        for peer in self.peers.values():
            assert not peer.table.counts and not peer.table.told and not peer.table.in_use
            assert not peer.mailbox.values


def event_of(process: ProcessNumber, message: Any) -> events.Event | None:
    """Return the event that a message is, as the node's server has it."""
    # A real connection would have encoded it: nothing of it is shared with the sender.
    message = copy.deepcopy(message)
    if isinstance(message, wire.Submit):
        return events.TasksSubmitted(process, message.templates, message.specs)
    if isinstance(message, wire.Get):
        return events.ValuesRequested(process, message.object_ids, False, [])
    if isinstance(message, wire.Release):
        return events.ObjectsReleased(process, message.object_ids)
    if isinstance(message, wire.Acquire):
        return events.ObjectsAcquired(process, message.object_ids)
    if isinstance(message, wire.Pin):
        return events.ObjectsPinned(process, message.object_ids)
    if isinstance(message, wire.Unpin):
        return events.ObjectsUnpinned(process, message.object_ids)
    if isinstance(message, wire.Put):
        return events.ObjectsPut(process, process, message.values)
    if isinstance(message, wire.Results):
        return events.TasksEnded(process, message.results)
    raise AssertionError(f"nobody sends {message!r}")


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, derandomize=True
)
