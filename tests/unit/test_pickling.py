"""Picklers that are used again give what fresh ones give, whatever happened to them before."""

from __future__ import annotations

import copyreg
import pickle
import subprocess
import sys
import threading
import types
from typing import Any

import pytest

from raydask.pickling import cloud_dumps, code_dumps, plain_dumps


class Refusing:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class Nesting:
    """Pickles another value while it is pickled."""

    def __reduce__(self) -> Any:
        return (list, ([plain_dumps([1, "inner"])[0], plain_dumps({2: "more"})[0]],))


class Registered:
    pass


class WithBuffer:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (bytes, (pickle.PickleBuffer(self.data),))


def both_ways(value: object) -> list[Any]:
    return [
        pickle.loads(pickled, buffers=buffers)
        for pickled, buffers in (plain_dumps(value), cloud_dumps(value))
    ]


@pytest.mark.parametrize(
    "value",
    [None, (1, "a"), {"a": [1, 2]}, list(range(100_000)), "x" * 200_000, [b"y" * 70_000] * 3],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back_each_time(value: object) -> None:
    for _ in range(3):
        assert both_ways(value) == [value, value]


def test_nothing_of_one_value_is_in_the_pickle_of_the_next() -> None:
    shared = ["shared"]
    first, _ = plain_dumps([shared, shared])
    assert plain_dumps([shared, shared])[0] == first
    assert plain_dumps(shared)[0] == pickle.dumps(shared, 5)


def test_buffers_stay_beside_and_are_the_values_own() -> None:
    kept = [plain_dumps(WithBuffer(data)) for data in (b"one", b"two", b"three")]

    assert [[bytes(each.raw()) for each in buffers] for _, buffers in kept] == [
        [b"one"],
        [b"two"],
        [b"three"],
    ]


def test_a_value_that_cannot_be_pickled_harms_no_other() -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError, match="not me"):
            plain_dumps(["before", WithBuffer(b"x"), Refusing()])
        pickled, buffers = plain_dumps(["after"])
        assert (pickle.loads(pickled), buffers) == (["after"], [])


def test_a_value_may_pickle_others_meanwhile() -> None:
    assert [pickle.loads(each) for each in both_ways(Nesting())[0]] == [[1, "inner"], {2: "more"}]


def test_threads_do_not_meet() -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        for each in range(300):
            value = [WithBuffer(b"%d %d" % (number, each)), {"number": number}]
            pickled, buffers = plain_dumps(value)
            if pickle.loads(pickled, buffers=buffers) != [
                b"%d %d" % (number, each),
                {"number": number},
            ]:
                wrong.append((number, each))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert wrong == []


def test_what_a_program_has_registered_is_heeded() -> None:
    plain_dumps(Registered())  # the table exists before
    copyreg.pickle(Registered, lambda value: (str, ("registered",)))  # type: ignore[arg-type]
    try:
        assert both_ways([Registered()]) == [["registered"]] * 2
    finally:
        del copyreg.dispatch_table[Registered]


STAND_IN = """
import pickle, sys, types
sys.modules["pyarrow"] = types.ModuleType("pyarrow")  # as a test of somebody's might
sys.modules["numpy"] = None  # type: ignore[assignment]  # and this one must not be found
from raydask.pickling import plain_dumps
assert pickle.loads(plain_dumps([1, 2])[0]) == [1, 2]
"""


def test_stand_ins_for_libraries_do_no_harm() -> None:
    subprocess.run([sys.executable, "-c", STAND_IN], check=True, timeout=60)


def in_a_file(path: str, source: str) -> Any:
    """A function of ``__main__``, so that it is pickled by value."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, path, "exec"), namespace)
    return namespace["f"]


def files_of(code: types.CodeType) -> set[str]:
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return {code.co_filename}.union(*map(files_of, inner))


@pytest.mark.parametrize("dumps", [code_dumps, lambda function: cloud_dumps(function)[0]])
def test_functions_keep_the_names_of_their_files(dumps: Any) -> None:
    path = "/home/alice/flights.py"
    function = in_a_file(path, "def f():\n    return [lambda: i for i in range(2)]\n")
    again = pickle.loads(dumps(function))
    assert again is not function
    assert files_of(again.__code__) == {path}
    assert again()[1]() == 1
    assert dumps(again) == dumps(pickle.loads(dumps(again)))
