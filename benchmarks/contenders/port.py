"""What a contender can do, as seen by a case.

Every adapter is a `Contender`; what it offers beyond starting and stopping it says by deriving
from the capability classes below. A case names the capabilities it needs, and contenders without
them do not take part in it.

Life cycle: ``prepare`` (imports, nothing runs yet) -> ``start`` -> any calls -> ``stop``. The
three are separate because the time of each is a figure of its own.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeAlias

Handle: TypeAlias = Any
"""A contender's own reference to a value that exists or will exist."""

FanOut: TypeAlias = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
"""Called inside a task: run the function on each argument tuple as tasks, return the results."""


class Contender(ABC):
    """A system under measurement, with ``cpus`` single-threaded workers."""

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    """Importable modules without which the contender is left out."""

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus

    @classmethod
    def missing(cls) -> str | None:
        """Name the first module that is not installed, or None when all are."""
        for module in cls.modules:
            try:
                found = importlib.util.find_spec(module)
            except ModuleNotFoundError:
                found = None
            if found is None:
                return module
        return None

    @abstractmethod
    def prepare(self) -> None:
        """Import what the system needs; start nothing."""

    @abstractmethod
    def start(self) -> None:
        """Start workers, so that the next call can be served."""

    @abstractmethod
    def stop(self) -> None:
        """Stop everything that `start` started, and wait for its end."""


class RunsTasks(Contender):
    """Runs functions on workers."""

    @abstractmethod
    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run one task and wait for its result."""

    @abstractmethod
    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        """Submit one task per argument, without waiting in between; then collect all results."""


class HoldsObjects(RunsTasks):
    """Keeps values away from the driver and passes them to tasks by handle."""

    @abstractmethod
    def put(self, value: Any) -> Handle:
        """Store a value."""

    @abstractmethod
    def get(self, handle: Handle) -> Any:
        """Fetch a value, waiting for the task that makes it."""

    @abstractmethod
    def submit(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        """Start a task; arguments that are handles arrive as their values."""

    @abstractmethod
    def gather(self, handles: Sequence[Handle]) -> list[Any]:
        """Fetch many values, in order."""


class ActorProxy(ABC):
    """One living instance of a class inside a worker."""

    @abstractmethod
    def send(self, method: str, *arguments: Any) -> Any:
        """Begin to call a method; return what `HostsActors.collect` takes."""

    @abstractmethod
    def close(self) -> None:
        """Let the instance go."""


class HostsActors(Contender):
    """Creates instances of classes inside workers."""

    @abstractmethod
    def create_actor(self, actor_class: type) -> ActorProxy:
        """Begin to create an instance; need not wait for it to be ready."""

    @abstractmethod
    def collect(self, calls: Sequence[Any]) -> list[Any]:
        """Wait for the results of calls that were sent."""


class NestsTasks(RunsTasks):
    """Lets tasks start tasks and wait for them."""

    @staticmethod
    @abstractmethod
    def fan_out(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run the function on each argument tuple as tasks; called inside a task."""


class SchedulesDask(Contender):
    """Computes Dask collections."""

    @abstractmethod
    def compute(self, collections: Sequence[Any]) -> list[Any]:
        """Compute collections together, as ``dask.compute`` does."""


class BoundsMemory(SchedulesDask):
    """Computes Dask collections within a limit of memory, on disk where that is not enough."""

    @abstractmethod
    def start_within(self, memory: int) -> None:
        """Start as on a machine with `memory` bytes, with the defaults for such a machine."""
