"""Brokers for the tests: one that most of them share, and others with settings of their own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.support import NO_REGISTRY, BrokerProcess, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_SETTINGS: dict[str, object] = {
    "maxSegmentSize": 4096,
    "maxTransferSize": 2048,
    "maxRequestBytes": 65536,
    "maxLineBytes": 512,
}
"""Small, so that every limit can be met."""
SHARED_TOPICS = "[topic=t*]\nnumPartitions=3\n\n[topic=quiet]\nstat=false\n"

_topic_numbers = itertools.count(1)


class StartBroker(Protocol):
    """Starts a broker that the test's end stops."""

    def __call__(
        self, name: str = ..., *, topics: str = ..., slave_of: int | None = ..., **settings: object
    ) -> BrokerProcess: ...


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """Shared by the tests of a module; topics beginning with t have three partitions."""
    process = BrokerProcess(
        tmp_path_factory.mktemp("shared"),
        settings=SHARED_SETTINGS,
        topics=SHARED_TOPICS,
        registry=NO_REGISTRY,
    )
    with serving(process):
        yield process


@pytest.fixture
def topic() -> str:
    """A topic nobody else uses; no partition of it exists."""
    return f"t{next(_topic_numbers)}"


@pytest.fixture
def start_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartBroker]:
    started = []

    def start(
        name: str = "own", *, topics: str = "[topic=test]\n", slave_of: int | None = None, **settings: object
    ) -> BrokerProcess:
        base = tmp_path_factory.mktemp(name)
        process = BrokerProcess(
            base, settings=settings, topics=topics, slave_of=slave_of, registry=NO_REGISTRY
        )
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.make_sure_it_is_gone()
    for process in started:
        assert "Traceback" not in process.log
