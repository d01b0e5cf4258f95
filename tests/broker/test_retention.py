"""When old segments are looked for; what is deleted is the store's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from metaserver.broker import Partition, Retention, retention
from metaserver.names import PartitionId, Topic, TopicPartition
from tests.broker.test_internal import partition

if TYPE_CHECKING:
    import pytest


async def test_a_look_that_fails_is_made_up_for(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look reads a module from the disk, and there may be no descriptor left for that."""
    found = partition(TopicPartition(Topic("a"), PartitionId(0)))
    broker: Any = SimpleNamespace(partitions={("a", 0): found})
    looks: list[float] = []
    cleaned: list[float] = []

    def next_fire(_expression: str, after_seconds: float, **_: object) -> float | None:
        looks.append(after_seconds)
        if len(looks) == 1:
            raise OSError(24, "Too many open files")
        return (after_seconds // 20 + 1) * 20

    async def clean(_: Retention, partitions: list[Partition]) -> None:
        assert partitions == [found]
        cleaned.append(trio.current_time())

    monkeypatch.setattr(retention, "next_fire", next_fire)
    monkeypatch.setattr(Retention, "clean", clean)
    clock: Any = SimpleNamespace(wall_seconds=autojump_clock.current_time)
    nursery.start_soon(Retention(broker, clock, lambda _: 0.0).run)
    began = trio.current_time()
    await trio.sleep(95)
    assert [at - began for at in cleaned] == [60, 90]
    # What was missed was looked at by the second look.
    assert looks[0] == looks[1] < looks[2]
