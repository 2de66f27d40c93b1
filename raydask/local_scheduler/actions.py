"""What the local scheduler's core asks its shell to do. Pure."""

from __future__ import annotations

from typing import NamedTuple

from raydask.ids import ObjectID, ProcessNumber


class Send(NamedTuple):
    """Send a message to a process."""

    process: ProcessNumber
    message: object


class SendControl(NamedTuple):
    """Send a message to a worker's control socket."""

    process: ProcessNumber
    message: object


class SendGlobal(NamedTuple):
    """Send a message to the global scheduler, if there is one.

    Nothing is kept for one to come: whatever it did not answer is said again then.
    """

    message: object


class StartWorkers(NamedTuple):
    """Start worker processes; each will say hello."""

    number: int


class KillWorker(NamedTuple):
    """End a worker process with SIGKILL."""

    process: ProcessNumber


class SealStored(NamedTuple):
    """An object occupies this part of the region that the process was given."""

    process: ProcessNumber
    object_id: ObjectID
    offset: int
    size: int


class FreeStored(NamedTuple):
    """The object's memory can be used again."""

    object_id: ObjectID


class EndProcess(NamedTuple):
    """Close the connection of a process that broke the protocol, for this reason."""

    process: ProcessNumber
    reason: str


Action = (
    Send
    | SendControl
    | SendGlobal
    | StartWorkers
    | KillWorker
    | SealStored
    | FreeStored
    | EndProcess
)
