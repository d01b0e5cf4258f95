"""Producers and consumers with a real broker and its own registry, on trio and on asyncio."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import anyio
import pytest

from metaserver.client import (
    ConsumerOptions,
    MemoryOffsets,
    OutgoingMessage,
    Partition,
    ProducerOptions,
    open_session,
)
from metaserver.client.dead_letters import DeadLetter, LocalDeadLetters, TopicDeadLetters
from metaserver.client.local_store import LocalStore
from metaserver.errors import (
    ConfigError,
    DiscoveryError,
    HandlerFailedError,
    NoPartitionError,
    SendManyError,
    SendRefusedError,
)
from tests.client.brokers import Brokers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from metaserver.client import Consumer, ReceivedMessage, Session

    Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """One master for the tests of this module; each has topics of its own, ``*`` makes them."""
    found = Brokers(tmp_path_factory.mktemp("brokers"), topics=("*",))
    found.start()
    yield found
    found.end()


_COUNT = iter(range(10_000))


@pytest.fixture
def topic() -> str:
    """A topic nobody has used."""
    return f"topic-{next(_COUNT)}"


WILD = ProducerOptions(default_topic="*")
EAGER = ConsumerOptions(commit_interval_seconds=0.05)


async def receive(consumer: Consumer, count: int) -> list[ReceivedMessage]:
    """So many messages, and then whatever the last one being dealt with takes."""
    found = []
    async for message in consumer:
        found.append(message)
        if len(found) == count:
            break
    return found


async def fill(session: Session, topic: str, payloads: list[bytes]) -> None:
    async with session.producer(WILD) as producer:
        await producer.send_many(topic, payloads)
    # The topic is announced behind its first message.
    while not session.cluster.readable(topic):
        await session.partitions(topic)
        await anyio.sleep(0.01)


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_a_message_arrives_with_all_that_was_sent(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session, session.producer(WILD) as producer:
            sent = await producer.send(topic, b"payload", attribute="kind")
            assert sent.partition.topic == topic
            assert not sent.is_local
            async with session.consumer("group", topic) as consumer:
                (message,) = await receive(consumer, 1)
            assert (message.payload, message.attribute) == (b"payload", "kind")
            assert (message.partition, message.offset, message.message_id) == (
                sent.partition,
                sent.offset,
                sent.message_id,
            )
            assert topic in await session.topics()

    run(test)


def test_a_group_goes_on_where_it_was(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session:
            await fill(session, topic, numbers(100))
            async with session.consumer("group", topic) as consumer:
                first = await receive(consumer, 60)
            async with session.consumer("group", topic) as consumer:
                second = await receive(consumer, 41)
        # The last of the first was handed out, and no other asked for: it is the only one that comes twice.
        seen = Counter(int(message.payload) for message in [*first, *second])
        assert sorted(seen) == list(range(100))
        assert [number for number, count in seen.items() if count > 1] == [int(first[-1].payload)]

    run(test)


def test_a_group_goes_on_where_a_cancelled_member_was(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session:
            await fill(session, topic, numbers(10))
        first: list[bytes] = []
        with anyio.CancelScope() as scope:
            async with (
                open_session(brokers.servers) as session,
                session.consumer("group", topic) as consumer,
            ):
                async for message in consumer:
                    first.append(message.payload)
                    if len(first) == 5:
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
        async with open_session(brokers.servers) as session, session.consumer("group", topic) as consumer:
            second = await receive(consumer, 6)
        # Whoever is cancelled stores what was dealt with, and the claims are free at once.
        seen = Counter([*first, *(message.payload for message in second)])
        assert [payload for payload, count in seen.items() if count > 1] == [first[-1]]

    run(test)


def test_a_seek_is_not_taken_back_by_a_message_from_before(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session:
            await fill(session, topic, numbers(10))
            offsets, manual = MemoryOffsets(), ConsumerOptions(commit="manual")
            async with session.consumer("group", topic, manual, offsets=offsets) as consumer:
                found = await receive(consumer, 10)
                partition = found[0].partition
                before = [message for message in found if message.partition == partition]
                consumer.seek(partition, before[0].offset)
                await consumer.commit(before[-1])
                stored = await offsets.load("group", [partition])
            assert len(before) > 1
            assert stored[partition].offset == before[0].offset

    run(test)


def test_order_is_kept_within_a_partition(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session, session.producer(WILD) as producer:
            messages = [OutgoingMessage(b"%d" % number, key=b"%d" % (number % 7)) for number in range(5000)]
            sent = await producer.send_many(topic, messages)
            async with session.consumer("group", topic) as consumer:
                found = await receive(consumer, 5000)
        by_key: dict[int, list[int]] = {}
        places: dict[int, set[Partition]] = {}
        for message in found:
            number = int(message.payload)
            by_key.setdefault(number % 7, []).append(number)
            places.setdefault(number % 7, set()).add(message.partition)
        assert all(of_key == sorted(of_key) for of_key in by_key.values())
        assert all(len(partitions) == 1 for partitions in places.values())
        assert sum(map(len, by_key.values())) == 5000
        at = {int(message.payload): (message.partition, message.offset) for message in found}
        assert [at[number] for number in range(5000)] == [(one.partition, one.offset) for one in sent]

    run(test)


def test_members_share_the_partitions_and_hand_them_over(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        seen: list[ReceivedMessage] = []
        together = anyio.Event()

        async def consume(consumer: Consumer) -> None:
            async for message in consumer:
                seen.append(message)  # noqa: PERF401 - seen while it goes on

        async with open_session(brokers.servers) as one, open_session(brokers.servers) as other:
            await fill(one, topic, numbers(40))
            async with one.consumer("group", topic, EAGER) as first, anyio.create_task_group() as tasks:
                tasks.start_soon(consume, first)
                await until(lambda: len(seen) == 40)
                assert len(first.partitions) == 4
                async with other.consumer("group", topic, EAGER) as second:
                    tasks.start_soon(consume, second)
                    await until(lambda: len(first.partitions) == len(second.partitions) == 2)
                    kept = first.partitions
                    assert set(first.partitions) | set(second.partitions) == set(await one.partitions(topic))
                    await fill(one, topic, numbers(40))
                    await until(lambda: len(seen) >= 80)
                    assert first.partitions == kept
                    together.set()
                await until(lambda: len(first.partitions) == 4)
                await fill(one, topic, numbers(40))
                await until(lambda: len(seen) >= 120)
                tasks.cancel_scope.cancel()
        assert together.is_set()
        counts = Counter((message.partition, message.offset) for message in seen)
        # A member that left had dealt with all but the message it was given last in each of its partitions.
        assert len(counts) == 120
        assert sum(counts.values()) <= 120 + 4

    run(test)


async def until(condition: Callable[[], object]) -> None:
    """Look until it is so; the test's own bound ends it otherwise."""
    while not condition():
        await anyio.sleep(0.005)


def test_from_the_latest_only_what_comes_is_delivered(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session:
            await fill(session, topic, numbers(20))
            options = ConsumerOptions(start="latest", commit_interval_seconds=0.02)
            async with session.consumer("group", topic, options) as consumer:
                await consumer.wait_assigned()
                await until(lambda: all(lag.position < 2**62 for lag in consumer.lag()))
                await fill(session, topic, [b"new"] * 8)
                found = await receive(consumer, 8)
                assert {message.payload for message in found} == {b"new"}
                await consumer.commit()
            # Where nothing was consumed, "latest" is remembered all the same: nothing is passed over later.
            await fill(session, topic, [b"newer"] * 8)
            async with session.consumer("group", topic, options) as consumer:
                assert {message.payload for message in await receive(consumer, 8)} == {b"newer"}

    run(test)


def test_manual_commit(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        options = ConsumerOptions(commit="manual")
        async with open_session(brokers.servers) as session:
            await fill(session, topic, numbers(12))
            async with session.consumer("group", topic, options) as consumer:
                first = await receive(consumer, 12)
            async with session.consumer("group", topic, options) as consumer:
                again = await receive(consumer, 12)
                assert sorted(m.payload for m in first) == sorted(m.payload for m in again)
                await consumer.commit(next(m for m in again if m.partition == again[0].partition))
                assert [lag.position for lag in consumer.lag() if lag.partition == again[0].partition]
                await consumer.commit()
                assert sum(lag.bytes for lag in consumer.lag()) == 0
            await fill(session, topic, [b"last"])
            async with session.consumer("group", topic, options) as consumer:
                assert [m.payload for m in await receive(consumer, 1)] == [b"last"]

    run(test)


def test_seek_pause_and_resume(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session:
            await fill(session, topic, numbers(40))
            async with session.consumer("group", topic) as consumer:
                found = await receive(consumer, 40)
                one, *others = consumer.partitions
                of_one = [message for message in found if message.partition == one]
                consumer.pause(others)
                consumer.seek(one, 0)
                assert [m.offset for m in await receive(consumer, len(of_one))] == [m.offset for m in of_one]
                consumer.seek(others[0], 0)
                with anyio.move_on_after(0.2):
                    pytest.fail(f"a paused partition gave {await anext(consumer)}")
                consumer.resume()
                assert (await anext(consumer)).partition == others[0]

    run(test)


def test_a_handler_gets_a_message_again_and_then_it_is_a_dead_letter(
    run: Run, brokers: Brokers, topic: str, tmp_path: Path
) -> None:
    async def test() -> None:
        calls: Counter[bytes] = Counter()
        order: list[bytes] = []

        async def handler(message: ReceivedMessage) -> None:
            calls[message.payload] += 1
            if message.payload == b"poison" or (message.payload == b"slow" and calls[b"slow"] < 3):
                raise ValueError(f"no {message.payload.decode()}")
            order.append(message.payload)

        options = ConsumerOptions(attempts_max=3, retry_seconds_min=0.01, commit_interval_seconds=0.02)
        async with (
            open_session(brokers.servers) as session,
            LocalStore.open(tmp_path / f"dead-{topic}") as store,
            session.producer(WILD) as producer,
        ):
            partition = Partition(topic, 0, 0)
            await producer.send(topic, b"before", partition=partition)
            for payload in (b"slow", b"poison", b"after"):
                await producer.send(topic, payload, attribute="mine", partition=partition)
            letters = LocalDeadLetters(store)
            async with (
                session.consumer("group", topic, options, dead_letters=letters) as consumer,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(consumer.run, handler)
                await until(lambda: b"after" in order)
                tasks.cancel_scope.cancel()
            assert order == [b"before", b"slow", b"after"]
            assert calls == {b"before": 1, b"slow": 3, b"poison": 3, b"after": 1}
            (letter,) = await store.first(10)
            assert (letter.topic, letter.payload, letter.attribute) == (topic, b"poison", "mine")
            assert (letter.group, letter.attempts) == ("group", 3)
            assert "ValueError: no poison" in letter.reason

    run(test)


def test_dead_letters_in_a_topic_say_where_they_come_from(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session, session.producer(WILD) as producer:
            sent = await producer.send(topic, b"bad", attribute="mine")
            letters = TopicDeadLetters(producer, f"{topic}-dead")
            async with session.consumer("group", topic, dead_letters=letters) as consumer:
                await consumer.reject(await anext(consumer), "I cannot")
                await consumer.commit()
            async with session.consumer("undertaker", f"{topic}-dead") as consumer:
                message = await anext(consumer)
        letter = DeadLetter.parse(message.attribute)
        assert letter is not None
        assert message.payload == b"bad"
        assert (letter.group, letter.topic, letter.partition) == (
            "group",
            topic,
            str(sent.partition.in_topic),
        )
        assert (letter.offset, letter.message_id) == (sent.offset, sent.message_id)
        assert (letter.attribute, letter.reason) == ("mine", "I cannot")

    run(test)


def test_without_dead_letters_a_handler_that_keeps_failing_ends_the_run(
    run: Run, brokers: Brokers, topic: str
) -> None:
    async def test() -> None:
        async def handler(_message: ReceivedMessage) -> None:
            raise ValueError("never")

        options = ConsumerOptions(attempts_max=2, retry_seconds_min=0.01)
        async with open_session(brokers.servers) as session:
            await fill(session, topic, [b"one"])
            async with session.consumer("group", topic, options) as consumer:
                with pytest.raises(HandlerFailedError, match="failed 2 times") as raised:
                    await consumer.run(handler)
                assert isinstance(raised.value.__cause__, ValueError)
            async with session.consumer("group", topic) as consumer:
                assert (await anext(consumer)).payload == b"one"

    run(test)


def test_what_a_filter_does_not_want_counts_as_dealt_with(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        def is_even(message: ReceivedMessage) -> bool:
            return int(message.payload) % 2 == 0

        async with open_session(brokers.servers) as session:
            await fill(session, topic, numbers(100))
            async with session.consumer("group", topic, message_filter=is_even) as consumer:
                found = await receive(consumer, 50)
                assert sorted(int(m.payload) for m in found) == list(range(0, 100, 2))
                with anyio.move_on_after(0.2):
                    pytest.fail(f"there was another: {await anext(consumer)}")
            async with session.consumer("group", topic) as consumer:
                with anyio.move_on_after(0.2):
                    pytest.fail(f"it came again: {await anext(consumer)}")

    run(test)


def test_a_broadcast_reaches_every_instance(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session:
            await fill(session, topic, numbers(20))
            for _instance in range(2):
                storage = MemoryOffsets()
                async with session.consumer("all", topic, offsets=storage, is_broadcast=True) as consumer:
                    assert len(consumer.partitions) in (0, 4)
                    found = await receive(consumer, 20)
                    assert sorted(int(m.payload) for m in found) == list(range(20))

    run(test)


def test_messages_larger_than_a_fetch(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        large = bytes(range(256)) * 4000
        async with open_session(brokers.servers) as session, session.producer(WILD) as producer:
            await producer.send_many(topic, [b"", large, b"small", large])
            async with session.consumer("group", topic) as consumer:
                found = await receive(consumer, 4)
            assert sorted(m.payload for m in found) == sorted([b"", large, b"small", large])

    run(test)


def test_browsing_and_fetching_by_hand(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session:
            await fill(session, topic, numbers(30))
            assert sorted([int(m.payload) async for m in session.browse(topic)]) == list(range(30))
            partition = (await session.partitions(topic))[0]
            report = await session.fetch(partition, 0)
            assert report.next_offset == report.end_offset == report.messages[-1].next_offset
            assert report.moved_from is None
            rest = await session.fetch(partition, report.messages[1].offset)
            assert rest.messages == report.messages[1:]
            nothing = await session.fetch(partition, report.end_offset)
            assert (nothing.messages, nothing.next_offset) == ((), report.end_offset)

    run(test)


def test_a_topic_nobody_announces(run: Run, tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            open_session(alone.servers) as session,
            session.producer(ProducerOptions(announce_seconds=0.05)) as producer,
        ):
            with pytest.raises(NoPartitionError, match="no broker announces"):
                await producer.send("unknown", b"")
            with pytest.raises(NoPartitionError, match="0-9 is none of its partitions"):
                await producer.send("test", b"", partition=Partition("test", 0, 9))
            async with session.consumer("group", "unknown") as consumer:
                await consumer.wait_assigned()
                assert consumer.partitions == ()
                assert consumer.problems == []

    alone = Brokers(tmp_path)
    alone.start()
    try:
        run(test)
    finally:
        alone.end()


def test_a_message_that_is_refused_keeps_nobody_else_back(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session, session.producer(WILD) as producer:
            partition = Partition(topic, 0, 0)
            too_long = bytes(1024 * 1024)
            with pytest.raises(SendRefusedError, match="too long") as refused:
                await producer.send(topic, too_long, partition=partition)
            assert refused.value.status == 500
            messages = [OutgoingMessage(payload, key=b"k") for payload in (b"1", b"2", too_long, b"3")]
            with pytest.raises(SendManyError, match="1 of 4") as some:
                await producer.send_many(topic, messages)
            assert [type(outcome).__name__ for outcome in some.value.outcomes] == [
                "Sent",
                "Sent",
                "SendRefusedError",
                "Sent",
            ]
            async with session.consumer("group", topic) as consumer:
                assert [m.payload for m in await receive(consumer, 3)] == [b"1", b"2", b"3"]

    run(test)


def test_send_nowait_says_when_the_buffer_is_full(run: Run, brokers: Brokers, topic: str) -> None:
    async def test() -> None:
        options = ProducerOptions(default_topic="*", buffer_bytes_max=10_000)
        async with open_session(brokers.servers) as session, session.producer(options) as producer:
            await producer.partitions(topic)
            told: list[object] = []
            pending = [producer.send_nowait(topic, bytes(1000), callback=told.append) for _ in range(8)]
            with pytest.raises(anyio.WouldBlock):
                producer.send_nowait(topic, b"")
            await producer.wait_for_room()
            pending.append(producer.send_nowait(topic, b""))
            await producer.flush()
            outcomes = [await one.wait() for one in pending]
            assert sorted(map(repr, told)) == sorted(map(repr, outcomes[:8]))
            assert producer.buffered == 0

    run(test)


def test_a_wrong_address_is_told_in_time(run: Run) -> None:
    async def test() -> None:
        for servers, reason in (
            ("metaq://127.0.0.1:1", "cannot be reached"),
            ("zookeeper://127.0.0.1:1", "no connection"),
        ):
            from metaserver.client import SessionOptions

            options = SessionOptions(discovery_seconds=0.5)
            with pytest.raises(DiscoveryError, match=reason):
                async with open_session(servers, options):
                    pytest.fail("there is nobody")
        for servers in ("127.0.0.1:8123", "metaq://", "metaq://host", "http://host:1", "zookeeper://host:0"):
            with pytest.raises(ConfigError, match="write zookeeper://HOST:2181"):
                async with open_session(servers):
                    pytest.fail("that is no address")

    run(test)


def test_names_of_groups(run: Run, brokers: Brokers) -> None:
    async def test() -> None:
        async with open_session(brokers.servers) as session:
            for group in ("", " ", "a.b", "a/b", "a b", "~!@"):
                with pytest.raises(ConfigError, match="group"):
                    session.consumer(group, "test")

    run(test)
