"""The command ``raydask``: looks after sessions from a terminal.

Exit codes: 0 when it did what it was asked, 1 when it could not (the reason is on standard
error), 2 when it was asked for something that makes no sense.
"""

from __future__ import annotations

import sys
from typing import get_args

import click
import msgspec

from raydask.errors import RaydaskError
from raydask.util import memory_report
from raydask.version import VERSION
from raydask.wire.memory import Order


@click.group()
@click.version_option(VERSION, prog_name="raydask")
def main() -> None:
    """Look into raydask's sessions on this machine."""


@main.command()
@click.option(
    "--address",
    default="auto",
    envvar="RAYDASK_ADDRESS",
    show_envvar=True,
    help="The session's folder; default: this user's latest session.",
)
@click.option(
    "--sort",
    type=click.Choice(get_args(Order)),
    default="size",
    show_default=True,
    help="List the largest objects first, the oldest, or those that most hold.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="How many objects to list; the totals are of all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all that is known.")
def memory(address: str, sort: Order, limit: int, as_json: bool) -> None:
    """Say where the memory is: the objects, where they lie, who holds and who reads them."""
    try:
        report = memory_report(address, sort=sort, limit=limit)
    except RaydaskError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(msgspec.json.encode(report))
        return
    from rich.console import Console

    from raydask.driver.memory_tables import LEAST_WIDTH, PLAIN_WIDTH, print_report

    console = Console()
    console.width = max(console.width, LEAST_WIDTH) if sys.stdout.isatty() else PLAIN_WIDTH
    print_report(console, report)
