"""Brokers for the tests over HTTP."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.http.http_client import HttpClient
from tests.support import BrokerProcess, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

TOPICS = "[topic=t*]\nnumPartitions=2\n"
_topic_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """Shared by the tests of a module: its own registry, no users, topics beginning with t."""
    process = BrokerProcess(
        tmp_path_factory.mktemp("http"),
        topics=TOPICS,
        settings={"maxTransferSize": 65536, "maxRequestBytes": 131072},
    )
    with serving(process):
        yield process


@pytest.fixture
def client(broker: BrokerProcess) -> HttpClient:
    return HttpClient(broker.status()["http_port"])


@pytest.fixture
def topic() -> str:
    """One that nobody else uses; no partition of it exists."""
    return f"t{next(_topic_numbers)}"
