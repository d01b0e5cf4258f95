"""Java and Python members of one group: they share partitions, take over from each other, and lose nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs
import pytest

from metaserver.client import ConsumerOptions, SessionOptions, open_session
from tests.interop.java_member import DELIVERY_SECONDS_MAX, JavaMember, in_time
from tests.support import ROOT, WAIT_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from metaserver.client import Consumer, ReceivedMessage, Session
    from tests.interop.place import Place

pytestmark = pytest.mark.java

PARTITIONS = 10
ORDERS = f"[topic=orders]\nnumPartitions={PARTITIONS}\n"
GROUP = "mixed"
MANY = 100_000
OPTIONS = ConsumerOptions(commit_interval_seconds=0.2)
HEADER_BYTES = 20


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(2 * DELIVERY_SECONDS_MAX):
            await test()

    anyio.run(bounded, backend="trio")


def session_at(place: Place) -> AbstractAsyncContextManager[Session]:
    options = SessionOptions(root=place.root, registry_timeout_seconds=4.0, discovery_seconds=30.0)
    return open_session(f"zookeeper://{place.registry.address}", options)


async def until(condition: Callable[[], object]) -> None:
    """Look until it is so; the test's own bound ends it otherwise."""
    while not condition():
        await anyio.sleep(0.01)


async def until_seen(condition: Callable[[], bool], what: str) -> None:
    """The same of something that is looked at by blocking calls."""
    await anyio.to_thread.run_sync(in_time, condition, what)


@attrs.define(eq=False)
class Seen:
    """What all members have had."""

    counts: Counter[int] = attrs.Factory(Counter)
    by_member: dict[str, dict[str, list[int]]] = attrs.Factory(dict)
    """Offsets by member and partition, as they came."""

    def add(self, member: str, partition: str, offset: int, number: int) -> None:
        self.counts[number] += 1
        self.by_member.setdefault(member, {}).setdefault(partition, []).append(offset)

    def add_java(self, name: str, member: JavaMember) -> None:
        for delivery in member.received(name):
            begin = delivery.end - HEADER_BYTES - delivery.length
            self.add("java", delivery.partition, begin, int(delivery.body))

    def check(self, count: int, repeats_max: int) -> None:
        assert self.counts.keys() == set(range(count))
        assert sum(self.counts.values()) - count <= repeats_max
        for partitions in self.by_member.values():
            for offsets in partitions.values():
                assert offsets == sorted(set(offsets))


async def consume(consumer: Consumer, seen: Seen, pause_seconds: float = 0.0) -> None:
    async for message in consumer:
        seen.add("python", str(message.partition.in_topic), message.offset, int(message.payload))
        if pause_seconds:
            await anyio.sleep(pause_seconds)


def owners_of(place: Place) -> dict[str, str]:
    return place.owners(GROUP, "orders")


def test_partitions_are_shared_and_handed_over(place: Place) -> None:
    place.broker(ORDERS)

    def is_shared(java: int, python: int) -> bool:
        by_python = [
            partition for partition, owner in owners_of(place).items() if owner.startswith(GROUP + "_")
        ]
        owners = Counter(owners_of(place).values())
        return len(by_python) + java == PARTITIONS and sorted(owners.values()) == sorted(
            size for size in (java, python) if size
        )

    async def test() -> None:
        async with session_at(place) as session:
            consumer = await anyio.to_thread.run_sync(lambda: place.consumer(GROUP, "orders"))
            await until_seen(lambda: len(owners_of(place)) == PARTITIONS, "Java has all")
            async with session.consumer(GROUP, "orders", OPTIONS) as member:
                await until(lambda: len(member.partitions) == PARTITIONS // 2)
                shared = owners_of(place)
                assert sorted(Counter(shared.values()).values()) == [PARTITIONS // 2] * 2
                mine = {str(partition.in_topic) for partition in member.partitions}
                assert {p for p, owner in shared.items() if owner.startswith(f"{GROUP}_")} >= mine
                await anyio.to_thread.run_sync(place.java.close, consumer)
                await until(lambda: len(member.partitions) == PARTITIONS)
                again = await anyio.to_thread.run_sync(lambda: place.consumer(GROUP, "orders"))
                await until(lambda: len(member.partitions) == PARTITIONS // 2)
                assert member.problems == []
            await until_seen(
                lambda: len(owners_of(place)) == PARTITIONS and len(set(owners_of(place).values())) == 1,
                "Java has all again",
            )
            await anyio.to_thread.run_sync(place.java.close, again)

    run(test)


def test_each_goes_on_where_the_other_was(place: Place) -> None:
    place.broker(ORDERS)
    producer = place.producer("orders")

    async def receive(session: Session, count: int) -> list[ReceivedMessage]:
        found: list[ReceivedMessage] = []
        async with session.consumer(GROUP, "orders", OPTIONS) as member:
            async for message in member:
                found.append(message)
                if len(found) == count:
                    await member.commit()
                    return found
        raise AssertionError("the consumer ended by itself")

    async def test() -> None:
        async with session_at(place) as session:
            first = await anyio.to_thread.run_sync(
                lambda: place.java.produce(producer, "orders", 40, attribute="of java")
            )
            found = await receive(session, 40)
            assert {(str(m.partition.in_topic), m.offset, m.message_id) for m in found} == {
                (one.partition, one.offset, one.message_id) for one in first
            }
            assert {message.attribute for message in found} == {"of java"}
            stored = place.offsets(GROUP, "orders")
            ends = {str(m.partition.in_topic): f"{m.message_id}-{m.next_offset}" for m in found}
            assert stored == ends
            # Java has only what came later, and Python only what came after that.
            async with session.producer() as own:
                sent = await own.send_many("orders", [b"of python"] * 40)
            consumer = place.consumer(GROUP, "orders", commit=200)
            received = await anyio.to_thread.run_sync(place.java.wait_received, consumer, 40)
            assert {(d.partition, d.message_id) for d in received} == {
                (str(one.partition.in_topic), one.message_id) for one in sent
            }
            assert {delivery.body for delivery in received} == {"of python"}
            await anyio.to_thread.run_sync(place.java.close, consumer)
            last = await anyio.to_thread.run_sync(place.java.produce, producer, "orders", 10)
            assert {m.message_id for m in await receive(session, 10)} == {one.message_id for one in last}

    run(test)


def test_a_hundred_thousand_messages_and_the_java_member_dies(place: Place) -> None:
    place.broker(ORDERS, unflushThreshold=1000)
    member = place.member()
    seen = Seen()

    async def test() -> None:
        async with session_at(place) as session:
            await anyio.to_thread.run_sync(
                lambda: member.consume("consumer", "factory", GROUP, "orders", commit=200, delay=100)
            )
            async with session.consumer(GROUP, "orders", OPTIONS) as own, anyio.create_task_group() as tasks:
                await until(lambda: len(own.partitions) == PARTITIONS // 2)
                tasks.start_soon(consume, own, seen)
                tasks.start_soon(send, session)
                await until_seen(
                    lambda: len(member.events("received", "consumer")) > MANY // 20, "Java works"
                )
                await anyio.to_thread.run_sync(member.kill)
                seen.add_java("consumer", member)
                await until(lambda: len(seen.counts) == MANY)
                assert len(own.partitions) == PARTITIONS
                tasks.cancel_scope.cancel()
        by_java = sum(map(len, seen.by_member["java"].values()))
        assert by_java > MANY // 20
        # What Java had since its last commit comes again, and nothing else.
        seen.check(MANY, repeats_max=by_java)

    run(test)


async def send(session: Session) -> None:
    async with session.producer() as producer:
        for begin in range(0, MANY, 1000):
            await producer.send_many("orders", [b"%d" % number for number in range(begin, begin + 1000)])
            await anyio.sleep(0.02)


def test_a_hundred_thousand_messages_and_the_python_member_dies(place: Place) -> None:
    place.broker(ORDERS, unflushThreshold=1000)
    consumer = place.consumer(GROUP, "orders", commit=200, delay=100)
    process, lines = start_python_member(place)
    seen = Seen()

    async def test() -> None:
        async with session_at(place) as session, anyio.create_task_group() as tasks:
            await until_seen(
                lambda: sorted(Counter(owners_of(place).values()).values()) == [PARTITIONS // 2] * 2,
                "Java and Python share",
            )
            tasks.start_soon(send, session)
            await until(lambda: len(lines) > MANY // 20)
            process.kill()
            await anyio.to_thread.run_sync(process.wait, WAIT_SECONDS_MAX)

            def is_complete() -> bool:
                numbers = {int(line.split()[2]) for line in list(lines)}
                numbers.update(int(words[6][1:]) for words in place.java.events("received", consumer))
                return len(numbers) == MANY

            await until_seen(is_complete, "everything arrives")
        for line in lines:
            partition, offset, number = line.split()
            seen.add("python", partition, int(offset), int(number))
        seen.add_java(consumer, place.java)
        seen.check(MANY, repeats_max=len(lines))

    try:
        run(test)
    finally:
        process.kill()
        process.wait(WAIT_SECONDS_MAX)


def start_python_member(place: Place) -> tuple[subprocess.Popen[str], list[str]]:
    """The process, and the lines it prints, as they come."""
    script = Path(__file__).with_name("python_member.py")
    process = subprocess.Popen(
        [
            sys.executable,
            "-P",
            str(script),
            f"zookeeper://{place.registry.address}",
            place.root,
            GROUP,
            "orders",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                # A kill cuts the last line short: what was not printed whole was not dealt with.
                if line.endswith("\n"):
                    lines.append(line)  # noqa: PERF401 - read while it goes on

    threading.Thread(target=read, daemon=True).start()
    return process, lines
