"""Starting a session from a driver, and finding one that runs.

The driver starts one process, the supervisor, and hears on a pipe that the session is up, or
why not.  The supervisor in turn takes the end of its own standard input to mean that the
driver is gone.
"""

from __future__ import annotations

import logging
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from raydask.config import SessionOptions, from_environment
from raydask.errors import ClusterUnavailableError, StartError, UsageError
from raydask.session_folder import (
    ENDPOINT,
    NODE_SOCKET,
    is_running,
    new_session_folder,
    running_sessions,
    sessions_root,
)
from raydask.version import VERSION
from raydask.wire.connection import BlockingConnection, connect_unix
from raydask.wire.endpoint import Endpoint, looks_like_endpoint, parse_endpoint
from raydask.wire.handshake import await_welcome
from raydask.wire.messages import Hello, Welcome

_log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
_SECRET = re.compile(r"[\w\-+/=.]{16,256}", re.ASCII)


def session_options(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: Mapping[str, float] | None,
    object_store_memory: int | None,
    num_redis_shards: Any,
    *,
    listen: Endpoint | None = None,
) -> SessionOptions:
    """Return the options of a new session, whose folder is made.

    Parameters
    ----------
    num_cpus, num_gpus, resources, object_store_memory, num_redis_shards
        As for `raydask.init`.
    listen : Endpoint, optional
        Where it is reached from a network; it outlives whoever starts it then.

    Raises
    ------
    UsageError
        An argument makes no sense, or the environment lacks a secret that is needed.
    StartError
        The folder cannot be made.
    """
    amounts: dict[str, Any] = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "object_store_memory": object_store_memory,
        **(resources or {}),
    }
    for name, amount in amounts.items():
        if amount is not None and (not isinstance(amount, (int, float)) or amount < 0):
            raise UsageError(f"{name} must be a number that is not negative, not {amount!r}")
    if not isinstance(num_redis_shards, int) or not 1 <= num_redis_shards <= 64:
        raise UsageError(f"num_redis_shards must be from 1 to 64, not {num_redis_shards!r}")
    config = from_environment()
    secret = secret_from_environment()
    if listen is not None and not listen.is_loopback and not secret:
        raise UsageError(
            f"at {listen.host} other machines can reach the cluster, and only a secret that they "
            "share protects it: set RAYDASK_SECRET on all of them, to what `python3 -c 'import "
            "secrets; print(secrets.token_hex(16))'` prints, say"
        )
    return SessionOptions(
        folder=str(new_session_folder()),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources={str(name): float(amount) for name, amount in (resources or {}).items()},
        object_store_memory=object_store_memory,
        num_redis_shards=num_redis_shards,
        config=config,
        detached=listen is not None,
        host="" if listen is None else listen.host,
        port=0 if listen is None else listen.port,
        secret=secret,
    )


def secret_from_environment() -> str:
    """Return the secret that ``RAYDASK_SECRET`` gives; empty where it is not set.

    Raises
    ------
    UsageError
        It could be guessed, or Redis could not take it as its password.
    """
    secret = os.environ.get("RAYDASK_SECRET", "")
    if secret and _SECRET.fullmatch(secret) is None:
        raise UsageError(
            "RAYDASK_SECRET must be 16 to 256 letters, digits and signs of _-+/=. ; `python3 -c "
            "'import secrets; print(secrets.token_hex(16))'` makes one"
        )
    return secret


def endpoint_of_session(folder: str) -> str:
    """Return where a session's global scheduler listens; empty where it does not."""
    try:
        return (Path(folder) / ENDPOINT).read_text()
    except FileNotFoundError:
        return ""


class Supervised:
    """The supervisor of a session that this process started.

    Parameters
    ----------
    options : SessionOptions
    """

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the session and wait until it is up.

        Raises
        ------
        StartError
            It is not; everything that had been started is gone again.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "raydask.node.supervisor", self._options.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(self._options) + b"\n")
        self._process.stdin.flush()
        import cloudpickle  # noqa: F401  what the first function needs, while the session starts

        answer = self._read_line(time.monotonic() + self._options.config.start_timeout)
        if answer.get("error"):
            self.stop()
            raise StartError(answer["error"])
        for text in answer.get("warnings", ()):
            _log.warning("%s", text)

    def _read_line(self, deadline: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        text = b""
        while not text.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                seconds = self._options.config.start_timeout
                return {"error": f"the session was not up after {seconds:g} s; see its logs"}
            piece = os.read(descriptor, 65536)
            if not piece:
                return {"error": "the supervisor process died while it started the session"}
            text += piece
        answer: dict[str, Any] = msgspec.json.decode(text)
        return answer

    def let_go(self) -> None:
        """Leave a session that was started to stay."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        process.returncode = 0  # nobody here waits for it
        self._process = None

    def stop(self) -> None:
        """End the session and wait until nothing of it is left."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._process = None


def find_address(address: str) -> str:
    """Return the folder of the session that `address` means.

    Parameters
    ----------
    address : str
        ``"auto"`` for this user's latest session, a session's folder, or HOST:PORT of its
        cluster.

    Raises
    ------
    ClusterUnavailableError
        There is none.
    """
    if looks_like_endpoint(address):
        return _find_local_node(parse_endpoint(address))
    folder = Path(address)
    if address == "auto":
        running = running_sessions()
        if not running:
            raise ClusterUnavailableError(
                "no session of this user runs on this machine (looked for one in "
                f"{sessions_root()}); start one with raydask.init(), or with "
                "`raydask start --head` if it is to outlive this program"
            )
        return str(running[0])
    if not is_running(folder):
        raise ClusterUnavailableError(
            f"{address!r} is not the folder of a running session; raydask.init() returns it as "
            '"address"'
        )
    return str(folder)


def _find_local_node(endpoint: Endpoint) -> str:
    wanted = str(endpoint)
    for session in running_sessions():
        if endpoint_of_session(str(session)) == wanted:
            return str(session)
    raise ClusterUnavailableError(
        f"no node of a cluster at {endpoint} runs on this machine for this user; a program joins "
        "through a node of its own machine"
    )


def connect(
    folder: str, *, namespace: str, log_to_driver: bool
) -> tuple[BlockingConnection, Welcome]:
    """Connect a driver to the node whose session folder this is.

    Raises
    ------
    ClusterUnavailableError
        Nobody answers there, or the node refuses the driver.
    """
    try:
        connection = connect_unix(os.path.join(folder, NODE_SOCKET))
    except OSError as error:
        raise ClusterUnavailableError(f"no node answers in {folder}: {error}") from error
    hello = Hello(
        "driver",
        os.getpid(),
        VERSION,
        f"{sys.version_info.major}.{sys.version_info.minor}",
        namespace=namespace,
        search_path=[os.path.abspath(entry or ".") for entry in sys.path],
        folder=os.getcwd(),
        entry_point=sys.argv[0] if sys.argv else "",
        log_to_driver=log_to_driver,
    )
    connection.send_message(hello)
    return connection, await_welcome(connection)
