"""The tree of errors, ordered by who is to blame.

===========================  ==================================================================
blame                        class
===========================  ==================================================================
the user's function          ``TaskError`` (also an instance of the exception's own type)
somebody asked for it        ``TaskCancelledError``, ``TaskTimeoutError``, ``GetTimeoutError``
the worker process           ``WorkerCrashedError``, ``OutOfMemoryError``
the actor                    ``ActorDiedError``
the object                   ``ObjectLostError``, ``OwnerDiedError``
the object store             ``ObjectStoreFullError``, ``OutOfDiskError``
the cluster                  ``ClusterUnavailableError``, ``InfeasibleError``, ``StartError``
misuse                       ``UsageError``
a bug in raydask             ``InternalError``
===========================  ==================================================================

Every class pickles, and every message ends with what to do next.
"""

from __future__ import annotations

from typing import Any


class RaydaskError(Exception):
    """Base of every error that raydask raises."""


class UsageError(RaydaskError, ValueError):
    """The API was called in a way that cannot work; the message says what to change."""


class InternalError(RaydaskError):
    """raydask broke one of its own invariants: a bug worth reporting."""


class ClusterUnavailableError(RaydaskError, ConnectionError):
    """The node this process was connected to is gone, or none could be reached."""


class StartError(RaydaskError):
    """A cluster could not be started; the message names the process and the remedy."""


class InfeasibleError(RaydaskError):
    """No node of the cluster could ever run the task, whatever finishes."""


class GetTimeoutError(RaydaskError, TimeoutError):
    """``get`` reached its deadline; the tasks go on and their refs stay valid."""


class TaskCancelledError(RaydaskError):
    """The task was cancelled before it could return a value."""


class TaskTimeoutError(RaydaskError, TimeoutError):
    """The task ran longer than its ``timeout`` option allows."""


class WorkerCrashedError(RaydaskError):
    """The worker process died while it ran the task, and no retry was left."""


# Errors here do not derive from MemoryError: packages that make exceptions picklable for the
# whole process (tblib, which distributed installs) cannot rebuild its subclasses.
class OutOfMemoryError(WorkerCrashedError):
    """The task was ended for its memory: the machine's was used up, or its own limit exceeded."""


class ActorDiedError(RaydaskError):
    """The actor is dead, so the call could not run or its result is unknown."""


class ObjectLostError(RaydaskError):
    """Every copy of the object is gone and it cannot be made again."""


class OwnerDiedError(ObjectLostError):
    """The process that was to deliver the object died first."""


class ObjectStoreFullError(RaydaskError):
    """The object store has no room, and nothing in it can be let go."""


class OutOfDiskError(RaydaskError, OSError):
    """The spill folder has no room left."""


class RemoteTraceback(Exception):
    """The traceback of another process, shown as the cause of the error here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class TaskError(RaydaskError):
    """A task's function raised.

    What ``get`` raises is an instance of this class and of the exception's own class, so
    both ``except TaskError`` and ``except ZeroDivisionError`` catch it.

    Attributes
    ----------
    cause : BaseException or None
        The exception as the function raised it; None where it could not be pickled.
    remote_traceback : str
        The traceback in the worker.
    task_name : str
        The function's name.
    where : str
        The process that ran it, such as ``"pid 4711 on node 1"``.
    """

    cause: BaseException | None = None
    remote_traceback: str = ""
    task_name: str = ""
    where: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            task_error,
            (self.cause, self.remote_traceback, self.task_name, self.where, self.args),
        )


def task_error(
    cause: BaseException | None,
    remote_traceback: str,
    task_name: str,
    where: str,
    args: tuple[object, ...] = (),
) -> TaskError:
    """Return the error that stands for `cause`, as an instance of its type where possible.

    Types that refuse a second base (or a copy of themselves) give a plain ``TaskError``
    with the same message, and the cause beside it.
    """
    error = _instance_of_cause(cause) if cause is not None else None
    if error is None:
        error = TaskError(*(args or ((str(cause),) if cause is not None else ())))
    error.cause = cause
    error.remote_traceback = remote_traceback
    error.task_name = task_name
    error.where = where
    heading = f"in task {task_name!r} ({where}):\n" if task_name else ""
    error.__cause__ = RemoteTraceback(heading + remote_traceback)
    return error


def _instance_of_cause(cause: BaseException) -> TaskError | None:
    kind: type[BaseException] = type(cause)
    if isinstance(cause, TaskError):
        # Another task's error that this one did not catch: one layer is enough.
        plain = [
            base
            for base in kind.__mro__
            if issubclass(base, BaseException)
            and not issubclass(TaskError, base)
            and not issubclass(base, TaskError)
        ]
        kind = plain[0] if plain else kind
    if issubclass(TaskError, kind) or issubclass(kind, TaskError):
        return None
    try:
        both = type(
            kind.__name__,
            (TaskError, kind),
            {"__module__": kind.__module__, "__qualname__": kind.__qualname__},
        )
        # Built-in exceptions keep fields outside __dict__ and args, such as a file's name;
        # their own reduction has them, and their own __init__ and attributes set them.  A
        # user's __init__ may want other arguments, so it is not called.
        builtin: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
        reduced: tuple[Any, ...] = builtin.__reduce__(cause)
        # The interpreter takes only the __new__ of the base that gives the object its shape.
        shape: Any = both.__base__
        while shape.__module__ != "builtins":
            shape = shape.__base__
        error: TaskError = shape.__new__(both, *reduced[1])
        builtin.__init__(error, *reduced[1])
        error.__dict__.update(cause.__dict__)
        for name, value in (reduced[2] if len(reduced) > 2 else {}).items():
            if name not in cause.__dict__:
                setattr(error, name, value)
        error.args = cause.args
        str(error)
    except Exception:  # a class may do anything in its constructors
        return None
    return error
