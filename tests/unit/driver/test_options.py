"""Options become a template, or an error that says what to change."""

from __future__ import annotations

from typing import Any

import pytest

from raydask.driver.options import actor_template, bundle_of, task_template
from raydask.driver.placement_groups import PlacementGroup
from raydask.driver.strategies import (
    Exists,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)
from raydask.errors import UsageError
from raydask.ids import FunctionID, PlacementGroupID
from raydask.placement import LabelRule, Strategy
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


GROUP = PlacementGroup(PlacementGroupID(b"g" * 16), [{"CPU": 20_000}, {"CPU": 10_000}])
SUFFIX = f"_group_{GROUP.id}"


@pytest.mark.parametrize("make", [task, actor])
def test_strategies_become_part_of_the_template(make: Any) -> None:
    labels = NodeLabelSchedulingStrategy({"a": ["x", "y"], "b": NotIn("z")}, {"c": Exists()})
    rules = (LabelRule("a", "in", ("x", "y")), LabelRule("b", "not in", ("z",)))
    for given, expected in (
        (None, None),
        ("DEFAULT", None),
        ("SPREAD", Strategy("SPREAD")),
        (NodeAffinitySchedulingStrategy("7", soft=True), Strategy("NODE", 7, True)),
        (labels, Strategy("LABELS", hard=rules, preferred=(LabelRule("c", "exists"),))),
    ):
        template = make(scheduling_strategy=given, num_cpus=1)
        assert (template.strategy, template.resources) == (expected, {"CPU": 10_000})


@pytest.mark.parametrize("make", [task, actor])
def test_in_a_group_its_own_resources_are_asked_for(make: Any) -> None:
    for index, names in ((-1, [SUFFIX]), (1, [SUFFIX, f"{SUFFIX}_1"])):
        strategy = PlacementGroupSchedulingStrategy(GROUP, index)
        template = make(scheduling_strategy=strategy, num_cpus=0.5)
        assert template.strategy == Strategy("GROUP", group=GROUP._group_id)
        expected = {f"CPU{name}": 5_000 for name in names}
        assert template.resources == expected | {f"bundle{name}": 10 for name in names}


@pytest.mark.parametrize(
    ("index", "cpus", "message"),
    [(2, 1, "bundles 0 to 1"), (-2, 1, "bundles 0 to 1"), (1, 2, "bundle 1"), (-1, 3, "any")],
)
def test_what_a_group_does_not_have_is_refused(index: int, cpus: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task(scheduling_strategy=PlacementGroupSchedulingStrategy(GROUP, index), num_cpus=cpus)


@pytest.mark.parametrize("group", [None, "group"])
def test_what_is_no_group_is_refused(group: Any) -> None:
    with pytest.raises(UsageError, match=r"what raydask\.util\.placement_group\(\) returns"):
        PlacementGroupSchedulingStrategy(group)


def test_what_is_no_bundles_index_is_refused() -> None:
    with pytest.raises(UsageError, match="is a whole number, not '0'"):
        PlacementGroupSchedulingStrategy(GROUP, "0")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [task, actor])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 10**400, -1, True])
def test_what_is_no_amount_is_refused(make: Any, value: float) -> None:
    with pytest.raises(UsageError, match="num_cpus must be"):
        make(num_cpus=value)
    with pytest.raises(UsageError, match="x must be"):
        make(resources={"x": value})
    with pytest.raises(UsageError, match="CPU must be"):
        bundle_of({"CPU": value})


@pytest.mark.parametrize("given", [{1: 1}, {None: 1}])
def test_names_of_resources_are_strings(given: Any) -> None:
    with pytest.raises(UsageError, match="is no name"):
        bundle_of(given)
    with pytest.raises(UsageError, match="is no name"):
        task(resources=given)


@pytest.mark.parametrize("name", ["CPU", "GPU", "memory"])
def test_what_has_an_option_of_its_own_is_no_custom_resource(name: str) -> None:
    with pytest.raises(UsageError, match=f"give {name} by num_cpus, num_gpus or memory"):
        task(resources={name: 1})
    assert bundle_of({name: 1}) == {name: 10_000}


def test_names_of_groups_resources_are_theirs_alone() -> None:
    with pytest.raises(UsageError, match="placement groups"):
        task(resources={f"CPU{SUFFIX}": 1})
