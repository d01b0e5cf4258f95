"""Counters of a broker, and the real-time statistics per topic and group.

Source: reference stats-http-dashboard sections 1 and 2.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from metaserver.storage import Clock

RESET_SECONDS = 1800.0
"""Real-time statistics begin anew after so long."""

_TWO_PLACES = Decimal("0.01")


@attrs.define
class Counters:
    """Since the broker started."""

    put: int = 0
    """Put requests, refused ones included; on a slave, replicated messages."""
    get: int = 0
    offset: int = 0
    get_miss: int = 0
    put_failed: int = 0
    tx_begin: int = 0
    tx_xa_begin: int = 0
    tx_commit: int = 0
    tx_rollback: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@attrs.define
class TopicTraffic:
    """What went through one topic since the broker started."""

    messages: int = 0
    bytes_in: int = 0
    gets: int = 0
    bytes_out: int = 0


@attrs.define
class RealTimeStatistics:
    """Counts and sums per (key one, key two, key three), for topics that ask for them."""

    _clock: Clock
    _values: dict[tuple[str, str, str], list[float]] = attrs.Factory(dict)
    _started: float = 0.0

    def __attrs_post_init__(self) -> None:
        """Begin a period."""
        self.reset()

    def reset(self) -> None:
        """Forget everything and begin a new period."""
        self._values.clear()
        self._started = self._clock.monotonic_seconds()

    def add(self, key_one: str, key_two: str, key_three: str, count: int, value: float) -> None:
        """Add ``count`` events whose values sum up to ``value``."""
        if self._clock.monotonic_seconds() - self._started > RESET_SECONDS:
            self.reset()
        entry = self._values.setdefault((key_one, key_two, key_three), [0, 0.0])
        entry[0] += count
        entry[1] += value

    def result(self, key_one: str, key_two: str | None = None) -> str:
        """The text of one key: everything below ``key_one``, or below one topic."""
        of_key_one = [(key, entry) for key, entry in self._values.items() if key[0] == key_one]
        if not of_key_one:
            return "null"
        entries = [entry for key, entry in of_key_one if key_two in (None, key[1])]
        if not entries:
            return f"Invalid keyTwo:{key_two}"
        count, value = sum(entry[0] for entry in entries), sum(entry[1] for entry in entries)
        seconds = int(self._clock.monotonic_seconds() - self._started)
        average = _number(value / count) if count else "invalid"
        rate = _number(count / seconds) if seconds else "invalid"
        return (
            f"Count={_number(count)},Value={_number(value)},Value/Count={average},"
            f"Count/Duration={rate},Duration={seconds}"
        )


def _number(value: float) -> str:
    """At most two decimals, no trailing zeros, as Java's ``####.##`` prints."""
    text = str(Decimal(repr(value)).quantize(_TWO_PLACES, ROUND_HALF_EVEN))
    return text.rstrip("0").rstrip(".") if "." in text else text
