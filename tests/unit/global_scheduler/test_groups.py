"""Placement groups: reserved over nodes, all or nothing, and given back."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydask.control.tables import PlacementGroupEntry, decode
from raydask.global_scheduler import events
from raydask.global_scheduler.groups import ENDED_JOBS_KEPT
from raydask.global_scheduler.state import NODE_GRACE_SECONDS
from raydask.ids import NodeNumber, PlacementGroupID, TaskID, job_number
from raydask.placement import GroupStrategy, Strategy, demanded
from raydask.wire import messages as wire
from tests.unit.global_scheduler.cluster import Cluster, units

JOB = job_number(1, 1)


class Groups(Cluster):
    """A cluster whose nodes reserve what they have."""

    def __init__(self) -> None:
        super().__init__()
        self.free: dict[int, dict[str, int]] = {}
        self.held: dict[int, dict[tuple[PlacementGroupID, int], dict[str, int]]] = {}
        self.refusing: set[int] = set()
        self.silent: set[int] = set()

    def add(self, number: int, **amounts: float) -> None:
        self.free[number] = units(**amounts)
        self.held[number] = {}
        self.join(number, jobs=[JOB], head=number == 1, **amounts)

    def create(  # type: ignore[override]  # groups, not actors
        self,
        *bundles: float,
        strategy: GroupStrategy = "PACK",
        name: str = "",
        detached: bool = False,
        by: int = 1,
        job: int = JOB,
    ) -> PlacementGroupID:
        group_id = PlacementGroupID(self.new_id())
        message = wire.CreateGroup(
            1,
            group_id,
            [units(CPU=bundle) for bundle in bundles],
            strategy,
            name,
            "space",
            job,
            detached,
        )
        self.tell(events.GroupRequested(NodeNumber(by), message))
        self.run()
        return group_id

    def run(self) -> None:
        """Let the nodes do what they have been told, until nothing is left to do."""
        while self._serve():
            pass

    def _serve(self) -> bool:
        sends = [action for action in self.actions if hasattr(action, "message")]
        found = False
        for action in sends:
            message = action.message
            if not isinstance(message, wire.ReserveBundles | wire.ReturnBundles):
                continue
            self.actions.remove(action)
            number = int(action.node)
            if number not in self.free:
                continue
            found = True
            if isinstance(message, wire.ReturnBundles):
                self._return(number, message)
            elif number not in self.silent:
                self._reserve(number, message)
        return found

    def _reserve(self, number: int, message: wire.ReserveBundles) -> None:
        free, held = dict(self.free[number]), dict(self.held[number])
        accepted = number not in self.refusing
        for index, bundle in message.bundles:
            held[message.group_id, index] = bundle
            for name, amount in bundle.items():
                free[name] = free.get(name, 0) - amount
                accepted &= free[name] >= 0
        if accepted:
            self.free[number], self.held[number] = free, held
        answer = events.ReservationAnswered(
            NodeNumber(number), message.group_id, message.attempt, accepted
        )
        self.tell(answer)

    def _return(self, number: int, message: wire.ReturnBundles) -> None:
        for index in message.indexes:
            bundle = self.held[number].pop((message.group_id, index), {})
            for name, amount in bundle.items():
                self.free[number][name] += amount

    def report(self, number: int) -> None:  # type: ignore[override]
        self.now += 1.0
        self.tell_load(wire.Heartbeat(number, self.free[number], 0, 0.0, 0))
        self.run()

    def entry(self, group_id: PlacementGroupID) -> PlacementGroupEntry:
        return decode(self.groups.sources[group_id].document(), PlacementGroupEntry)

    def ask(
        self, group_id: PlacementGroupID, cpus: float = 1, index: int = -1, *, by: int = 1
    ) -> TaskID:
        """Pass up a task that shall run in a group."""
        wanted = demanded(units(CPU=cpus), group_id, index)
        task = wire.PassedUp(self.new_id(), "f", wanted, Strategy("GROUP", group=group_id))
        self.tell(events.TasksPassedUp(NodeNumber(by), [task]))
        return task.task_id

    def placements(self) -> dict[TaskID, int]:
        return {
            task_id: node
            for message in self.sent(wire.Placed)
            for task_id, node in message.placements
        }


@pytest.fixture
def cluster() -> Groups:
    made = Groups()
    made.add(1, CPU=2)
    made.add(2, CPU=4)
    return made


def test_a_group_is_reserved_at_once_and_safe_before_it_is_answered(cluster: Groups) -> None:
    group = cluster.create(1, 1, strategy="STRICT_SPREAD")

    assert (cluster.entry(group).state, cluster.entry(group).nodes) == ("CREATED", [1, 2])
    assert cluster.sent(wire.GroupsAnswered, 1) == [wire.GroupsAnswered(1, [])]
    assert [status.available for status in cluster.core.status()] == [{"CPU": 1}, {"CPU": 3}]


def test_tasks_wait_for_their_group_and_go_where_their_bundle_is(cluster: Groups) -> None:
    cluster.silent = {1, 2}
    group = cluster.create(1, 1, strategy="STRICT_SPREAD")
    waiting = [cluster.ask(group, index=index) for index in (0, 1)]
    assert cluster.placements() == {}
    assert cluster.sent(wire.Infeasible) == []

    for node in (1, 2):
        answer = events.ReservationAnswered(NodeNumber(node), group, 1, True)
        cluster.tell(answer)
    assert cluster.placements() == dict(zip(waiting, cluster.entry(group).nodes, strict=True))
    anywhere = [cluster.ask(group, cpus=0.5) for _ in range(2)]
    placements = cluster.placements()
    assert {placements[task] for task in anywhere} == {1, 2}


def test_when_one_node_refuses_the_others_give_back_and_it_is_not_asked_again_before_it_reports(
    cluster: Groups,
) -> None:
    cluster.refusing = {1}
    group = cluster.create(1, 1, strategy="STRICT_SPREAD")
    assert (cluster.entry(group).state, cluster.held) == ("PENDING", {1: {}, 2: {}})
    for _ in range(5):
        cluster.report(2)
    assert cluster.held == {1: {}, 2: {}}

    cluster.refusing = set()
    cluster.report(1)
    assert cluster.entry(group).state == "CREATED"


def test_what_has_no_room_comes_when_there_is_some(cluster: Groups) -> None:
    first = cluster.create(4)
    second = cluster.create(3)
    assert [cluster.entry(each).state for each in (first, second)] == ["CREATED", "PENDING"]
    assert cluster.sent(wire.GroupJudged) == []

    cluster.now += 1
    cluster.tell(events.GroupRemovalRequested(NodeNumber(1), 2, first))
    cluster.run()
    assert cluster.entry(second).nodes == [2]
    assert first not in cluster.groups.sources


def test_nodes_that_have_more_than_they_said_are_asked_all_the_same(cluster: Groups) -> None:
    cluster.beat(1, CPU=0)
    cluster.beat(2, CPU=0)
    group = cluster.create(1, 3)

    assert cluster.entry(group).nodes == [2, 2]


def test_an_infeasible_group_is_told_of_and_counted_until_a_node_comes(cluster: Groups) -> None:
    group = cluster.create(1, 1, 1, strategy="STRICT_SPREAD")
    task = cluster.ask(group)
    (judged,) = cluster.sent(wire.GroupJudged, 1)
    assert "each of its 3 bundles would fit somewhere" in judged.infeasible
    assert cluster.sent(wire.Infeasible, 1)[0].task_ids == [task]
    assert [status.infeasible for status in cluster.core.status()] == [2, 0]

    cluster.now += 1
    cluster.add(3, CPU=1)
    cluster.run()
    assert cluster.sent(wire.GroupJudged, 1)[0].infeasible == ""
    assert cluster.entry(group).state == "CREATED"
    assert list(cluster.placements()) == [task]
    assert [status.infeasible for status in cluster.core.status()] == [0, 0, 0]


def test_the_bundle_that_does_not_fit_is_named(cluster: Groups) -> None:
    cluster.create(1, 9, name="big")
    (judged,) = cluster.sent(wire.GroupJudged, 1)

    assert "'big': of its bundle 1, it asks for CPU 9" in judged.infeasible


def test_why_a_lost_bundle_can_go_nowhere_says_where_the_others_are(cluster: Groups) -> None:
    cluster.add(3, CPU=1)
    cluster.create(1, 1, 1, strategy="STRICT_SPREAD")
    cluster.lose(3)
    cluster.after(NODE_GRACE_SECONDS)
    del cluster.free[3]
    cluster.run()
    judged = cluster.sent(wire.GroupJudged, 1)[-1]

    assert "there is no node other than 1, 2, where its other bundles are" in judged.infeasible


def test_what_is_lost_with_a_node_is_placed_anew(cluster: Groups) -> None:
    cluster.add(3, CPU=1)
    group = cluster.create(1, 1, 1, strategy="STRICT_SPREAD")
    cluster.lose(3)
    cluster.after(NODE_GRACE_SECONDS)
    del cluster.free[3]
    cluster.run()
    assert (cluster.entry(group).state, sorted(cluster.entry(group).nodes)) == (
        "RESCHEDULING",
        [0, 1, 2],
    )
    lost = cluster.entry(group).nodes.index(0)
    task = cluster.ask(group, index=lost)
    assert cluster.placements() == {}

    cluster.now += 1
    cluster.add(4, CPU=1)
    cluster.run()
    assert cluster.entry(group).nodes[lost] == 4
    assert cluster.placements() == {task: 4}


def test_an_attempt_with_a_node_that_is_lost_is_given_up(cluster: Groups) -> None:
    cluster.silent = {1}
    group = cluster.create(1, 1, strategy="STRICT_SPREAD")
    assert len(cluster.held[2]) == 1
    cluster.lose(1)
    cluster.run()
    assert cluster.held[2] == {}

    cluster.silent = set()
    cluster.now += 1
    cluster.join(1, jobs=[JOB], head=True, CPU=2)
    cluster.run()
    assert cluster.entry(group).state == "CREATED"


def test_a_removed_groups_tasks_fail_and_its_bundles_are_free(cluster: Groups) -> None:
    group = cluster.create(2, 4)
    cluster.tell(events.GroupRemovalRequested(NodeNumber(1), 2, group))
    cluster.run()
    task = cluster.ask(group)

    assert cluster.held == {1: {}, 2: {}}
    (refusal,) = cluster.sent(wire.Infeasible, 1)
    assert (refusal.task_ids, refusal.final) == ([task], True)
    assert "was removed" in refusal.detail


def test_a_group_ends_with_its_job_unless_it_is_detached(cluster: Groups) -> None:
    mine, detached = cluster.create(1), cluster.create(1, detached=True)
    cluster.tell(events.JobEnded(NodeNumber(1), JOB + 1))
    assert set(cluster.groups.sources) == {mine, detached}
    cluster.tell(events.JobEnded(NodeNumber(1), JOB))
    cluster.run()

    assert set(cluster.groups.sources) == {detached}
    assert sum(map(len, cluster.held.values())) == 1


def test_a_job_that_ended_unheard_takes_its_groups_when_its_node_comes_back(
    cluster: Groups,
) -> None:
    group = cluster.create(1)
    cluster.lose(1)
    bundles = list(cluster.held[1])
    cluster.join(1, jobs=[], bundles=bundles, head=True, CPU=2)
    cluster.run()

    assert group not in cluster.groups.sources
    assert cluster.held == {1: {}, 2: {}}


@pytest.mark.parametrize("node", [1, 2])
def test_a_group_that_is_asked_for_as_its_job_ends_is_refused(cluster: Groups, node: int) -> None:
    cluster.tell(events.JobEnded(NodeNumber(1), JOB))
    cluster.create(1, by=node)
    assert "has ended" in cluster.sent(wire.GroupsAnswered, node)[0].refusal
    detached = cluster.create(1, by=node, detached=True)

    assert cluster.sent(wire.GroupsAnswered, node)[0].refusal == ""
    assert set(cluster.groups.sources) == {detached}
    assert sum(map(len, cluster.held.values())) == 1


def test_a_group_of_a_dead_nodes_job_is_refused(cluster: Groups) -> None:
    cluster.lose(2)
    cluster.after(NODE_GRACE_SECONDS)
    cluster.create(1, job=job_number(2, 1))

    assert "node of the job" in cluster.sent(wire.GroupsAnswered, 1)[0].refusal
    assert cluster.groups.sources == {}


def test_of_ended_jobs_the_latest_are_known(cluster: Groups) -> None:
    for number in range(1, ENDED_JOBS_KEPT + 2):
        cluster.tell(events.JobEnded(NodeNumber(1), job_number(1, number)))
    cluster.create(1, job=job_number(1, 2))
    assert "has ended" in cluster.sent(wire.GroupsAnswered, 1)[0].refusal
    cluster.create(1, job=job_number(1, 1))
    assert cluster.sent(wire.GroupsAnswered, 1)[0].refusal == ""


def test_all_who_were_told_that_a_group_is_infeasible_are_told_when_it_is_not(
    cluster: Groups,
) -> None:
    group = cluster.create(1, 1, 1, strategy="STRICT_SPREAD")
    mine, others = cluster.ask(group), cluster.ask(group, by=2)
    assert [cluster.sent(wire.Infeasible, node)[0].task_ids for node in (1, 2)] == [
        [mine],
        [others],
    ]
    cluster.sent(wire.GroupJudged)

    cluster.after(1.0)
    cluster.silent = {1, 2, 3}  # it could be held now, but it is not reserved
    cluster.add(3, CPU=1)
    cluster.run()
    judgement = wire.GroupJudged(group, JOB, "")
    assert [cluster.sent(wire.GroupJudged, node) for node in (1, 2)] == [[judgement], [judgement]]
    assert [status.infeasible for status in cluster.core.status()] == [0, 0, 0]

    cluster.lose(3)
    cluster.after(NODE_GRACE_SECONDS + 1)
    assert cluster.sent(wire.GroupJudged, 1)[0].infeasible
    assert [cluster.sent(wire.Infeasible, node)[0].task_ids for node in (1, 2)] == [
        [mine],
        [others],
    ]


def test_a_restarted_global_scheduler_takes_back_what_its_predecessor_has_said(
    cluster: Groups,
) -> None:
    cluster.create(1, 1, 1, strategy="STRICT_SPREAD")
    before = cluster.restarted()
    other = Groups()
    other.__dict__.update(before.__dict__, free=cluster.free, held=cluster.held)
    for number, cpus in ((2, 4), (3, 1), (1, 2)):
        other.add(number, CPU=cpus)
        other.run()
    other.after(1.0)

    assert other.sent(wire.GroupJudged, 1)[-1].infeasible == ""


def test_names_are_taken_once(cluster: Groups) -> None:
    cluster.create(1, name="a")
    cluster.create(1, name="a")

    assert "exists already" in cluster.sent(wire.GroupsAnswered, 1)[1].refusal


def test_a_restarted_global_scheduler_knows_the_groups_and_frees_what_was_not_committed(
    cluster: Groups,
) -> None:
    group = cluster.create(1, 1, strategy="STRICT_SPREAD")
    cluster.silent = {1}
    half = cluster.create(1, 1, strategy="STRICT_SPREAD")
    assert len(cluster.held[2]) == 2
    before = cluster.restarted()
    other = Groups()
    other.__dict__.update(before.__dict__, free=cluster.free, held=cluster.held)
    other.refusing, other.silent = set(), set()
    for number, cpus in ((1, 2), (2, 4)):
        bundles = list(other.held[number])
        other.join(number, jobs=[JOB], bundles=bundles, head=number == 1, CPU=cpus)
    other.run()
    other.after(1.0)
    other.run()

    assert [other.entry(each).state for each in (group, half)] == ["CREATED", "CREATED"]
    task = other.ask(group, index=0)
    assert other.placements() == {task: other.entry(group).nodes[0]}
    assert [len(each) for each in other.held.values()] == [2, 2]


def test_groups_are_listed(cluster: Groups) -> None:
    group = cluster.create(1, 1, name="a", strategy="SPREAD")
    cluster.sent(wire.GroupsAnswered)
    cluster.tell(events.GroupsAsked(NodeNumber(2), 7))
    (answer,) = cluster.sent(wire.GroupsAnswered, 2)

    (info,) = answer.groups
    assert (info.group_id, info.state, info.name, info.strategy) == (
        group,
        "CREATED",
        "a",
        "SPREAD",
    )


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("create", "remove", "report", "lose", "come", "refuse", "wait")),
        st.integers(0, 7),
        st.lists(st.integers(1, 3), min_size=1, max_size=4),
        st.sampled_from(get_args(GroupStrategy)),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(STEPS)
def test_never_more_is_reserved_than_there_is_and_a_group_has_all_or_nothing(steps: list) -> None:  # type: ignore[type-arg]
    cluster = Groups()
    cluster.add(1, CPU=3)
    cluster.add(2, CPU=2)
    made: list[PlacementGroupID] = []
    count = 2
    for step, number, bundles, strategy in steps:
        if step == "create":
            made.append(cluster.create(*bundles, strategy=strategy))
        elif step == "remove" and made:
            removed = events.GroupRemovalRequested(NodeNumber(1), 2, made[number % len(made)])
            cluster.tell(removed)
        elif step == "report":
            cluster.report(1 + number % count if 1 + number % count in cluster.free else 1)
        elif step == "refuse":
            cluster.refusing ^= {1 + number % count}
        elif step == "come":
            count += 1
            cluster.add(count, CPU=bundles[0])
        elif step == "lose" and 2 + number in cluster.free:
            cluster.lose(2 + number)
            cluster.after(NODE_GRACE_SECONDS)
            del cluster.free[2 + number], cluster.held[2 + number]
        cluster.run()
        cluster.after(1.0)
        cluster.run()
        held = {
            (group_id, index): node
            for node, bundles in cluster.held.items()
            for group_id, index in bundles
        }
        assert all(amount >= 0 for free in cluster.free.values() for amount in free.values())
        for group_id in cluster.groups.sources:
            entry = cluster.entry(group_id)
            placed = {index: node for index, node in enumerate(entry.nodes) if node}
            assert {k: v for (g, k), v in held.items() if g == group_id} == placed
            assert (len(placed) == len(entry.nodes)) == (entry.state == "CREATED")
            assert placed in ({}, dict(enumerate(entry.nodes))) or entry.state == "RESCHEDULING"
        assert {group_id for group_id, _ in held} <= set(cluster.groups.sources)
