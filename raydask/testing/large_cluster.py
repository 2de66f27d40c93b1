"""A simulated large cluster: the real schedulers of hundreds of nodes, on a virtual clock.

This is for what only shows when there are many nodes and very many tasks: how good the
distribution is, how many messages it takes, what each scheduler's core costs.  The cores are the
real ones; see `raydask.testing.lean_nodes` for what is around them.

Between two nodes a message takes the latency.  A pull takes that and the time that the bytes
need through the source's and the target's network interface, each of which serves one after the
other.  The cores themselves take no virtual time: what they take of real time is reported.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from functools import partial
from typing import Any

from raydask.control.write_behind_state import Source
from raydask.global_scheduler import actions as global_actions
from raydask.global_scheduler import events as global_events
from raydask.global_scheduler.state import GlobalScheduler, Journals
from raydask.ids import NodeNumber, job_number
from raydask.local_scheduler import actions, events
from raydask.testing.clock import VirtualClock
from raydask.testing.lean_nodes import LeanDriver, LeanNode
from raydask.testing.workloads import Workload
from raydask.wire import messages as wire
from raydask.wire.messages import Assignment

_GLOBAL_TICK_SECONDS = 0.5
_SETTLE_SECONDS = 1.0
_LOST_SECONDS = 0.001
"""After which a connection's end is noticed."""


class _NoJournal:
    """The control state that nobody writes."""

    def put(self, identifier: Any, source: Source, /) -> None:
        """Do nothing."""

    def forget(self, identifier: Any, /) -> None:
        """Do nothing."""

    def adopt(self, identifier: Any, /) -> None:
        """Do nothing."""


class Settings:
    """What a large cluster is like.

    Parameters
    ----------
    nodes, cpus : int
        How many nodes, and CPUs of each.
    latency : float
        Seconds that a message between nodes takes.
    bandwidth : float
        Bytes a second of each node's network interface, each way.
    batch : int
        How many tasks a driver submits at once.
    deaths : int
        How many nodes die.
    death_span : float
        Seconds within which they do, from the first submission.
    seed : int
    """

    __slots__ = (
        "bandwidth",
        "batch",
        "cpus",
        "death_span",
        "deaths",
        "latency",
        "nodes",
        "seed",
    )

    def __init__(
        self,
        nodes: int = 10,
        cpus: int = 16,
        *,
        latency: float = 0.0002,
        bandwidth: float = 1.25e9,
        batch: int = 500,
        deaths: int = 0,
        death_span: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.nodes = nodes
        self.cpus = cpus
        self.latency = latency
        self.bandwidth = bandwidth
        self.batch = batch
        self.deaths = deaths
        self.death_span = death_span
        self.seed = seed


class LargeCluster:
    """A cluster; one driver on each of the first nodes submits one of the workloads.

    Parameters
    ----------
    settings : Settings
    workloads : list of Workload

    Attributes
    ----------
    messages : Counter of str
        How many went between nodes, and between nodes and the global scheduler, by kind.
    runs : int
        How many tasks have run, those that ran again counted again.
    busy : list of float
        CPU seconds that each home's tasks have had.
    shares : list of float
        The same when the first home had finished.
    global_seconds : float
        That the global scheduler's core has taken, of real time.
    """

    def __init__(self, settings: Settings, workloads: list[Workload]) -> None:
        self.settings = settings
        self.clock = VirtualClock()
        self.messages: Counter[str] = Counter()
        self.pulled = 0
        self.runs = 0
        self.busy = [0.0] * len(workloads)
        self.shares: list[float] = []
        self.global_seconds = 0.0
        self._rng = random.Random(settings.seed)
        journal = _NoJournal()
        self._global = GlobalScheduler(Journals(journal, journal, journal, journal), "simulated")
        self._workloads = workloads
        self._pulls: dict[tuple[int, int], actions.StartPull] = {}
        self._sending: dict[int, float] = {}
        self._receiving: dict[int, float] = {}
        self._linked: set[tuple[int, int]] = set()
        self.nodes = {
            number: LeanNode(number, settings.cpus, self) for number in range(1, settings.nodes + 1)
        }
        self.drivers: list[LeanDriver] = []

    # --- a run ----------------------------------------------------------------------------

    def run(self, limit: float) -> None:
        """Let all drivers come to their ends.

        Raises
        ------
        TimeoutError
            They have not within `limit` virtual seconds.
        """
        self._bring_up()
        began = self.clock.now
        self._start_drivers()
        self._arrange_deaths()
        step = self.clock.step
        left = list(self.drivers)
        while left:
            for _ in range(1000):
                step()
            if self.clock.now - began > limit:
                raise TimeoutError(f"not finished after {limit:g} virtual seconds")
            left = [driver for driver in left if not driver.finished]
            if len(left) < len(self.drivers) and not self.shares:
                self.shares = list(self.busy)
        self.clock.run_for(_SETTLE_SECONDS)

    def _bring_up(self) -> None:
        for number, node in self.nodes.items():
            node.start(self._rng.random() * 0.25)
            message = wire.RegisterNode(
                number, 1, "", "", node.total, {}, 1 << 40, [], f"n{number}:1", f"n{number}:2"
            )
            registered = global_events.NodeRegistered(NodeNumber(number), message, number == 1)
            self._tell_global(registered)
        self._global_tick()
        self.clock.run_for(_SETTLE_SECONDS)
        self.global_seconds = 0.0
        self.messages.clear()
        for node in self.nodes.values():
            node.seconds = 0.0
            node.events = 0

    def _start_drivers(self) -> None:
        homes = list(self.nodes.values())
        for node, workload in zip(homes, self._workloads, strict=False):
            driver = node.add_driver(job_number(node.number, 1), workload, self.settings.batch)
            self.drivers.append(driver)
        for driver in self.drivers:
            driver.start()

    def _arrange_deaths(self) -> None:
        mortal = list(self.nodes)[max(1, len(self._workloads)) :]
        for number in self._rng.sample(mortal, min(self.settings.deaths, len(mortal))):
            after = self._rng.random() * self.settings.death_span
            self.clock.after(after, partial(self.kill, number))

    def kill(self, number: int) -> None:
        """Let a node die; the global scheduler, and who has a link to it, notice that."""
        self.nodes[number].die()
        lost = global_events.NodeLost(NodeNumber(number))
        self.clock.after(_LOST_SECONDS, partial(self._tell_global, lost))
        linked = {
            one if other == number else other
            for one, other in self._linked
            if number in (one, other)
        }
        for other in sorted(linked):
            if self.nodes[other].alive:
                complaint = global_events.NodeComplained(
                    NodeNumber(other), NodeNumber(number), "the connection ended"
                )
                delay = _LOST_SECONDS + self.settings.latency
                self.clock.after(delay, partial(self._tell_global, complaint))

    # --- tasks ----------------------------------------------------------------------------

    def task_of(self, assignment: Assignment) -> tuple[float, int]:
        """Return how long a task takes, and how large its result is."""
        workload, number = self._find(assignment)
        return workload.durations[number], workload.sizes[number]

    def ran(self, node: int, assignment: Assignment, seconds: float) -> None:
        """Note a task that has ended."""
        self.runs += 1
        home = int.from_bytes(assignment.task_id[:4], "big")
        self.busy[home - 1] += seconds

    def _find(self, assignment: Assignment) -> tuple[Workload, int]:
        task_id = assignment.task_id
        home = int.from_bytes(task_id[:4], "big")
        return self._workloads[home - 1], int.from_bytes(task_id[8:], "big") - 1

    # --- between nodes --------------------------------------------------------------------

    def send(self, sender: int, receiver: int, message: object) -> None:
        """Send a node's message to another."""
        self.messages[type(message).__name__] += 1
        self._linked.add((sender, receiver))
        said = partial(self._deliver, sender, receiver, message)
        self.clock.after(self.settings.latency, said)

    def _deliver(self, sender: int, receiver: int, message: object) -> None:
        if self.nodes[sender].alive:
            self.nodes[receiver].handle(events.PeerSaid(sender, message))

    def pull(self, node: LeanNode, action: actions.StartPull | actions.CancelPull) -> None:
        """Begin or cancel a pull of a node's."""
        key = (int(node.number), action.number)
        if isinstance(action, actions.CancelPull):
            if self._pulls.pop(key, None) is not None:
                ended = events.PullEnded(action.number, "it was cancelled")
                self.clock.after(0.0, partial(node.handle, ended))
            return
        self._pulls[key] = action
        now = self.clock.now
        seconds = action.size / self.settings.bandwidth
        sent = self._sending[action.node] = max(now, self._sending.get(action.node, 0.0)) + seconds
        target = int(node.number)
        received = max(now, self._receiving.get(target, 0.0)) + seconds
        self._receiving[target] = received
        end = max(sent, received) + 2 * self.settings.latency
        self.clock.at(end, partial(self._pulled, node, action))

    def _pulled(self, node: LeanNode, action: actions.StartPull) -> None:
        if self._pulls.pop((int(node.number), action.number), None) is not None:
            error = "" if self.nodes[action.node].alive else "its source is dead"
            self.pulled += 0 if error else action.size
            node.handle(events.PullEnded(action.number, error))

    # --- the global scheduler -------------------------------------------------------------

    def send_global(self, sender: int, message: object) -> None:
        """Send a node's message to the global scheduler."""
        self.messages[type(message).__name__] += 1
        node = NodeNumber(sender)
        event: global_events.Event
        if isinstance(message, wire.Heartbeat):
            event = global_events.LoadReported(node, message)
        elif isinstance(message, wire.Demands):
            event = global_events.DemandsStated(node, message.demands)
        elif isinstance(message, wire.PassUp):
            event = global_events.TasksPassedUp(node, message.tasks)
        else:
            return
        self.clock.after(self.settings.latency, partial(self._tell_global, event))

    def _global_tick(self) -> None:
        self._tell_global(global_events.ClockTicked())
        self.clock.after(_GLOBAL_TICK_SECONDS, self._global_tick)

    def _tell_global(self, event: global_events.Event) -> None:
        began = time.thread_time()
        wanted = self._global.handle(event, self.clock.now)
        self.global_seconds += time.thread_time() - began
        for action in wanted:
            if isinstance(action, global_actions.WakeAfter):
                ticked = partial(self._tell_global, global_events.ClockTicked())
                self.clock.after(action.seconds, ticked)
            elif isinstance(action, global_actions.Send):
                self._told(action)

    def _told(self, action: global_actions.Send) -> None:
        message = action.message
        self.messages[type(message).__name__] += 1
        event: events.Event
        if isinstance(message, wire.Leases):
            event = events.LeasesChanged(message.leases)
        elif isinstance(message, wire.NodesAppeared):
            event = events.NodesCame([number for number, _, _ in message.nodes])
        elif isinstance(message, wire.NodesDied):
            event = events.NodesLost(message.nodes)
        elif isinstance(message, wire.Placed):
            event = events.TasksPlaced(message.placements)
        else:
            return
        handle = self.nodes[action.node].handle
        self.clock.after(self.settings.latency, partial(handle, event))
