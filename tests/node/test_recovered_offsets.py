"""Where the messages that a group has had lie in the log of a pair's other half, whose offsets are others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.message import encode_record
from metaserver.node.recovered_offsets import recovered_offset
from metaserver.registry.paths import StoredOffset
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import DIRECTORY, NAME, append, open_store, segment_path

if TYPE_CHECKING:
    from metaserver.storage import PartitionLog

SIZE = 50
IDS = [-500, -400, -300, *range(10, 600, 10)]
"""As of MetaQ first, which counts from before its own beginning."""


def filled() -> tuple[FaultyFileSystem, PartitionLog]:
    """Sixty-two records of fifty bytes, in segments of a thousand."""
    filesystem = FaultyFileSystem()
    log = open_store(filesystem, filesystem.clock).create(NAME, DIRECTORY.parent)
    for message_id in IDS:
        append(log, encode_record(b"x" * (SIZE - 20), message_id))
        if log.needs_roll:
            log.roll()
    log.flush()
    return filesystem, log


def broker(log: PartitionLog) -> Any:  # noqa: ANN401
    partition = SimpleNamespace(log=log, name=NAME)
    return SimpleNamespace(partitions={("t", 0): partition})


@pytest.mark.parametrize(
    ("message_id", "records"),
    [
        pytest.param(590, 62, id="the last"),
        pytest.param(10, 4, id="the first after MetaQ's"),
        pytest.param(-400, 2, id="one of MetaQ's"),
        pytest.param(205, 23, id="one that is missing here: behind the last before it"),
        pytest.param(10_000, 62, id="later than all"),
        pytest.param(-600, None, id="earlier than all"),
        pytest.param(-1, None, id="unknown"),
        pytest.param(None, None, id="in the old form"),
    ],
)
async def test_behind_the_message(message_id: int | None, records: int | None) -> None:
    _, log = filled()
    found = await recovered_offset(broker(log), "t", 0, StoredOffset(7777, message_id))
    assert found == (None if records is None else StoredOffset(records * SIZE, message_id))


async def test_what_is_right_is_left_alone() -> None:
    _, log = filled()
    for number, message_id in enumerate(IDS):
        stored = StoredOffset((number + 1) * SIZE, message_id)
        if message_id != -1:
            assert await recovered_offset(broker(log), "t", 0, stored) is None
    assert await recovered_offset(broker(log), "t", 1, StoredOffset(5, 10)) is None


async def test_a_log_that_cannot_be_read_moves_nobody() -> None:
    filesystem, log = filled()
    filesystem.flip(segment_path(log.last_segment_start), 30)
    assert await recovered_offset(broker(log), "t", 0, StoredOffset(7777, 590)) is None
