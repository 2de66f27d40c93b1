"""Runs cases on contenders in alternating rounds.

Fairness, and what it is bought with:

- Rounds alternate: every contender runs its first round before any runs its second, and the
  order rotates. What changes on the machine meanwhile (clock speed, neighbours, file cache) hits
  all of them alike. Medians over the rounds are reported.
- A contender stays up over all cases, because starting some of them takes seconds and warm
  engines are what is compared. But an idle engine is not free: heartbeats and health checks of
  one were seen to take several percent of a CPU. So whoever's turn it is not is *paused*
  (SIGSTOP to all of its processes), and runs a small unmeasured round of the case after resuming,
  in which timers that came due meanwhile are served and whatever the case needs is imported.
- Cases that measure start, memory or cold state get a new process for every round instead.
- A contender that spent its time budget in a case takes no more rounds of it; one that fails
  or exceeds the time limit is killed and started anew for the next case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from benchmarks.agreement import disagreements
from benchmarks.cases.port import Case
from benchmarks.contenders.port import Contender
from benchmarks.host_process import HostError, HostProcess
from benchmarks.measurement import CaseReport, Recording, Round


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run.

    Attributes
    ----------
    rounds
        Rounds per case and contender.
    cpus
        Workers of each contender, where the case does not fix them.
    budget
        Seconds after which a contender takes no further rounds of a case.
    limit
        Seconds after which a single round is given up.
    """

    rounds: int
    cpus: int
    budget: float
    limit: float
    quick: bool


class Runner:
    """Runs cases, one after the other; `close` ends all hosts.

    Parameters
    ----------
    progress
        Told in a line what is being run.
    """

    def __init__(
        self,
        contenders: dict[str, type[Contender]],
        settings: Settings,
        progress: Callable[[str], None],
    ) -> None:
        self._contenders = contenders
        self._settings = settings
        self._progress = progress
        self._missing = {name: each.missing() for name, each in contenders.items()}
        self._hosts: dict[tuple[str, int], HostProcess] = {}

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, case: type[Case[Any]]) -> CaseReport:
        """Run all rounds of a case on all contenders that can take part."""
        recordings = {name: self._begin(name, case) for name in self._contenders}
        spent = dict.fromkeys(recordings, 0.0)
        for number in range(self._settings.rounds):
            for name in rotated(list(recordings), number):
                recording = recordings[name]
                if recording.skipped or recording.failed or spent[name] > self._settings.budget:
                    continue
                self._progress(f"{case.name}: round {number + 1}, {name}")
                began = monotonic()
                try:
                    recording.rounds.append(self._measure(name, case, first=number == 0))
                except HostError as error:
                    recording.failed = str(error)
                    self._drop(name, self._cpus(case))
                spent[name] += monotonic() - began
        if case.cpus not in (None, self._settings.cpus):
            # Nobody else needs hosts of this size; they would only take memory.
            for name in recordings:
                self._close_host(name, self._cpus(case))
        return CaseReport(
            case.name, case.title, case.metrics, recordings, disagreements(recordings)
        )

    def close(self) -> None:
        """Stop all contenders and end their processes."""
        for name, cpus in list(self._hosts):
            self._close_host(name, cpus)

    def _begin(self, name: str, case: type[Case[Any]]) -> Recording:
        if not issubclass(self._contenders[name], case.requires):
            return Recording(skipped="does not offer this")
        if self._missing[name] is not None:
            return Recording(skipped=f"{self._missing[name]} is not installed")
        return Recording()

    def _cpus(self, case: type[Case[Any]]) -> int:
        return self._settings.cpus if case.cpus is None else case.cpus

    def _measure(self, name: str, case: type[Case[Any]], *, first: bool) -> Round:
        if not case.starts_contender:
            host = self._host(name, self._cpus(case))
            host.resume()
            try:
                host.ask("warm_up", case.name, quick=True)
                return self._round(host, case)
            finally:
                host.pause()
        if first:
            self._fresh_round(name, case, quick=True)
        return self._fresh_round(name, case, quick=self._settings.quick)

    def _round(self, host: HostProcess, case: type[Case[Any]]) -> Round:
        reply = host.ask("measure", case.name, quick=self._settings.quick)
        return Round(reply["values"], reply["answer"])

    def _fresh_round(self, name: str, case: type[Case[Any]], *, quick: bool) -> Round:
        host = HostProcess(
            name, cpus=self._cpus(case), starts_contender=False, limit=self._settings.limit
        )
        try:
            host.wait_ready()
            reply = host.ask("measure", case.name, quick=quick)
            return Round(reply["values"], reply["answer"])
        finally:
            self._report_killed(name, host.close())

    def _host(self, name: str, cpus: int) -> HostProcess:
        host = self._hosts.get((name, cpus))
        if host is None:
            host = HostProcess(name, cpus=cpus, starts_contender=True, limit=self._settings.limit)
            self._hosts[name, cpus] = host
            host.wait_ready()
        return host

    def _drop(self, name: str, cpus: int) -> None:
        host = self._hosts.pop((name, cpus), None)
        if host is not None:
            host.kill()

    def _close_host(self, name: str, cpus: int) -> None:
        host = self._hosts.pop((name, cpus), None)
        if host is not None:
            host.resume()
            self._report_killed(name, host.close())

    def _report_killed(self, name: str, killed: int) -> None:
        if killed:
            self._progress(f"{name} left {killed} processes behind after its end; killed them")


def rotated(names: Sequence[str], by: int) -> list[str]:
    """Return the names in order, beginning with another one each round."""
    start = by % len(names) if names else 0
    return [*names[start:], *names[:start]]
