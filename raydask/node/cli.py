"""The command ``raydask``: starts, looks after and ends sessions from a terminal.

Exit codes: 0 when it did what it was asked, 1 when it could not (the reason is on standard
error), 2 when it was asked for something that makes no sense.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
import msgspec

from raydask.driver import launcher
from raydask.driver.cluster_view import nodes_of_cluster, view_cluster
from raydask.driver.observer import drain_node, number_of_node
from raydask.errors import ClusterUnavailableError, RaydaskError
from raydask.node.stopping import stop_sessions
from raydask.util import memory_report
from raydask.version import VERSION
from raydask.wire.endpoint import parse_endpoint
from raydask.wire.handshake import versions_here
from raydask.wire.memory import Order
from raydask.wire.versions import table

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., None])


class _Whole(click.IntRange):
    """A whole number, which click calls a valid integer range where one cannot be read."""

    name = "whole number"


class _Amount(click.FloatRange):
    """The same of a number; nan is in no range, and infinity in none that is meant."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)
        return number


_PORT = _Whole(0, 65535)
_drain_seconds = click.option(
    "--drain-seconds",
    type=_Amount(min=0),
    default=60.0,
    show_default=True,
    help="After which a node that drains goes with what there is.",
)


def _at_address(text: str) -> Callable[[F], F]:
    return click.option(
        "--address",
        default="auto",
        envvar="RAYDASK_ADDRESS",
        show_envvar=True,
        help=f"{text}; default: this user's latest session.",
    )


@contextmanager
def _errors_shown() -> Iterator[None]:
    """Show an error of raydask as its message alone."""
    try:
        yield
    except RaydaskError as error:
        raise click.ClickException(str(error)) from error


@click.group()
@click.version_option(VERSION, prog_name="raydask")
def main() -> None:
    """Start raydask's sessions on this machine, look into them, end them."""


@main.command()
@click.option("--head", is_flag=True, help="Start the first node of a cluster, with its Redis.")
@click.option(
    "--address", metavar="HOST:PORT", help="Join the cluster whose head listens there, as a node."
)
@click.option(
    "--host",
    help="Address to listen at; default: 127.0.0.1 with --head, else the one that faces the head. "
    "One that other machines reach wants RAYDASK_SECRET to be set.",
)
@click.option("--port", type=_PORT, help="Port at which a head listens; default: any that is free.")
@click.option(
    "--link-port",
    type=_PORT,
    default=0,
    help="Port for other nodes' messages; default: any that is free.",
)
@click.option(
    "--data-port",
    type=_PORT,
    default=0,
    help="Port for other nodes to fetch objects; default: any that is free.",
)
@click.option("--num-cpus", type=_Amount(min=0), help="Default: those there are.")
@click.option(
    "--num-gpus",
    type=_Amount(min=0),
    help="Default: those that CUDA_VISIBLE_DEVICES names.",
)
@click.option("--resources", default="{}", help="Custom ones, as JSON: '{\"license\": 1}'.")
@click.option("--labels", default="{}", help='Of the node, as JSON: \'{"rack": "7"}\'.')
@click.option(
    "--object-store-memory",
    type=_Whole(min=0),
    help="Bytes; default: a share of the memory.",
)
@click.option(
    "--num-redis-shards",
    type=_Whole(1, 64),
    help="How many Redis servers hold the control state of a head; default: 1.",
)
@click.option(
    "--redis-address",
    metavar="URL,...",
    help="Redis servers that hold the control state of a head instead of its own: "
    "redis://host:port/db, rediss:// for TLS, unix:///path. Their password, if it is not in the "
    "URL, is in RAYDASK_REDIS_PASSWORD.",
)
@click.option("--block", is_flag=True, help="Stay until the node ends, and end it when ended.")
@click.option(
    "--drain",
    is_flag=True,
    help="With --block: on SIGTERM let the node finish what it does and hand over what it keeps.",
)
@_drain_seconds
@click.option(
    "--until-eof",
    is_flag=True,
    help="With --block: take the end of standard input for SIGTERM, as when who started it dies.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what runs in one line of JSON.")
def start(
    head: bool,
    address: str | None,
    host: str | None,
    port: int | None,
    link_port: int,
    data_port: int,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: str,
    labels: str,
    object_store_memory: int | None,
    num_redis_shards: int | None,
    redis_address: str | None,
    block: bool,
    drain: bool,
    drain_seconds: float,
    until_eof: bool,
    as_json: bool,
) -> None:
    """Start a node that stays until `raydask stop`: a cluster's first, or one more."""
    _refuse_contradictions(head, address, port, num_redis_shards, redis_address)
    if (drain or until_eof) and not block:
        raise click.UsageError(
            "--drain and --until-eof go with --block; `raydask stop --drain` lets a node leave"
        )
    amounts = _json_option("--resources", resources, dict[str, float], "numbers")
    texts = _json_option("--labels", labels, dict[str, str], "texts")
    with _errors_shown():
        network = launcher.Network(
            None if address is None else parse_endpoint(address),
            host or ("127.0.0.1" if head else ""),
            port or 0,
            link_port,
            data_port,
            detached=not block,
            by_command=True,
        )
        options = launcher.session_options(
            num_cpus,
            num_gpus,
            amounts,
            object_store_memory,
            num_redis_shards or 1,
            labels=texts,
            network=network,
            redis_address=redis_address or "",
        )
        if block:
            _heed_sigterm()
        if until_eof:
            _heed_eof()
        supervised = launcher.Supervised(options)
        supervised.start()
        _say_what_runs(options.folder, head, as_json=as_json)
    if block:
        _stay(supervised, options.folder, drain_seconds if drain else None)
    else:
        supervised.let_go()


def _refuse_contradictions(
    head: bool,
    address: str | None,
    port: int | None,
    num_redis_shards: int | None,
    redis_address: str | None,
) -> None:
    if head == (address is not None):
        raise click.UsageError(
            "say --head to start the first node of a cluster, or --address HOST:PORT to add one"
        )
    of_head = (port, num_redis_shards, redis_address)
    if address is not None and any(option is not None for option in of_head):
        raise click.UsageError("--port, --num-redis-shards and --redis-address are for a head")
    if redis_address is not None and num_redis_shards is not None:
        raise click.UsageError("the URLs of --redis-address say how many servers there are")


def _json_option(name: str, text: str, kind: type[T], of: str) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise click.BadParameter(
            f"{text!r} is not a JSON object of {of}: {error}", param_hint=name
        ) from error


def _say_what_runs(folder: str, head: bool, *, as_json: bool) -> None:
    endpoint = launcher.endpoint_of_session(folder)
    if as_json:
        node = number_of_node(folder)
        line = msgspec.json.encode({"node": node, "session": folder, "address": endpoint})
        click.echo(line)
        return
    if head:
        click.echo(f"raydask runs in {folder} and listens at {endpoint}")
        reachable = parse_endpoint(endpoint).reachable
        click.echo(f"  add a node to it:     raydask start --address {reachable}")
    else:
        number = number_of_node(folder)
        click.echo(f"raydask runs in {folder} as node {number} of the cluster at {endpoint}")
    click.echo(f'  join it from Python:  raydask.init("auto"), or raydask.init("{endpoint}")')
    click.echo("  look at it:           raydask status, raydask memory")
    click.echo("  end it:               raydask stop")


def _heed_sigterm() -> None:
    """End this process on SIGTERM, which it would not even hear as the first of a container."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))


def _heed_eof() -> None:
    """Take the end of standard input for SIGTERM."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _stay(supervised: launcher.Supervised, folder: str, drain_seconds: float | None) -> None:
    """Wait until the session ends; end it, or let it leave, if this process is told to end.

    Told to a second time, it ends the session at once.
    """
    try:
        try:
            reason = supervised.wait()
        except SystemExit:
            if drain_seconds is None:
                raise
            _let_leave(folder, drain_seconds)
            reason = supervised.wait()
    finally:
        supervised.stop()
    if reason:
        raise click.ClickException(f"the node has ended: {reason}")


def _let_leave(folder: str, seconds: float) -> None:
    try:
        drain_node(folder, seconds, by_owner=True)
    except ClusterUnavailableError:
        pass  # it ends already


@main.command()
@click.option(
    "--address",
    envvar="RAYDASK_ADDRESS",
    show_envvar=True,
    help="Only this session, or with HOST:PORT those of that cluster on this machine.",
)
@click.option(
    "--drain",
    is_flag=True,
    help="Let them first finish what they do, and hand over what they keep for others.",
)
@_drain_seconds
def stop(address: str | None, drain: bool, drain_seconds: float) -> None:
    """End the sessions that `raydask start` began; those of programs end with them."""
    with _errors_shown():
        stopped = stop_sessions(address, drain_seconds if drain else None, click.echo)
    for folder in stopped:
        click.echo(f"ended the session in {folder}")
    if not stopped:
        click.echo("no session that `raydask start` began runs on this machine")


@main.command()
@_at_address(
    "The session's folder, or HOST:PORT of a cluster that has a node here, or whose secret is in "
    "RAYDASK_SECRET"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all that is known.")
@click.option("--versions", is_flag=True, help="Say which versions of what the nodes run instead.")
def status(address: str, as_json: bool, versions: bool) -> None:
    """Say which nodes there are, what they offer, and what waits."""
    with _errors_shown():
        view = view_cluster(address)
    nodes = view.nodes
    if view.warning:
        click.echo(view.warning, err=True)
    if as_json:
        click.echo(msgspec.json.encode(nodes))
        return
    if versions:
        parties = [(f"node {node.node}", node.versions) for node in nodes if node.session]
        click.echo(table([*parties, ("this command", versions_here())]))
        return
    from raydask.driver.status_table import print_status

    print_status(_console(), nodes)


@main.command()
@_at_address(
    "The session's folder, or HOST:PORT of a cluster that has a node on this machine, which is "
    "the one that is shown"
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
    type=_Whole(min=0),
    default=100,
    show_default=True,
    help="How many objects to list; the totals are of all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all that is known.")
def memory(address: str, sort: Order, limit: int, as_json: bool) -> None:
    """Say where a node's memory is: the objects, where they lie, who holds and who reads them."""
    with _errors_shown():
        report = memory_report(address, sort=sort, limit=limit)
        nodes = 1 if as_json else nodes_of_cluster(address)
    if as_json:
        click.echo(msgspec.json.encode(report))
        return
    from raydask.driver.memory_tables import print_report

    print_report(_console(), report, nodes=nodes)


def _console() -> Console:
    """Return a console with room for the tables; loading it takes a while."""
    from rich.console import Console

    from raydask.driver.memory_tables import LEAST_WIDTH, PLAIN_WIDTH

    console = Console()
    console.width = max(console.width, LEAST_WIDTH) if sys.stdout.isatty() else PLAIN_WIDTH
    return console
