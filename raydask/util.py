"""Looking into a session: where its memory is."""

from __future__ import annotations

from raydask.driver import launcher
from raydask.driver.observer import ask_node
from raydask.driver.session import find_session
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

__all__ = [
    "Holder",
    "MemoryReport",
    "NodeMemory",
    "ObjectMemory",
    "ProcessMemory",
    "StateTotal",
    "memory_report",
    "memory_summary",
]


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
