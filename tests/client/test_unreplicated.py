"""A message that is on the master's disk and not at enough slaves is neither sent nor refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from metaserver.client import ProducerOptions, open_session
from metaserver.errors import SendUnknownError
from tests.client.brokers import Brokers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Brokers]:
    found = Brokers(tmp_path, partitions=1, settings={"ackLevel": "slave", "slaveAckTimeoutInMills": 500})
    found.start()
    yield found
    found.end()


def test_the_producer_says_that_it_does_not_know(run: Run, brokers: Brokers) -> None:
    async def test() -> None:
        # A slave that is there and never has anything.
        with brokers.master.connect() as slave:
            assert slave.ask(b"replicated g 1 0 1\r\n").status == 200
            async with (
                open_session(brokers.servers) as session,
                session.producer(ProducerOptions()) as producer,
            ):
                with pytest.raises(SendUnknownError, match="on this master's disk at offset 0"):
                    await producer.send("test", b"hello")
        assert [found.data for found in brokers.master.read_all("test")] == [b"hello"], "it was sent once"

    run(test)
