"""SIGKILL at any moment: what a client was told stays true, and its session goes on."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.registry.ensembles import Embedded
from tests.registry.wire import (
    ACL,
    Create,
    Exists,
    GetChildren2,
    GetData,
    Session,
    SessionEndedError,
    SetData,
    Transaction,
    stat,
)
from tests.support import BrokerProcess
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIPELINE = 20
_NODES = 5


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Embedded]:
    ensemble = Embedded(tmp_path / "data", compaction_bytes=16 * 1024)
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.make_sure_it_is_gone()


@attrs.define(eq=False)
class Writer:
    """Commits growing numbers, as consumers commit offsets, and remembers what was answered."""

    session: Session
    acknowledged: dict[str, int] = attrs.Factory(dict)
    sequential: set[str] = attrs.Factory(set)
    zxid: int = 0
    value: int = 0

    def write_until_the_end(self) -> None:
        """A pipeline of single writes, of multis that must not come apart, and of sequential nodes."""
        waiting: list[tuple[str, int]] = []
        try:
            while True:
                while len(waiting) < _PIPELINE:
                    self.value += 1
                    path = f"/offsets/{self.value % _NODES}"
                    waiting.append((path, self.value))
                    self._send(path)
                path, value = waiting.pop(0)
                events, reply = self.session.until_reply()
                assert (events, reply.code) == ([], 0)
                self.zxid = max(self.zxid, reply.zxid)
                if value % 7 == 0:
                    self.sequential.add(reply.body[4:].decode())
                else:
                    self.acknowledged[path] = value
        except (SessionEndedError, BrokenPipeError):
            return

    def _send(self, path: str) -> None:
        data = b"%d" % self.value
        if self.value % 7 == 0:
            self.session.send(Create("/queue/n", data, ACL, 2))
        elif self.value % 3 == 0:
            self.session.send(Transaction([SetData(path, data, -1), SetData("/twin", data, -1)]))
        else:
            self.session.send(SetData(path, data, -1))


@attrs.define(eq=False)
class Hosted:
    """The registry inside of a broker, killed with it."""

    broker: BrokerProcess
    port: int

    def start(self) -> None:
        self.broker.start()

    def kill(self) -> None:
        self.broker.kill()


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    port = free_port()
    broker = BrokerProcess(
        tmp_path, topics=f"[topic=test]\n[zookeeper]\nregistryPort={port}\nzk.zkSyncTimeMs=0\n"
    )
    try:
        broker.start()
        yield Hosted(broker, port)
    finally:
        broker.make_sure_it_is_gone()


def run(registry: Embedded | Hosted, rounds: int, seed: int) -> None:
    choose = random.Random(seed)
    writer = Writer(Session(registry.port))
    session = writer.session
    for path in ("/offsets", "/queue", "/twin", *(f"/offsets/{index}" for index in range(_NODES))):
        assert session.ask(Create(path, b"0", ACL, 0)).code == 0
    assert session.ask(Create("/member", b"", ACL, 1)).code == 0
    known: dict[str, int] = {}
    for _ in range(rounds):
        killer = threading.Timer(choose.uniform(0.0, 0.15), registry.kill)
        killer.start()
        writer.write_until_the_end()
        killer.join()
        session.drop()
        registry.start()
        session = writer.session = session.resume(registry.port, last_zxid=writer.zxid)
        assert session.session_id != 0, "the session is gone"
        assert stat(session.ask(Exists("/member", None)).body).owner == session.session_id
        for index in range(_NODES):
            path = f"/offsets/{index}"
            found = int(session.ask(GetData(path, None)).body[4:-68])
            assert known.get(path, 0) <= found, "an offset moved back"
            known[path] = found
        twin = int(session.ask(GetData("/twin", None)).body[4:-68])
        # A multi's two halves: the twin's number was also given to its offset, then perhaps replaced.
        assert known[f"/offsets/{twin % _NODES}"] >= twin
        body = session.ask(GetChildren2("/queue", None)).body
        for path in writer.sequential:
            assert path.removeprefix("/queue/").encode() in body, "an acknowledged node is lost"
        _check_acknowledged(writer, known)
    assert writer.value > rounds, "nothing was written"
    assert session.close() == []


def _check_acknowledged(writer: Writer, known: dict[str, int]) -> None:
    for path, value in writer.acknowledged.items():
        assert value <= known[path] <= writer.value, "an acknowledged write is lost"


def test_kills_lose_nothing_acknowledged(registry: Embedded) -> None:
    run(registry, rounds=5, seed=1)


@pytest.mark.slow
def test_many_kills_lose_nothing_acknowledged(registry: Embedded) -> None:
    run(registry, rounds=50, seed=2)


def test_kills_of_the_broker_lose_nothing_acknowledged(hosted: Hosted) -> None:
    run(hosted, rounds=12, seed=3)
    hosted.broker.wait_registered()


@pytest.mark.slow
def test_many_kills_of_the_broker_lose_nothing_acknowledged(hosted: Hosted) -> None:
    run(hosted, rounds=50, seed=4)
    hosted.broker.wait_registered()


def test_start_is_bounded_by_snapshots(registry: Embedded) -> None:
    """The log of many writes to one node is dropped again and again."""
    with Session(registry.port) as session:
        session.ask(Create("/a", b"", ACL, 0))
        for number in range(40):
            for _ in range(50):
                session.send(SetData("/a", b"%d" % number, -1))
            for _ in range(50):
                assert session.until_reply()[1].code == 0
        registry.kill()
        size = sum(file.stat().st_size for file in registry.directory.rglob("*.meta"))
        assert size < 40 * 50 * 60, "nothing was dropped"
        registry.start()
        with session.resume(registry.port) as again:
            assert stat(again.ask(Exists("/a", None)).body).version == 2000
