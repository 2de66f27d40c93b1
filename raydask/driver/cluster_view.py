"""What can be seen of a cluster from this machine, with or without its head."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from raydask.driver import launcher
from raydask.driver.observer import ask_cluster, ask_node
from raydask.driver.session import find_session
from raydask.errors import ClusterUnavailableError
from raydask.wire.endpoint import looks_like_endpoint, parse_endpoint
from raydask.wire.status import NodeStatus

T = TypeVar("T")

_TO_SEE_STATUS = "the head of one elsewhere answers who knows its secret: set RAYDASK_SECRET to it"
_TO_SEE_MEMORY = (
    "each node tells of its own memory, on its own machine: ask on one where a node of that "
    "cluster runs"
)


class ClusterView(NamedTuple):
    """What is known of a cluster's nodes.

    Attributes
    ----------
    nodes : list of NodeStatus
    silence : str
        Why the head of the cluster does not answer; empty if it does, or was not asked.
    """

    nodes: list[NodeStatus]
    silence: str = ""

    @property
    def unknown(self) -> list[int]:
        """The nodes of which there is only what another has last heard."""
        return [status.node for status in self.nodes if not status.session]

    @property
    def warning(self) -> str:
        """What people have to know who read this; empty: nothing."""
        if not self.silence:
            return ""
        text = f"the head of the cluster does not answer: {self.silence}"
        if self.unknown:
            numbers = ", ".join(map(str, self.unknown))
            text += f"\nwhether it is alive, and what it does, is not known of node {numbers}"
        return text


def view_cluster(address: str | None = None) -> ClusterView:
    """Return the state of each node; see `raydask.util.cluster_status`."""
    session = find_session()
    if address is None and session is not None:
        return ClusterView(session.request("nodes", None, list[NodeStatus]))
    if address is not None and looks_like_endpoint(address):
        secret = launcher.secret_from_environment()
        if secret:
            endpoint = parse_endpoint(address)
            return ClusterView(ask_cluster(endpoint, secret, "nodes", None, list[NodeStatus]))
    folder = launcher.find_address(address or "auto", _TO_SEE_STATUS)
    nodes = ask_node(folder, "nodes", None, list[NodeStatus])
    listens = launcher.endpoint_of_session(folder)
    if not listens:
        return ClusterView(nodes)
    try:
        # A node knows less of the others, and later.
        secret = launcher.secret_of_session(folder)
        seen = ask_cluster(parse_endpoint(listens), secret, "nodes", None, list[NodeStatus])
    except ClusterUnavailableError as error:
        return ClusterView(nodes, str(error))
    by_number = {status.node: status for status in seen}
    by_number.update((status.node, status) for status in nodes if status.session == folder)
    return ClusterView([by_number[number] for number in sorted(by_number)])


def ask_own_node(address: str | None, operation: str, payload: object, result: type[T]) -> T:
    """Ask the node of this process, or the one on this machine that `address` means."""
    session = find_session()
    if address is None and session is not None:
        return session.request(operation, payload, result)
    folder = launcher.find_address(address or "auto", _TO_SEE_MEMORY)
    return ask_node(folder, operation, payload, result)


def nodes_of_cluster(address: str | None) -> int:
    """Return of how many nodes that one is one, as far as it knows."""
    nodes = ask_own_node(address, "nodes", None, list[NodeStatus])
    return sum(status.alive for status in nodes)
