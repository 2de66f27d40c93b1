"""Where a cluster's control state is: which Redis servers, and which keys on them are its own.

A Redis that the session started is the cluster's alone, and its keys are as in
``raydask.control.schema``.  An *external* one was there before and is there afterwards; clusters
and programs that know nothing of one another may share it.  So each cluster puts its identity
in front of all its keys: clusters cannot meet, and what is one cluster's can be told, and
removed, without a look at anything else.
"""

from __future__ import annotations

import ssl
from typing import NamedTuple

import hiredis

from raydask.control.redis_connection import (
    CONNECTION_FAILURES,
    RedisAddress,
    RedisConnection,
    parse_url,
)
from raydask.control.redis_store import RedisStore, remedy_for
from raydask.control.schema import CLUSTER_KEY
from raydask.control.store import ControlStoreError
from raydask.errors import StartError, UsageError

LEAST_VERSION = (6, 0)
CHECK_SECONDS = 5.0
REMOVAL_SECONDS = 1.0


class ControlPlace(NamedTuple):
    """Where the control state is.

    Attributes
    ----------
    servers : list of RedisAddress
        In the order of their shards.
    cluster : str
        The cluster's identity, where the servers are external; else empty.
    """

    servers: list[RedisAddress]
    cluster: str = ""

    @property
    def prefix(self) -> str:
        """What the names of all keys begin with."""
        return f"raydask:{self.cluster}:" if self.cluster else ""


def parse_place(urls: str, cluster: str, password: str = "") -> ControlPlace:
    """Return the place on external servers.

    Parameters
    ----------
    urls : str
        One a shard, with commas between; see ``redis_connection.parse_url``.
    cluster : str
    password : str
        For the URLs that have none.

    Raises
    ------
    UsageError
    """
    servers = [parse_url(url.strip(), password) for url in urls.split(",")]
    if len({str(server) for server in servers}) < len(servers):
        raise UsageError("two shards of the control state name the same database of a Redis")
    return ControlPlace(servers, cluster)


def check_servers(place: ControlPlace) -> list[str]:
    """See that external servers are of use; return warnings for people.

    Raises
    ------
    StartError
        One is not, and what to do about it.
    """
    warnings = []
    for server in place.servers:
        warnings += _check(server)
    return warnings


def _check(server: RedisAddress) -> list[str]:
    connection = RedisConnection(server, CHECK_SECONDS)
    try:
        connection.send([("INFO",)])
        (reply,) = connection.receive(1)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
    except hiredis.ReplyError as error:
        raise StartError(f"Redis at {server} refuses ({error}): {remedy_for(str(error))}") from None
    except ssl.SSLCertVerificationError as error:
        raise StartError(
            f"the certificate of Redis at {server} is not trusted ({error.verify_message}): name "
            "the file of the authority that signed it, as in rediss://host:port/0?ca=/path/ca.pem"
        ) from error
    except CONNECTION_FAILURES as error:
        other = "redis://, if it speaks no TLS" if server.tls else "rediss://, if it speaks TLS"
        hint = "" if server.path else f"; is the port the right one (and {other}), and open?"
        raise StartError(
            f"no Redis answers at {server}: {error}; does it run, and can this machine reach it"
            f"{hint or '?'}"
        ) from error
    finally:
        connection.close()
    return _judge(server, _fields(reply))


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value.strip() for name, _, value in lines}


def _judge(server: RedisAddress, info: dict[str, str]) -> list[str]:
    """Return what is to be said of a server that describes itself so; refuse it if need be."""
    version = info.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < LEAST_VERSION:
        raise StartError(
            f"Redis at {server} is of version {version or 'unknown'}: raydask needs "
            f"{'.'.join(map(str, LEAST_VERSION))} or later, or Valkey"
        )
    if info.get("redis_mode") == "cluster":
        raise StartError(
            f"Redis at {server} is part of a Redis Cluster, which moves keys by itself: name "
            "servers that are not, with commas between; raydask spreads the keys over them"
        )
    if info.get("role", "master") != "master":
        raise StartError(
            f"Redis at {server} is a replica, which cannot be written: name the server that it "
            f"copies ({info.get('master_host', '?')}:{info.get('master_port', '?')})"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    warnings = []
    if info.get("maxmemory", "0") != "0" and policy != "noeviction":
        warnings.append(
            f"Redis at {server} drops keys when its memory is full (maxmemory-policy {policy}), "
            "and what it drops cannot be rebuilt: set it to noeviction"
        )
    if info.get("aof_enabled") == "0":
        warnings.append(
            f"Redis at {server} keeps no append-only file: the cluster does not survive it if it "
            "is started again; set appendonly to yes"
        )
    return warnings


def claim_place(place: ControlPlace) -> None:
    """Write the cluster's identity where its control state will be.

    Raises
    ------
    ControlStoreError
    """
    store = RedisStore(place.servers, prefix=place.prefix, timeout=CHECK_SECONDS, attempts=2)
    store.start()
    try:
        store.put_if_absent(CLUSTER_KEY, place.cluster.encode())
    finally:
        store.close()


def clear_place(place: ControlPlace) -> str:
    """Remove the control state of a cluster that has ended; return why it could not be, if so."""
    store = RedisStore(place.servers, prefix=place.prefix, timeout=REMOVAL_SECONDS, attempts=1)
    try:
        store.start()
        store.clear()
    except ControlStoreError as error:
        return str(error)
    finally:
        store.close()
    return ""
