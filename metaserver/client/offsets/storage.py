"""What a consumer asks of the place where a group's offsets are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaserver.client.partition import Partition
    from metaserver.registry.paths import StoredOffset


class OffsetStorage(Protocol):
    """Keeps how far groups have come; docs/offset-storages.md says how to write one.

    One storage may be used by many tasks at once, for any groups, until it is closed.
    """

    async def load(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, StoredOffset]:
        """Where the group stands; partitions it never committed are missing.

        Raises OffsetStorageError. A cancellation leaves the storage as it was.
        """
        ...

    async def store(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        """Commit: durable when it returns, all or none where the storage can.

        Offsets of other groups and of partitions that are not named stay as they are. A message id of None
        may come back as -1: both say that none is known.

        Raises OffsetStorageError. After an error, and after a cancellation, each offset is the old or the new
        one; storing again is always right.
        """
        ...

    async def aclose(self) -> None:
        """Release what the storage holds; nothing may be asked of it afterwards. Twice does no harm."""
        ...
