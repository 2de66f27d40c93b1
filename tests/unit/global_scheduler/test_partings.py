"""Which of two nodes goes when they have lost one another."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydask.global_scheduler.partings import GRACE_SECONDS, Partings
from raydask.ids import NodeNumber

PAIRS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=12)


def partings_of(*pairs: tuple[int, int]) -> Partings:
    partings = Partings()
    for by, about in pairs:
        partings.complain(NodeNumber(by), NodeNumber(about), "connection reset", 10.0)
    return partings


def gone(
    partings: Partings,
    head: int | None = None,
    absent: Collection[int] = (),
    now: float = 10.0 + GRACE_SECONDS,
) -> list[int]:
    decided = partings.decide(
        now,
        head=None if head is None else NodeNumber(head),
        in_touch=[NodeNumber(number) for number in range(10) if number not in absent],
    )
    return [int(node) for node, _ in decided]


@pytest.mark.parametrize("pair", [(1, 2), (2, 1)])
def test_of_two_like_nodes_the_later_one_goes(pair: tuple[int, int]) -> None:
    assert gone(partings_of(pair)) == [2]


def test_nothing_is_decided_before_the_other_side_can_have_complained() -> None:
    partings = partings_of((1, 2))
    assert gone(partings, now=10.0 + GRACE_SECONDS / 2) == []

    partings.complain(NodeNumber(2), NodeNumber(1), "timed out", 10.0 + GRACE_SECONDS / 2)
    assert gone(partings) == [2]
    assert gone(partings, now=100.0) == []


def test_the_heads_node_does_not_go() -> None:
    assert gone(partings_of((1, 9), (2, 9), (9, 3)), head=9) == [3, 2, 1]


def test_the_one_that_is_out_of_touch_goes() -> None:
    assert gone(partings_of((1, 2)), absent=[1]) == [1]
    assert gone(partings_of((1, 2)), absent=[1, 2]) == [2]


def test_one_goes_rather_than_many() -> None:
    assert gone(partings_of((2, 1), (3, 1), (1, 4))) == [1]


def test_complaints_that_are_younger_count_too() -> None:
    partings = partings_of((1, 2))
    partings.complain(NodeNumber(1), NodeNumber(3), "connection reset", 10.9)
    assert gone(partings) == [1]


def test_the_cause_says_who_could_not_reach_whom() -> None:
    partings = partings_of((1, 2), (4, 3))
    decided = partings.decide(20.0, head=None, in_touch=[1, 2, 3, 4])

    assert decided == [
        (4, "it cannot reach node 3: connection reset"),
        (2, "node 1 cannot reach it: connection reset"),
    ]


def test_a_node_does_not_part_from_itself_and_the_dead_are_no_matter() -> None:
    partings = partings_of((1, 1), (1, 2))
    partings.forget(NodeNumber(1))

    assert gone(partings) == []


def test_a_clock_that_was_set_back_delays_nothing() -> None:
    assert gone(partings_of((1, 2)), now=5.0) == [2]


@given(PAIRS, st.none() | st.integers(1, 6), st.sets(st.integers(1, 6)))
def test_every_pair_is_parted_and_the_head_stays(
    pairs: list[tuple[int, int]], head: int | None, absent: set[int]
) -> None:
    dead = gone(partings_of(*pairs), head, absent)

    assert head not in dead
    assert len(dead) == len(set(dead))
    assert all(by in dead or about in dead for by, about in pairs if by != about)
