"""The master's own logs at a slave: the registry's, and the journal of transactions.

Their master writes again what is still wanted and drops the rest, whenever it likes. So its log is whole from
wherever it begins: what it has dropped goes here too, and a copy that has nothing in common with it any more
is put aside, as after a change of masters, behind which both have dropped what they had in common.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.broker.removal import remove_partition
from metaserver.errors import StorageError
from metaserver.logs import get_logger
from metaserver.names import INTERNAL_TOPICS

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker import Broker
    from metaserver.names import TopicPartition
    from metaserver.replication.replica import Replica
    from metaserver.storage import FileSystem

_log = get_logger(__name__)


@attrs.frozen
class _Trim:
    """What the master holds of a log, at one moment."""

    replica: Replica
    start: int
    end: int


@attrs.define(eq=False)
class InternalLogs:
    """Those of one slave; :meth:`tend` does what has become due."""

    _broker: Broker
    _filesystem: FileSystem
    _forget: Callable[[TopicPartition], None]
    """Have nothing under way for a partition, and find it anew with the next look at the master."""
    _trims: dict[TopicPartition, _Trim] = attrs.Factory(dict)
    """What the master has dropped, and is to be dropped here."""
    _outdated: dict[TopicPartition, str] = attrs.Factory(dict)
    """Copies that have nothing in common with the master's log, and why that is known."""

    def look(self, replica: Replica, master_start: int, master_end: int) -> None:
        """The master holds this range of a partition.

        What it has dropped matters once this log goes on where the master's does: until then the two may have
        parted, and what a master before this one has dropped may be all that this one has.
        """
        is_longer = master_start > replica.progress.local_start
        if replica.name.topic not in INTERNAL_TOPICS or not is_longer or not replica.progress.is_copying:
            self._trims.pop(replica.name, None)
        elif replica.name not in self._trims:
            self._trims[replica.name] = _Trim(replica, master_start, master_end)

    def begin_anew(self, name: TopicPartition, reason: str) -> None:
        """Its copy is of no more use."""
        self._outdated[name] = reason

    async def tend(self) -> None:
        """Drop what is due. A copy that cannot be put aside is compared again, and tried again."""
        await self._trim()
        while self._outdated:
            name, reason = self._outdated.popitem()
            self._forget(name)
            partition = self._broker.partitions[name.topic, name.partition]
            try:
                path = await remove_partition(self._broker, partition, self._filesystem)
            except StorageError as error:
                _log.error("An outdated copy stays where it is", partition=str(name), reason=str(error))
                continue
            finally:
                # They have been told another history.
                self._broker.acknowledgements.disconnect_slaves()
            _log.error("A copy begins anew", partition=str(name), reason=reason, kept=str(path))

    async def _trim(self) -> None:
        """Once what replaces it is on disk."""
        for name, trim in list(self._trims.items()):
            partition = self._broker.partitions.get((name.topic, name.partition))
            if partition is None or name in self._outdated:
                del self._trims[name]
                continue
            if partition.log.flushed_offset < trim.end or not trim.replica.progress.is_copying:
                continue
            del self._trims[name]
            drop = partial(partition.log.delete_before, trim.start)
            try:
                # Whoever compares the log next must know where it begins.
                with trio.CancelScope(shield=True):
                    await self._broker.committer.borrow(partition, drop)
            except StorageError as error:
                _log.warning("Old segments stay", partition=str(name), reason=str(error))
