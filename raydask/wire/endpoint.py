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
_EVERYWHERE = {"0.0.0.0": ("192.0.2.1", "127.0.0.1"), "::": ("2001:db8::1", "::1")}
"""Hosts that mean all addresses of a machine; for each, one far away that nobody has, the route
to which begins at the address that others know, and what there is without a network."""


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

    @property
    def reachable(self) -> Endpoint:
        """Where others reach what listens here, at all addresses of this machine perhaps."""
        if self.host not in _EVERYWHERE:
            return self
        far, fallback = _EVERYWHERE[self.host]
        with socket.socket(_family_of(self.host), socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((far, 9))  # which sends nothing
            except OSError:
                return Endpoint(fallback, self.port)
            return Endpoint(sock.getsockname()[0], self.port)

    def is_reached_at(self, other: Endpoint) -> bool:
        """Say whether what listens here, on this machine or another, is what `other` means."""
        if self.port != other.port:
            return False
        if self.host == other.host:
            return True
        meant = _addresses(other.host)
        if self.host in _EVERYWHERE:
            return any(_is_of_this_machine(address) for address in meant)
        return bool(meant & _addresses(self.host))


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


def listen_at(endpoint: Endpoint, options: str = "--host and --port") -> socket.socket:
    """Return a socket that listens there.

    Parameters
    ----------
    endpoint : Endpoint
    options : str
        With which another is chosen.

    Raises
    ------
    StartError
        Nothing can listen there.
    """
    try:
        family = _family_of(endpoint.host)
        listener = socket.create_server(endpoint, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StartError(
            f"nothing can listen at {endpoint}: {error}; choose another with {options}, "
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


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _addresses(host: str) -> set[str]:
    """Return the addresses that a host stands for; itself where nobody knows."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return {host}
    return {str(place[0]) for *_, place in found}


def _is_of_this_machine(address: str) -> bool:
    try:
        with socket.socket(_family_of(address), socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True
