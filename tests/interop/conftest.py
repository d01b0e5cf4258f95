"""The Java original for the tests beside it, or the reason why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from tests.interop.java_member import JavaMember
from tests.interop.original import (
    JavaBroker,
    NotToBeHadError,
    ZooKeeperProcess,
    compile_sources,
    fetch_classpath,
)
from tests.interop.place import Place, RegisteredBroker, Registry
from tests.support import NO_REGISTRY, BrokerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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


@pytest.fixture(scope="session")
def java_classpath(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The jars of the original, and our programs for them, compiled."""
    try:
        return compile_sources(fetch_classpath(), tmp_path_factory.mktemp("classes"))
    except NotToBeHadError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def java(java_classpath: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JavaMember]:
    """One process for all Java clients that no test kills."""
    member = JavaMember(tmp_path_factory.mktemp("java"), java_classpath)
    try:
        member.start()
        yield member
        member.stop()
    finally:
        member.make_sure_it_is_gone()


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegisteredBroker]:
    """A broker that is the registry of others, which come and go while it stays."""
    settings: dict[str, object] = {"brokerId": 1023}
    broker = RegisteredBroker(tmp_path_factory.mktemp("host"), settings=settings)
    try:
        broker.start()
        yield broker
        assert broker.stop() == 0
    finally:
        broker.make_sure_it_is_gone()
    assert "Traceback" not in broker.log


@pytest.fixture(params=["zookeeper", "embedded"], scope="session")
def registry(request: pytest.FixtureRequest) -> Registry:
    """The one place that says which registries there are: what holds with one must hold with the other."""
    if request.param == "zookeeper":
        zookeeper: ZooKeeperProcess = request.getfixturevalue("zookeeper")
        return Registry("zookeeper", zookeeper.address)
    host: RegisteredBroker = request.getfixturevalue("host")
    return Registry("embedded", f"127.0.0.1:{host.registry_port}")


@pytest.fixture
def place(registry: Registry, java: JavaMember, tmp_path: Path) -> Iterator[Place]:
    """Brokers and clients of one test."""
    found = Place(registry, java, tmp_path)
    yield found
    found.close()
