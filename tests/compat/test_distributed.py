"""Dask clusters that host raydask's nodes, and nodes that are scaled as Dask's workers are."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")

from distributed import Client, LocalCluster

import raydask
from raydask.compat.distributed import RaydaskCluster, start, stop
from raydask.compat.distributed.adaptivity import idle_nodes, nodes_wanted
from raydask.compat.distributed.node_process import NodeProcess
from raydask.compat.distributed.plugins import NODE_NAME, NodePlugin
from raydask.errors import ClusterUnavailableError, StartError, UsageError
from raydask.session_folder import running_sessions
from raydask.util import NodeStatus
from tests.cluster.probes import eventually

STORE = 100 << 20
SECONDS = 60.0


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[LocalCluster]:
    """Run a Dask cluster of three workers with one thread each."""
    with LocalCluster(
        n_workers=3,
        threads_per_worker=1,
        memory_limit="1 GiB",
        dashboard_address=None,
        local_directory=str(tmp_path),
    ) as cluster:
        yield cluster


@pytest.fixture
def client(hosts: LocalCluster) -> Iterator[Client]:
    with Client(hosts) as made:
        yield made


def cpus() -> float:
    return raydask.cluster_resources().get("CPU", 0.0)


def nothing_runs() -> bool:
    return not running_sessions()


@raydask.remote(max_retries=0)
def made(number: int) -> np.ndarray:
    """Return values of several sizes: in messages, in the store, and large."""
    time.sleep(0.05)
    return np.full((1, 100, 20_000, 100_000)[number % 4], number)


def assert_all_there(refs: list[raydask.ObjectRef]) -> None:
    for number, value in enumerate(raydask.get(refs, timeout=SECONDS)):
        assert (value == number).all()
        assert len(value) == (1, 100, 20_000, 100_000)[number % 4]


# --- hosted by a Dask cluster ---------------------------------------------------------------


def test_nodes_follow_the_dask_cluster_and_nothing_is_lost(
    hosts: LocalCluster, client: Client
) -> None:
    with raydask.init(start(client, object_store_memory=STORE)):
        eventually(lambda: cpus() == 3, seconds=SECONDS)
        refs = [made.remote(number) for number in range(200)]
        raydask.wait(refs, num_returns=40, timeout=SECONDS)
        hosts.scale(5)
        eventually(lambda: cpus() == 5, seconds=SECONDS)
        hosts.scale(2)
        assert_all_there(refs)
        eventually(lambda: cpus() == 2, seconds=SECONDS)
        assert_all_there(refs)
    stop(client)
    eventually(nothing_runs, seconds=SECONDS)
    assert client.submit(sum, [1, 2]).result() == 3


def test_closing_the_dask_cluster_ends_all(hosts: LocalCluster, client: Client) -> None:
    start(client, object_store_memory=STORE)
    assert len(running_sessions()) == 4
    client.close()  # the other way round a client leaves its event loop
    hosts.close()
    eventually(nothing_runs, seconds=SECONDS)


def test_a_second_start_finds_the_first(client: Client) -> None:
    address = start(client, object_store_memory=STORE)
    assert start(client) == address
    assert len(running_sessions()) == 4
    stop(client)
    stop(client)
    assert nothing_runs()


def test_a_stop_while_a_worker_is_closing(hosts: LocalCluster, client: Client) -> None:
    """Its node has work for a while, so that the worker waits for it, without its plugin."""
    with raydask.init(start(client, object_store_memory=STORE)):
        eventually(lambda: cpus() == 3, seconds=SECONDS)
        refs = [nap.remote() for _ in range(3)]
        eventually(lambda: raydask.available_resources().get("CPU", 0.0) == 0, seconds=SECONDS)
        hosts.scale(2)
        eventually(lambda: not all(client.run(has_plugin).values()), seconds=SECONDS)
        stop(client)
        del refs
    eventually(nothing_runs, seconds=SECONDS)
    assert client.submit(sum, [1, 2]).result() == 3


@raydask.remote(max_retries=0)
def nap() -> None:
    time.sleep(5)


def has_plugin(dask_worker: Any) -> bool:
    return NODE_NAME in dask_worker.plugins


def test_a_node_has_its_workers_share(client: Client) -> None:
    with raydask.init(start(client, object_store_memory=STORE)):
        eventually(lambda: cpus() == 3, seconds=SECONDS)
        offered = [each["resources"] for each in raydask.nodes() if each["resources"].get("CPU")]
        assert [each["CPU"] for each in offered] == [1, 1, 1]
        assert all(each["memory"] < 1 << 30 for each in offered)
    stop(client)


def test_a_worker_that_is_killed_leaves_its_node_time_to_leave(client: Client) -> None:
    with raydask.init(start(client, object_store_memory=STORE)):
        eventually(lambda: cpus() == 3, seconds=SECONDS)
        refs = [made.remote(number) for number in range(60)]
        raydask.wait(refs, num_returns=20, timeout=SECONDS)
        before = {each["node"] for each in raydask.nodes()}
        pid = next(iter(client.run(os.getpid).values()))
        os.kill(pid, signal.SIGKILL)
        assert_all_there(refs)
        # The nanny starts another worker, and with it comes another node.
        eventually(lambda: {each["node"] for each in raydask.nodes()} - before, seconds=SECONDS)
        eventually(lambda: cpus() == 3, seconds=SECONDS)
    stop(client)


def test_one_node_a_host_moves_to_another_worker(hosts: LocalCluster, client: Client) -> None:
    with raydask.init(start(client, per_host=True, object_store_memory=STORE)):
        eventually(lambda: len(raydask.nodes()) == 2, seconds=SECONDS)
        (first,) = [each["node"] for each in raydask.nodes() if each["resources"].get("CPU")]
        owner = next(address for address, has in client.run(_has_node).items() if has)
        client.retire_workers([owner])
        eventually(lambda: _nodes_with_cpus() not in ([], [first]), seconds=SECONDS)
        eventually(lambda: len(_nodes_with_cpus()) == 1, seconds=SECONDS)
    stop(client)
    eventually(nothing_runs, seconds=SECONDS)


def _has_node(dask_worker: Any) -> bool:
    (plugin,) = [each for each in dask_worker.plugins.values() if isinstance(each, NodePlugin)]
    return plugin.has_node


def _nodes_with_cpus() -> list[int]:
    return [each["node"] for each in raydask.nodes() if each["resources"].get("CPU")]


def test_a_program_on_a_machine_of_its_own_gets_a_node_without_cpus(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(session: str) -> list[NodeStatus]:
        raise ClusterUnavailableError(f"{session} is on another machine")

    monkeypatch.setattr("raydask.compat.distributed.hosting.cluster_status", elsewhere)
    start(client, object_store_memory=STORE)
    assert len(running_sessions()) == 5
    stop(client)
    eventually(nothing_runs, seconds=SECONDS)


@pytest.mark.parametrize("what", ["head", "nodes"])
def test_a_failed_start_leaves_nothing_behind(
    hosts: LocalCluster, client: Client, what: str
) -> None:
    if what == "nodes":
        client.run(_spoil, workers=list(hosts.scheduler_info["workers"])[:1])
        host = None
    else:
        host = "203.0.113.1"
    with pytest.raises(StartError, match="could not be started"):
        start(client, host=host, object_store_memory=STORE)
    assert nothing_runs()
    assert client.run_on_scheduler(_plugin_names) == []


def _spoil() -> None:
    os.environ["RAYDASK_INLINE_LIMIT"] = "nonsense"


def _plugin_names(dask_scheduler: Any) -> list[str]:
    names = [*dask_scheduler.plugins, *dask_scheduler.worker_plugins]
    return [name for name in names if "raydask" in str(name)]


def test_workers_that_are_threads_of_this_process_host_nodes_too(tmp_path: Path) -> None:
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            dashboard_address=None,
            local_directory=str(tmp_path),
        ) as hosts,
        Client(hosts) as client,
    ):
        with raydask.init(start(client, object_store_memory=STORE)):
            eventually(lambda: cpus() == 2, seconds=SECONDS)
            assert raydask.get(made.remote(4), timeout=SECONDS) == [4]
        stop(client)
    assert nothing_runs()


def test_an_asynchronous_client_is_refused() -> None:
    class Asynchronous:
        asynchronous = True

    with pytest.raises(UsageError):
        start(Asynchronous())  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [start, stop])
def test_what_is_no_client_is_refused(call: Any) -> None:
    with pytest.raises(UsageError, match=r"client is a distributed\.Client, not None"):
        call(None)


@pytest.mark.parametrize("name", ["drain_seconds", "start_timeout"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1", None])
def test_what_are_no_seconds_is_refused_before_anything_starts(
    client: Client, name: str, value: Any
) -> None:
    with pytest.raises(UsageError, match=f"{name} must be a number of seconds"):
        start(client, **{name: value})
    assert nothing_runs()


def test_a_stop_where_nothing_is_hosted_logs_nothing(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    stop(client)
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


# --- RaydaskCluster -------------------------------------------------------------------------


def test_a_cluster_of_nodes_is_scaled_up_and_down() -> None:
    with (
        RaydaskCluster(2, memory_per_node="1 GiB", object_store_memory=STORE) as cluster,
        raydask.init(cluster.address),
    ):
        eventually(lambda: cpus() == 2, seconds=SECONDS)
        refs = [made.remote(number) for number in range(120)]
        cluster.scale(4)
        cluster.wait_for_workers(4, timeout=SECONDS)
        eventually(lambda: cpus() == 4, seconds=SECONDS)
        cluster.scale(1)
        assert_all_there(refs)
        eventually(lambda: len(cluster.scheduler_info["workers"]) == 1, seconds=SECONDS)
        eventually(lambda: cpus() == 1, seconds=SECONDS)
        assert_all_there(refs)
    assert nothing_runs()


def test_a_cluster_of_nodes_adapts_to_what_there_is_to_do() -> None:
    with RaydaskCluster(memory_per_node="1 GiB", object_store_memory=STORE) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="100ms", wait_count=2)
        with raydask.init(cluster.address):
            refs = [made.remote(number) for number in range(60)]
            assert_all_there(refs)
            eventually(lambda: cluster.scheduler_info["workers"] == {}, seconds=SECONDS)
            assert_all_there(refs)
    assert nothing_runs()


def test_the_widgets_show_nodes_as_workers() -> None:
    with RaydaskCluster(
        1, cpus_per_node=2, memory_per_node="1 GiB", object_store_memory=STORE
    ) as cluster:
        assert "workers=1, threads=2, memory=1.00 GiB" in repr(cluster)
        assert "Total threads" in cluster._repr_html_()
        assert (cluster.plan, cluster.requested, cluster.observed) == ({0}, {0}, {0})


def test_a_node_that_dies_is_no_worker_any_more() -> None:
    with RaydaskCluster(1, memory_per_node="1 GiB", object_store_memory=STORE) as cluster:
        (info,) = cluster.scheduler_info["workers"].values()
        raydask_stop(info["local_directory"])
        eventually(lambda: cluster.scheduler_info["workers"] == {}, seconds=SECONDS)
    assert nothing_runs()


def raydask_stop(folder: str) -> None:
    from raydask.node.stopping import stop_sessions

    stop_sessions(folder)


@pytest.mark.parametrize("what", ["head", "nodes"])
def test_a_cluster_of_nodes_that_cannot_start_leaves_nothing_behind(what: str) -> None:
    options: dict[str, Any] = {"host": "203.0.113.1"} if what == "head" else {}
    if what == "nodes":
        options["launch"] = ("/usr/bin/env", "RAYDASK_INLINE_LIMIT=nonsense")
    with pytest.raises((StartError, RuntimeError), match="could not be started|failed to start"):
        RaydaskCluster(1, object_store_memory=STORE, **options)
    eventually(nothing_runs, seconds=SECONDS)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (("false",), "could not be started: it ended with exit code 1"),
        (("no-such-command",), "could not be started: .*no-such-command"),
    ],
)
def test_a_launch_that_ends_at_once_says_so(launch: tuple[str, ...], message: str) -> None:
    process = NodeProcess([], "secret", drain_seconds=None, launch=launch)
    with pytest.raises(StartError, match=message):
        process.start(SECONDS)


def test_a_node_that_is_not_up_in_time_is_ended() -> None:
    process = NodeProcess([], "secret", drain_seconds=None, launch=("sh", "-c", "read end"))
    with pytest.raises(StartError, match=r"it was not up after 0\.2 s"):
        process.start(0.2)


def test_a_number_of_nodes_that_cannot_be_is_refused() -> None:
    for count in (-1, 1.5, True):
        with pytest.raises(UsageError, match="n_nodes must be a whole number"):
            RaydaskCluster(count)  # type: ignore[arg-type]
    with RaydaskCluster(0, object_store_memory=STORE) as cluster:
        cluster.adapt(minimum=0, maximum=1)
        with pytest.raises(UsageError, match="n must be a whole number"):
            cluster.scale(-1)
    assert nothing_runs()


# --- how many nodes are wanted --------------------------------------------------------------


def status(node: int, total: float, free: float, queued: int = 0, infeasible: int = 0) -> Any:
    return NodeStatus(
        node, True, {"CPU": total}, {"CPU": free}, queued=queued, infeasible=infeasible
    )


def test_running_and_waiting_tasks_want_nodes() -> None:
    nodes = [status(1, 0, 0, queued=0, infeasible=3), status(2, 4, 1, queued=2)]
    assert nodes_wanted(nodes, 4) == 2
    assert nodes_wanted(nodes, 1) == 8
    assert nodes_wanted([], 1) == 0


def test_a_node_with_neither_running_nor_waiting_tasks_is_idle() -> None:
    nodes = [status(1, 4, 4), status(2, 4, 3.5), status(3, 4, 4, queued=1)]
    assert idle_nodes(nodes) == {1}
