"""Rounds: when placement groups are tried again, and how much at once."""

from __future__ import annotations

import pytest

from raydask.global_scheduler import groups
from raydask.global_scheduler.rounds import LARGEST_PART, PAUSE_SECONDS, SMALL_PART, Rounds
from raydask.ids import PlacementGroupID
from tests.unit.global_scheduler.cluster import units
from tests.unit.global_scheduler.test_groups import Groups

ONE, TWO, THREE = (PlacementGroupID(bytes([number]) * 16) for number in (1, 2, 3))


def part(rounds: Rounds, now: float, looks: int) -> list[PlacementGroupID]:
    """Try what is due, each with so many looks."""
    tried: list[PlacementGroupID] = []
    if rounds.due(now):
        rounds.begin(now, [ONE, TWO, THREE])
        while (group_id := rounds.take()) is not None:
            tried.append(group_id)
            rounds.spend(looks)
    return tried


def test_news_begins_a_round_and_more_news_waits_for_the_pause() -> None:
    rounds = Rounds()
    assert part(rounds, 10.0, 1) == []
    rounds.note_news()
    assert part(rounds, 10.0, 1) == [ONE, TWO, THREE]
    rounds.note_news()
    assert part(rounds, 10.0 + 0.9 * PAUSE_SECONDS, 1) == []
    assert part(rounds, 10.0 + 1.1 * PAUSE_SECONDS, 1) == [ONE, TWO, THREE]
    assert part(rounds, 20.0, 1) == []


def test_the_pause_is_longer_after_more_work() -> None:
    rounds = Rounds()
    rounds.note_news()
    part(rounds, 10.0, SMALL_PART)
    rounds.note_news()

    assert not rounds.due(10.0 + 2.9 * PAUSE_SECONDS)
    assert rounds.due(10.0 + 3.1 * PAUSE_SECONDS)
    assert rounds.due(9.0), "a clock that was set back stops nothing"


def test_a_long_round_is_done_in_parts_and_in_order() -> None:
    rounds = Rounds()
    rounds.note_news()
    assert part(rounds, 10.0, LARGEST_PART) == [ONE]
    rounds.note_news()
    assert part(rounds, 20.0, LARGEST_PART) == [TWO]
    assert part(rounds, 30.0, LARGEST_PART) == [THREE]
    assert part(rounds, 40.0, LARGEST_PART) == [ONE]


def test_only_more_of_what_is_waited_for_can_help() -> None:
    rounds = Rounds()
    assert not rounds.could_help({}, units(CPU=4))
    rounds.found_no_room("like", [units(CPU=1), units(GPU=1)])

    assert rounds.could_help(units(CPU=1), units(CPU=2))
    assert rounds.could_help({}, units(GPU=1))
    assert not rounds.could_help(units(CPU=2, memory=1), units(CPU=1, memory=2))
    assert rounds.is_hopeless("like")
    rounds.note_news()
    part(rounds, 10.0, 1)
    assert not rounds.is_hopeless("like")


# --- in the table of groups -----------------------------------------------------------------


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each search for places over how many nodes it went."""
    found: list[int] = []
    place = groups.place_bundles

    def counted(nodes, bundles, strategy):  # type: ignore[no-untyped-def]
        found.append(len(nodes))
        return place(nodes, bundles, strategy)

    monkeypatch.setattr(groups, "place_bundles", counted)
    return found


@pytest.fixture
def full() -> Groups:
    """Ten nodes that are full, and a group that has taken most of one."""
    cluster = Groups()
    for number in range(1, 11):
        cluster.add(number, CPU=2)
    for _ in range(10):
        cluster.create(2)
    cluster.after(1.0)
    return cluster


def test_reports_that_nothing_is_free_are_no_reason_to_try_again(
    full: Groups, searches: list[int]
) -> None:
    full.create(1, 1)
    assert len(searches) == 3  # what is free, what there may be, what there is in all
    full.after(1.0)
    del searches[:]
    for _ in range(5):
        for number in range(1, 11):
            full.report(number)
    assert searches == []


def test_whether_it_could_ever_be_held_is_asked_when_nodes_change(
    full: Groups, searches: list[int]
) -> None:
    full.create(3)
    full.after(1.0)
    del searches[:]
    full.beat(1, CPU=1)
    full.after(1.0)
    full.beat(1, CPU=2)
    full.after(1.0)
    assert searches == []  # the cluster cannot hold it

    full.add(11, CPU=3)
    full.run()
    assert searches


def test_groups_that_are_alike_are_tried_once_in_a_round(full: Groups, searches: list[int]) -> None:
    for _ in range(20):
        full.create(1, 1, strategy="SPREAD")
    full.after(1.0)
    del searches[:]
    full.beat(1, CPU=1)
    full.after(1.0)

    assert len(searches) == 2


def test_many_nodes_that_refuse_are_not_asked_without_a_pause(searches: list[int]) -> None:
    cluster = Groups()
    for number in range(1, 301):
        cluster.add(number, CPU=2)
        cluster.beat(number, CPU=0)
        cluster.refusing.add(number)
    cluster.create(*[1 + kind / 100 for kind in range(20)], strategy="SPREAD")
    cluster.after(10.0)
    cluster.run()
    del searches[:]
    for number in range(1, 301):  # a second, in which each reports once
        cluster.now += 1 / 300
        cluster.beat(number, CPU=0)
        cluster.run()

    assert 0 < len(searches) <= 10
