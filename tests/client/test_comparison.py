"""The pure core: against a model that looks at every byte, and the cases that have names."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.client import comparison
from metaserver.client.comparison import (
    ByteComparison,
    PartitionComparison,
    RecordSight,
    Side,
    Span,
    find_record,
    parse_ranges,
)
from metaserver.names import PartitionId, Topic, TopicPartition
from tests.support import record

NAME = TopicPartition(Topic("t"), PartitionId(0))
_bodies = st.lists(st.binary(max_size=60), min_size=1, max_size=12)
_changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=6)
_cuts = st.lists(st.integers(0, 10**6), max_size=8)


def log_of(bodies: list[bytes]) -> tuple[bytes, list[int]]:
    records = [record(body, 1000 + number) for number, body in enumerate(bodies)]
    starts = [0]
    for one in records:
        starts.append(starts[-1] + len(one))
    return b"".join(records), starts[:-1]


def changed(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    copy = bytearray(data)
    for position, flip in changes:
        copy[position % len(copy)] ^= flip
    return bytes(copy)


def feed(found: ByteComparison, master: bytes, slave: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut % (len(master) + 1) for cut in cuts), len(master)]
    for start, end in pairwise(edges):
        found.feed(master[start:end], slave[start:end])


def merged(differing: list[int]) -> list[Span]:
    """Different bytes with fewer than 32 equal ones between them, as one span."""
    spans: list[Span] = []
    for offset in differing:
        if spans and offset - spans[-1].end < 32:
            spans[-1] = Span(spans[-1].start, offset + 1)
        else:
            spans.append(Span(offset, offset + 1))
    return spans


@given(_bodies, _changes, _cuts, st.integers(0, 10**12))
def test_every_different_byte_is_in_a_span_and_no_other_spans_there_are(
    bodies: list[bytes], changes: list[tuple[int, int]], cuts: list[int], base: int
) -> None:
    master, starts = log_of(bodies)
    slave = changed(master, changes)
    found = ByteComparison(base)
    feed(found, master, slave, cuts)
    differing = [base + at for at, (one, other) in enumerate(zip(master, slave, strict=True)) if one != other]
    assert found.spans == merged(differing)
    assert found.span_count == len(found.spans)
    assert found.differing_bytes == len(differing)
    assert found.compared_bytes == len(master)
    assert found.position == base + len(master)
    assert found.first == (differing[0] if differing else None)
    expected = max(base + start for start in starts if base + start <= differing[0]) if differing else None
    assert found.record_offset == expected


@given(_bodies, st.integers(0, 10**6), st.tuples(st.integers(0, 10**6), st.integers(1, 255)))
def test_from_inside_of_a_record_the_next_one_is_found(
    bodies: list[bytes], skip: int, change: tuple[int, int]
) -> None:
    # Random bodies in front, so that nothing in them looks like a record.
    master, starts = log_of([*(body + b"\xff" for body in bodies), b"\xff" * 300, b"\xff" * 300])
    skip %= len(master)
    slave = changed(master, [change])
    found = ByteComparison(skip, is_aligned=False)
    found.feed(master[skip:], slave[skip:])
    if found.record_offset is not None:
        assert found.record_offset in starts
        first = found.first
        assert first is not None
        assert found.record_offset == max(start for start in starts if start <= first)


def test_a_record_over_many_pieces() -> None:
    master, starts = log_of([b"a" * 10, b"b" * 5000, b"c" * 10])
    slave = changed(master, [(starts[2] + 3, 1)])
    found = ByteComparison(0)
    for at in range(0, len(master), 7):
        found.feed(master[at : at + 7], slave[at : at + 7])
    assert (found.first, found.record_offset) == (starts[2] + 3, starts[2])


def test_spans_are_counted_beyond_those_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "SPANS_MAX", 2)
    found = ByteComparison(0, is_aligned=False)
    master = bytes(1000)
    slave = changed(master, [(at, 1) for at in (0, 100, 200, 210, 900)])
    found.feed(master, slave)
    assert found.spans == [Span(0, 1), Span(100, 101)]
    assert (found.span_count, found.differing_bytes) == (4, 5)
    found.feed(b"\1" + bytes(9), bytes(10))
    assert found.span_count == 5, "far behind the last one, and no part of a kept one"


def test_two_lengths_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="one length"):
        ByteComparison(0).feed(b"a", b"ab")


def test_find_record_gives_up_in_time() -> None:
    assert find_record(b"\0\0\4\0" * 100_000) is None
    assert find_record(bytes(10)) is None
    assert find_record(b"x" * 50 + record(b"body", 7)) == 50
    assert find_record(b"") is None


# What each side holds.


def of(
    master: tuple[int, int] | None,
    slave: tuple[int, int] | None,
    from_offset: int | None = None,
    last_bytes: int | None = None,
) -> PartitionComparison:
    return PartitionComparison.of(
        NAME,
        None if master is None else Span(*master),
        None if slave is None else Span(*slave),
        from_offset,
        last_bytes,
    )


_ends = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda ends: (min(ends), max(ends)))


@given(_ends, _ends, st.one_of(st.none(), st.integers(0, 70)))
def test_every_offset_is_accounted_for_once(
    master: tuple[int, int], slave: tuple[int, int], from_offset: int | None
) -> None:
    found = of(master, slave, from_offset)
    for offset in range(from_offset or 0, 70):
        at_master, at_slave = master[0] <= offset < master[1], slave[0] <= offset < slave[1]
        is_compared = found.compared.start <= offset < found.compared.end
        assert is_compared == (at_master and at_slave)
        is_only = {side for side, span in found.only if span.start <= offset < span.end}
        is_kept = found.kept_by_slave.start <= offset < found.kept_by_slave.end
        # Behind the slave's end is lag, unless the slave can never go on from there.
        is_apart = slave[1] < master[0]
        assert (Side.MASTER in is_only) == (at_master and not at_slave and (offset < slave[0] or is_apart))
        assert (Side.SLAVE in is_only) == (at_slave and offset >= master[1])
        assert is_kept == (at_slave and offset < master[0])
    assert found.lag_bytes == len([at for at in range(*master) if at >= max(slave[1], 0)])
    assert found.is_equal == (not found.only)


@pytest.mark.parametrize(
    ("master", "slave", "is_equal", "lag", "only"),
    [
        pytest.param((0, 100), (0, 100), True, 0, [], id="equal"),
        pytest.param((0, 100), (0, 60), True, 40, [], id="behind"),
        pytest.param((50, 100), (0, 100), True, 0, [], id="retention at the master"),
        pytest.param((0, 100), (50, 100), False, 0, [(Side.MASTER, Span(0, 50))], id="began later"),
        pytest.param((0, 60), (0, 100), False, 0, [(Side.SLAVE, Span(60, 100))], id="slave ahead"),
        pytest.param((50, 100), (0, 40), False, 50, [(Side.MASTER, Span(50, 100))], id="behind retention"),
        pytest.param((50, 100), (0, 50), True, 50, [], id="just not behind retention"),
        pytest.param((0, 10), None, False, 0, [(Side.MASTER, Span(0, 10))], id="only the master"),
        pytest.param(None, (0, 10), False, 0, [(Side.SLAVE, Span(0, 10))], id="only the slave"),
        pytest.param((7, 7), None, True, 0, [], id="only the master, and empty"),
    ],
)
def test_what_is_a_difference(
    master: tuple[int, int] | None,
    slave: tuple[int, int] | None,
    is_equal: bool,
    lag: int,
    only: list[tuple[Side, Span]],
) -> None:
    found = of(master, slave)
    assert (found.is_equal, found.lag_bytes, found.only) == (is_equal, lag, only)


def test_bounds() -> None:
    assert of((0, 1000), (0, 900), last_bytes=100).compared == Span(800, 900)
    assert not of((0, 1000), (0, 900), last_bytes=100).content.is_aligned
    assert of((0, 1000), (0, 900), last_bytes=5000).compared == Span(0, 900)
    assert of((0, 1000), (0, 900), from_offset=100, last_bytes=100).compared == Span(800, 900)
    assert not of((0, 1000), (0, 900), from_offset=2000).compared
    assert of((10, 1000), (10, 900), from_offset=10).content.is_aligned


def test_segments_that_begin_on_one_side_alone() -> None:
    found = of((0, 100), (0, 100))
    found.segments[Side.MASTER] = [60, 40, 20]
    found.with_all_segments.add(Side.MASTER)
    assert found.is_equal, "the slave has not said yet"
    found.segments[Side.SLAVE] = [60, 50, 20]
    found.with_all_segments.add(Side.SLAVE)
    assert (found.only_segments, found.is_equal) == ({Side.MASTER: [40], Side.SLAVE: [50]}, False)


def test_segments_that_were_deleted_meanwhile_tell_nothing() -> None:
    found = of((0, 100), (0, 100))
    found.segments = {Side.MASTER: [60, 40, 20], Side.SLAVE: [60, 20]}
    found.with_all_segments = set(Side)
    found.lost(Side.MASTER, 40, 100, None, "")
    assert found.only_segments == {}


def test_what_a_side_no_longer_gives() -> None:
    found = of((0, 100), (0, 100))
    found.lost(Side.SLAVE, 30, 200, 30, "moved")
    assert (found.deleted, found.content.position) == ([(Side.SLAVE, Span(0, 30))], 30)
    assert found.is_equal
    found.lost(Side.SLAVE, 30, 200, 45, "moved")
    found.lost(Side.MASTER, 0, 45, 45, "gone")
    assert [(one.side, one.span, one.reason) for one in found.unreadable] == [
        (Side.SLAVE, Span(30, 45), "damaged or missing"),
        (Side.MASTER, Span(45, 100), "it ends at 45 now"),
    ]
    assert found.content.position == 100
    refused = of((0, 100), (0, 100))
    refused.lost(Side.MASTER, 0, 100, None, "closed")
    assert refused.unreadable[0].reason == "closed"
    assert not refused.is_equal
    beyond = of((0, 100), (0, 100))
    beyond.lost(Side.MASTER, 500, 900, None, "")
    assert beyond.content.position == 100


def test_ranges_come_from_the_statistics_of_any_broker() -> None:
    odd = [
        "../x part 0 min_offset 5 max_offset 9",
        "t part",
        "t part 0 min_offset 5 max_offset 1_0",
        "t part x min_offset 5 max_offset 9",
    ]
    text = "\r\n".join(["STATS", "t part 0 min_offset 5 max_offset 9", *odd, "END", ""])
    assert parse_ranges(text) == {NAME: Span(5, 9)}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (record(b"hello", 3), None),
        (changed(record(b"hello", 3), [(22, 1)]), "checksum mismatch"),
        (record(b"hello", 3)[:-1], "only 4 of 5 bytes"),
        (b"\xff" * 30, "negative length -1"),
        (bytes(30), "zeros"),
    ],
)
def test_a_record_is_seen_as_it_is(data: bytes, problem: str | None) -> None:
    sight = RecordSight.of(7, data, 9)
    assert sight is not None
    assert (sight.offset, sight.problem) == (7, problem)
    assert sight.different == data[2:18]
    assert RecordSight.of(7, data[:19], 9) is None
