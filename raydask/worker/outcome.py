"""What becomes of a task: values in their places, or an error in the place of each."""

from __future__ import annotations

import os
import pickle
import traceback
from typing import Any

from raydask.driver.options import describe_exceptions
from raydask.driver.session import Session
from raydask.errors import (
    RaydaskError,
    TaskCancelledError,
    TaskError,
    TaskTimeoutError,
    UsageError,
    task_error,
)
from raydask.ids import FunctionID, ObjectID, TaskID, return_id
from raydask.serialization import Serialized, serialize, serialize_failure
from raydask.task import TaskTemplate
from raydask.wire.messages import Assignment, ObjectValue, TaskResult, TaskStatus, ValueKind

_OK = int(TaskStatus.OK)
_FAILED = int(TaskStatus.FAILED)
_CANCELLED = int(TaskStatus.CANCELLED)
_INLINE = int(ValueKind.INLINE)
_ERROR = int(ValueKind.ERROR)
_NONE = serialize(None).to_bytes()
_LINE_LENGTH = 300
_OWN_FRAMES = (os.sep + "raydask" + os.sep + "worker" + os.sep,)


class Outcomes:
    """Turns what tasks return or raise into what is sent.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._where = f"pid {os.getpid()} on node {session.welcome.node}"

    def success(self, task_id: TaskID, num_returns: int, value: Any) -> list[ObjectValue]:
        """Return the values of a task that returned `value`; they stay until `handed_over`.

        Raises
        ------
        UsageError
            It should have returned several values and did not.
        TypeError
            The value cannot be pickled.
        ObjectStoreFullError
        """
        if num_returns == 1:
            object_id = ObjectID(task_id + b"\0\0\0\0")
            if value is None:
                return [ObjectValue(object_id, _INLINE, _NONE)]
            placed = [self._session.codec.place(object_id, _serialize_result(value))]
        elif num_returns == 0:
            return []
        else:
            try:
                values = list(value)
            except TypeError:
                values = []
            if len(values) != num_returns:
                raise UsageError(
                    f"the task has num_returns={num_returns} and returned {value!r:.80}; return a "
                    f"tuple or list of {num_returns}"
                )
            placed = [
                self._session.codec.place(return_id(task_id, index), _serialize_result(one))
                for index, one in enumerate(values)
            ]
        self._keep_nested(placed)
        return placed

    def _keep_nested(self, values: list[ObjectValue]) -> None:
        # Were these refs let go before the node has the values, it would free what they refer to.
        for value in values:
            for nested in value.nested:
                self._session.references.adopt(nested)

    def handed_over(self, values: list[ObjectValue]) -> None:
        """Let go of the refs inside values: whoever was to get them holds them now."""
        for value in values:
            if value.nested:
                self._session.references.dropped.extend(value.nested)

    def failure(
        self, task_id: TaskID, template: TaskTemplate, error: BaseException
    ) -> tuple[int, list[ObjectValue], bool]:
        """Return status, values and whether to retry, for a task that raised.

        The refs that the error carries are kept until `handed_over`, as those of values are.
        """
        status = _FAILED
        retryable = False
        if isinstance(error, (TaskCancelledError, TaskTimeoutError)):
            status = _CANCELLED
            shown: BaseException = error
        elif isinstance(error, RaydaskError) and not _is_users(error):
            shown = error
        else:
            retryable = _retries(template, error)
            shown = task_error(error, _remote_traceback(error), template.name, self._where)
        serialized = serialize_failure(shown)
        data = serialized.to_bytes()
        values = [
            ObjectValue(return_id(task_id, index), _ERROR, data, 0, 0, serialized.nested)
            for index in range(max(1, template.num_returns))
        ]
        self._keep_nested(values)
        return status, values, retryable

    def cancelled(self, assignment: Assignment, template: TaskTemplate) -> None:
        """Report a task that was cancelled before it began."""
        error = TaskCancelledError("the task was cancelled before it began")
        _, values, _ = self.failure(assignment.task_id, template, error)
        self._session.outbox.add_result(
            TaskResult(assignment.task_id, _CANCELLED, values, 0.0, 0.0)
        )


def _serialize_result(value: object) -> Serialized:
    try:
        return serialize(value)
    except (RaydaskError, MemoryError):
        raise  # the task was interrupted here, or the value says itself why not
    except Exception as error:  # a __reduce__ may raise anything
        raise TypeError(
            f"the task returned a {type(value).__qualname__} that cannot be pickled "
            f"({in_a_line(error)}); return something that can, or keep it in an actor"
        ) from error


def _is_users(error: RaydaskError) -> bool:
    # An error of another task that this one did not catch is this one's error too.
    return isinstance(error, TaskError)


def _retries(template: TaskTemplate, error: BaseException) -> bool:
    pickled = template.retry_exceptions
    if pickled is None or not isinstance(error, Exception):
        return False
    return not pickled or isinstance(error, describe_exceptions(pickled))


def in_a_line(error: BaseException) -> str:
    """Return type and message of an error, shortened where that is long."""
    # An exception's own __str__ may raise; this does not.
    text = traceback.format_exception_only(type(error), error)[-1].strip()
    return text if len(text) <= _LINE_LENGTH else text[: _LINE_LENGTH - 1] + "…"


def _remote_traceback(error: BaseException) -> str:
    # The frames of this package above the user's function tell the user nothing.
    trace = error.__traceback__
    while trace is not None and any(
        part in trace.tb_frame.f_code.co_filename for part in _OWN_FRAMES
    ):
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    return "".join(lines)


def load_code(template: TaskTemplate, functions: dict[FunctionID, Any]) -> Any:
    """Return the function or class of a template; `functions` has the pickle or the thing.

    Raises
    ------
    UsageError
        It cannot be unpickled in this process.
    """
    code = functions.get(template.function_id)
    if not isinstance(code, bytes):
        return code
    try:
        function = pickle.loads(code)
    except Exception as error:
        raise UsageError(
            f"{template.name} cannot be loaded in a worker: {type(error).__name__}: {error}. "
            "Its module must be importable there, or be defined in the main script"
        ) from error
    functions[template.function_id] = function
    return function
