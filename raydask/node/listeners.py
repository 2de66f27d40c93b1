"""Where the other nodes of a cluster connect to this one."""

from __future__ import annotations

import socket
from typing import NamedTuple

from raydask.wire.endpoint import Endpoint, endpoint_of, listen_at


class Listeners(NamedTuple):
    """A node's two listening sockets.

    Attributes
    ----------
    link : socket.socket
        For messages.
    data : socket.socket
        For objects.
    """

    link: socket.socket
    data: socket.socket

    def close(self) -> None:
        """Listen no more."""
        self.link.close()
        self.data.close()


def open_listeners(host: str, link_port: int, data_port: int) -> Listeners:
    """Listen for other nodes.

    Raises
    ------
    StartError
        Nothing can listen there.
    """
    link = listen_at(Endpoint(host, link_port), "--host and --link-port")
    try:
        data = listen_at(Endpoint(host, data_port), "--host and --data-port")
    except BaseException:
        link.close()
        raise
    return Listeners(link, data)


def reached_at(listener: socket.socket) -> str:
    """Return the HOST:PORT at which other nodes reach a socket of this one."""
    return str(endpoint_of(listener).reachable)
