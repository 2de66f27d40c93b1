"""Ending sessions that stay."""

from __future__ import annotations

import os
import time

from raydask.driver import launcher
from raydask.driver.observer import ask_node
from raydask.errors import ClusterUnavailableError, UsageError
from raydask.session_folder import is_joined, running_sessions
from raydask.wire.endpoint import looks_like_endpoint, parse_endpoint

_STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.02


def stop_sessions(address: str | None = None) -> list[str]:
    """End the sessions at an address, or all that have no program of their own; return which.

    Those of nodes that have joined a cluster end before that of its head.

    Parameters
    ----------
    address : str, optional
        As `raydask.init` takes it; with HOST:PORT all sessions of that cluster on this machine.

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
            _stop(folder)
        return folders
    stopped = []
    for session in sorted(running_sessions(), key=is_joined, reverse=True):
        try:
            _stop(str(session))
        except UsageError:
            continue  # a program's own
        stopped.append(str(session))
    return stopped


def _sessions_at(address: str) -> list[str]:
    if looks_like_endpoint(address):
        sessions = launcher.sessions_of_cluster(parse_endpoint(address))
        if sessions:
            return [str(session) for session in reversed(sessions)]
    return [launcher.find_address(address)]


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
