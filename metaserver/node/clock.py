"""The real clock; everything below `node` has it handed in."""

from __future__ import annotations

import time


class SystemClock:
    """The operating system's clocks."""

    def wall_seconds(self) -> float:
        """Seconds since 1970; may be set, and go back."""
        return time.time()

    def monotonic_seconds(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()


def utc_offset_seconds(at_wall_seconds: float) -> float:
    """How far local time is ahead of UTC at an instant."""
    return float(time.localtime(at_wall_seconds).tm_gmtoff)
