"""A report on memory as tables, for people."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raydask.wire.memory import (
    Holder,
    MemoryReport,
    NodeMemory,
    ObjectMemory,
    ObjectState,
    ProcessMemory,
)

PLAIN_WIDTH = 160
"""Characters of a line where there is no terminal to say how many."""
LEAST_WIDTH = 110
"""With fewer, the tables' columns would be too narrow to be read."""

_ID_WIDTH = 40
_SHOWN = 5
"""How many of an object's holders a table shows."""
_UNITS = ("B", "kB", "MB", "GB")


def as_text(report: MemoryReport, *, nodes: int = 1) -> str:
    """Return the report without colours; see `print_report`."""
    text = io.StringIO()
    print_report(Console(file=text, width=PLAIN_WIDTH, color_system=None), report, nodes=nodes)
    return text.getvalue()


def print_report(console: Console, report: MemoryReport, *, nodes: int = 1) -> None:
    """Print, for each node, its totals, its processes and its objects.

    Parameters
    ----------
    console : Console
    report : MemoryReport
    nodes : int
        How many the cluster has.
    """
    if nodes > len(report.nodes):
        shown = _count(len(report.nodes), "node")
        console.print(
            Text(
                f"{shown} of the {nodes} of its cluster; the others tell of their memory on their "
                "own machines"
            ),
            soft_wrap=True,
        )
    for node in report.nodes:
        for line in _totals(node):
            console.print(Text(line), soft_wrap=True)
        console.print()
        console.print(_processes(node.processes))
        console.print()
        console.print(_objects(node))


def _totals(node: NodeMemory) -> Iterable[str]:
    yield f"node {node.node}, session {node.session}"
    yield (
        f"  object store    {size(node.used)} of {size(node.capacity)} used: "
        f"{size(node.sealed)} in objects, {size(node.unsealed)} being written or kept to write in"
    )
    yield f"  on disk         {size(node.spilled)} in {_count(node.spilled_files, 'file')}"
    yield (
        f"  node's memory   {size(node.inline)} in small values and errors, "
        f"{size(node.arguments)} in arguments of {_count(node.tasks, 'task')}"
    )
    objects = sum(total.count for total in node.totals.values())
    parts = [
        f"{total.count:,} {_where(state)} ({size(total.size)})"
        for state, total in node.totals.items()
    ]
    yield f"  objects         {objects:,}" + (f": {', '.join(parts)}" if parts else "")


def _processes(processes: list[ProcessMemory]) -> Table:
    table = Table(title="Processes", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("process")
    table.add_column("pid", justify="right")
    table.add_column("runs", overflow="fold")
    table.add_column("private", justify="right")
    table.add_column("holds", justify="right")
    table.add_column("reads in shared memory", justify="right")
    for each in processes:
        table.add_row(
            each.role,
            str(each.pid),
            Text(each.name),
            size(each.private),
            f"{each.held:,} ({size(each.held_bytes)})" if each.held else "",
            f"{each.pinned:,} ({size(each.pinned_bytes)})" if each.pinned else "",
        )
    return table


def _objects(node: NodeMemory) -> Table:
    total = sum(each.count for each in node.totals.values())
    shown = len(node.objects)
    title = "Objects" if shown == total else f"Objects, {shown:,} of {total:,}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("object", width=_ID_WIDTH, overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("where")
    table.add_column("made by", overflow="fold")
    table.add_column("held by", overflow="fold")
    for each in node.objects:
        table.add_row(
            Text(f"{each.id}\n{each.call_site}" if each.call_site else each.id),
            size(each.size),
            _where(each.state),
            Text(each.made_by),
            Text("\n".join(_held_by(each))),
        )
    return table


def _held_by(each: ObjectMemory) -> Iterable[str]:
    """Yield the holders and, first of all, those that read the object where it is."""
    readers = list(dict.fromkeys(each.pinned_by))
    others = [holder for holder in each.holders if holder not in readers]
    for holder in readers[:_SHOWN]:
        yield f"{in_words(holder)}, which reads it"
    for holder in others[:_SHOWN]:
        yield in_words(holder)
    unlisted = each.holds - len(each.holders)
    more = len(readers[_SHOWN:]) + len(others[_SHOWN:]) + unlisted
    if more:
        yield f"and {more:,} more"


def in_words(holder: Holder) -> str:
    """Return what holds an object, in words."""
    name = holder.name
    if holder.role == "driver":
        return f"driver {holder.pid}"  # its program is in the table of processes
    if holder.role == "worker":
        return f"worker {holder.pid} ({name})" if name else f"worker {holder.pid}"
    if holder.role == "node":
        return f"node {name}"
    if holder.role == "object":
        return f"object {holder.id}"
    if holder.role == "function":
        return f"closure of {name}"
    if holder.role == "actor":
        return f"detached actor {name}"
    where = f" in worker {holder.pid}" if holder.pid else ""
    what = "argument" if holder.role == "argument" else "inside an argument"
    return f"{what} of {name}{where}"


def size(count: int) -> str:
    """Return bytes for people: three figures and a unit of 1,000s."""
    amount = float(count)
    unit = 0
    while amount >= 999.5 and unit < len(_UNITS) - 1:
        amount /= 1000
        unit += 1
    if unit == 0:
        return f"{count} B"
    digits = 0 if amount >= 99.95 else 1 if amount >= 9.995 else 2
    return f"{amount:,.{digits}f} {_UNITS[unit]}"


def _where(state: ObjectState) -> str:
    return state.replace("_", " ")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
