"""Ending sessions that stay."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from raydask.driver import launcher
from raydask.driver.observer import ask_node, drain_node
from raydask.errors import ClusterUnavailableError, UsageError
from raydask.session_folder import is_joined, running_sessions
from raydask.wire.endpoint import looks_like_endpoint, parse_endpoint

_STOP_SECONDS = 10.0
_GO_SECONDS = 15.0
"""How much longer than it is given a node may take to leave."""
_TO_STOP = "sessions are ended on their own machine, by their user"
_ASK_SECONDS = 1.0
_LOOK_SECONDS = 0.02


def stop_sessions(
    address: str | None = None,
    drain_seconds: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """End the sessions at an address, or all that have no program of their own; return which.

    Those of nodes that have joined a cluster end before that of its head.

    Parameters
    ----------
    address : str, optional
        As `raydask.init` takes it; with HOST:PORT all sessions of that cluster on this machine.
    drain_seconds : float, optional
        For how long they may finish what they do; if not given, they end at once.
    say : callable
        Told what is waited for.

    Raises
    ------
    UsageError
        The session at the address ends with the program that started it.
    ClusterUnavailableError
        There is none, or it has not ended in time.
    """
    if address is not None:
        folders = _sessions_at(address)
        for folder in folders:
            _end(folder, drain_seconds, say)
        return folders
    stopped = []
    for session in sorted(running_sessions(), key=is_joined, reverse=True):
        try:
            _end(str(session), drain_seconds, say)
        except UsageError:
            continue  # a program's own
        stopped.append(str(session))
    return stopped


def _sessions_at(address: str) -> list[str]:
    if looks_like_endpoint(address):
        sessions = launcher.sessions_of_cluster(parse_endpoint(address))
        if sessions:
            return [str(session) for session in reversed(sessions)]
    return [launcher.find_address(address, _TO_STOP)]


def _end(folder: str, drain_seconds: float | None, say: Callable[[str], None]) -> None:
    if drain_seconds is None:
        _stop(folder)
    else:
        _drain(folder, drain_seconds, say)


def _drain(folder: str, seconds: float, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + seconds + _GO_SECONDS
    asked_at, said = float("-inf"), ""
    while os.path.exists(folder):
        now = time.monotonic()
        if now > deadline:
            _stop(folder)
            return
        if now - asked_at >= _ASK_SECONDS:
            asked_at = now
            try:
                awaited = drain_node(folder, seconds)
            except ClusterUnavailableError:
                awaited = ""  # it has ended, or is about to
            if awaited and awaited != said:
                said = awaited
                say(f"the node in {folder} waits for {awaited}")
        time.sleep(_LOOK_SECONDS)


def _stop(folder: str) -> None:
    try:
        ask_node(folder, "end_session", None, bool)
    except ClusterUnavailableError:
        pass  # it ends already, or does not answer and is found to stay
    deadline = time.monotonic() + _STOP_SECONDS
    while os.path.exists(folder):
        if time.monotonic() > deadline:
            raise ClusterUnavailableError(
                f"the session in {folder} has been told to end and is there after "
                f"{_STOP_SECONDS:g} s; {folder}/logs may say why"
            )
        time.sleep(_LOOK_SECONDS)
