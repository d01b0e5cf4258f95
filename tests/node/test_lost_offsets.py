"""Offsets of groups, judged by a new master whose log has an epoch that nothing was written in yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from metaserver.epochs import EpochChain
from metaserver.errors import OffsetOutOfRangeError
from metaserver.message import encode_record
from metaserver.node.lost_offsets import lost_offset
from metaserver.registry.paths import StoredOffset

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


def test_a_partition_that_is_not_there_is_not_judged() -> None:
    assert lost_offset(broker(0), "t", 1, StoredOffset(100, 5)) is None
