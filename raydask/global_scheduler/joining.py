"""The first word with a machine that wants to be a node of the cluster."""

from __future__ import annotations

import os

from raydask.control.schema import CLUSTER_KEY
from raydask.control.store import ControlStore, ControlStoreError
from raydask.wire.handshake import judge, versions_here
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
    refusal, _ = judge(message, ours="the head", theirs="the new node")
    number = 0
    if not refusal:
        try:
            if store.read([CLUSTER_KEY]) == [cluster.encode()]:
                number = store.increment("node")
            else:
                lost = "Redis has lost the control state, and would give numbers a second time"
                refusal = f"{lost}: end the cluster and start it again"
        except ControlStoreError as error:
            refusal = f"no node can join now: {error}"
    return Joined(number, cluster, refusal, shards, versions_here(), prefix)
