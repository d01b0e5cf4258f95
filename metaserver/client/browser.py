"""Looks through a topic without being part of any group."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metaserver.client.fetching import FetchReport
    from metaserver.client.partition import Partition
    from metaserver.client.received import ReceivedMessage


@attrs.define(eq=False)
class TopicBrowser:
    """Made by :meth:`metaserver.client.Session.browse`; can be iterated over once."""

    _find_partitions: Callable[[], Awaitable[tuple[Partition, ...]]]
    _fetch: Callable[[Partition, int], Awaitable[FetchReport]]
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
            self._partitions = deque(await self._find_partitions())
        while not self._messages:
            if not self._partitions:
                raise StopAsyncIteration
            report = await self._fetch(self._partitions[0], self._offset)
            if report.next_offset == self._offset:
                self._partitions.popleft()
                self._offset = 0
            else:
                self._offset = report.next_offset
                self._messages.extend(report.messages)
        return self._messages.popleft()
