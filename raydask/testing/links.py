"""The connections of simulated processes: frames in order, after a delay each."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from raydask.testing.clock import VirtualClock
from raydask.wire.framing import FrameDecoder, encode
from raydask.wire.messages import Results


class Link:
    """One direction of a connection.

    What is sent is encoded and decoded as on a real connection, and arrives in order.
    A link that is cut delivers what is under way and takes nothing more.

    Parameters
    ----------
    clock : VirtualClock
    rng : random.Random
        Draws the delays.
    deliver : callable
        Takes each message.
    """

    def __init__(
        self, clock: VirtualClock, rng: random.Random, deliver: Callable[[Any], None]
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._deliver = deliver
        self._decoder = FrameDecoder()
        self.arrived_at = clock.now
        """When the last message that is under way arrives."""
        self.under_way = 0
        self.results = 0
        """How many results of tasks have been sent."""
        self.is_cut = False

    def send(self, data: bytes) -> None:
        """Send whole frames, as `BlockingConnection.send` does."""
        if self.is_cut:
            return
        delay = self._rng.choice((0.00002, 0.0001, 0.0005, 0.003)) * self._rng.random()
        self.arrived_at = max(self.arrived_at, self._clock.now + delay)
        for message in self._decoder.feed(data):
            self.under_way += 1
            if isinstance(message, Results):
                self.results += len(message.results)
            self._clock.at(self.arrived_at, partial(self._arrive, message))

    def send_message(self, message: object) -> None:
        """Send one message."""
        self.send(encode(message))

    def _arrive(self, message: Any) -> None:
        self.under_way -= 1
        self._deliver(message)
