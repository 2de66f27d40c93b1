"""Where tasks and actors shall run: what ``options(scheduling_strategy=…)`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raydask.errors import UsageError
from raydask.placement import ANY_BUNDLE, LabelRule, Strategy, demanded
from raydask.task import in_units

if TYPE_CHECKING:
    from raydask.driver.placement_groups import PlacementGroup

Resources = dict[str, int]


class SchedulingStrategy:
    """Base of the strategies that are more than a name."""

    def applied_to(self, resources: Resources) -> tuple[Resources, Strategy]:
        """Return what a task asks for that would ask for these resources without a strategy."""
        raise NotImplementedError

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({values})"


class NodeAffinitySchedulingStrategy(SchedulingStrategy):
    """On one node.

    Parameters
    ----------
    node_id : int or str
        Its number, as in `raydask.nodes`.
    soft : bool
        Whether it runs anywhere if that node is dead or cannot run it; it fails then if not.
    """

    def __init__(self, node_id: int | str, soft: bool = False) -> None:
        try:
            self.node_id = int(node_id)
        except (TypeError, ValueError):
            raise UsageError(
                f"node_id is a node's number, as raydask.nodes() gives it, not {node_id!r}"
            ) from None
        self.soft = bool(soft)

    def applied_to(self, resources: Resources) -> tuple[Resources, Strategy]:
        """Return what a task asks for that would ask for these resources without a strategy."""
        return resources, Strategy("NODE", node=self.node_id, soft=self.soft)


class In:
    """A node's label must be one of these."""

    def __init__(self, *values: str) -> None:
        self.values = values

    def rule(self, label: str) -> LabelRule:
        """Return the same of a label."""
        return LabelRule(label, "in", self.values)


class NotIn:
    """A node's label must be none of these; a node without the label will do."""

    def __init__(self, *values: str) -> None:
        self.values = values

    def rule(self, label: str) -> LabelRule:
        """Return the same of a label."""
        return LabelRule(label, "not in", self.values)


class Exists:
    """A node must have the label, whatever its value."""

    def rule(self, label: str) -> LabelRule:
        """Return the same of a label."""
        return LabelRule(label, "exists")


class DoesNotExist:
    """A node must not have the label."""

    def rule(self, label: str) -> LabelRule:
        """Return the same of a label."""
        return LabelRule(label, "absent")


Rules = Mapping[str, "str | Sequence[str] | In | NotIn | Exists | DoesNotExist"]


class NodeLabelSchedulingStrategy(SchedulingStrategy):
    """On a node with certain labels; ``raydask start --labels`` gives them.

    Parameters
    ----------
    hard : mapping of str to rule
        What the node's labels must be: a value, a list of values, `In`, `NotIn`, `Exists` or
        `DoesNotExist`.
    soft : mapping of str to rule
        What they had better be too.
    """

    def __init__(self, hard: Rules | None = None, soft: Rules | None = None) -> None:
        self.hard = _rules(hard)
        self.soft = _rules(soft)
        if not (self.hard or self.soft):
            raise UsageError("NodeLabelSchedulingStrategy needs hard or soft rules")

    def applied_to(self, resources: Resources) -> tuple[Resources, Strategy]:
        """Return what a task asks for that would ask for these resources without a strategy."""
        return resources, Strategy("LABELS", hard=self.hard, preferred=self.soft)


def _rules(rules: Rules | None) -> tuple[LabelRule, ...]:
    if not isinstance(rules, Mapping | None):
        raise UsageError(f"rules are a dict of labels to what they must be, not {rules!r}")
    return tuple(_rule(label, wanted) for label, wanted in (rules or {}).items())


def _rule(label: str, wanted: Any) -> LabelRule:
    if isinstance(wanted, str):
        wanted = In(wanted)
    elif isinstance(wanted, list | tuple):
        wanted = In(*wanted)
    if not isinstance(wanted, In | NotIn | Exists | DoesNotExist):
        raise UsageError(
            f"label {label!r} must be a string, a list of strings, In(…), NotIn(…), Exists() or "
            f"DoesNotExist(), not {wanted!r}"
        )
    rule = wanted.rule(label)
    if not all(isinstance(text, str) for text in (label, *rule.values)):
        raise UsageError(f"labels and their values are strings, unlike {label!r}: {wanted!r}")
    return rule


class PlacementGroupSchedulingStrategy(SchedulingStrategy):
    """In a placement group.

    Parameters
    ----------
    placement_group : PlacementGroup
    placement_group_bundle_index : int
        In which of its bundles; -1: in any.
    """

    def __init__(
        self, placement_group: PlacementGroup, placement_group_bundle_index: int = ANY_BUNDLE
    ) -> None:
        from raydask.driver.placement_groups import PlacementGroup  # which need this module

        if not isinstance(placement_group, PlacementGroup):
            raise UsageError(
                f"placement_group is what raydask.util.placement_group() returns, not "
                f"{placement_group!r}"
            )
        if not isinstance(placement_group_bundle_index, int):
            raise UsageError(
                f"placement_group_bundle_index is a whole number, not "
                f"{placement_group_bundle_index!r}"
            )
        count = placement_group.bundle_count
        if not ANY_BUNDLE <= placement_group_bundle_index < count:
            raise UsageError(
                f"the placement group has bundles 0 to {count - 1}, and no "
                f"{placement_group_bundle_index}; -1 is any"
            )
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index

    def applied_to(self, resources: Resources) -> tuple[Resources, Strategy]:
        """Return what a task asks for that would ask for these resources without a strategy."""
        group, index = self.placement_group, self.placement_group_bundle_index
        bundles = group._bundles if index == ANY_BUNDLE else [group._bundles[index]]
        if not any(_holds(bundle, resources) for bundle in bundles):
            which = "any bundle" if index == ANY_BUNDLE else f"bundle {index}"
            raise UsageError(
                f"{in_units(resources)} is more than {which} of the placement group has: "
                f"{[in_units(bundle) for bundle in bundles]}"
            )
        wanted = demanded(resources, group._group_id, index)
        return wanted, Strategy("GROUP", group=group._group_id)


def _holds(bundle: Resources, wanted: Resources) -> bool:
    return all(bundle.get(name, 0) >= amount for name, amount in wanted.items())
