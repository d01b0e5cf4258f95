"""Keeps the order of effects: nothing leaves before the transactions in front of it are durable.

One append is under way at a time. What gathers meanwhile is the next one: with many clients a single
sync serves all of them, and a failed append is never followed by one that succeeds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from metaserver.registry.embedded.registry import Append, Close, Compact, Send

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metaserver.registry.embedded.registry import Effect

_BATCH_RECORDS_MAX = 1000


@attrs.frozen
class Batch:
    """What is to be appended next."""

    records: Sequence[bytes]
    is_snapshot: bool
    step: int
    """Hand it back when the records are durable."""


@attrs.define(eq=False)
class Delivery:
    """Effects in; batches for the log, and effects that may happen now, out."""

    _held: deque[tuple[int, Send | Close]] = attrs.Factory(deque)
    """With the step that must be durable before."""
    _waiting: deque[tuple[int, bytes | Sequence[bytes]]] = attrs.Factory(deque)
    """Records, and snapshots, not yet given to the log."""
    _steps: int = 0
    """Records and snapshots so far."""
    _durable_steps: int = 0
    _is_appending: bool = False

    @property
    def held_count(self) -> int:
        """How many effects wait for the log."""
        return len(self._held)

    @property
    def is_idle(self) -> bool:
        """Whether everything has happened."""
        return not self._held and not self._waiting and not self._is_appending

    def add(self, effects: Iterable[Effect]) -> None:
        """Take effects in their order."""
        for effect in effects:
            if isinstance(effect, Append):
                self._steps += 1
                self._waiting.append((self._steps, effect.record))
            elif isinstance(effect, Compact):
                self._steps += 1
                self._waiting.append((self._steps, effect.records))
            else:
                self._held.append((self._steps, effect))

    def released(self) -> list[Send | Close]:
        """What may happen now, in order."""
        held, durable = self._held, self._durable_steps
        effects = []
        while held and held[0][0] <= durable:
            effects.append(held.popleft()[1])
        return effects

    def next_batch(self) -> Batch | None:
        """What to append now; None while an append is under way, or nothing is to be appended."""
        waiting = self._waiting
        if self._is_appending or not waiting:
            return None
        self._is_appending = True
        step, first = waiting.popleft()
        if not isinstance(first, bytes):
            return Batch(first, is_snapshot=True, step=step)
        records = [first]
        while waiting and len(records) < _BATCH_RECORDS_MAX:
            following = waiting[0][1]
            if not isinstance(following, bytes):
                break
            records.append(following)
            step = waiting.popleft()[0]
        return Batch(records, is_snapshot=False, step=step)

    def durable(self, batch: Batch) -> None:
        """The batch is in the log."""
        self._is_appending = False
        self._durable_steps = batch.step
