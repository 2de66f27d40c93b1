"""The supervisor: parent, fork server and janitor of one machine's part of a session.

::

    driver --stdin (its end means: the driver is gone), stdout (ready, or why not)-- supervisor
                                                                                      |  forks
                  +----------------+------------------+-------------------+-----------+
                  |                |                  |                   |
            redis-server(s)  global scheduler       node               workers, and for some
                                                      ^                jobs a fork server
                                                      |                with workers
                                                      |
                                                      +-- socketpair: "fork", "exited" -- supervisor

It is a warm, single-threaded interpreter that has imported what its children need, so a
worker is a fork of a few milliseconds that shares its memory.  Being the parent, it learns of
every death; being the only thing that has to live, it can clean up after all others:

======================  ==================================================================
what ends               what it does
======================  ==================================================================
a worker                tells the node how it ended
the node                ends the session
the global scheduler    forks another
a Redis server          starts it again on its append-only file
a job's fork server     tells the node, and reaps the workers that it leaves
the driver              ends the session, unless it is detached and up
the supervisor itself   the kernel ends its children (Linux); the node removes the folder
======================  ==================================================================

Ending the session means: end every child, remove the session's folder, and before that its keys if
it was told to use a Redis that is there already.  A node that has joined a
cluster is a session without Redis and global scheduler: those of the cluster's head are its own;
before it ends it says goodbye to that.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from raydask.config import SessionOptions
from raydask.control.control_place import ControlPlace
from raydask.control.redis_connection import RedisAddress
from raydask.control.redis_server import RedisServer
from raydask.errors import RaydaskError
from raydask.node.external_redis import begin_in_external_redis, remove_from_external_redis
from raydask.node.fork_server import ForkServer, ForkServerLink
from raydask.node.forking import (
    adopt_orphans,
    ended_children,
    fork_child,
    has_ended,
    has_members,
    kill_group,
    make_group,
    shared_imports,
    wait_for,
    wait_for_group,
)
from raydask.node.logs import WarningCollector, log_to
from raydask.node.sweep import sweep
from raydask.object_store.backing import Backing, memory_of_a_worker
from raydask.session_folder import (
    ENDPOINT,
    GLOBAL_SOCKET,
    JOINED,
    SECRET,
    lock_session,
    make_spill_folder,
    remove_session_folder,
)
from raydask.task import RESOURCE_UNIT
from raydask.wire.endpoint import Endpoint, endpoint_of, listen_at
from raydask.wire.framing import FrameDecoder, encode, prepare_to_read
from raydask.wire.messages import (
    ChildExited,
    EndChild,
    EndForkServer,
    EndSession,
    Execute,
    ForkServerEnded,
    ForkWorkers,
    Get,
    Hello,
    JobSettings,
    NodeReady,
    PrepareWorkers,
    Results,
    Submit,
    Values,
    Welcome,
)
from raydask.wire.tls import server_tls
from raydask.worker.allocator import heap_to_keep

_PARENT_CHECK_SECONDS = 1.0
_GLOBAL_PAUSE_SECONDS = 0.5
"""Between two starts of a global scheduler, so that one that cannot run does not spin."""
_NO_JOB = -1
_TOLD = "it was told to end"
_GOODBYE_SECONDS = 1.0
"""How long the cluster may take to let a node go that ends."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""How many threads numerical libraries start in each worker; there is a worker for each CPU."""


class Supervisor:
    """One session on this machine.

    Parameters
    ----------
    options : SessionOptions
    """

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._folder = Path(options.folder)
        self._is_head = not options.head
        self._password = options.secret or os.urandom(16).hex()
        self._listener: socket.socket | None = None
        self._redis: list[RedisServer] = []
        self._control = ControlPlace([])
        self._backing: Backing | None = None
        self._workers: set[int] = set()
        self._fork_servers: dict[int, ForkServerLink] = {}
        self._groups: set[int] = set()
        """Of fork servers, as long as anything is left of them."""
        self._node = 0
        self._global = 0
        self._global_forked = self._global_due = 0.0
        self._node_socket: socket.socket | None = None
        self._decoder = FrameDecoder()
        self._selector = selectors.DefaultSelector()
        self._wakers = socket.socketpair()
        for end in self._wakers:
            end.setblocking(False)
        self._parent = os.getppid()
        self._ready = False
        self._warnings: list[str] = []
        self._resources: dict[str, int] = {}
        self._kept_heap = 0
        self._reason = ""

    # --- start ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; the node reports when it is up.

        Raises
        ------
        RaydaskError
            Something could not be started.
        """
        adopt_orphans()
        write_secret(self._folder, self._password)
        make_spill_folder(self._folder, self._options.config.spill_folder)
        if self._is_head:
            self._begin_head()
        with shared_imports():
            import_for_children()
        from raydask.node.process import offered_resources

        config = self._options.config
        collector = WarningCollector(self._warnings)
        logging.getLogger("raydask").addHandler(collector)
        try:
            self._backing = Backing.create(
                self._options.object_store_memory,
                config.object_store_folder or None,
                config.memory_limit,
            )
        finally:
            logging.getLogger("raydask").removeHandler(collector)
        self._resources = offered_resources(self._options)
        self._kept_heap = self._heap_of_workers(self._backing.size)
        deadline = time.monotonic() + self._options.config.start_timeout
        for server in self._redis:
            server.wait_ready(deadline)
        if self._is_head:
            self._fork_global()
        self._fork_node()

    def _begin_head(self) -> None:
        """Listen, and start Redis, which takes longest, or see to one that is there."""
        if self._options.host:
            server_tls(self._options.config)  # what is wrong with it is to be said now
            self._listener = listen_at(Endpoint(self._options.host, self._options.port))
        if self._options.redis_address:
            self._control, warnings = begin_in_external_redis(self._options)
            self._warnings += warnings
            return
        for shard in range(self._options.num_redis_shards):
            server = RedisServer(str(self._folder), shard, self._password)
            server.start()
            self._redis.append(server)
            self._control.servers.append(
                RedisAddress(path=server.socket_path, password=self._password)
            )

    def _heap_of_workers(self, arena: int) -> int:
        """Return how much freed heap each worker keeps: little where memory is scarce."""
        cpus = max(1, self._resources.get("CPU", 0) // RESOURCE_UNIT)
        return heap_to_keep(memory_of_a_worker(self._options.config.memory_limit, arena, cpus))

    def _fork_global(self) -> None:
        def run() -> None:
            from raydask.global_scheduler.server import run_global_scheduler

            run_global_scheduler(
                str(self._folder / GLOBAL_SOCKET),
                self._control,
                self._password,
                self._options.config,
                self._listener,
            )

        self._global_forked = time.monotonic()
        self._global = self._fork(run, "global-scheduler")

    def _fork_node(self) -> None:
        ours, theirs = socket.socketpair()
        backing = self._backing
        assert backing is not None

        def run() -> None:
            from raydask.node.process import run_node

            ours.close()
            run_node(
                self._options,
                self._resources,
                theirs,
                backing,
                self._control,
                self._password,
            )

        self._node = self._fork(run, "node")
        theirs.close()
        self._node_socket = ours
        self._selector.register(ours, selectors.EVENT_READ, self._on_node)

    def _fork_worker(self) -> None:
        self._workers.add(self._fork(lambda: self._be_worker(0), "workers"))

    def _be_worker(self, job: int) -> None:
        from raydask.worker.process import run_worker

        assert self._backing is not None
        run_worker(str(self._folder), self._backing.fd, self._kept_heap, job)

    def _fork_fork_server(self, job: int) -> None:
        ours, theirs = socket.socketpair()

        def run() -> None:
            ours.close()
            ForkServer(job, theirs, lambda: self._be_worker(job)).run()

        pid = self._fork(run, f"fork-server-{job}")
        make_group(pid)
        self._groups.add(pid)
        theirs.close()
        link = self._fork_servers[job] = ForkServerLink(job, pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, lambda sock: self._on_server(link))

    def _fork(self, run: Callable[[], None], log: str) -> int:
        def leave() -> None:
            self._selector.close()
            if self._node_socket is not None:
                self._node_socket.close()
            for link in self._fork_servers.values():
                link.socket.close()
            if self._listener is not None and log != "global-scheduler":
                self._listener.close()
            # The lifeline and the report to the driver are this process's alone.
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            log_to(self._folder, log, self._options.config.log_bytes)

        return fork_child(leave, run, dies_with_us=log != "node")

    # --- the loop -------------------------------------------------------------------------

    def run(self) -> None:
        """Work until the session ends."""
        wake_reader, wake_writer = self._wakers
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(wake_writer.fileno())
        self._selector.register(wake_reader, selectors.EVENT_READ, self._on_signal)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._on_lifeline)
        self._reap()
        while not self._reason:
            for key, _ in self._selector.select(self._patience()):
                key.data(key.fileobj)
            if self._global_is_due():
                self._fork_global()
            if os.getppid() != self._parent and not self._is_free:
                # A fork of the driver may hold the other end of the lifeline open.
                self._reason = "the driver is gone"

    @property
    def _is_free(self) -> bool:
        """Whether the session goes on without whoever started it."""
        return self._ready and self._options.detached

    def _global_is_due(self) -> bool:
        due = self._is_head and not self._global and not self._reason
        return due and time.monotonic() >= self._global_due

    def _patience(self) -> float:
        if self._global or not self._is_head:
            return _PARENT_CHECK_SECONDS
        return min(_PARENT_CHECK_SECONDS, max(0.0, self._global_due - time.monotonic()))

    def _on_terminate(self, number: int, frame: object) -> None:
        self._reason = _TOLD

    def _on_lifeline(self, fileobj: Any) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            self._reason = "the driver is gone"

    def _on_signal(self, reader: socket.socket) -> None:
        try:
            reader.recv(4096)
        except BlockingIOError:
            pass
        self._reap()

    def _on_node(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._reason = self._reason or "the node has ended"
            return
        for message in self._decoder.feed(data):
            self._act_on(message)

    def _act_on(self, message: Any) -> None:
        """Do what the node says."""
        if isinstance(message, ForkWorkers):
            if message.job:
                self._tell_server(message.job, message)
            else:
                for _ in range(message.count):
                    self._fork_worker()
        elif isinstance(message, EndChild):
            self._end_worker(message.pid)
        elif isinstance(message, PrepareWorkers):
            if message.job not in self._fork_servers:
                self._fork_fork_server(message.job)
            self._tell_server(message.job, message)
        elif isinstance(message, EndForkServer):
            if message.job in self._fork_servers:
                pid = self._fork_servers[message.job].pid
                if pid in self._groups:
                    kill_group(pid)
        elif isinstance(message, EndSession):
            self._reason = message.reason or _TOLD
        elif isinstance(message, NodeReady):
            self._on_ready(message)

    def _end_worker(self, pid: int) -> None:
        if pid in self._workers:
            os.kill(pid, signal.SIGKILL)
            return
        links = list(self._fork_servers.values())
        for link in links:
            self._on_server(link)  # the worker may have said that it is there, and not been heard
        if any(pid in link.workers for link in links):
            # Not by its fork server, which may be importing.
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended, and been reaped a moment ago

    def _tell_server(self, job: int, message: object) -> None:
        if job in self._fork_servers:
            self._fork_servers[job].send(message)
        else:
            self._tell_node(ForkServerEnded(job))

    def _on_server(self, link: ForkServerLink) -> None:
        """Pass on what a job's fork server says; its end is the end of its socket."""
        if self._fork_servers.get(link.job) is not link:
            return  # its end was found out in this turn
        messages = link.receive()
        if messages is None:
            self._selector.unregister(link.socket)
            link.socket.close()
            del self._fork_servers[link.job]
            messages = [ForkServerEnded(link.job)]
        for message in messages:
            self._tell_node(message)

    def _on_ready(self, message: NodeReady) -> None:
        if message.error:
            self._reason = message.error
            return
        self._ready = True
        if self._listener is not None:
            (self._folder / ENDPOINT).write_text(str(endpoint_of(self._listener)))
        elif not self._is_head:
            (self._folder / ENDPOINT).write_text(self._options.head)
            (self._folder / JOINED).touch()
        if self._options.detached:
            self._selector.unregister(sys.stdin.fileno())
        report({"address": str(self._folder), "warnings": self._warnings + message.warnings})

    def _reap(self) -> None:
        for group in self._groups:
            if has_ended(group):  # the fork server: what it leaves goes before its number does
                kill_group(group)
        for pid, status, peak in ended_children():
            if pid in self._workers:
                self._workers.discard(pid)
                self._tell_node(ChildExited(pid, status, peak))
            elif pid == self._node:
                self._node = 0
                self._reason = self._reason or "the node process has ended; see logs/node.log"
            elif pid == self._global:
                self._global = 0
                self._global_due = max(
                    time.monotonic(), self._global_forked + _GLOBAL_PAUSE_SECONDS
                )
            elif pid in [server.pid for server in self._redis]:
                self._restart_redis(pid)
            else:
                # A job's fork server, or what one has left.
                self._tell_node(ChildExited(pid, status, peak, _NO_JOB))
        self._groups = {group for group in self._groups if has_members(group)}

    def _restart_redis(self, pid: int) -> None:
        for server in self._redis:
            if server.pid == pid and not self._reason:
                server.start()

    def _tell_node(self, message: object) -> None:
        if self._node_socket is not None:
            try:
                self._node_socket.sendall(encode(message))
            except OSError:
                pass  # the node is gone, which is seen elsewhere

    # --- end ------------------------------------------------------------------------------

    def end(self, failure: str) -> None:
        """End every child and remove what the session left in the file system.

        `failure` says why the session could not be started, if it is that.
        """
        if not self._ready:
            report({"error": failure or self._reason or "the session could not be started"})
        elif self._node and not self._is_head:
            self._say_goodbye()
        children = [pid for pid in (self._node, self._global, *self._workers) if pid]
        children += [server.pid for server in self._redis if server.pid]
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for group in self._groups:
            kill_group(group)
        for pid in children:
            wait_for(pid)
        for group in self._groups:
            wait_for_group(group)
        left = remove_from_external_redis(self._folder)
        remove_session(self._folder)
        if self._ready:
            reason = "" if self._reason == _TOLD else self._reason
            report({"ended": "; ".join(filter(None, (reason, left)))})

    def _say_goodbye(self) -> None:
        """Have the node leave its cluster, which would wait for it to come back."""
        node = self._node_socket
        assert node is not None
        deadline = time.monotonic() + _GOODBYE_SECONDS
        node.settimeout(_GOODBYE_SECONDS)
        self._tell_node(EndSession())
        while (left := deadline - time.monotonic()) > 0:
            node.settimeout(left)
            try:
                data = node.recv(1 << 16)
            except OSError:
                return  # it is stuck, or has ended
            messages = self._decoder.feed(data)
            if not data or any(isinstance(message, EndSession) for message in messages):
                return


def import_for_children() -> None:
    """Import what the forked processes will need, so that they share it."""
    import asyncio

    import cloudpickle  # noqa: F401
    import uvloop

    import raydask.global_scheduler.server
    import raydask.node.process
    import raydask.worker.actor_host
    import raydask.worker.process  # noqa: F401

    uvloop.run(asyncio.sleep(0))  # what its first use changes, the children share too
    prepare_to_read(Hello, Welcome, Submit, JobSettings, Execute, Results, Get, Values)


def write_secret(folder: Path, secret: str) -> None:
    """Leave the session's secret, which is Redis' password too, where its user can read it."""
    descriptor = os.open(folder / SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, secret.encode())
    os.close(descriptor)


def remove_session(folder: Path) -> None:
    """Remove a session's folder, and that of all sessions if it was the last."""
    remove_session_folder(folder)
    try:
        folder.parent.rmdir()
    except OSError:
        pass  # other sessions are there


def report(answer: dict[str, Any]) -> None:
    """Tell whoever started the session how that went, or at last why it has ended, in one line."""
    try:
        os.write(1, msgspec.json.encode(answer) + b"\n")
    except OSError:
        pass  # the driver is gone; the lifeline says so


def main() -> None:
    """Run a session: options come as one line of JSON on standard input."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            return
        line += piece
    options = msgspec.json.decode(line, type=SessionOptions)
    folder = Path(options.folder)
    os.environ["RAYDASK_SESSION"] = options.folder
    os.environ.pop("RAYDASK_REDIS_PASSWORD", None)  # which is in the options, and not for tasks
    for name in _THREADS:
        os.environ.setdefault(name, "1")
    sweep(folder.parent)
    lock = lock_session(folder)
    supervisor = Supervisor(options)
    failure = ""
    try:
        log_to(folder, "supervisor", options.config.log_bytes)
        supervisor.start()
        supervisor.run()
    except RaydaskError as error:
        failure = str(error)
    finally:
        supervisor.end(failure)
        os.close(lock)


if __name__ == "__main__":
    main()
