"""Several nodes, simulated: their real cores, with simulated processes, links and transfers.

The global scheduler here grants any leases at any time, and takes them away again: what the nodes
make of them must be right whatever they are.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from functools import partial

from raydask.ids import ObjectID, TaskID
from raydask.local_scheduler import actions, events
from raydask.testing.clock import VirtualClock
from raydask.testing.cluster import Faults, SimulatedCluster
from raydask.testing.links import Link
from raydask.testing.processes import SimulatedWorker
from raydask.testing.programs import Program
from raydask.wire import messages as wire

_GRANT_SECONDS = 0.01


class SimulatedNodes:
    """A cluster of several nodes.

    Parameters
    ----------
    seed : int
    programs : dict of str to Program
    count : int
        How many nodes there are.
    resources : dict of str to int
        Of each node, beside its CPUs.
    faults : Faults
    store_bytes : int
    failed_pull : float
        How often a pull fails in the middle.
    """

    def __init__(
        self,
        seed: int,
        programs: dict[str, Program],
        count: int = 3,
        *,
        cpus: int = 2,
        resources: dict[str, int] | None = None,
        faults: Faults = Faults(),  # noqa: B008  (immutable)
        store_bytes: int = 1 << 40,
        failed_pull: float = 0.0,
    ) -> None:
        self.rng = random.Random(seed)
        self.clock = VirtualClock()
        self.runs: dict[TaskID, int] = {}
        self.running: dict[TaskID, SimulatedWorker] = {}
        self.has_lost = False
        self.leaving: set[int] = set()
        self._said_by_global: defaultdict[tuple[int, int], deque[events.Event]]
        self._said_by_global = defaultdict(deque)
        self.lent = 0
        self.hosted = 0
        self.pulled = 0
        self._failed_pull = failed_pull
        self._demands: dict[tuple[int, int], wire.ShapeDemand] = {}
        self._leases: set[tuple[int, int, int]] = set()
        self._pulls: dict[tuple[int, int], actions.StartPull] = {}
        self.nodes: dict[int, SimulatedCluster] = {
            number: SimulatedCluster(
                seed,
                programs,
                cpus=cpus,
                resources=resources,
                gpus=[0, 1],
                faults=faults,
                store_bytes=store_bytes,
                network=self,
                node=number,
            )
            for number in range(1, count + 1)
        }
        self._links = {
            (sender, receiver): Link(self.clock, self.rng, partial(self._deliver, sender, receiver))
            for sender in self.nodes
            for receiver in self.nodes
            if sender != receiver
        }

    def start(self) -> None:
        """Begin; each node learns of the others at some time."""
        for number, node in self.nodes.items():
            node.start()
            others = [each for each in self.nodes if each != number]
            node.handle(events.NodesCame(others))
        self._grant()

    @property
    def alive(self) -> list[SimulatedCluster]:
        """The nodes that live."""
        return [node for node in self.nodes.values() if node.alive]

    # --- links ----------------------------------------------------------------------------

    def send(self, sender: int, receiver: int, message: object) -> None:
        """Send a node's message to another."""
        if isinstance(message, wire.ActorCreated):
            self.hosted += 1
        if isinstance(message, wire.Lend):
            self.lent += len(message.specs)
        self._links[sender, receiver].send_message(message)

    def _deliver(self, sender: int, receiver: int, message: object) -> None:
        if self.nodes[sender].alive:
            self.nodes[receiver].handle(events.PeerSaid(sender, message))

    def kill(self, number: int) -> None:
        """Let a node die; the others learn of it after a while."""
        node = self.nodes[number]
        node.alive = False
        self.has_lost = True
        for process in node.processes.values():
            process.die()
        for task_id in [each for each, who in self.running.items() if who.cluster is node]:
            del self.running[task_id]
        for other in self.alive:
            delay = 0.05 * self.rng.random()
            lost = events.NodesLost([(number, "it was made to die")])
            self.clock.after(delay, partial(other.handle, lost))

    def drain(self, number: int, seconds: float = 1e9) -> None:
        """Let a node leave; when it wants to be let go, the others learn that it has left."""
        self.nodes[number].handle(events.DrainRequested(seconds))

    def _leave(self, node: SimulatedCluster, *, done: bool) -> None:
        """Tell all nodes, at some time each, that one leaves or has left."""
        number = int(node.node)
        self.leaving.add(number)
        for key in [key for key in self._leases if key[2] == number]:
            self._leases.discard(key)
        if done:
            node.alive = False
        for other in self.alive:
            if other is not node:
                news = (
                    events.NodesLost([(number, wire.HAS_LEFT)])
                    if done
                    else events.OthersLeave([number])
                )
                self._said_by_global[number, other.node].append(news)
                self.clock.after(
                    0.02 * self.rng.random(), partial(self._say_next, number, other.node)
                )

    def _say_next(self, number: int, receiver: int) -> None:
        news = self._said_by_global[number, receiver].popleft()
        self.nodes[receiver].handle(news)

    # --- transfers ------------------------------------------------------------------------

    def pull(self, node: SimulatedCluster, action: actions.StartPull | actions.CancelPull) -> None:
        """Begin or cancel a pull of a node's."""
        key = (node.node, action.number)
        if isinstance(action, actions.CancelPull):
            if self._pulls.pop(key, None) is not None:
                ended = events.PullEnded(action.number, "it was cancelled")
                self.clock.after(0.0, partial(node.handle, ended))
            return
        self._pulls[key] = action
        self.clock.after(0.002 * self.rng.random(), partial(self._pull_on, node, action))

    def _pull_on(self, node: SimulatedCluster, action: actions.StartPull) -> None:
        key = (node.node, action.number)
        if key not in self._pulls or not node.alive:
            return
        source = self.nodes[action.node]
        error = ""
        if not source.alive:
            error = "its source is dead"
        elif self.rng.random() < self._failed_pull:
            error = "it was made to fail"
        elif not action.file:
            state, found = self._state_of(source, action.source)
            wanted = self._wanted_by(node, action.number)
            if state == "coming":
                self.clock.after(0.001, partial(self._pull_on, node, action))
                return
            if not state:
                error = "nothing is there"
                if not self.has_lost and not self._failed_pull:
                    node.violated(f"node {node.node} reads freed memory of node {source.node}")
            elif found != wanted:
                node.violated(
                    f"node {node.node} reads object {found.hex()} of node {source.node} instead of "
                    f"{wanted.hex()}"
                )
        del self._pulls[key]
        self.pulled += not error
        node.handle(events.PullEnded(action.number, error))

    def _state_of(self, source: SimulatedCluster, offset: int) -> tuple[str, ObjectID]:
        for object_id, record in source.core.objects.records.items():
            value, remote = record.value, record.remote
            if value is not None and value.kind == wire.ValueKind.STORED:
                if value.offset == offset:
                    return "there", object_id
            elif remote is not None and remote.fetch is not None:
                if remote.fetch.offset == offset:
                    return "coming", object_id
        return "", ObjectID(b"")

    def _wanted_by(self, node: SimulatedCluster, number: int) -> ObjectID:
        for object_id, record in node.core.objects.records.items():
            fetch = record.remote.fetch if record.remote is not None else None
            if fetch is not None and fetch.number == number:
                return object_id
        raise AssertionError(f"node {node.node} has no fetch {number}")

    # --- the global scheduler -------------------------------------------------------------

    def tell_global(self, node: SimulatedCluster, message: object) -> bool:
        """Give the global scheduler a message; say whether it has understood it."""
        if isinstance(message, wire.Demands):
            for demand in message.demands:
                self._demands[node.node, demand.shape] = demand
            return True
        if isinstance(message, wire.LeaveCluster):
            self._leave(node, done=message.done)
            return True
        if isinstance(message, wire.CreateActor):
            able = [
                other.node
                for other in self.alive
                if other.node not in self.leaving
                and other.core.pool.resources.feasible(message.resources)
            ]
            if not able:
                return False
            placed = events.ActorWasPlaced(message.actor_id, int(self.rng.choice(able)))
            self.clock.after(0.001 * self.rng.random(), partial(node.handle, placed))
            return True
        if isinstance(message, wire.PassUp) and self.rng.random() < 0.9:
            placements = []
            for task in message.tasks:
                able = [
                    other.node
                    for other in self.alive
                    if int(other.node) not in self.leaving
                    and other.core.pool.resources.feasible(task.resources)
                ]
                if not able:
                    return False
                placements.append((task.task_id, int(self.rng.choice(able))))
            self.clock.after(
                0.001 * self.rng.random(), partial(node.handle, events.TasksPlaced(placements))
            )
            return True
        return False

    def _grant(self) -> None:
        for (number, shape), demand in list(self._demands.items()):
            node = self.nodes[number]
            changed = []
            for other in self.alive:
                if other is node or not other.core.pool.resources.feasible(demand.resources):
                    continue
                if int(other.node) in self.leaving:
                    continue
                key = (number, shape, int(other.node))
                slots = self.rng.choice((0, 0, 1, 2, 4)) if demand.count else 0
                if slots or key in self._leases:
                    changed.append(wire.Lease(shape, other.node, slots))
                    (self._leases.add if slots else self._leases.discard)(key)
            if changed:
                node.handle(events.LeasesChanged(changed))
            if not demand.count:
                del self._demands[number, shape]
        self.clock.after(_GRANT_SECONDS * self.rng.random(), self._grant)

    def leftovers(self) -> list[str]:
        """Return what is still there and should not be, once nothing is held any more."""
        found = []
        for node in self.alive:
            found += [f"node {node.node}: {each}" for each in node.leftovers()]
            between = node.core.between
            if between is None:
                continue
            found += [
                f"node {node.node} has lent {len(each)}"
                for each in between.lending.lent.values()
                if each
            ]
            if not between.borrowing.is_settled:
                found.append(f"node {node.node} waits for answers about what it borrowed")
            if between.fetching.is_busy:
                found.append(f"node {node.node} still fetches")
        return found
