"""What tasks return or raise, as it is sent."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from raydask.driver.references import ReferenceTable
from raydask.driver.values import ValueCodec
from raydask.errors import (
    ObjectLostError,
    TaskCancelledError,
    TaskError,
    TaskTimeoutError,
    UsageError,
    task_error,
)
from raydask.ids import FunctionID, IDSource, NodeNumber, ProcessNumber, function_id, return_id
from raydask.serialization import deserialize, deserialize_error, note_nested
from raydask.task import TaskTemplate
from raydask.wire.messages import TaskStatus, ValueKind
from raydask.worker.outcome import Outcomes, load_code

TASK = IDSource(NodeNumber(1), ProcessNumber(1)).next_task_id()


@pytest.fixture
def outcomes() -> Outcomes:
    """Outcomes of a session whose values all fit into messages."""
    store: Any = None
    table = ReferenceTable()
    session: Any = SimpleNamespace(
        codec=ValueCodec(store, table, 1 << 30), welcome=SimpleNamespace(node=1), references=table
    )
    return Outcomes(session)


def template(**options: Any) -> TaskTemplate:
    return TaskTemplate(FunctionID(b""), "module.f", **options)


@pytest.mark.parametrize("value", [None, 1, [1, 2]])
def test_one_return_is_the_value(outcomes: Outcomes, value: object) -> None:
    (sent,) = outcomes.success(TASK, 1, value)

    assert (sent.object_id, sent.kind) == (return_id(TASK, 0), ValueKind.INLINE)
    assert deserialize(sent.data) == value


def test_several_returns_are_the_values_parts(outcomes: Outcomes) -> None:
    sent = outcomes.success(TASK, 3, iter("abc"))

    assert [each.object_id for each in sent] == [return_id(TASK, index) for index in range(3)]
    assert [deserialize(each.data) for each in sent] == ["a", "b", "c"]
    assert outcomes.success(TASK, 0, "ignored") == []


@pytest.mark.parametrize("value", [None, 7, "a", (1, 2, 3)])
def test_the_wrong_number_of_returns_is_misuse(outcomes: Outcomes, value: object) -> None:
    with pytest.raises(UsageError, match="num_returns=2"):
        outcomes.success(TASK, 2, value)


class Raises:
    """Raises something when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


@pytest.mark.parametrize("num_returns", [1, 2])
def test_a_value_that_cannot_be_pickled_is_named(outcomes: Outcomes, num_returns: int) -> None:
    value: Any = [Raises(RuntimeError("not me"))]
    with pytest.raises(TypeError, match=r"returned a list that .*\(RuntimeError: not me\)"):
        outcomes.success(TASK, num_returns, value if num_returns == 1 else [value, value])


@pytest.mark.parametrize("error", [TaskCancelledError("stop"), MemoryError()])
def test_what_interrupts_pickling_is_not_the_values_fault(
    outcomes: Outcomes, error: Exception
) -> None:
    with pytest.raises(type(error)):
        outcomes.success(TASK, 1, Raises(error))


def test_an_error_stands_in_the_place_of_each_return(outcomes: Outcomes) -> None:
    status, values, retryable = outcomes.failure(TASK, template(num_returns=2), KeyError("k"))

    assert (status, retryable, len(values)) == (TaskStatus.FAILED, False, 2)
    for value in values:
        error = deserialize_error(value.data)
        assert value.kind == ValueKind.ERROR
        assert isinstance(error, KeyError) and isinstance(error, TaskError)
        assert error.task_name == "module.f" and "on node 1" in error.where


class Ref:
    """Pickles as refs do."""

    def __reduce__(self) -> Any:
        note_nested(return_id(TASK, 7))
        return (str, ("a ref",))


def test_what_a_value_or_an_error_contains_is_kept_until_it_is_handed_over(
    outcomes: Outcomes,
) -> None:
    counts = outcomes._session.references.counts
    inner = return_id(TASK, 7)
    _, failed, _ = outcomes.failure(TASK, template(num_returns=2), KeyError(Ref()))
    returned = outcomes.success(TASK, 1, [Ref()])

    assert [value.nested for value in failed + returned] == [[inner]] * 3
    assert counts == {inner: 3}
    outcomes.handed_over(failed)
    outcomes.handed_over(returned)
    outcomes._session.references.settle()
    assert counts == {}


@pytest.mark.parametrize("kind", [TaskCancelledError, TaskTimeoutError])
def test_what_somebody_asked_for_is_no_failure_of_the_function(
    outcomes: Outcomes, kind: type[Exception]
) -> None:
    status, values, retryable = outcomes.failure(TASK, template(retry_exceptions=b""), kind("stop"))

    assert (status, retryable) == (TaskStatus.CANCELLED, False)
    assert type(deserialize_error(values[0].data)) is kind


def test_errors_of_the_engine_are_passed_on_as_they_are(outcomes: Outcomes) -> None:
    _, values, retryable = outcomes.failure(
        TASK, template(retry_exceptions=b""), ObjectLostError("gone")
    )
    assert type(deserialize_error(values[0].data)) is ObjectLostError
    assert not retryable


@pytest.mark.parametrize(
    ("retried", "error", "expected"),
    [
        (None, ValueError(), False),
        (b"", ValueError(), True),
        (b"", SystemExit(), False),
        (b"", KeyboardInterrupt(), False),
        (pickle.dumps((OSError,)), FileNotFoundError(), True),
        (pickle.dumps((OSError,)), ValueError(), False),
    ],
)
def test_options_say_which_errors_are_retried(
    outcomes: Outcomes, retried: bytes | None, error: BaseException, expected: bool
) -> None:
    _, _, retryable = outcomes.failure(TASK, template(retry_exceptions=retried), error)
    assert retryable is expected


def test_another_tasks_error_is_one_of_this_task_too(outcomes: Outcomes) -> None:
    inner = task_error(OSError("disk"), "", "other", "")
    _, values, retryable = outcomes.failure(TASK, template(retry_exceptions=b""), inner)

    assert isinstance(deserialize_error(values[0].data), OSError)
    assert retryable


def test_code_is_unpickled_once() -> None:
    code = pickle.dumps(len)
    functions: dict[FunctionID, Any] = {function_id(code): code}
    named = TaskTemplate(function_id(code), "len")

    assert load_code(named, functions) is len
    assert functions == {function_id(code): len}
    assert load_code(named, functions) is len


def test_code_that_cannot_be_unpickled_says_why() -> None:
    code = b"cnowhere\nf\n."
    with pytest.raises(UsageError, match="module.f cannot be loaded.*nowhere"):
        load_code(TaskTemplate(function_id(code), "module.f"), {function_id(code): code})
