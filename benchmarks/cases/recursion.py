"""Tasks that start tasks and wait for them, wider and deeper than there are workers."""

from __future__ import annotations

from benchmarks.cases.port import Case, Stopwatch
from benchmarks.contenders.port import FanOut, NestsTasks
from benchmarks.measurement import Metric, Round


def fibonacci(number: int, fan_out: FanOut) -> int:
    """Compute a Fibonacci number with a remote call for each term."""
    if number < 2:
        return number
    return sum(fan_out(fibonacci, [(number - 1, fan_out), (number - 2, fan_out)]))


def descend(depth: int, fan_out: FanOut) -> int:
    """Count the levels below, each a remote call waiting for the next."""
    if depth == 0:
        return 0
    (below,) = fan_out(descend, [(depth - 1, fan_out)])
    return 1 + int(below)


class Fibonacci(Case[NestsTasks]):
    """465 calls, most of them waiting for others."""

    name = "fib-2-cpus"
    title = "fib(12) by recursive remote calls, 2 CPUs"
    metrics = (Metric("all", "s"),)
    requires = NestsTasks
    cpus = 2

    def measure(self, contender: NestsTasks) -> Round:
        with Stopwatch() as watch:
            answer = contender.call(fibonacci, self.scaled(12, 4), contender.fan_out)
        return Round({"all": watch.seconds}, answer)


class FibonacciOneCpu(Fibonacci):
    """The same where every waiting call must make room."""

    name = "fib-1-cpu"
    title = "fib(12) by recursive remote calls, 1 CPU"
    cpus = 1


class DeepRecursion(Case[NestsTasks]):
    """A chain in which every call but the last waits."""

    name = "depth-100"
    title = "recursion 100 calls deep, 1 CPU"
    metrics = (Metric("all", "s"),)
    requires = NestsTasks
    cpus = 1

    def measure(self, contender: NestsTasks) -> Round:
        with Stopwatch() as watch:
            answer = contender.call(descend, self.scaled(100, 5), contender.fan_out)
        return Round({"all": watch.seconds}, answer)
