"""What the cluster tests look at a session with: conditions, counts, Redis, other drivers.

Nothing here sleeps for a while and hopes: `eventually` waits for a condition and gives up
loudly, and other drivers are talked to line by line.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import redis

import raydask

T = TypeVar("T")

PATIENCE = 8.0
"""Seconds until a condition that does not come true fails a test."""


def eventually(condition: Callable[[], T], what: str = "", seconds: float = PATIENCE) -> T:
    """Return the first true value of `condition`; fail after `seconds` with what it was last."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {seconds:g} s: {what or condition} (last: {value!r})")
        time.sleep(0.005)


def usage() -> tuple[int, int, int]:
    """Return how many tasks and objects the node knows, and the bytes used of its store."""
    (node,) = raydask.nodes()
    return node["tasks"], node["objects"], node["object_store_used"]


def eventually_nothing_is_held(slabs: int = 64 << 20) -> None:
    """Wait until the node has forgotten every task and object.

    Processes keep the regions that they have room in for small objects: `slabs` bytes at most.
    """

    def is_empty() -> bool:
        tasks, objects, used = usage()
        return not tasks and not objects and used <= slabs

    try:
        eventually(is_empty)
    except AssertionError:
        raise AssertionError("left (tasks, objects, bytes): {}, {}, {}".format(*usage())) from None


def connect_redis(session: str, shard: int = 0) -> redis.Redis:
    """Return a client of one of a session's Redis servers."""
    folder = Path(session)
    return redis.Redis(
        unix_socket_path=str(folder / f"redis-{shard}" / "redis.sock"),
        password=(folder / "secret").read_text(),
        decode_responses=True,
    )


def session_processes(session: str) -> list[psutil.Process]:
    """Return the processes of a session: its supervisor and all below it."""
    found = []
    for process in psutil.process_iter(["cmdline", "ppid"]):
        command = process.info["cmdline"] or ()
        if "raydask.node.supervisor" in command and session in command:
            found.append(process)  # a supervisor, or a fork of it
    forks = {process.pid for process in found}
    for process in found:
        if process.info["ppid"] not in forks:
            return [process, *process.children(recursive=True)]
    return []


def process_named(session: str, log: str) -> psutil.Process:
    """Return the process of a session whose messages go to this log, such as ``"node"``."""
    path = f"{session}/logs/{log}.log"
    for process in session_processes(session):
        try:
            if os.readlink(f"/proc/{process.pid}/fd/2") == path:
                return process
        except OSError:
            continue
    raise AssertionError(f"no process of {session} logs to {path}")


class Driver:
    """Another driver: a Python program that runs `source` and answers line by line."""

    def __init__(self, source: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **environment},
            cwd=Path(__file__).parents[2],
        )
        self._pending = ""

    def read_line(self, seconds: float = PATIENCE) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while "\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise AssertionError(f"the driver printed no line within {seconds:g} s")
            piece = os.read(descriptor, 65536).decode()
            if not piece:
                assert self.process.stderr is not None
                raise AssertionError(f"the driver has ended: {self.process.stderr.read()}")
            self._pending += piece
        line, _, self._pending = self._pending.partition("\n")
        return line

    def say(self, line: str = "") -> None:
        """Give it a line to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def finish(self, seconds: float = PATIENCE) -> tuple[int, str, str]:
        """Wait for its end; return exit code and what it printed since the last line read."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, self._pending + out, err

    def kill(self) -> None:
        """Kill it, if it is still there."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def driver(source: str, **environment: str) -> Iterator[Driver]:
    """Run another driver, and kill it at the end of the block if it is still there."""
    running = Driver(source, **environment)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()
        for pipe in (running.process.stdin, running.process.stdout, running.process.stderr):
            if pipe is not None:
                pipe.close()


def run_driver(source: str, **environment: str) -> tuple[int, str, str]:
    """Run another driver to its end; return exit code, standard output and standard error."""
    with driver(source, **environment) as running:
        return running.finish()


class Gate:
    """A file whose existence lets waiting tasks go on; tasks make one when they have begun."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.path = str(folder / name)

    def open(self) -> None:
        """Let go on what waits."""
        Path(self.path).touch()

    @property
    def is_open(self) -> bool:
        """Whether somebody has opened it."""
        return os.path.exists(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_gate, (self.path,))

    def wait(self, seconds: float = 30.0) -> None:
        """Wait in a task until the gate is open."""
        deadline = time.monotonic() + seconds
        while not self.is_open:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody opened {self.path}")
            time.sleep(0.002)


def _gate(path: str) -> Gate:
    return Gate(Path(path).parent, Path(path).name)
