"""What was taken from a partition and did not reach the application, or was not dealt with, comes again."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from metaserver.client import ConsumerOptions, open_session
from metaserver.errors import HandlerFailedError
from tests.client.brokers import Brokers
from tests.support import put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from metaserver.client import ReceivedMessage

    Run = Callable[[Callable[[], Awaitable[None]]], None]

_groups = count()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    brokers = Brokers(tmp_path_factory.mktemp("broker"), partitions=1, topics=("test", "many"))
    brokers.start()
    with brokers.master.connect() as wire:
        for number in range(4):
            wire.ask(put("test", b"%d" % number, number))
        for number in range(600):
            wire.ask(put("many", b"%d" % number, number))
    yield brokers.servers
    brokers.end()


@pytest.fixture
def group() -> str:
    return f"group-{next(_groups)}"


def test_a_cancellation_while_others_run_passes_no_message_over(run: Run, servers: str, group: str) -> None:
    async def test() -> None:
        async with open_session(servers) as session, session.consumer(group, "many") as consumer:
            found: list[bytes] = []
            while len(found) < 600:
                # Wherever it yields: it is cancelled, and the application asks again.
                with anyio.CancelScope() as scope:
                    async for message in consumer:
                        found.append(message.payload)
                        if len(found) == 600:
                            break
                        if len(found) % 256 == 255:
                            scope.cancel()
        assert found == [b"%d" % number for number in range(600)]

    run(test)


def test_a_handler_that_was_cancelled_gets_its_message_again(run: Run, servers: str, group: str) -> None:
    async def test() -> None:
        seen: list[bytes] = []

        async def hangs(message: ReceivedMessage) -> None:
            seen.append(message.payload)
            if message.payload == b"1":
                scope.cancel()
                await anyio.sleep_forever()

        async def ends(message: ReceivedMessage) -> None:
            seen.append(message.payload)
            if message.payload == b"3":
                scope.cancel()

        async with open_session(servers) as session, session.consumer(group, "test") as consumer:
            for handler in (hangs, ends):
                with anyio.CancelScope() as scope:
                    await consumer.run(handler)
        assert seen == [b"0", b"1", b"1", b"2", b"3"]

    run(test)


def test_a_message_whose_handler_failed_comes_to_the_next_run(run: Run, servers: str, group: str) -> None:
    async def test() -> None:
        seen: list[bytes] = []

        async def fails(message: ReceivedMessage) -> None:
            seen.append(message.payload)
            if message.payload == b"1" and seen.count(b"1") == 1:
                raise ValueError

        async with (
            open_session(servers) as session,
            session.consumer(group, "test", ConsumerOptions(attempts_max=1)) as consumer,
        ):
            with pytest.raises(HandlerFailedError):
                await consumer.run(fails)
            async for message in consumer:
                seen.append(message.payload)
                if message.payload == b"3":
                    break
        assert seen == [b"0", b"1", b"1", b"2", b"3"]

    run(test)
