"""The broker of this process, asked as a client asks over a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from metaserver.client.connection import batch_result, expect_text, fetch_result
from metaserver.names import MAX_OFFSET
from metaserver.protocol import Get, OffsetQuery, PutBatch, Stats

if TYPE_CHECKING:
    from metaserver.client.messages import Batch, BatchResult, Fetched, Moved, NothingThere
    from metaserver.http.source import BrokerDoor

STEP_BYTES: Final = 128 * 1024
"""Read at once: records of so many bytes are decoded on the loop, and puts wait meanwhile (a millisecond)."""
GROUP: Final = "http"
"""Whose gets they are in the statistics."""


@attrs.frozen
class LocalBroker:
    """A LogReader that also puts. Raises ReplyError where the broker refuses."""

    _door: BrokerDoor

    async def get(
        self, topic: str, partition: int, offset: int, *, size_max: int = STEP_BYTES, wait_ms: int = 0
    ) -> Fetched | Moved | NothingThere:
        """See LogReader."""
        reply = await self._door.ask(Get(topic, GROUP, partition, offset, size_max, 0, wait_ms))
        return fetch_result(reply, topic, partition, offset)

    async def offset(self, topic: str, partition: int, offset: int) -> int:
        """See LogReader."""
        return int(expect_text(await self._door.ask(OffsetQuery(topic, GROUP, partition, offset, 0))))

    async def end_offset(self, topic: str, partition: int) -> int:
        """See LogReader."""
        return await self.offset(topic, partition, MAX_OFFSET)

    async def put_batch(self, topic: str, partition: int, batch: Batch) -> BatchResult:
        """All of it, or nothing."""
        return batch_result(await self._door.ask(PutBatch(topic, partition, batch.encode(), 0)))

    async def stats(self, item: str = "") -> str:
        """A statistics report."""
        return expect_text(await self._door.ask(Stats(item, 0)))
