"""What reaches the driver when a task fails by itself."""

from __future__ import annotations

import pickle
import sys
import threading
import traceback
from typing import Any

import pytest

import raydask
from raydask.errors import RaydaskError, TaskError

pytestmark = pytest.mark.usefixtures("cluster")


class PlainError(Exception):
    """An exception of the user's own."""


class FussyError(Exception):
    """One whose constructor takes other arguments than it passes on."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class ReducingError(Exception):
    """One with a way of its own to pickle."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(left, right)
        self.total = left + right

    def __reduce__(self) -> Any:
        return ReducingError, self.args


class UnpicklableError(Exception):
    """One that holds a lock."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class OneWayError(Exception):
    """One that pickles and cannot be unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


class SlottedError(Exception):
    """One with slots and a read-only property."""

    __slots__ = ("_n",)

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self._n = n

    @property
    def n(self) -> int:
        return self._n


def _refuse() -> None:
    raise RuntimeError("not to be unpickled")


def failure_of(function: Any, *args: Any) -> BaseException:
    """Return what get raises for a task that calls `function`."""
    with pytest.raises(BaseException) as caught:
        raydask.get(raydask.remote(function).remote(*args))
    return caught.value


def throw(error: BaseException) -> None:
    raise error


def test_the_error_is_of_its_own_type_and_a_task_error() -> None:
    error = failure_of(lambda: 1 / 0)
    assert isinstance(error, ZeroDivisionError) and isinstance(error, TaskError)
    assert str(error) == "division by zero"
    assert type(error.cause) is ZeroDivisionError


def test_the_remote_traceback_shows_the_users_frames_only() -> None:
    def inner() -> None:
        raise ValueError("here")

    def outer() -> None:
        inner()

    error = failure_of(outer)
    assert isinstance(error, TaskError)
    assert "in outer" in error.remote_traceback and "in inner" in error.remote_traceback
    assert __file__ in error.remote_traceback
    assert 'raise ValueError("here")' in error.remote_traceback, "the line itself"
    assert "raydask/worker" not in error.remote_traceback
    assert error.task_name.endswith("outer") and error.where.startswith("pid ")
    shown = "".join(traceback.format_exception(error))
    assert "in inner" in shown and "in task" in shown and "ValueError: here" in shown


@pytest.mark.parametrize(
    "error",
    [
        PlainError("text", 5),
        PlainError(),
        KeyError("k"),
        IndexError(3),
        FileNotFoundError(2, "No such file", "/nowhere"),
        OSError("plain text"),
        PermissionError(13, "no"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        StopIteration(5),
        ReducingError(1, 2),
        ImportError("gone", name="x"),
        AssertionError(),
        TimeoutError("late"),
        ConnectionRefusedError(111, "refused"),
        MemoryError(),
        RecursionError("deep"),
        NotImplementedError(),
        AttributeError("no such thing"),
    ],
    ids=repr,
)
def test_errors_keep_type_text_and_fields(error: Exception) -> None:
    got = failure_of(throw, error)
    assert isinstance(got, type(error)) and isinstance(got, TaskError)
    assert str(got) == str(error) and got.args == error.args
    for name in ("errno", "filename", "total", "name", "value", "reason", "start"):
        if hasattr(error, name):
            assert getattr(got, name) == getattr(error, name)


def test_an_error_with_a_fussy_constructor_keeps_its_fields() -> None:
    def fail() -> None:
        raise FussyError(7, reason="odd")

    error = failure_of(fail)
    assert isinstance(error, TaskError) and "odd (7)" in str(error)
    assert "FussyError" in error.remote_traceback


def test_an_error_that_cannot_be_pickled_becomes_readable() -> None:
    def fail() -> None:
        raise UnpicklableError("about a lock")

    error = failure_of(fail)
    assert isinstance(error, TaskError)
    assert "UnpicklableError" in str(error) and "about a lock" in str(error)
    assert "in fail" in error.remote_traceback and error.cause is None


def test_an_error_that_cannot_be_unpickled_becomes_readable() -> None:
    def fail() -> None:
        raise OneWayError("one way")

    error = failure_of(fail)
    assert isinstance(error, RaydaskError)
    assert "one way" in str(error) or "one way" in getattr(error, "remote_traceback", "")


def test_an_error_with_slots() -> None:
    error = failure_of(throw, SlottedError(5))
    assert isinstance(error, TaskError) and "5" in str(error)


def test_a_chained_error_shows_its_cause() -> None:
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise PlainError("second") from error

    error = failure_of(fail)
    assert isinstance(error, PlainError) and isinstance(error, TaskError)
    assert "KeyError: 'first'" in error.remote_traceback


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_an_exception_group() -> None:
    def fail() -> None:
        raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])  # noqa: F821

    error = failure_of(fail)
    assert isinstance(error, TaskError)
    assert "several" in str(error) and "KeyError" in error.remote_traceback


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_is_no_ordinary_exception_is_a_task_error_too(raised: BaseException) -> None:
    error = failure_of(throw, raised)
    assert isinstance(error, TaskError)
    assert type(raised).__name__ in error.remote_traceback
    assert raydask.get(raydask.remote(lambda: 1).remote()) == 1


def test_a_result_that_cannot_be_pickled_is_told() -> None:
    error = failure_of(lambda: [threading.Lock()])
    assert isinstance(error, TypeError)
    assert "returned a list that cannot be pickled" in str(error) and "lock" in str(error)
    assert isinstance(error, TaskError)


def test_a_result_whose_unpickling_fails_raises_that_in_get() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return _refuse, ()

    with pytest.raises(RuntimeError, match="not to be unpickled"):
        raydask.get(raydask.remote(lambda kind=Bomb: kind()).remote())
    assert raydask.get(raydask.put(1)) == 1


def test_an_argument_whose_unpickling_fails_fails_the_task() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return _refuse, ()

    error = failure_of(lambda x: x, Bomb())
    assert "not to be unpickled" in str(error)


def test_a_failed_input_fails_what_depends_on_it_with_the_same_error() -> None:
    bad = raydask.remote(lambda: {}["missing"]).remote()
    after = raydask.remote(lambda x: x)
    for ref in (after.remote(bad), after.remote(after.remote(bad))):
        with pytest.raises(KeyError, match="missing"):
            raydask.get(ref)


def test_a_function_whose_module_is_missing_in_the_worker_is_told() -> None:
    import types

    module = types.ModuleType("only_here")
    exec("def lost(): pass", module.__dict__)
    module.lost.__module__ = "only_here"
    sys.modules["only_here"] = module
    try:
        error = failure_of(module.lost)
    finally:
        del sys.modules["only_here"]
    assert "cannot be loaded in a worker" in str(error) and "only_here" in str(error)


def test_task_errors_pickle() -> None:
    error = failure_of(throw, PlainError("text"))
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, PlainError) and isinstance(again, TaskError)
    assert str(again) == "text" and again.remote_traceback == error.remote_traceback


def test_the_driver_can_compare_and_raise_it_again() -> None:
    error = failure_of(throw, PlainError("text"))
    with pytest.raises(PlainError, match="text"):
        raise error


def test_each_get_raises_an_error_of_its_own() -> None:
    ref = raydask.remote(throw).remote(PlainError("text"))
    caught = []
    for _ in range(2):
        with pytest.raises(PlainError) as info:
            raydask.get(ref)
        caught.append(info.value)
    assert caught[0] is not caught[1]


def test_an_endless_recursion_is_an_error() -> None:
    def forever(n: int) -> int:
        return forever(n + 1)

    assert isinstance(failure_of(forever, 0), RecursionError)
