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
from tests.interop.place import Place, Registry
from tests.registry.ensembles import Embedded
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
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Our registry, alone in a process."""
    process = Embedded(tmp_path_factory.mktemp("registry") / "data")
    try:
        process.start()
        yield process
    finally:
        process.make_sure_it_is_gone()
    assert "Traceback" not in process.output


@pytest.fixture(params=["zookeeper", "embedded"], scope="session")
def registry(request: pytest.FixtureRequest) -> Registry:
    """The one place that says which registries there are: what holds with one must hold with the other."""
    process: ZooKeeperProcess | Embedded = request.getfixturevalue(request.param)
    return Registry(request.param, process.address)


@pytest.fixture
def place(registry: Registry, java: JavaMember, tmp_path: Path) -> Iterator[Place]:
    """Brokers and clients of one test."""
    found = Place(registry, java, tmp_path)
    yield found
    found.close()
