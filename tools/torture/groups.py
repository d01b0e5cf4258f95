"""A group's offsets, watched: whatever happens, they never go back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tools.torture.verifier import BrokenPromiseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaserver.client import OffsetStorage, Partition
    from metaserver.registry.paths import StoredOffset


@attrs.define(eq=False)
class WatchedOffsets:
    """An OffsetStorage over another, for the consumers of one group, one after the other."""

    _inner: OffsetStorage
    highest: dict[Partition, int] = attrs.Factory(dict)
    """What was stored, and said to be."""
    stores: int = 0

    async def load(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, StoredOffset]:
        """See OffsetStorage; raises BrokenPromiseError where one is lower than it was."""
        found = await self._inner.load(group, partitions)
        for partition in partitions:
            before, now = self.highest.get(partition, 0), found.get(partition)
            if before and (now is None or now.offset < before):
                raise BrokenPromiseError([f"{group}: {partition} was at {before} and is at {now}"])
        return found

    async def store(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        """See OffsetStorage; the same for what a consumer wants to store."""
        for partition, stored in offsets.items():
            before = self.highest.get(partition, 0)
            if stored.offset < before:
                text = f"{group}: {partition} was at {before}, and a consumer stores {stored.offset}"
                raise BrokenPromiseError([text])
        await self._inner.store(group, offsets)
        self.stores += 1
        for partition, stored in offsets.items():
            self.highest[partition] = stored.offset

    async def aclose(self) -> None:
        """See OffsetStorage."""
        await self._inner.aclose()
