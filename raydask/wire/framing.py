"""Frames: how messages are cut out of a stream of bytes.

A frame is a header of 5 bytes, the body's length (4, little-endian, the header not
counted) and the message's number (1), and then the body: one msgpack value.  `FrameDecoder`
takes bytes as they come and gives whole messages; it copies only what spans two reads.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from raydask.wire.messages import FRAME_TYPES

HEADER = struct.Struct("<IB")
MAX_FRAME = 1 << 30
"""Bytes; a longer frame is taken for garbage and closes its connection."""

_encode = msgspec.msgpack.Encoder().encode
_NUMBERS = {kind: number for number, kind in enumerate(FRAME_TYPES)}
_KINDS = len(FRAME_TYPES)
_pack = HEADER.pack
_unpack = HEADER.unpack_from
_HEADER_SIZE = HEADER.size


class MalformedFrameError(ValueError):
    """The bytes are not a frame of this protocol."""


class _Decoders(dict[int, Callable[[memoryview], Any]]):
    """What decodes each kind of frame; made for the first, because no process reads all kinds."""

    def __missing__(self, number: int) -> Callable[[memoryview], Any]:
        decode = self[number] = msgspec.msgpack.Decoder(FRAME_TYPES[number]).decode
        return decode


_decoders = _Decoders()


def prepare_to_read(*kinds: type) -> None:
    """Make what decodes these kinds of frames now, for processes to come that are forked."""
    for kind in kinds:
        _decoders[_NUMBERS[kind]]


def encode(message: object) -> bytes:
    """Return the message as one frame."""
    body = _encode(message)
    return _pack(len(body), _NUMBERS[type(message)]) + body


class FrameDecoder:
    """Cuts a stream into messages."""

    __slots__ = ("_limit", "_partial")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._partial = bytearray()
        self._limit = limit

    def feed(self, data: bytes | bytearray | memoryview, most: int = sys.maxsize) -> list[Any]:
        """Return the messages that `data` completes, in order; at most `most` of them.

        What is left over stays for the next call, or for `take_rest`.

        Raises
        ------
        MalformedFrameError
            The stream cannot be understood from here on; close it.
        """
        partial = self._partial
        if partial:
            partial += data
            # A large frame comes in many reads: look at it again only when it is whole.
            if len(partial) < _HEADER_SIZE or len(partial) < self._wanted(partial):
                return []
            data, self._partial = partial, bytearray()  # no copy: it may be the peak of all memory
        messages: list[Any] = []
        view = memoryview(data)
        end = len(data)
        start = 0
        while end - start >= _HEADER_SIZE and len(messages) < most:
            length, number = _unpack(view, start)
            if length > self._limit or number >= _KINDS:
                raise MalformedFrameError(f"frame of kind {number} with {length} bytes")
            stop = start + _HEADER_SIZE + length
            if stop > end:
                break
            try:
                messages.append(_decoders[number](view[start + _HEADER_SIZE : stop]))
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise MalformedFrameError(
                    f"{FRAME_TYPES[number].__name__} frame: {error}"
                ) from error
            start = stop
        if start < end:
            self._partial += view[start:]
        return messages

    def take_rest(self) -> bytes:
        """Return the bytes after the last whole message, and forget them."""
        rest = bytes(self._partial)
        self._partial = bytearray()
        return rest

    def _wanted(self, partial: bytearray) -> int:
        length, number = _unpack(partial, 0)
        if length > self._limit or number >= _KINDS:
            raise MalformedFrameError(f"frame of kind {number} with {length} bytes")
        return int(length) + _HEADER_SIZE
