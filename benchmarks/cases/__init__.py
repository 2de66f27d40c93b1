"""The programs measured, by name, in the order in which reports list them.

Like the contenders' registry, free to import: numpy, pandas and Dask are imported inside the
cases, in the processes that run them.
"""

from __future__ import annotations

from typing import Any

from benchmarks.cases.actor_calls import ActorCallsAsync, ActorCallsSync, ManyActors
from benchmarks.cases.all_to_all import AllToAll
from benchmarks.cases.array_sum import ArrayTransposedSum
from benchmarks.cases.broadcast import Broadcast
from benchmarks.cases.dataframes import Groupby, Merge, Shuffle
from benchmarks.cases.delayed_tree import DelayedTree
from benchmarks.cases.large_objects import PassAlong, PutGet
from benchmarks.cases.noop_tasks import NoopAsync, NoopSync
from benchmarks.cases.out_of_core import OutOfCoreArray, OutOfCoreShuffle
from benchmarks.cases.port import Case
from benchmarks.cases.recursion import DeepRecursion, Fibonacci, FibonacciOneCpu
from benchmarks.cases.small_objects import SmallPuts
from benchmarks.cases.startup import Startup
from benchmarks.cases.word_count import WordCount

CASES: dict[str, type[Case[Any]]] = {
    case.name: case
    for case in (
        NoopAsync,
        NoopSync,
        ActorCallsSync,
        ActorCallsAsync,
        ManyActors,
        DelayedTree,
        AllToAll,
        ArrayTransposedSum,
        Groupby,
        Merge,
        Shuffle,
        WordCount,
        OutOfCoreArray,
        OutOfCoreShuffle,
        PutGet,
        Broadcast,
        PassAlong,
        SmallPuts,
        Startup,
        Fibonacci,
        FibonacciOneCpu,
        DeepRecursion,
    )
}
