"""Which task runs: asked by user code, set by the worker."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Any, NamedTuple

from raydask.driver.session import Session
from raydask.ids import ActorID, TaskID


class RunningTask(NamedTuple):
    """The task that runs in a thread or coroutine."""

    task_id: TaskID
    name: str
    attempt: int
    actor_id: ActorID | None


running_task: ContextVar[RunningTask | None] = ContextVar("raydask_task", default=None)


class RuntimeContext:
    """What this process, and the task that runs in it, are.

    Attributes
    ----------
    node_id, job_id : int
    namespace : str
    worker_pid : int
    task_id, actor_id : str or None
        Hexadecimal; None outside of tasks and actors.
    task_name : str or None
    attempt : int
        How often the task has been started before, on whatever node.
    session_folder : str
        The folder of the node's session.
    """

    def __init__(self, session: Session, task: RunningTask | None) -> None:
        welcome = session.welcome
        self.node_id = welcome.node
        self.job_id = session.job
        self.namespace = session.namespace
        self.session_folder = welcome.session
        self.worker_pid = os.getpid()
        self.task_id = task.task_id.hex() if task else None
        self.task_name = task.name if task else None
        self.attempt = task.attempt if task else 0
        self.actor_id = task.actor_id.hex() if task and task.actor_id else None

    def get(self) -> dict[str, Any]:
        """Return all attributes as a dict."""
        return dict(vars(self))

    def __repr__(self) -> str:
        return f"RuntimeContext({vars(self)!r})"


def runtime_context(session: Session) -> RuntimeContext:
    """Return the context of the calling thread."""
    return RuntimeContext(session, running_task.get())
