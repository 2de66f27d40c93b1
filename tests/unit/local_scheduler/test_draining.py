"""A node that leaves: what it waits for, whom it asks, and when it goes."""

from __future__ import annotations

from raydask.local_scheduler import events
from raydask.local_scheduler.actions import EndSession, SendGlobal
from raydask.local_scheduler.draining import Draining, Stage
from raydask.local_scheduler.outgoing import Outgoing
from raydask.wire.messages import ActorState, LeaveCluster, Part
from tests.unit.local_scheduler.node import DETACHED, DRIVER, Node
from tests.unit.local_scheduler.pair import Pair


class Leaver:
    """A node that leaves, with others that are only numbers."""

    def __init__(self, others: set[int], *, is_last: bool = False, seconds: float = 100.0) -> None:
        self.left = ""
        self.others = others
        self.asked: list[tuple[int, int]] = []
        self.outgoing = Outgoing()
        self.draining = Draining(
            self.outgoing, lambda: self.left, lambda: self.others, self._tell, is_last=is_last
        )
        self.draining.hasten(seconds)

    def _tell(self, node: int, message: object) -> None:
        assert isinstance(message, Part)
        self.asked.append((node, message.number))

    def answer(self, *nodes: int, settled: bool = True, number: int | None = None) -> None:
        current = self.asked[-1][1] if number is None else number
        for node in nodes:
            self.draining.parted(node, current, settled=settled)

    def said(self) -> list[bool | str]:
        """What it has told the global scheduler (is it done?), or that it ends."""
        return [
            each.message.done if isinstance(each, SendGlobal) else type(each).__name__  # type: ignore[attr-defined]
            for each in self.outgoing.take()
        ]


def test_it_says_at_once_that_it_leaves() -> None:
    assert Leaver({2}).said() == [False]


def test_it_goes_when_nothing_is_left_and_all_have_answered() -> None:
    leaver = Leaver({2, 3})
    leaver.left = "tasks"
    leaver.draining.tick(0.0)
    assert (leaver.asked, leaver.draining.awaited) == ([], "tasks")

    leaver.left = ""
    leaver.draining.tick(1.0)
    assert leaver.asked == [(2, 1), (3, 1)]
    leaver.answer(2)
    leaver.draining.tick(1.1)
    assert leaver.said() == [False]
    leaver.answer(3)
    leaver.draining.tick(1.2)
    assert leaver.said() == [True]
    assert leaver.draining.stage == Stage.GONE


def test_it_asks_again_when_something_had_been_under_way() -> None:
    leaver = Leaver({2})
    leaver.draining.tick(1.0)
    leaver.answer(2, settled=False)
    leaver.draining.tick(1.1)
    assert leaver.draining.stage == Stage.WAITING
    leaver.draining.tick(2.0)
    leaver.left = "a guest that came before the answer"
    leaver.answer(2)
    leaver.draining.tick(2.1)
    assert leaver.draining.stage == Stage.WAITING
    leaver.left = ""
    leaver.draining.tick(3.0)
    leaver.answer(2)
    leaver.draining.tick(3.1)
    assert leaver.said() == [False, True]


def test_a_late_answer_is_none() -> None:
    leaver = Leaver({2, 3})
    leaver.draining.tick(1.0)
    leaver.answer(2)
    leaver.draining.tick(7.0)  # 3 has not answered in time
    assert leaver.draining.stage == Stage.WAITING
    leaver.draining.tick(8.0)
    leaver.answer(2, 3, number=1)
    leaver.draining.tick(8.1)
    assert leaver.draining.stage == Stage.PARTING


def test_who_dies_is_not_waited_for() -> None:
    leaver = Leaver({2, 3})
    leaver.draining.tick(1.0)
    leaver.answer(2)
    leaver.others.discard(3)
    leaver.draining.tick(1.1)
    assert leaver.draining.stage == Stage.GONE


def test_one_that_is_alone_asks_nobody() -> None:
    leaver = Leaver(set())
    leaver.draining.tick(1.0)
    leaver.draining.tick(1.1)
    assert leaver.said() == [False, True]


def test_at_the_deadline_it_parts_all_the_same_and_then_goes() -> None:
    leaver = Leaver({2}, seconds=10.0)
    leaver.left = "an actor"
    leaver.draining.tick(10.0)
    assert leaver.asked == [(2, 1)]
    leaver.answer(2, settled=False)
    leaver.draining.tick(10.1)
    assert leaver.said() == [False, True]


def test_at_the_deadline_it_waits_for_answers_only_so_long() -> None:
    leaver = Leaver({2}, seconds=10.0)
    leaver.draining.tick(10.0)
    leaver.draining.tick(14.0)
    assert leaver.draining.stage == Stage.PARTING
    leaver.draining.tick(16.0)
    assert leaver.draining.stage == Stage.GONE


def test_the_earliest_deadline_counts() -> None:
    leaver = Leaver({2}, seconds=10.0)
    leaver.draining.hasten(20.0)
    assert leaver.draining.deadline == 10.0
    leaver.draining.hasten(5.0)
    assert leaver.draining.deadline == 5.0


def test_a_new_global_scheduler_is_told_how_far_it_is() -> None:
    leaver = Leaver(set())
    leaver.draining.say_so()
    leaver.draining.tick(1.0)
    leaver.draining.tick(1.1)
    leaver.draining.say_so()
    assert leaver.said() == [False, False, True, True]


def test_it_ends_when_nobody_lets_it_go() -> None:
    leaver = Leaver(set())
    leaver.draining.tick(1.0)
    leaver.draining.tick(1.1)
    leaver.draining.tick(6.0)
    assert leaver.said() == [False, True]
    leaver.draining.tick(7.0)
    assert leaver.said() == ["EndSession"]


def test_the_heads_node_stays_for_as_long_as_there_are_others() -> None:
    leaver = Leaver({2, 3}, is_last=True)
    leaver.draining.tick(1.0)
    assert "2 other nodes" in leaver.draining.awaited
    leaver.others.clear()
    leaver.draining.tick(2.0)
    leaver.draining.tick(2.1)
    assert leaver.said() == [False, "EndSession"]


def test_a_node_waits_for_its_driver_and_then_for_nothing() -> None:
    node = Node()
    node.tell(events.DrainRequested(60.0, is_last=True))
    node.tick(0.1)
    assert node.core.draining is not None
    assert "1 program that is" in node.core.draining.awaited
    node.tell(events.DriverLeft(DRIVER))
    for _ in range(3):
        node.tick(0.1)
    assert any(isinstance(action, EndSession) for action in node.actions)
    assert LeaveCluster() in node.sent_up(LeaveCluster)


def awaited(node: Node) -> str:
    assert node.core.draining is not None
    return node.core.draining.awaited


def leaves(pair: Pair, node: Node) -> None:
    """Let a node of two that leaves go as far as it can, a second long."""
    for _ in range(10):
        node.tick(0.1)
        pair.pass_on()


def test_a_node_waits_for_the_actors_of_others_that_live_on_it() -> None:
    pair = Pair()
    actor_id = pair.created()
    pair.host.tell(events.DrainRequested(600.0, is_last=False))
    leaves(pair, pair.host)
    assert awaited(pair.host) == "1 actor that lives on it"
    assert pair.host.killed == []

    pair.home.tell(events.KillActorRequested(DRIVER, actor_id, True))
    pair.pass_on()
    pair.host.leave(pair.host.killed[0])
    leaves(pair, pair.host)
    assert pair.host.core.draining is not None
    assert pair.host.core.draining.stage == Stage.GONE


def test_a_node_waits_for_its_own_actors_that_live_on_others() -> None:
    pair = Pair()
    actor_id = pair.created(DETACHED)
    pair.home.tell(events.DriverLeft(DRIVER))
    pair.home.tell(events.DrainRequested(600.0, is_last=False))
    leaves(pair, pair.home)
    assert "1 actor of its own that lives on other nodes" in awaited(pair.home)
    assert pair.state(actor_id) == ActorState.ALIVE
