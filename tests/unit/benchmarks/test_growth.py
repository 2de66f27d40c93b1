"""A series has grown when its last quarter is clearly above its first."""

from __future__ import annotations

import pytest

from benchmarks.soak.growth import Trend, trend_of


def test_quarters_are_compared_by_their_medians_after_the_warm_up() -> None:
    warm_up = [0.0, 1.0]
    first, middle, last = [10, 90, 11, 12], [500.0] * 10, [20, 21, 0, 22]
    trend = trend_of("node", [*warm_up, *first, *middle, *last], allowance=4)
    assert trend == Trend("node", 11.5, 20.5, 4)
    assert trend.growth == 9
    assert trend.grew


@pytest.mark.parametrize(
    ("first", "last", "grew"),
    [
        (100, 100, False),
        (100, 80, False),
        (100, 110, False),
        (100, 110.1, True),
        (10, 14, False),  # 40 %, and yet only the allowance
        (10, 14.1, True),
        (0, 4, False),
        (0, 4.1, True),
    ],
)
def test_growth_is_beyond_the_share_and_the_allowance(
    first: float, last: float, grew: bool
) -> None:
    assert Trend("node", first, last, 4).grew is grew


def test_a_leak_too_small_for_any_two_samples_to_show_it_is_found() -> None:
    samples = [50 + 0.1 * moment + 5 * (moment % 3) for moment in range(200)]
    assert trend_of("node", samples, allowance=4).grew


def test_noise_is_no_growth() -> None:
    samples = [50 + 20 * (moment % 7) for moment in range(200)]
    assert not trend_of("node", samples, allowance=4).grew


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="3 samples of node are too few"):
        trend_of("node", [1, 2, 3], allowance=4)
