"""Names: one actor at a time, and nobody keeps one without an actor."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from raydask.global_scheduler.names import CLAIM_SECONDS
from raydask.global_scheduler.state import NODE_GRACE_SECONDS
from raydask.ids import ActorID
from raydask.wire.messages import ActorState
from tests.unit.global_scheduler.cluster import Cluster, kinds


def two_nodes() -> Cluster:
    cluster = Cluster()
    cluster.join(1, CPU=4)
    cluster.join(2, CPU=4)
    cluster.actions.clear()
    return cluster


def test_a_claim_is_in_the_control_state_before_it_is_answered() -> None:
    cluster = two_nodes()
    first, second = ActorID(cluster.new_id()), ActorID(cluster.new_id(2))
    assert cluster.claim(1, "counter", first, b"handle").actor_id == b""
    assert kinds(cluster.actions) == ["Persist"]

    answer = cluster.claim(2, "counter", second)
    assert (answer.number, answer.actor_id, answer.handle) == (5, first, b"handle")


def test_a_claim_can_be_repeated() -> None:
    cluster = two_nodes()
    actor_id = ActorID(cluster.new_id())

    assert cluster.claim(1, "counter", actor_id).actor_id == b""
    assert cluster.claim(1, "counter", actor_id).actor_id == b""


def test_nobody_has_an_unknown_name() -> None:
    assert two_nodes().find("counter") == b""


def test_a_claim_without_an_actor_lapses() -> None:
    cluster = two_nodes()
    created, announced, neither = (ActorID(cluster.new_id()) for _ in range(3))
    for name, actor_id in (("a", created), ("b", announced), ("c", neither)):
        cluster.claim(1, name, actor_id)
    cluster.create(1, created, CPU=1)
    cluster.report(1, announced, ActorState.PENDING)
    cluster.after(CLAIM_SECONDS)

    assert [cluster.find(name) for name in "abc"] == [created, announced, b""]
    assert cluster.names.forgotten == [("space", "c")]


def test_a_claim_goes_with_its_node() -> None:
    cluster = two_nodes()
    cluster.claim(2, "counter", ActorID(cluster.new_id(2)))
    cluster.lose(2)
    assert cluster.find("counter") != b""

    cluster.after(NODE_GRACE_SECONDS)
    assert cluster.find("counter") == b""


def test_a_name_is_free_when_its_actor_is_dead() -> None:
    cluster = two_nodes()
    actor_id = ActorID(cluster.new_id())
    cluster.claim(1, "counter", actor_id)
    cluster.create(1, actor_id, CPU=1)
    assert cluster.actor(actor_id).name == "counter"
    cluster.report(1, actor_id, ActorState.DEAD)

    assert cluster.find("counter") == b""
    assert cluster.claim(1, "counter", ActorID(cluster.new_id())).actor_id == b""


def test_a_name_is_free_when_its_actor_fails_before_it_asks_for_a_place() -> None:
    cluster = two_nodes()
    actor_id = ActorID(cluster.new_id())
    cluster.claim(1, "counter", actor_id)
    cluster.report(1, actor_id, ActorState.DEAD)

    assert cluster.find("counter") == b""
    assert not cluster.actors.sources


def test_a_revived_actor_does_not_take_its_name_from_another() -> None:
    cluster = two_nodes()
    old, new = ActorID(cluster.new_id(2)), ActorID(cluster.new_id())
    cluster.claim(2, "counter", old)
    cluster.create(2, old, CPU=1)
    cluster.report(2, old, ActorState.ALIVE)
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS)
    cluster.claim(1, "counter", new)
    cluster.join(2, [old], CPU=4)

    assert cluster.actor(old).state == "ALIVE"
    assert cluster.actor(old).name == ""
    assert cluster.find("counter") == new


ACTORS = st.integers(0, 4)
NAMES = st.sampled_from("xy")


class NameMachine(RuleBasedStateMachine):
    """Whatever happens, in whatever order, restarts included."""

    @initialize()
    def begin(self) -> None:
        self.cluster = two_nodes()
        self.ids = [ActorID(self.cluster.new_id(1 + number % 2)) for number in range(5)]
        self.here: set[ActorID] = set()

    @rule(actor=ACTORS, name=NAMES)
    def claim(self, actor: int, name: str) -> None:
        if self.ids[actor] in self.cluster.actors.sources:
            return  # names are claimed before the actor is made
        before = self.cluster.find(name)
        answer = self.cluster.claim(1, name, self.ids[actor])
        granted = before in {b"", self.ids[actor]}

        assert answer.actor_id == (b"" if granted else before)
        assert self.cluster.find(name) == (self.ids[actor] if granted else before)

    @rule(actor=ACTORS)
    def create(self, actor: int) -> None:
        self.here.add(self.ids[actor])
        self.cluster.create(1, self.ids[actor], CPU=0)

    @rule(actor=ACTORS, state=st.sampled_from(ActorState))
    def report(self, actor: int, state: ActorState) -> None:
        self.cluster.report(1, self.ids[actor], state)

    @rule()
    def lose_and_return(self) -> None:
        self.cluster.lose(1)
        self.cluster.after(NODE_GRACE_SECONDS + 1)
        self.cluster.join(1, list(self.here), CPU=4)

    @rule()
    def wait(self) -> None:
        self.cluster.after(CLAIM_SECONDS)

    @rule()
    def restart(self) -> None:
        names = {name: self.cluster.find(name) for name in "xy"}
        self.cluster = self.cluster.restarted()
        self.cluster.join(1, self.ids, CPU=4)
        self.cluster.join(2, self.ids, CPU=4)
        assert {name: self.cluster.find(name) for name in "xy"} == names

    @invariant()
    def the_dead_have_no_name_and_the_control_state_agrees(self) -> None:
        written = {}
        for (_, name), source in self.cluster.names.sources.items():
            assert source.document()
            written[name] = self.cluster.find(name)
        for actor_id in written.values():
            assert actor_id != b""
            if actor_id in self.cluster.actors.sources:
                assert self.cluster.actor(actor_id).state != "DEAD"


TestNames = NameMachine.TestCase
TestNames.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
