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
    """Print what each node offers and has to do, and what no node can have."""
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
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for node in nodes:
        row = _of_known(node) if node.session else _of_unknown(node)
        table.add_row(*map(Text, row))  # what people have named is not rich's markup
    console.print(table)
    infeasible = sum(node.infeasible for node in nodes)
    if infeasible:
        console.print(
            Text(
                f"waiting for nodes that could have them: {infeasible} (tasks and actors fail "
                "after RAYDASK_INFEASIBLE_SECONDS, placement groups wait)"
            ),
            soft_wrap=True,
        )


def _of_known(node: NodeStatus) -> list[str]:
    return [
        str(node.node) if node.alive else f"{node.node} (away)",
        _offered(node),
        f"{size(node.object_store_used)} of {size(node.object_store_memory)}",
        str(node.tasks),
        str(node.queued),
        str(node.workers),
        str(node.drivers),
        node.session,
    ]


def _of_unknown(node: NodeStatus) -> list[str]:
    """Return the row of a node of which there is only what another has last heard."""
    return [f"{node.node} (not known)", _offered(node), "?", "?", "?", "?", "?", "?"]


def _offered(node: NodeStatus) -> str:
    parts = []
    for name, total in sorted(node.resources.items()):
        used = total - node.available.get(name, 0.0)
        if name == "memory":
            parts.append(f"{size(round(used))} of {size(round(total))} memory reserved")
        else:
            parts.append(f"{used:g} of {total:g} {name}")
    shares = ", ".join(parts)
    labels = ", ".join(f"{name}={value}" for name, value in sorted(node.labels.items()))
    return f"{shares}\nlabels: {labels}" if labels else shares
