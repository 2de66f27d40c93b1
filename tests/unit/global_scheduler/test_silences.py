"""Who has said nothing for too long, and what counts of the time."""

from __future__ import annotations

import pytest

from raydask.global_scheduler.silences import LONGEST_LOOK, QUIET_SECONDS, Silences
from raydask.ids import NodeNumber
from raydask.wire import messages as wire
from tests.unit.global_scheduler.cluster import Cluster

ONE, TWO = NodeNumber(1), NodeNumber(2)


def silences_of(*nodes: NodeNumber) -> Silences:
    silences = Silences(15.0)
    silences.look(1000.0)
    for node in nodes:
        silences.heard(node)
    return silences


def look_until(silences: Silences, start: float, end: float) -> list[NodeNumber]:
    """Look twice a second; return who is silent in the end."""
    now, found = start, []
    while now < end:
        now += 0.5
        found = silences.look(now)
    return found


def test_who_says_nothing_is_silent_when_the_time_is_over() -> None:
    silences = silences_of(ONE, TWO)
    assert look_until(silences, 1000.0, 1010.0) == []
    silences.heard(TWO)

    assert look_until(silences, 1010.0, 1014.5) == []
    assert look_until(silences, 1014.5, 1015.0) == [ONE]
    assert look_until(silences, 1015.0, 1025.0) == [ONE, TWO]


def test_who_is_spared_or_forgotten_may_say_nothing() -> None:
    silences = silences_of(ONE, TWO)
    silences.forget(TWO)
    silences.forget(TWO)

    assert look_until(silences, 1000.0, 1020.0) == [ONE]
    assert silences.look(1020.5, {ONE}) == []


def test_who_has_said_nothing_for_a_while_is_quiet() -> None:
    silences = silences_of(ONE, TWO)
    look_until(silences, 1000.0, 1000.0 + QUIET_SECONDS)
    silences.heard(TWO)
    assert not silences.is_quiet(ONE)
    silences.look(1000.5 + QUIET_SECONDS)

    assert silences.is_quiet(ONE)
    assert not silences.is_quiet(TWO)
    assert not silences.is_quiet(NodeNumber(3))


def test_the_time_in_which_nobody_could_be_heard_does_not_count() -> None:
    silences = silences_of(ONE)
    assert silences.look(5000.0) == []
    assert look_until(silences, 5000.0, 5014.0 - LONGEST_LOOK) == []

    assert look_until(silences, 5013.0, 5015.0) == [ONE]


def test_a_moment_between_two_looks_counts_as_the_next_look_does() -> None:
    silences = Silences(15.0)
    assert silences.moment(1000.0) == 0.0
    silences.look(1000.0)
    assert silences.moment(1000.4) == pytest.approx(0.4)
    assert silences.moment(1600.0) == LONGEST_LOOK
    assert silences.moment(900.0) == 0.0
    silences.look(1600.0)

    assert silences.listened == LONGEST_LOOK


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_does_no_harm(jump: float) -> None:
    silences = silences_of(ONE)
    look_until(silences, 1000.0, 1010.0)

    assert look_until(silences, 1010.0 + jump, 1013.0 + jump) == []
    assert look_until(silences, 1013.0 + jump, 1020.0 + jump) == [ONE]


# --- in the core --------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Cluster:
    """A head's node, 1, and two others, which may be silent for 15 s."""
    made = Cluster(patience=15.0)
    made.join(1, head=True, link="a:1", CPU=4)
    made.join(2, link="b:1", CPU=4)
    made.join(3, link="c:1", CPU=4)
    return made


def pass_time(cluster: Cluster, seconds: int, *, beats: tuple[int, ...]) -> None:
    for _ in range(2 * seconds):
        for node in beats:
            cluster.beat(node, CPU=4)
        cluster.after(0.5)


def dead(cluster: Cluster, told: int) -> list[int]:
    return [number for news in cluster.sent(wire.NodesDied, told) for number, _ in news.nodes]


def test_a_connected_node_that_says_nothing_is_declared_dead(cluster: Cluster) -> None:
    pass_time(cluster, 14, beats=(3,))
    assert cluster.sent(wire.NodesDied) == []
    pass_time(cluster, 1, beats=(3,))

    # Itself too: when it goes on, it learns that it is to end.
    assert [dead(cluster, node) for node in (1, 2, 3)] == [[2], [2], [2]]
    assert (
        cluster.node(2).death_cause
        == "it has said nothing for 15 s: its process is stopped or stuck"
    )
    assert "said nothing" in cluster.core.refusal_of(
        wire.RegisterNode(2, 7, "", "", {}, {}, 1, []), head=False
    )
    pass_time(cluster, 30, beats=(3,))
    assert cluster.sent(wire.NodesDied) == []


def test_the_heads_node_may_be_silent(cluster: Cluster) -> None:
    pass_time(cluster, 60, beats=(2, 3))

    assert cluster.sent(wire.NodesDied) == []


def test_the_global_schedulers_own_pause_kills_nobody(cluster: Cluster) -> None:
    cluster.pause(300.0)
    pass_time(cluster, 60, beats=(1, 2, 3))

    assert cluster.sent(wire.NodesDied) == []


def test_a_node_that_comes_back_begins_anew(cluster: Cluster) -> None:
    pass_time(cluster, 14, beats=(3,))
    cluster.lose(2)
    pass_time(cluster, 4, beats=(3,))
    cluster.join(2, link="b:1", CPU=4)
    pass_time(cluster, 14, beats=(3,))

    assert cluster.sent(wire.NodesDied) == []


def test_a_node_that_is_awaited_is_awaited_no_longer_than_others(cluster: Cluster) -> None:
    pass_time(cluster, 14, beats=(3,))
    cluster.lose(2)
    pass_time(cluster, 4, beats=(3,))
    assert cluster.sent(wire.NodesDied) == []
    pass_time(cluster, 1, beats=(3,))

    assert "did not come back" in cluster.node(2).death_cause


def test_of_two_that_have_lost_one_another_the_quiet_one_goes(cluster: Cluster) -> None:
    # It has lost its network, which its connection to here does not show yet.
    pass_time(cluster, 10, beats=(1, 3))
    cluster.complain(3, 2)
    pass_time(cluster, 1, beats=(1, 3))

    assert [dead(cluster, node) for node in (1, 3)] == [[2], [2]]
    assert (cluster.node(2).state, cluster.node(3).state) == ("DEAD", "ALIVE")
