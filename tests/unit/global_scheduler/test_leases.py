"""Leases: within what there is, fair, stable, and where inputs are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from raydask.global_scheduler.leases import PAUSE_SECONDS, REPORT_SECONDS, Lessor
from raydask.ids import NodeNumber
from raydask.wire.messages import Lease, ShapeDemand
from tests.unit.global_scheduler.cluster import units


class Homes:
    """A lessor, a clock, and what the homes have been told."""

    def __init__(self) -> None:
        self.lessor = Lessor()
        self.now = 100.0
        self.told: dict[tuple[int, int, int], int] = {}
        """(home, shape, node) -> slots."""
        self.totals: dict[int, dict[str, int]] = {}
        self.demands: dict[tuple[int, int], ShapeDemand] = {}

    def node(self, number: int, **total: float) -> None:
        self.totals[number] = units(**total)
        self.lessor.add_node(NodeNumber(number), self.totals[number])

    def nodes(self, count: int, **total: float) -> None:
        for number in range(1, count + 1):
            self.node(number, **total)

    def report(self, number: int, lent: dict[str, int] | None = None, **free: float) -> None:
        self.lessor.report(NodeNumber(number), units(**free), lent or {})

    def busy(self, *numbers: int) -> None:
        for number in numbers:
            self.lessor.report(NodeNumber(number), {}, {})

    def demand(self, home: int, count: int, *, shape: int = 1, **options: Any) -> None:
        nodes, seconds = options.pop("nodes", []), options.pop("seconds", -1.0)
        resources = units(**(options or {"CPU": 1}))
        demand = ShapeDemand(shape, resources, count, seconds, nodes)
        self.demands[home, shape] = demand
        self.lessor.demand(NodeNumber(home), [demand])

    def divide(self) -> dict[int, list[Lease]]:
        self.now += 1.0
        changes = self.lessor.divide(self.now)
        for home, leases in changes.items():
            for lease in leases:
                self.told[home, lease.shape, lease.node] = lease.slots
        self.told = {key: slots for key, slots in self.told.items() if slots}
        return {int(home): leases for home, leases in changes.items()}

    def of(self, home: int, shape: int = 1) -> dict[int, int]:
        """The slots that a home has, by node."""
        return {
            node: slots
            for (owner, kind, node), slots in self.told.items()
            if (owner, kind) == (home, shape)
        }

    def slots(self, home: int, shape: int = 1) -> int:
        return sum(self.of(home, shape).values())


@pytest.fixture
def homes() -> Homes:
    return Homes()


# --- what there is ------------------------------------------------------------------------


def test_a_home_gets_what_others_have_and_not_itself(homes: Homes) -> None:
    homes.nodes(3, CPU=4)
    homes.demand(1, 1000)
    homes.divide()

    assert homes.of(1) == {2: 4, 3: 4}


def test_a_home_gets_no_more_than_it_wants_and_from_few(homes: Homes) -> None:
    homes.nodes(4, CPU=4)
    homes.demand(1, 5)
    homes.divide()

    assert homes.of(1) == {2: 4, 3: 1}


def test_what_a_nodes_own_tasks_use_is_not_leased_and_what_lent_tasks_use_is(
    homes: Homes,
) -> None:
    homes.nodes(2, CPU=4)
    homes.report(2, CPU=1, lent=units(CPU=2))
    homes.demand(1, 10)
    homes.divide()

    assert homes.of(1) == {2: 3}


def test_a_home_runs_its_own_tasks_first(homes: Homes) -> None:
    homes.nodes(2, CPU=4)
    homes.demand(1, 10)
    homes.divide()
    homes.report(2, CPU=0, lent=units(CPU=4))
    homes.demand(2, 3)
    homes.divide()

    assert homes.of(1) == {2: 1}
    assert homes.of(2) == {1: 0} or homes.of(2) == {}
    homes.demand(2, 0)
    homes.divide()
    assert homes.of(1) == {2: 4}


def test_every_resource_counts(homes: Homes) -> None:
    homes.node(1, CPU=1)
    homes.node(2, CPU=8, GPU=2, memory=100)
    homes.demand(1, 100, CPU=0.5, GPU=1, memory=10)
    homes.demand(1, 100, shape=2, CPU=1, memory=30)
    homes.divide()

    assert homes.slots(1, 1) * 10 + homes.slots(1, 2) * 30 <= 100
    assert homes.slots(1, 1) == 2
    assert homes.slots(1, 2) == 2


def test_what_no_node_has_is_not_leased_and_keeps_nothing_from_others(homes: Homes) -> None:
    homes.nodes(3, CPU=4)
    homes.busy(1, 2)
    homes.demand(1, 10, CPU=16)
    homes.demand(1, 10, shape=2, TPU=1)
    homes.demand(2, 10)
    homes.divide()

    assert homes.told == {(2, 1, 3): 4}


def test_tasks_that_ask_for_nothing_are_few_at_each_node(homes: Homes) -> None:
    homes.nodes(2, CPU=4)
    homes.busy(2)
    homes.demand(1, 1000, CPU=0)
    homes.divide()

    assert 0 < homes.slots(1) < 100


# --- fairness -----------------------------------------------------------------------------


def test_homes_that_want_alike_get_alike(homes: Homes) -> None:
    homes.nodes(6, CPU=4)
    homes.busy(1, 2, 3)
    for home in (1, 2, 3):
        homes.demand(home, 1000)
    homes.divide()

    assert [homes.slots(home) for home in (1, 2, 3)] == [4, 4, 4]


def test_who_comes_later_gets_a_fair_share_and_who_was_there_loses_no_more(homes: Homes) -> None:
    homes.nodes(5, CPU=4)
    homes.busy(1, 2)
    homes.demand(1, 1000)
    homes.divide()
    assert homes.slots(1) == 12

    before = homes.of(1)
    homes.demand(2, 1000)
    homes.divide()
    assert (homes.slots(1), homes.slots(2)) == (6, 6)
    assert all(slots <= before[node] for node, slots in homes.of(1).items())


def test_small_demands_are_met_and_the_rest_is_for_large_ones(homes: Homes) -> None:
    homes.nodes(5, CPU=4)
    homes.busy(1, 2, 3)
    homes.demand(1, 1000)
    homes.demand(2, 1)
    homes.demand(3, 2)
    homes.divide()

    assert [homes.slots(home) for home in (1, 2, 3)] == [5, 1, 2]


def test_work_counts_and_not_the_number_of_tasks(homes: Homes) -> None:
    homes.nodes(4, CPU=4)
    homes.busy(1, 2)
    homes.demand(1, 100, seconds=0.0002)
    homes.demand(2, 100, seconds=10.0)
    homes.divide()

    assert (homes.slots(1), homes.slots(2)) == (1, 7)


def test_many_homes_share_few_slots_one_each(homes: Homes) -> None:
    homes.nodes(10, CPU=3)
    homes.busy(*range(1, 9))
    homes.demand(1, 1000)
    homes.divide()
    assert homes.slots(1) == 6
    for home in range(2, 9):
        homes.demand(home, 1)
    homes.divide()

    assert sorted(homes.slots(home) for home in range(1, 9)) == [0, 0, 1, 1, 1, 1, 1, 1]
    assert homes.slots(1) == 1


def test_the_shapes_of_one_home_count_together(homes: Homes) -> None:
    homes.nodes(4, CPU=6)
    homes.busy(1, 2)
    for shape in (1, 2, 3):
        homes.demand(1, 1000, shape=shape)
    homes.demand(2, 1000)
    homes.divide()

    assert [homes.slots(1, shape) for shape in (1, 2, 3)] == [2, 2, 2]
    assert homes.slots(2) == 6


# --- where, and for how long --------------------------------------------------------------


def test_nodes_with_inputs_come_first(homes: Homes) -> None:
    homes.nodes(5, CPU=4)
    homes.demand(1, 6, nodes=[4, 3])
    homes.divide()

    assert homes.of(1) == {4: 3, 3: 3}


def test_nodes_with_inputs_share_evenly_and_others_take_what_they_cannot(homes: Homes) -> None:
    homes.nodes(4, CPU=4)
    homes.demand(1, 10, nodes=[4, 3])
    homes.divide()

    assert homes.of(1) == {4: 4, 3: 4, 2: 2}


def test_idle_nodes_come_before_those_where_lent_tasks_run(homes: Homes) -> None:
    homes.nodes(3, CPU=4)
    homes.report(2, CPU=0, lent=units(CPU=4))
    homes.demand(1, 3)
    homes.divide()
    assert homes.of(1) == {3: 3}

    homes.demand(1, 6)
    homes.divide()
    assert homes.of(1) == {3: 4, 2: 2}


def test_leases_stay_where_they_are(homes: Homes) -> None:
    homes.nodes(6, CPU=4)
    homes.busy(1, 2)
    homes.demand(1, 7, nodes=[5])
    homes.demand(2, 5)
    homes.divide()
    before = dict(homes.told)
    homes.report(4, CPU=3, lent=units(CPU=1))
    homes.demand(1, 7, nodes=[6])
    assert homes.divide() == {}

    homes.demand(1, 9)
    assert set(homes.divide()) == {1}
    assert all(homes.told[key] >= slots for key, slots in before.items())


def test_a_demand_that_ends_ends_its_leases(homes: Homes) -> None:
    homes.nodes(3, CPU=4)
    homes.demand(1, 8)
    homes.divide()
    homes.demand(1, 2)
    assert homes.divide() == {1: [Lease(1, 2, 2), Lease(1, 3, 0)]}
    homes.demand(1, 0)
    assert homes.divide() == {1: [Lease(1, 2, 0)]}
    assert homes.divide() == {}


def test_a_home_that_dies_leaves_its_leases_to_others(homes: Homes) -> None:
    homes.nodes(3, CPU=4)
    homes.busy(1, 2)
    homes.demand(1, 8)
    homes.demand(2, 8)
    homes.divide()
    homes.lessor.remove_node(NodeNumber(1))
    assert homes.divide() == {2: [Lease(1, 3, 4)]}


def test_leases_at_a_node_that_dies_end_and_are_replaced(homes: Homes) -> None:
    homes.nodes(4, CPU=4)
    homes.demand(1, 4)
    homes.divide()
    homes.lessor.remove_node(NodeNumber(2))

    assert homes.divide() == {1: [Lease(1, 3, 4), Lease(1, 2, 0)]}


def test_a_node_out_of_touch_keeps_its_leases_and_gets_no_new_ones(homes: Homes) -> None:
    homes.nodes(3, CPU=4)
    homes.demand(1, 2)
    homes.divide()
    homes.lessor.await_node(NodeNumber(2))
    homes.demand(1, 8)
    homes.divide()
    assert homes.of(1) == {2: 2, 3: 4}

    homes.node(2, CPU=4)
    homes.divide()
    assert homes.of(1) == {2: 4, 3: 4}


def test_a_home_that_registers_again_begins_anew(homes: Homes) -> None:
    homes.nodes(2, CPU=4)
    homes.demand(1, 2)
    homes.divide()
    homes.node(1, CPU=4)
    homes.divide()
    assert homes.lessor.leases_of(NodeNumber(1)) == []

    homes.demand(1, 2)
    assert homes.divide() == {1: [Lease(1, 2, 2)]}


def test_who_is_not_a_node_has_no_demands(homes: Homes) -> None:
    homes.nodes(2, CPU=4)
    homes.demand(9, 2)

    assert not homes.lessor.due(homes.now)
    assert homes.divide() == {}


# --- when ---------------------------------------------------------------------------------


def test_the_first_news_is_acted_on_at_once_and_the_next_after_a_pause(homes: Homes) -> None:
    homes.nodes(3, CPU=4)
    assert homes.lessor.due_in(1.0) is None
    homes.demand(1, 2)
    assert homes.lessor.due(1.0)
    homes.lessor.divide(1.0)
    assert homes.lessor.due_in(2.0) is None

    homes.demand(2, 2)
    assert homes.lessor.due_in(1.0) == pytest.approx(PAUSE_SECONDS)
    assert homes.lessor.due(1.0 + PAUSE_SECONDS)
    assert homes.lessor.due(0.5), "the clock was set back"


def test_load_reports_are_no_hurry(homes: Homes) -> None:
    homes.nodes(3, CPU=4)
    homes.demand(1, 20)
    homes.lessor.divide(1.0)
    homes.report(2, CPU=4)
    assert homes.lessor.due_in(1.0) is None, "nothing has changed"

    homes.report(2, CPU=2)
    assert homes.lessor.due_in(1.0) == pytest.approx(REPORT_SECONDS)


def test_pauses_are_longer_where_there_is_more_to_divide(homes: Homes) -> None:
    homes.nodes(1000, CPU=4)
    homes.demand(1, 1_000_000)
    assert homes.lessor.due(1.0)
    homes.lessor.divide(1.0)
    assert homes.lessor.leases_of(NodeNumber(1)) == [Lease(1, n, 4) for n in range(2, 1001)]

    homes.demand(2, 1)
    assert not homes.lessor.due(1.0 + PAUSE_SECONDS)
    assert homes.lessor.due(1.0 + 10 * PAUSE_SECONDS)


# --- whatever happens ---------------------------------------------------------------------

NUMBERS = st.integers(1, 6)
AMOUNTS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 4.0])


class Divisions(RuleBasedStateMachine):
    """Nodes come, report and die, homes want this and that; leases stay within bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.homes = Homes()

    @rule(number=NUMBERS, cpu=st.integers(0, 8), gpu=st.integers(0, 2))
    def join(self, number: int, cpu: int, gpu: int) -> None:
        self.homes.node(number, CPU=cpu, GPU=gpu)
        self._forget_home(number)

    @rule(number=NUMBERS)
    def die(self, number: int) -> None:
        self.homes.lessor.remove_node(NodeNumber(number))
        self.homes.totals.pop(number, None)
        self._forget_home(number)

    def _forget_home(self, number: int) -> None:
        for kept in (self.homes.told, self.homes.demands):
            for key in [key for key in kept if key[0] == number]:
                del kept[key]  # type: ignore[arg-type]

    @rule(number=NUMBERS, free=AMOUNTS, gpu=AMOUNTS, lent=AMOUNTS)
    def report(self, number: int, free: float, gpu: float, lent: float) -> None:
        self.homes.report(number, CPU=free, GPU=gpu, lent=units(CPU=lent))

    @rule(number=NUMBERS)
    def lose(self, number: int) -> None:
        self.homes.lessor.await_node(NodeNumber(number))

    @rule(
        home=NUMBERS,
        shape=st.integers(1, 3),
        count=st.sampled_from([0, 1, 3, 20, 10**6]),
        cpu=AMOUNTS,
        gpu=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
        seconds=st.sampled_from([-1.0, 0.0, 0.01, 5.0]),
        nodes=st.lists(st.integers(1, 9), max_size=3),
    )
    def demand(
        self,
        home: int,
        shape: int,
        count: int,
        cpu: float,
        gpu: float,
        seconds: float,
        nodes: list[int],
    ) -> None:
        if home in self.homes.totals:
            self.homes.demand(
                home, count, shape=shape, CPU=cpu, GPU=gpu, seconds=seconds, nodes=nodes
            )

    @rule()
    def divide(self) -> None:
        self.homes.divide()
        lessor, told = self.homes.lessor, self.homes.told
        held = {
            (int(home), lease.shape, lease.node): lease.slots
            for home in map(NodeNumber, self.homes.totals)
            for lease in lessor.leases_of(home)
        }
        assert told == held, "homes know what they have"
        for (home, shape, node), slots in told.items():
            assert slots > 0
            assert node != home
            assert node in self.homes.totals
            assert slots <= self.homes.demands[home, shape].count
        for home, shape in self.homes.demands:
            assert self.homes.slots(home, shape) <= self.homes.demands[home, shape].count

    @invariant()
    def no_node_is_leased_beyond_what_it_has(self) -> None:
        used: dict[tuple[int, str], int] = {}
        for (home, shape, node), slots in self.homes.told.items():
            for name, amount in self.homes.demands[home, shape].resources.items():
                used[node, name] = used.get((node, name), 0) + amount * slots
        # What has changed since the last division counts with the next.
        if not self.homes.lessor.due(self.homes.now + 1000):
            for (node, name), amount in used.items():
                assert amount <= self.homes.totals[node].get(name, 0)


Divisions.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestDivisions = Divisions.TestCase


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=6),
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
)
def test_nothing_lies_idle_while_somebody_wants_it_and_shares_differ_by_one_at_most(
    sizes: list[int], counts: list[int]
) -> None:
    homes = Homes()
    for home, _ in enumerate(counts, 1):
        homes.node(home, CPU=1)
        homes.busy(home)
    for place, size in enumerate(sizes, len(counts) + 1):
        homes.node(place, CPU=size)
    for home, count in enumerate(counts, 1):
        homes.demand(home, count)
        homes.divide()

    slots = [homes.slots(home) for home, _ in enumerate(counts, 1)]
    assert sum(slots) == min(sum(sizes), sum(counts))
    for mine, wanted in zip(slots, counts, strict=True):
        assert mine == wanted or mine >= max(slots) - 1
    assert homes.divide() == {}, "and it stays so"
