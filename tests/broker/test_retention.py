"""When old segments are looked for; what is deleted is the store's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from metaserver.broker import Partition, Retention, retention
from metaserver.names import PartitionId, Topic, TopicPartition
from tests.broker.test_internal import partition

_DAY_SECONDS = 86_400.0


@attrs.define(eq=False)
class Looks:
    """A retention that deletes nothing, whose topic names every twentieth second."""

    wall_ahead_seconds: float = 1e9
    """Of the steady clock."""
    failures: int = 0
    """So many of the next looks fail."""
    began: float = attrs.field(factory=trio.current_time)
    asked_after: list[float] = attrs.Factory(list)
    cleaned: list[float] = attrs.Factory(list)
    """Seconds behind the beginning."""

    def next_fire(self, _expression: str, after_seconds: float, **_: object) -> float | None:
        self.asked_after.append(after_seconds)
        if self.failures:
            self.failures -= 1
            raise OSError(24, "Too many open files")
        return (after_seconds // 20 + 1) * 20

    async def clean(self, _: Retention, partitions: list[Partition]) -> None:
        assert len(partitions) == 1
        self.cleaned.append(trio.current_time() - self.began)


@pytest.fixture
def looks(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> Looks:
    found = Looks()
    broker: Any = SimpleNamespace(
        partitions={("a", 0): partition(TopicPartition(Topic("a"), PartitionId(0)))}
    )
    clock: Any = SimpleNamespace(
        wall_seconds=lambda: autojump_clock.current_time() + found.wall_ahead_seconds,
        monotonic_seconds=autojump_clock.current_time,
    )

    async def clean(self: Retention, partitions: list[Partition]) -> None:
        await found.clean(self, partitions)

    monkeypatch.setattr(retention, "next_fire", found.next_fire)
    monkeypatch.setattr(Retention, "clean", clean)
    nursery.start_soon(Retention(broker, clock, lambda _: 0.0).run)
    return found


async def test_a_look_that_fails_is_made_up_for(looks: Looks, autojump_clock: object) -> None:
    """The first look reads a module from the disk, and there may be no descriptor left for that."""
    looks.failures = 1
    await trio.sleep(95)
    assert looks.cleaned == [60, 90]
    # What was missed was looked at by the second look.
    first, second, third = looks.asked_after
    assert first == second < third


async def test_nothing_is_deleted_while_a_clock_that_was_set_may_be_wrong(
    looks: Looks, autojump_clock: object
) -> None:
    await trio.sleep(65)
    assert looks.cleaned == [30, 60]
    looks.wall_ahead_seconds += 8 * _DAY_SECONDS
    await trio.sleep(1800)
    looks.wall_ahead_seconds -= 8 * _DAY_SECONDS
    await trio.sleep(3600)
    assert looks.cleaned == [30, 60]
    # It has not jumped for an hour: what was due meanwhile is due now, once.
    await trio.sleep(60)
    assert looks.cleaned == [30, 60, 5490, 5520]


async def test_a_clock_that_is_corrected_by_little_has_not_jumped(
    looks: Looks, autojump_clock: object
) -> None:
    await trio.sleep(5)  # Never at the instant of a look.
    for seconds in (100.0, -299.0, 299.0):
        looks.wall_ahead_seconds += seconds
        await trio.sleep(30)
    # What was set back does not come again, and nothing waits for an hour.
    assert looks.cleaned == [30, 90]
