"""A limit on bytes per second, and how long what is left takes. Pure: the time is handed in."""

from __future__ import annotations

from collections import deque

import attrs


@attrs.define(eq=False)
class TokenBucket:
    """At most ``burst_bytes`` at once and ``bytes_per_second`` from then on, first come, first served.

    Whoever reserves is told how long to wait, and may be sure of the bytes then. A reservation larger than
    the burst is served as well, and everybody behind it waits accordingly longer.
    """

    bytes_per_second: float
    burst_bytes: float
    _tokens: float = attrs.field(init=False)
    """Below zero: so much is promised and not yet there."""
    _filled_at: float | None = None

    def __attrs_post_init__(self) -> None:
        """It begins full."""
        self._tokens = self.burst_bytes

    def reserve(self, size_bytes: int, now: float) -> float:
        """Take bytes out; returns the seconds after which they may be used."""
        if self._filled_at is not None:
            gained = (now - self._filled_at) * self.bytes_per_second
            self._tokens = min(self.burst_bytes, self._tokens + gained)
        self._filled_at = now
        self._tokens -= size_bytes
        return max(0.0, -self._tokens / self.bytes_per_second)

    def give_back(self, size_bytes: int) -> None:
        """Bytes that were reserved and are not used after all."""
        self._tokens = min(self.burst_bytes, self._tokens + size_bytes)


@attrs.frozen
class Pace:
    """How fast something goes, over the last seconds."""

    bytes_per_second: float
    estimated_seconds: float | None
    """Until nothing is left; None where it does not become less, or where that cannot be told yet."""


@attrs.define(eq=False)
class PaceMeter:
    """Looks at two numbers now and then: the bytes done so far, and those that are left.

    What is left may grow while it is worked on, so the estimate is made from how it becomes less, not from
    what is done.
    """

    window_seconds: float
    _looks: deque[tuple[float, int, int]] = attrs.Factory(deque)
    """Time, done and left; the first is the last one older than the window."""

    def look(self, done_bytes: int, left_bytes: int, now: float) -> None:
        """Remember how it stands at this moment."""
        looks = self._looks
        looks.append((now, done_bytes, left_bytes))
        while len(looks) > 1 and looks[1][0] <= now - self.window_seconds:
            looks.popleft()

    def forget(self) -> None:
        """Begin anew: what went on before says nothing about what comes."""
        self._looks.clear()

    def pace(self, done_bytes: int, left_bytes: int, now: float) -> Pace:
        """How it goes, since about ``window_seconds`` ago."""
        if not self._looks or now <= self._looks[0][0]:
            return Pace(0.0, None if left_bytes else 0.0)
        since, done_then, left_then = self._looks[0]
        passed = now - since
        rate = max(0.0, (done_bytes - done_then) / passed)
        if not left_bytes:
            return Pace(rate, 0.0)
        gained = left_then - left_bytes
        return Pace(rate, left_bytes * passed / gained if gained > 0 else None)
