"""What the local scheduler's core asks its shell to do. Pure."""

from __future__ import annotations

import msgspec

from raydask.ids import ProcessNumber
from raydask.object_store.spilled import SpillBatch


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send a message to a process."""

    process: ProcessNumber
    message: object


class SendControl(msgspec.Struct, frozen=True, gc=False):
    """Send a message to a worker's control socket."""

    process: ProcessNumber
    message: object


class SendGlobal(msgspec.Struct, frozen=True, gc=False):
    """Send a message to the global scheduler, if there is one.

    Nothing is kept for one to come: whatever it did not answer is said again then.
    """

    message: object


class StartWorkers(msgspec.Struct, frozen=True, gc=False):
    """Start worker processes, by a job's fork server or, 0, for any job; each will say hello."""

    number: int
    job: int = 0


class PrepareWorkers(msgspec.Struct, frozen=True, gc=False):
    """See that a job has a fork server, and have it import these modules."""

    job: int
    modules: list[str]
    search_path: list[str]
    folder: str


class EndForkServer(msgspec.Struct, frozen=True, gc=False):
    """End a job's fork server."""

    job: int


class KillWorker(msgspec.Struct, frozen=True, gc=False):
    """End a worker process with SIGKILL."""

    process: ProcessNumber


class RetireWorker(msgspec.Struct, frozen=True, gc=False):
    """Have a worker end by itself that has nothing to do, for this reason."""

    process: ProcessNumber
    reason: str


class MeasureWorker(msgspec.Struct, frozen=True, gc=False):
    """Measure a worker's private memory, as it is before anything else reaches the worker."""

    process: ProcessNumber


class WriteSpillFile(msgspec.Struct, frozen=True, gc=False):
    """Write objects to a file of the spill folder; say when that is done."""

    batch: SpillBatch


class DeleteSpillFile(msgspec.Struct, frozen=True, gc=False):
    """Nothing in this file of the spill folder is wanted any more."""

    file: int


class GiveBackMemory(msgspec.Struct, frozen=True, gc=False):
    """Give the pages of these parts of the arena back, before anything else is done."""

    runs: list[tuple[int, int]]


class FillMemory(msgspec.Struct, frozen=True, gc=False):
    """Write these bytes into the arena, before anything else is done."""

    offset: int
    data: bytes


class AnswerRegion(msgspec.Struct, frozen=True, gc=False):
    """Answer a request for room: with its offset, or with a serialized error."""

    process: ProcessNumber
    number: int
    offset: int
    error: bytes = b""


class StartPull(msgspec.Struct, frozen=True, gc=False):
    """Read an object's bytes from another node into the arena; say when that has ended.

    `file` and `source` are where that node has them (0: in its arena), `target` is where they
    go, in bytes; the first `arrived` of them are there already, from another node.
    """

    number: int
    node: int
    file: int
    source: int
    size: int
    target: int
    arrived: int = 0


class CancelPull(msgspec.Struct, frozen=True, gc=False):
    """End a pull, or do not begin it; that it has ended is said as for any other."""

    number: int


class ForgetPull(msgspec.Struct, frozen=True, gc=False):
    """Use the place of a pull that has ended, and may have failed, for something else."""

    target: int


class EndProcess(msgspec.Struct, frozen=True, gc=False):
    """Close the connection of a process that broke the protocol, for this reason."""

    process: ProcessNumber
    reason: str


class EndSession(msgspec.Struct, frozen=True, gc=False):
    """End the node: it leaves, and has nothing left."""


Action = (
    Send
    | SendControl
    | SendGlobal
    | StartWorkers
    | PrepareWorkers
    | EndForkServer
    | KillWorker
    | WriteSpillFile
    | DeleteSpillFile
    | GiveBackMemory
    | FillMemory
    | AnswerRegion
    | RetireWorker
    | MeasureWorker
    | StartPull
    | CancelPull
    | ForgetPull
    | EndProcess
    | EndSession
)
