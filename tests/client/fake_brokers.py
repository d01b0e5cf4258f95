"""Brokers in memory, for tests in virtual time: what they hold may change at any request."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import attrs

from metaserver.client.comparison import Span
from metaserver.client.connection import BrokerConnection
from metaserver.errors import BrokerUnreachableError
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.protocol import Result, Value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from metaserver.client.connection import Reply
    from metaserver.errors import ClientError
    from metaserver.timers import Timers

LATENCY_SECONDS = 0.01
compress = zlib.compress


@attrs.define(eq=False)
class FakeLog:
    """A partition as a broker serves it."""

    data: bytes
    start: int = 0
    segment_starts: list[int] = attrs.Factory(lambda: [0])
    answer_bytes_max: int = 2**20
    hole: Span = attrs.Factory(lambda: Span(0, 0))
    refusal: str | None = None

    @property
    def end(self) -> int:
        return len(self.data)

    def get(self, offset: int, size_max: int, opaque: int) -> Reply:
        if self.refusal is not None:
            return Result(403, self.refusal, opaque)
        if offset < self.start:
            return Result(301, str(self.start), opaque)
        if self.hole.start <= offset < self.hole.end:
            return Result(301, str(self.hole.end), opaque)
        if offset >= self.end:
            return Result(404, "nothing", opaque)
        # One answer never crosses the end of a segment.
        index = bisect_right(self.segment_starts, offset)
        stop = self.segment_starts[index] if index < len(self.segment_starts) else self.end
        if self.hole.start > offset:
            stop = min(stop, self.hole.start)
        size = min(size_max, self.answer_bytes_max)
        return Value(self.data[offset : min(offset + size, stop)], opaque)

    def nearest(self, offset: int) -> int:
        if offset >= self.end:
            return self.end
        held = [start for start in self.segment_starts if start >= self.start]
        return held[max(0, bisect_right(held, offset) - 1)]

    def delete_before(self, start: int) -> None:
        assert start in self.segment_starts
        self.start = start


@attrs.define(eq=False)
class FakeBroker:
    """Answers on any number of links, and breaks them when it is told to."""

    logs: dict[TopicPartition, FakeLog]
    is_away: bool = False
    connections: int = 0
    requests: int = 0
    read_bytes: int = 0
    on_request: Callable[[FakeBroker], None] = lambda _broker: None
    latest: FakeLink | None = None
    timers: Timers | None = None
    """With them an answer takes :data:`LATENCY_SECONDS`."""
    extensions = frozenset({"long-poll"})

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[BrokerConnection]:
        if self.is_away:
            raise BrokerUnreachableError("fake", "away")
        self.connections += 1
        self.latest = FakeLink(self)
        yield self.latest


class FakeLink(BrokerConnection):
    """The primitive answered from memory; everything that is built on it is the real thing."""

    is_local = True

    def break_off(self, reason: str) -> None:
        self._broken = BrokerUnreachableError("fake", reason)

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self.address = "fake"
        self._outgoing_bytes = 0
        self._heard_time = 0.0
        self._last_opaque = 0
        self._broken = None
        self.version = "fake"
        self.extensions = broker.extensions

    def submit(self, encode: Callable[[int], bytes], settle: Callable[[Reply | ClientError], None]) -> None:
        self._broker.requests += 1
        self._broker.on_request(self._broker)
        words = encode(1).decode().split()
        timers = self._broker.timers
        if timers is None:
            settle(self._outcome(words))
        else:
            timers.schedule(LATENCY_SECONDS, partial(self._settle_later, timers, words, settle, 0.0))

    def _settle_later(
        self,
        timers: Timers,
        words: list[str],
        settle: Callable[[Reply | ClientError], None],
        waited_seconds: float,
    ) -> None:
        """The long poll: it looks again and again."""
        outcome = self._outcome(words)
        wait_seconds = int(words[7]) / 1000 if words[0] == "get" and len(words) >= 8 else 0.0
        is_nothing = isinstance(outcome, Result) and outcome.status == 404
        if is_nothing and waited_seconds < wait_seconds:
            again = partial(self._settle_later, timers, words, settle, waited_seconds + LATENCY_SECONDS)
            timers.schedule(LATENCY_SECONDS, again)
        else:
            settle(outcome)

    def _outcome(self, words: list[str]) -> Reply | ClientError:
        if self._broken is not None:
            return self._broken
        reply = self._answer(words)
        if isinstance(reply, Value):
            self._broker.read_bytes += len(reply.data)
        return reply

    def break_now(self) -> None:
        self._broken = BrokerUnreachableError("fake", "broken")

    def _answer(self, words: list[str]) -> Reply:
        match words:
            case ["stats", "offsets", opaque]:
                lines = [
                    f"{name.topic} part {name.partition} min_offset {log.start} max_offset {log.end}"
                    for name, log in self._broker.logs.items()
                ]
                return Result(200, "\r\n".join(["STATS", *lines, "END"]), int(opaque))
            case ["get", topic, _, partition, offset, size, opaque, *_]:
                log = self._log(topic, partition)
                if log is None:
                    return Result(404, "no partition", int(opaque))
                reply = log.get(int(offset), int(size), int(opaque))
                if isinstance(reply, Value) and words[-1] == "zlib":
                    return Value(compress(reply.data), reply.opaque)
                return reply
            case ["offset", topic, _, partition, offset, opaque]:
                log = self._log(topic, partition)
                if log is None:
                    return Result(404, "no partition", int(opaque))
                return Result(200, str(log.nearest(int(offset))), int(opaque))
        raise AssertionError(words)

    def _log(self, topic: str, partition: str) -> FakeLog | None:
        return self._broker.logs.get(TopicPartition(Topic(topic), PartitionId(int(partition))))
