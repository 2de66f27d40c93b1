"""What a driver is shown of what its workers print, as long as it reads it.

A program that is stopped, or whose terminal is, reads nothing, while its workers go on printing.
What waits for it would grow in the node without end.  So the lines that find too much waiting are
dropped, and counted; when the program has read most of what waits, it is told how many they were.
Nothing else that it is sent is ever dropped: all of that it has asked for.
"""

from __future__ import annotations

from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.messages import LogLine, LogLines, Notice

MOST_WAITING = 16 << 20
"""Bytes that may wait for a driver before lines are dropped."""


class ShownLines:
    """The lines that go to one driver.

    Parameters
    ----------
    protocol : FrameProtocol
        The driver's, which is connected.
    most_waiting : int
        Bytes.
    """

    def __init__(self, protocol: FrameProtocol, most_waiting: int = MOST_WAITING) -> None:
        self._protocol = protocol
        self._dropped = 0
        protocol.limit_waiting(most_waiting, self._go_on)

    def show(self, lines: list[LogLine]) -> None:
        """Send lines, unless too much waits to be read."""
        if self._protocol.is_full:
            self._dropped += len(lines)
        else:
            self._protocol.send(LogLines(lines))

    def _go_on(self) -> None:
        """Say what has been dropped, for it is read again."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._protocol.send(
                Notice(
                    f"{dropped} lines that workers have printed are not shown, for this program "
                    "did not read them; the workers' logs have them"
                )
            )
