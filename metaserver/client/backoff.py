"""Pauses between attempts: each longer than the one before, none quite as expected."""

from __future__ import annotations

import random

import attrs

_JITTER = 0.5


@attrs.define
class Backoff:
    """Doubling pauses, shortened by chance: clients that failed together do not come back together."""

    seconds_min: float
    seconds_max: float
    _random: random.Random = attrs.Factory(random.Random)
    _seconds: float = attrs.field(init=False, default=0.0)

    def next_seconds(self) -> float:
        """The pause before the next attempt."""
        self._seconds = min(max(2 * self._seconds, self.seconds_min), self.seconds_max)
        return self._seconds * (1 - _JITTER * self._random.random())

    def reset(self) -> None:
        """An attempt has succeeded: the next failure is a first one."""
        self._seconds = 0.0
