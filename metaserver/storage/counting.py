"""How many records segments hold, of which nobody has kept count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.storage.resynchronise import scan_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaserver.storage.segment import Segment


def count_records(segment: Segment, position: int, following: Sequence[Segment]) -> int:
    """Of a segment from a position on, and of those behind it; what cannot be read has none."""
    count = 0
    for counted in (segment, *following):
        start = position if counted is segment else 0
        file = counted.pin()
        try:
            count += scan_file(file, start, counted.size_bytes, None).count
        except OSError:
            # A count is no reason to keep what cannot be read.
            continue
        finally:
            counted.unpin()
    return count
