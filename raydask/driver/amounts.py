"""What people give as amounts of resources: checked here, for options and for nodes alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raydask.errors import UsageError
from raydask.placement import is_of_group
from raydask.task import RESOURCE_UNIT

CPU = "CPU"
GPU = "GPU"
MEMORY = "memory"

_MOST = float(2**63 // RESOURCE_UNIT)
"""Beyond it the steps of an amount would not fit where they travel."""


def amount(name: str, value: Any) -> float:
    """Return an amount of something, or seconds.

    Raises
    ------
    UsageError
        It is no number, negative, nan or too large.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise UsageError(f"{name} must be a number that is not negative, not {value!r}")
    if value >= _MOST or not math.isfinite(value):
        raise UsageError(f"{name} must be less than {_MOST:.1g}, not {value!r}")
    return float(value)


def named_amounts(given: Any, what: str) -> dict[str, float]:
    """Return amounts by the names of resources.

    Parameters
    ----------
    given : object
        What should be a mapping of names to amounts.
    what : str
        What the error begins with, such as "a bundle is".

    Raises
    ------
    UsageError
        It is none, or a name is not for people to use.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"{what} a dict of names to amounts, not {given!r}")
    for name in given:
        if not isinstance(name, str):
            raise UsageError(f"{what} a dict of names to amounts, and {name!r} is no name")
        if is_of_group(name):
            raise UsageError(
                f"the resource {name!r} is called as those of placement groups are; "
                "PlacementGroupSchedulingStrategy uses them"
            )
    return {name: amount(name, value) for name, value in given.items()}


def custom_amounts(given: Any, remedies: Mapping[str, str]) -> dict[str, float]:
    """Return what ``resources`` gives, which says nothing of those with options of their own.

    Parameters
    ----------
    given : object
    remedies : mapping of str to str
        How those are given instead, by name.

    Raises
    ------
    UsageError
        As `named_amounts`, or it has one of those.
    """
    amounts = named_amounts({} if given is None else given, "resources must be")
    for name in amounts:
        if name in remedies:
            raise UsageError(f"give {name} by {remedies[name]}, not in resources")
    return amounts
