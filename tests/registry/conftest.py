"""Each server once for all tests of a run; tests keep apart by a path of their own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.registry.ensembles import ZOOKEEPER_MISSING, Embedded, Ensemble, ZooKeeper, has_zookeeper
from tests.registry.wire import ACL, Create, Session

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    ensemble = Embedded(tmp_path_factory.mktemp("embedded") / "data")
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.make_sure_it_is_gone()


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper]:
    if not has_zookeeper():
        pytest.skip(ZOOKEEPER_MISSING)
    ensemble = ZooKeeper(tmp_path_factory.mktemp("zookeeper") / "data")
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.make_sure_it_is_gone()


@pytest.fixture(params=["embedded", "zookeeper"])
def ensemble(request: pytest.FixtureRequest) -> Ensemble:
    """Both, one after the other: what holds for one must hold for the other."""
    found: Ensemble = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def root(ensemble: Ensemble) -> str:
    """A node of the test's own."""
    path = f"/test{next(_numbers)}"
    with Session(ensemble.port) as session:
        assert session.ask(Create(path, b"", ACL, 0)).code == 0
        session.close()
    return path
