"""The counting of processes and of their node together, in any order that links allow.

Real reference tables, mailboxes and outboxes on one side, the real core of the local scheduler on
the other, messages that arrive when the test says so.  At every step: what a process holds
exists, is where it is looked at, and every count is what it counts.  When all messages
have arrived: nothing exists but what can be reached, and every process is known to hold
what it holds.  In the end: nothing is left.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raydask.ids import FunctionID, ObjectID, ProcessNumber, return_id
from raydask.local_scheduler import actions, events
from raydask.local_scheduler.records import OPEN
from raydask.task import TaskTemplate
from raydask.testing.cluster import event_of
from raydask.wire.framing import encode
from raydask.wire.messages import ObjectValue, TaskStatus
from tests.unit.driver.peers import ERROR, INLINE, SIZE, STORED, Peer
from tests.unit.local_scheduler.node import Node

ONE = TaskTemplate(FunctionID(b"f"), "f", resources={"CPU": 10_000}, max_retries=1)
TWO = TaskTemplate(FunctionID(b"f"), "f", resources={"CPU": 10_000}, num_returns=2)
WORKERS = 3

SECOND = ProcessNumber(2)

INDEX = st.integers(0, 30)
SOME = st.lists(INDEX, max_size=3)


def one_of(things: list[Any], index: int) -> Any:
    return things[index % len(things)]


def is_worker(peer: Peer) -> bool:
    return peer.number > SECOND


def is_busy(peer: Peer) -> bool:
    return peer.task is not None


def runs_code(peer: Peer) -> bool:
    return not is_worker(peer) or is_busy(peer)


def may_begin(peer: Peer) -> bool:
    return bool(peer.inbox) and not is_busy(peer)


def has_refs(peer: Peer) -> bool:
    return bool(peer.locals.refs)


def has_views(peer: Peer) -> bool:
    return bool(peer.locals.views)


def has_sent(peer: Peer) -> bool:
    return bool(peer.to_node.messages)


def has_post(peer: Peer) -> bool:
    return bool(peer.from_node.messages)


class Protocol(RuleBasedStateMachine):
    """Two drivers, three workers, one node."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(WORKERS, drivers=2)
        self.peers = {number: Peer(number) for number in map(ProcessNumber, (1, 2))}
        self.known: set[ObjectID] = set()
        self.leads: defaultdict[ObjectID, set[ObjectID]] = defaultdict(set)
        self.regions = 0
        self.deaths = 0
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
        # A real connection would have encoded it: nothing of it is shared with the sender.
        message = copy.deepcopy(peer.to_node.messages.popleft())
        event = event_of(peer.number, message)
        assert event is not None, f"nobody sends {message!r}"
        self.tell(event)

    # --- who and what ---------------------------------------------------------------------

    def which(self, is_able: Callable[[Peer], object]) -> list[Peer]:
        return [peer for peer in self.peers.values() if is_able(peer)]

    def pick(self, peer: Peer, indexes: list[int]) -> list[Any]:
        refs = peer.refs()
        return [refs[index % len(refs)] for index in indexes] if refs else []

    def value(
        self, peer: Peer, object_id: ObjectID, nested: list[Any], kind: int = INLINE
    ) -> ObjectValue:
        ids = [ObjectID(ref.binary()) for ref in nested]
        ids = [each for each in ids if not self.leads_to(each, object_id)]
        self.leads[object_id].update(ids)
        if kind == STORED:
            self.regions += 1
            self.tell(events.RegionRequested(peer.number, self.regions, SIZE))
            (answer,) = (
                action
                for action in self.node.actions
                if isinstance(action, actions.AnswerRegion) and action.number == self.regions
            )
            assert not answer.error
            return ObjectValue(object_id, STORED, b"", answer.offset, SIZE, ids)
        return ObjectValue(object_id, kind, b"\x80", 0, 0, ids)

    def leads_to(self, start: ObjectID, goal: ObjectID) -> bool:
        """Whether the object contains the other, or may come to: values in a circle stay."""
        seen = {start}
        pending = [start]
        while pending:
            new = self.leads[pending.pop()] - seen
            seen |= new
            pending += new
        return goal in seen

    # --- what code does -------------------------------------------------------------------

    @rule(who=INDEX, inside=SOME, stored=st.booleans())
    def put(self, who: int, inside: list[int], stored: bool) -> None:
        peer = one_of(self.which(runs_code), who)
        nested = self.pick(peer, inside)
        kind = STORED if stored else INLINE
        peer.put(self.value(peer, peer.ids.next_put_id(), nested, kind))

    @rule(who=INDEX, inputs=SOME, lent=SOME, template=st.sampled_from([ONE, ONE, TWO]))
    def submit(self, who: int, inputs: list[int], lent: list[int], template: TaskTemplate) -> None:
        peer = one_of(self.which(runs_code), who)
        dependencies = self.pick(peer, inputs)
        for made in peer.submit(template, dependencies, self.pick(peer, lent)):
            # If an input is an error, so is what the task makes, with the same contents.
            self.leads[made].update([ObjectID(ref.binary()) for ref in dependencies])

    @precondition(lambda self: self.which(Peer.refs))
    @rule(who=INDEX, index=INDEX)
    def ask(self, who: int, index: int) -> None:
        peer = one_of(self.which(Peer.refs), who)
        peer.ask(ObjectID(one_of(peer.refs(), index).binary()))

    @precondition(lambda self: self.which(Peer.refs))
    @rule(who=INDEX, index=INDEX)
    def get(self, who: int, index: int) -> None:
        """Ask for a value, and read it if the answer brings it: messages overtake none."""
        peer = one_of(self.which(Peer.refs), who)
        object_id = ObjectID(one_of(peer.refs(), index).binary())
        peer.ask(object_id)
        self.exchange(peer)
        if object_id in peer.mailbox.values and peer.number in self.peers:
            peer.read_arrived(object_id)

    def exchange(self, peer: Peer) -> bool:
        """Let all messages between a process and its node arrive; say if there were any."""
        moved = bool(peer.to_node.messages or peer.from_node.messages)
        while peer.to_node.messages and peer.number in self.peers:
            self.arrive(peer)
        while peer.from_node.messages:
            peer.take(peer.from_node.messages.popleft())
        return moved

    @precondition(lambda self: self.which(Peer.readable))
    @rule(who=INDEX, index=INDEX)
    def read(self, who: int, index: int) -> None:
        peer = one_of(self.which(Peer.readable), who)
        peer.read_arrived(one_of(peer.readable(), index))

    @precondition(lambda self: self.which(has_refs))
    @rule(who=INDEX, index=INDEX, number=st.integers(1, 5))
    def drop_refs(self, who: int, index: int, number: int) -> None:
        refs = one_of(self.which(has_refs), who).locals.refs
        index %= len(refs)
        del refs[index : index + number]

    @precondition(lambda self: self.which(has_views))
    @rule(who=INDEX, index=INDEX)
    def drop_view(self, who: int, index: int) -> None:
        views = one_of(self.which(has_views), who).locals.views
        del views[index % len(views)]

    @precondition(lambda self: self.which(may_begin))
    @rule(who=INDEX)
    def begin_task(self, who: int) -> None:
        one_of(self.which(may_begin), who).begin()

    @precondition(lambda self: self.which(is_busy))
    @rule(
        who=INDEX,
        inside=SOME,
        kind=st.sampled_from([INLINE, STORED, ERROR]),
        keep=st.booleans(),
    )
    def end_task(self, who: int, inside: list[int], kind: int, keep: bool) -> None:
        peer = one_of(self.which(is_busy), who)
        assert peer.task is not None
        task_id = peer.task.assignment.task_id
        record = self.node.core.tasks.get(task_id)
        count = 1 if record is None else record.template.template.num_returns
        nested = self.pick(peer, inside)
        values = [
            self.value(peer, return_id(task_id, index), nested, kind) for index in range(count)
        ]
        peer.end(values, TaskStatus.FAILED if kind == ERROR else TaskStatus.OK, keep=keep)

    @rule(who=INDEX, inside=SOME, kind=st.sampled_from([INLINE, INLINE, STORED, ERROR]))
    def work(self, who: int, inside: list[int], kind: int) -> None:
        """Let a worker end its task, or get and begin the next."""
        if self.which(is_busy):
            self.end_task(who, inside, kind, False)
            return
        for peer in self.which(bool):
            peer.outbox.flush()
            self.exchange(peer)
        for peer in self.which(may_begin):
            peer.begin()

    # --- what links do --------------------------------------------------------------------

    @rule(who=INDEX)
    def flush(self, who: int) -> None:
        one_of(self.which(bool), who).outbox.flush()

    @precondition(lambda self: self.which(has_sent))
    @rule(who=INDEX, number=st.integers(1, 4))
    def to_node(self, who: int, number: int) -> None:
        peer = one_of(self.which(has_sent), who)
        for _ in range(number):
            if peer.to_node.messages and peer.number in self.peers:
                self.arrive(peer)

    @precondition(lambda self: self.which(has_post))
    @rule(who=INDEX, number=st.integers(1, 4))
    def from_node(self, who: int, number: int) -> None:
        peer = one_of(self.which(has_post), who)
        for _ in range(number):
            if peer.from_node.messages:
                peer.take(peer.from_node.messages.popleft())

    # --- deaths ---------------------------------------------------------------------------

    @precondition(lambda self: self.which(is_worker) and len(self.known) > 8 * self.deaths + 8)
    @rule(who=INDEX)
    def kill_worker(self, who: int) -> None:
        self.deaths += 1
        self.end_worker(one_of(self.which(is_worker), who))

    def end_worker(self, peer: Peer) -> None:
        """Let a worker die; what it had sent arrives, what it had buffered does not."""
        while peer.to_node.messages and peer.number in self.peers:
            self.arrive(peer)
        if self.peers.pop(peer.number, None) is not None:
            self.tell(events.WorkerLeft(peer.number, "it was ended by a test"))

    @precondition(lambda self: SECOND in self.peers and len(self.known) > 15)
    @rule()
    def end_second_driver(self) -> None:
        peer = self.peers[SECOND]
        while peer.to_node.messages:
            self.arrive(peer)
        del self.peers[SECOND]
        self.tell(events.DriverLeft(SECOND))

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
            if task.state in OPEN:
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
                moved |= self.exchange(peer)

    def teardown(self) -> None:
        for _ in range(1_000):
            self.let_all_messages_arrive()
            for peer in self.which(may_begin):
                peer.begin()
            if not self.which(is_busy):
                break
            for _ in self.which(is_busy):
                self.end_task(0, [], INLINE, False)
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


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=150, stateful_step_count=80, deadline=None, derandomize=True
)
