"""What the owner of a store decides."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class StoreOptions:
    """What all partitions of a store have in common."""

    segment_bytes_max: int
    """A segment that has reached this size takes no more appends; files end up to one append larger."""
    checkpoint_bytes: int
    """After this many appended bytes a checkpoint is due: no more than these are verified after a crash."""
    epoch_origin: int | None = None
    """64 random bits under which this broker, as a master, writes; None on a slave, which begins no epoch."""
    open_segments_max: int = 512
    """How many segments stay open only because they were read."""
