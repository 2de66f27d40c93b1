"""Replies and those who wait for them, or do no longer."""

from __future__ import annotations

from raydask.driver.replies import Replies
from raydask.wire.messages import Reply


def test_numbers_are_never_the_same() -> None:
    replies = Replies()
    assert replies.next_number() != replies.next_number()


def test_a_reply_is_taken_once() -> None:
    replies = Replies()
    assert replies.take(1) is None
    reply = Reply(1, b"here", b"")
    replies.deliver(reply)
    assert 1 in replies
    assert replies.take(1) is reply
    assert 1 not in replies
    assert replies.take(1) is None


def test_a_callback_gets_the_reply_when_it_comes() -> None:
    replies = Replies()
    got: list[Reply] = []
    replies.call_back(1, got.append)
    replies.deliver(Reply(2, b"", b""))
    assert got == []
    reply = Reply(1, b"here", b"")
    replies.deliver(reply)
    assert got == [reply]
    assert 1 not in replies


def test_a_callback_gets_a_reply_that_has_come() -> None:
    replies = Replies()
    reply = Reply(1, b"here", b"")
    replies.deliver(reply)
    got: list[Reply] = []
    replies.call_back(1, got.append)
    assert got == [reply]
    assert 1 not in replies


def test_a_callback_is_called_once() -> None:
    replies = Replies()
    got: list[Reply] = []
    replies.call_back(1, got.append)
    replies.deliver(Reply(1, b"first", b""))
    replies.deliver(Reply(1, b"second", b""))
    assert len(got) == 1
