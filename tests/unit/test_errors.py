"""Every error crosses a process boundary and can be caught as what it was."""

from __future__ import annotations

import builtins
import pickle

import pytest

from raydask import errors
from raydask.errors import RaydaskError, TaskError, task_error
from raydask.serialization import deserialize, deserialize_error, serialize, serialize_error

SPECIAL = {
    "UnicodeDecodeError": ("utf-8", b"x", 0, 1, "bad"),
    "UnicodeEncodeError": ("utf-8", "x", 0, 1, "bad"),
    "UnicodeTranslateError": ("x", 0, 1, "bad"),
    "BaseExceptionGroup": ("group", [ValueError("inner")]),
    "ExceptionGroup": ("group", [ValueError("inner")]),
}
BUILTINS = sorted(
    (
        kind
        for kind in vars(builtins).values()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    ),
    key=lambda kind: kind.__name__,
)
OWN = sorted(
    (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, RaydaskError) and kind is not TaskError
    ),
    key=lambda kind: kind.__name__,
)


class CuriousError(Exception):
    """Wants an argument that it does not keep."""

    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.one = one
        self.two = two


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("has a generator")
        self.generator = (number for number in ())


class FinalError(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


def made(kind: type[BaseException]) -> BaseException:
    return kind(*SPECIAL.get(kind.__name__, ("message",)))


def crossed(error: BaseException) -> BaseException:
    """The error as another process raises it."""
    wrapped = task_error(error, "Traceback: line 1", "module.f", "pid 1 on node 1")
    return deserialize_error(serialize_error(wrapped))


@pytest.mark.parametrize("kind", BUILTINS, ids=lambda kind: kind.__name__)
def test_builtin_errors_are_caught_as_themselves(kind: type[BaseException]) -> None:
    error = crossed(made(kind))

    assert isinstance(error, TaskError)
    assert isinstance(error, kind) or kind.__name__.endswith("Group")
    assert type(error.cause) is type(made(kind))
    assert str(error) == str(made(kind)) or kind.__name__.endswith("Group")
    assert error.remote_traceback == "Traceback: line 1"
    assert (error.task_name, error.where) == ("module.f", "pid 1 on node 1")
    assert "module.f" in str(error.__cause__) and "line 1" in str(error.__cause__)


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_own_errors_pickle_and_keep_their_message(kind: type[RaydaskError]) -> None:
    error = deserialize_error(serialize_error(kind("what to do next")))

    assert type(error) is kind
    assert str(error) == "what to do next"


def test_fields_of_built_in_errors_survive() -> None:
    missing = crossed(FileNotFoundError(2, "No such file", "/x"))
    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.filename) == (2, "/x")
    stop = crossed(SystemExit(3))
    assert isinstance(stop, SystemExit) and stop.code == 3


def test_a_users_error_keeps_its_type_fields_and_message() -> None:
    error = task_error(CuriousError(1, two=2), "", "f", "")

    assert isinstance(error, CuriousError) and isinstance(error, TaskError)
    assert (error.one, error.two, str(error)) == (1, 2, "1 and 2")


def test_an_error_that_cannot_be_unpickled_keeps_its_text() -> None:
    error = crossed(CuriousError(1, two=2))

    assert isinstance(error, TaskError)
    assert "1 and 2" in str(error)
    assert error.remote_traceback == "Traceback: line 1"


def test_an_error_that_cannot_be_pickled_keeps_its_text() -> None:
    error = crossed(UnpicklableError())

    assert isinstance(error, TaskError)
    assert "has a generator" in str(error)
    assert error.task_name == "module.f"


def test_a_type_that_refuses_subclasses_is_the_cause() -> None:
    error = crossed(FinalError("x"))

    assert type(error) is TaskError
    assert type(error.cause) is FinalError and str(error) == "x"


def test_an_error_that_passes_through_two_tasks_has_one_layer() -> None:
    first = crossed(KeyError("k"))
    second = crossed(first)

    assert isinstance(second, KeyError) and isinstance(second, TaskError)
    assert second.args == ("k",)
    assert pickle.loads(pickle.dumps(second)).args == ("k",)


def test_misuse_reads_as_what_python_raises_for_it() -> None:
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.GetTimeoutError, TimeoutError)
    assert issubclass(errors.ClusterUnavailableError, ConnectionError)


def test_what_is_no_error_is_said_to_be_none() -> None:
    assert "no exception" in str(deserialize_error(serialize(17).to_bytes()))
    assert "cannot be read" in str(deserialize_error(b"\x80garbage"))
    assert deserialize(serialize(17).to_bytes()) == 17
