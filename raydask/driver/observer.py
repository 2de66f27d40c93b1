"""Asking a session's node, or a cluster, something without taking part in it.

An observer is no driver: it has no job, submits nothing and holds nothing, so whatever it
does leaves no trace in the session.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from raydask.config import from_environment
from raydask.errors import ClusterUnavailableError
from raydask.serialization import deserialize_error
from raydask.session_folder import NODE_SOCKET
from raydask.version import VERSION
from raydask.wire.connection import BlockingConnection, ConnectionLost, connect_unix
from raydask.wire.endpoint import Endpoint
from raydask.wire.guard import connect_guarded
from raydask.wire.handshake import await_welcome
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire.messages import Hello, Reply, Request
from raydask.wire.status import NodeStatus
from raydask.wire.tls import client_tls

T = TypeVar("T")

_ANSWER_SECONDS = 60.0
_CLOSE_SECONDS = 1.0


def ask_node(folder: str, operation: str, payload: object, result: type[T]) -> T:
    """Return the answer of the node whose session folder this is.

    Parameters
    ----------
    folder : str
    operation : str
        As in ``Request``.
    payload : object
        What the operation takes.
    result : type
        Of what it answers.

    Raises
    ------
    ClusterUnavailableError
        Nobody answers there.
    RaydaskError
        What the node answered with.
    """
    try:
        connection = connect_unix(os.path.join(folder, NODE_SOCKET))
    except OSError as error:
        raise ClusterUnavailableError(f"no node answers in {folder}: {error}") from error
    try:
        connection.send_message(Hello("observer", os.getpid(), VERSION))
        await_welcome(connection)
        connection.send_message(Request(0, operation, msgspec.msgpack.encode(payload)))
        reply = _await_reply(connection)
    except ConnectionLost as error:
        raise ClusterUnavailableError(
            f"the session in {folder} ended before its node answered: {error}"
        ) from error
    finally:
        connection.close()
    if reply.error:
        raise deserialize_error(reply.error)
    return msgspec.msgpack.decode(reply.payload, type=result)


def drain_node(folder: str, seconds: float, *, by_owner: bool = False) -> str:
    """Let the node whose session folder this is leave; return what it waits for.

    It may be asked again: the earliest deadline counts.

    Parameters
    ----------
    folder : str
    seconds : float
        After which it goes with what there is.
    by_owner : bool
        Whether the session is one that the asking program has started.

    Raises
    ------
    UsageError
        The session is another program's.
    ClusterUnavailableError
        Nobody answers there.
    """
    return ask_node(folder, "drain", (seconds, by_owner), str)


def number_of_node(folder: str) -> int:
    """Return the number of the node whose session folder this is; see `ask_node`."""
    nodes = ask_node(folder, "nodes", None, list[NodeStatus])
    return next(status.node for status in nodes if status.session == folder)


def ask_cluster(
    endpoint: Endpoint, secret: str, operation: str, payload: object, result: type[T]
) -> T:
    """Return the answer of the global scheduler that listens there; see `ask_node`."""
    exchange = _exchange(endpoint, secret, Request(0, operation, msgspec.msgpack.encode(payload)))
    with ThreadPoolExecutor(1) as pool:  # this thread may have a loop that runs
        try:
            reply = pool.submit(asyncio.run, exchange).result()
        except (OSError, asyncio.TimeoutError) as error:
            raise ClusterUnavailableError(
                f"no cluster answers at {endpoint}: {str(error) or 'it is too slow'}"
            ) from error
    if reply.error:
        raise deserialize_error(reply.error)
    return msgspec.msgpack.decode(reply.payload, type=result)


async def _exchange(endpoint: Endpoint, secret: str, request: Request) -> Reply:
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    lost = asyncio.Event()

    def on_message(protocol: FrameProtocol, message: object) -> None:
        if isinstance(message, Reply) and not answered.done():
            answered.set_result(message)

    def on_lost(protocol: FrameProtocol, error: BaseException | None) -> None:
        lost.set()
        if not answered.done():
            answered.set_exception(ConnectionError(f"it went away: {error}"))

    tls = client_tls(from_environment())
    protocol = await connect_guarded(
        endpoint, secret, lambda: FrameProtocol(on_message, on_lost), tls
    )
    try:
        protocol.send(Hello("observer", os.getpid(), VERSION))
        protocol.send(request)
        return await asyncio.wait_for(answered, _ANSWER_SECONDS)
    finally:
        protocol.close()
        # With TLS both ends say goodbye; a loop that ends before leaves the socket open.
        await asyncio.wait([asyncio.ensure_future(lost.wait())], timeout=_CLOSE_SECONDS)


def _await_reply(connection: BlockingConnection) -> Reply:
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ClusterUnavailableError(
                f"the node did not answer within {_ANSWER_SECONDS:g} s; it may be stopped"
            )
        for message in connection.receive(left):
            if isinstance(message, Reply):
                return message
