"""A control state in Redis servers that were there before the cluster and stay after it."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import raydask
from raydask.cluster_utils import Cluster
from raydask.control.redis_server import RedisServer
from raydask.errors import StartError, UsageError
from raydask.session_folder import running_sessions, sessions_root
from tests.cluster.probes import eventually, process_named, session_processes
from tests.cluster.test_commands import command
from tests.contract.test_redis_store import certificate  # noqa: F401  (a fixture)

PASSWORD = "the password of Redis"


class External:
    """Redis servers of somebody else."""

    def __init__(self, folder: Path, count: int) -> None:
        self.servers = [RedisServer(str(folder), shard, PASSWORD) for shard in range(count)]
        self.start()
        for client in self.clients():
            client.set("somebody:else", "stays")
            client.set("task:00", "of another program")
            client.close()

    def start(self) -> None:
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.wait_ready(time.monotonic() + 10)

    @property
    def urls(self) -> str:
        return ",".join(server.url for server in self.servers)

    def clients(self) -> list[redis.Redis]:
        return [
            redis.Redis(unix_socket_path=s.socket_path, password=PASSWORD, decode_responses=True)
            for s in self.servers
        ]

    def held(self) -> set[str]:
        found: set[str] = set()
        for client in self.clients():
            with client:
                found |= set(client.keys("*"))
        return found - {"somebody:else", "task:00"}

    def others_are_there(self) -> bool:
        there = []
        for client in self.clients():
            with client:
                there.append(client.mget("somebody:else", "task:00"))
        return all(each == ["stays", "of another program"] for each in there)

    def close(self) -> None:
        for server in self.servers:
            server.kill()


class TlsFront:
    """A TCP port that speaks TLS, in front of a server that does not."""

    def __init__(self, path: str, context: ssl.SSLContext) -> None:
        self._path = path
        self._context = context
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._told = asyncio.Event()
        server = await asyncio.start_server(self._join, "127.0.0.1", 0, ssl=self._context)
        self.url = f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._told.wait()
        server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._path)
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # whoever was killed did not say goodbye
        finally:
            writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._told.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def external(
    folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[External]:
    """Servers with a password, which is in the environment."""
    monkeypatch.setenv("RAYDASK_REDIS_PASSWORD", PASSWORD)
    found = External(folder, getattr(request, "param", 1))
    yield found
    found.close()


def double(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize("external", [1, 3], indirect=True)
def test_a_cluster_lives_in_it_and_leaves_nothing_of_its_own(external: External) -> None:
    with Cluster(redis_address=external.urls) as cluster:
        node = cluster.add_node()
        cluster.wait_for_nodes()
        with cluster.connect(node) as context:
            task = raydask.remote(double)
            refs = [task.remote(i) for i in range(100)]
            assert raydask.get(refs) == [2 * i for i in range(100)]
            job = context["job"]
            eventually(lambda: any(key.endswith(f":job:{job}") for key in external.held()))
            eventually(lambda: sum(":task:" in key for key in external.held()) >= 100)
        (prefix,) = {":".join(key.split(":")[:2]) for key in external.held()}
        assert prefix.startswith("raydask:")
        assert cluster.head_node is not None
        names = {p.name() for p in session_processes(cluster.head_node.folder)}
        assert not any("redis" in name for name in names)
    assert external.held() == set()
    assert external.others_are_there()


def test_clusters_in_one_redis_do_not_meet(external: External) -> None:
    with Cluster(redis_address=external.urls) as one:
        with Cluster(redis_address=external.urls) as other:
            other.add_node()
            other.wait_for_nodes()
            assert [status.node for status in one.status()] == [1]
            prefixes = {":".join(key.split(":")[:2]) for key in external.held()}
            assert len(prefixes) == 2
        one.add_node()
        one.wait_for_nodes()
        with one.connect():
            assert raydask.get(raydask.remote(double).remote(4)) == 8
    assert external.held() == set()


@pytest.mark.expect_log("control state", required=False)
def test_work_goes_on_while_it_is_away_and_what_changed_is_written_then(
    external: External,
) -> None:
    with Cluster(redis_address=external.urls) as cluster, cluster.connect():
        task = raydask.remote(double)
        refs = [task.remote(i) for i in range(10)]
        raydask.get(refs)
        eventually(lambda: sum(":task:" in key for key in external.held()) >= 10)
        external.servers[0].kill()
        more = [task.remote(i) for i in range(10)]
        assert raydask.get(more, timeout=8) == [2 * i for i in range(10)]
        del refs
        external.start()
        wanted = {f":task:{ref.hex()[:32]}" for ref in more}

        def tasks() -> set[str]:
            return {key[key.index(":task:") :] for key in external.held() if ":task:" in key}

        eventually(lambda: tasks() == wanted)
        del more
    assert external.held() == set()


@pytest.mark.parametrize("which", ["global-scheduler", "node"])
def test_a_dead_global_scheduler_comes_back_to_it_and_a_dead_node_ends_it(
    external: External, which: str
) -> None:
    with Cluster(redis_address=external.urls) as cluster:
        assert cluster.head_node is not None
        folder = cluster.head_node.folder
        process = process_named(folder, which)
        process.kill()
        if which == "node":
            eventually(lambda: not os.path.exists(folder))
        else:
            eventually(lambda: [s.node for s in cluster.status() if s.alive] == [1])
            cluster.add_node()
            cluster.wait_for_nodes()
    assert external.held() == set()


def test_what_a_killed_cluster_left_goes_when_the_next_starts(external: External) -> None:
    with Cluster(redis_address=external.urls) as cluster:
        assert cluster.head_node is not None
        processes = session_processes(cluster.head_node.folder)
        processes[0].suspend()  # the supervisor would clean up
        for process in processes[1:]:
            process.kill()
        processes[0].kill()
        cluster.shutdown()
    assert external.held() != set()
    with raydask.init(num_cpus=1):
        assert external.held() == set()
    assert external.others_are_there()


def test_when_the_supervisor_alone_is_killed_the_node_removes_what_there_was(
    external: External,
) -> None:
    with Cluster(redis_address=external.urls) as cluster:
        assert cluster.head_node is not None
        os.kill(cluster.head_node.pid, signal.SIGKILL)
        eventually(lambda: external.held() == set())
        cluster.shutdown()


def test_what_cannot_be_removed_is_removed_by_a_later_start(external: External) -> None:
    cluster = Cluster(redis_address=external.urls)
    external.servers[0].kill()
    cluster.shutdown()
    assert [path.name[:14] for path in sessions_root().glob("left-*")] == ["left-in-redis-"]
    external.start()
    assert external.held() != set()
    with raydask.init(num_cpus=1):
        assert external.held() == set()
        assert not list(sessions_root().glob("left-*"))


# --- the command ------------------------------------------------------------------------------


def test_the_command_starts_a_head_on_it_and_stop_removes_its_part(external: External) -> None:
    done = command("start", "--head", "--num-cpus", "1", "--redis-address", external.urls)
    assert "raydask runs in" in done.stdout, done.stderr
    try:
        assert any(key.endswith(":raydask:cluster") for key in external.held())
        (session,) = running_sessions()
        for process in session_processes(str(session)):
            assert PASSWORD not in " ".join(process.cmdline())
        with raydask.init("auto"):
            seen = raydask.remote(lambda: os.environ.get("RAYDASK_REDIS_PASSWORD")).remote()
            assert raydask.get(seen) is None
    finally:
        command("stop")
    assert external.held() == set()
    assert external.others_are_there()


def test_a_server_is_reached_over_tls_from_other_nodes_too(
    external: External,
    certificate: Path,  # noqa: F811
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    proxy = TlsFront(external.servers[0].socket_path, context)
    try:
        with Cluster(redis_address=f"{proxy.url}/0?ca={certificate}") as cluster:
            node = cluster.add_node()
            cluster.wait_for_nodes()
            with cluster.connect(node) as context_:
                job = context_["job"]
                assert raydask.get(raydask.remote(double).remote(4)) == 8
                eventually(lambda: any(key.endswith(f":job:{job}") for key in external.held()))
        assert external.held() == set()
        with pytest.raises(StartError, match=r"certificate .* is not trusted .*\?ca="):
            Cluster(redis_address=proxy.url)
    finally:
        proxy.close()


def failure(urls: str) -> str:
    """Return why no cluster starts on these."""
    with pytest.raises((StartError, UsageError)) as caught:
        Cluster(redis_address=urls)
    return str(caught.value)


def test_a_server_that_cannot_be_used_is_named_with_the_remedy(
    external: External, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no Redis answers at redis://127.0.0.1:1/0" in failure("redis://127.0.0.1:1")
    assert "does it run" in failure(f"unix://{tempfile.gettempdir()}/none.sock")
    assert "begins with unix:///" in failure("http://127.0.0.1:1")
    assert "same database" in failure(f"{external.urls},{external.urls}")
    url = external.servers[0].url
    monkeypatch.setenv("RAYDASK_REDIS_PASSWORD", "wrong")
    wrong = failure(url)
    assert "WRONGPASS" in wrong and "RAYDASK_REDIS_PASSWORD" in wrong
    monkeypatch.delenv("RAYDASK_REDIS_PASSWORD")
    assert "NOAUTH" in failure(url)
    assert "secret" not in failure("redis://:secret@host:x")
    assert external.held() == set()


def test_options_that_contradict_it_are_refused() -> None:
    for options in (
        ("--address", "127.0.0.1:1", "--redis-address", "redis://h"),
        ("--head", "--num-redis-shards", "2", "--redis-address", "redis://h"),
    ):
        done: subprocess.CompletedProcess[str] = command("start", *options)
        assert done.returncode == 2 and "--redis-address" in done.stderr
