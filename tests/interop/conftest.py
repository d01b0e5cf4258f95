"""The Java original for the tests beside it, or the reason why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from tests.interop.original import JavaBroker, NotToBeHadError, ZooKeeperProcess, fetch_classpath
from tests.support import NO_REGISTRY, BrokerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


class StartBroker(Protocol):
    """Starts a broker that the test's end stops."""

    def __call__(self, name: str = ..., *, topics: str = ..., **settings: object) -> BrokerProcess: ...


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperProcess]:
    try:
        classpath = fetch_classpath()
    except NotToBeHadError as error:
        pytest.skip(str(error))
    process = ZooKeeperProcess(tmp_path_factory.mktemp("zookeeper"), classpath)
    try:
        process.start()
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def start_java(
    zookeeper: ZooKeeperProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartBroker]:
    """The Java broker."""
    started: list[BrokerProcess] = []

    def start(name: str = "java", *, topics: str = "[topic=test]\n", **settings: object) -> BrokerProcess:
        base = tmp_path_factory.mktemp(name)
        process = JavaBroker(base, settings=settings, topics=topics, zookeeper=zookeeper)
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.make_sure_it_is_gone()


@pytest.fixture(scope="module")
def start_ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartBroker]:
    """Our broker."""
    started: list[BrokerProcess] = []

    def start(name: str = "ours", *, topics: str = "[topic=test]\n", **settings: object) -> BrokerProcess:
        base = tmp_path_factory.mktemp(name)
        process = BrokerProcess(base, settings=settings, topics=topics, registry=NO_REGISTRY)
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.make_sure_it_is_gone()
    for process in started:
        assert "Traceback" not in process.log
