"""Shares: the smallest is as large as it can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydask.global_scheduler.fairness import fair_fractions

RESOURCES = ("CPU", "GPU", "memory")


def test_where_there_is_enough_everybody_gets_all() -> None:
    assert fair_fractions([{"CPU": 3}, {"CPU": 5}, {}], {"CPU": 8}) == [1, 1, 1]


def test_who_wants_little_gets_it_and_the_others_share_the_rest() -> None:
    assert fair_fractions([{"CPU": 100}, {"CPU": 2}, {"CPU": 50}], {"CPU": 12}) == pytest.approx(
        [0.05, 1, 0.1]
    )


def test_what_there_is_nothing_of_nobody_gets_and_it_takes_nothing_from_others() -> None:
    assert fair_fractions([{"GPU": 1, "CPU": 4}, {"CPU": 8}], {"CPU": 8}) == [0, 1]


def test_the_largest_part_of_any_resource_counts() -> None:
    wanted = [{"CPU": 90, "memory": 10}, {"CPU": 10, "memory": 90}]

    assert fair_fractions(wanted, {"CPU": 60, "memory": 60}) == pytest.approx([0.6, 0.6])


@given(
    st.lists(st.dictionaries(st.sampled_from(RESOURCES), st.integers(0, 10**15)), max_size=8),
    st.dictionaries(st.sampled_from(RESOURCES), st.integers(0, 10**15)),
)
def test_no_more_is_given_than_there_is(
    wanted: list[dict[str, int]], capacity: dict[str, int]
) -> None:
    fractions = fair_fractions(wanted, capacity)

    assert all(0 <= fraction <= 1 for fraction in fractions)
    for name in RESOURCES:
        given_out = sum(
            amounts.get(name, 0) * part for amounts, part in zip(wanted, fractions, strict=True)
        )
        assert given_out <= capacity.get(name, 0) * (1 + 1e-6) + 1e-3


def test_a_small_rate_is_not_lost_beside_a_large_one() -> None:
    wanted = [{"CPU": 1}, {"memory": 1 << 24, "CPU": 1}]

    fractions = fair_fractions(wanted, {"CPU": 813_880_923, "memory": 1})

    assert fractions == pytest.approx([1, 2**-24])
