"""Brokers that stop, die and return while producers and consumers work: no error, no gap, few repeats."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import anyio
import anyio.to_thread
import attrs
import pytest

from metaserver.client import ConfiguredOrder, ConsumerOptions, Partition, ProducerOptions, open_session
from metaserver.client.local_store import LocalStore
from metaserver.client.selectors import by_key
from metaserver.errors import SendUnknownError
from tests.client.brokers import Brokers, sent_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from metaserver.client import Consumer, Producer, Sent

    Run = Callable[[Callable[[], Awaitable[None]]], None]

PERSISTENT = ProducerOptions(timeout_seconds=50.0)


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Brokers]:
    found = Brokers(tmp_path)
    yield found
    found.end()


@attrs.define(eq=False)
class Traffic:
    """Messages on their way, and what became of them."""

    sent: dict[int, Sent] = attrs.Factory(dict)
    unknown: set[int] = attrs.Factory(set)
    received: Counter[int] = attrs.Factory(Counter)
    order: dict[Partition, list[int]] = attrs.Factory(dict)
    """Offsets as they came."""
    is_sending: bool = True
    _next: int = 0

    async def send(self, producer: Producer) -> None:
        while self.is_sending:
            number = self._next = self._next + 1
            try:
                self.sent[number] = await producer.send("test", b"%d" % number)
            except SendUnknownError:
                self.unknown.add(number)
            await anyio.sleep(0.001)

    async def receive(self, consumer: Consumer) -> None:
        async for message in consumer:
            self.received[int(message.payload)] += 1
            self.order.setdefault(message.partition, []).append(message.offset)

    async def reach(self, more: int) -> None:
        """Returns when so many more were received, which were sent after this call."""
        target = self._next + more
        while not any(number >= target for number in self.received):
            await anyio.sleep(0.005)

    async def complete(self) -> None:
        """Returns when everything that was acknowledged was received."""
        self.is_sending = False
        while not self.received.keys() >= self.sent.keys():
            await anyio.sleep(0.005)

    def check(self, repeats_max: int) -> None:
        assert self.received.keys() <= self.sent.keys() | self.unknown
        assert sum(self.received.values()) - len(self.received) <= repeats_max
        for offsets in self.order.values():
            # Where a repeat begins the offsets step back; otherwise they only grow.
            assert sum(after <= before for before, after in pairwise(offsets)) <= repeats_max


async def in_thread(function: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(function)


@pytest.mark.parametrize("read_from", ["any", "master", "slave"])
def test_who_serves(run: Run, brokers: Brokers, read_from: Literal["any", "master", "slave"]) -> None:
    brokers.start(with_slave=True)

    async def test() -> None:
        async with open_session(brokers.servers) as session, session.producer() as producer:
            await producer.send_many("test", [bytes(1000)] * 4000)
            # The slave has all of it before anybody asks.
            end = sum([(await session.fetch(p, 0)).end_offset for p in await session.partitions("test")])
            while await anyio.to_thread.run_sync(lambda: stored_bytes(brokers.slave)) < end:
                await anyio.sleep(0.01)
            before = sent_bytes(brokers.master, "test"), sent_bytes(brokers.slave, "test")
            options = ConsumerOptions(read_from=read_from)
            async with session.consumer("group", "test", options) as consumer:
                await consumer.wait_assigned()
                while len(session.cluster.brokers) < 2:
                    await anyio.sleep(0.01)
                count = 0
                async for _message in consumer:
                    count += 1
                    if count == 4000:
                        break
            by_master = sent_bytes(brokers.master, "test") - before[0]
            by_slave = sent_bytes(brokers.slave, "test") - before[1]
        if read_from == "any":
            assert min(by_master, by_slave) > (by_master + by_slave) / 3
        elif read_from == "master":
            assert (by_master >= end, by_slave) == (True, 0)
        else:
            assert (by_master, by_slave >= end) == (0, True)

    run(test)


def stored_bytes(node: object) -> int:
    from tests.support import BrokerProcess

    assert isinstance(node, BrokerProcess)
    stored: int = node.status()["bytes"]
    return stored


def test_the_slave_stops_and_returns(run: Run, brokers: Brokers) -> None:
    brokers.start(with_slave=True)

    async def test() -> None:
        traffic = Traffic()
        async with (
            open_session(brokers.servers) as session,
            session.producer() as producer,
            session.consumer("group", "test") as consumer,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(traffic.send, producer)
            tasks.start_soon(traffic.receive, consumer)
            await traffic.reach(200)
            await in_thread(brokers.slave.stop)
            await traffic.reach(200)
            await in_thread(brokers.slave.start)
            await traffic.reach(200)
            await in_thread(brokers.slave.kill)
            await traffic.reach(200)
            await in_thread(brokers.slave.start)
            await traffic.reach(200)
            await traffic.complete()
            tasks.cancel_scope.cancel()
        assert not traffic.unknown
        traffic.check(repeats_max=0)

    run(test)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_master_stops_and_returns(run: Run, brokers: Brokers, how: Literal["stop", "kill"]) -> None:
    brokers.start(with_slave=True)

    async def test() -> None:
        traffic = Traffic()
        async with (
            open_session(brokers.servers) as session,
            session.producer(PERSISTENT) as producer,
            session.consumer("group", "test") as consumer,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(traffic.send, producer)
            tasks.start_soon(traffic.receive, consumer)
            await traffic.reach(200)
            for _time in range(2):
                await in_thread(brokers.master.stop if how == "stop" else brokers.master.kill)
                await in_thread(brokers.master.start)
                await traffic.reach(200)
            await traffic.complete()
            tasks.cancel_scope.cancel()
        # The message under way when the master died may or may not be stored, and the client says so.
        assert len(traffic.unknown) <= (0 if how == "stop" else 2)
        traffic.check(repeats_max=0)

    run(test)


def test_the_slave_serves_while_the_master_is_away(run: Run, brokers: Brokers) -> None:
    brokers.start(with_slave=True)

    async def test() -> None:
        async with open_session(brokers.servers) as session:
            async with session.producer() as producer:
                await producer.send_many("test", [b"%d" % number for number in range(1000)])
                end = sum([(await session.fetch(p, 0)).end_offset for p in await session.partitions("test")])
            while await anyio.to_thread.run_sync(partial(stored_bytes, brokers.slave)) < end:
                await anyio.sleep(0.01)
            async with session.consumer("group", "test") as consumer:
                await consumer.wait_assigned()
                found = set()
                async for message in consumer:
                    found.add(int(message.payload))
                    if len(found) == 100:
                        await in_thread(brokers.master.kill)
                    if len(found) == 1000:
                        break

    run(test)


def test_what_no_broker_takes_waits_in_the_local_store(run: Run, brokers: Brokers, tmp_path: Path) -> None:
    brokers.start()

    async def test() -> None:
        impatient = ProducerOptions(timeout_seconds=0.3)
        async with (
            open_session(brokers.servers) as session,
            LocalStore.open(tmp_path / "forward") as store,
            session.producer(impatient, store=store) as producer,
        ):
            where = Partition("test", 0, 1)
            assert not (await producer.send("test", b"0", partition=where)).is_local
            await in_thread(brokers.master.stop)
            for number in range(1, 4):
                assert (await producer.send("test", b"%d" % number, partition=where)).is_local
            assert await store.count() == 3
            await in_thread(brokers.master.start)
            while await store.count():
                await anyio.sleep(0.01)
            while (await producer.send("test", b"4", partition=where)).is_local:
                pass
            while not await session.partitions("test"):
                await anyio.sleep(0.01)  # A broker says where to send to before it says where to read.
            payloads = [message.payload async for message in session.browse("test")]
        # In the order in which they were sent, each once; the last may have been stored too.
        assert list(dict.fromkeys(sorted(payloads))) == [b"0", b"1", b"2", b"3", b"4"]
        assert Counter(payloads)[b"2"] == 1

    run(test)


def test_ordered_messages_wait_for_their_partition_and_nobody_else_does(
    run: Run, brokers: Brokers, tmp_path: Path
) -> None:
    brokers.start()

    async def test() -> None:
        # Broker 7 is configured and not there: what belongs to it waits, what belongs to broker 0 goes.
        selector = ConfiguredOrder({"test": "0:4;7:4"})
        partitions = [Partition("test", broker, number) for broker in (0, 7) for number in range(4)]
        keys = [b"key %d" % number for number in range(40)]
        async with (
            open_session(brokers.servers) as session,
            LocalStore.open(tmp_path / "ordered") as store,
            session.producer(selector=selector, store=store) as producer,
        ):
            sent = [await producer.send("test", key, key=key) for key in keys]
            assert any(not one.is_local for one in sent[:1])
            stored = await store.first(100)
            assert [message.sorting_key for message in stored] == [message.payload for message in stored]
            # Everything behind the first that waited went behind it, so that nothing overtakes.
            first = next(number for number, one in enumerate(sent) if one.is_local)
            assert all(one.is_local for one in sent[first:])
            assert {by_key(partitions, key, b"").broker_id for key in keys[:first]} == {0}
            assert by_key(partitions, keys[first], b"").broker_id == 7
            # Those of broker 0 leave the store for exactly the partitions their keys mean.
            while any(by_key(partitions, m.payload, b"").broker_id == 0 for m in await store.first(100)):
                await anyio.sleep(0.01)
            found = {message.payload: message.partition async for message in session.browse("test")}
            assert found == {
                key: by_key(partitions, key, b"")
                for key in keys
                if by_key(partitions, key, b"").broker_id == 0
            }

    run(test)
