"""The first word with a machine that wants to be a node of the cluster."""

from __future__ import annotations

import os

from raydask.control.schema import CLUSTER_KEY
from raydask.control.store import ControlStore, ControlStoreError
from raydask.wire.handshake import mismatch
from raydask.wire.messages import JoinCluster, Joined

_IDENTITY_BYTES = 8


def cluster_identity(store: ControlStore, wanted: str = "") -> str:
    """Return the cluster's identity: `wanted`, or one that is made, when it is asked for first.

    Raises
    ------
    ControlStoreError
    """
    new = wanted or os.urandom(_IDENTITY_BYTES).hex()
    if store.put_if_absent(CLUSTER_KEY, new.encode()):
        return new
    (found,) = store.read([CLUSTER_KEY])
    if found is None:
        raise ControlStoreError(f"{CLUSTER_KEY} has been deleted just now: is Redis being emptied?")
    return found.decode()


def answer_to(
    message: JoinCluster, store: ControlStore, cluster: str, shards: int, prefix: str
) -> Joined:
    """Return the answer to a machine that wants to join; waits for the control state."""
    refusal = mismatch(message.version, message.python, ours="this cluster", theirs="the new node")
    if refusal:
        return Joined(0, cluster, refusal, shards)
    try:
        if store.read([CLUSTER_KEY]) != [cluster.encode()]:
            lost = "Redis has lost the control state, and would give numbers a second time"
            return Joined(0, cluster, f"{lost}: end the cluster and start it again", shards)
        return Joined(store.increment("node"), cluster, "", shards, prefix)
    except ControlStoreError as error:
        return Joined(0, cluster, f"no node can join now: {error}", shards)
