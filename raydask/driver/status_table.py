"""The state of a cluster as a table, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raydask.driver.memory_tables import size
from raydask.wire.status import NodeStatus


def print_status(console: Console, nodes: Sequence[NodeStatus]) -> None:
    """Print what each node offers and has to do, and what no node can run."""
    table = Table(box=box.SIMPLE_HEAD)
    for column, right in (
        ("node", True),
        ("resources used", False),
        ("object store", False),
        ("tasks", True),
        ("queued", True),
        ("workers", True),
        ("drivers", True),
        ("session", False),
    ):
        table.add_column(column, justify="right" if right else "left")
    for node in nodes:
        table.add_row(
            str(node.node) if node.alive else f"{node.node} (away)",
            _used(node),
            f"{size(node.object_store_used)} of {size(node.object_store_memory)}",
            str(node.tasks),
            str(node.queued),
            str(node.workers),
            str(node.drivers),
            node.session,
        )
    console.print(table)
    infeasible = sum(node.infeasible for node in nodes)
    if infeasible:
        console.print(
            Text(f"{infeasible} tasks or actors ask for more than any node has; they fail soon")
        )


def _used(node: NodeStatus) -> str:
    parts = []
    for name, total in sorted(node.resources.items()):
        used = total - node.available.get(name, 0.0)
        if name == "memory":
            parts.append(f"{size(round(used))} of {size(round(total))} memory reserved")
        else:
            parts.append(f"{used:g} of {total:g} {name}")
    return ", ".join(parts)
