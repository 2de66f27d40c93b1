"""Messages survive any cut of the stream; garbage never gets through."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydask.ids import ObjectID, TaskID
from raydask.task import TaskSpec, TaskTemplate
from raydask.wire import messages
from raydask.wire.framing import HEADER, MAX_FRAME, FrameDecoder, MalformedFrameError, encode

OBJECT = ObjectID(bytes(19) + b"\1")
TASK = TaskID(bytes(15) + b"\1")
EXAMPLES: list[Any] = [
    messages.Unblocked(),
    messages.Release([OBJECT] * 3),
    messages.Put([messages.ObjectValue(OBJECT, 0, b"x" * 5000, nested=[OBJECT])]),
    messages.Submit(
        [(3, TaskTemplate(b"f" * 16, "f", resources={"CPU": 1}))],  # type: ignore[arg-type]
        [TaskSpec(TASK, 3, b"a", [OBJECT], [], 2, TASK)],
    ),
    messages.Results([messages.TaskResult(TASK, 0, [], 1.5, 0.25)]),
    messages.ClusterView({1: ({"CPU": 2}, {"CPU": 1}, 0.5)}),
]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(EXAMPLES), max_size=8), st.lists(st.integers(1, 700), min_size=1))
def test_any_cut_gives_the_same_messages(sent: list[Any], sizes: list[int]) -> None:
    stream = b"".join(map(encode, sent))
    decoder = FrameDecoder()
    received: list[Any] = []
    position = 0
    while position < len(stream):
        size = sizes[position % len(sizes)]
        received += decoder.feed(stream[position : position + size])
        position += size

    assert received == sent
    assert decoder.take_rest() == b""


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_is_read_and_none_is_kept(kind: Any) -> None:
    frame = bytearray(encode(EXAMPLES[2]) + encode(EXAMPLES[1])[:7])
    decoder = FrameDecoder()
    received = decoder.feed(kind(frame))
    frame[:] = bytes(len(frame))

    assert received == [EXAMPLES[2]]
    assert decoder.feed(encode(EXAMPLES[1])[7:]) == [EXAMPLES[1]]


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_garbage_is_refused_or_waited_on_but_raises_nothing_else(data: bytes, size: int) -> None:
    decoder = FrameDecoder()
    try:
        for position in range(0, len(data), size):
            decoder.feed(data[position : position + size])
    except MalformedFrameError:
        pass


@settings(derandomize=True, deadline=None)
@given(st.integers(0, len(messages.FRAME_TYPES) - 1), st.binary(max_size=60))
def test_a_body_of_garbage_is_a_message_or_malformed(number: int, body: bytes) -> None:
    try:
        received = FrameDecoder().feed(HEADER.pack(len(body), number) + body)
    except MalformedFrameError:
        return
    assert [type(message) for message in received] == [messages.FRAME_TYPES[number]]


@pytest.mark.parametrize("cut", [1, 5])
def test_a_header_of_garbage_is_refused_as_soon_as_it_is_there(cut: int) -> None:
    for header in (HEADER.pack(MAX_FRAME + 1, 0), HEADER.pack(0, len(messages.FRAME_TYPES))):
        decoder = FrameDecoder()
        with pytest.raises(MalformedFrameError):
            for position in range(0, len(header), cut):
                decoder.feed(header[position : position + cut])


def test_deep_nesting_is_malformed_and_no_crash() -> None:
    body = b"\x91" * 100_000
    with pytest.raises(MalformedFrameError):
        FrameDecoder().feed(HEADER.pack(len(body), 0) + body)


def test_what_follows_the_last_frame_can_be_taken() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(encode(EXAMPLES[0]) + b"raw") == [EXAMPLES[0]]
    assert (decoder.take_rest(), decoder.take_rest()) == (b"raw", b"")


def test_types_have_one_number_each() -> None:
    assert len(set(messages.FRAME_TYPES)) == len(messages.FRAME_TYPES) < 256
