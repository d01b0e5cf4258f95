"""What filters let pass, and what becomes of a message whose filter raises."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import anyio
import pytest

from metaserver.client import (
    ConsumerOptions,
    MemoryOffsets,
    Partition,
    ReceivedMessage,
    by_attribute,
    by_attribute_pattern,
    open_session,
)
from metaserver.errors import ConfigError, HandlerFailedError
from metaserver.message import join_attribute
from tests.client.brokers import Brokers
from tests.support import put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from metaserver.client import Consumer

    Run = Callable[[Callable[[], Awaitable[None]]], None]

PARTITION = Partition("test", 0, 0)
_groups = count()


def message(attribute: str | None) -> ReceivedMessage:
    return ReceivedMessage(PARTITION, 0, 1, *join_attribute(attribute, b"payload"))


@pytest.mark.parametrize(
    ("attribute", "passes"),
    [("paid", True), ("refunded", True), ("Paid", False), ("paid ", False), ("", False), (None, False)],
)
def test_by_attribute(attribute: str | None, passes: bool) -> None:
    assert by_attribute("paid", "refunded")(message(attribute)) is passes


def test_by_no_attribute() -> None:
    wanted = by_attribute(None)
    assert wanted(message(None))
    assert not wanted(message(""))
    with pytest.raises(ConfigError):
        by_attribute()


@pytest.mark.parametrize(
    ("pattern", "attribute", "passes"),
    [
        ("order.*", "order.paid", True),
        ("order.*", "order.", True),
        ("order.*", "orders.paid", False),
        ("order.*", "new order.paid", False),
        ("ORDER.*", "order.paid", False),
        ("v[12]", "v2", True),
        ("v[12]", "v3", False),
        ("*", "two\nlines", True),
        ("*", "", True),
        ("*", None, False),
    ],
)
def test_by_attribute_pattern(pattern: str, attribute: str | None, passes: bool) -> None:
    assert by_attribute_pattern(pattern)(message(attribute)) is passes


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    brokers = Brokers(tmp_path_factory.mktemp("broker"), partitions=1)
    brokers.start()
    with brokers.master.connect() as wire:
        for number in range(4):
            wire.ask(put("test", b"%d" % number, number))
    yield brokers.servers
    brokers.end()


@pytest.fixture
def group() -> str:
    return f"group-{next(_groups)}"


class Stumbles:
    """A filter that fails on one message at first."""

    def __init__(self, failures: int, wanted: bytes = b"0123", stumbles_on: bytes = b"1") -> None:
        self.failures = failures
        self.wanted = wanted
        self.stumbles_on = stumbles_on

    def __call__(self, message: ReceivedMessage) -> bool:
        if message.payload == self.stumbles_on and self.failures:
            self.failures -= 1
            raise LookupError(message.payload)
        return message.payload in self.wanted


async def committed(offsets: MemoryOffsets, group: str) -> int:
    return (await offsets.load(group, [PARTITION]))[PARTITION].offset


async def take(consumer: Consumer, last: bytes) -> list[ReceivedMessage]:
    found = []
    async for message in consumer:
        found.append(message)
        if message.payload == last:
            break
    return found


def test_what_a_filter_raises_comes_out_and_its_message_comes_again(
    run: Run, servers: str, group: str
) -> None:
    async def test() -> None:
        async with (
            open_session(servers) as session,
            session.consumer(group, "test", message_filter=Stumbles(2)) as consumer,
        ):
            found = []
            for _ in range(2):
                with pytest.raises(LookupError):
                    found += await take(consumer, b"3")
            found += await take(consumer, b"3")
        assert [message.payload for message in found] == [b"1", b"2", b"3"]

    run(test)


def test_only_what_came_before_a_failing_filter_is_committed(run: Run, servers: str, group: str) -> None:
    async def test() -> None:
        offsets = MemoryOffsets()
        seen: list[ReceivedMessage] = []

        async def consume() -> None:
            async with (
                open_session(servers) as session,
                session.consumer(group, "test", offsets=offsets, message_filter=Stumbles(1)) as consumer,
            ):
                async for message in consumer:
                    seen.append(message)  # noqa: PERF401 - a list that is not finished is not there

        with pytest.raises(LookupError):
            await consume()
        assert [message.payload for message in seen] == [b"0"]
        assert await committed(offsets, group) == seen[0].next_offset

    run(test)


def test_a_filter_that_raises_is_a_handler_that_raises(run: Run, servers: str, group: str) -> None:
    async def test() -> None:
        handled: list[bytes] = []

        async def handler(message: ReceivedMessage) -> None:
            handled.append(message.payload)
            if message.payload == b"3":
                scope.cancel()

        options = ConsumerOptions(attempts_max=2, retry_seconds_min=0.001)
        async with open_session(servers) as session:
            async with session.consumer(group, "test", options, message_filter=Stumbles(2)) as consumer:
                with pytest.raises(HandlerFailedError) as caught:
                    await consumer.run(handler)
                assert isinstance(caught.value.__cause__, LookupError)
                assert handled == [b"0"]
                with anyio.CancelScope() as scope:
                    await consumer.run(handler)
            assert handled == [b"0", b"1", b"2", b"3"]

    run(test)


class Kept:
    """Dead letters, in memory."""

    def __init__(self) -> None:
        self.messages: list[ReceivedMessage] = []
        self.come = anyio.Event()

    async def put(self, group: str, message: ReceivedMessage, reason: str, *, attempts: int) -> None:
        assert (reason, attempts) == ("LookupError: b'3'", 2)
        self.messages.append(message)
        self.come.set()


def test_a_message_its_filter_cannot_read_is_a_dead_letter_and_dealt_with(
    run: Run, servers: str, group: str
) -> None:
    async def test() -> None:
        options, offsets, dead = (
            ConsumerOptions(attempts_max=2, retry_seconds_min=0.001),
            MemoryOffsets(),
            Kept(),
        )
        handled: list[bytes] = []

        async def handler(message: ReceivedMessage) -> None:
            handled.append(message.payload)

        async with (
            open_session(servers) as session,
            session.consumer(
                group,
                "test",
                options,
                offsets=offsets,
                message_filter=Stumbles(2, stumbles_on=b"3"),
                dead_letters=dead,
            ) as consumer,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(consumer.run, handler)
            await dead.come.wait()
            tasks.cancel_scope.cancel()
        assert handled == [b"0", b"1", b"2"]
        assert [await committed(offsets, group)] == [message.next_offset for message in dead.messages]

    run(test)


def test_what_is_passed_over_commits_nothing_before_it_that_is_open(
    run: Run, servers: str, group: str
) -> None:
    async def test() -> None:
        options, offsets = ConsumerOptions(commit="manual"), MemoryOffsets()
        async with open_session(servers) as session:
            wanted = Stumbles(0, b"13")
            async with session.consumer(
                group, "test", options, offsets=offsets, message_filter=wanted
            ) as consumer:
                one, three = await take(consumer, b"3")
            # 0 is passed over with nothing before it; 2 follows 1, which nobody has committed.
            assert await committed(offsets, group) == one.offset
            async with session.consumer(
                group, "test", options, offsets=offsets, message_filter=wanted
            ) as consumer:
                assert await take(consumer, b"3") == [one, three]
                await consumer.commit(one)
                assert await committed(offsets, group) == one.next_offset
                await consumer.commit()
                assert await committed(offsets, group) == three.next_offset

    run(test)
