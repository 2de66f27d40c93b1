"""Starting a session from a driver, and finding one that runs.

The driver starts one process, the supervisor, and hears on a pipe that the session is up, or
why not.  The supervisor in turn takes the end of its own standard input to mean that the
driver is gone.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from raydask.config import SessionOptions
from raydask.errors import ClusterUnavailableError, StartError
from raydask.session_folder import LATEST, NODE_SOCKET, sessions_root
from raydask.version import VERSION
from raydask.wire.connection import BlockingConnection, connect_unix
from raydask.wire.handshake import await_welcome
from raydask.wire.messages import Hello, Welcome

_log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0


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
