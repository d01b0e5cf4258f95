"""Whether a group's stored offset is of this log, and where it goes on if not; without I/O.

The record that ends at the offset decides: where it has the id that was stored with it, the group has read
this log up to there. Its place in the order of ids proves nothing: a transactional message takes its id when
it is put and its offset when it is committed, maybe in a later epoch, and even as the first of that.

Where that is another record, or none ends there, the offset is of another log. That one parted from this at
the begin of one of its epochs: of the newest that begins before the offset, or of an older one, as far back
as epochs begin with a later id than the group has had. So some messages may come twice, rather than none.

Not found out: an older epoch that was not read either, where it, or one between, begins with an early id; the
end of an epoch inside of which the logs parted, for this master was replaced there, and has never followed
the other; and a message that was committed to both logs at the same offset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.message import HEADER, HEADER_SIZE

if TYPE_CHECKING:
    from metaserver.epochs import EpochChain

_LOOK_BACK_BYTES_MIN = 4 * 1024
_LOOK_BACK_BYTES_MAX = 16 * 1024 * 1024
"""A record that is longer is not found: its group reads the newest epoch again."""
_LOOK_BACK_GROWTH = 16
_ID_POSITION = 8
"""In a record's header, behind length and checksum."""


@attrs.frozen
class Stretch:
    """Of a log."""

    offset: int
    size: int


@attrs.define
class UnreadEpochs:
    """The search. Answer what is :attr:`asked` until that is None; then :attr:`found` is the result."""

    _chain: EpochChain
    _offset: int
    """That was stored."""
    _message_id: int | None
    """Of the last message the group has had; None, and below 0: not known, and nothing is asked."""
    asked: Stretch | None = attrs.field(init=False, default=None)
    found: int | None = attrs.field(init=False, default=None)
    """Where the group has to go on; None: what was stored is right, as far as can be told."""
    _look_back_bytes: int = attrs.field(init=False, default=_LOOK_BACK_BYTES_MIN)
    _tail: bytes | None = attrs.field(init=False, default=b"")
    """What lies before the offset, as far as it was told; None: the epochs' first ids are asked for."""
    _tail_offset: int = attrs.field(init=False, default=0)
    _log_start: int = attrs.field(init=False, default=0)
    """As far as is known; nothing before it can be read."""

    def __attrs_post_init__(self) -> None:
        """Only what begins before the offset could have been read, or passed over."""
        if self._known_id >= 0 and self._chain.begin_before(self._offset) is not None:
            self._look_back()

    @property
    def _known_id(self) -> int:
        return -1 if self._message_id is None else self._message_id

    def answer(self, data: bytes) -> None:
        """What lies there; it may be less than was asked for. Nothing: it cannot be read."""
        if self._tail is None:
            # What cannot be read may have been read.
            message_id = HEADER.unpack(data)[2] if len(data) == HEADER_SIZE else -1
            self._answer_id(message_id)
        elif not data:
            self._ask_ids(self._offset)
        else:
            self._tail += data
            self._look_at_tail()

    def answer_none(self) -> None:
        """The log ends there, or before."""
        if self._tail is None:
            self._answer_id(None)
        else:
            self._go_back()

    def answer_gone(self, goes_on: int) -> None:
        """Nothing of it can be read any more: the log goes on there."""
        if self._tail is None or goes_on >= self._offset:
            self.answer(b"")
        else:
            self._log_start = goes_on
            self._look_back()

    # The record that ends at the offset.

    def _look_back(self) -> None:
        self._tail, self._tail_offset = b"", max(self._log_start, self._offset - self._look_back_bytes)
        self.asked = Stretch(self._tail_offset, self._offset - self._tail_offset)

    def _look_at_tail(self) -> None:
        tail = self._tail or b""
        end = self._tail_offset + len(tail)
        if end < self._offset:
            self.asked = Stretch(end, self._offset - end)
        elif _ends_with_record(tail, self._known_id):
            self.asked = None
        elif self._tail_offset == self._log_start or self._look_back_bytes >= _LOOK_BACK_BYTES_MAX:
            self._go_back()
        else:
            self._look_back_bytes *= _LOOK_BACK_GROWTH
            self._look_back()

    def _go_back(self) -> None:
        """It is another log's: the newest epoch was not read, whatever id it begins with."""
        self.found = self._chain.begin_before(self._offset)
        self._ask_ids(self._offset if self.found is None else self.found)

    # The first ids of epochs.

    def _ask_ids(self, before: int) -> None:
        self._tail = None
        begin = self._chain.begin_before(before)
        self.asked = None if begin is None else Stretch(begin, HEADER_SIZE)

    def _answer_id(self, first_id: int | None) -> None:
        """None: it has none yet."""
        if self.asked is None or (first_id is not None and first_id <= self._known_id):
            self.asked = None
        else:
            self.found = self.asked.offset
            self._ask_ids(self.found)


def _ends_with_record(data: bytes, message_id: int) -> bool:
    """By what its header says; whether it is damaged since makes no difference."""
    wanted = message_id.to_bytes(8, "big", signed=True)
    at_id = data.rfind(wanted)
    while at_id >= 0:
        position = at_id - _ID_POSITION
        if position >= 0 and position + HEADER_SIZE <= len(data):
            length = HEADER.unpack_from(data, position)[0]
            if position + HEADER_SIZE + length == len(data):
                return True
        at_id = data.rfind(wanted, 0, at_id + len(wanted) - 1)
    return False
