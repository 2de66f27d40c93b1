"""The runner's end of a host: launch, ask, pause, and make sure that nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import processes

_REPOSITORY = Path(__file__).resolve().parent.parent
_EXIT_SECONDS = 20.0
_GRACE_SECONDS = 5.0


class HostError(Exception):
    """A host reported an error, took too long, or died."""


class HostProcess:
    """One contender's driver in a child process (see `benchmarks.host`).

    Parameters
    ----------
    starts_contender
        False where the case starts the contender itself.
    limit
        Seconds that any answer may take.
    """

    def __init__(self, contender: str, *, cpus: int, starts_contender: bool, limit: float) -> None:
        self._contender = contender
        self._token = secrets.token_hex(8)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by `close`
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            processes.TOKEN_VARIABLE: self._token,
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(_REPOSITORY), os.environ.get("PYTHONPATH")))
            ),
        }
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.host", str(theirs.fileno())),
                    *(contender, str(cpus), "start" if starts_contender else "bare"),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        ours.settimeout(limit)
        self._connection = ours
        self._replies = ours.makefile("r", encoding="utf-8")

    def wait_ready(self) -> None:
        """Wait until the contender has started."""
        self._receive()

    def ask(self, do: str, case: str, *, quick: bool) -> dict[str, Any]:
        """Run a case on the contender and return the host's reply.

        Raises
        ------
        HostError
            With the host's traceback, or with the end of its output when it died or hangs.
        """
        request = json.dumps({"do": do, "case": case, "quick": quick})
        with contextlib.suppress(OSError):
            self._connection.sendall(request.encode() + b"\n")
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._replies.readline()
        except TimeoutError:
            raise HostError(f"no answer within {self._connection.gettimeout():.0f} s") from None
        except OSError:
            line = ""
        if not line:
            raise HostError(f"the host ended; the last of its output:\n{self._last_output()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise HostError(reply["error"])
        return reply

    def pause(self) -> None:
        """Stop the host and all its processes from running."""
        processes.pause(self._token, self._process.pid)

    def resume(self) -> None:
        """Let them run again."""
        processes.resume(self._token, self._process.pid)

    def close(self) -> int:
        """Stop the contender and the host; return how many processes had to be killed."""
        with contextlib.suppress(OSError):
            self._connection.sendall(b'{"do": "stop"}\n')
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        return self.kill(grace=_GRACE_SECONDS)

    def kill(self, *, grace: float = 0.0) -> int:
        """End whatever is left after ``grace`` seconds, without asking."""
        killed = processes.end(self._token, self._process.pid, grace=grace)
        self._process.wait()
        self._replies.close()
        self._connection.close()
        self._log.close()
        return killed

    def _last_output(self, size: int = 2_000) -> str:
        self._log.flush()
        end = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, max(0, end - size)).decode(errors="replace")
