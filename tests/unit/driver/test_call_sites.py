"""A call site is the innermost frame of a program, not of the engine."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from raydask.driver.call_sites import CallSiteRecorder, call_site
from raydask.ids import ObjectID
from raydask.wire.messages import CallSite


def frame_of(*modules: str) -> FrameType:
    """The innermost of frames of functions in these modules, each called by the one before."""
    source = "def call(rest):\n    return rest[0](rest[1:]) if rest else getframe()\n"
    functions = []
    for module in modules:
        namespace: dict[str, Any] = {"__name__": module, "getframe": sys._getframe}
        exec(compile(source, f"/{module}.py", "exec"), namespace)
        functions.append(namespace["call"])
    frame: FrameType = functions[0](functions[1:])
    return frame


def test_frames_of_the_engine_and_its_adapters_are_passed_over() -> None:
    assert call_site(frame_of("program")) == "/program.py:2 in call"
    assert call_site(frame_of("program", "raydask.driver.api")) == "/program.py:2 in call"
    assert call_site(frame_of("program", "dask.base", "raydask.compat.dask")) == (
        "/program.py:2 in call"
    )
    assert call_site(frame_of("raydask.worker", "daskful", "raydask")) == "/daskful.py:2 in call"


def test_there_may_be_no_program() -> None:
    assert call_site(None) == ""


def test_the_node_is_told_once_for_objects_that_are_made_together() -> None:
    said: list[Any] = []
    recorder = CallSiteRecorder(said.append)
    made = [ObjectID(b"a"), ObjectID(b"b")]
    recorder.note(made)
    recorder.note([])

    (message,) = said
    assert isinstance(message, CallSite)
    assert message.object_ids == made
    assert message.site.startswith(__file__ + ":")
    assert message.site.endswith(
        " in test_the_node_is_told_once_for_objects_that_are_made_together"
    )
