"""The first exchange on a connection to a node, as the process that connects sees it."""

from __future__ import annotations

from raydask.errors import ClusterUnavailableError
from raydask.wire.connection import BlockingConnection
from raydask.wire.messages import Welcome

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
