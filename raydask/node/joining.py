"""How a node becomes part of a cluster: it proves itself, asks for a number, and is told more.

::

    node                                       global scheduler
      ---- proof of the secret: wire/guard.py --->
      ---- JoinCluster (its versions) ----------->
      <--- Joined (number, cluster; or why not) --
      closes; registers on a connection of its own when it is up

The connection is blocking: the node has nothing else to do yet.
"""

from __future__ import annotations

import socket
import time
from typing import Any, NamedTuple

from raydask.config import Config
from raydask.errors import StartError
from raydask.wire.authentication import AuthenticationError, NotRaydaskError
from raydask.wire.blocking_guard import connect_blocking
from raydask.wire.endpoint import Endpoint
from raydask.wire.framing import FrameDecoder, MalformedFrameError, encode
from raydask.wire.handshake import versions_here
from raydask.wire.messages import JoinCluster, Joined
from raydask.wire.tls import client_tls

_ANSWER_SECONDS = 10.0
_RECEIVE_SIZE = 1 << 16


class Membership(NamedTuple):
    """What a node is in its cluster.

    Attributes
    ----------
    number : int
    cluster : str
        The cluster's identity.
    shards : int
        How many Redis servers it has.
    control_prefix : str
        What the names of its keys there begin with.
    host : str
        The address of this machine that faces the head.
    versions : dict of str to str
        What the head runs, by names of ``raydask.wire.versions``.
    """

    number: int
    cluster: str
    shards: int
    control_prefix: str
    host: str
    versions: dict[str, str]


def join_cluster(head: Endpoint, secret: str, config: Config) -> Membership:
    """Ask the global scheduler that listens at `head` to be a node of its cluster.

    Raises
    ------
    StartError
        It cannot be: nobody answers there, or refuses, and why.
    """
    try:
        sock = connect_blocking(head, secret, client_tls(config), timeout=_ANSWER_SECONDS)
    except NotRaydaskError as error:
        raise StartError(
            f"no node can join at {error}; is that where a head listens (`raydask start --head` "
            "says where), and has this node the TLS settings of the head (RAYDASK_TLS_…)?"
        ) from error
    except AuthenticationError as error:
        raise StartError(
            f"no node can join the cluster at {error}; set RAYDASK_SECRET to that of its head"
        ) from error
    except OSError as error:
        raise StartError(
            f"no cluster answers at {head}: {error}; is its head up, does it listen at an address "
            "that this machine reaches (`raydask start --head --host`), and is the port open?"
        ) from error
    with sock:
        joined = ask_to_join(sock, head, time.monotonic() + _ANSWER_SECONDS)
        host = str(sock.getsockname()[0])
    if joined.refusal:
        raise StartError(f"the cluster at {head} refuses this node: {joined.refusal}")
    return Membership(
        joined.node,
        joined.cluster,
        joined.shards,
        joined.control_prefix,
        host,
        joined.versions,
    )


def ask_to_join(sock: socket.socket, head: Endpoint, deadline: float) -> Joined:
    """Return the answer of the global scheduler at the other end, who has proved himself.

    Raises
    ------
    StartError
        None came by the deadline (``time.monotonic``), or no such answer.
    """
    versions = versions_here()
    decoder = FrameDecoder()
    messages: list[Any] = []
    try:
        sock.sendall(encode(JoinCluster(versions.pop("raydask"), versions.pop("Python"), versions)))
        while not messages:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("it took too long")
            sock.settimeout(left)
            data = sock.recv(_RECEIVE_SIZE)
            if not data:
                raise ConnectionError("it closed the connection")
            messages = decoder.feed(data)
    except (OSError, MalformedFrameError) as error:
        raise StartError(
            f"the head at {head} did not answer: {error}; its logs/global-scheduler.log may say why"
        ) from error
    if not isinstance(messages[0], Joined):
        raise StartError(f"the head at {head} answered with {messages[0]!r}")
    return messages[0]
