"""The shell of the comparison over replicas in memory, in virtual time: what happens to them meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from metaserver.client import comparer as comparer_module
from metaserver.client.comparer import CHUNK_BYTES, CompareOptions, Comparer
from metaserver.client.comparison import PartitionComparison, Side, Span
from metaserver.errors import BrokerUnreachableError
from metaserver.names import PartitionId, Topic, TopicPartition
from tests.client.fake_brokers import FakeBroker, FakeLog
from tests.support import record

if TYPE_CHECKING:
    from trio.testing import MockClock


NAME = TopicPartition(Topic("t"), PartitionId(0))
OTHER = TopicPartition(Topic("t"), PartitionId(1))
SEGMENT = 300_000
WHOLE = b"".join(record(b"%d" % number * 200, 1000 + number) for number in range(3000))


def starts(data: bytes) -> list[int]:
    return list(range(0, max(1, len(data)), SEGMENT))


def pair(master: bytes = WHOLE, slave: bytes = WHOLE) -> tuple[FakeBroker, FakeBroker]:
    return FakeBroker({NAME: FakeLog(master, segment_starts=starts(master))}), FakeBroker(
        {NAME: FakeLog(slave, segment_starts=starts(slave))}
    )


async def compared(
    master: FakeBroker, slave: FakeBroker, options: CompareOptions | None = None
) -> dict[TopicPartition, PartitionComparison]:
    comparer = Comparer({Side.MASTER: master.connect, Side.SLAVE: slave.connect}, options or CompareOptions())
    await comparer.run()
    assert comparer.partitions is not None
    return comparer.partitions


def flipped(data: bytes, *positions: int) -> bytes:
    copy = bytearray(data)
    for position in positions:
        copy[position] ^= 1
    return bytes(copy)


async def test_equal_replicas_whatever_pieces_they_answer_in() -> None:
    master, slave = pair()
    slave.logs[NAME].answer_bytes_max = 1777
    found = (await compared(master, slave))[NAME]
    assert found.is_equal
    assert found.content.compared_bytes == len(WHOLE) == master.read_bytes == slave.read_bytes
    assert found.segments == {side: list(range(7 * SEGMENT, 0, -SEGMENT)) for side in Side}


async def test_a_difference_is_shown_with_the_records_of_both_sides() -> None:
    position = len(WHOLE) - 300
    master, slave = pair(WHOLE, flipped(WHOLE, 700_000, position))
    found = (await compared(master, slave))[NAME]
    assert not found.is_equal
    assert found.content.spans == [Span(700_000, 700_001), Span(position, position + 1)]
    offset = found.content.record_offset
    assert offset is not None
    ours, theirs = found.records[Side.MASTER], found.records[Side.SLAVE]
    assert (ours.offset, ours.problem) == (offset, None)
    assert ours.message_id == theirs.message_id
    assert theirs.problem == "checksum mismatch"
    assert offset <= 700_000 < offset + 20 + ours.length


async def test_bounds_spare_the_rest() -> None:
    master, slave = pair(WHOLE, flipped(WHOLE, 10, len(WHOLE) - 5000))
    last = CompareOptions(last_bytes=10_000)
    found = (await compared(master, slave, last))[NAME]
    assert found.content.spans == [Span(len(WHOLE) - 5000, len(WHOLE) - 4999)]
    assert found.content.compared_bytes == 10_000
    assert found.records[Side.MASTER].problem is None, "the record was found without knowing where one begins"
    assert (await compared(master, slave, CompareOptions(from_offset=len(WHOLE) - 4000)))[NAME].is_equal
    master.logs[OTHER] = slave.logs[OTHER] = FakeLog(WHOLE)
    assert list(await compared(master, slave, CompareOptions(partition=1))) == [OTHER]
    assert list(await compared(master, slave, CompareOptions(topic="no"))) == []


async def test_segments_that_begin_elsewhere() -> None:
    master, slave = pair()
    slave.logs[NAME].segment_starts = [0, SEGMENT + 7, 2 * SEGMENT]
    starts = [start for start in master.logs[NAME].segment_starts if start > 2 * SEGMENT]
    found = (await compared(master, slave))[NAME]
    assert found.only_segments == {Side.MASTER: [SEGMENT, *starts], Side.SLAVE: [SEGMENT + 7]}
    assert not found.content.spans


async def test_the_master_deletes_while_it_is_read() -> None:
    master, slave = pair()

    def retention(broker: FakeBroker) -> None:
        if broker.read_bytes > 100_000:
            broker.logs[NAME].delete_before(2 * SEGMENT)

    # One answer at a time, so that some come before and some behind the retention.
    master.on_request = retention
    master.logs[NAME].answer_bytes_max = 50_000
    found = (await compared(master, slave))[NAME]
    assert found.is_equal
    ((side, span),) = found.deleted
    assert (side, span.end) == (Side.MASTER, 2 * SEGMENT)
    assert found.content.compared_bytes == len(WHOLE) - span.size_bytes


async def test_partitions_grow_while_they_are_read() -> None:
    master, slave = pair()

    def grow(broker: FakeBroker) -> None:
        broker.logs[NAME].data += record(b"more", broker.requests)

    master.on_request = grow
    found = (await compared(master, slave))[NAME]
    assert found.is_equal
    assert found.content.position == len(WHOLE)


async def test_bytes_that_a_side_cannot_give() -> None:
    master, slave = pair()
    slave.logs[NAME].hole = Span(100_000, 120_000)
    found = (await compared(master, slave))[NAME]
    (gap,) = found.unreadable
    assert (gap.side, gap.span) == (Side.SLAVE, Span(100_000, 120_000))
    assert found.content.compared_bytes == len(WHOLE) - 20_000
    assert not found.is_equal
    slave.logs[NAME].refusal = "Partition[0-0] has been closed"
    found = (await compared(master, slave))[NAME]
    (gap,) = found.unreadable
    assert (gap.span, gap.reason) == (Span(0, len(WHOLE)), "Partition[0-0] has been closed")


async def test_what_neither_side_gives_is_no_difference() -> None:
    master, slave = pair()
    master.logs[NAME].hole = slave.logs[NAME].hole = Span(100_000, 120_000)
    found = (await compared(master, slave))[NAME]
    assert found.is_equal
    assert found.missing == [Span(100_000, 120_000)]
    assert found.content.compared_bytes == len(WHOLE) - 20_000
    slave.logs[NAME].hole = Span(100_000, 130_000)
    assert not (await compared(master, slave))[NAME].is_equal


async def test_a_log_that_ends_earlier_than_it_said() -> None:
    master, slave = pair()

    def lose(broker: FakeBroker) -> None:
        if broker.read_bytes > 100_000:
            broker.logs[NAME].data = WHOLE[: 2 * SEGMENT]

    slave.on_request = lose
    found = (await compared(master, slave))[NAME]
    (gap,) = found.unreadable
    assert gap == attrs.evolve(gap, side=Side.SLAVE, span=Span(2 * SEGMENT, len(WHOLE)))
    assert str(2 * SEGMENT) in gap.reason


async def test_connections_that_break_are_made_anew(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparer_module, "CHUNK_BYTES", 20_000)
    master, slave = pair(WHOLE, flipped(WHOLE, 1_000_000))

    def break_sometimes(broker: FakeBroker) -> None:
        if broker.requests % 11 == 0 and broker.latest is not None:
            broker.latest.break_now()

    slave.on_request = break_sometimes
    found = (await compared(master, slave))[NAME]
    assert found.content.spans == [Span(1_000_000, 1_000_001)]
    assert found.content.compared_bytes == len(WHOLE)
    assert set(found.records) == set(Side)
    assert slave.connections > 12, "more than it would try without any progress"
    # Read twice is at most what was under way.
    assert master.read_bytes <= len(WHOLE) + slave.connections * 5 * 20_000


async def test_a_broker_that_stays_away_is_given_up(autojump_clock: MockClock) -> None:
    master, slave = pair()
    slave.is_away = True
    began = trio.current_time()
    with pytest.raises(BrokerUnreachableError):
        await compared(master, slave)
    assert trio.current_time() == began, "at once, where it never answered"

    slave.is_away = False

    def go(broker: FakeBroker) -> None:
        if broker.requests > 6 and broker.latest is not None:
            broker.latest.break_now()
            broker.is_away = True

    slave.on_request = go
    with pytest.raises(BrokerUnreachableError):
        await compared(master, slave)
    assert 10 < trio.current_time() - began < 120


async def test_a_partition_that_the_slave_finds_a_moment_later(autojump_clock: MockClock) -> None:
    master, slave = pair()
    master.logs[OTHER] = FakeLog(WHOLE)
    found = (await compared(master, slave))[OTHER]
    assert found.only == [(Side.MASTER, Span(0, len(WHOLE)))]

    async with trio.open_nursery() as nursery:

        async def find() -> None:
            await trio.sleep(1)
            slave.logs[OTHER] = FakeLog(flipped(WHOLE, 5))

        nursery.start_soon(find)
        found = (await compared(master, slave))[OTHER]
    assert found.only == []
    assert found.content.spans == [Span(5, 6)]


async def test_a_limit_holds_for_each_side(autojump_clock: MockClock) -> None:
    master, slave = pair()
    for broker in (master, slave):
        broker.logs[OTHER] = FakeLog(WHOLE)
    rate = 100_000
    began = trio.current_time()
    found = await compared(master, slave, CompareOptions(bytes_per_second=rate))
    assert all(one.is_equal for one in found.values())
    expected = (2 * len(WHOLE) - CHUNK_BYTES) / rate
    assert trio.current_time() - began == pytest.approx(expected, rel=0.01)
