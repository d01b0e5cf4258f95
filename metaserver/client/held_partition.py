"""A partition that a consumer owns: what of it was handed out, dealt with and stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs

from metaserver.registry.paths import StoredOffset

if TYPE_CHECKING:
    from metaserver.client.partition import Partition
    from metaserver.client.reader import PartitionReader
    from metaserver.client.received import ReceivedMessage


@attrs.define(eq=False)
class HeldPartition:
    """A partition this consumer owns now."""

    reader: PartitionReader
    done: StoredOffset | None = None
    """Behind the last message dealt with."""
    committed: StoredOffset | None = None
    """What the storage holds."""
    lost_offset: int | None = None
    """What was dealt with from there on is gone, and the storage does not say so yet."""
    handed_out: ReceivedMessage | None = None
    """The application is busy with it."""
    last_handed_out: ReceivedMessage | None = None
    first_offset: int | None = None
    """Of the first message that was handed out."""
    revoked: anyio.Event = attrs.Factory(anyio.Event)
    """Set when it is about to be another's."""
    is_ready: bool = False
    """Whether it stands in the line of those with messages."""
    idle: anyio.Event = attrs.Factory(anyio.Event)
    """Set when the application is done with ``handed_out``."""

    @property
    def is_revoked(self) -> bool:
        """Whether nothing more of it is handed out."""
        return self.revoked.is_set()

    @property
    def is_open(self) -> bool:
        """Whether something was handed out that does not count as dealt with."""
        last = self.last_handed_out
        return last is not None and (self.done is None or self.done.offset < last.next_offset)

    @property
    def partition(self) -> Partition:
        """Which one."""
        return self.reader.partition

    @property
    def position(self) -> int:
        """Of the next message to be dealt with."""
        known = self.done or self.committed
        if known is not None:
            return known.offset
        if self.first_offset is None and self.reader.messages:
            return self.reader.messages[0].offset
        return self.reader.position if self.first_offset is None else self.first_offset

    def take(self) -> ReceivedMessage:
        """The next message; there must be one."""
        message = self.reader.take()
        if self.first_offset is None:
            self.first_offset = message.offset
        if self.done is not None and message.offset < self.done.offset:
            # The broker has sent the reader back, for its log lost its end: what was dealt with is less now.
            self.done = StoredOffset(message.offset, -1)
        return message

    def lost(self, offset: int) -> None:
        """What lay there and behind it is gone; the application may be busy with some of it."""
        known = self.done or self.committed
        if known is not None and known.offset > offset:
            self.done = StoredOffset(offset, -1)
            self.lost_offset = offset
        last = self.last_handed_out
        if last is not None and last.next_offset > offset:
            # It will count for nothing: whatever lies at its place now is another message.
            self.last_handed_out = None
        if self.first_offset is not None and self.first_offset > offset:
            self.first_offset = offset

    def stored(self, at: StoredOffset, lost_offset: int | None) -> None:
        """The storage holds it, as it was when that was known to be lost."""
        self.committed = at
        if self.lost_offset == lost_offset:
            self.lost_offset = None

    def is_beyond_loss(self, at: StoredOffset) -> bool:
        """Whether who stored it has not known of the loss: what lies between is new, and unread."""
        return self.lost_offset is not None and at.offset > self.lost_offset

    def store_again(self) -> None:
        """Somebody may have set back what the storage holds, and nothing need come that would be stored."""
        self.done, self.committed = self.done or self.committed, None

    def finish(self, message: ReceivedMessage, *, is_done: bool) -> None:
        """The application is through with the message; done, it counts as dealt with.

        Not one that was handed out before a seek: it would take back where the seek has gone.
        """
        if self.handed_out is message:
            self.handed_out = None
            self.idle.set()
        last = self.last_handed_out
        if last is None or message.offset > last.offset:
            return
        if is_done and (self.done is None or message.next_offset > self.done.offset):
            self.done = _behind(message, self.reader.behind(message.next_offset))


def _behind(message: ReceivedMessage, offset: int) -> StoredOffset:
    """Where what follows the message was left out, the last one there has another id, which is not known."""
    return StoredOffset(offset, message.message_id if offset == message.next_offset else -1)


@attrs.frozen
class Lag:
    """How far a group is behind in one partition."""

    partition: Partition
    position: int
    """Of the next message to be dealt with."""
    end_offset: int | None
    """Where the log ended at the last look; None: not seen yet."""

    @property
    def bytes(self) -> int:
        """Between the two."""
        return 0 if self.end_offset is None else max(0, self.end_offset - self.position)
