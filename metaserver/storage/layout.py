"""What a log consists of at one moment: its segments, and where it cannot be read. Immutable."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import attrs

from metaserver.errors import OffsetInHoleError, OffsetOutOfRangeError
from metaserver.storage.segment import OffsetRange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metaserver.storage.segment import Segment


@attrs.frozen
class Layout:
    """One immutable value, so that readers in any thread see segments and gaps that belong together."""

    segments: tuple[Segment, ...]
    """In order, at least one; the last takes the appends."""
    unreadable: tuple[OffsetRange, ...] = ()
    """Damaged and missing ranges, in order."""
    starts: tuple[int, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """For searches."""
        object.__setattr__(self, "starts", tuple(segment.start_offset for segment in self.segments))

    @property
    def last_run_start(self) -> int:
        """From here on everything can be read, without a damaged or missing piece."""
        return max(self.starts[0], self.unreadable[-1].end) if self.unreadable else self.starts[0]

    def with_segments(self, segments: tuple[Segment, ...]) -> Layout:
        """Others, of the same log."""
        return Layout(segments, self.unreadable)

    def with_unreadable(self, ranges: Iterable[OffsetRange]) -> Layout:
        """Other places that cannot be read; none of them may be empty."""
        return Layout(self.segments, tuple(merge_ranges(ranges)))

    def until(self, offset: int) -> tuple[OffsetRange, ...]:
        """What cannot be read before an offset."""
        return tuple(
            OffsetRange(gap.start, min(gap.end, offset)) for gap in self.unreadable if gap.start < offset
        )

    def index_of(self, offset: int) -> int:
        """Of the segment that holds an offset of the log, or lies before the hole that it is in."""
        return bisect_right(self.starts, offset) - 1

    def find(self, offset: int, end: int) -> tuple[Segment, int]:
        """Where to read at an offset of a log that ends at ``end``: the segment, and the offset to stop at.

        Raises OffsetOutOfRangeError and OffsetInHoleError.
        """
        starts = self.starts
        if not starts[0] <= offset < end:
            raise OffsetOutOfRangeError(offset, starts[0], end)
        index = bisect_right(starts, offset) - 1
        stop = min(starts[index + 1], end) if index + 1 < len(starts) else end
        for gap in self.unreadable:
            if gap.end > offset:
                if gap.start <= offset:
                    raise OffsetInHoleError(offset, starts[0], end, gap.end)
                stop = min(stop, gap.start)
                break
        return self.segments[index], stop

    def piece_at(self, offset: int, end: int) -> tuple[Segment, int]:
        """The segment that holds an offset, damaged or not, and where its bytes end, at ``end`` at last.

        Raises OffsetOutOfRangeError, also where no file holds it.
        """
        index = self.index_of(offset)
        segment = self.segments[max(0, index)]
        held = self._held_end(max(0, index), end)
        if index < 0 or offset >= held:
            raise OffsetOutOfRangeError(offset, self.starts[0], end)
        return segment, held

    def held_parts(self, gap: OffsetRange, end: int) -> list[OffsetRange]:
        """What of a range files hold, damaged or not, a part for each segment; the log ends at ``end``."""
        parts = []
        for index, segment_start in enumerate(self.starts):
            start, stop = max(gap.start, segment_start), min(gap.end, self._held_end(index, end))
            if start < stop:
                parts.append(OffsetRange(start, stop))
        return parts

    def _held_end(self, index: int, end: int) -> int:
        """Where the bytes of a segment end, in a log that ends at ``end``."""
        segment = self.segments[index]
        return end if index + 1 == len(self.starts) else segment.start_offset + segment.size_bytes

    def is_readable(self, start: int, end: int) -> bool:
        """Whether nothing between two offsets is known to be damaged or missing."""
        return all(gap.end <= start or end <= gap.start for gap in self.unreadable)

    def segment_start(self, offset: int) -> int:
        """The start of the segment that holds an offset before the end; the log's start below it.

        Where no file holds the offset: the start of the segment behind the hole.
        """
        index = max(0, self.index_of(offset))
        segment = self.segments[index]
        if index + 1 < len(self.starts) and offset >= segment.start_offset + segment.size_bytes:
            index += 1
        return self.starts[index]


def merge_ranges(ranges: Iterable[OffsetRange]) -> list[OffsetRange]:
    """The same offsets in as few ranges as possible, in order."""
    merged: list[OffsetRange] = []
    for gap in sorted(ranges):
        if merged and gap.start <= merged[-1].end:
            merged[-1] = OffsetRange(merged[-1].start, max(merged[-1].end, gap.end))
        else:
            merged.append(gap)
    return merged


def subtract_range(ranges: Iterable[OffsetRange], gone: OffsetRange) -> list[OffsetRange]:
    """What of the ranges is left without the offsets of one."""
    parts = [
        part
        for one in ranges
        for part in (
            OffsetRange(one.start, min(one.end, gone.start)),
            OffsetRange(max(one.start, gone.end), one.end),
        )
    ]
    return [part for part in parts if part.start < part.end]
