"""Clusters of several nodes: how nodes join, are seen, and end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import raydask
from raydask.cluster_utils import Cluster, ClusterNode
from raydask.errors import ClusterUnavailableError, StartError, UsageError
from raydask.session_folder import running_sessions
from raydask.util import memory_summary
from raydask.version import VERSION
from raydask.wire.blocking_guard import connect_blocking
from raydask.wire.endpoint import parse_endpoint
from raydask.wire.framing import FrameDecoder, encode
from raydask.wire.messages import JoinCluster, Joined
from tests.architecture.source import ROOT
from tests.cluster.probes import (
    connect_redis,
    driver,
    eventually,
    process_named,
    run_driver,
    session_processes,
)
from tests.cluster.test_commands import SECRET, command, start

CERTIFICATES = Path(__file__).parents[1] / "unit" / "wire" / "certificates"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def three() -> Iterator[Cluster]:
    """Run a head and two nodes, which offer 1, 2 and 3 CPUs."""
    with Cluster(num_cpus=1) as cluster:
        cluster.add_node(num_cpus=2, labels={"rack": "7"})
        cluster.add_node(num_cpus=3, resources={"disk": 4})
        cluster.wait_for_nodes()
        yield cluster


def is_gone(folder: str) -> bool:
    return not session_processes(folder) and not os.path.exists(folder)


def listening_ports(folder: str) -> set[int]:
    """Return the TCP ports at which a session's node listens."""
    connections = psutil.Process(process_named(folder, "node").pid).net_connections("tcp")
    return {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}


def ask_to_join(endpoint: str, secret: str, version: str, python: str) -> Joined:
    """Say what a node says that wants to join; return the answer."""
    with connect_blocking(parse_endpoint(endpoint), secret, timeout=5.0) as sock:
        sock.sendall(encode(JoinCluster(version, python)))
        (answer,) = FrameDecoder().feed(sock.recv(1 << 16))
    assert isinstance(answer, Joined)
    return answer


# --- Cluster --------------------------------------------------------------------------------


def test_nodes_come_up_and_every_one_sees_all(three: Cluster) -> None:
    assert [node.number for node in three.list_all_nodes()] == [1, 2, 3]
    for node in three.list_all_nodes():
        with three.connect(node) as context:
            assert (context["node"], context["address"]) == (node.number, node.folder)
            assert raydask.get(raydask.remote(lambda: 5).options(num_cpus=1).remote()) == 5
            eventually(lambda: len(raydask.nodes()) == 3)
            cpus = {each["node"]: each["resources"]["CPU"] for each in raydask.nodes()}
            assert cpus == {1: 1, 2: 2, 3: 3}
            folders = [each.folder for each in three.list_all_nodes()]
            assert [each["session"] for each in raydask.nodes()] == folders
            assert all(each["object_store_memory"] >= 100 << 20 for each in raydask.nodes())
            offered = raydask.cluster_resources()
            assert (offered["CPU"], offered["disk"]) == (6, 4)


def test_the_status_has_all_nodes_with_their_stores_wherever_it_is_asked(three: Cluster) -> None:
    eventually(lambda: all(status.object_store_memory for status in three.status()))
    for node in three.list_all_nodes():
        seen = json.loads(command("status", "--address", node.folder, "--json").stdout)
        assert [each["node"] for each in seen] == [1, 2, 3]
        assert [each["session"] for each in seen] == [n.folder for n in three.list_all_nodes()]
        assert all(each["object_store_memory"] >= 100 << 20 for each in seen)


def test_labels_are_seen_wherever_it_is_asked(three: Cluster) -> None:
    labels = [{}, {"rack": "7"}, {}]
    assert [status.labels for status in three.status()] == labels
    for node in three.list_all_nodes():
        with three.connect(node):
            eventually(lambda: [each["labels"] for each in raydask.nodes()] == labels)
        seen = json.loads(command("status", "--address", node.folder, "--json").stdout)
        assert [each["labels"] for each in seen] == labels
        assert "rack=7" in command("status", "--address", node.folder).stdout


def test_the_memory_of_one_node_is_said_to_be_that_of_one(three: Cluster) -> None:
    folder = three.worker_nodes[0].folder
    eventually(lambda: "1 node of the 3 of" in command("memory", "--address", folder).stdout)
    with three.connect():
        assert memory_summary().startswith("1 node of the 3 of its cluster")


def test_a_nodes_labels_are_in_the_control_state(three: Cluster) -> None:
    assert three.head_node is not None
    with connect_redis(three.head_node.folder) as client:
        entry = json.loads(eventually(lambda: client.get("node:2")))
    assert entry["labels"] == {"rack": "7"}


def test_what_a_joined_node_does_is_in_the_heads_control_state() -> None:
    with Cluster(num_redis_shards=3) as cluster:
        node = cluster.add_node()
        assert cluster.head_node is not None
        session = cluster.head_node.folder
        with cluster.connect(node) as context:
            key = f"job:{context['job']}"

            def states() -> list[str]:
                found = []
                for shard in range(3):
                    with connect_redis(session, shard) as client:
                        found += [json.loads(text)["state"] for text in client.mget(key) if text]
                return found

            eventually(lambda: states() == ["RUNNING"])
        eventually(lambda: states() == ["FINISHED"])


def test_each_node_listens_twice_and_one_of_a_plain_session_never(three: Cluster) -> None:
    ports = [listening_ports(node.folder) for node in three.list_all_nodes()]
    assert [len(each) for each in ports] == [2, 2, 2]
    assert len(set.union(*ports)) == 6
    with raydask.init(num_cpus=1) as plain:
        assert listening_ports(plain["address"]) == set()


@pytest.mark.parametrize("graceful", [True, False])
def test_a_node_that_is_removed_is_gone_and_the_head_sees_it(
    three: Cluster, graceful: bool
) -> None:
    node = three.worker_nodes[0]
    pids = [process.pid for process in session_processes(node.folder)]
    three.remove_node(node, graceful)
    assert node.pid == 0
    assert is_gone(node.folder)
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    three.wait_for_nodes(8)
    assert [status.node for status in three.status() if status.alive] == [1, 3]
    eventually(lambda: [status.node for status in three.status()] == [1, 3], seconds=15)
    later = three.add_node()
    assert later.number == 4
    three.wait_for_nodes(8)


def test_a_node_whose_supervisor_is_killed_goes_by_itself(three: Cluster) -> None:
    node = three.worker_nodes[0]
    os.kill(node.pid, signal.SIGKILL)
    eventually(lambda: is_gone(node.folder))
    three.remove_node(node)
    three.wait_for_nodes(8)


def test_nodes_come_back_to_another_global_scheduler(three: Cluster) -> None:
    assert three.head_node is not None
    process_named(three.head_node.folder, "global-scheduler").send_signal(signal.SIGKILL)
    three.wait_for_nodes(8)
    with three.connect(three.worker_nodes[1]):
        assert raydask.get(raydask.remote(lambda: 5).remote()) == 5


def test_nodes_end_when_their_head_is_gone_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDASK_HEAD_SECONDS", "0.5")
    with Cluster() as cluster:
        nodes = [cluster.add_node(), cluster.add_node()]
        cluster.wait_for_nodes()
        assert cluster.head_node is not None
        with cluster.connect(nodes[0]):
            ref = raydask.remote(lambda: __import__("time").sleep(60)).remote()
            cluster.head_node.kill()
            with pytest.raises(ClusterUnavailableError):
                raydask.get(ref, timeout=8)
        for node in nodes:
            eventually(lambda node=node: is_gone(node.folder))


def test_two_clusters_at_once_do_not_meet() -> None:
    with Cluster() as one, Cluster(num_cpus=2) as other:
        assert one.address != other.address
        for cluster in (one, other, one):
            cluster.add_node()
        for cluster, count in ((one, 3), (other, 2)):
            cluster.wait_for_nodes()
            assert len(cluster.status()) == count
            with cluster.connect():
                eventually(lambda count=count: len(raydask.nodes()) == count)


def test_a_cluster_ends_with_the_program_that_made_it() -> None:
    source = """
    import time
    from raydask.cluster_utils import Cluster

    cluster = Cluster()
    cluster.add_node()
    cluster.wait_for_nodes()
    for node in cluster.list_all_nodes():
        print(node.folder)
    {end}
    """
    code, out, err = run_driver(source.format(end=""))
    assert (code, err) == (0, "")
    for folder in out.split():
        eventually(lambda folder=folder: is_gone(folder))
    with driver(source.format(end="time.sleep(60)")) as running:
        folders = [running.read_line(), running.read_line()]
        running.kill()
    for folder in folders:
        eventually(lambda folder=folder: is_gone(folder))


def test_shutdown_leaves_the_program_without_a_session() -> None:
    cluster = Cluster()
    folder = cluster.connect()["address"]
    cluster.shutdown()
    cluster.shutdown()
    assert not raydask.is_initialized()
    assert is_gone(folder)


def test_a_cluster_can_begin_without_a_head() -> None:
    with Cluster(initialize_head=False) as cluster:
        with pytest.raises(UsageError, match=r"call add_node\(\)"):
            cluster.connect()
        head = cluster.add_node(resources={"disk": 1})
        assert cluster.head_node is head
        assert cluster.add_node().endpoint == head.endpoint == cluster.address


def test_what_cannot_be_removed_is_told(three: Cluster) -> None:
    assert three.head_node is not None
    with pytest.raises(UsageError, match="or its head"):
        three.remove_node(three.head_node)
    with Cluster() as other, pytest.raises(UsageError, match="not a node of this cluster"):
        assert other.head_node is not None
        three.remove_node(other.head_node)


def test_waiting_for_nodes_ends(three: Cluster) -> None:
    three.worker_nodes[0].stop()
    with pytest.raises(ClusterUnavailableError, match=r"the nodes \[1, 3\] are alive"):
        three.wait_for_nodes(0)


def test_nodes_join_over_encrypted_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, file in (("CERTIFICATE", "node.pem"), ("KEY", "node.key")):
        monkeypatch.setenv(f"RAYDASK_TLS_{name}", str(CERTIFICATES / file))
    monkeypatch.setenv("RAYDASK_TLS_AUTHORITY", str(CERTIFICATES / "authority.pem"))
    with Cluster() as cluster:
        cluster.add_node()
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAYDASK_TLS_CERTIFICATE", str(CERTIFICATES / "stranger.pem"))
        monkeypatch.setenv("RAYDASK_TLS_KEY", str(CERTIFICATES / "stranger.key"))
        with pytest.raises(StartError, match=f"at {cluster.address}"):
            cluster.add_node()
        assert len(running_sessions()) == 2


# --- who may not join -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "python", "message"),
    [("0.0.1", PYTHON, "0.0.1"), (VERSION, "2.7", "2.7")],
)
def test_another_version_is_refused_with_both_named(
    head: tuple[str, str], version: str, python: str, message: str
) -> None:
    joined = ask_to_join(head[1], SECRET, version, python)
    assert message in joined.refusal
    assert (VERSION if version != VERSION else PYTHON) in joined.refusal
    assert ask_to_join(head[1], SECRET, VERSION, PYTHON).refusal == ""


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, str]]:
    """Start a head as if on another machine: its folder and HOST:PORT."""
    with elsewhere() as environment:
        started = start(RAYDASK_SECRET=SECRET, **environment)
        yield started
        command("stop", **environment)
        assert session_processes(started[0]) == []


@contextmanager
def elsewhere() -> Iterator[dict[str, str]]:
    """Give the environment of commands whose sessions are not found here."""
    folder = Path(tempfile.mkdtemp(prefix="m"))
    yield {"TMPDIR": str(folder)}
    folder.rmdir()


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["{}"], {"RAYDASK_SECRET": "x" * 20}, "does not accept this secret"),
        (["{}"], {"RAYDASK_SECRET": "short"}, "16 to 256"),
        (["{}"], {"RAYDASK_SECRET": ""}, "RAYDASK_SECRET is not set"),
        (["127.0.0.1:1"], {"RAYDASK_SECRET": SECRET}, "no cluster answers at 127.0.0.1:1"),
        (["auto"], {"RAYDASK_SECRET": SECRET}, "is not HOST:PORT"),
        (["{}", "--head"], {}, "say --head to start the first node of a cluster, or --address"),
        (["{}", "--port", "1"], {}, "are for a head"),
        (["{}", "--labels", '{"a": 1}'], {}, "not a JSON object of texts"),
        (["{}", "--host", "203.0.113.7"], {"RAYDASK_SECRET": SECRET}, "nothing can listen at 203"),
    ],
)
def test_a_node_that_cannot_join_says_why_and_leaves_nothing(
    head: tuple[str, str], words: list[str], environment: dict[str, str], message: str
) -> None:
    address, *others = words
    result = command("start", "--address", address.format(head[1]), *others, **environment)
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert running_sessions() == []
    assert not list(Path(os.environ["TMPDIR"]).glob("raydask-*/*"))


def test_a_port_that_is_taken_is_named_with_its_option(head: tuple[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--link-port", "--data-port"):
            result = join(head[1], option, str(port))
            assert result.returncode == 1
            assert f"nothing can listen at 127.0.0.1:{port}" in result.stderr
            assert f"--host and {option}" in result.stderr
    assert running_sessions() == []


# --- commands -------------------------------------------------------------------------------


def join(endpoint: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start a node that joins the cluster."""
    small = ("--num-cpus", "1", "--object-store-memory", str(100 << 20))
    secret = {"RAYDASK_SECRET": SECRET, **environment}
    return command("start", "--address", endpoint, *small, *words, **secret)


def joined(endpoint: str, *words: str, **environment: str) -> str:
    """Start a node that joins the cluster; return its folder."""
    result = join(endpoint, *words, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.split()[3]


def test_a_node_joins_and_programs_join_through_it(head: tuple[str, str]) -> None:
    endpoint = parse_endpoint(head[1])
    with pytest.raises(ClusterUnavailableError, match=f"raydask start --address {endpoint}"):
        raydask.init(head[1])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = joined(head[1], "--link-port", str(port))
    try:
        assert port in listening_ports(folder)
        for address in (head[1], f"localhost:{endpoint.port}", "auto", folder):
            with raydask.init(address) as context:
                assert context["address"] == folder
                assert raydask.get(raydask.remote(lambda: 5).remote()) == 5
                eventually(lambda: len(raydask.nodes()) == 2)
    finally:
        result = command("stop")
    assert result.stdout == f"ended the session in {folder}\n"
    assert is_gone(folder)


def test_the_secret_of_a_head_on_this_machine_is_found() -> None:
    folder, endpoint = start(RAYDASK_SECRET="")
    try:
        node = joined(endpoint, RAYDASK_SECRET="")
        code, out, _ = run_driver(f'import raydask; print(raydask.init("{endpoint}")["node"])')
        assert (code, out) == (0, "1\n")  # at the head, where there is one
    finally:
        result = command("stop", "--address", endpoint)
    assert result.stdout == f"ended the session in {node}\nended the session in {folder}\n"
    assert is_gone(node) and is_gone(folder)


@contextmanager
def blocking(endpoint: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a command that stays as long as its node; give it and the node's folder."""
    words = ["start", "--address", endpoint, "--block", "--num-cpus", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "raydask", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAYDASK_SECRET": SECRET, **environment},
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        assert first, process.stderr.read()
        yield process, first.split()[3]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_command_that_blocks_takes_its_node_with_it(
    head: tuple[str, str], number: signal.Signals
) -> None:
    with blocking(head[1]) as (process, folder):
        process.send_signal(number)
        process.communicate(timeout=8)
        eventually(lambda: is_gone(folder))


def test_a_command_that_blocks_ends_when_its_node_is_stopped(head: tuple[str, str]) -> None:
    with blocking(head[1]) as (process, folder):
        assert command("stop").stdout == f"ended the session in {folder}\n"
        _, err = process.communicate(timeout=8)
        assert (process.returncode, err) == (0, "")


def test_a_command_that_blocks_says_why_its_node_has_ended() -> None:
    with elsewhere() as environment:
        folder, endpoint = start(RAYDASK_SECRET=SECRET, **environment)
        with blocking(endpoint, RAYDASK_HEAD_SECONDS="0.5") as (process, node):
            command("stop", "--address", folder, **environment)
            _, err = process.communicate(timeout=8)
            assert process.returncode == 1
            assert "the head of its cluster has been away for 0.5 s" in err
            assert is_gone(node)


def test_status_says_that_the_head_does_not_answer() -> None:
    with elsewhere() as environment:
        folder, endpoint = start(RAYDASK_SECRET=SECRET, **environment)
        node = joined(endpoint)
        try:
            eventually(lambda: "of 2 CPU" in command("status", "--address", node).stdout)
            with raydask.init(node):
                eventually(lambda: len(raydask.nodes()) == 2)
            command("stop", "--address", folder, **environment)
            result = command("status", "--address", node)
            assert "the head of the cluster does not answer: no cluster answers" in result.stderr
            assert "what it does, is not known of node 1" in result.stderr
            assert "1 (not known)" in result.stdout and "2 (not known)" not in result.stdout
        finally:
            command("stop", "--address", node)


def test_a_service_that_is_not_raydask_is_said_to_be_none() -> None:
    def greet() -> None:
        for _ in range(2):
            sock, _ = foreign.accept()
            with sock:
                sock.sendall(b"220 mail.example.org ESMTP")

    with socket.create_server(("127.0.0.1", 0)) as foreign:
        thread = threading.Thread(target=greet)
        thread.start()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        for name in ("start", "status"):
            result = command(name, "--address", address, RAYDASK_SECRET=SECRET)
            assert "does not speak raydask's protocol" in result.stderr
        thread.join()


def test_a_nodes_labels_are_strings() -> None:
    with Cluster() as cluster:
        for labels in ({"a": 1}, ["a"]):
            with pytest.raises(UsageError, match="labels"):
                cluster.add_node(labels=labels)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="resources must be a dict"):
            cluster.add_node(resources=["a"])  # type: ignore[arg-type]


def test_status_from_elsewhere_and_stop_spare_nodes_of_programs(head: tuple[str, str]) -> None:
    with Cluster() as cluster:
        node: ClusterNode = cluster.add_node()
        assert "no session" in command("stop").stdout
        refused = command("stop", "--address", node.folder)
        assert "ends with the program that started it" in refused.stderr
        cluster.wait_for_nodes()


def test_a_node_never_becomes_part_of_another_cluster() -> None:
    with elsewhere() as environment:
        folder, endpoint = start(RAYDASK_SECRET=SECRET, **environment)
        port = str(parse_endpoint(endpoint).port)
        with blocking(endpoint) as (process, node):
            command("stop", "--address", folder, **environment)
            _, again = start("--port", port, RAYDASK_SECRET=SECRET, **environment)
            _, err = process.communicate(timeout=8)
            assert again == endpoint
            assert process.returncode == 1
            assert "the cluster has given this node up" in err
            assert is_gone(node)
        command("stop", **environment)
