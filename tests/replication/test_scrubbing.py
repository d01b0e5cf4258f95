"""The background reader, beside what happens to partitions meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import attrs
import pytest
import trio

from metaserver.broker.removal import remove_partition
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.replication.repairing import Repairer, RunningLogs
from metaserver.replication.scrubbing import Scrub
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.transactions.memory_broker import TOPIC, MemoryBroker, Peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metaserver.replication.repairing import Address

_Result = TypeVar("_Result")
FIRST, SECOND = (TopicPartition(Topic(TOPIC), PartitionId(number)) for number in (0, 1))


@attrs.frozen
class WatchedLogs(RunningLogs):
    """Reads at once, and lets something happen before it."""

    happening: Callable[[], Awaitable[None]] = attrs.field(kw_only=True)

    async def look(self, job: Callable[[], _Result]) -> _Result:
        """See RunningLogs."""
        await trio.lowlevel.checkpoint()
        await self.happening()
        return job()


async def nobody() -> list[Address]:
    return []


@pytest.mark.parametrize("deleted", [FIRST, SECOND])
async def test_a_partition_that_is_deleted_during_a_pass(deleted: TopicPartition) -> None:
    filesystem = FaultyFileSystem()
    memory = MemoryBroker(filesystem)
    for number in (0, 1):
        memory.put(Peer(), b"x", number)

    async def delete() -> None:
        partition = memory.broker.partitions.get((deleted.topic, deleted.partition))
        if partition is not None:
            await remove_partition(memory.broker, partition, filesystem)

    logs = WatchedLogs(memory.broker, happening=delete)
    scrub = Scrub(memory.broker, logs, Repairer(logs, filesystem, nobody))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrub.run)
        with trio.fail_after(10):
            while not scrub.passes:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert scrub.problem == ""
    assert logs.names() == [one for one in (FIRST, SECOND) if one != deleted]
