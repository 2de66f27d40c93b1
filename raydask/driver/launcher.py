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
from typing import Any, NamedTuple

import msgspec

from raydask.config import SessionOptions, from_environment
from raydask.driver.amounts import CPU, GPU, MEMORY, amount, custom_amounts
from raydask.errors import ClusterUnavailableError, StartError, UsageError
from raydask.session_folder import (
    ENDPOINT,
    NODE_SOCKET,
    SECRET,
    is_joined,
    is_running,
    new_session_folder,
    running_sessions,
    sessions_root,
)
from raydask.wire.connection import BlockingConnection, connect_unix
from raydask.wire.endpoint import Endpoint, looks_like_endpoint, parse_endpoint
from raydask.wire.handshake import await_welcome, versions_here
from raydask.wire.messages import Hello, Welcome

_log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
_REMEDIES = {
    CPU: "num_cpus",
    GPU: "num_gpus",
    MEMORY: "RAYDASK_MEMORY_LIMIT, of which a node offers a share",
}
"""What gives a node those resources that ``resources`` cannot."""
_JOIN = (
    "a program joins through a node of its own machine: start one with `raydask start --address {}`"
)
_SECRET = re.compile(r"[\w\-+/=.]{16,256}", re.ASCII)


class Network(NamedTuple):
    """What other machines have to do with a session.

    Attributes
    ----------
    head : Endpoint or None
        Of the cluster that its node joins; None: the session begins one.
    host : str
        Where it listens.  Empty: on no network; with a `head`, at the address that faces it.
    port, link_port, data_port : int
        As in ``SessionOptions``.
    detached, by_command : bool
        As in ``SessionOptions``.
    secret : str
        Empty: as the environment has it, or a session of the cluster on this machine.
    """

    head: Endpoint | None = None
    host: str = ""
    port: int = 0
    link_port: int = 0
    data_port: int = 0
    detached: bool = False
    by_command: bool = False
    secret: str = ""


def session_options(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: Mapping[str, float] | None,
    object_store_memory: int | None,
    num_redis_shards: Any,
    *,
    labels: Mapping[str, str] | None = None,
    network: Network | None = None,
    redis_address: str = "",
) -> SessionOptions:
    """Return the options of a new session, whose folder is made.

    Parameters
    ----------
    num_cpus, num_gpus, resources, object_store_memory, num_redis_shards
        As for `raydask.init`.
    labels : mapping of str to str, optional
        Of the node.
    network : Network, optional
        What other machines have to do with it; nothing, if not given.
    redis_address : str
        As in ``SessionOptions``.

    Raises
    ------
    UsageError
        An argument makes no sense, or the environment lacks a secret that is needed.
    StartError
        The folder cannot be made.
    """
    cpus = None if num_cpus is None else amount("num_cpus", num_cpus)
    gpus = None if num_gpus is None else amount("num_gpus", num_gpus)
    custom = custom_amounts(resources, _REMEDIES)
    store = _bytes_of_store(object_store_memory)
    _check_labels(labels)
    if not isinstance(num_redis_shards, int) or not 1 <= num_redis_shards <= 64:
        raise UsageError(f"num_redis_shards must be from 1 to 64, not {num_redis_shards!r}")
    config = from_environment()
    password = os.environ.get("RAYDASK_REDIS_PASSWORD", "") if redis_address else ""
    if redis_address:
        from raydask.control.control_place import parse_place

        parse_place(redis_address, "", password)  # what is wrong with it is to be said now
    network = network or Network()
    secret = network.secret or _secret_for(network)
    return SessionOptions(
        folder=str(new_session_folder()),
        num_cpus=cpus,
        num_gpus=gpus,
        resources=custom,
        object_store_memory=store,
        num_redis_shards=num_redis_shards,
        config=config,
        labels=dict(labels or {}),
        detached=network.detached,
        by_command=network.by_command,
        head="" if network.head is None else str(network.head),
        host=network.host,
        port=network.port,
        link_port=network.link_port,
        data_port=network.data_port,
        secret=secret,
        redis_address=redis_address,
        redis_password=password,
    )


def _bytes_of_store(value: Any) -> int | None:
    if value is None:
        return None
    given = amount("object_store_memory", value)
    if not given.is_integer():
        raise UsageError(f"object_store_memory must be a whole number of bytes, not {value!r}")
    return int(value)


def _check_labels(labels: Any) -> None:
    if not isinstance(labels, Mapping | None):
        raise UsageError(f"labels must be a dict of strings to strings, not {labels!r}")
    for name, value in (labels or {}).items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise UsageError(f"labels and their values are strings, unlike {name!r}: {value!r}")


def _secret_for(network: Network) -> str:
    if network.head is not None:
        return secret_of_cluster(network.head)
    secret = secret_from_environment()
    if network.host and not Endpoint(network.host, 0).is_loopback and not secret:
        raise UsageError(
            f"at {network.host} other machines can reach the cluster, and only a secret that they "
            "share protects it: set RAYDASK_SECRET on all of them, to what `python3 -c 'import "
            "secrets; print(secrets.token_hex(16))'` prints, say"
        )
    return secret


def secret_of_cluster(head: Endpoint) -> str:
    """Return a cluster's secret: from the environment, or a session of the cluster's here.

    Raises
    ------
    UsageError
        There is none, or it makes no sense.
    """
    secret = secret_from_environment()
    sessions = [] if secret else sessions_of_cluster(head)
    if sessions:
        secret = secret_of_session(str(sessions[0]))
    if not secret:
        raise UsageError(
            f"RAYDASK_SECRET is not set, and no node of a cluster at {head} runs on this machine "
            "for this user: is that where its head listens?  If so, set RAYDASK_SECRET to that of "
            "the head, which has it in the file `secret` of its session's folder"
        )
    return secret


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


def secret_of_session(folder: str) -> str:
    """Return the secret of a session of this user's; empty where it has just ended."""
    try:
        return (Path(folder) / SECRET).read_text()
    except FileNotFoundError:
        return ""


def endpoint_of_session(folder: str) -> str:
    """Return where the cluster of a session is reached; empty where it is on no network."""
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
        self._said = b""

    @property
    def pid(self) -> int:
        """The supervisor's process identifier; 0 when it has ended, or has been let go."""
        return 0 if self._process is None else self._process.pid

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

        answer = self._read_line(self._options.config.start_timeout)
        if answer.get("error"):
            self.stop()
            raise StartError(answer["error"])
        for text in answer.get("warnings", ()):
            _log.warning("%s", text)

    def _read_line(self, seconds: float | None) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._said:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                return {"error": f"the session was not up after {seconds:g} s; see its logs"}
            piece = os.read(descriptor, 65536)
            if not piece:
                return {"error": "the supervisor process died"}
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        answer: dict[str, Any] = msgspec.json.decode(line)
        return answer

    def let_go(self) -> None:
        """Leave a session that was started to stay."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        process.returncode = 0  # nobody here waits for it
        self._process = None

    def wait(self) -> str:
        """Wait until the session has ended; return why, empty if it was told to."""
        answer = self._read_line(None)
        self.stop()
        reason: str = answer["error"] if "error" in answer else answer["ended"]
        return reason

    def ask_to_end(self) -> None:
        """Have the session end; `stop` waits for that."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def stop(self) -> None:
        """End the session and wait until nothing of it is left."""
        process = self._process
        if process is None:
            return
        self.ask_to_end()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        self._process = None


def find_address(address: str, remedy: str = _JOIN) -> str:
    """Return the folder of the session that `address` means.

    Parameters
    ----------
    address : str
        ``"auto"`` for this user's latest session, a session's folder, or HOST:PORT of its
        cluster.
    remedy : str
        What to do if it is HOST:PORT of a cluster without a node here, with ``{}`` for it.

    Raises
    ------
    ClusterUnavailableError
        There is none.
    """
    if looks_like_endpoint(address):
        return _find_local_node(parse_endpoint(address), remedy)
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
            f"{address!r} is not the folder of a running session, which raydask.init() returns as "
            '"address"; besides, an address can be "auto", for the latest session of this user on '
            "this machine, or HOST:PORT of a cluster"
        )
    return str(folder)


def _find_local_node(endpoint: Endpoint, remedy: str) -> str:
    sessions = sessions_of_cluster(endpoint)
    if sessions:
        return str(sessions[0])
    raise ClusterUnavailableError(
        f"no node of a cluster at {endpoint} runs on this machine for this user; "
        + remedy.format(endpoint)
    )


def sessions_of_cluster(endpoint: Endpoint) -> list[Path]:
    """Return the folders of this user's sessions that are nodes of a cluster, on this machine.

    The head's is the first, if it is here; of the others, the one that was started last.
    """
    found = []
    for session in running_sessions():
        listens = endpoint_of_session(str(session))
        if listens and parse_endpoint(listens).is_reached_at(endpoint):
            found.append(session)
    return sorted(found, key=is_joined)


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
    import cloudpickle  # noqa: F401  whose version the node compares

    versions = versions_here()
    hello = Hello(
        "driver",
        os.getpid(),
        versions.pop("raydask"),
        versions.pop("Python"),
        namespace=namespace,
        search_path=[os.path.abspath(entry or ".") for entry in sys.path],
        folder=os.getcwd(),
        entry_point=sys.argv[0] if sys.argv else "",
        log_to_driver=log_to_driver,
        others=versions,
    )
    connection.send_message(hello)
    welcome = await_welcome(connection)
    if welcome.warning:
        _log.warning("%s", welcome.warning)
    return connection, welcome
