"""Which versions work together, and how that is told."""

from __future__ import annotations

import sys

import msgspec
import pytest

from raydask.version import VERSION
from raydask.wire.handshake import judge, protocol, versions_here
from raydask.wire.messages import Hello, JoinCluster
from raydask.wire.versions import compare, digest_of, table

OURS = {
    "raydask": "0.1.0",
    "Python": "3.11.7",
    "protocol": "12345678",
    "cloudpickle": "3.1.1",
    "numpy": "2.1.0",
}


def compared(**theirs: str) -> tuple[str, str]:
    return compare(("this node", OURS), ("the driver", {**OURS, **theirs}))


def test_the_same_versions_are_nothing_to_speak_of() -> None:
    assert compared() == ("", "")


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("raydask", "0.2.0", "this node runs raydask 0.1.0 and the driver has 0.2.0"),
        ("Python", "3.12.7", "this node runs on Python 3.11.7 and the driver on 3.12.7"),
        ("protocol", "87654321", "have the same version of raydask from different sources"),
    ],
)
def test_what_must_match_is_a_refusal_with_the_table(name: str, version: str, reason: str) -> None:
    refusal, warning = compared(**{name: version})

    first, empty, *rows = refusal.splitlines()
    assert reason in first
    assert (empty, len(rows), warning) == ("", 4, "")
    assert f"{version} !" in rows[2]


@pytest.mark.parametrize(
    ("name", "version"), [("cloudpickle", "3.1.0"), ("numpy", "1.26.4"), ("pyarrow", "9.0")]
)
def test_what_should_match_is_a_warning_with_the_table(name: str, version: str) -> None:
    ours = ("this node", {**OURS, "pyarrow": "19.0.1"})
    refusal, warning = compare(ours, ("the driver", {**OURS, name: version}))

    first, _, *rows = warning.splitlines()
    assert refusal == ""
    assert f"this node has {name} {ours[1][name]} and the driver {version}" in first
    assert f"{version} ?" in rows[2]


def test_the_first_of_what_must_match_is_told_and_warnings_beside_it() -> None:
    refusal, warning = compared(raydask="0.2.0", protocol="0", Python="3.12.1", cloudpickle="2.0")

    assert "runs raydask" in refusal.splitlines()[0]
    assert refusal.splitlines()[1] == ""
    assert "cloudpickle 3.1.1 and the driver 2.0" in warning


@pytest.mark.parametrize(
    ("name", "version"),
    [("Python", "3.11.9"), ("Python", "3.11"), ("numpy", "2.3.1"), ("colour", "blue")],
)
def test_what_need_not_match_is_no_matter(name: str, version: str) -> None:
    assert compared(**{name: version}) == ("", "")


@pytest.mark.parametrize("name", list(OURS))
def test_what_is_not_known_is_no_reason(name: str) -> None:
    assert compared(**{name: ""}) == ("", "")


def test_python_minors_are_compared_as_numbers_apart() -> None:
    refusal, _ = compare(("a", {"Python": "3.1.4"}), ("b", {"Python": "3.11.4"}))

    assert "3.11.4" in refusal


def test_the_table_has_a_row_for_each_and_a_column_for_what_somebody_has() -> None:
    head = {"raydask": "0.1.0", "Python": "3.11.7", "cloudpickle": "3.1.1"}
    driver = {"raydask": "0.1.1", "Python": "3.11.9", "cloudpickle": "3.0.0", "pyarrow": "19.0"}

    assert table([("the head", head), ("this node", head), ("the driver", driver)]) == (
        "            raydask     Python          cloudpickle   pyarrow\n"
        "the head    0.1.0       3.11.7          3.1.1         -\n"
        "this node   0.1.0       3.11.7          3.1.1         -\n"
        "the driver  0.1.1 !     3.11.9          3.0.0 ?       19.0\n"
        "            must match  x.y must match  should match  major should match"
    )


def test_others_are_in_the_table_first() -> None:
    refusal, _ = compare(("this node", OURS), ("it", {"raydask": "9"}), [("the head", OURS)])

    assert [row.split("  ")[0] for row in refusal.splitlines()[3:6]] == [
        "the head",
        "this node",
        "it",
    ]


# --- of this process ----------------------------------------------------------------------


def test_this_process_has_what_it_has_loaded() -> None:
    import cloudpickle

    here = versions_here()
    assert here["raydask"] == VERSION
    assert here["Python"] == "{}.{}.{}".format(*sys.version_info)
    assert here["cloudpickle"] == cloudpickle.__version__
    assert here["protocol"] == protocol()
    assert ("numpy" in here) == ("numpy" in sys.modules)


def test_what_another_says_is_judged() -> None:
    here = versions_here()
    version, python = here.pop("raydask"), here.pop("Python")
    for same in (
        Hello("driver", 1, version, python, others=here),
        JoinCluster(version, python, here),
        JoinCluster(version, python),
        Hello("worker", 1, version),
        Hello("control", 1),
    ):
        assert judge(same, ours="this node", theirs="it") == ("", "")
    other = Hello("driver", 1, version, python, others={**here, "protocol": "0"})
    assert "different sources" in judge(other, ours="this node", theirs="it").refusal


def test_the_digest_tells_messages_apart() -> None:
    class One(msgspec.Struct):
        number: int
        text: str = ""

    class Other(msgspec.Struct):
        text: str
        number: int = 0

    Renamed = msgspec.defstruct("One", [("number", int), ("words", str, "")])  # noqa: N806
    Retyped = msgspec.defstruct("One", [("number", float), ("text", str, "")])  # noqa: N806

    digests = [
        digest_of(each) for each in ([One], [One, Other], [Other, One], [Renamed], [Retyped])
    ]
    assert len(set(digests)) == 5
    assert digest_of([One]) == digests[0]
    assert all(len(digest) == 8 for digest in digests)
