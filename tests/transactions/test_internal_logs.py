"""What a slave drops of its copy of the journal, and when."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from metaserver.names import TRANSACTIONS_LOG
from metaserver.replication.internal_logs import InternalLogs
from metaserver.replication.progress import ReplicaProgress, ReplicaState
from metaserver.replication.replica import Replica
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.transactions.memory_broker import MemoryBroker, Peer


def nothing(*_arguments: Any) -> None:  # noqa: ANN401
    pass


async def copy() -> tuple[MemoryBroker, int]:
    """A journal of two segments, and where the second begins."""
    one, peer = MemoryBroker(FaultyFileSystem()), Peer()
    await one.broker.transactions.load()
    log = None
    for number in range(2):
        key = f"XID:1:0{number}::q"
        one.do(peer, "BEGIN", key)
        one.put(peer, b"hello", 0, key)
        one.do(peer, "PREPARE", key)
        log = one.store.partitions[TRANSACTIONS_LOG]
        if number == 0:
            log.end_segment()
            log.roll()
    assert log is not None
    return one, log.last_segment_start


@pytest.mark.parametrize(
    ("state", "is_dropped"), [(ReplicaState.RECONCILING, False), (ReplicaState.TAILING, True)]
)
async def test_what_the_master_has_dropped_stays_until_this_log_is_known_to_be_the_same(
    state: ReplicaState, is_dropped: bool
) -> None:
    one, second = await copy()
    log = one.store.partitions[TRANSACTIONS_LOG]
    replica = Replica(
        TRANSACTIONS_LOG, ReplicaProgress(0, log.end_offset, second, 0, state=state, is_internal=True)
    )
    logs = InternalLogs(one.broker, one.filesystem, nothing)
    logs.look(replica, second, log.end_offset)
    await logs.tend()
    assert log.start_offset == (second if is_dropped else 0)


async def test_what_an_earlier_master_has_dropped_stays() -> None:
    one, second = await copy()
    log = one.store.partitions[TRANSACTIONS_LOG]
    progress = ReplicaProgress(0, log.end_offset, second, 0, state=ReplicaState.TAILING, is_internal=True)
    logs = InternalLogs(one.broker, one.filesystem, nothing)
    look = partial(logs.look, Replica(TRANSACTIONS_LOG, progress))
    look(second, log.end_offset + 1)  # It is not all here.
    await logs.tend()
    progress.disconnected()
    look(0, log.end_offset)
    progress.state = ReplicaState.TAILING
    one.do(Peer(), "ROLLBACK", "XID:1:01::q")
    await logs.tend()
    assert log.start_offset == 0
