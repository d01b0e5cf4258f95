"""How fast a slave copies what its master has held for a while, and how long the rest takes.

Only fetches of bytes that the master is known to hold wait for their turn. A fetch at the end of the log,
where the next message is due, never does: a limit on catching up must not delay what is new.
"""

from __future__ import annotations

import attrs

from metaserver.rates import Pace, PaceMeter, TokenBucket

PACE_SECONDS = 10.0
"""The rate that is reported is that of so many last seconds."""


@attrs.frozen
class CatchUpReport:
    """How the copying goes."""

    left_bytes: int
    """What the master holds and this slave lacks, without partitions that have stopped."""
    pace: Pace
    copied_bytes: int
    """Since the slave was started."""
    limit_bytes_per_second: int
    """0: none."""


@attrs.frozen(eq=False)
class Reservation:
    """The turn of one fetch; what it does not use is for the others."""

    size_bytes: int
    wait_seconds: float
    """How long the fetch has to wait."""


@attrs.define(eq=False)
class CatchUp:
    """The limit, over all partitions, and the meter."""

    limit_bytes_per_second: int
    """0: none."""
    copied_bytes: int = 0
    """Written to the local log."""
    _bucket: TokenBucket | None = attrs.field(init=False)
    _meter: PaceMeter = attrs.Factory(lambda: PaceMeter(PACE_SECONDS))
    _reservations: set[Reservation] = attrs.Factory(set)
    """Of fetches that have no answer yet."""

    def __attrs_post_init__(self) -> None:
        """With a burst of one second: who is only a little behind is not held up."""
        rate = self.limit_bytes_per_second
        self._bucket = TokenBucket(rate, rate) if rate else None

    def reserve(self, size_max: int, known_bytes: int, now: float) -> Reservation:
        """The turn of a fetch of ``size_max`` bytes, of which the master is known to hold ``known_bytes``."""
        size_bytes = max(0, min(size_max, known_bytes))
        if self._bucket is None or not size_bytes:
            return Reservation(0, 0.0)
        found = Reservation(size_bytes, self._bucket.reserve(size_bytes, now))
        self._reservations.add(found)
        return found

    def used(self, reservation: Reservation, size_bytes: int) -> None:
        """So many bytes came, or none: the answer is there, or will never be."""
        if self._bucket is not None and reservation in self._reservations:
            self._reservations.discard(reservation)
            self._bucket.give_back(max(0, reservation.size_bytes - size_bytes))

    def look(self, left_bytes: int, now: float) -> None:
        """Remember how it stands, now and then, for the rate."""
        self._meter.look(self.copied_bytes, left_bytes, now)

    def interrupted(self) -> None:
        """The master is gone: the next rate begins with the next connection.

        Whoever waited will ask anew, and must not queue up behind itself.
        """
        self._meter.forget()
        for reservation in list(self._reservations):
            self.used(reservation, 0)

    def report(self, left_bytes: int, now: float) -> CatchUpReport:
        """How it goes."""
        pace = self._meter.pace(self.copied_bytes, left_bytes, now)
        return CatchUpReport(left_bytes, pace, self.copied_bytes, self.limit_bytes_per_second)
