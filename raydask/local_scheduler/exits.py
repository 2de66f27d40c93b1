"""How a worker's process ended, for people."""

from __future__ import annotations

import os
import signal

from raydask.wire.messages import ChildExited


def describe_exit(message: ChildExited, *, kernel_kills: int = 0) -> str:
    """Return a clause that says how a process ended.

    Parameters
    ----------
    message : ChildExited
    kernel_kills : int
        How many processes the kernel has ended for want of memory in the last moments.
    """
    status = message.status
    peak = f"its memory peaked at {message.peak_memory / 1e6:,.0f} MB"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "an unknown signal"
        text = f"process {message.pid} was ended by signal {number} ({name}); {peak}"
        if number == signal.SIGKILL and kernel_kills:
            text += (
                "; the kernel ended a process just then because memory had run out, most likely "
                "this one: see options(memory=…) and RAYDASK_MEMORY_USAGE_THRESHOLD"
            )
        return text
    return f"process {message.pid} exited with code {os.WEXITSTATUS(status)}; {peak}"
