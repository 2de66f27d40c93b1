"""Looking into a session: which nodes it has, where its memory is; and placement groups."""

from __future__ import annotations

from raydask.driver import launcher
from raydask.driver.observer import ask_cluster, ask_node
from raydask.driver.session import find_session
from raydask.errors import ClusterUnavailableError
from raydask.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from raydask.wire.endpoint import looks_like_endpoint, parse_endpoint
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
    """Return the state of each node of a session.

    Parameters
    ----------
    address : str, optional
        As in `memory_report`; or the HOST:PORT of a cluster on any machine, whose secret is in
        the environment as ``RAYDASK_SECRET``.

    Raises
    ------
    ClusterUnavailableError
        There is no such session, or it does not accept the secret.
    """
    session = find_session()
    if address is None and session is not None:
        return session.request("nodes", None, list[NodeStatus])
    if address is not None and looks_like_endpoint(address):
        secret = launcher.secret_from_environment()
        if secret:
            return ask_cluster(parse_endpoint(address), secret, "nodes", None, list[NodeStatus])
    folder = launcher.find_address(address or "auto")
    nodes = ask_node(folder, "nodes", None, list[NodeStatus])
    endpoint = launcher.endpoint_of_session(folder)
    if not endpoint:
        return nodes
    try:
        # A node knows less of the others, and later.
        secret = launcher.secret_of_session(folder)
        seen = ask_cluster(parse_endpoint(endpoint), secret, "nodes", None, list[NodeStatus])
    except ClusterUnavailableError:
        return nodes  # the head is away for now
    by_number = {status.node: status for status in seen}
    by_number.update((status.node, status) for status in nodes if status.session == folder)
    return [by_number[number] for number in sorted(by_number)]


def memory_report(
    address: str | None = None, *, sort: Order = "size", limit: int | None = None
) -> MemoryReport:
    """Return where the memory of a session is: each object, who holds it, who reads it.

    Parameters
    ----------
    address : str, optional
        The session's folder, or ``"auto"`` for this user's latest; if not given, the session of
        this process, and the latest if it has none.
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
    query = Query(sort, limit)
    session = find_session()
    if address is None and session is not None:
        return session.request("memory", query, MemoryReport)
    return ask_node(launcher.find_address(address or "auto"), "memory", query, MemoryReport)


def memory_summary(
    address: str | None = None, *, sort: Order = "size", limit: int | None = 100
) -> str:
    """Return the same as text, to print; see `memory_report`."""
    from raydask.driver.memory_tables import as_text

    return as_text(memory_report(address, sort=sort, limit=limit))
