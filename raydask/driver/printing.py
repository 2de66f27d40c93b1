"""What the node has a program show to its user."""

from __future__ import annotations

import sys

from raydask.wire.messages import LogLines, Notice


def print_lines(message: LogLines) -> None:
    """Print what workers have printed, each line with who has."""
    for line in message.lines:
        stream = sys.stderr if line.stream == "stderr" else sys.stdout
        if stream is None:
            continue  # a program without a terminal may have closed it
        # In one write: print() would make two of an unbuffered stream, and the program's own
        # threads print too.
        stream.write(f"({line.name} pid={line.pid}) {line.text}\n")
        stream.flush()


def print_notice(message: Notice) -> None:
    """Print a warning."""
    print(f"raydask: {message.text}", file=sys.stderr, flush=True)
