"""Where a task or an actor may run, and what the resources of placement groups are called. Pure.

Vocabulary
----------
strategy
    What a task or actor asks for beyond resources: to be spread, a node, labels, a group.
bundle
    Resources that a placement group has reserved on one node.

What a bundle reserves becomes resources of the group's own on the bundle's node, as in Ray: of
bundle 0 of ``{"CPU": 2}``

=============================  =======================================================
``CPU_group_<id>``             what tasks take that may use any bundle of the group
``CPU_group_<id>_0``           what tasks take, beside that, which want this bundle
``bundle_group_<id>``          of which each task takes next to nothing, so that one which
``bundle_group_<id>_0``        asks for nothing else still runs where the group is
=============================  =======================================================

so that whatever counts resources counts these without knowing of groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from raydask.ids import PlacementGroupID

StrategyKind = Literal["SPREAD", "NODE", "LABELS", "GROUP"]
LabelOperator = Literal["in", "not in", "exists", "absent"]
GroupStrategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]

ANY_BUNDLE = -1
_MARK = "_group_"
_TOKEN = "bundle"
_TOKENS = 10_000_000
_TOKENS_OF_A_TASK = 10


class LabelRule(msgspec.Struct, array_like=True, frozen=True):
    """What a label of a node must be.

    Attributes
    ----------
    label : str
    operator : LabelOperator
    values : tuple of str
        For ``"in"`` and ``"not in"``; a node without the label is not in them.
    """

    label: str
    operator: LabelOperator
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Say whether a node with these labels will do."""
        value = labels.get(self.label)
        if self.operator == "in":
            return value in self.values
        if self.operator == "not in":
            return value not in self.values
        return (value is None) == (self.operator == "absent")

    def __str__(self) -> str:
        values = f" {', '.join(self.values)}" if self.values else ""
        return f"{self.label} {self.operator}{values}"


class Strategy(msgspec.Struct, array_like=True, frozen=True):
    """A strategy other than the default.

    Attributes
    ----------
    kind : StrategyKind
    node : int
        For ``"NODE"``.
    soft : bool
        Whether another node will do where that one cannot.
    hard, preferred : tuple of LabelRule
        For ``"LABELS"``: what a node must have, and what it had better have.
    group : PlacementGroupID
        For ``"GROUP"``.
    """

    kind: StrategyKind
    node: int = 0
    soft: bool = False
    hard: tuple[LabelRule, ...] = ()
    preferred: tuple[LabelRule, ...] = ()
    group: PlacementGroupID = PlacementGroupID(b"")


def have(labels: Mapping[str, str], rules: Iterable[LabelRule]) -> bool:
    """Say whether all rules hold for a node with these labels."""
    return all(rule.holds(labels) for rule in rules)


def supplied(bundle: Mapping[str, int], group: PlacementGroupID, index: int) -> dict[str, int]:
    """Return the resources that a reserved bundle makes."""
    names = (f"{_MARK}{group.hex()}", f"{_MARK}{group.hex()}_{index}")
    whole = {**bundle, _TOKEN: _TOKENS}
    return {base + name: amount for base, amount in whole.items() for name in names}


def demanded(
    resources: Mapping[str, int], group: PlacementGroupID, index: int = ANY_BUNDLE
) -> dict[str, int]:
    """Return what a task in a group asks for that would ask for these resources elsewhere."""
    names = [f"{_MARK}{group.hex()}"]
    if index != ANY_BUNDLE:
        names.append(f"{_MARK}{group.hex()}_{index}")
    whole = {**resources, _TOKEN: _TOKENS_OF_A_TASK}
    return {base + name: amount for base, amount in whole.items() for name in names}


def is_of_group(name: str) -> bool:
    """Say whether a resource is one of a placement group's."""
    return _MARK in name


def ungrouped(resources: Mapping[str, int]) -> dict[str, int]:
    """Return the resources that are no placement group's."""
    return {name: amount for name, amount in resources.items() if _MARK not in name}


def whole_group_name(name: str) -> str:
    """Return what a resource of one bundle is called where any bundle of the group will do."""
    base, _, rest = name.partition(_MARK)
    return f"{base}{_MARK}{rest.partition('_')[0]}"


def group_names(resources: Iterable[str], base: str) -> list[str]:
    """Return what the groups' shares of the resource `base` are called, among these names."""
    return [name for name in resources if name.startswith(base + _MARK)]


def is_weightless(resources: Mapping[str, int]) -> bool:
    """Say whether tasks with these resources take nothing that bounds how many run at once."""
    return not any(
        amount for name, amount in resources.items() if not name.startswith(_TOKEN + _MARK)
    )
