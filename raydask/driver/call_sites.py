"""Where the program that uses raydask made an object: told to the node, when asked for.

The setting ``record_call_sites`` switches it on for a session.  It costs a walk up the stack
and a message for each call, so it is for finding out who holds memory, not for every day.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

from raydask.ids import ObjectID
from raydask.wire.messages import CallSite

_PASSED_OVER = ("raydask", "dask")
"""Packages whose frames stand between a program and the objects that it makes."""


class CallSiteRecorder:
    """Notes where objects are made.

    Parameters
    ----------
    send : callable
        Takes a message for the node.
    """

    def __init__(self, send: Callable[[object], None]) -> None:
        self._send = send

    def note(self, object_ids: list[ObjectID]) -> None:
        """Tell the node that the calling thread is making these."""
        if object_ids:
            self._send(CallSite(call_site(sys._getframe(1)), object_ids))


def call_site(frame: FrameType | None) -> str:
    """Return the innermost place outside of the engine: ``"file:line in function"``.

    Empty when there is none.
    """
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in _PASSED_OVER:
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""
