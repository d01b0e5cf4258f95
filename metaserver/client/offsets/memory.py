"""Offsets that last as long as the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaserver.client.partition import Partition
    from metaserver.registry.paths import StoredOffset


@attrs.define(eq=False)
class MemoryOffsets:
    """Keeps offsets in memory: for tests, and for groups that begin anew with each process.

    Its calls neither wait nor fail, so a cancellation finds nothing half done.
    """

    _groups: dict[str, dict[Partition, StoredOffset]] = attrs.field(factory=dict, init=False)

    async def load(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, StoredOffset]:
        """Where the group stands; partitions it never committed are missing."""
        stored = self._groups.get(group, {})
        return {partition: stored[partition] for partition in partitions if partition in stored}

    async def store(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        """Commit, all at once."""
        self._groups.setdefault(group, {}).update(offsets)

    async def aclose(self) -> None:
        """Nothing to do: what was stored stays."""
