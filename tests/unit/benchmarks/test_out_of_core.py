"""The out-of-core cases: their data have the known answers, and the verdict is the right one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pandas
import pytest

from benchmarks.agreement import agree
from benchmarks.cases.out_of_core import (
    OutOfCoreArray,
    OutOfCoreShuffle,
    WrongAnswer,
    make_chunk,
    make_rows,
    permuted,
    summarize,
)
from benchmarks.contenders.port import BoundsMemory
from benchmarks.measurement import CaseReport, Metric, Recording, Round
from benchmarks.out_of_core import verdicts
from raydask.object_store.backing import SHARE_OF_MEMORY

STORE = 256 << 20


class InThisProcess(BoundsMemory):
    """Computes with Dask's synchronous scheduler; `falsify` has a say in what comes out."""

    name = "in-this-process"

    def __init__(self, falsify: Callable[[list[Any]], list[Any]] = list) -> None:
        super().__init__(cpus=1)
        self.falsify = falsify
        self.calls: list[str] = []

    def prepare(self) -> None:
        self.calls.append("prepare")

    def start(self) -> None:
        raise AssertionError("the case bounds the memory")

    def start_within(self, memory: int) -> None:
        assert memory == pytest.approx(STORE / SHARE_OF_MEMORY)
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def compute(self, collections: Sequence[Any]) -> list[Any]:
        import dask

        return self.falsify(list(dask.compute(*collections, scheduler="synchronous")))


@pytest.fixture(autouse=True)
def memory_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_HOST_TOKEN", "token-of-no-process")


def test_the_permutation_has_every_number_once() -> None:
    assert sorted(permuted(0, 64, 64)) == list(range(64))
    assert list(permuted(16, 32, 64)) == list(permuted(0, 64, 64)[16:32])


def test_chunks_together_have_the_known_mean_and_deviation() -> None:
    chunks = [make_chunk(64, 256, block_id=(index,)) for index in range(4)]
    whole = numpy.concatenate(chunks) / numpy.pi
    assert statistics.mean(whole) == pytest.approx(255 / 2)
    assert numpy.std(whole) == pytest.approx(((256**2 - 1) / 12) ** 0.5)


def test_partitions_have_128_bytes_a_row_and_each_key_equally_often() -> None:
    rows = pandas.concat([make_rows(number, 64, 256, 8) for number in range(4)])
    assert rows.memory_usage(index=False).sum() == 128 * 256
    assert list(rows["row"]) == list(range(256))
    assert set(rows["key"].value_counts()) == {32}
    summary = summarize(rows)
    assert summary[["rows", "keys", "row-sum"]].to_numpy().tolist() == [[256, 8, 255 * 128]]


@pytest.mark.parametrize("case_class", [OutOfCoreArray, OutOfCoreShuffle])
def test_full_data_are_four_times_the_store(
    case_class: type[OutOfCoreArray] | type[OutOfCoreShuffle],
) -> None:
    assert case_class(quick=False).data == 4 * STORE
    assert case_class(quick=True).data < STORE


def test_a_round_has_the_known_answer_the_time_and_the_peak() -> None:
    contender = InThisProcess()
    case = OutOfCoreArray(quick=True)
    measured = case.measure(contender)
    assert agree(measured.answer, case.known())
    assert measured.values.keys() == {"all", "peak memory"}
    assert measured.values["peak memory"] > 8
    assert contender.calls == ["prepare", "start", "stop"]


def test_a_wrong_answer_is_refused_and_the_contender_stopped() -> None:
    contender = InThisProcess(lambda results: [results[0], results[1] * 1.001])
    with pytest.raises(WrongAnswer, match="in-this-process computed"):
        OutOfCoreArray(quick=True).measure(contender)
    assert contender.calls[-1] == "stop"


def report(ours: float | None, theirs: float | None) -> CaseReport:
    def recording(peak: float | None) -> Recording:
        if peak is None:
            return Recording(failed="killed")
        return Recording([Round({"peak memory": peak})])

    recordings = {"raydask": recording(ours), "distributed": recording(theirs)}
    return CaseReport("array", "an array", (Metric("peak memory", "MB"),), recordings)


def test_the_lower_peak_is_good() -> None:
    assert verdicts([report(300, 600)]) == (
        ["array: peak(raydask) / peak(distributed) = 0.50"],
        True,
    )


@pytest.mark.parametrize(("ours", "theirs"), [(600, 300), (300, 300), (None, 300), (300, None)])
def test_anything_else_is_not(ours: float | None, theirs: float | None) -> None:
    _, good = verdicts([report(300, 600), report(ours, theirs)])
    assert not good


def test_a_disagreement_is_not_good_either() -> None:
    differing = report(300, 600)
    differing.disagreements.append("raydask computed 1, distributed computed 2")
    assert not verdicts([differing])[1]
