"""Offsets in the registry, in MetaQ's nodes and format: what Java members of the group read and write.

A write is conditional: a node that somebody else has written since it was read or written here is left as it
is, and OffsetConflictError says so. So a member that was taken for dead cannot move a group's offset back.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import attrs

from metaserver.errors import (
    DiscoveryError,
    OffsetConflictError,
    OffsetStorageError,
    OffsetUnreadableError,
    ZooKeeperError,
)
from metaserver.registry.paths import StoredOffset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from metaserver.client.discovery import Discovery
    from metaserver.client.partition import Partition


@attrs.define
class _Known:
    """What is known of one node."""

    version: int | None
    """None: there is none."""
    attempts: set[bytes] = attrs.Factory(set)
    """What was written without an answer: found there, it is our own."""


@attrs.define(eq=False)
class RegistryOffsets:
    """An OffsetStorage; the default of a consumer."""

    _discovery: Discovery
    _known: dict[tuple[str, Partition], _Known] = attrs.Factory(dict)
    _turn: anyio.Lock = attrs.Factory(anyio.Lock)
    """What is known of a node holds from one call to the next only where calls do not overlap."""

    async def load(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, StoredOffset]:
        """See OffsetStorage. A node that holds no offset raises OffsetUnreadableError: nobody guesses."""
        async with self._turn:
            return await self._load(group, partitions)

    async def _load(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, StoredOffset]:
        paths = {self._path(group, partition): partition for partition in partitions}
        with self._errors_named():
            read = await self._discovery.connected().read(paths)
        found: dict[Partition, StoredOffset] = {}
        damaged: dict[Partition, str] = {}
        for path, partition in paths.items():
            node = read[path]
            self._known[group, partition] = _Known(None if node is None else node.version)
            if node is None or not node.data:
                continue
            stored = StoredOffset.parse(node.data)
            if stored is None:
                damaged[partition] = f"node {path} holds {node.data[:100]!r}"
            else:
                found[partition] = stored
        if damaged:
            raise OffsetUnreadableError(
                self._discovery.servers.connect,
                f"{', '.join(damaged.values())}: no MSGID-OFFSET; repair it",
                tuple(damaged),
            )
        return found

    async def store(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        """See OffsetStorage; each partition by itself. OffsetConflictError comes after writing the others."""
        async with self._turn:
            await self._store(group, offsets)

    async def _store(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        conflicts = await self._write(group, offsets)
        if conflicts:
            # Perhaps an earlier write of ours whose answer was lost.
            ours = await self._recognise(group, conflicts)
            again = {partition: offsets[partition] for partition in ours}
            conflicts = [p for p in conflicts if p not in again]
            if again:
                conflicts += await self._write(group, again)
        if conflicts:
            raise OffsetConflictError(
                self._discovery.servers.connect,
                f"somebody else has written the offsets of group {group} in "
                + ", ".join(str(partition) for partition in conflicts),
                tuple(conflicts),
            )

    async def aclose(self) -> None:
        """Nothing is held: the session is the client's."""

    async def _write(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> list[Partition]:
        """Returns what was not written, because the node is not as it was."""
        writes: dict[str, tuple[bytes, int | None]] = {}
        for partition, stored in offsets.items():
            data = stored.encode()
            known = self._known.setdefault((group, partition), _Known(-1))
            known.attempts.add(data)
            writes[self._path(group, partition)] = (data, known.version)
        with self._errors_named():
            versions = await self._discovery.connected().write(writes)
        conflicts = []
        for partition, version in zip(offsets, versions.values(), strict=True):
            if version is None:
                conflicts.append(partition)
            else:
                self._known[group, partition] = _Known(version)
        return conflicts

    async def _recognise(self, group: str, partitions: Sequence[Partition]) -> list[Partition]:
        """Those whose node holds what was written here, and what is known of them put right."""
        paths = {self._path(group, partition): partition for partition in partitions}
        with self._errors_named():
            read = await self._discovery.connected().read(paths)
        ours = []
        for path, partition in paths.items():
            node, known = read[path], self._known[group, partition]
            if node is None or node.data in known.attempts:
                known.version = None if node is None else node.version
                ours.append(partition)
        return ours

    def _path(self, group: str, partition: Partition) -> str:
        return self._discovery.layout.offset(group, partition.topic, partition.in_topic)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (ZooKeeperError, DiscoveryError) as error:
            raise OffsetStorageError(self._discovery.servers.connect, str(error)) from error
