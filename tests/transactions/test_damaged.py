"""A disk that damages what a commit wrote, before a start that is to find it: it is there once, and whole."""

from __future__ import annotations

import pytest

from metaserver.message import iterate_records
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.transactions.memory_broker import DATA, TOPIC, MemoryBroker, Peer

KEY = "TX:s:1"
SEGMENT = DATA / f"{TOPIC}-1" / "00000000000000000000.meta"
BODIES = [b"one", b"two" * 100, b"three"]


async def committed(*, is_synced: bool) -> FaultyFileSystem:
    """A commit between other messages that the journal holds still; the process has ended behind it."""
    filesystem = FaultyFileSystem()
    one = MemoryBroker(filesystem)
    await one.broker.transactions.load()
    peer = Peer()
    one.put(peer, b"before", 1)
    one.do(peer, "BEGIN", KEY)
    for body in BODIES:
        one.put(peer, body, 1, KEY)
    assert one.do(peer, "COMMIT_ONE_PHASE", KEY) == (200, "")
    one.put(peer, b"behind", 1)
    if is_synced:
        # A checkpoint behind it: the start does not read there.
        log = one.broker.partitions[TOPIC, 1].log
        log.flush()
        log.write_checkpoint(clean=False)
    filesystem.restart()
    return filesystem


@pytest.mark.parametrize("is_synced", [False, True], ids=["found by recovery", "behind a checkpoint"])
@pytest.mark.parametrize("part", ["length", "checksum", "data"])
@pytest.mark.parametrize("damaged", [(1,), (2,), (3,), (1, 3), (1, 2, 3)])
async def test_a_message_of_a_commit_that_is_damaged_is_repaired(
    damaged: tuple[int, ...], part: str, *, is_synced: bool
) -> None:
    filesystem = await committed(is_synced=is_synced)
    before = filesystem.read_bytes(SEGMENT)
    for number in damaged:
        record = next(record for record in iterate_records(before) if record.data == BODIES[number - 1])
        filesystem.flip(SEGMENT, record.position + {"length": 2, "checksum": 5, "data": 20}[part])
    one = MemoryBroker(filesystem)
    await one.broker.transactions.load()
    assert one.bodies(1) == [b"before", *BODIES, b"behind"]
    assert filesystem.read_bytes(SEGMENT) == before
    assert not one.broker.partitions[TOPIC, 1].log.unreadable
