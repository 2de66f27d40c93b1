"""Where on a network something listens."""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

from raydask.errors import StartError, UsageError

_BACKLOG = 512
_KEEPALIVE = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 5),
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 2),
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, 3),
    ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, 11_000),
)
"""Seconds, a number, and milliseconds: after about eleven seconds of silence it is over."""
_TEXT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\[\]/\s]+)):(?P<port>\d{1,5})")


class Endpoint(NamedTuple):
    """A host and a port.

    Attributes
    ----------
    host : str
        A name or an address.
    port : int
        0 where any that is free will do.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        import ipaddress  # in each process otherwise, for the one that asks

        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def looks_like_endpoint(text: str) -> bool:
    """Say whether the text is meant to be ``HOST:PORT``."""
    return _TEXT.fullmatch(text) is not None


def parse_endpoint(text: str) -> Endpoint:
    """Return the endpoint that ``HOST:PORT`` or ``[ADDRESS]:PORT`` names.

    Raises
    ------
    UsageError
        It names none.
    """
    found = _TEXT.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise UsageError(f"{text!r} is not HOST:PORT with a port from 0 to 65535")
    return Endpoint(found["six"] or found["host"], int(found["port"]))


def listen_at(endpoint: Endpoint) -> socket.socket:
    """Return a socket that listens there.

    Raises
    ------
    StartError
        Nothing can listen there.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        listener = socket.create_server(endpoint, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StartError(
            f"nothing can listen at {endpoint}: {error}; choose another with --host and --port, "
            "or port 0 for any that is free"
        ) from error
    notice_silence(listener)  # what it accepts inherits it
    return listener


def notice_silence(sock: socket.socket) -> None:
    """Have a TCP connection end when the other end's machine is gone, which says no goodbye.

    Nothing is asked of the other process: one that is only slow is not taken for dead.
    """
    for name, level, value in _KEEPALIVE:
        if hasattr(socket, name):  # not every system has them all
            sock.setsockopt(level, getattr(socket, name), value)


def endpoint_of(listener: socket.socket) -> Endpoint:
    """Return where a socket listens."""
    host, port = listener.getsockname()[:2]
    return Endpoint(host, port)
