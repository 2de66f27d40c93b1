"""A network whose machines are network namespaces of this one, and a cluster on it.

::

    rd<pid>-0           rd<pid>-1           rd<pid>-2       namespaces, each with its address
        |                   |                   |           a TUN device in each
        +---------- Network: one thread --------+           carries, delays, loses, cuts

Each machine has one device, whose packets come to this process, which hands them on to the machine
that they are for.  So what the kernel does is real (TCP, its timers, its retransmissions), and what
the cable does is the test's to say, without any more of the kernel than TUN devices.

All that is made here has the process's identifier in its name: what a run that was killed has left
is removed by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import heapq
import os
import random
import selectors
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.architecture.source import ROOT
from tests.cluster.probes import eventually, session_processes

TUN = "/dev/net/tun"
SECRET = "a-secret-for-these-networks"
SEED = 20_261_127

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21
_MTU = 9000
_PACKETS_AT_ONCE = 64
_COMMAND_SECONDS = 40.0
_PREFIX = "rd"
_STORE_BYTES = 100 << 20


@functools.cache
def why_not() -> str:
    """Return why this machine can have no such network; empty if it can."""
    if sys.platform != "linux":
        return "network namespaces are a thing of Linux"
    if shutil.which("ip") is None:
        return "there is no command `ip` (package iproute2)"
    held = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    if not (held >> _CAP_NET_ADMIN & 1 and held >> _CAP_SYS_ADMIN & 1):
        return "namespaces need root's CAP_NET_ADMIN and CAP_SYS_ADMIN"
    try:
        with Network(1):
            return ""
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or ""
        return f"this machine makes no network namespaces: {error} {said}".strip()


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)
    return done.stdout


def _sweep() -> None:
    """Remove the namespaces of runs that are no more."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        pid, dash, _ = name.removeprefix(_PREFIX).partition("-")
        gone = dash and pid.isdigit() and not os.path.exists(f"/proc/{pid}")
        if name.startswith(_PREFIX) and gone:
            _ip("netns", "del", name)


class Machine:
    """A namespace with one address.

    Attributes
    ----------
    name : str
    address : str
    tun : int
        The descriptor to which the packets come that it sends, and to which those are written
        that it receives.
    """

    def __init__(self, index: int) -> None:
        self.name = f"{_PREFIX}{os.getpid()}-{index}"
        self.address = f"10.77.0.{index + 1}"
        self.tun = -1

    def start(self) -> None:
        """Make the namespace and its device."""
        _ip("netns", "add", self.name)
        self.tun = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        request = struct.pack("16sH22x", self.name.encode(), _IFF_TUN_NO_PI)
        fcntl.ioctl(self.tun, _TUNSETIFF, request)
        _ip("link", "set", self.name, "netns", self.name)
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        _ip("-n", self.name, "link", "set", self.name, "mtu", str(_MTU), "up")

    def close(self) -> None:
        """Remove both."""
        if self.tun >= 0:
            os.close(self.tun)
            self.tun = -1
        with contextlib.suppress(subprocess.CalledProcessError):  # it was never made
            _ip("netns", "del", self.name)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``raydask`` on this machine."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, sys.executable, "-m", "raydask", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "RAYDASK_SECRET": SECRET,
                **environment,
            },
        )


class Network:
    """Machines, and what is between them.

    Parameters
    ----------
    count : int
        Of machines.
    delay : float
        Seconds that each packet takes.
    loss : float
        Part of the packets that are lost.
    """

    def __init__(self, count: int, *, delay: float = 0.0, loss: float = 0.0) -> None:
        self.machines = [Machine(index) for index in range(count)]
        self._delay = delay
        self._loss = loss
        self._random = random.Random(SEED)
        self._cut: frozenset[frozenset[Machine]] = frozenset()
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._carried = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Network:
        _sweep()
        try:
            for machine in self.machines:
                machine.start()
        except BaseException:
            self.close()
            raise
        self._by_address = {
            bytes(map(int, machine.address.split("."))): machine for machine in self.machines
        }
        self._thread = threading.Thread(target=self._carry, name="network", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything."""
        self._closing = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for machine in self.machines:
            machine.close()

    def cut(self, one: Machine, other: Machine) -> None:
        """Let nothing through between two machines from now on, in either direction."""
        self._cut |= {frozenset((one, other))}

    def cut_off(self, machine: Machine) -> None:
        """Let nothing through to a machine or from it."""
        for other in self.machines:
            if other is not machine:
                self.cut(machine, other)

    def heal(self) -> None:
        """Let everything through again."""
        self._cut = frozenset()

    def _carry(self) -> None:
        with selectors.DefaultSelector() as selector:
            for machine in self.machines:
                selector.register(machine.tun, selectors.EVENT_READ, machine)
            while not self._closing:
                due = self._under_way[0][0] - time.monotonic() if self._under_way else 0.1
                for key, _ in selector.select(min(0.1, max(0.0, due))):
                    self._take_from(key.data)
                self._deliver_due()

    def _take_from(self, sender: Machine) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet = os.read(sender.tun, _MTU + 100)
            except OSError:
                return  # there are no more
            receiver = self._by_address.get(packet[16:20])
            if packet[0] >> 4 != 4 or receiver is None:
                continue
            if frozenset((sender, receiver)) in self._cut or self._random.random() < self._loss:
                continue
            if not self._delay:
                self._deliver(receiver.tun, packet)
                continue
            self._carried += 1
            when = time.monotonic() + self._delay
            heapq.heappush(self._under_way, (when, self._carried, receiver.tun, packet))

    def _deliver_due(self) -> None:
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] <= now:
            _, _, tun, packet = heapq.heappop(self._under_way)
            self._deliver(tun, packet)

    def _deliver(self, tun: int, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # there is no room for it: it is lost
            os.write(tun, packet)


class NetworkCluster:
    """A cluster with a head on the first machine of a network and a node on each other.

    Attributes
    ----------
    network : Network
    folders : list of str
        Of the sessions, in the order of the machines.
    endpoint : str
        HOST:PORT of the head.
    """

    def __init__(self, network: Network, environment: dict[str, str]) -> None:
        self.network = network
        self.folders: list[str] = []
        self.endpoint = ""
        self._environment = environment

    def start(self, resources: Sequence[str]) -> None:
        """Start all nodes, with these custom resources, one after the other."""
        for machine, text in zip(self.network.machines, resources, strict=True):
            words = ["start", "--num-cpus", "1", "--resources", text, "--host", machine.address]
            words += ["--object-store-memory", str(_STORE_BYTES)]
            words += ["--address", self.endpoint] if self.endpoint else ["--head"]
            result = machine.run(*words, **self._environment)
            assert (result.returncode, result.stderr) == (0, ""), result.stderr
            first = result.stdout.splitlines()[0].split()
            self.folders.append(first[3])
            self.endpoint = self.endpoint or first[-1]

    def alive(self) -> list[int]:
        """Return the numbers of the nodes that are alive, as the head sees them."""
        import msgspec

        head = self.network.machines[0]
        words = ("status", "--address", self.endpoint, "--json")
        result = head.run(*words, **self._environment)
        assert result.returncode == 0, result.stderr
        return [node["node"] for node in msgspec.json.decode(result.stdout) if node["alive"]]

    def is_gone(self, index: int) -> bool:
        """Say whether nothing is left of a node."""
        folder = self.folders[index]
        return not session_processes(folder) and not os.path.exists(folder)

    def logs(self) -> str:
        """Return what the nodes have logged, for whoever looks at a failure."""
        return "\n".join(
            f"--- {path}\n{path.read_text()[-4000:]}"
            for folder in self.folders
            for path in sorted(Path(folder).glob("logs/*.log"))
            if path.exists() and path.stat().st_size
        )

    def close(self) -> None:
        """End all nodes, whatever state they are in."""
        for folder in reversed(self.folders):
            for process in session_processes(folder)[:1]:  # the supervisor, which cleans up
                process.terminate()
        try:
            for index in reversed(range(len(self.folders))):
                eventually(lambda index=index: self.is_gone(index), self.folders[index])
        finally:
            for folder in self.folders:
                for process in session_processes(folder):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, 9)
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def cluster_on(
    resources: Sequence[str], *, delay: float = 0.0, loss: float = 0.0, **environment: str
) -> Iterator[NetworkCluster]:
    """Run a cluster on a network of its own, with as many machines as there are resources."""
    with Network(len(resources), delay=delay, loss=loss) as network:
        cluster = NetworkCluster(network, environment)
        try:
            cluster.start(resources)
            yield cluster
        except BaseException:
            print(cluster.logs())
            raise
        finally:
            network.heal()
            cluster.close()
