"""The consumer between its readers, the application and the storage of offsets, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from metaserver.client import ConsumerOptions, MemoryOffsets, ReceivedMessage
from metaserver.client.consumer import Consumer
from metaserver.client.partition import Partition
from metaserver.errors import (
    HandlerFailedError,
    OffsetConflictError,
    OffsetStorageError,
    SendFailedError,
)
from metaserver.message import encode_record
from metaserver.names import MAX_OFFSET
from metaserver.registry.paths import StoredOffset
from tests.client.wires import Wires, settle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio.testing import MockClock

    from tests.client.wires import Broker

ZERO, ONE = Partition("t", 0, 0), Partition("t", 0, 1)
SIZE = 21
"""Of a record here: message N is at N * SIZE."""


def log(first: int, count: int) -> bytes:
    return b"".join(
        encode_record(b"%d" % (number % 10), 1 + number) for number in range(first, first + count)
    )


@attrs.define(eq=False)
class FailingOffsets:
    """A storage in memory that fails, or whose offsets others have moved."""

    inner: MemoryOffsets = attrs.Factory(MemoryOffsets)
    failure: OffsetStorageError | None = None
    stored: list[Mapping[Partition, StoredOffset]] = attrs.Factory(list)

    async def load(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, StoredOffset]:
        if self.failure is not None and not isinstance(self.failure, OffsetConflictError):
            raise self.failure
        return await self.inner.load(group, partitions)

    async def store(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        await trio.lowlevel.checkpoint()
        failure = self.failure
        if isinstance(failure, OffsetConflictError):
            self.failure = None
            rest = {p: offset for p, offset in offsets.items() if p not in failure.partitions}
            await self.inner.store(group, rest)
        if failure is not None:
            raise failure
        self.stored.append(dict(offsets))
        await self.inner.store(group, offsets)

    async def aclose(self) -> None:
        """Nothing is open."""


@attrs.define(eq=False)
class Place:
    wires: Wires
    offsets: FailingOffsets = attrs.Factory(FailingOffsets)
    broker: Broker = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.broker = self.wires.broker()
        self.wires.announce("t", {0: 2})

    def consumer(self, **options: object) -> Consumer:
        return Consumer("g", self.wires.network, ConsumerOptions(**options), self.offsets)  # type: ignore[arg-type]

    def give(self, first: int, count: int) -> None:
        """Answer the request that asks for this message."""
        for request in self.broker.take():
            if request.offset == first * SIZE:
                request.value(log(first, count))

    async def committed(self, partition: Partition = ZERO) -> int | None:
        found = (await self.offsets.inner.load("g", [partition])).get(partition)
        return None if found is None else found.offset


@pytest.fixture
async def place(nursery: trio.Nursery) -> Place:
    wires = Wires()
    nursery.start_soon(wires.timers.run)
    return Place(wires)


async def test_what_was_handed_out_before_is_dealt_with_and_no_more(
    place: Place, autojump_clock: MockClock
) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO])
    place.give(0, 5)
    found = [await anext(consumer) for _ in range(3)]
    assert [message.payload for message in found] == [b"0", b"1", b"2"]
    await consumer._commit(consumer._held.values())
    assert await place.committed() == 2 * SIZE
    consumer.close()
    await consumer.release([ZERO], is_lost=False)
    assert await place.committed() == 2 * SIZE
    assert consumer.partitions == ()


async def test_lag_counts_what_is_fetched_and_not_dealt_with(place: Place, autojump_clock: MockClock) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO])
    place.give(0, 5)
    (lag,) = consumer.lag()
    assert (lag.position, lag.end_offset, lag.bytes) == (0, 5 * SIZE, 5 * SIZE)
    await anext(consumer)
    assert consumer.lag()[0].bytes == 5 * SIZE
    await anext(consumer)
    assert consumer.lag()[0].bytes == 4 * SIZE
    consumer._finish_current()
    await consumer.release([ZERO], is_lost=True)
    place.offsets.inner._groups["g"] = {ZERO: StoredOffset(2 * SIZE, 2)}
    await consumer.take([ZERO])
    place.give(2, 3)
    assert consumer.lag()[0].bytes == 3 * SIZE


async def test_a_paused_partition_makes_no_work(
    place: Place, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO])
    handled: list[bytes] = []

    async def handler(message: ReceivedMessage) -> None:
        handled.append(message.payload)
        consumer.pause()

    looks = 0
    look = consumer._work

    async def counted(*arguments: Any) -> None:  # noqa: ANN401 - those of the real one
        nonlocal looks
        looks += 1
        await look(*arguments)

    monkeypatch.setattr(consumer, "_work", counted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consumer.run, handler)
        place.give(0, 3)
        # One that looks again and again would never come to rest.
        for _ in range(1000):
            await trio.lowlevel.checkpoint()
        assert looks < 5
        await trio.sleep(100.0)
        assert handled == [b"0"]
        consumer.resume()
        await settle()
        assert handled == [b"0", b"1"]
        nursery.cancel_scope.cancel()


async def test_what_comes_while_paused_is_handed_out_later(place: Place, autojump_clock: MockClock) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO])
    consumer.pause()
    place.give(0, 2)
    with trio.move_on_after(10.0) as scope:
        await anext(consumer)
    assert scope.cancelled_caught
    consumer.resume()
    assert (await anext(consumer)).payload == b"0"


async def test_a_seek_to_the_end_is_stored_when_the_end_is_known(
    place: Place, autojump_clock: MockClock
) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO])
    place.give(0, 5)
    await anext(consumer)
    consumer.seek(ZERO, MAX_OFFSET)
    await consumer.commit()
    assert await place.committed() is None
    place.broker.take()[-1].result(301, str(50 * SIZE))
    await consumer.commit()
    assert await place.committed() == 50 * SIZE
    place.give(50, 2)
    await anext(consumer)
    await consumer.commit()
    assert await place.committed() == 51 * SIZE


async def test_a_log_that_lost_its_end_takes_the_group_back(place: Place, autojump_clock: MockClock) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO])
    place.give(0, 5)
    for _ in range(3):
        await anext(consumer)
    # Two more are fetched already when the master says that its log ends before.
    place.broker.one().result(301, str(2 * SIZE))
    for _ in range(2):
        await anext(consumer)
    place.give(2, 2)
    assert (await anext(consumer)).payload == b"2"
    await anext(consumer)
    await consumer._commit(consumer._held.values())
    assert await place.committed() == 3 * SIZE


async def test_a_gap_is_not_committed_past_what_is_open(place: Place, autojump_clock: MockClock) -> None:
    consumer = place.consumer(commit="manual")
    await consumer.take([ZERO])
    place.give(0, 2)
    first, second = await anext(consumer), await anext(consumer)
    with trio.move_on_after(1.0):
        await anext(consumer)
    place.broker.one().result(301, str(40 * SIZE))
    await consumer.commit(first)
    assert await place.committed() == SIZE
    await consumer.commit(second)
    assert await place.committed() == 2 * SIZE
    place.give(40, 1)
    await anext(consumer)
    await consumer.commit()
    assert await place.committed() == 41 * SIZE


async def test_a_gap_behind_what_is_dealt_with_is_committed(place: Place, autojump_clock: MockClock) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO])
    place.give(0, 1)
    await anext(consumer)
    with trio.move_on_after(1.0):
        await anext(consumer)
    place.broker.one().result(301, str(40 * SIZE))
    await consumer._commit(consumer._held.values())
    assert await place.committed() == 40 * SIZE


async def test_a_commit_that_fails_may_be_tried_again(place: Place, autojump_clock: MockClock) -> None:
    consumer = place.consumer(commit="manual")
    await consumer.take([ZERO])
    place.give(0, 2)
    message = await anext(consumer)
    place.offsets.failure = OffsetStorageError("there", "full")
    with pytest.raises(OffsetStorageError, match="full"):
        await consumer.commit(message)
    assert "full" in consumer.problems[0]
    place.offsets.failure = None
    await consumer.commit(message)
    assert (await place.committed(), consumer.problems) == (SIZE, [])


async def test_commits_go_on_when_the_storage_is_back(
    place: Place, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    consumer = place.consumer(commit_interval_seconds=5.0)
    nursery.start_soon(consumer.keep_committing)
    await consumer.take([ZERO])
    place.give(0, 3)
    place.offsets.failure = OffsetStorageError("there", "full")
    await anext(consumer)
    await anext(consumer)
    await trio.sleep(60.0)
    place.offsets.failure = None
    await trio.sleep(6.0)
    assert await place.committed() == SIZE
    # Nothing new is nothing to write.
    await trio.sleep(60.0)
    assert len(place.offsets.stored) == 1


@pytest.mark.parametrize("commit", ["auto", "manual"])
async def test_a_group_goes_back_where_the_log_has_lost_its_end(
    commit: str, place: Place, autojump_clock: MockClock
) -> None:
    place.broker.extensions |= {"epochs"}
    place.broker.connect()
    consumer = place.consumer(commit=commit)
    await consumer.take([ZERO])
    place.broker.one().result(200, "1 00000000000000aa 0\n")
    place.give(0, 5)
    found = [await anext(consumer) for _ in range(5)]
    await consumer.commit()
    assert await place.committed() == 5 * SIZE
    place.broker.disconnect()
    place.broker.connect()
    with trio.fail_after(30):
        while not place.broker.is_asked():
            await trio.sleep(0.01)
    place.broker.one().result(200, f"1 00000000000000aa 0\n2 00000000000000bb {3 * SIZE}\n")
    # What the application is still busy with is of the log that was.
    await consumer.commit(found[4])
    assert await place.committed() == 3 * SIZE
    place.give(3, 2)
    assert [(await anext(consumer)).offset for _ in range(2)] == [3 * SIZE, 4 * SIZE]
    await consumer.commit()
    assert await place.committed() == 5 * SIZE


@pytest.mark.parametrize(("others", "goes_on_at"), [(None, 3), (2, 2), (4, 3), (6, 6)])
async def test_a_partition_that_comes_back_is_of_the_log_that_was_read(
    others: int | None, goes_on_at: int, place: Place, autojump_clock: MockClock
) -> None:
    """Where the only slave is promoted every partition leaves its member for a moment.

    The new master may have set the group back meanwhile, to where its epoch begins; what this member has read
    may have parted from its log before that.
    """
    place.broker.extensions |= {"epochs"}
    place.broker.connect()
    consumer = place.consumer()
    await consumer.take([ZERO])
    place.broker.one().result(200, "1 00000000000000aa 0\n")
    place.give(0, 5)
    for _ in range(5):
        await anext(consumer)
    consumer._finish_current()
    await consumer.release([ZERO], is_lost=False)
    assert await place.committed() == 5 * SIZE
    if others is not None:
        await place.offsets.inner.store("g", {ZERO: StoredOffset(others * SIZE, -1)})
    place.broker.disconnect()
    place.broker.connect()
    await consumer.take([ZERO])
    # By the ids the group has read this epoch, for it begins with an earlier one than that of message 5.
    place.broker.one().result(200, f"1 00000000000000aa 0\n2 00000000000000bb {3 * SIZE}\n")
    request = place.broker.one()
    assert (request.offset, request.words[1]) == (goes_on_at * SIZE, "g"), "nothing else is asked"


async def test_a_new_master_may_have_set_back_what_was_stored(
    place: Place, autojump_clock: MockClock
) -> None:
    """And in a quiet partition no message comes behind which it would be stored again."""
    place.broker.extensions |= {"epochs"}
    place.broker.connect()
    await place.offsets.inner.store("g", {ZERO: StoredOffset(2 * SIZE, 2)})
    consumer = place.consumer()
    await consumer.take([ZERO])
    place.broker.one().result(200, "1 00000000000000aa 0\n")
    place.give(2, 3)
    for _ in range(3):
        await anext(consumer)
    consumer._finish_current()
    for told in ("2 00000000000000bb", "3 00000000000000cc"):
        await consumer._commit(consumer._held.values())
        assert await place.committed() == 5 * SIZE
        await place.offsets.inner.store("g", {ZERO: StoredOffset(4 * SIZE, -1)})
        await consumer._commit(consumer._held.values())
        assert await place.committed() == 4 * SIZE, "nothing has changed for it"
        place.broker.disconnect()
        place.broker.connect()
        with trio.fail_after(30):
            while not place.broker.is_asked():
                await trio.sleep(0.01)
        place.broker.one().result(200, f"1 00000000000000aa 0\n{told} {5 * SIZE}\n")


@pytest.mark.parametrize(("theirs", "goes_on_at"), [(4, 2), (1, 1)])
async def test_offsets_that_others_have_moved_lead_over_no_loss(
    theirs: int, goes_on_at: int, place: Place, autojump_clock: MockClock
) -> None:
    """A new master takes what this member has read of another log for read of its own."""
    place.broker.extensions |= {"epochs"}
    place.broker.connect()
    consumer = place.consumer(commit="manual")
    await consumer.take([ZERO])
    place.broker.one().result(200, "1 00000000000000aa 0\n")
    place.give(0, 5)
    for _ in range(5):
        await anext(consumer)
    await consumer.commit()
    place.broker.disconnect()
    place.broker.connect()
    with trio.fail_after(30):
        while not place.broker.is_asked():
            await trio.sleep(0.01)
    chain = f"1 00000000000000aa 0\n2 00000000000000bb {2 * SIZE}\n3 00000000000000cc {4 * SIZE}\n"
    place.broker.one().result(200, chain)
    await place.offsets.inner.store("g", {ZERO: StoredOffset(theirs * SIZE, -1)})
    place.offsets.failure = OffsetConflictError("there", "others", (ZERO,))
    with pytest.raises(OffsetConflictError):
        await consumer.commit()
    await consumer.commit()
    assert await place.committed() == goes_on_at * SIZE
    place.give(goes_on_at, 1)
    assert (await anext(consumer)).offset == goes_on_at * SIZE
    # It is stored, and the next one to move them is believed.
    await consumer.commit()
    await place.offsets.inner.store("g", {ZERO: StoredOffset(30 * SIZE, 30)})
    place.offsets.failure = OffsetConflictError("there", "others", (ZERO,))
    place.give(goes_on_at + 1, 1)
    await anext(consumer)
    with pytest.raises(OffsetConflictError):
        await consumer.commit()
    assert await place.committed() == 30 * SIZE


async def test_offsets_that_others_have_moved_are_gone_on_from(
    place: Place, autojump_clock: MockClock
) -> None:
    consumer = place.consumer(commit="manual")
    await consumer.take([ZERO])
    place.give(0, 3)
    message = await anext(consumer)
    place.broker.take()
    await place.offsets.inner.store("g", {ZERO: StoredOffset(30 * SIZE, 30)})
    place.offsets.failure = OffsetConflictError("there", "others", (ZERO,))
    # Whoever commits by hand must know that it is not stored.
    with pytest.raises(OffsetConflictError):
        await consumer.commit(message)
    assert await place.committed() == 30 * SIZE
    place.give(30, 1)
    assert (await anext(consumer)).offset == 30 * SIZE
    await consumer.commit()
    assert await place.committed() == 31 * SIZE


async def test_a_message_from_before_a_conflict_takes_nothing_with_it(
    place: Place, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO])
    place.give(5, 0)
    consumer.seek(ZERO, 50 * SIZE)
    place.give(50, 1)
    go_on = trio.Event()

    async def handler(_message: ReceivedMessage) -> None:
        await go_on.wait()

    nursery.start_soon(consumer.run, handler)
    await settle()
    await place.offsets.inner.store("g", {ZERO: StoredOffset(3 * SIZE, 3)})
    place.offsets.failure = OffsetConflictError("there", "others", (ZERO,))
    with pytest.raises(OffsetConflictError):
        await consumer._commit(consumer._held.values())
    go_on.set()
    await settle()
    await consumer._commit(consumer._held.values())
    assert await place.committed() == 3 * SIZE


async def test_a_hand_over_waits_for_the_handler_and_stores_what_it_did(
    place: Place, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    consumer = place.consumer(release_seconds=30.0)
    await consumer.take([ZERO, ONE])
    handled: list[bytes] = []

    async def handler(message: ReceivedMessage) -> None:
        await trio.sleep(20.0)
        handled.append(message.payload)

    nursery.start_soon(consumer.run, handler)
    for request in place.broker.take():
        if request.words[2] == "0":
            request.value(log(0, 3))
    await settle()
    began = trio.current_time()
    await consumer.release([ZERO], is_lost=False)
    assert trio.current_time() - began == pytest.approx(20.0, abs=0.1)
    assert (handled, await place.committed()) == ([b"0"], SIZE)
    assert consumer.partitions == (ONE,)
    # What it had fetched is the next owner's.
    await trio.sleep(100.0)
    assert handled == [b"0"]


async def test_a_handler_that_takes_too_long_commits_nothing(
    place: Place, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    consumer = place.consumer(release_seconds=5.0)
    await consumer.take([ZERO])

    async def handler(_message: ReceivedMessage) -> None:
        await trio.sleep(20.0)

    nursery.start_soon(consumer.run, handler)
    place.give(0, 3)
    await settle()
    began = trio.current_time()
    await consumer.release([ZERO], is_lost=False)
    assert trio.current_time() - began == pytest.approx(5.0, abs=0.1)
    await trio.sleep(100.0)
    await consumer.commit()
    assert await place.committed() is None


async def test_what_is_lost_is_not_stored(place: Place, autojump_clock: MockClock) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO])
    place.give(0, 3)
    await anext(consumer)
    await anext(consumer)
    consumer._finish_current()
    await consumer.release([ZERO], is_lost=True)
    assert place.offsets.stored == []


async def test_offsets_that_cannot_be_read_begin_nothing(place: Place, autojump_clock: MockClock) -> None:
    consumer = place.consumer()
    place.offsets.failure = OffsetStorageError("there", "away")
    with pytest.raises(OffsetStorageError):
        await consumer.take([ZERO, ONE])
    assert consumer.partitions == ()
    assert not place.broker.is_asked()


async def test_a_handler_that_fails_gets_it_again_and_others_go_on(
    place: Place, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    consumer = place.consumer(attempts_max=4, retry_seconds_min=1.0, retry_seconds_max=3.0)
    await consumer.take([ZERO, ONE])
    handled: list[tuple[float, int, bytes]] = []
    began = trio.current_time()

    async def handler(message: ReceivedMessage) -> None:
        handled.append((round(trio.current_time() - began), message.partition.number, message.payload))
        if message.partition == ZERO and len(handled) < 6:
            raise ValueError("not yet")

    nursery.start_soon(consumer.run, handler)
    for request in place.broker.take():
        request.value(log(0, 2))
    await trio.sleep(30.0)
    assert [entry for entry in handled if entry[1] == 1] == [(0, 1, b"0"), (0, 1, b"1")]
    assert [entry for entry in handled if entry[1] == 0] == [
        (0, 0, b"0"),
        (1, 0, b"0"),
        (3, 0, b"0"),
        (6, 0, b"0"),
        (6, 0, b"1"),
    ]


async def test_a_dead_letter_that_cannot_be_put_away_is_not_dealt_with(
    place: Place, autojump_clock: MockClock
) -> None:
    class Full:
        async def put(self, group: str, message: ReceivedMessage, reason: str, *, attempts: int) -> None:
            await trio.lowlevel.checkpoint()
            raise SendFailedError("dead", "", "no broker", 1)

    options = ConsumerOptions(attempts_max=1)
    consumer = Consumer("g", place.wires.network, options, place.offsets, dead_letters=Full())
    await consumer.take([ZERO])

    async def handler(_message: ReceivedMessage) -> None:
        raise ValueError("never")

    place.give(0, 2)
    with pytest.RaisesGroup(SendFailedError):
        await consumer.run(handler)
    await consumer._commit(consumer._held.values())
    assert await place.committed() is None
    assert (await anext(consumer)).payload == b"0"


async def test_a_run_that_failed_passes_nothing_over(place: Place, autojump_clock: MockClock) -> None:
    consumer = place.consumer(attempts_max=1)
    await consumer.take([ZERO])
    handled: list[bytes] = []

    async def handler(message: ReceivedMessage) -> None:
        handled.append(message.payload)
        if len(handled) == 2:
            raise ValueError("once")

    place.give(0, 3)
    with pytest.raises(HandlerFailedError):
        await consumer.run(handler)
    with trio.move_on_after(1.0):
        await consumer.run(handler)
    assert handled == [b"0", b"1", b"1", b"2"]
    await consumer._commit(consumer._held.values())
    assert await place.committed() == 3 * SIZE


async def test_each_partition_has_its_turn(place: Place, autojump_clock: MockClock) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO, ONE])
    for request in place.broker.take():
        request.value(log(0, 300))
    found = [(await anext(consumer)).partition.number for _ in range(600)]
    assert sorted(found[:128]) == [0] * 64 + [1] * 64
    assert found.count(0) == 300


async def test_closed_it_ends_the_iteration(
    place: Place, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    consumer = place.consumer()
    await consumer.take([ZERO])
    ended = trio.Event()

    async def iterate() -> None:
        async for _message in consumer:
            pytest.fail("there is nothing")
        ended.set()

    nursery.start_soon(iterate)
    await settle()
    consumer.close()
    await ended.wait()
