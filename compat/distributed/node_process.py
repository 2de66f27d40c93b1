"""One node as a child process: ``raydask start``, which ends when its standard input does.

So whatever becomes of the process that started it, the node leaves its cluster in good order: it
finishes what it runs and hands over what it keeps, for which it may outlive its parent.
"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from raydask.errors import StartError, UsageError

_EXIT_SECONDS = 1.0
"""How long a process that has closed its output may take to end."""
_END_SECONDS = 15.0
"""How much longer than it is given a node may take to leave."""


def check_seconds(name: str, value: Any) -> None:
    """Refuse what are no seconds, before anything is started with them.

    Raises
    ------
    UsageError
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise UsageError(f"{name} must be a number of seconds that is not negative, not {value!r}")


class RunningNode(NamedTuple):
    """A node that is up.

    Attributes
    ----------
    node : int
    session : str
        Its session's folder, on its own machine.
    address : str
        HOST:PORT of its cluster.
    """

    node: int
    session: str
    address: str


class NodeProcess:
    """A node that this process starts and ends; for use in threads, since both take a while.

    Parameters
    ----------
    options : sequence of str
        Of ``raydask start``.
    secret : str
        The cluster's.
    drain_seconds : float or None
        For how long the node may finish what it does; None: it ends at once.
    environment : mapping of str to str
        Added to this process's.
    launch : sequence of str
        A command that runs the one that follows it, here or elsewhere, with the environment and
        standard input that it is given itself.
    """

    def __init__(
        self,
        options: Sequence[str],
        secret: str,
        *,
        drain_seconds: float | None,
        environment: Mapping[str, str] | None = None,
        launch: Sequence[str] = (),
    ) -> None:
        self._command = [*launch, sys.executable, "-m", "raydask", "start", *options]
        self._command += ["--block", "--until-eof", "--json"]
        if drain_seconds is not None:
            self._command += ["--drain", "--drain-seconds", str(drain_seconds)]
        self._patience = _END_SECONDS + (drain_seconds or 0.0)
        self._environment = {**(environment or {}), "RAYDASK_SECRET": secret}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 60.0) -> RunningNode:
        """Start the node, and wait until it is up.

        Parameters
        ----------
        timeout : float
            Seconds.

        Raises
        ------
        StartError
            It is not up; nothing of it is left.
        """
        with tempfile.TemporaryFile() as errors:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={**os.environ, **self._environment},
                    # What ends its parent's process group shall not end it: it leaves by itself.
                    start_new_session=True,
                )
            except OSError as error:
                raise StartError(f"a raydask node could not be started: {error}") from error
            line = self._read_line(time.monotonic() + timeout)
            if line is not None and line.endswith(b"\n"):
                return RunningNode(**json.loads(line))
            code = self._end_at_once(_EXIT_SECONDS if line is not None else 0.0)
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
        late = f"it was not up after {timeout:g} s"
        cause = said or (late if line is None else f"it ended with exit code {code}")
        raise StartError(f"a raydask node could not be started: {cause}")

    def _read_line(self, deadline: float) -> bytes | None:
        """Return what it says first, without the line's end if it says no more; None: too late."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        line = b""
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                return None
            piece = os.read(descriptor, 65536)
            if not piece:
                break
            line += piece
        return line

    def _end_at_once(self, patience: float) -> int | None:
        """End it, unless it ends by itself in so many seconds; return its exit code."""
        process = self._process
        assert process is not None
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()  # with it ends the pipe that the node lives by
        self._finish()
        return process.returncode

    def wait(self) -> None:
        """Wait until the node has ended, for whatever reason."""
        process = self._process
        if process is not None:
            process.wait()

    def ask_to_end(self) -> None:
        """Have the node leave; `close` waits for that."""
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()

    def close(self) -> None:
        """Have the node leave, and wait until nothing of it is left; harmless when done twice."""
        process = self._process
        if process is None:
            return
        self.ask_to_end()
        try:
            process.wait(self._patience)
        except subprocess.TimeoutExpired:
            process.kill()
        self._finish()

    def _finish(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
