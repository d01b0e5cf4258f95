"""Where the messages that a group has had lie in the log of a pair's other half, whose offsets are others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.errors import StorageError
from metaserver.message import encode_record
from metaserver.node.recovered_offsets import recovered_offset
from metaserver.registry.paths import StoredOffset
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import DIRECTORY, NAME, append, open_store, segment_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.storage import PartitionLog

SIZE = 50
END = 62 * SIZE
IDS = [-500, -400, -300, *range(10, 600, 10)]
"""As of MetaQ first, which counts from before its own beginning."""


def filled(ids: Sequence[int] = IDS) -> tuple[FaultyFileSystem, PartitionLog]:
    """Sixty-two records of fifty bytes, in segments of a thousand."""
    filesystem = FaultyFileSystem()
    log = open_store(filesystem, filesystem.clock).create(NAME, DIRECTORY.parent)
    for message_id in ids:
        append(log, encode_record(b"x" * (SIZE - 20), message_id))
        if log.needs_roll:
            log.roll()
    log.flush()
    return filesystem, log


class AtOnce:
    """An executor."""

    def submit(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        try:
            result = job()
        except StorageError as error:
            done(None, error)
        else:
            done(result, None)


def broker(log: PartitionLog) -> Any:  # noqa: ANN401
    partition = SimpleNamespace(log=log, name=NAME)
    return SimpleNamespace(partitions={("t", 0): partition}, executor=AtOnce())


@pytest.mark.parametrize(
    ("message_id", "records"),
    [
        pytest.param(580, 61, id="the last but one"),
        pytest.param(10, 4, id="the first after MetaQ's"),
        pytest.param(-400, 2, id="one of MetaQ's"),
        pytest.param(205, 23, id="one that is missing here: behind the last before it"),
        pytest.param(10_000, None, id="later than all, at the end"),
        pytest.param(-600, None, id="earlier than all"),
        pytest.param(-1, None, id="unknown"),
        pytest.param(None, None, id="in the old form"),
    ],
)
async def test_behind_the_message(message_id: int | None, records: int | None) -> None:
    _, log = filled()
    found = await recovered_offset(broker(log), "t", 0, StoredOffset(END, message_id))
    assert found == (None if records is None else StoredOffset(records * SIZE, message_id))


async def test_ids_need_not_go_up() -> None:
    """Two hosts that count from their boot, one after the other."""
    _, log = filled([*range(100, 2100, 100), *range(-900, -300, 10)])
    assert await recovered_offset(broker(log), "t", 0, StoredOffset(20 * SIZE, 2000)) is None
    assert await recovered_offset(broker(log), "t", 0, StoredOffset(7, 2000)) == StoredOffset(20 * SIZE, 2000)
    # Nobody is sent forward by a message that is missing here.
    assert await recovered_offset(broker(log), "t", 0, StoredOffset(5 * SIZE, 2050)) is None


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
