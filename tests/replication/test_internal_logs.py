"""A slave's copies of its master's own logs: when they are of no more use, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from metaserver.epochs import EpochChain
from metaserver.names import TRANSACTIONS_LOG
from metaserver.replication.internal_logs import InternalLogs
from metaserver.replication.progress import AskEpochs, BeginAnew, Reconcile, ReplicaProgress, Stop
from metaserver.storage import Point
from tests.storage.faulty_filesystem import Fault, FaultyFileSystem
from tests.transactions.memory_broker import DATA, MemoryBroker, Peer

if TYPE_CHECKING:
    from metaserver.names import TopicPartition

ONE = "1 aa 0\n"


@pytest.mark.parametrize(
    ("is_internal", "own", "masters", "start", "expected"),
    [
        pytest.param(
            True, ONE, ONE + "2 bb 500\n", 500, BeginAnew, id="the old master has dropped all before"
        ),
        pytest.param(True, ONE, ONE + "2 bb 500\n", 700, BeginAnew, id="and more than that"),
        pytest.param(True, ONE, ONE + "2 bb 500\n", 400, Reconcile, id="something is left"),
        pytest.param(True, ONE, "1 cc 0\n", 500, Stop, id="a master that has lost its disk"),
        pytest.param(False, ONE, ONE + "2 bb 500\n", 500, Stop, id="messages are for a human to give up"),
    ],
)
def test_what_has_nothing_in_common(
    is_internal: bool, own: str, masters: str, start: int, expected: type
) -> None:
    progress = ReplicaProgress(
        start, 900, start, 1000, chain=EpochChain.parse(own), knows_epochs=True, is_internal=is_internal
    )
    assert isinstance(progress.master_range(500, 600), AskEpochs)
    assert isinstance(progress.epochs_told(EpochChain.parse(masters)), expected)


@attrs.define(eq=False)
class Place:
    """A broker with a journal of transactions."""

    filesystem: FaultyFileSystem = attrs.Factory(FaultyFileSystem)
    memory: MemoryBroker = attrs.field(init=False)
    forgotten: list[TopicPartition] = attrs.Factory(list)
    logs: InternalLogs = attrs.field(init=False)

    async def begin(self) -> None:
        self.memory = MemoryBroker(self.filesystem)
        await self.memory.broker.transactions.load()
        peer = Peer()
        self.memory.do(peer, "BEGIN", "XID:1:01::q")
        self.memory.put(peer, b"x", 0, "XID:1:01::q")
        assert self.memory.do(peer, "PREPARE", "XID:1:01::q") == (200, "0")
        self.logs = InternalLogs(self.memory.broker, self.filesystem, self.forgotten.append)


async def test_a_copy_is_put_aside_whole() -> None:
    place = Place()
    await place.begin()
    store, end = place.memory.store, place.memory.store.partitions[TRANSACTIONS_LOG].end_offset
    place.logs.begin_anew(TRANSACTIONS_LOG, "a test")
    await place.logs.tend()
    assert place.forgotten == [TRANSACTIONS_LOG]
    assert TRANSACTIONS_LOG not in store.partitions
    kept = DATA / "deleted" / str(TRANSACTIONS_LOG) / f"0-{end}" / f"{0:020d}.meta"
    assert len(place.filesystem.read_bytes(kept)) == end
    # As the slave's next look does, at its master's start.
    broker = place.memory.broker
    log = broker.open_partition(TRANSACTIONS_LOG, broker.config.defaults, 4000).log
    assert (log.start_offset, log.end_offset) == (4000, 4000)


async def test_a_copy_that_cannot_be_put_aside_is_there_to_be_tried_again() -> None:
    place = Place()
    await place.begin()
    place.filesystem.fault = Fault(Point.DELETED_RENAME, 0, "EIO")
    place.logs.begin_anew(TRANSACTIONS_LOG, "a test")
    await place.logs.tend()
    broker = place.memory.broker
    assert place.forgotten == [TRANSACTIONS_LOG]
    log = broker.open_partition(TRANSACTIONS_LOG, broker.config.defaults, 4000).log
    assert log.start_offset == 0
    place.logs.begin_anew(TRANSACTIONS_LOG, "a test")
    await place.logs.tend()
    assert TRANSACTIONS_LOG not in place.memory.store.partitions
    assert place.filesystem.is_directory(DATA / "deleted" / str(TRANSACTIONS_LOG))
