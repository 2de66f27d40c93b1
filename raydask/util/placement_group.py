"""Resources that are reserved together, named and placed as in ``ray.util.placement_group``."""

from __future__ import annotations

from raydask.driver.placement_groups import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "PlacementGroup",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]
