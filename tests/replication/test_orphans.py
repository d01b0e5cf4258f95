"""A slave puts aside what its master has deleted, while the master may make it anew at any moment."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from metaserver.broker import removal
from metaserver.config import parse_slave_config
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.node import topics
from metaserver.node.clock import SystemClock
from metaserver.node.topics import TopicChanges
from metaserver.replication import Slave
from metaserver.storage.deleted import put_aside
from metaserver.timers import Timers
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.transactions.memory_broker import TOPIC, MemoryBroker, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from metaserver.broker import Broker, Partition

FIRST, SECOND = (TopicPartition(Topic(TOPIC), PartitionId(number)) for number in (0, 1))


class Place:
    """A slave that has heard that its master has nothing, and two partitions of its own."""

    def __init__(self) -> None:
        self.filesystem = FaultyFileSystem()
        self.memory = MemoryBroker(self.filesystem)
        for number in (0, 1):
            self.memory.put(Peer(), b"x", number)
        self.memory.broker.master_address = "m:1"
        config = parse_slave_config("slaveId=0", source="s", base_directory=Path("/"))
        nowhere: Any = SimpleNamespace(address=None, problem="")
        self.slave = Slave(self.memory.broker, config, SystemClock(), Timers(), nowhere)
        self.hear()
        nobody: Any = None
        self.changes = TopicChanges(self.memory.broker, nobody, False, self.slave.is_orphan, self.filesystem)

    def hear(self, *names: TopicPartition) -> None:
        """Of what the master has."""
        self.slave._at_master = frozenset(names)
        for name in names:
            self.slave._open(name, 0)

    async def delete(self) -> list[dict[str, Any]]:
        done = await self.changes.delete({"topic": TOPIC, "executes": True})
        return list(done["partitions"])


async def test_a_partition_that_comes_again_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    place, remove = Place(), removal.remove_partition

    async def remove_and_hear(broker: Broker, partition: Partition, filesystem: FaultyFileSystem) -> Path:
        path = await remove(broker, partition, filesystem)
        place.hear(SECOND)
        return path

    monkeypatch.setattr(topics, "remove_partition", remove_and_hear)
    first, second = await place.delete()
    assert ("kept" in first, "stays" in second["problem"]) == (True, True)
    assert [report.name for report in place.slave.report().partitions] == [SECOND]


async def test_nothing_is_opened_that_is_being_put_aside() -> None:
    place = Place()
    submit = place.memory.machine.submit

    def hear_first(job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        if isinstance(job, partial) and job.func is put_aside and job.args[1] == FIRST:
            place.hear(FIRST)
        submit(job, done)

    place.memory.machine.submit = hear_first  # type: ignore[method-assign]
    first, _ = await place.delete()
    assert "kept" in first
    assert place.slave.report().partitions == ()
    # With the next look it is there anew, and what is kept is not touched.
    place.memory.machine.submit = submit  # type: ignore[method-assign]
    place.hear(FIRST)
    log = place.memory.store.partitions[FIRST]
    assert (log.start_offset, log.end_offset) == (0, 0)
    assert place.filesystem.is_directory(Path(first["kept"]))
