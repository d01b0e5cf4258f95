"""Whose bytes a log holds, as a reader needs to know it: where a replica's log parts from what was read.

After a master is lost, or has lost its tail, the log of its successor may hold other messages at offsets
that were read before. Epochs tell (the extension ``epochs``): each start as master begins one, and two logs
are one up to where the last epoch that both have ends first in either of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.frozen
class Epoch:
    """One master's time at one log."""

    number: int
    origin: str
    """Random: two masters that begin the same number are told apart."""
    start_offset: int


@attrs.frozen
class History:
    """The epochs of a log, in order. What lies before the first is nobody's, and the same everywhere."""

    epochs: tuple[Epoch, ...] = ()

    @classmethod
    def parse(cls, text: str) -> History:
        """The answer to ``epochs``: lines of NUMBER ORIGIN OFFSET. Raises ValueError."""
        epochs = []
        for line in text.splitlines():
            number, origin, start_offset = line.split(" ")
            epochs.append(Epoch(int(number), origin, int(start_offset)))
        return cls(tuple(epochs))

    @property
    def number(self) -> int:
        """Of the last epoch; 0 where there is none."""
        return self.epochs[-1].number if self.epochs else 0

    def begin_before(self, position: int) -> int | None:
        """Where the last epoch begins that begins before a position, and follows another; None: none does."""
        begins = [epoch.start_offset for epoch in self.epochs[1:] if epoch.start_offset < position]
        return begins[-1] if begins else None

    def common_end(self, other: History, position: int) -> int:
        """Up to where, at most ``position``, a log of this history and one of the other hold the same."""
        ends = {(epoch.number, epoch.origin): end for epoch, end in other._with_ends(position)}
        found = min(position, self._first_start(position), other._first_start(position))
        for epoch, end in self._with_ends(position):
            end_of_other = ends.get((epoch.number, epoch.origin))
            if end_of_other is not None:
                found = min(end, end_of_other)
        return found

    def _first_start(self, position: int) -> int:
        return self.epochs[0].start_offset if self.epochs else position

    def _with_ends(self, position: int) -> Iterator[tuple[Epoch, int]]:
        for index, epoch in enumerate(self.epochs):
            is_last = index + 1 == len(self.epochs)
            end = position if is_last else self.epochs[index + 1].start_offset
            yield epoch, min(end, position)
