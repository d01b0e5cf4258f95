"""A slave that catches up under a limit, over brokers in memory and in virtual time."""

from __future__ import annotations

import zlib
from collections import defaultdict
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
import trio

from metaserver.config import SlaveConfig
from metaserver.epochs import EpochChain
from metaserver.errors import StorageError
from metaserver.names import Compression, PartitionId, Topic, TopicPartition
from metaserver.replication import FixedPlace, MasterFacts, ReplicaState, Slave, SlaveReport
from metaserver.replication import slave as slave_module
from metaserver.replication.catch_up import CatchUp
from metaserver.replication.progress import CHECKED_BYTES, FETCH_BYTES
from metaserver.timers import Timers
from tests.client import fake_brokers
from tests.client.fake_brokers import LATENCY_SECONDS, FakeBroker, FakeLink, FakeLog
from tests.support import record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from metaserver.client import BrokerConnection
    from metaserver.message import Buffer
    from metaserver.node.clock import SystemClock

A, B = (TopicPartition(Topic("t"), PartitionId(number)) for number in (0, 1))
MIB = 1024 * 1024
RECORD = record(b"x" * 1004, 7)
RATE = 2 * MIB


class Clock:
    def wall_seconds(self) -> float:
        return trio.current_time()

    def monotonic_seconds(self) -> float:
        return trio.current_time()


@attrs.define(eq=False)
class LocalLog:
    data: bytearray = attrs.Factory(bytearray)
    start_offset: int = 0
    last_segment_start: int = 0

    @property
    def end_offset(self) -> int:
        return len(self.data)

    @property
    def layout(self) -> SimpleNamespace:
        return SimpleNamespace(starts=(self.start_offset,), last_run_start=self.start_offset)

    @property
    def unreadable(self) -> tuple[()]:
        return ()

    def read(self, offset: int, size: int, _end: int) -> SimpleNamespace:
        if offset < self.start_offset:
            raise StorageError("deleted")
        data = bytes(self.data[offset : offset + size])
        return SimpleNamespace(size=len(data), read=lambda: data, release=lambda: None)


@attrs.define(eq=False)
class LocalBroker:
    """What a slave needs of its broker; what it appends is on disk at once."""

    instance = "own"
    logs: dict[TopicPartition, LocalLog] = attrs.Factory(dict)
    config: Any = attrs.Factory(
        lambda: SimpleNamespace(
            broker_id=0, topic_config=lambda _topic: None, defaults=None, max_segment_size_bytes=1024 * MIB
        )
    )

    @property
    def store(self) -> SimpleNamespace:
        return SimpleNamespace(
            partitions=self.logs, epochs=defaultdict(lambda: SimpleNamespace(chain=EpochChain()))
        )

    def open_partition(self, name: TopicPartition, _config: object, _start: int) -> SimpleNamespace:
        return SimpleNamespace(log=self.logs.setdefault(name, LocalLog()))

    def append_replica(
        self,
        name: TopicPartition,
        offset: int,
        records: Buffer,
        count: int,
        last_id: int,
        done: Callable[[int], None],
        *,
        begins_segment: bool,
    ) -> None:
        log = self.logs[name]
        assert offset == len(log.data)
        log.data += records
        done(offset)


@attrs.define(eq=False)
class Stage:
    """A master with these logs, and its slave."""

    master: FakeBroker
    local: LocalBroker
    slave: Slave
    began: float
    used: list[tuple[float, int]] = attrs.Factory(list)
    """When the master had been asked to give how many bytes."""

    @property
    def passed(self) -> float:
        return trio.current_time() - self.began

    def report(self) -> SlaveReport:
        return self.slave.report()

    async def wait_until(self, condition: Callable[[], bool]) -> float:
        """Virtual seconds since the start."""
        with trio.fail_after(3600):
            while not condition():
                await trio.sleep(LATENCY_SECONDS)
        return self.passed

    def has_copied(self, name: TopicPartition) -> bool:
        local, log = self.local.logs.get(name), self.master.logs[name]
        return local is not None and local.end_offset == log.end and local.data == log.data

    def has_all(self) -> bool:
        return all(map(self.has_copied, self.master.logs))


@pytest.fixture
def stage_at(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stage]:
    def start(
        rate: int, sizes: dict[TopicPartition, int], compression: Compression = Compression.OFF
    ) -> Stage:
        timers = Timers()
        logs = {name: FakeLog(RECORD * (size // len(RECORD))) for name, size in sizes.items()}
        master = FakeBroker(logs, timers=timers)

        async def facts(*_arguments: object) -> MasterFacts:
            return MasterFacts(broker_id=0, config_checksum=None, is_java=False)

        @asynccontextmanager
        async def connect(_host: str, _port: int) -> AsyncIterator[BrokerConnection]:
            async with master.connect() as link:
                yield link

        monkeypatch.setattr(slave_module, "connect", connect)
        for name in ("meet", "ask_facts"):
            monkeypatch.setattr(slave_module, name, facts)
        config = SlaveConfig(
            path=Path("x"),
            slave_id=0,
            slave_group="g",
            slave_max_bytes_per_second=rate,
            link_compression=compression,
        )
        local = LocalBroker()
        slave = Slave(
            cast("Any", local), config, cast("SystemClock", Clock()), timers, FixedPlace(("fake", 1))
        )
        stage = Stage(master, local, slave, trio.current_time())

        def note(broker: FakeBroker) -> None:
            stage.used.append((stage.passed, broker.read_bytes))

        master.on_request = note
        nursery.start_soon(timers.run)
        nursery.start_soon(slave.run)
        return stage

    return start


async def test_without_a_limit_the_network_is_the_limit(
    stage_at: Callable[..., Stage], autojump_clock: MockClock
) -> None:
    stage = stage_at(0, {A: 40 * MIB})
    pieces = 40 * MIB // FETCH_BYTES
    took = await stage.wait_until(stage.has_all)
    assert took < 2 * pieces * LATENCY_SECONDS + 1
    assert stage.report().catch_up.limit_bytes_per_second == 0


async def test_a_long_way_does_not_cost_a_round_trip_for_each_piece(
    stage_at: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    latency_seconds = 0.2
    monkeypatch.setattr(fake_brokers, "LATENCY_SECONDS", latency_seconds)
    stage = stage_at(0, {A: 100 * MIB, B: 100 * MIB})
    stage.master.logs[A].segment_starts = list(range(0, 100 * MIB, 7 * len(RECORD) * 1000))
    pieces = 200 * MIB // FETCH_BYTES
    took = await stage.wait_until(stage.has_all)
    assert took < pieces * latency_seconds / 4


async def test_the_limit_holds_over_all_partitions_at_every_moment(
    stage_at: Callable[..., Stage], autojump_clock: MockClock
) -> None:
    size = 20 * MIB
    stage = stage_at(RATE, {A: size, B: size})
    took = await stage.wait_until(stage.has_all)
    assert took == pytest.approx((2 * size - RATE) / RATE, abs=1.0), "no slower than it may be"
    assert all(read <= RATE * (1 + at) + 1 for at, read in stage.used)


async def test_nothing_is_lost_of_the_limit_when_the_connection_breaks(
    stage_at: Callable[..., Stage], autojump_clock: MockClock
) -> None:
    names = [TopicPartition(Topic("t"), PartitionId(number)) for number in range(12)]
    total = len(names) * 4 * MIB
    stage = stage_at(RATE, dict.fromkeys(names, 4 * MIB))
    for _ in range(7):
        await trio.sleep(2)
        assert stage.master.latest is not None
        stage.master.latest.break_now()
    took = await stage.wait_until(stage.has_all)
    assert stage.master.connections == 8
    # What was on its way comes again, and the end of each log is compared again.
    again = 8 * (FETCH_BYTES + len(names) * CHECKED_BYTES)
    assert took == pytest.approx((total - RATE) / RATE, abs=1.0 + again / RATE)
    assert all(read <= RATE * (1 + at) + again for at, read in stage.used)


async def test_what_the_slave_has_deleted_is_not_compared(
    stage_at: Callable[..., Stage], autojump_clock: MockClock
) -> None:
    stage = stage_at(0, {A: MIB})
    await stage.wait_until(stage.has_all)
    # By its own retention, all but the last records.
    start = stage.local.logs[A].start_offset = len(stage.local.logs[A].data) - 3 * len(RECORD)
    assert start > len(stage.local.logs[A].data) - CHECKED_BYTES
    assert stage.master.latest is not None
    stage.master.latest.break_now()
    stage.master.logs[A].data += RECORD
    await stage.wait_until(stage.has_all)
    (replica,) = stage.report().partitions
    assert (replica.state, replica.local_start) == (ReplicaState.CAUGHT_UP, start)


async def test_only_what_came_counts(stage_at: Callable[..., Stage], autojump_clock: MockClock) -> None:
    stage = stage_at(RATE, {A: 10 * MIB})
    stage.master.logs[A].answer_bytes_max = FETCH_BYTES // 4
    assert await stage.wait_until(stage.has_all) == pytest.approx(8 * MIB / RATE, abs=1.0)


async def test_a_fetch_that_has_lost_its_turn_leaves_it_to_the_others() -> None:
    catch_up = CatchUp(100)
    catch_up.reserve(100, 1000, 0.0)
    lost = catch_up.reserve(500, 1000, 0.0)
    assert lost.wait_seconds == 5.0
    catch_up.used(lost, 0)
    catch_up.used(lost, 0)
    assert catch_up.reserve(100, 1000, 0.0).wait_seconds == 1.0


async def test_after_an_interruption_nobody_queues_up_behind_itself() -> None:
    catch_up = CatchUp(100)
    waiting = [catch_up.reserve(100, 1000, 0.0) for _ in range(50)]
    assert waiting[-1].wait_seconds == 49.0
    catch_up.interrupted()
    assert [catch_up.reserve(100, 1000, 0.0).wait_seconds for _ in range(2)] == [0.0, 1.0]
    for reservation in waiting:
        catch_up.used(reservation, 0)
    assert catch_up.reserve(100, 1000, 0.0).wait_seconds == 2.0


async def test_what_is_new_does_not_wait_for_what_is_old(
    stage_at: Callable[..., Stage], autojump_clock: MockClock
) -> None:
    stage = stage_at(RATE, {A: 100 * MIB, B: len(RECORD)})
    await stage.wait_until(lambda: stage.has_copied(B) and stage.passed > 10)
    for _ in range(20):
        stage.master.logs[B].data += RECORD
        sent = stage.passed
        assert await stage.wait_until(lambda: stage.has_copied(B)) - sent <= 5 * LATENCY_SECONDS
        await trio.sleep(0.33)
    assert not stage.has_copied(A)


async def test_it_tells_how_long_the_rest_takes(
    stage_at: Callable[..., Stage], autojump_clock: MockClock
) -> None:
    size = 60 * MIB
    stage = stage_at(RATE, {A: size})
    assert stage.report().catch_up.pace.estimated_seconds == 0
    await stage.wait_until(lambda: stage.passed >= 15)
    catch_up = stage.report().catch_up
    assert catch_up.limit_bytes_per_second == RATE
    assert catch_up.left_bytes == size // len(RECORD) * len(RECORD) - catch_up.copied_bytes
    assert catch_up.pace.bytes_per_second == pytest.approx(RATE, rel=0.15)
    assert catch_up.pace.estimated_seconds == pytest.approx(catch_up.left_bytes / RATE, rel=0.15)

    estimated = stage.passed + (catch_up.pace.estimated_seconds or 0)
    assert await stage.wait_until(stage.has_all) == pytest.approx(estimated, rel=0.1)
    assert stage.report().catch_up.pace.estimated_seconds == 0
    assert stage.report().partitions[0].state is ReplicaState.CAUGHT_UP


async def test_a_broken_connection_leaves_no_estimate(
    stage_at: Callable[..., Stage], autojump_clock: MockClock
) -> None:
    stage = stage_at(RATE, {A: 60 * MIB})
    await stage.wait_until(lambda: stage.passed >= 15)
    stage.master.is_away = True
    assert stage.master.latest is not None
    stage.master.latest.break_now()
    await stage.wait_until(lambda: not stage.report().is_connected)
    catch_up = stage.report().catch_up
    assert catch_up.left_bytes > 0
    assert (catch_up.pace.bytes_per_second, catch_up.pace.estimated_seconds) == (0, None)


@pytest.mark.parametrize("wanted", list(Compression))
@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("is_known", [True, False])
async def test_what_is_compressed_and_when(
    *,
    wanted: Compression,
    is_local: bool,
    is_known: bool,
    stage_at: Callable[..., Stage],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    """The link of the stage is long."""
    monkeypatch.setattr(fake_brokers, "LATENCY_SECONDS", 0.1)
    monkeypatch.setattr(FakeLink, "is_local", is_local)
    if is_known:
        monkeypatch.setattr(FakeBroker, "extensions", frozenset({"long-poll", "zlib"}))
    stage = stage_at(0, {A: 40 * MIB, B: 10}, wanted)
    await stage.wait_until(stage.has_all)
    link = stage.report().link
    assert link is not None
    is_wanted = wanted is Compression.ON or (wanted is Compression.AUTO and not is_local)
    assert link.is_compressed == (is_known and is_wanted)
    assert (link.carried_bytes < link.received_bytes / 2) == link.is_compressed
    assert link.received_bytes >= 40 * MIB // len(RECORD) * len(RECORD)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: b"no zlib" + data, lambda _: zlib.compress(b"")]
)
async def test_what_is_not_compressed_as_it_should_be_ends_the_connection(
    damage: Callable[[bytes], bytes],
    stage_at: Callable[..., Stage],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    monkeypatch.setattr(FakeBroker, "extensions", frozenset({"zlib"}))
    monkeypatch.setattr(fake_brokers, "compress", lambda data: damage(zlib.compress(data)))
    stage = stage_at(0, {A: MIB}, Compression.ON)
    await stage.wait_until(lambda: stage.master.connections > 2)
    assert len(stage.local.logs[A].data) == 0
    monkeypatch.setattr(fake_brokers, "compress", zlib.compress)
    await stage.wait_until(stage.has_all)
