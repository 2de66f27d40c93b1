"""Which functions make a process name modules, and which modules it names."""

from __future__ import annotations

import collections
import json
import json.decoder as a_name_for_it
import sys
from typing import Any

import pytest

from raydask.driver.exports import Exports
from raydask.wire.messages import Export, Preload

THERE = a_name_for_it.JSONDecoder


def unrelated() -> int:
    return 1


def make(body: str, **names: Any) -> Any:
    """Return a function that is pickled by value, as one of the main script is."""
    space: dict[str, Any] = {"__name__": "__main__", **names}
    exec(f"def function():\n    {body}", space)
    return space["function"]


@pytest.fixture
def sent() -> list[Any]:
    return []


@pytest.fixture
def exports(sent: list[Any]) -> Exports:
    return Exports(sent.append, ["json", "not_there"])


def named(sent: list[Any]) -> list[str]:
    return [name for message in sent if isinstance(message, Preload) for name in message.modules]


@pytest.mark.parametrize(
    "function",
    [
        make("return json.dumps({})", json=json),
        make("import json; return json.dumps({})"),
        make("return decoder()", decoder=THERE),
        json.dumps,
        make,  # by its name alone, from a module that has imported json
    ],
    ids=["global", "import in its body", "class", "of the package", "by name"],
)
def test_a_function_that_may_want_a_package_names_its_modules_first(
    exports: Exports, sent: list[Any], function: Any
) -> None:
    exports.add(function, "f")
    assert isinstance(sent[0], Preload)
    assert isinstance(sent[1], Export)
    assert "json" in named(sent)
    assert "json.decoder" in named(sent)
    assert all(name.partition(".")[0] == "json" for name in named(sent))


@pytest.mark.parametrize(
    "function",
    [
        make("return 1"),
        make("return jsonic", jsonic="a json_file"),
        make("return OrderedDict()", OrderedDict=collections.OrderedDict),
        sys.intern,
    ],
    ids=["nothing", "part of a word", "another package", "by name, elsewhere"],
)
def test_another_names_none(exports: Exports, sent: list[Any], function: Any) -> None:
    exports.add(function, "f")
    assert [type(message) for message in sent] == [Export]


def test_each_module_is_named_once(
    exports: Exports, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exports.add(json.dumps, "dumps")
    exports.add(json.loads, "loads")
    monkeypatch.setitem(sys.modules, "json.of_late", collections)
    exports.add(json.dump, "dump")

    assert len(named(sent)) == len(set(named(sent)))
    assert [type(message) for message in sent] == [Preload, Export, Export, Preload, Export]
    assert sent[3].modules == ["json.of_late"]


def test_a_function_is_exported_once(exports: Exports, sent: list[Any]) -> None:
    assert exports.add(json.dumps, "dumps") == exports.add(json.dumps, "dumps")
    assert len(sent) == 2


def test_without_packages_nothing_is_named(sent: list[Any]) -> None:
    Exports(sent.append, []).add(json.dumps, "dumps")
    assert named(sent) == []
