"""Offsets of groups, judged by a new master whose log has an epoch that nothing was written in yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from metaserver.epochs import EpochChain
from metaserver.errors import OffsetOutOfRangeError
from metaserver.message import HEADER_SIZE, encode_record, iterate_records
from metaserver.node.lost_offsets import lost_offset
from metaserver.registry.paths import StoredOffset
from metaserver.storage import read_runs
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import DIRECTORY, NAME, append, open_store
from tests.transactions.memory_broker import MemoryBroker, Peer

LOG = b"".join(encode_record(b"%d" % number, 10 * (1 + number)) for number in range(10))
SIZE = len(LOG) // 10
"""Of a record; their ids are 10, 20, and so on."""


class FakeLog:
    def read(self, offset: int, size: int, end: int) -> Any:  # noqa: ANN401
        if not 0 <= offset < end:
            raise OffsetOutOfRangeError(offset, 0, end)
        return SimpleNamespace(read=lambda: LOG[offset : offset + size], release=lambda: None)


def broker(*begins: int) -> Any:  # noqa: ANN401
    chain = EpochChain.parse("".join(f"{1 + i} aa {begin * SIZE}\n" for i, begin in enumerate(begins)))
    partition = SimpleNamespace(name="t-0", log=FakeLog(), readable_offset=len(LOG))
    store = SimpleNamespace(epochs={"t-0": SimpleNamespace(chain=chain)})
    return SimpleNamespace(partitions={("t", 0): partition}, store=store)


@pytest.mark.parametrize(
    ("begins", "offset", "message_id", "expected"),
    [
        pytest.param((0, 10), 10, 100, None, id="right, at the end"),
        pytest.param((0, 10), 12, 105, 10, id="beyond the end"),
        pytest.param((0, 4, 10), 8, 35, 4, id="of a log that parted before"),
        pytest.param((0, 4, 10), 12, 35, 4, id="the same, beyond the end"),
        pytest.param((0, 4, 10), 12, 95, 10, id="beyond the end, and had all before"),
        pytest.param((0, 4, 10), 12, -1, 10, id="beyond the end, and nobody knows the id"),
        pytest.param((0, 4, 10), 8, -1, None, id="nobody knows the id"),
        pytest.param((0,), 12, 105, 0, id="beyond the end of a log that began anew"),
    ],
)
def test_where_a_group_has_to_go_on(
    begins: tuple[int, ...], offset: int, message_id: int, expected: int | None
) -> None:
    found = lost_offset(broker(*begins), "t", 0, StoredOffset(offset * SIZE, message_id))
    assert found == (None if expected is None else expected * SIZE)


async def test_a_group_that_has_read_what_was_committed_after_a_restart_stays_where_it_is() -> None:
    filesystem, prepared, committer = FaultyFileSystem(), "XID:1:01::q", Peer()
    before = MemoryBroker(filesystem)
    await before.broker.transactions.load()
    before.put(Peer(), b"first", 0)
    before.do(committer, "BEGIN", prepared)
    before.put(committer, b"prepared", 0, prepared)
    assert before.do(committer, "PREPARE", prepared) == (200, "0")
    before.store.close()

    after = MemoryBroker(filesystem)
    await after.broker.transactions.load()
    for _ in range(3):
        after.put(Peer(), b"after", 0)
    assert after.do(Peer(), "COMMIT_TWO_PHASE", prepared) == (200, "")
    log = after.broker.partitions["orders", 0].log
    records = [record for _, run in read_runs(log, 0) for record in iterate_records(run)]
    assert records[-1].data == b"prepared"
    assert records[-1].message_id < records[-2].message_id
    stored = StoredOffset(log.end_offset, records[-1].message_id)
    assert lost_offset(after.broker, "orders", 0, stored) is None
    begin = after.store.epochs[after.broker.partitions["orders", 0].name].chain.begin_before(log.end_offset)
    unknown = StoredOffset(log.end_offset, records[-1].message_id + 1)
    assert lost_offset(after.broker, "orders", 0, unknown) == begin == len(records[0].data) + HEADER_SIZE


def test_a_master_that_began_with_a_late_commit_hides_nothing_behind_it() -> None:
    """The group had 250, of a master that was one no more."""
    filesystem = FaultyFileSystem()
    log = open_store(filesystem, filesystem.clock).create(NAME, DIRECTORY.parent)
    records = [encode_record(b"x" * 30, message_id) for message_id in (10, 20, 100, 300, 310, 320)]
    for record in records:
        append(log, record)
    log.flush()
    chain = EpochChain.parse("1 aa 0\n2 bb 100\n")
    partition = SimpleNamespace(name="t-0", log=log, readable_offset=log.end_offset)
    store = SimpleNamespace(epochs={"t-0": SimpleNamespace(chain=chain)})
    whole: Any = SimpleNamespace(partitions={("t", 0): partition}, store=store)
    assert lost_offset(whole, "t", 0, StoredOffset(200, 250)) == 100
    assert lost_offset(whole, "t", 0, StoredOffset(200, 300)) is None


def test_a_partition_that_is_not_there_is_not_judged() -> None:
    assert lost_offset(broker(0), "t", 1, StoredOffset(100, 5)) is None
