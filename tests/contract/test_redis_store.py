"""What only a store on Redis has: shards, lost connections, passwords, restarts."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import ssl
import subprocess
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import hiredis
import pytest

from raydask.control.redis_connection import RedisAddress, RedisConnection, Reply
from raydask.control.redis_store import RedisStore
from raydask.control.schema import function_key, object_key, shard_of, task_key
from raydask.control.store import ControlStoreError, ControlStoreUnavailableError
from raydask.errors import UsageError
from raydask.ids import IDSource, NodeNumber, ProcessNumber, function_id, return_id
from tests.contract.conftest import PASSWORD, RedisBackend

IDS = IDSource(NodeNumber(1), ProcessNumber(1))


def ask(backend: RedisBackend, shard: int, *command: str) -> Reply:
    """Return a server's own answer, as ``redis-cli`` would show it."""
    path = backend.servers[shard].socket_path
    connection = RedisConnection(RedisAddress(path=path, password=PASSWORD), timeout=10)
    connection.send([command])
    (reply,) = connection.receive(1)
    connection.close()
    return reply


class LossyProxy:
    """A TCP port in front of a server, which can lose replies.

    A lost reply is the hard case of a broken connection: the server has executed the
    request, and the client cannot know.
    """

    def __init__(self, server_path: str, tls: ssl.SSLContext | None = None) -> None:
        self.replies_to_lose = 0
        self._server_path = server_path
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "redis" if tls is None else "rediss"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        # A listener that is only closed would leave the thread inside accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
                server.connect(self._server_path)
                if self._tls is None:
                    self._relay(client, server)
                else:
                    with self._tls.wrap_socket(client, server_side=True) as secured:
                        self._relay(secured, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        losable = False
        while True:
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(1 << 20)
                if not data:
                    return
                if source is client:
                    losable = b"AUTH" not in data
                    server.sendall(data)
                elif losable and self.replies_to_lose:
                    self.replies_to_lose -= 1
                    return
                else:
                    client.sendall(data)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate of 127.0.0.1 that vouches for itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl program to make a certificate")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=x"
    )
    name = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [openssl, *command.split(), *name, "-keyout", file, "-out", f"{file}.crt"],
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


@pytest.fixture
def tls_proxy(one_server: RedisBackend, certificate: Path) -> Iterator[LossyProxy]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    proxy = LossyProxy(one_server.servers[0].socket_path, context)
    yield proxy
    proxy.close()


@pytest.fixture
def one_server() -> Iterator[RedisBackend]:
    backend = RedisBackend(1)
    yield backend
    backend.close()


@pytest.fixture
def proxy(one_server: RedisBackend) -> Iterator[LossyProxy]:
    proxy = LossyProxy(one_server.servers[0].socket_path)
    yield proxy
    proxy.close()


@pytest.fixture
def far_store(proxy: LossyProxy) -> Iterator[RedisStore]:
    """A store that reaches its server over TCP, through the proxy."""
    store = RedisStore([proxy.url], password=PASSWORD, attempts=3)
    store.start()
    yield store
    store.close()


def test_entries_are_on_the_shard_that_the_schema_says(redis_backend: RedisBackend) -> None:
    store = redis_backend.open()
    shards = len(redis_backend.servers)
    tasks = [IDS.next_task_id() for _ in range(60)]
    keys = [
        *(task_key(task) for task in tasks),
        *(object_key(return_id(task, 1)) for task in tasks),
        *(function_key(function_id(task)) for task in tasks),
        "job:1",
        "node:1",
    ]
    store.write(dict.fromkeys(keys, b"x"))

    held = [set(ask(redis_backend, shard, "KEYS", "*:*")) for shard in range(shards)]
    for key in keys:
        assert key.encode() in held[shard_of(key, shards)]
    assert sum(map(len, held)) == len(keys) + len({"raydask:schema"})
    if shards > 1:
        assert all(len(some) > 20 for some in held)


def test_stores_with_different_prefixes_do_not_meet(redis_backend: RedisBackend) -> None:
    urls = [server.url for server in redis_backend.servers]
    stores = [RedisStore(urls, password=PASSWORD, prefix=p) for p in ("raydask:a*:", "raydask:ab:")]
    task = task_key(IDS.next_task_id())
    for number, store in enumerate(stores):
        store.start()
        store.write({task: b"%d" % number, "job:x": b"x"})
        store.append_events([b"%d" % number], 10)
        assert store.increment("node") == 1
        assert store.put_if_absent("named_actor::a", b"")
    for number, store in enumerate(stores):
        assert store.read([task]) == [b"%d" % number]
        assert set(store.scan("task:")) == {task}
        assert [event for _, event in store.read_events()] == [b"%d" % number]
    stores[1].write({}, ["job:x"])
    assert stores[0].read(["job:x"]) == [b"x"]

    stores[0].clear()
    assert not list(stores[0].scan(""))
    assert set(stores[1].scan("task:")) == {task}
    held = {key for shard in range(len(urls)) for key in ask(redis_backend, shard, "KEYS", "*")}
    assert all(key.startswith(b"raydask:ab:") for key in held)
    for store in stores:
        store.close()


def test_acknowledged_writes_survive_a_killed_server(redis_backend: RedisBackend) -> None:
    store = redis_backend.open()
    entries = {task_key(IDS.next_task_id()): b"x" * 1_000 for _ in range(1_000)}
    store.write(entries)
    store.append_events([b"event"], 10)

    redis_backend.unplug()
    redis_backend.plug()

    assert store.read(list(entries)) == list(entries.values())
    assert [event for _, event in store.read_events()] == [b"event"]


def test_a_scan_goes_on_after_a_restart(redis_backend: RedisBackend) -> None:
    store = redis_backend.open()
    keys = {task_key(IDS.next_task_id()) for _ in range(10_000)}
    store.write(dict.fromkeys(keys, b""))

    scan = store.scan("task:")
    found = {next(scan)}
    redis_backend.unplug()
    redis_backend.plug()

    assert found | set(scan) == keys


def test_a_write_whose_reply_was_lost_is_written(far_store: RedisStore, proxy: LossyProxy) -> None:
    proxy.replies_to_lose = 2
    far_store.write({"job:1": b"x"}, ["job:2"])

    assert far_store.read(["job:1"]) == [b"x"]


def test_events_whose_reply_was_lost_are_there_once(
    far_store: RedisStore, proxy: LossyProxy
) -> None:
    proxy.replies_to_lose = 2
    far_store.append_events([b"a", b"b"], 100)
    proxy.replies_to_lose = 1
    far_store.append_events([b"a"], 100)

    assert [event for _, event in far_store.read_events()] == [b"a", b"b", b"a"]


def test_a_claim_whose_reply_was_lost_is_ours_only_if_it_was_stored(
    far_store: RedisStore, proxy: LossyProxy
) -> None:
    proxy.replies_to_lose = 1
    assert far_store.put_if_absent("named_actor::a", b"mine")

    proxy.replies_to_lose = 1
    assert not far_store.put_if_absent("named_actor::a", b"another's")


def test_a_number_whose_reply_was_lost_is_skipped(far_store: RedisStore, proxy: LossyProxy) -> None:
    proxy.replies_to_lose = 1

    assert [far_store.increment("jobs"), far_store.increment("jobs")] == [2, 3]


def test_retries_end(far_store: RedisStore, proxy: LossyProxy) -> None:
    proxy.replies_to_lose = 3
    with pytest.raises(ControlStoreUnavailableError, match="3 attempts"):
        far_store.read(["job:1"])

    assert far_store.read(["job:1"]) == [None]


def test_a_server_is_reached_over_tls(tls_proxy: LossyProxy, certificate: Path) -> None:
    store = RedisStore([f"{tls_proxy.url}?ca={certificate}"], password=PASSWORD)
    store.start()
    store.write({"job:1": b"x"})

    assert store.read(["job:1"]) == [b"x"]
    store.close()


def test_a_server_whose_certificate_nobody_vouches_for_gets_no_password(
    tls_proxy: LossyProxy,
) -> None:
    store = RedisStore([tls_proxy.url], password=PASSWORD, attempts=1)

    with pytest.raises(ControlStoreUnavailableError, match="certificate"):
        store.start()


def test_a_wrong_password_is_refused_at_once(one_server: RedisBackend) -> None:
    store = RedisStore([one_server.servers[0].url], password="wrong")
    with pytest.raises(ControlStoreError, match="password") as caught:
        store.start()
    assert not isinstance(caught.value, ControlStoreUnavailableError)


def test_a_refused_request_leaves_the_store_usable(one_server: RedisBackend) -> None:
    store = one_server.open()
    assert isinstance(ask(one_server, 0, "SADD", "counter:jobs", "x"), int)

    with pytest.raises(ControlStoreError, match="WRONGTYPE") as caught:
        store.increment("jobs")
    assert isinstance(caught.value.__cause__, hiredis.ReplyError)
    assert store.increment("nodes") == 1


def test_a_store_needs_a_server() -> None:
    with pytest.raises(UsageError):
        RedisStore([])


def test_shards_are_stable() -> None:
    """A change here loses the control state of running clusters: raise the schema version."""
    task = IDS.next_task_id()

    assert shard_of(task_key(task), 7) == zlib.crc32(task.hex().encode()) % 7
