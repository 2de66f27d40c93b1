"""Options about memory become a template, or an error that says what to change."""

from __future__ import annotations

from typing import Any

import pytest

from raydask.driver.options import actor_template, task_template
from raydask.errors import UsageError
from raydask.ids import FunctionID
from raydask.task import TaskTemplate

FUNCTION = FunctionID(b"f")


def task(**options: Any) -> TaskTemplate:
    return task_template(FUNCTION, "f", options)


def actor(**options: Any) -> TaskTemplate:
    return actor_template(FUNCTION, "A", options, "", False)


def test_memory_is_enforced_when_asked() -> None:
    assert task(memory=5e6).enforced_memory == 0
    assert task(memory=5e6, enforce_memory=False).enforced_memory == 0
    assert task(memory=5e6, enforce_memory=True).enforced_memory == 5_000_000
    assert actor(memory=5e6, enforce_memory=True).enforced_memory == 5_000_000


def test_what_is_enforced_is_tried_again_only_when_asked() -> None:
    assert task(memory=5e6).max_retries == 3
    assert task(memory=5e6, enforce_memory=True).max_retries == 0
    assert task(memory=5e6, enforce_memory=True, max_retries=2).max_retries == 2


@pytest.mark.parametrize("make", [task, actor])
@pytest.mark.parametrize(
    "options",
    [{"enforce_memory": True}, {"enforce_memory": True, "memory": 0}, {"enforce_memory": "yes"}],
)
def test_nothing_to_enforce_is_refused(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="enforce_memory"):
        make(**options)


def test_calls_are_counted_from_one() -> None:
    assert task().max_calls == task(max_calls=0).max_calls == 0
    assert task(max_calls=3).max_calls == 3
    for wrong in (-1, 1.5, True):
        with pytest.raises(UsageError, match="max_calls"):
            task(max_calls=wrong)
