"""One ZooKeeper for all tests of this folder, and a place of its own in it for each."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.registry_zookeeper.zookeeper_server import ZooKeeperServer, require_zookeeper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.registry_zookeeper.zookeeper_server import Kazoo

_numbers = count()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    require_zookeeper()
    server = ZooKeeperServer(tmp_path_factory.mktemp("zookeeper"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(shared_server: ZooKeeperServer) -> ZooKeeperServer:
    """Serving, whatever the test before has done to it."""
    shared_server.wait_until_serving()
    return shared_server


@pytest.fixture
def spy(server: ZooKeeperServer) -> Iterator[Kazoo]:
    """A kazoo of the test's own."""
    with server.client() as client:
        yield client


@pytest.fixture
def root() -> str:
    """A node below which no other test writes."""
    return f"/test-{next(_numbers)}/meta"
