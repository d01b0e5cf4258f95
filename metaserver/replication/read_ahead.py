"""The gets of one partition that are under way, and what came of them, in the order of the log. Pure.

One get at a time would bring no more than its size in each round trip. What the master is known to hold is
therefore asked for in pieces, several at a time; their answers may come in any order, and short, where a
segment ends or the master gives no more at once. What is missing then is asked for again, and nothing twice.

An answer never crosses the end of a segment, and neither does a record. So what is given out is the rest of
the last answer, a part of a record, with one more answer behind it: that lies in one segment as well.
"""

from __future__ import annotations

import attrs

from metaserver.message import HEADER, HEADER_SIZE


@attrs.frozen(eq=False)
class Get:
    """One request."""

    offset: int
    size_max: int
    is_known: bool
    """Whether the master holds bytes there; else it is asked to wait until it does."""


@attrs.define(eq=False)
class ReadAhead:
    """From one offset on, while everything is read in order."""

    position: int
    """Of the next byte to be given out."""
    size_max: int
    """So many bytes are given out also where they are no whole record."""
    ticket: int
    """Of its partition when it began; it is void with any other."""
    _held: bytes = b""
    """From ``position`` on: given out before, and no whole record."""
    _answers: dict[int, bytes] = attrs.Factory(dict)
    """By offset: they came, and were not given out yet."""
    _gets: dict[int, Get] = attrs.Factory(dict)
    """By offset: under way."""
    _is_alone: bool = False
    """A get ahead was refused: only the next bytes are asked for, until they come."""

    @property
    def next_offset(self) -> int:
        """Of the first byte that has not come, or was not joined to those before it."""
        return self.position + len(self._held)

    def want(self, offset: int, size_max: int) -> bool:
        """Go on at an offset; False where it is not one of the bytes given out last, or their end."""
        skipped = offset - self.position
        if not 0 <= skipped <= len(self._held):
            return False
        self._held, self.position, self.size_max = self._held[skipped:], offset, size_max
        return True

    def plan(self, known_end: int, piece_bytes: int, room_bytes: int) -> list[Get]:
        """What to ask for now, of what the master is known to hold; at its end one get, which waits.

        The room is for all but a get that waits. Each get counts as under way until :meth:`arrived` or
        :meth:`refused`.
        """
        if self.next_offset >= known_end:
            return [] if self._gets or self._answers else [self._begin(self.next_offset, piece_bytes, 0)]
        planned: list[Get] = []
        at = self.next_offset
        while at < known_end and room_bytes > 0:
            if at in self._gets:
                at += self._gets[at].size_max
            elif at in self._answers:
                at += len(self._answers[at])
            else:
                following = [start for start in (*self._gets, *self._answers) if start > at]
                size = min(piece_bytes, min(following, default=at + piece_bytes) - at)
                planned.append(self._begin(at, size, known_end))
                room_bytes -= size
                at += size
            if self._is_alone:
                break
        return planned

    def _begin(self, offset: int, size_max: int, known_end: int) -> Get:
        get = self._gets[offset] = Get(offset, size_max, offset < known_end)
        return get

    def arrived(self, get: Get, data: bytes) -> None:
        """An answer with bytes."""
        del self._gets[get.offset]
        self._answers[get.offset] = data
        if get.offset == self.next_offset:
            self._is_alone = False

    def refused(self, get: Get) -> bool:
        """An answer without bytes; whether they are the next ones, so that it matters."""
        del self._gets[get.offset]
        self._is_alone = True
        return get.offset == self.next_offset

    def take(self, known_end: int) -> bytes | None:
        """The bytes from ``position`` on, with one more answer than the last time; None: it has not come.

        They begin with a whole record, or are as many as are to be had or were wanted.
        """
        while (answer := self._answers.pop(self.next_offset, None)) is not None:
            self._held = self._held + answer if self._held else answer
            if self._is_enough(known_end):
                return self._held
        return None

    def _is_enough(self, known_end: int) -> bool:
        held = self._held
        if len(held) >= self.size_max or self.next_offset >= known_end:
            return True
        return len(held) >= HEADER_SIZE and len(held) >= HEADER_SIZE + max(0, HEADER.unpack_from(held)[0])
