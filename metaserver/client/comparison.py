"""Where two replicas of a partition differ. Pure: ranges and bytes of both sides in, findings out.

A replica holds its master's bytes at its master's offsets, so byte is compared with byte. Two things are no
difference: that a slave is behind, and that it still holds what its master has deleted.
"""

from __future__ import annotations

import re
from enum import Enum

import attrs

from metaserver.message import HEADER, HEADER_SIZE, checksum, message_id_to_seconds, split_attribute
from metaserver.names import MAX_OFFSET, PartitionId, Topic, TopicPartition, is_valid_topic, parse_digits

SPANS_MAX = 1000
"""So many differing spans of a partition are kept; beyond it they are only counted."""

_MERGED_GAP_BYTES = 32
"""Two different bytes with fewer equal ones in between belong to one span: chance makes some equal."""
_GAP = re.compile(rb"\0{%d,}" % _MERGED_GAP_BYTES)
_SEARCHED_BYTES = 256 * 1024
_CHECKED_BYTES_MAX = 32 * 1024 * 1024
_PREVIEW_BYTES = 48
_DIFFERENT_BYTES = 16


class Side(Enum):
    """One of the two replicas."""

    MASTER = "master"
    SLAVE = "slave"

    @property
    def other(self) -> Side:
        """The one it is compared with."""
        return Side.SLAVE if self is Side.MASTER else Side.MASTER


@attrs.frozen(order=True)
class Span:
    """Offsets from ``start`` up to, and without, ``end``; none where they are equal."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        return self.end - self.start

    def __bool__(self) -> bool:
        """Whether it has any."""
        return self.start < self.end

    def __str__(self) -> str:
        """Both ends in words."""
        return f"{self.start} to {self.end}"


def _span(start: int, end: int) -> Span:
    return Span(start, max(start, end))


@attrs.frozen
class Unreadable:
    """Bytes that a replica should have and did not give."""

    side: Side
    span: Span
    reason: str


@attrs.frozen
class RecordSight:
    """What one side holds where a record with a difference begins."""

    offset: int
    message_id: int
    flag: int
    length: int
    """Bytes of data that the header announces."""
    problem: str | None
    """Why it is no valid record; None where it is one."""
    preview: bytes = attrs.field(repr=False)
    """The first bytes of the payload."""
    different: bytes = attrs.field(repr=False)
    """A few bytes from the first difference on."""

    @property
    def wall_seconds(self) -> float:
        """When the broker took the message, in seconds since 1970 (not of a Java broker)."""
        return message_id_to_seconds(self.message_id)

    @classmethod
    def of(cls, offset: int, data: bytes, difference_offset: int) -> RecordSight | None:
        """From the log's bytes at ``offset``; None where there is not even a header."""
        if len(data) < HEADER_SIZE:
            return None
        length, expected, message_id, flag = HEADER.unpack_from(data)
        body = data[HEADER_SIZE : HEADER_SIZE + max(0, length)]
        problem = None
        if length < 0:
            problem = f"negative length {length}"
        elif len(body) < length:
            problem = f"only {len(body)} of {length} bytes"
        elif checksum(body) != expected:
            problem = "checksum mismatch"
        elif not (length or expected or message_id):
            problem = "zeros"
        preview = split_attribute(flag, body)[1][:_PREVIEW_BYTES]
        at = difference_offset - offset
        different = data[at : at + _DIFFERENT_BYTES]
        return cls(offset, message_id, flag, length, problem, preview, different)


@attrs.define
class ByteComparison:
    """The bytes of both sides, from a position on: which differ, and in which record that begins."""

    position: int
    """Everything before it has been compared, or passed over."""
    is_aligned: bool = True
    """Whether a record begins at the first position."""
    spans: list[Span] = attrs.Factory(list)
    """What differs, in order; few equal bytes in between are part of a span."""
    span_count: int = 0
    differing_bytes: int = 0
    compared_bytes: int = 0
    record_offset: int | None = None
    """Where the record begins that holds the first difference; None where that cannot be told."""
    _last_end: int = -1
    """Of the newest span."""
    _begun: int | None = None
    """Where the last record begins whose header has been passed."""
    _following: int | None = None
    """Where the record behind it begins; None: lost."""
    _held: bytes = b""
    """The front of a header that the next bytes complete."""

    def __attrs_post_init__(self) -> None:
        """The first record begins where the comparison does."""
        if self.is_aligned:
            self._following = self.position

    @property
    def first(self) -> int | None:
        """The first offset that differs."""
        return self.spans[0].start if self.spans else None

    def feed(self, master: bytes, slave: bytes) -> None:
        """What both sides hold at the position: as many bytes of the one as of the other."""
        if len(master) != len(slave):
            raise ValueError("the two sides must be of one length")
        if not self.is_aligned and self._following is None and not self.spans:
            found = find_record(master)
            self.is_aligned = True
            self._following = None if found is None else self.position + found
        if master == slave:
            if not self.spans:
                self._hop(master)
        else:
            self._differ(master, slave)
        self.position += len(master)
        self.compared_bytes += len(master)

    def pass_over(self, offset: int) -> None:
        """Go on behind bytes that one side does not have, where a record begins."""
        self.position = self._following = offset
        self._held, self._begun = b"", None

    def _differ(self, master: bytes, slave: bytes) -> None:
        size = len(master)
        xored = (int.from_bytes(master, "big") ^ int.from_bytes(slave, "big")).to_bytes(size, "big")
        position = 0
        for gap in [*_GAP.finditer(xored), None]:
            piece_end = size if gap is None else gap.start()
            piece = xored[position:piece_end].lstrip(b"\0")
            start = piece_end - len(piece)
            end = start + len(piece.rstrip(b"\0"))
            if start < end:
                if not self.span_count:
                    self._hop(master[:start])
                    following = self._following
                    is_behind = following is not None and following <= self.position + start
                    self.record_offset = following if is_behind else self._begun
                self._add(Span(self.position + start, self.position + end))
                self.differing_bytes += end - start - xored.count(0, start, end)
            position = size if gap is None else gap.end()

    def _add(self, span: Span) -> None:
        if self.span_count and span.start - self._last_end < _MERGED_GAP_BYTES:
            if self.span_count == len(self.spans):
                self.spans[-1] = Span(self.spans[-1].start, span.end)
        else:
            self.span_count += 1
            if len(self.spans) < SPANS_MAX:
                self.spans.append(span)
        self._last_end = span.end

    def _hop(self, data: bytes) -> None:
        """Follow the lengths of the records through bytes that are equal."""
        if self._following is None:
            return
        base = self.position - len(self._held)
        data = self._held + data if self._held else data
        self._held = b""
        at, size, unpack = self._following - base, len(data), HEADER.unpack_from
        begun = self._begun
        while at + HEADER_SIZE <= size:
            length, _, message_id, _ = unpack(data, at)
            if length < 0 or not (length or message_id):
                self._begun, self._following = begun, None
                return
            begun, at = base + at, at + HEADER_SIZE + length
        if at < size:
            self._held = data[at:]
        self._begun, self._following = begun, base + at


def find_record(data: bytes) -> int | None:
    """The first position where a whole, valid record of some length begins; None within reason."""
    budget = _CHECKED_BYTES_MAX
    size = len(data)
    for position in range(min(size - HEADER_SIZE, _SEARCHED_BYTES)):
        length, expected, _, _ = HEADER.unpack_from(data, position)
        end = position + HEADER_SIZE + length
        if length <= 0 or end > size:
            continue
        budget -= length
        if budget < 0:
            return None
        if checksum(data[position + HEADER_SIZE : end]) == expected:
            return position
    return None


@attrs.define
class PartitionComparison:
    """One partition of two replicas: what each holds, and what was found."""

    name: TopicPartition
    master: Span | None
    """What it holds; None: it does not have the partition."""
    slave: Span | None
    compared: Span
    """What both hold, as far as it is looked at."""
    content: ByteComparison
    from_offset: int = 0
    """Nothing before it is looked at."""
    records: dict[Side, RecordSight] = attrs.Factory(dict)
    """What each side holds at ``content.record_offset``."""
    unreadable: list[Unreadable] = attrs.Factory(list)
    deleted: list[tuple[Side, Span]] = attrs.Factory(list)
    """What a side deleted while it was compared; no difference."""
    missing: list[Span] = attrs.Factory(list)
    """What neither gives: a gap of both, or damaged on both; no difference."""
    segments: dict[Side, list[int]] = attrs.Factory(lambda: {side: [] for side in Side})
    """Where segments begin inside of what is compared, from its end on backwards."""
    with_all_segments: set[Side] = attrs.Factory(set)
    """Of whom all of them are known."""
    is_done: bool = False

    @classmethod
    def of(
        cls,
        name: TopicPartition,
        master: Span | None,
        slave: Span | None,
        from_offset: int | None = None,
        last_bytes: int | None = None,
    ) -> PartitionComparison:
        """From what each side holds, asked of the slave first: so a healthy one is never ahead.

        ``from_offset`` and ``last_bytes`` bound what is looked at; the later of the two counts.
        """
        if master is None or slave is None:
            return cls(name, master, slave, Span(0, 0), ByteComparison(0), is_done=True)
        end = min(master.end, slave.end)
        whole_start = max(master.start, slave.start)
        start = max(from_offset or 0, 0 if last_bytes is None else end - last_bytes)
        compared = _span(max(whole_start, start), end)
        content = ByteComparison(compared.start, is_aligned=compared.start == whole_start)
        return cls(name, master, slave, compared, content, start)

    @property
    def lag_bytes(self) -> int:
        """What the slave still has to copy."""
        if self.master is None or self.slave is None:
            return 0
        return max(0, self.master.end - max(self.slave.end, self.master.start))

    @property
    def only(self) -> list[tuple[Side, Span]]:
        """What one side has and the other should have, and has not."""
        if self.master is None or self.slave is None:
            found = [(Side.MASTER, self.master), (Side.SLAVE, self.slave)]
            return [(side, span) for side, span in found if span]
        master, slave = self.master, self.slave
        first = max(master.start, self.from_offset)
        last = max(master.end, slave.start, self.from_offset)
        missing = _span(first, min(slave.start, master.end))
        if slave.end < master.start:
            # It cannot go on where it is: the bytes in between are gone.
            missing = _span(first, master.end)
        found = [(Side.MASTER, missing), (Side.SLAVE, _span(last, slave.end))]
        return [(side, span) for side, span in found if span]

    @property
    def kept_by_slave(self) -> Span:
        """What the master has deleted and the slave has not yet; no difference."""
        if self.master is None or self.slave is None:
            return Span(0, 0)
        start = max(self.slave.start, self.from_offset)
        return _span(start, min(self.master.start, self.slave.end))

    @property
    def only_segments(self) -> dict[Side, list[int]]:
        """Where segments begin on one side alone."""
        if len(self.with_all_segments) < len(Side):
            return {}
        known = {side: set(starts) for side, starts in self.segments.items()}
        # What was deleted meanwhile may have been asked for before or after.
        floor = max((span.end for _, span in self.deleted), default=self.compared.start)
        lone = {
            side: sorted(start for start in known[side] - known[side.other] if start > floor) for side in Side
        }
        return {side: starts for side, starts in lone.items() if starts}

    @property
    def is_equal(self) -> bool:
        """Whether nothing was found that tells the replicas apart."""
        return not (self.only or self.content.spans or self.unreadable or self.only_segments)

    def lost_by_both(self, moved_to: int) -> None:
        """Neither side gives bytes at the position, and both say that reading goes on at the same offset."""
        skipped = Span(self.content.position, min(moved_to, self.compared.end))
        self.missing.append(skipped)
        self.content.pass_over(skipped.end)

    def lost(self, side: Side, start: int, end: int, moved_to: int | None, reason: str) -> None:
        """A side gives no bytes at the position and now holds ``start..end``; go on where both may have some.

        ``moved_to``: where it says that reading goes on.
        """
        position, last = self.content.position, self.compared.end
        if start > position:
            skipped = Span(position, min(start, last))
            self.deleted.append((side, skipped))
        elif end <= position:
            skipped = Span(position, last)
            self.unreadable.append(Unreadable(side, skipped, f"it ends at {end} now"))
        elif moved_to is not None and moved_to > position:
            skipped = Span(position, min(moved_to, last))
            self.unreadable.append(Unreadable(side, skipped, "damaged or missing"))
        else:
            skipped = Span(position, last)
            self.unreadable.append(Unreadable(side, skipped, reason))
        self.content.pass_over(skipped.end)


def parse_ranges(offsets: str) -> dict[TopicPartition, Span]:
    """What a broker holds, from its ``stats offsets``; lines that say something else are passed over."""
    ranges = {}
    for line in offsets.splitlines():
        match line.split(" "):
            case [topic, "part", number, "min_offset", start, "max_offset", end] if is_valid_topic(topic):
                found = [parse_digits(text, MAX_OFFSET) for text in (number, start, end)]
            case _:
                continue
        match found:
            case [int(partition), int(first), int(behind)]:
                ranges[TopicPartition(Topic(topic), PartitionId(partition))] = Span(first, behind)
    return ranges
