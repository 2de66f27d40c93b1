"""Calls to objects that live in workers, and the cost of creating them."""

from __future__ import annotations

from benchmarks.actors import Counter
from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import HostsActors
from benchmarks.measurement import Metric, Round


class ActorCallsSync(Case[HostsActors]):
    """Each call's result collected before the next call."""

    name = "actor-sync"
    title = "1,000 calls to one actor, one after the other"
    metrics = (Metric("call", "µs"),)
    requires = HostsActors

    def measure(self, contender: HostsActors) -> Round:
        count = self.scaled(1_000, 50)
        actor = contender.create_actor(Counter)
        contender.collect([actor.send("increment")])
        with Stopwatch() as watch:
            for _ in range(count):
                (total,) = contender.collect([actor.send("increment")])
        actor.close()
        return Round({"call": watch.seconds / count * 1e6}, total)


class ActorCallsAsync(Case[HostsActors]):
    """All calls sent, then all results collected."""

    name = "actor-async"
    title = "3,000 calls to one actor, sent at once"
    metrics = (Metric("call", "µs"),)
    requires = HostsActors

    def measure(self, contender: HostsActors) -> Round:
        count = self.scaled(3_000, 100)
        actor = contender.create_actor(Counter)
        contender.collect([actor.send("increment")])
        with Stopwatch() as watch:
            totals = contender.collect([actor.send("increment") for _ in range(count)])
        actor.close()
        return Round({"call": watch.seconds / count * 1e6}, sum(totals))


class ManyActors(Case[HostsActors]):
    """From nothing to a first answer of each."""

    name = "many-actors"
    title = "20 actors created and each called once"
    metrics = (Metric("all", "s"),)
    requires = HostsActors

    def measure(self, contender: HostsActors) -> Round:
        count = self.scaled(20, 4)
        with Stopwatch() as watch:
            actors = [contender.create_actor(Counter) for _ in range(count)]
            totals = contender.collect([actor.send("increment") for actor in actors])
        for actor in actors:
            actor.close()
        return Round({"all": watch.seconds}, totals)
