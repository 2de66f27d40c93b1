"""``python -m benchmarks.simulate``: the real schedulers of large clusters, on a virtual clock.

What is around the schedulers is simulated; see ``raydask.testing.large_cluster``.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from raydask.testing import workloads
from raydask.testing.large_cluster import LargeCluster, Settings
from raydask.testing.workloads import Duration, Workload

_LIMIT = 100.0
"""A run is given up after so many times the lower bound, and as many seconds."""

Builder = Callable[[int, int, Duration, int], Workload]
"""From about how many tasks, how many CPUs, durations and sizes to a workload."""


def _stencil(tasks: int, cpus: int, duration: Duration, size: int) -> Workload:
    width = min(cpus, max(1, tasks // 2))
    return workloads.stencil(width, max(2, tasks // width), duration, size)


def _dask_array(tasks: int, cpus: int, duration: Duration, size: int) -> Workload:
    from benchmarks.simulated_dask import array_sum

    return array_sum(tasks, duration, size)


def _dask_shuffle(tasks: int, cpus: int, duration: Duration, size: int) -> Workload:
    from benchmarks.simulated_dask import dataframe_shuffle

    return dataframe_shuffle(tasks, duration, size)


GRAPHS: dict[str, Builder] = {
    "independent": lambda tasks, cpus, *rest: workloads.independent(tasks, *rest),
    "tree": lambda tasks, cpus, *rest: workloads.tree(tasks, *rest, 2),
    "tree16": lambda tasks, cpus, *rest: workloads.tree(tasks, *rest, 16),
    "stencil": _stencil,
    "map-reduce": lambda tasks, cpus, *rest: workloads.map_reduce(
        tasks, max(1, tasks // 100), *rest
    ),
    "shuffle": lambda tasks, cpus, *rest: workloads.shuffle(max(1, int(tasks**0.5)), *rest),
    "dask-array": _dask_array,
    "dask-shuffle": _dask_shuffle,
}


def simulate(settings: Settings, some: list[Workload]) -> dict[str, Any]:
    """Run workloads, one for each home, and return what came of it."""
    cpus = settings.nodes * settings.cpus
    tasks = sum(map(len, some))
    shared = sum(workload.work for workload in some) / cpus
    bound = max(shared, *(workload.lower_bound(cpus) for workload in some))
    simple_bound = max(shared, *(workload.simple_bound(cpus) for workload in some))
    settings.death_span = bound
    began = time.perf_counter()
    cluster = LargeCluster(settings, some)
    cluster.run(_LIMIT * (bound + 1.0))
    wall = time.perf_counter() - began
    drivers = cluster.drivers
    makespan = max(driver.ended for driver in drivers) - min(driver.began for driver in drivers)
    homes = sum(driver.node.seconds for driver in drivers)
    others = sum(node.seconds for node in cluster.nodes.values()) - homes
    listed = workloads.list_schedule(some[0], cpus) if len(some) == 1 else None
    return {
        "all_cpus": cpus,
        "tasks": tasks,
        "makespan": makespan,
        "bound": bound,
        "to_bound": makespan / bound,
        "simple_bound": simple_bound,
        "to_simple_bound": makespan / simple_bound,
        "submission": max(driver.submitted - driver.began for driver in drivers),
        "to_list_schedule": None if listed is None else makespan / listed,
        "runs": cluster.runs,
        "failed": sum(driver.failed for driver in drivers),
        "pulled_bytes": cluster.pulled,
        "home_microseconds": homes / tasks * 1e6,
        "others_microseconds": others / tasks * 1e6,
        "global_microseconds": cluster.global_seconds / tasks * 1e6,
        "fairness": jain(cluster.shares),
        "wall": wall,
        "messages": {name: count / tasks for name, count in cluster.messages.most_common()},
    }


def jain(shares: list[float]) -> float:
    """Return Jain's index of fairness: 1 if all have the same, 1/n if one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


@click.command()
@click.option("--nodes", default="100", show_default=True, help="Comma-separated.")
@click.option("--cpus", default=16, show_default=True, help="Of each node.")
@click.option("--tasks", default=100_000, show_default=True, help="In all, about.")
@click.option("--graph", default="independent", help=f"Comma-separated, from: {', '.join(GRAPHS)}.")
@click.option("--homes", default=1, show_default=True, help="Nodes with a driver that submits.")
@click.option("--deaths", default=0, show_default=True, help="Nodes that die at random times.")
@click.option("--seconds", default=1.0, show_default=True, help="That a task takes, on average.")
@click.option("--size", default=8, show_default=True, help="Bytes of a result.")
@click.option("--batch", default=500, show_default=True, help="Tasks of a submission.")
@click.option("--latency", default=0.0002, show_default=True, help="Seconds, between two nodes.")
@click.option("--bandwidth", default=1.25e9, show_default=True, help="Bytes a second, of a node.")
@click.option("--seed", default=0, show_default=True)
@click.option("--processes", default=1, show_default=True, help="Runs at once, if there are many.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Also write the figures to this file.",
)
def main(nodes: str, graph: str, processes: int, json_file: Path | None, **options: Any) -> None:
    """Simulate large clusters and say how well they are used."""
    names = [name.strip() for name in graph.split(",")]
    unknown = [name for name in names if name not in GRAPHS]
    if unknown:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}", param_hint="--graph")
    runs = [{**options, "graph": name, "nodes": int(n)} for name in names for n in nodes.split(",")]
    reports = []
    with ProcessPoolExecutor(processes) if processes > 1 else nullcontext() as pool:
        for report in pool.map(run, runs) if pool is not None else map(run, runs):
            show(report)
            reports.append(report)
    if json_file is not None:
        json_file.write_text(json.dumps(reports, indent=1) + "\n")


def run(options: dict[str, Any]) -> dict[str, Any]:
    """Do one run and return its figures, with what it was."""
    settings = Settings(
        options["nodes"],
        options["cpus"],
        latency=options["latency"],
        bandwidth=options["bandwidth"],
        batch=options["batch"],
        deaths=options["deaths"],
        seed=options["seed"],
    )
    homes = options["homes"]
    tasks, cpus = options["tasks"] // homes, settings.nodes * settings.cpus // homes
    some = []
    for seed in range(options["seed"], options["seed"] + homes):
        duration = workloads.durations(options["seconds"], seed)
        some.append(GRAPHS[options["graph"]](tasks, cpus, duration, options["size"]))
    # Nearly all that is made here lives to the end: looking through it finds nothing.
    gc.disable()
    try:
        return {**options, **simulate(settings, some)}
    finally:
        gc.enable()


def show(figures: dict[str, Any]) -> None:
    """Print the figures."""
    click.echo(
        f"{figures['graph']}: {figures['tasks']:,} tasks, {figures['runs']:,} runs, "
        f"{figures['failed']} errors, {figures['nodes']} nodes, {figures['all_cpus']:,} CPUs"
    )
    listed = figures["to_list_schedule"]
    click.echo(
        f"makespan {figures['makespan']:.3f} s: {figures['to_simple_bound']:.3f} of "
        f"max(critical path, work / CPUs), {figures['to_bound']:.3f} of the lower bound"
        + ("" if listed is None else f", {listed:.3f} of an ideal list schedule")
        + f"; all had been submitted after {figures['submission']:.3f} s"
    )
    click.echo(
        f"microseconds of core for each task: home {figures['home_microseconds']:.1f}, "
        f"other nodes {figures['others_microseconds']:.1f}, "
        f"global scheduler {figures['global_microseconds']:.1f}"
    )
    click.echo(
        f"pulled {figures['pulled_bytes'] / 1e6:,.0f} MB, Jain's index {figures['fairness']:.4f}, "
        f"{figures['wall']:.1f} s of real time"
    )
    for name, count in figures["messages"].items():
        click.echo(f"  {name:16} {count:8.4f} for each task")


if __name__ == "__main__":
    main()
