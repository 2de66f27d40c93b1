"""The first exchange on a connection to a node: what each end makes of what the other says."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import msgspec

from raydask.errors import ClusterUnavailableError
from raydask.task import ActorOptions
from raydask.version import VERSION
from raydask.wire import messages as wire
from raydask.wire.connection import BlockingConnection
from raydask.wire.messages import Hello, JoinCluster, Welcome
from raydask.wire.versions import Comparison, Party, compare, digest_of

_ANSWER_SECONDS = 10.0
_LIBRARIES = ("cloudpickle", "numpy", "pyarrow")
"""What functions and values are pickled with."""


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


@functools.cache
def protocol() -> str:
    """Return a text that differs where what processes say to one another does."""
    others = [
        each
        for each in vars(wire).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct)
    ]
    return digest_of(dict.fromkeys([*wire.FRAME_TYPES, *others, ActorOptions]))


def versions_here() -> dict[str, str]:
    """Return the versions of this process; of libraries, if it has loaded them."""
    python = ".".join(map(str, sys.version_info[:3]))
    found = {"raydask": VERSION, "Python": python, "protocol": protocol()}
    for name in _LIBRARIES:
        version = getattr(sys.modules.get(name), "__version__", "")
        if version:
            found[name] = str(version)
    return found


def versions_in(message: Hello | JoinCluster) -> dict[str, str]:
    """Return the versions that another process has named."""
    return {"raydask": message.version, "Python": message.python, **message.others}


def judge(
    message: Hello | JoinCluster, *, ours: str, theirs: str, beside: Sequence[Party] = ()
) -> Comparison:
    """Say whether this process can work with one that says this.

    Parameters
    ----------
    message : Hello or JoinCluster
    ours, theirs : str
        What to call the two.
    beside : sequence of Party
        See `compare`.
    """
    return compare((ours, versions_here()), (theirs, versions_in(message)), beside)
