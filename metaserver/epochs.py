"""Whose bytes a log holds, without I/O: each start as master begins an epoch, which its replicas keep.

**The invariant:** bytes from an offset on were written by the master of the last epoch that begins there or
before. So two logs are equal up to the offset where the last epoch that both have ends first in one of them,
and differ behind it: :func:`common_end`. What was written before there were epochs is the epoch 0 of nobody.

A log's own lie in a file (:mod:`metaserver.storage.epochs`); slaves and consumers ask for them (the extension
``epochs``, docs/protocol.md).
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Epoch:
    """One master's time at one log."""

    number: int
    """Grows by one from master to master."""
    origin: int
    """Random, 64 bits; 0 in the epoch before all others."""
    start_offset: int
    """Of the first byte it may have written."""

    def __str__(self) -> str:
        """As in the file and on the wire."""
        return f"{self.number} {self.origin:016x} {self.start_offset}"


@attrs.frozen
class EpochChain:
    """The epochs of one log, in order."""

    epochs: tuple[Epoch, ...] = ()

    def __attrs_post_init__(self) -> None:
        """Numbers grow, offsets do not step back; raises ValueError otherwise."""
        for before, after in zip(self.epochs, self.epochs[1:], strict=False):
            if after.number <= before.number or after.start_offset < before.start_offset:
                raise ValueError(f"epoch {after} cannot follow epoch {before}")

    @property
    def number(self) -> int:
        """Of the last epoch; 0 where there is none."""
        return self.epochs[-1].number if self.epochs else 0

    def begin(self, origin: int, end_offset: int) -> EpochChain:
        """A master begins to write at ``end_offset``. An epoch that wrote nothing is replaced."""
        return EpochChain((*self.until(end_offset).epochs, Epoch(self.number + 1, origin, end_offset)))

    def until(self, end_offset: int) -> EpochChain:
        """Without the epochs that have written nothing before ``end_offset``."""
        return EpochChain(tuple(epoch for epoch in self.epochs if epoch.start_offset < end_offset))

    def begin_before(self, offset: int) -> int | None:
        """Where the last epoch begins that begins before an offset, and follows another; None: none does."""
        begins = [epoch.start_offset for epoch in self.epochs[1:] if epoch.start_offset < offset]
        return begins[-1] if begins else None

    def whole(self, log_start: int) -> tuple[Epoch, ...]:
        """With the epoch of nobody in front, where the log begins before the first one."""
        if self.epochs and self.epochs[0].start_offset <= log_start:
            return self.epochs
        return (Epoch(0, 0, 0), *self.epochs)

    @classmethod
    def parse(cls, text: str) -> EpochChain:
        """Lines of NUMBER ORIGIN OFFSET; raises ValueError."""
        epochs = []
        for line in text.splitlines():
            number, origin, start_offset = line.split(" ")
            epochs.append(Epoch(int(number), int(origin, 16), int(start_offset)))
        return cls(tuple(epochs))

    def __str__(self) -> str:
        """What :meth:`parse` reads."""
        return "".join(f"{epoch}\n" for epoch in self.epochs)


@attrs.frozen
class LogHistory:
    """What two replicas tell each other of a log."""

    chain: EpochChain
    start_offset: int
    end_offset: int


def common_end(one: LogHistory, other: LogHistory) -> int | None:
    """The offset up to which both logs hold the same bytes; None where they have no epoch in common."""
    mine, theirs = one.chain.whole(one.start_offset), other.chain.whole(other.start_offset)
    found: int | None = None
    ends_of_theirs = {
        (epoch.number, epoch.origin): end for epoch, end in _with_ends(theirs, other.end_offset)
    }
    for epoch, end in _with_ends(mine, one.end_offset):
        end_of_theirs = ends_of_theirs.get((epoch.number, epoch.origin))
        if end_of_theirs is not None:
            found = min(end, end_of_theirs)
    return found


def _with_ends(epochs: tuple[Epoch, ...], log_end: int) -> list[tuple[Epoch, int]]:
    ends = [epoch.start_offset for epoch in epochs[1:]] + [log_end]
    return [(epoch, min(end, log_end)) for epoch, end in zip(epochs, ends, strict=True)]
