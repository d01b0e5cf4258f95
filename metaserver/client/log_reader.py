"""What can be asked about a partition's log, over a connection or in the broker's own process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from metaserver.client.messages import Fetched, Moved, NothingThere


class LogReader(Protocol):
    """The reading half of a ``BrokerConnection``; all of it raises ClientError."""

    async def get(
        self, topic: str, partition: int, offset: int, *, size_max: int = ..., wait_ms: int = ...
    ) -> Fetched | Moved | NothingThere:
        """Log bytes from an offset on."""
        ...

    async def offset(self, topic: str, partition: int, offset: int) -> int:
        """The valid offset nearest to this one: 0 gives the first of all."""
        ...

    async def end_offset(self, topic: str, partition: int) -> int:
        """The offset behind the last message that can be read."""
        ...
