"""One blocking connection to one Redis server.

``hiredis`` packs the commands and parses the replies; what is left is a socket.  The full
client, ``redis``, imports asyncio, ssl and every command there is before its first line
runs: 90 ms and 10 MB in each process that touches control state, against 1 ms and nothing
for ``hiredis`` alone (measured with redis 8.1 on Python 3.11, asyncio loaded before).

Invariants
----------
- Not thread-safe; whoever owns it serialises its use.
- After any exception from `send` or `receive` the stream is out of step, and the owner
  closes the connection.  The next `send` opens a new one.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from raydask.errors import UsageError

if TYPE_CHECKING:
    import ssl

Command = tuple["str | bytes | int", ...]
"""A Redis command: its name and its arguments."""

Reply = Any
"""``bytes``, ``int``, None, a list of replies, or a ``hiredis.ReplyError`` instance."""

CONNECTION_FAILURES = (OSError, hiredis.ProtocolError)
"""What `RedisConnection.send` and `receive` raise when the connection is of no more use."""

DEFAULT_PORT = 6379
_RECEIVE_BYTES = 1 << 16
_PASSWORD = re.compile(r"://[^/]*@")


class Address(Protocol):
    """A Redis server, and how to log in; the text is for people, without the password."""

    @property
    def user(self) -> str:
        """Empty for none."""

    @property
    def password(self) -> str:
        """Empty for none."""

    @property
    def database(self) -> int:
        """The number of the database."""

    def connect(self, timeout: float) -> socket.socket:
        """Return a new connection, on which a read or write may take so many seconds.

        Raises
        ------
        OSError
        """


class RedisAddress(NamedTuple):
    """Where a Redis server listens, and how to log in.

    Attributes
    ----------
    path : str
        The unix socket; empty for TCP.
    host, port : str, int
        For TCP.
    tls : bool
        Whether the TCP connection is encrypted and the server's certificate verified.
    authority : str
        The file of the certificate authority; empty for the system's.
    user, password : str
        Empty for none.
    database : int
    """

    path: str = ""
    host: str = ""
    port: int = DEFAULT_PORT
    tls: bool = False
    authority: str = ""
    user: str = ""
    password: str = ""
    database: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.database}"

    def connect(self, timeout: float) -> socket.socket:
        """See `Address`."""
        if self.path:
            unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                unix.settimeout(timeout)
                unix.connect(self.path)
            except BaseException:
                unix.close()
                raise
            return unix
        tcp = socket.create_connection((self.host, self.port), timeout)
        try:
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = self.tls_context()
            return context.wrap_socket(tcp, server_hostname=self.host) if context else tcp
        except BaseException:
            tcp.close()
            raise

    def tls_context(self) -> ssl.SSLContext | None:
        """Return what the connection is encrypted with; None: it is not."""
        if not self.tls:
            return None
        import ssl  # 7 ms and 3 MB that only TLS needs

        return ssl.create_default_context(cafile=self.authority or None)


def parse_url(url: str, password: str = "") -> RedisAddress:
    """Return the address that `url` stands for.

    Parameters
    ----------
    url : str
        ``unix:///path/to/socket``, ``redis://[user:password@]host[:port][/database]``, or
        ``rediss://`` for TLS, with ``?ca=/path/to/ca.pem`` where the server's certificate
        is not signed by an authority that the system knows.
    password : str
        Used where the URL has none.

    Raises
    ------
    UsageError
        When it is none of these.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
        named = parts.path if parts.scheme in ("redis", "rediss") else ""
        database = int(named.strip("/") or 0)
    except ValueError as error:
        shown = without_password(url)
        raise UsageError(f"not the URL of a Redis server ({error}): {shown!r}") from None
    options = parse_qs(parts.query)
    address = RedisAddress(
        user=unquote(parts.username or ""),
        password=unquote(parts.password or "") or password,
        database=database,
        authority=options.get("ca", [""])[0],
    )
    if parts.scheme == "unix" and parts.path:
        return address._replace(path=unquote(parts.path))
    if parts.scheme in ("redis", "rediss") and parts.hostname:
        return address._replace(host=parts.hostname, port=port, tls=parts.scheme == "rediss")
    raise UsageError(
        "the URL of a Redis server begins with unix:///, redis://host or rediss://host, "
        f"and this one does not: {without_password(url)!r}"
    )


def without_password(url: str) -> str:
    """Return a URL as people may see it."""
    return _PASSWORD.sub("://***@", url)


def login_commands(address: Address) -> list[Command]:
    """Return what is to be sent first on a connection."""
    login: list[Command] = []
    if address.password:
        names = (address.user,) if address.user else ()
        login.append(("AUTH", *names, address.password))
    if address.database:
        login.append(("SELECT", address.database))
    return login


class RedisConnection:
    """A connection that sends pipelines of commands and receives their replies.

    Parameters
    ----------
    address : Address
    timeout : float
        Seconds that one read or write on the socket may take.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()
        self.times_connected = 0

    def send(self, commands: Sequence[Command]) -> None:
        """Send `commands` in one write, connecting and logging in first where needed."""
        if self._socket is None:
            self._connect()
        assert self._socket is not None
        self._socket.sendall(pack(commands))

    def receive(self, count: int) -> list[Reply]:
        """Return the replies to `count` commands that were sent before."""
        if self._socket is None:
            raise ConnectionResetError("the connection to Redis is closed")
        reader = self._reader
        replies: list[Reply] = []
        while len(replies) < count:
            reply = reader.gets()
            if reply is not False:  # RESP2, which is what is spoken here, has no booleans
                replies.append(reply)
                continue
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("Redis closed the connection")
            reader.feed(data)
        return replies

    def close(self) -> None:
        """Close the socket; allowed at any time."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        address = self.address
        self._socket = address.connect(self._timeout)
        self._reader = hiredis.Reader()
        login = login_commands(address)
        try:
            self._socket.sendall(pack(login))
            for reply in self.receive(len(login)):
                if isinstance(reply, hiredis.ReplyError):
                    raise reply
        except BaseException:
            self.close()
            raise
        self.times_connected += 1


def pack(commands: Sequence[Command]) -> bytes:
    """Return commands as they are sent."""
    # hiredis annotates the command as a tuple of one; it takes one of any length.
    pack_one = cast(Any, hiredis.pack_command)
    return b"".join([pack_one(command) for command in commands])
