"""What the global scheduler's core asks its shell to do. Pure."""

from __future__ import annotations

import msgspec

from raydask.ids import NodeNumber


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send a message to a node, if it is connected."""

    node: NodeNumber
    message: object


class Persist(msgspec.Struct, frozen=True, gc=False):
    """Have everything journaled so far in the control state before sending what follows.

    What a node has been told about an actor or a name, a restarted global scheduler knows.
    """


class Disconnect(msgspec.Struct, frozen=True, gc=False):
    """End a node's connection, once it has been sent all that was said before."""

    node: NodeNumber


class WakeAfter(msgspec.Struct, frozen=True, gc=False):
    """Say that the clock has ticked in so many seconds, whatever happens until then."""

    seconds: float


Action = Send | Persist | Disconnect | WakeAfter
