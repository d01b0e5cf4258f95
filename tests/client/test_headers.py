"""Counting, estimating and finding boundaries, against a log in memory that fetches in small pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from metaserver.client.headers import Backlog, Position, is_record, locate, measure_backlog
from metaserver.client.messages import Fetched, Moved, NothingThere
from metaserver.client.times import find_time
from metaserver.message import encode_record, message_id_to_seconds
from metaserver.names import MAX_OFFSET

if TYPE_CHECKING:
    from metaserver.client import BrokerConnection

SECOND = 1000 << 22
"""Between ids of messages that came a second after each other."""


@attrs.define
class FakeLog:
    """A partition by the broker's rules, with a hole where records were damaged."""

    sizes: list[int]
    start: int = 0
    piece: int = 64
    segment_bytes: int = 200
    hole: tuple[int, int] = (0, 0)
    data: bytes = attrs.field(init=False)
    edges: list[int] = attrs.field(init=False)
    """Where records begin, and the end."""

    def __attrs_post_init__(self) -> None:
        records = [encode_record(bytes(size), (n + 1) * SECOND) for n, size in enumerate(self.sizes)]
        self.data = b"".join(records)
        self.edges = [self.start]
        for made in records:
            self.edges.append(self.edges[-1] + len(made))

    @property
    def connection(self) -> BrokerConnection:
        return cast("BrokerConnection", self)

    async def get(
        self, topic: str, partition: int, offset: int, *, size_max: int = 0
    ) -> Fetched | Moved | NothingThere:
        await trio.lowlevel.checkpoint()
        end = self.edges[-1]
        if offset < self.start:
            return Moved(self.start)
        if self.hole[0] <= offset < self.hole[1]:
            return Moved(self.hole[1])
        if offset >= end:
            return NothingThere("nothing")
        stop = min(self.hole[0] if offset < self.hole[0] else end, offset + (size_max or self.piece))
        return Fetched(topic, partition, offset, self.data[offset - self.start : stop - self.start])

    async def offset(self, _topic: str, _partition: int, offset: int) -> int:
        """The start of the segment that holds it."""
        await trio.lowlevel.checkpoint()
        if offset >= self.edges[-1]:
            return self.edges[-1]
        segments = [self.start]
        for edge in self.edges:
            if edge - segments[-1] >= self.segment_bytes:
                segments.append(edge)
        return max([self.start, *(segment for segment in segments if segment <= offset)])

    async def end_offset(self, topic: str, partition: int) -> int:
        return await self.offset(topic, partition, MAX_OFFSET)


def counted(messages: int, oldest: float | None) -> Backlog:
    return Backlog(messages, is_estimated=False, oldest_wall_seconds=oldest)


def test_every_message_is_counted_up_to_the_bound() -> None:
    log = FakeLog([30, 0, 200, 7], start=1000)

    async def measure(offset: int, bound: int = 10_000) -> Backlog:
        return await measure_backlog(log.connection, "t", 0, offset, log.edges[-1], bound)

    assert trio.run(measure, 1000) == counted(4, message_id_to_seconds(SECOND))
    assert trio.run(measure, log.edges[2]) == counted(2, message_id_to_seconds(3 * SECOND))
    assert trio.run(measure, log.edges[-1]) == counted(0, None)


def test_what_lies_behind_the_bound_is_estimated() -> None:
    log = FakeLog([10] * 100)
    found = trio.run(measure_backlog, log.connection, "t", 0, 0, log.edges[-1], 300)
    assert (found.messages, found.is_estimated) == (100, True)
    sparse = FakeLog([10] * 50 + [40] * 50)
    found = trio.run(measure_backlog, sparse.connection, "t", 0, 0, sparse.edges[-1], 300)
    assert (found.messages, found.is_estimated) == (150, True)


def test_a_hole_holds_no_messages() -> None:
    log = FakeLog([10] * 10, hole=(60, 210))
    found = trio.run(measure_backlog, log.connection, "t", 0, 0, log.edges[-1])
    assert (found.messages, found.is_estimated) == (5, False)
    assert trio.run(locate, log.connection, "t", 0, 100) == Position(100, 60, 210, -1)
    assert trio.run(locate, log.connection, "t", 0, 210).is_boundary


@given(st.lists(st.integers(0, 90), min_size=1, max_size=30), st.integers(0, 500), st.data())
def test_an_offset_is_found_between_its_neighbours(sizes: list[int], start: int, data: st.DataObject) -> None:
    log = FakeLog(sizes, start)
    offset = data.draw(st.integers(start, log.edges[-1]))
    found = trio.run(locate, log.connection, "t", 0, offset)
    before = max(edge for edge in log.edges if edge <= offset)
    behind = min(edge for edge in log.edges if edge >= offset)
    number = log.edges.index(before)
    message_id = number * SECOND if before == offset and number else -1
    assert found == Position(offset, before, behind, message_id)
    end = log.edges[-1]
    is_edge = offset in log.edges and offset != end
    # Zeros in a payload are no record: their checksum is that of nothing, and a record of nothing has an id.
    if is_edge or offset == end:
        assert trio.run(is_record, log.connection, "t", 0, offset, end) == is_edge


@pytest.mark.parametrize(("moment", "expected"), [(0, 0), (1, 0), (1.5, 1), (2, 1), (19.5, 19), (20.5, 20)])
def test_a_time_is_found(moment: float, expected: int) -> None:
    log = FakeLog([10] * 20)
    wall_seconds = message_id_to_seconds(0) + moment
    assert trio.run(find_time, log.connection, "t", 0, wall_seconds) == log.edges[expected]


def test_a_broker_that_sends_in_circles_is_not_asked_for_ever() -> None:
    class Circling(FakeLog):
        async def get(
            self, topic: str, partition: int, offset: int, *, size_max: int = 0
        ) -> Fetched | Moved | NothingThere:
            found = await super().get(topic, partition, offset, size_max=size_max)
            return Moved(offset) if offset == self.edges[4] else found

    async def test() -> int:
        with trio.fail_after(5):
            return await find_time(log.connection, "t", 0, message_id_to_seconds(0) + 7.0)

    log = Circling([10] * 10, segment_bytes=1000)
    assert trio.run(test) == log.edges[-1]
