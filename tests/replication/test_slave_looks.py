"""When a slave looks for its master and its partitions: the shell alone, with a master of a few words, in no time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from metaserver.config import parse_slave_config
from metaserver.errors import BrokerUnreachableError
from metaserver.node.clock import SystemClock
from metaserver.replication import Slave, slave
from metaserver.timers import Timers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from metaserver.replication.master import Address


@attrs.define(eq=False)
class Place:
    """Where the master is said to be, and who answers where."""

    address: Address | None = None
    problem: str = "nobody knows"
    living: set[Address] = attrs.Factory(set)
    connected: list[Address] = attrs.Factory(list)
    looks: int = 0
    answer_seconds: float = 0.0

    @asynccontextmanager
    async def connect(self, host: str, port: int) -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        if (host, port) not in self.living:
            raise BrokerUnreachableError(f"{host}:{port}", "nobody answers")
        self.connected.append((host, port))
        yield SimpleNamespace(
            address=f"{host}:{port}", version="1.4.6.2", extensions=frozenset(), stats=self._stats
        )

    async def _stats(self, item: str, _timeout_seconds: float) -> str:
        await trio.lowlevel.checkpoint()
        self.looks += item == "offsets"
        await trio.sleep(self.answer_seconds)
        return "STATS\r\nbroker_id 0\r\nconfig_checksum 5\r\nEND\r\n"


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> Place:
    place = Place()
    monkeypatch.setattr(slave, "connect", place.connect)
    return place


@asynccontextmanager
async def running(place: Place, clock: Any = None) -> AsyncIterator[Slave]:  # noqa: ANN401 - a Clock
    config = parse_slave_config("slaveId=0", source="s", base_directory=Path("/"))
    broker: Any = SimpleNamespace(config=SimpleNamespace(broker_id=0), instance="own")
    found = Slave(broker, config, clock or SystemClock(), Timers(), place)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        await trio.testing.wait_all_tasks_blocked()
        yield found
        nursery.cancel_scope.cancel()


async def woken(found: Slave) -> None:
    """Returns before any time has passed."""
    found.wake()
    await trio.testing.wait_all_tasks_blocked()


async def test_it_looks_each_second_and_at_once_when_woken(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    place.address = ("h", 1)
    place.living.add(("h", 1))
    async with running(place) as found:
        assert place.looks == 1
        await trio.sleep(2.5)
        assert place.looks == 3
        await woken(found)
        assert place.looks == 4


async def test_it_goes_where_the_master_is_said_to_be(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    place.living |= {("h", 1), ("h", 2)}
    async with running(place) as found:
        assert found.report().problem == "nobody knows"
        await trio.sleep(100)
        place.address = ("h", 1)
        await woken(found)
        assert place.connected == [("h", 1)]
        place.address = None
        await woken(found)
        assert found.report().is_connected
        # It is elsewhere, while the connection works.
        place.address = ("h", 2)
        await woken(found)
        await trio.sleep(0.1)
        assert place.connected == [("h", 1), ("h", 2)]
        assert found.report().master_address == "h:2"


async def test_what_it_knows_of_the_master_is_as_old_as_the_question(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    place.address = ("h", 1)
    place.living.add(("h", 1))
    place.answer_seconds = 0.5
    began = trio.current_time()
    clock = SimpleNamespace(wall_seconds=lambda: trio.current_time() - began)
    async with running(place, clock) as found:
        await trio.sleep(1.1)
        # Facts until 0.5; ends asked for then, and told at 1.0.
        assert found.report().heard_wall_seconds == 0.5


async def test_it_does_not_wait_long_for_a_master_that_was_not_there(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    place.address = ("h", 1)
    async with running(place) as found:
        await trio.sleep(10)
        assert found.report().problem == "broker h:1 cannot be reached: nobody answers"
        place.living.add(("h", 1))
        await woken(found)
        assert place.connected == [("h", 1)]
