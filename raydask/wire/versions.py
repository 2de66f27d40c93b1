"""Which versions work together, and a table that shows them. Pure.

Processes send one another functions as pickles and messages as arrays without names.  So some
versions must be the same on both sides; of others it is good to know that they are not.

Vocabulary
----------
versions
    By name, what a process runs: ``raydask``, ``Python``, ``protocol`` (a digest of the messages),
    and of what it has loaded ``cloudpickle``, ``numpy`` and ``pyarrow``.  What has no name there is
    not known, and is no reason for anything.
party
    Who has them, as people call him, and the versions.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Versions = Mapping[str, str]
Party = tuple[str, Versions]


class Comparison(NamedTuple):
    """What comes of two parties' versions.

    Attributes
    ----------
    refusal : str
        Why they cannot work together; empty if they can.
    warning : str
        What may go wrong all the same; empty if nothing.
    """

    refusal: str
    warning: str


class _Rule(NamedTuple):
    """What has to be the same of a version.

    Attributes
    ----------
    must : bool
        Whether they cannot work together otherwise.
    parts : int
        So many of its numbers; 0: all of it.
    reason : str
        With the places ``{us}``, ``{ours}``, ``{them}`` and ``{theirs}``.
    """

    must: bool
    parts: int
    reason: str

    def part_of(self, version: str) -> str:
        return ".".join(version.split(".")[: self.parts]) if self.parts else version

    def differ(self, one: str, other: str) -> bool:
        return bool(one and other) and self.part_of(one) != self.part_of(other)

    def __str__(self) -> str:
        what = {0: "", 1: "major ", 2: "x.y "}[self.parts]
        return f"{what}{'must' if self.must else 'should'} match"


_LIBRARY = (
    "{us} has {name} {ours} and {them} {theirs}: what one of them pickles may not load in the "
    "other; install the same in both"
)

_RULES = {
    "raydask": _Rule(
        True,
        0,
        "{us} runs raydask {ours} and {them} has {theirs}; install the same version in both",
    ),
    "Python": _Rule(
        True,
        2,
        "{us} runs on Python {ours} and {them} on {theirs}; pickled functions do not travel "
        "between them: use the same Python for both",
    ),
    "protocol": _Rule(
        True,
        0,
        "{us} and {them} have the same version of raydask from different sources, whose messages "
        "differ (protocol {ours} and {theirs}); install the same in both",
    ),
    "cloudpickle": _Rule(False, 0, _LIBRARY),
    "numpy": _Rule(False, 1, _LIBRARY),
    "pyarrow": _Rule(False, 1, _LIBRARY),
}
"""In the order in which they are looked at, and shown."""


def compare(ours: Party, theirs: Party, beside: Sequence[Party] = ()) -> Comparison:
    """Say whether one party can work with another.

    Parameters
    ----------
    ours, theirs : Party
    beside : sequence of Party
        Others whom the reader wants to see in the table, first.
    """
    (us, our_versions), (them, their_versions) = ours, theirs
    said: dict[bool, list[str]] = {True: [], False: []}
    for name, rule in _RULES.items():
        one, other = our_versions.get(name, ""), their_versions.get(name, "")
        if rule.differ(one, other):
            said[rule.must].append(
                rule.reason.format(name=name, us=us, ours=one, them=them, theirs=other)
            )
    if not any(said.values()):
        return Comparison("", "")
    shown = ["", table([*beside, ours, theirs])]
    # Of what must match the first tells all: where raydask differs, the protocol does too.
    refusal, warning = said[True][:1], said[False]
    return Comparison(
        "\n".join(refusal + shown) if refusal else "",
        "\n".join(warning + shown) if warning else "",
    )


def table(parties: Sequence[Party]) -> str:
    """Return the versions of some parties as text, with what must match in the last line.

    What is not as with the first party that has it is marked: ``!`` where it must be, ``?``
    where it should.
    """
    names = [name for name in _RULES if any(versions.get(name) for _, versions in parties)]
    rows = [["", *names]]
    for who, versions in parties:
        rows.append([who, *(_cell(name, versions.get(name, ""), parties) for name in names)])
    rows.append(["", *(str(_RULES[name]) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cell(name: str, version: str, parties: Sequence[Party]) -> str:
    if not version:
        return "-"
    rule = _RULES[name]
    first = next(versions[name] for _, versions in parties if versions.get(name))
    if not rule.differ(first, version):
        return version
    return f"{version} {'!' if rule.must else '?'}"


def digest_of(messages: Iterable[type[Any]]) -> str:
    """Return a text that differs where the messages do: their order, their fields, the types."""
    digest = 0
    for message in messages:
        fields = sorted(message.__annotations__.items())
        order = getattr(message, "__struct_fields__", ())
        digest = zlib.crc32(repr((message.__name__, order, fields)).encode(), digest)
    return f"{digest:08x}"
