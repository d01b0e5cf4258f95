"""Group commit on a disk that fails, with worker and kernel moved by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from metaserver.broker import Committer, DiskGuard, Partition
from metaserver.broker.partition import PendingAppend, WaitingGet
from metaserver.config import TopicConfig
from metaserver.errors import DiskFullError, DivergedLogError, LogFailedError, StorageError, UnclearWriteError
from metaserver.message import encode_record
from metaserver.storage import Point
from metaserver.timers import Timers
from tests.storage.faulty_filesystem import Fault, FaultyFileSystem
from tests.storage.support import DATA, NAME, open_store, options

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from metaserver.storage import File


@attrs.define
class HandExecutor:
    """Runs a job when the test says so."""

    waiting: list[tuple[Callable[[], Any], Callable[[Any, Exception | None], None]]] = attrs.Factory(list)

    def submit(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        self.waiting.append((job, done))

    def step(self) -> None:
        job, done = self.waiting.pop(0)
        try:
            result = job()
        except Exception as error:  # noqa: BLE001 - as the real executor
            done(None, error)
        else:
            done(result, None)


@attrs.define
class HandSyncer:
    """Syncs when the test says so."""

    waiting: list[tuple[File, Callable[[OSError | None], None]]] = attrs.Factory(list)

    def sync(self, file: File, done: Callable[[OSError | None], None]) -> None:
        self.waiting.append((file, done))

    def close(self) -> None:
        pass

    def step(self) -> None:
        file, done = self.waiting.pop(0)
        try:
            file.sync(Point.APPEND_SYNC)
        except OSError as error:
            done(error)
        else:
            done(None)


@attrs.define
class Bench:
    """One partition and everything it stands on."""

    filesystem: FaultyFileSystem
    committer: Committer
    partition: Partition
    executor: HandExecutor
    syncer: HandSyncer
    disk: DiskGuard
    outcomes: list[tuple[str, int | StorageError]] = attrs.Factory(list)
    flushes: list[str] = attrs.Factory(list)
    behind: dict[str, tuple[str, int]] = attrs.Factory(dict)
    """What is put at which offset as soon as somebody is told of a success."""

    def _stored(self, name: str, offset: int) -> None:
        self.outcomes.append((name, offset))
        if name in self.behind:
            following, at = self.behind.pop(name)
            self.put(following, offset=at)

    def put(self, name: str, *records: bytes, offset: int | None = None) -> None:
        records = records or (encode_record(name.encode(), 1),)
        self.committer.append(
            self.partition,
            PendingAppend(
                records,
                sum(map(len, records)),
                len(records),
                1,
                lambda at: self._stored(name, at),
                lambda error: self.outcomes.append((name, error)),
                _Flush(self, name),
                offset,
            ),
        )

    def finish(self) -> None:
        while self.executor.waiting or self.syncer.waiting:
            (self.syncer if self.syncer.waiting else self.executor).step()


@attrs.frozen
class _Flush:
    bench: Bench = attrs.field(eq=False)
    name: str

    def __call__(self) -> None:
        self.bench.flushes.append(self.name)


def make_bench(threshold: int = 0, segment_bytes_max: int = 10_000, interval_ms: int = 1000) -> Bench:
    filesystem = FaultyFileSystem()
    store = open_store(filesystem, filesystem.clock, options(segment_bytes_max))
    log = store.create(NAME, DATA)
    executor, syncer, timers = HandExecutor(), HandSyncer(), Timers()
    disk = DiskGuard(filesystem, [DATA], 0)
    committer = Committer(executor, syncer, timers, filesystem.clock, disk)
    config = TopicConfig(
        name=NAME.topic,
        partition_count=1,
        unflush_threshold=threshold,
        unflush_interval_ms=interval_ms,
        data_path=Path("/data"),
    )
    bench = Bench(filesystem, committer, Partition(NAME, log, config, log.end_offset), executor, syncer, disk)
    filesystem.calls.clear()
    return bench


SIZE = len(encode_record(b"a", 1))


async def test_a_put_is_answered_after_the_sync_and_not_before() -> None:
    bench = make_bench()
    bench.put("a")
    assert bench.filesystem.calls == [Point.SEGMENT_OPEN, Point.APPEND_WRITE]
    assert bench.outcomes == []
    assert bench.partition.readable_offset == 0
    bench.syncer.step()
    assert bench.outcomes == [("a", 0)]
    assert bench.partition.readable_offset == SIZE
    assert bench.flushes == ["a"]


async def test_what_arrives_during_a_sync_shares_the_next_one() -> None:
    bench = make_bench()
    for name in "abcd":
        bench.put(name)
    bench.syncer.step()
    assert bench.outcomes == [("a", 0)]
    bench.syncer.step()
    assert bench.outcomes == [("a", 0), ("b", SIZE), ("c", 2 * SIZE), ("d", 3 * SIZE)]
    assert bench.filesystem.calls.count(Point.APPEND_WRITE) == 2
    assert bench.filesystem.calls.count(Point.APPEND_SYNC) == 2


async def test_a_large_group_is_written_by_a_worker() -> None:
    bench = make_bench(segment_bytes_max=10_000_000)
    bench.put("large", encode_record(b"x" * 70_000, 1))
    assert bench.filesystem.calls == []
    bench.executor.step()
    bench.syncer.step()
    assert bench.outcomes == [("large", 0)]


async def test_a_failed_sync_answers_all_with_an_error_and_is_never_repeated() -> None:
    bench = make_bench()
    bench.put("before")
    bench.syncer.step()
    end = bench.partition.readable_offset
    bench.filesystem.fault = Fault(Point.APPEND_SYNC, 1, "EIO")
    bench.put("a")
    bench.put("b")
    bench.syncer.step()
    assert [name for name, _ in bench.outcomes] == ["before", "a", "b"]
    a, b = (outcome for _, outcome in bench.outcomes[1:])
    assert isinstance(a, UnclearWriteError)
    assert type(b) is LogFailedError, "it has not been near the disk"
    assert bench.partition.readable_offset == end
    assert bench.partition.log.end_offset == end, "nothing is left to be found by a restart"
    bench.put("later")
    assert isinstance(bench.outcomes[-1][1], LogFailedError)
    assert bench.filesystem.calls.count(Point.APPEND_SYNC) == 2
    assert bench.partition.log.read(0, 100, end).size == end


async def test_a_full_disk_refuses_and_takes_puts_again() -> None:
    bench = make_bench()
    bench.filesystem.fault = Fault(Point.APPEND_WRITE, 0, "ENOSPC")
    bench.put("a")
    assert isinstance(bench.outcomes[0][1], DiskFullError)
    bench.put("b")
    assert isinstance(bench.outcomes[1][1], DiskFullError), "not even tried until there is room"
    assert bench.filesystem.calls.count(Point.APPEND_WRITE) == 1
    bench.disk.check()
    bench.put("c")
    bench.finish()
    assert bench.outcomes[2] == ("c", 0)


async def test_without_group_commit_a_put_is_answered_at_once() -> None:
    bench = make_bench(threshold=2)
    bench.put("a")
    assert bench.outcomes == [("a", 0)]
    assert bench.partition.readable_offset == SIZE
    assert bench.filesystem.calls == [Point.SEGMENT_OPEN, Point.APPEND_WRITE]


async def test_the_threshold_is_exceeded_by_one_more_message() -> None:
    bench = make_bench(threshold=2)
    for name in "abcde":
        bench.put(name)
    assert len(bench.syncer.waiting) == 1, "at the third, and once only while it is under way"
    bench.syncer.step()
    assert bench.partition.log.flushed_offset == 3 * SIZE


async def test_the_interval_flushes_what_the_threshold_does_not(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    bench = make_bench(threshold=100, interval_ms=500)
    nursery.start_soon(bench.committer._timers.run)
    bench.put("a")
    await trio.sleep(0.4)
    assert bench.syncer.waiting == []
    await trio.sleep(0.2)
    bench.syncer.step()
    assert bench.partition.log.flushed_offset == SIZE


async def test_an_interval_that_ends_during_a_sync_is_not_the_last(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    bench = make_bench(threshold=2, interval_ms=500)
    nursery.start_soon(bench.committer._timers.run)
    for name in "abcd":
        bench.put(name)
    await trio.sleep(0.6)
    bench.syncer.step()
    assert bench.partition.log.flushed_offset == 3 * SIZE
    await trio.sleep(0.6)
    bench.syncer.step()
    assert bench.partition.log.flushed_offset == 4 * SIZE


async def test_a_failed_background_sync_closes_the_partition() -> None:
    bench = make_bench(threshold=1)
    bench.filesystem.fault = Fault(Point.APPEND_SYNC, 0, "EIO")
    bench.put("a")
    bench.put("b")
    bench.syncer.step()
    bench.put("c")
    assert isinstance(bench.outcomes[2][1], LogFailedError)
    assert bench.partition.readable_offset == 2 * SIZE, "what was acknowledged stays readable"


@pytest.mark.parametrize("threshold", [0, 5])
async def test_a_full_segment_is_rolled_after_the_answer(threshold: int) -> None:
    bench = make_bench(threshold, segment_bytes_max=100)
    for number in range(20):
        bench.put(f"{number:02d}")
        bench.finish()
    assert [outcome for _, outcome in bench.outcomes] == [22 * number for number in range(20)]
    assert bench.partition.log.statistics().segment_count == 5


@pytest.mark.parametrize("threshold", [0, 5])
async def test_a_roll_that_fails_is_not_tried_without_end(threshold: int) -> None:
    bench = make_bench(threshold, segment_bytes_max=100)
    bench.filesystem.fault = Fault(Point.ROLL_CREATE, 0, "ENOSPC")
    for number in range(6):
        bench.put(f"{number:02d}")
        bench.finish()
        bench.disk.check()
    assert [outcome for _, outcome in bench.outcomes] == [22 * number for number in range(6)]
    assert bench.filesystem.calls.count(Point.ROLL_CREATE) == 1


@pytest.mark.parametrize("threshold", [0, 5])
async def test_replicated_records_go_to_their_offset_or_nowhere(threshold: int) -> None:
    bench = make_bench(threshold)
    bench.put("a", offset=0)
    bench.finish()
    bench.put("too early", offset=0)
    bench.finish()
    bench.put("too late", offset=1000)
    bench.finish()
    bench.put("b", offset=SIZE)
    bench.finish()
    kinds = [type(outcome) for _, outcome in bench.outcomes]
    assert kinds == [int, DivergedLogError, DivergedLogError, int]
    assert bench.partition.log.end_offset == 2 * SIZE


@pytest.mark.parametrize("threshold", [0, 5])
async def test_what_is_appended_by_who_hears_of_a_success_comes_behind_what_waited(threshold: int) -> None:
    # As a slave does, whose next bytes are here already.
    bench = make_bench(threshold, SIZE)
    bench.put("a", offset=0)
    while bench.syncer.waiting:
        bench.syncer.step()  # and the roll that is due now is under way
    bench.put("b", offset=SIZE)
    bench.put("c", offset=2 * SIZE)
    bench.behind["b"] = ("d", 3 * SIZE)
    bench.finish()
    assert bench.outcomes == [("a", 0), ("b", SIZE), ("c", 2 * SIZE), ("d", 3 * SIZE)]


async def test_a_partition_tells_when_more_of_it_is_written_and_when_it_is_synced() -> None:
    bench = make_bench()
    log, told = bench.partition.log, list[tuple[int, int]]()
    bench.partition.on_progress = lambda: told.append((log.end_offset, log.flushed_offset))
    bench.put("a")
    assert told == [(SIZE, 0)]
    bench.finish()
    assert told == [(SIZE, 0), (SIZE, SIZE)]
    bench.filesystem.fault = Fault(Point.APPEND_SYNC, 1, "EIO")
    bench.put("b")
    bench.finish()
    assert told[2:] == [(2 * SIZE, SIZE), (SIZE, SIZE)], "what is cut off is taken back"


async def test_what_is_written_and_what_is_synced_is_told_where_puts_do_not_wait() -> None:
    bench = make_bench(threshold=1)
    log, told = bench.partition.log, list[tuple[int, int]]()
    bench.partition.on_progress = lambda: told.append((log.end_offset, log.flushed_offset))
    bench.put("a")
    bench.put("b")
    bench.finish()
    assert told == [(SIZE, 0), (2 * SIZE, 0), (2 * SIZE, 2 * SIZE)]


async def test_a_slave_whose_master_needs_it_synced_syncs_each_group() -> None:
    bench = make_bench(threshold=1000)
    bench.put("a")
    assert bench.syncer.waiting == []
    bench.partition.syncs_for_master = True
    assert bench.partition.is_flush_due
    bench.committer.flush(bench.partition)
    bench.put("b")
    bench.syncer.step()
    bench.syncer.step()
    assert bench.partition.log.flushed_offset == 2 * SIZE
    assert not bench.partition.is_flush_due


async def test_what_came_during_a_sync_is_synced_behind_it_where_it_is_over_the_limit() -> None:
    bench = make_bench(threshold=1)
    bench.put("a")
    bench.put("b")
    bench.put("c", *[encode_record(b"c", 1)] * 2)
    assert len(bench.syncer.waiting) == 1
    bench.syncer.step()
    bench.syncer.step()
    assert bench.partition.log.flushed_offset == 4 * SIZE


async def test_readers_that_wait_are_woken_by_what_became_safe() -> None:
    bench = make_bench()
    woken: list[int] = []
    bench.partition.waiting_gets[WaitingGet(lambda: woken.append(bench.partition.readable_offset))] = None
    bench.put("a")
    assert woken == []
    bench.syncer.step()
    assert woken == [SIZE]
    assert not bench.partition.waiting_gets


async def test_idle_comes_when_the_disk_has_nothing_left(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    bench = make_bench()
    bench.put("a")
    bench.put("b")
    with trio.move_on_after(1) as patience:
        await bench.committer.wait_until_idle()
    assert patience.cancelled_caught
    bench.finish()
    with trio.fail_after(1):
        await bench.committer.wait_until_idle()


async def test_a_topic_that_begins_to_wait_for_the_disk_waits_for_the_sync_under_way() -> None:
    bench = make_bench(threshold=5)
    bench.put("a")
    bench.committer.flush(bench.partition)
    bench.partition.config = attrs.evolve(bench.partition.config, unflush_threshold=0)
    bench.put("b")
    assert len(bench.syncer.waiting) == 1, "two syncs of one log could end in either order"
    bench.syncer.step()
    assert bench.partition.log.flushed_offset == SIZE
    bench.syncer.step()
    assert bench.outcomes == [("a", 0), ("b", SIZE)]
    assert bench.partition.log.flushed_offset == 2 * SIZE


async def test_what_was_to_be_synced_is_synced_also_when_later_puts_need_not_wait() -> None:
    bench = make_bench()
    bench.put("a")
    waiting = PendingAppend(
        [encode_record(b"b", 1)],
        SIZE,
        1,
        1,
        lambda at: bench.outcomes.append(("b", at)),
        lambda error: bench.outcomes.append(("b", error)),
        lambda: None,
        waits_for_disk=True,
    )
    bench.committer.append(bench.partition, waiting)
    bench.partition.config = attrs.evolve(bench.partition.config, unflush_threshold=1000)
    bench.syncer.step()
    assert bench.outcomes == [("a", 0)]
    bench.syncer.step()
    assert bench.outcomes == [("a", 0), ("b", SIZE)]
