"""Looking into a cluster: which nodes it has, where their memory is; and placement groups."""

from __future__ import annotations

from raydask.driver.cluster_view import ask_own_node, nodes_of_cluster, view_cluster
from raydask.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from raydask.wire.memory import (
    Holder,
    MemoryReport,
    NodeMemory,
    ObjectMemory,
    Order,
    ProcessMemory,
    Query,
    StateTotal,
)
from raydask.wire.status import NodeStatus

__all__ = [
    "Holder",
    "MemoryReport",
    "NodeMemory",
    "NodeStatus",
    "ObjectMemory",
    "PlacementGroup",
    "ProcessMemory",
    "StateTotal",
    "cluster_status",
    "get_placement_group",
    "memory_report",
    "memory_summary",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]


def cluster_status(address: str | None = None) -> list[NodeStatus]:
    """Return the state of each node of a cluster.

    While its head does not answer, that is what a node of this machine knows: of others, whose
    ``session`` is empty then, only what they offered and had free when it heard of them last.

    Parameters
    ----------
    address : str, optional
        As in `memory_report`; or the HOST:PORT of a cluster on any machine, whose secret is in
        the environment as ``RAYDASK_SECRET``.

    Raises
    ------
    ClusterUnavailableError
        There is no such session or cluster, or it does not accept the secret.
    """
    return view_cluster(address).nodes


def memory_report(
    address: str | None = None, *, sort: Order = "size", limit: int | None = None
) -> MemoryReport:
    """Return where the memory of a node is: each object, who holds it, who reads it.

    Each node of a cluster tells of its own; that of a program is the one it is connected to.

    Parameters
    ----------
    address : str, optional
        The session's folder, ``"auto"`` for this user's latest, or the HOST:PORT of a cluster that
        has a node on this machine; if not given, the session of this process, and the latest if
        it has none.
    sort : str
        ``"size"``: the largest objects first; ``"age"``: the oldest first; ``"holders"``: those
        with the most holders first.
    limit : int, optional
        How many objects to list; all if not given.  The totals are always of all.

    Raises
    ------
    ClusterUnavailableError
        There is no such session.
    """
    return ask_own_node(address, "memory", Query(sort, limit), MemoryReport)


def memory_summary(
    address: str | None = None, *, sort: Order = "size", limit: int | None = 100
) -> str:
    """Return the same as text, to print; see `memory_report`."""
    from raydask.driver.memory_tables import as_text

    report = memory_report(address, sort=sort, limit=limit)
    return as_text(report, nodes=nodes_of_cluster(address))
