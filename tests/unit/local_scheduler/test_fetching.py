"""Objects that go between nodes while copies are dropped, answers are late and nodes leave."""

from __future__ import annotations

from raydask.ids import ObjectID, ProcessNumber, return_id
from raydask.local_scheduler import events
from raydask.wire import messages as wire
from raydask.wire.messages import ObjectValue, TaskResult, TaskStatus, ValueKind
from tests.unit.local_scheduler.net import MB, WORKER, Net

HOME, A, B = 1, 2, 3


def made_elsewhere(net: Net) -> ObjectID:
    """Have node A make what a task of the home returns, 200 MB, and keep it."""
    home, there = net.nodes[HOME], net.nodes[A]
    for _ in range(4):
        home.submit()
    (shape,) = home.core.between.lending._shapes.values()  # type: ignore[union-attr]
    home.tell(events.LeasesChanged([wire.Lease(shape.number, A, 1)]))
    net.run()
    task_id = there.given(WORKER)[0]
    offset = net.region(A, 200, WORKER)
    value = ObjectValue(return_id(task_id, 0), int(ValueKind.STORED), b"", offset, 200 * MB)
    ended = TaskResult(task_id, int(TaskStatus.OK), [value], 0.0, 0.001)
    there.tell(events.TasksEnded(ProcessNumber(WORKER), [ended]))
    net.run()
    return value.object_id


# --- nobody waits in a circle -----------------------------------------------------------------


def test_two_do_not_wait_for_one_another_when_a_copy_was_dropped() -> None:
    net = Net(HOME, A, B)
    wanted, other = net.put(HOME), net.put(HOME)
    net.bring(A, wanted)
    net.drop(A, wanted)
    net.get(B, other)
    net.get(B, wanted)  # queued behind the other, and A is named
    net.give_back(A, net.region(A, 900), 900)
    assert net.kind(A, wanted) is None

    net.get(A, wanted)  # B is named, which fetches it
    net.end_pulls(B)
    for _ in range(3):
        net.end_pulls(A)
        net.end_pulls(B)
    assert net.kind(A, wanted) == net.kind(B, wanted) == ValueKind.STORED


def test_two_do_not_wait_for_what_waits_in_the_others_queue() -> None:
    net = Net(HOME, A, B)
    large, first, second = net.put(HOME), net.put(HOME), net.put(HOME)
    for number in (A, B):
        net.get(number, large)
    net.lend(HOME, A, first)
    net.lend(HOME, B, second)
    net.get(A, second)  # both overtake what is queued
    net.get(B, first)
    for _ in range(4):
        net.end_pulls(A)
        net.end_pulls(B)
    for number in (A, B):
        assert net.kind(number, first) == net.kind(number, second) == ValueKind.STORED


def test_who_will_have_room_soon_lets_others_wait() -> None:
    net = Net(HOME, A, B)
    wanted = net.put(HOME)
    taken = net.region(A, 900)
    net.get(A, wanted)
    net.get(B, wanted)
    assert net.fetch(A, wanted).offset < 0
    assert (net.fetch(B, wanted).source, net.fetch(B, wanted).placed) == (A, False)
    net.give_back(A, taken, 900)
    assert (net.fetch(B, wanted).source, net.fetch(B, wanted).placed) == (A, True)


def test_who_gets_no_answer_asks_others() -> None:
    net = Net(HOME, A, B)
    wanted = net.put(HOME)
    net.bring(A, wanted)
    net.hold(A, B)
    net.get(B, wanted)
    assert net.fetch(B, wanted).source == A
    net.tick(2.0, 4)
    assert net.fetch(B, wanted).source == A
    net.tick(2.0, 3)
    assert (net.fetch(B, wanted).source, net.fetch(B, wanted).placed) == (HOME, True)
    net.end_pulls(B)

    net.let_go(A, B)
    assert net.kind(B, wanted) == ValueKind.STORED
    net.unpin(A, wanted)
    assert net.pins(A, wanted) == 0


def test_the_only_one_who_has_it_is_waited_for() -> None:
    net = Net(HOME, A, B)
    wanted = made_elsewhere(net)
    net.hold(A, HOME)
    net.get(HOME, wanted)
    net.tick(2.0, 16)
    assert net.kind(HOME, wanted) is None
    net.let_go(A, HOME)
    net.end_pulls(HOME)
    assert net.kind(HOME, wanted) == ValueKind.STORED
    net.unpin(HOME, wanted)
    assert net.pins(A, wanted) == 0


def test_another_source_is_asked_for_the_rest_alone() -> None:
    net = Net(HOME, A, B)
    wanted = net.put(HOME)
    net.bring(A, wanted)
    net.get(B, wanted)
    (number,) = net.pulls[B]
    for _ in range(5):
        net.pulls[B].clear()
        net.nodes[B].tell(events.PullEnded(number, "it broke off", 70 * MB))
        net.run()
    (pull,) = net.pulls[B].values()
    assert (pull.node, pull.arrived) == (HOME, 70 * MB)


# --- late answers -----------------------------------------------------------------------------


def test_an_old_place_is_not_taken_for_the_new_one() -> None:
    net = Net(HOME, A, B)
    wanted = net.put(HOME)
    net.bring(A, wanted)
    net.unpin(A, wanted)
    net.hold(A, B)
    task = net.lend(HOME, B, wanted)
    net.cancel(HOME, B, task)
    net.region(A, 900)  # what B asked for is in a file now, and another's where it was
    assert net.kind(A, wanted) == ValueKind.SPILLED

    net.lend(HOME, B, wanted)
    assert len([each for each in net.held if isinstance(each[2], wire.Places)]) == 2
    net.let_go(A, B)
    (pull,) = net.pulls[B].values()
    assert pull.file > 0


def test_an_old_refusal_leaves_no_pin() -> None:
    net = Net(HOME, A, B)
    wanted = net.put(HOME)
    net.lend(HOME, A, located=[])  # A knows of it by hearsay alone
    net.hold(A, B)
    named = wire.Whereabouts(wanted, 200 * MB, [HOME, A])
    task = net.lend(HOME, B, wanted, located=[named])
    net.cancel(HOME, B, task)
    net.bring(A, wanted)
    net.unpin(A, wanted)

    net.lend(HOME, B, wanted, located=[named])
    net.let_go(A, B)
    assert (net.fetch(B, wanted).source, net.fetch(B, wanted).placed) == (A, True)
    net.end_pulls(B)
    assert net.pins(A, wanted) == 0


# --- where objects are ------------------------------------------------------------------------


def test_a_home_that_has_spilled_an_object_names_itself() -> None:
    net = Net(HOME, A, B)
    wanted = made_elsewhere(net)
    net.get(B, wanted)
    net.get(HOME, wanted)
    net.end_pulls(HOME)
    net.unpin(HOME, wanted)
    net.region(HOME, 900)
    assert net.kind(HOME, wanted) == ValueKind.SPILLED

    net.lose(A)
    net.end_pulls(B, "node 2 is dead")
    net.tick(1.0, 2)
    net.end_pulls(B)
    assert net.kind(B, wanted) == ValueKind.STORED


def test_that_it_is_nowhere_is_for_its_home_to_say() -> None:
    lender = 4
    net = Net(HOME, A, B, lender)
    wanted = net.put(HOME)
    net.get(B, wanted)
    net.hold(HOME, B)
    for _ in range(5):
        net.end_pulls(B, "it broke")
        net.let_go(HOME, B)
        net.hold(HOME, B)
    net.lend(lender, B, wanted, located=[wire.Whereabouts(wanted, 200 * MB, [])])
    net.let_go(HOME, B)
    net.tick(1.0, 2)
    net.end_pulls(B)
    assert net.kind(B, wanted) == ValueKind.STORED


def test_what_another_reads_stays_where_it_is_when_its_home_has_it_forgotten() -> None:
    net = Net(HOME, A, B)
    wanted = made_elsewhere(net)
    net.nodes[HOME].tell(events.OthersLeave([A]))
    net.run()
    net.get(B, wanted)
    assert net.pins(A, wanted) == 2
    net.end_pulls(HOME)
    assert net.pins(A, wanted) == 1
    used = net.nodes[A].core.store.used
    net.end_pulls(B)
    assert net.nodes[A].core.store.used == used - 200 * MB
    assert wanted not in net.nodes[A].core.objects.records


def test_a_reader_that_dies_keeps_it_no_longer() -> None:
    net = Net(HOME, A, B)
    wanted = made_elsewhere(net)
    net.nodes[HOME].tell(events.OthersLeave([A]))
    net.run()
    net.get(B, wanted)
    net.end_pulls(HOME)
    net.lose(B)
    assert wanted not in net.nodes[A].core.objects.records


def test_copies_that_guests_hold_are_not_said_to_be_dropped() -> None:
    net = Net(HOME, A)
    held, free = net.put(HOME, 100), net.put(HOME, 100)
    for object_id in (held, free):
        net.bring(A, object_id)
        net.drop(A, object_id)
    to_come = net.nodes[HOME].promise()
    net.lend(HOME, A, held, to_come, located=[wire.Whereabouts(held, 100 * MB, [HOME])])
    net.region(A, 900)
    net.tick(0.1, 10)
    dropped = [
        object_id for each in net.nodes[A].sent(wire.CopiesDropped) for object_id in each.object_ids
    ]
    assert dropped == [free]
