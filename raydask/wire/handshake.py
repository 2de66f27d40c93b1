"""The first exchange on a connection to a node: what each end makes of what the other says."""

from __future__ import annotations

import sys

from raydask.errors import ClusterUnavailableError
from raydask.version import VERSION
from raydask.wire.connection import BlockingConnection
from raydask.wire.messages import Hello, Welcome

_ANSWER_SECONDS = 10.0


def await_welcome(connection: BlockingConnection) -> Welcome:
    """Return the node's answer to a ``Hello``.

    Raises
    ------
    ClusterUnavailableError
        It refuses, or does not answer.
    """
    messages = connection.receive(_ANSWER_SECONDS)
    if not messages:
        connection.close()
        raise ClusterUnavailableError(f"the node did not answer within {_ANSWER_SECONDS:g} s")
    welcome = messages[0]
    if not isinstance(welcome, Welcome) or len(messages) > 1:
        connection.close()
        raise ClusterUnavailableError(f"the node answered with {messages!r}")
    if welcome.refusal:
        connection.close()
        raise ClusterUnavailableError(welcome.refusal)
    return welcome


def refusal_of(hello: Hello) -> str:
    """Return why a node cannot work with the process that says this; empty if it can."""
    return mismatch(hello.version, hello.python, ours="this session", theirs="the driver")


def mismatch(version: str, python: str, *, ours: str, theirs: str) -> str:
    """Return why those who have other versions cannot work with this one; empty if they can.

    Parameters
    ----------
    version, python : str
        Of raydask and of Python, as in ``Hello``; empty where they do not matter.
    ours, theirs : str
        What to call the two sides.
    """
    if version and version != VERSION:
        return (
            f"{ours} runs raydask {VERSION} and {theirs} has {version}; "
            "install the same version in both"
        )
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python and python != here:
        return (
            f"{ours} runs on Python {here} and {theirs} on {python}; pickled "
            "functions do not travel between them: use the same Python for both"
        )
    return ""
