"""How much a slave has its master send at a time, over all partitions. Pure.

Enough that a long way is always full, and so little that what is asked for next is not behind minutes of
data: the window grows while answers come soon, and shrinks when they take long.
"""

from __future__ import annotations

import attrs

WINDOW_BYTES_MIN = 64 * 1024
WINDOW_BYTES_MAX = 32 * 1024 * 1024
"""What may lie in memory of answers that came out of order, beside what waits for the disk."""
_WINDOW_BYTES_FIRST = 256 * 1024
_PIECES = 4
_PIECE_BYTES_MAX = 1024 * 1024
"""What most masters give at once (``maxTransferSize``)."""
_SOON_SECONDS = 0.25
_LATE_SECONDS = 1.0
_SOON_ROUND_TRIPS = 2
_LATE_ROUND_TRIPS = 4
_LONG_SECONDS = 0.02
_SLOW_WINDOW_BYTES = 4 * 1024 * 1024


@attrs.define
class LinkWindow:
    """Of one connection."""

    bytes_max: int = WINDOW_BYTES_MAX
    window_bytes: int = _WINDOW_BYTES_FIRST
    under_way_bytes: int = 0
    round_trip_seconds: float | None = None
    """The shortest there was, with what it carried; None: none yet."""
    _changed_time: float = 0.0
    _has_shrunk: bool = False

    @property
    def room_bytes(self) -> int:
        """What may be asked for now."""
        return self.window_bytes - self.under_way_bytes

    @property
    def piece_bytes(self) -> int:
        """Of one get."""
        return max(WINDOW_BYTES_MIN, min(self.window_bytes // _PIECES, _PIECE_BYTES_MAX))

    @property
    def is_slow(self) -> bool:
        """Whether the link, and not this machine, decides how fast it goes: it is slow, or long."""
        is_long = self.round_trip_seconds is not None and self.round_trip_seconds > _LONG_SECONDS
        return is_long or (self._has_shrunk and self.window_bytes < _SLOW_WINDOW_BYTES)

    def asked(self, size_max: int) -> None:
        """A get for bytes that the master holds has left."""
        self.under_way_bytes += size_max

    def answered(self, size_max: int, size_bytes: int, asked_time: float, now: float) -> None:
        """Its answer is here, of so many bytes; 0: it brought none."""
        self.under_way_bytes -= size_max
        took = now - asked_time
        if self.round_trip_seconds is None or took < self.round_trip_seconds:
            self.round_trip_seconds = took
        # One change must show before the next one.
        if not size_bytes or asked_time < self._changed_time:
            return
        if took > max(_LATE_SECONDS, _LATE_ROUND_TRIPS * self.round_trip_seconds):
            self._has_shrunk = True
            self._change(self.window_bytes // 2, now)
        elif size_bytes == size_max and took < max(
            _SOON_SECONDS, _SOON_ROUND_TRIPS * self.round_trip_seconds
        ):
            self._change(self.window_bytes * 2, now)

    def given_up(self, size_max: int) -> None:
        """The get will not be sent."""
        self.under_way_bytes -= size_max

    def _change(self, window_bytes: int, now: float) -> None:
        found = max(WINDOW_BYTES_MIN, min(window_bytes, self.bytes_max))
        if found != self.window_bytes:
            self.window_bytes, self._changed_time = found, now
