"""Starting a session from a driver, and finding one that runs.

A session is a folder under ``<temporary folder>/raydask-<uid>``, mode 0700, that holds the
sockets, the Redis folder and the logs; its path is its address.  The driver starts one
process, the supervisor, and hears on a pipe that the session is up, or why not.  The
supervisor in turn takes the end of its own standard input to mean that the driver is gone.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from raydask.config import Config
from raydask.errors import ClusterUnavailableError, StartError
from raydask.version import VERSION
from raydask.wire.connection import BlockingConnection, connect_unix
from raydask.wire.messages import Hello, Welcome

NODE_SOCKET = "node.sock"
LATEST = "latest"
_STOP_SECONDS = 5.0


class SessionOptions(msgspec.Struct, kw_only=True):
    """What the supervisor is told: the first line of its standard input, as JSON."""

    folder: str
    num_cpus: float | None
    num_gpus: float | None
    resources: dict[str, float]
    object_store_memory: int | None
    num_redis_shards: int
    config: Config


def sessions_root() -> Path:
    """Return the folder of this user's sessions on this machine."""
    return Path(tempfile.gettempdir()) / f"raydask-{os.getuid()}"


def new_session_folder() -> Path:
    """Make and return the folder of a new session.

    Raises
    ------
    StartError
        The folder cannot be made, or belongs to somebody else.
    """
    root = sessions_root()
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        if root.stat().st_uid != os.getuid():
            raise StartError(f"{root} belongs to another user; set TMPDIR to a folder of yours")
        folder = Path(tempfile.mkdtemp(prefix=time.strftime("s-%m%d-%H%M%S-"), dir=root))
    except OSError as error:
        raise StartError(
            f"no session folder can be made under {root}: {error}; set TMPDIR to a folder "
            "that can be written"
        ) from error
    if len(str(folder)) > 80:
        folder.rmdir()
        raise StartError(
            f"{folder} is too long a path for unix sockets (107 bytes); set TMPDIR to a shorter one"
        )
    return folder


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
        answer = self._read_line(time.monotonic() + self._options.config.start_timeout)
        if answer.get("error"):
            self.stop()
            raise StartError(answer["error"])

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
        answer: dict[str, Any] = json.loads(text)
        return answer

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
        ``"auto"`` for this user's latest session, or a session's folder.

    Raises
    ------
    ClusterUnavailableError
        There is none.
    """
    folder = Path(address)
    if address == "auto":
        folder = sessions_root() / LATEST
        if not folder.exists():
            raise ClusterUnavailableError(
                f"no session of this user runs on this machine (looked for {folder}); start one "
                "with raydask.init()"
            )
        folder = folder.resolve()
    if not (folder / NODE_SOCKET).exists():
        raise ClusterUnavailableError(
            f"{address!r} is not the folder of a running session; raydask.init() returns it as "
            '"address"'
        )
    return str(folder)


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


def await_welcome(connection: BlockingConnection) -> Welcome:
    """Return the node's answer to a ``Hello``.

    Raises
    ------
    ClusterUnavailableError
        It refuses, or does not answer.
    """
    messages = connection.receive(10.0)
    if not messages:
        connection.close()
        raise ClusterUnavailableError("the node did not answer within 10 s")
    welcome = messages[0]
    if not isinstance(welcome, Welcome) or len(messages) > 1:
        connection.close()
        raise ClusterUnavailableError(f"the node answered with {messages!r}")
    if welcome.refusal:
        connection.close()
        raise ClusterUnavailableError(welcome.refusal)
    return welcome
