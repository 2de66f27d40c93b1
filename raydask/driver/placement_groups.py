"""Placement groups as their users see them: resources reserved together, for tasks and actors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from raydask.driver.api import cancel, ensure_session, get, wait
from raydask.driver.object_ref import ObjectRef
from raydask.driver.options import bundle_of
from raydask.driver.remote_function import RemoteFunction
from raydask.driver.strategies import PlacementGroupSchedulingStrategy
from raydask.errors import UsageError
from raydask.ids import PlacementGroupID
from raydask.placement import GroupStrategy
from raydask.task import in_units
from raydask.wire.messages import CreateGroup, PlacementGroupInfo


class PlacementGroup:
    """Bundles of resources that are reserved together; `placement_group` makes one.

    It can be passed to tasks and actors like any value.
    """

    def __init__(self, group_id: PlacementGroupID, bundles: list[dict[str, int]]) -> None:
        self._group_id = group_id
        self._bundles = bundles

    @property
    def id(self) -> str:
        """Its identifier, in hexadecimal."""
        return self._group_id.hex()

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """Of each bundle what it reserves."""
        return [in_units(bundle) for bundle in self._bundles]

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self._bundles)

    def ready(self) -> ObjectRef:
        """Return a ref whose value, the group itself, exists once all bundles are reserved.

        To get it raises ``InfeasibleError`` when the group has been removed, or the cluster could
        not hold it for a while.
        """
        strategy = PlacementGroupSchedulingStrategy(self)
        options = {
            "num_cpus": 0,
            "name": "PlacementGroup.ready",
            "scheduling_strategy": strategy,
        }
        ref: ObjectRef = RemoteFunction(_itself, options, ensure_session).remote(self)
        return ref

    def wait(self, timeout_seconds: float | None = 30) -> bool:
        """Wait until all bundles are reserved; say whether they are.

        Parameters
        ----------
        timeout_seconds : float, optional
            None waits for as long as it takes.

        Raises
        ------
        InfeasibleError
            As for `ready`.
        """
        ref = self.ready()
        ready, _ = wait([ref], timeout=timeout_seconds)
        if not ready:
            cancel(ref)
            return False
        get(ref)
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other._group_id == self._group_id

    def __hash__(self) -> int:
        return hash(self._group_id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id}, {self.bundle_specs})"


def _itself(group: PlacementGroup) -> PlacementGroup:
    return group


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: GroupStrategy = "PACK",
    name: str = "",
    lifetime: str | None = None,
) -> PlacementGroup:
    """Ask for resources that are reserved together: all, or none until there is room for all.

    Parameters
    ----------
    bundles : sequence of mappings of str to float
        Of each bundle, which is on one node, how much of each resource it reserves:
        ``[{"CPU": 2}, {"CPU": 1, "GPU": 1}]``; memory is in bytes.
    strategy : str
        ``"PACK"``: on as few nodes as possible; ``"SPREAD"``: on as many as possible;
        ``"STRICT_PACK"``: all on one node; ``"STRICT_SPREAD"``: each on another.
    name : str
        For `get_placement_group`.
    lifetime : str, optional
        ``"detached"``: it outlives this driver.

    Returns
    -------
    PlacementGroup
        At once; `PlacementGroup.ready` tells when the resources are reserved.

    Raises
    ------
    UsageError
        An argument makes no sense, or there is a group of this name.
    """
    if strategy not in get_args(GroupStrategy):
        known = ", ".join(get_args(GroupStrategy))
        raise UsageError(f"strategy is one of {known}, not {strategy!r}")
    if lifetime not in (None, "detached"):
        raise UsageError(f'lifetime must be "detached" or None, not {lifetime!r}')
    if not isinstance(name, str):
        raise UsageError(f"name must be a string, not {name!r}")
    if not (isinstance(bundles, list | tuple) and bundles):
        raise UsageError(f"bundles are a list of dicts of resources, and not {bundles!r}")
    amounts = [bundle_of(bundle) for bundle in bundles]
    session = ensure_session()
    group_id = PlacementGroupID(session.ids.next_task_id())
    message = CreateGroup(
        0, group_id, amounts, strategy, name, session.namespace, session.job, lifetime == "detached"
    )
    session.request("create_group", message, list[PlacementGroupInfo])
    return PlacementGroup(group_id, amounts)


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give back what a group has reserved; tasks and actors in it end.  Harmless when done twice.

    Raises
    ------
    UsageError
    """
    if not isinstance(placement_group, PlacementGroup):
        raise UsageError(f"remove_placement_group() takes a group, not {placement_group!r}")
    ensure_session().request("remove_group", placement_group._group_id, list[PlacementGroupInfo])


def get_placement_group(name: str) -> PlacementGroup:
    """Return the placement group of this name in this namespace.

    Raises
    ------
    UsageError
        There is none.
    """
    namespace = ensure_session().namespace
    for info in _all_groups():
        if name and (info.namespace, info.name) == (namespace, name):
            return PlacementGroup(info.group_id, info.bundles)
    raise UsageError(f"there is no placement group named {name!r} in namespace {namespace!r}")


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """Return what is known of all placement groups by their identifiers, or of one.

    Returns
    -------
    dict
        Of each group ``placement_group_id``, ``name``, ``namespace``, ``strategy``; ``state``,
        which is PENDING, CREATED, RESCHEDULING or REMOVED; ``bundles`` and
        ``bundles_to_node_id`` by their indexes; and ``infeasible``: why the cluster could not
        hold it, empty if it could.
    """
    table = {info.group_id.hex(): _described(info) for info in _all_groups()}
    if placement_group is None:
        return table
    gone = {"placement_group_id": placement_group.id, "state": "REMOVED"}
    return table.get(placement_group.id, gone)


def _all_groups() -> list[PlacementGroupInfo]:
    return ensure_session().request("groups", None, list[PlacementGroupInfo])


def _described(info: PlacementGroupInfo) -> dict[str, Any]:
    return {
        "placement_group_id": info.group_id.hex(),
        "name": info.name,
        "namespace": info.namespace,
        "strategy": info.strategy,
        "state": info.state,
        "bundles": {index: in_units(bundle) for index, bundle in enumerate(info.bundles)},
        "bundles_to_node_id": {index: node for index, node in enumerate(info.nodes) if node},
        "infeasible": info.infeasible,
    }
