"""Conditions of a subscription: asked of brokers that know them, kept to with all; offsets never go wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
import trio

from metaserver.client import (
    ConsumerOptions,
    MemoryOffsets,
    Partition,
    ReceivedMessage,
    by_condition,
    open_session,
)
from metaserver.client.consumer import Consumer
from metaserver.errors import ConfigError
from metaserver.message import FLAG_HAS_ATTRIBUTE, encode_record, join_attribute
from metaserver.registry.paths import StoredOffset
from tests.client.brokers import Brokers, sent_bytes
from tests.client.wires import EXTENSIONS, Wires
from tests.support import eventually, put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio.testing import MockClock

    from metaserver.client.replica_choice import ReadFrom
    from tests.client.wires import Broker, Request
    from tests.support import BrokerProcess

    Run = Callable[[Callable[[], Awaitable[None]]], None]

PARTITION = Partition("t", 0, 0)
PAID = "attribute = 'paid'"


def record(number: int, attribute: str) -> bytes:
    flag, data = join_attribute(attribute, b"%d" % number)
    return encode_record(data, 1 + number, flag)


LOG = [record(number, "paid" if number in (0, 1, 6) else "open") for number in range(8)]
SIZE = len(LOG[0])


def test_what_passes() -> None:
    wanted = by_condition("attribute = 'paid' AND json.price > 100")
    flag, data = join_attribute("paid", b'{"price": 101}')
    assert wanted(ReceivedMessage(PARTITION, 0, 1, flag, data))
    flag, data = join_attribute("paid", b'{"price": 100}')
    assert not wanted(ReceivedMessage(PARTITION, 0, 1, flag, data))
    assert flag == FLAG_HAS_ATTRIBUTE
    with pytest.raises(ConfigError, match="by_condition: price is no field"):
        by_condition("price > 100")


class Place:
    """A consumer of one partition in virtual time, with a broker that the test plays."""

    def __init__(self, wires: Wires, extensions: frozenset[str], text: str = PAID) -> None:
        self.wires = wires
        self.broker: Broker = wires.broker(is_connected=False)
        self.broker.extensions = extensions
        self.broker.connect()
        wires.announce("t", {0: 1})
        self.offsets = MemoryOffsets()
        self.consumer = Consumer("g", wires.network, ConsumerOptions(), self.offsets, by_condition(text))

    async def begin(self) -> None:
        await self.consumer.take([PARTITION])

    async def committed(self) -> int | None:
        await self.consumer._commit(self.consumer._held.values())
        stored = await self.offsets.load("g", [PARTITION])
        return None if PARTITION not in stored else stored[PARTITION].offset

    def asked(self) -> Request:
        (request,) = self.broker.take()
        return request

    async def payload(self) -> bytes:
        return (await anext(self.consumer)).payload

    async def nothing_comes(self) -> None:
        with trio.move_on_after(1.0) as scope:
            await anext(self.consumer)
        assert scope.cancelled_caught


@pytest.fixture
async def wires(nursery: trio.Nursery) -> Wires:
    found = Wires()
    nursery.start_soon(found.timers.run)
    return found


async def test_a_broker_that_knows_them_is_asked(wires: Wires, autojump_clock: MockClock) -> None:
    place = Place(wires, EXTENSIONS | {"filter"})
    await place.begin()
    request = place.asked()
    assert request.words[6:] == ("10000", "where=attribute%20%3D%20%27paid%27")
    request.value(b"".join(LOG[:2]))
    assert await place.payload() == b"0"
    # While the first two wait for the application, the broker skips four.
    place.asked().result(301, f"{6 * SIZE} {2 * SIZE}")
    assert place.asked().offset == 6 * SIZE
    assert await place.payload() == b"1"
    assert await place.committed() == SIZE
    await place.nothing_comes()
    # What was skipped behind the last message is dealt with as soon as that is.
    assert await place.committed() == 6 * SIZE


async def test_skipped_ranges_behind_each_other_are_one(wires: Wires, autojump_clock: MockClock) -> None:
    place = Place(wires, EXTENSIONS | {"filter"})
    await place.begin()
    place.asked().value(LOG[0])
    place.asked().result(301, f"{3 * SIZE} {SIZE}")
    place.asked().result(301, f"{5 * SIZE} {3 * SIZE}")
    assert place.asked().offset == 5 * SIZE
    assert await place.payload() == b"0"
    assert await place.committed() is None
    await place.nothing_comes()
    assert await place.committed() == 5 * SIZE


async def test_nothing_wanted_is_progress_too(wires: Wires, autojump_clock: MockClock) -> None:
    place = Place(wires, EXTENSIONS | {"filter"})
    await place.begin()
    place.asked().result(301, f"{5 * SIZE} 0")
    await place.nothing_comes()
    assert await place.committed() == 5 * SIZE


async def test_an_offset_behind_what_was_skipped_is_stored_with_no_older_id(
    wires: Wires, autojump_clock: MockClock
) -> None:
    """Whoever begins there would take the epochs in between for unread, and have all of it looked at again."""

    async def stored() -> StoredOffset:
        await place.committed()
        return (await place.offsets.load("g", [PARTITION]))[PARTITION]

    place = Place(wires, EXTENSIONS | {"filter"})
    await place.begin()
    place.asked().value(b"".join(LOG[:2]))
    assert await place.payload() == b"0"
    assert await place.payload() == b"1"
    assert await stored() == StoredOffset(SIZE, 1)
    await place.nothing_comes()
    assert await stored() == StoredOffset(2 * SIZE, 2)
    place.asked().result(301, f"{6 * SIZE} {2 * SIZE}")
    await place.nothing_comes()
    assert await stored() == StoredOffset(6 * SIZE, -1)
    place.asked().value(LOG[6])
    assert await place.payload() == b"6"
    place.asked().result(301, f"{8 * SIZE} {7 * SIZE}")
    await place.nothing_comes()
    assert await stored() == StoredOffset(8 * SIZE, -1)


async def test_another_broker_sends_everything_and_the_rest_is_left_out_here(
    wires: Wires, autojump_clock: MockClock
) -> None:
    place = Place(wires, EXTENSIONS)
    await place.begin()
    request = place.asked()
    assert len(request.words) == 7
    request.value(b"".join(LOG))
    assert [await place.payload() for _ in range(3)] == [b"0", b"1", b"6"]
    await place.nothing_comes()
    assert await place.committed() == 8 * SIZE


async def test_a_broker_that_speaks_another_language_is_told_no_condition(
    wires: Wires, autojump_clock: MockClock
) -> None:
    place = Place(wires, EXTENSIONS | {"filter"})
    await place.begin()
    place.asked().result(400, "Bad request,PAID is no field")
    request = place.asked()
    assert request.words[7] == "where="
    request.value(b"".join(LOG))
    assert [await place.payload() for _ in range(3)] == [b"0", b"1", b"6"]


@pytest.mark.parametrize("text", ["84 5", "0 0"])
async def test_a_range_that_cannot_be_is_a_failure(
    wires: Wires, autojump_clock: MockClock, text: str
) -> None:
    place = Place(wires, EXTENSIONS | {"filter"})
    await place.begin()
    place.asked().result(301, text)
    (problem,) = place.consumer.problems
    assert "was skipped where 0 was asked for" in problem


# With real brokers.


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    found = Brokers(tmp_path_factory.mktemp("conditions"), partitions=1)
    found.start(with_slave=True)
    fill(found, 1000, 1000)
    yield found
    found.end()


def fill(brokers: Brokers, count: int, size: int) -> None:
    """One message in a hundred is paid."""
    with brokers.master.connect() as wire:
        for number in range(count):
            flag, data = join_attribute(
                "paid" if number % 100 == 50 else "open", b"%d" % number + bytes(size)
            )
            assert wire.ask(put("test", data, number, flag=flag)).status == 200


def end_of(node: BrokerProcess) -> int:
    with node.connect() as wire:
        reply = wire.ask(f"offset test g 0 {2**63 - 1} 1\r\n".encode())
    return int(reply.text) if reply.status == 200 else 0


def test_only_what_is_wanted_travels(run: Run, brokers: Brokers) -> None:
    end = end_of(brokers.master)
    eventually(lambda: end_of(brokers.slave) == end, "the copy")

    async def consume(read_from: ReadFrom) -> None:
        group, offsets = f"g-{read_from}", MemoryOffsets()
        options = ConsumerOptions(read_from=read_from, commit_interval_seconds=0.01)
        wanted = by_condition(PAID)

        async def is_at_the_end() -> bool:
            stored = await offsets.load(group, [Partition("test", 0, 0)])
            return any(at.offset == end for at in stored.values())

        async with (
            open_session(brokers.servers) as session,
            session.consumer(group, "test", options, offsets=offsets, message_filter=wanted) as consumer,
            anyio.create_task_group() as tasks,
        ):
            found = [int((await anext(consumer)).payload.rstrip(b"\0")) for _ in range(10)]
            assert found == list(range(50, 1000, 100))
            # And behind the last of them, to the very end.
            tasks.start_soon(anext, consumer)
            while not await is_at_the_end():
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    before = sent_bytes(brokers.slave, "test")
    run(lambda: consume("slave"))
    assert 10_000 < sent_bytes(brokers.slave, "test") - before < end // 4
    run(lambda: consume("master"))
