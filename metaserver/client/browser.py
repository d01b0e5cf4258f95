"""Looks through a topic without being part of any group."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

import attrs

if TYPE_CHECKING:
    from metaserver.client.partition import Partition
    from metaserver.client.received import ReceivedMessage
    from metaserver.client.session import Session


@attrs.define(eq=False)
class TopicBrowser:
    """Made by :meth:`metaserver.client.Session.browse`; can be iterated over once."""

    _session: Session
    _topic: str
    _partitions: deque[Partition] | None = None
    """Not looked through yet; None before the first look."""
    _offset: int = 0
    _messages: deque[ReceivedMessage] = attrs.Factory(deque)

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> ReceivedMessage:
        """The next message; raises ClientError. Cancelled, nothing is passed over."""
        if self._partitions is None:
            self._partitions = deque(await self._session.partitions(self._topic))
        while not self._messages:
            if not self._partitions:
                raise StopAsyncIteration
            report = await self._session.fetch(self._partitions[0], self._offset)
            if report.next_offset == self._offset:
                self._partitions.popleft()
                self._offset = 0
            else:
                self._offset = report.next_offset
                self._messages.extend(report.messages)
        return self._messages.popleft()
