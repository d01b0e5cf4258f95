"""What a log tells about itself: one value for the stats command, the control socket and the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from metaserver.storage.segment import OffsetRange


@attrs.frozen
class LogStatistics:
    """A partition in figures."""

    start_offset: int
    end_offset: int
    flushed_offset: int
    segment_count: int
    size_bytes: int
    """In segment files; less than the offsets span where pieces are missing."""
    record_count: int
    damaged_ranges: tuple[OffsetRange, ...]
    """Damaged and missing ranges; reads skip them."""
