"""What fails raises what it raised, and ends the rest of the graph."""

from __future__ import annotations

import threading
import traceback
from pathlib import Path
from typing import Any

import dask
import pytest
from dask import delayed

import raydask
from raydask.errors import RemoteTraceback, UsageError

pytestmark = pytest.mark.usefixtures("cluster")


class OwnError(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(code)
        self.code = code
        self.hint = hint

    def __reduce__(self) -> Any:
        return _own_error, (self.code, self.hint)


def _own_error(code: int, hint: str) -> OwnError:
    return OwnError(code, hint=hint)


def divide(x: int) -> float:
    return 1 / x


def fail_with_own_error() -> None:
    raise OwnError(7, hint="try again")


def fail_with_what_cannot_be_pickled() -> None:
    raise ValueError("unpicklable", threading.Lock())


def test_the_original_exception_is_raised() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        delayed(divide)(0).compute(scheduler=raydask.get)

    assert type(caught.value) is ZeroDivisionError
    assert caught.value.args == ("division by zero",)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    shown = "".join(traceback.format_exception(caught.value))
    assert "in divide" in shown
    assert "'divide'" in shown
    assert "During handling" not in shown


def test_exceptions_of_users_keep_what_they_carry() -> None:
    with pytest.raises(OwnError) as caught:
        delayed(fail_with_own_error)().compute(scheduler=raydask.get)

    assert (caught.value.code, caught.value.hint) == (7, "try again")


def test_an_exception_that_cannot_be_pickled_is_told_in_words() -> None:
    with pytest.raises(raydask.TaskError, match="unpicklable"):
        delayed(fail_with_what_cannot_be_pickled)().compute(scheduler=raydask.get)


def test_the_first_failure_ends_the_rest(tmp_path: Path) -> None:
    """With two workers, at most what was on its way runs beside and after the failure."""

    def touch(after: Any, i: int) -> None:
        (tmp_path / str(i)).touch()

    bad = delayed(divide)(0)
    later = [delayed(touch)(bad, i) for i in range(100)]

    with pytest.raises(ZeroDivisionError):
        dask.compute(*later, scheduler=raydask.get)
    assert raydask.get({"x": (abs, -1)}, "x") == 1
    assert not list(tmp_path.iterdir())


def test_a_result_that_cannot_be_pickled_names_the_task() -> None:
    with pytest.raises(Exception, match="generator"):
        delayed(lambda: (i for i in range(3)))().compute(scheduler=raydask.get)


def test_an_argument_that_cannot_be_pickled_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="generator"):
        raydask.get({"x": (list, "ab"), "y": (list, (c for c in "ab"))}, ["x", "y"])


def test_missing_keys() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        raydask.get({"x": 1}, ["nowhere"])


def test_workers_by_address_are_refused() -> None:
    with pytest.raises(UsageError, match="allow_other_workers"):
        delayed(abs)(-1).compute(scheduler=raydask.get, workers=["tcp://a:1"])


def test_rerun_exceptions_locally() -> None:
    """The failing task runs again here, where a debugger could stop in it."""
    value = delayed(divide)(delayed(int)(0))

    with pytest.raises(ZeroDivisionError) as caught:
        value.compute(scheduler=raydask.get, rerun_exceptions_locally=True)

    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "divide"
