"""The embedded registry inside of brokers, masters and slaves, as processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient

from metaserver.names import REGISTRY_LOG, REGISTRY_TOPIC
from tests.registry.wire import ACL, Create, Exists, GetData, Session, SetData, stat
from tests.support import (
    WAIT_SECONDS_MAX,
    BrokerProcess,
    eventually,
    get,
    parse_records,
    put,
    put_batch,
    record,
)
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOPICS = "[topic=test]\nnumPartitions=3\n[topic=*]\n"
_DATA = 100_000
"""Of one write, where the log shall grow fast."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., BrokerProcess]]:
    """Brokers that end with the test, the last one first."""
    brokers: list[BrokerProcess] = []

    def one(name: str, **how: object) -> BrokerProcess:
        broker = BrokerProcess(tmp_path / name, **{"topics": TOPICS, **how})  # type: ignore[arg-type]
        brokers.append(broker)
        return broker

    yield one
    for broker in reversed(brokers):
        broker.make_sure_it_is_gone()


@pytest.fixture
def spy() -> Iterator[Callable[[int], KazooClient]]:
    """Connects a kazoo to a port."""
    clients = []

    def connect(port: int) -> KazooClient:
        client = KazooClient(f"127.0.0.1:{port}", timeout=10.0)
        clients.append(client)
        client.start(WAIT_SECONDS_MAX)
        return client

    yield connect
    for client in clients:
        client.stop()
        client.close()


def offsets(broker: BrokerProcess, name: str = REGISTRY_TOPIC) -> tuple[int, int]:
    """Start and end of a topic's first partition, as a slave learns them."""
    (line,) = (line for line in broker.statistics("offsets") if line.startswith(f"{name} part 0 "))
    words = line.split(" ")
    return int(words[4]), int(words[6])


def segments(broker: BrokerProcess) -> dict[str, bytes]:
    """The files of the registry's log, by name; none while one is being removed."""
    found = sorted((broker.data / str(REGISTRY_LOG)).glob("*.meta"))
    try:
        return {path.name: path.read_bytes() for path in found}
    except FileNotFoundError:
        return {}


def test_a_master_and_its_slave_stand_in_it(
    make: Callable[..., BrokerProcess], spy: Callable[[int], KazooClient]
) -> None:
    master = make("master", settings={"serverPort": free_port()})
    master.start()
    assert master.status()["problems"] == []
    master.wait_registered()
    client = spy(master.registry_port)
    assert client.get("/meta/brokers/ids/0/master")[0] == b"meta://127.0.0.1:%d" % master.port
    assert json.loads(client.get("/meta/brokers/topics-sub/test/0-m")[0]) == {"numParts": 3, "broker": "0-m"}
    assert f"registry={master.registry_port}" in master.ask(b"version 1\r\n").text.split(" ")
    assert REGISTRY_TOPIC not in client.get_children("/meta/brokers/topics")

    slave = make("slave", slave_of=master.port)
    slave.start()
    slave.wait_registered()
    assert client.get("/meta/brokers/ids/0/slave0")[0] == b"meta://127.0.0.1:%d" % slave.port
    assert "embedded_registry" not in slave.status()
    assert "registry=" not in slave.ask(b"version 1\r\n").text
    assert master.ask(put("wild", b"x", 1)).status == 200
    eventually(
        lambda: client.exists("/meta/brokers/topics-sub/wild/0-s0") is not None, "the topic of a wildcard"
    )
    # What a kill leaves behind keeps neither of them from its name, and the slave finds the new port.
    before = master.registry_port
    master.kill()
    master.start()
    assert master.registry_port != before
    again = spy(master.registry_port)
    eventually(
        lambda: again.exists("/meta/brokers/ids/0/master") is not None, "the master is registered again"
    )
    slave.wait_registered()
    eventually(
        lambda: slave.status()["registry"]["servers"] == f"127.0.0.1:{master.registry_port}",
        "the slave has followed",
    )
    slave.wait_registered()
    assert again.get("/meta/brokers/ids/0/slave0")[1].ephemeralOwner == slave.status()["registry"]["session"]

    assert slave.stop() == 0
    assert again.exists("/meta/brokers/ids/0/slave0") is None
    assert master.stop() == 0
    assert "Deregistered" in master.log


def test_another_broker_joins_by_zookeepers_protocol(
    make: Callable[..., BrokerProcess], spy: Callable[[int], KazooClient]
) -> None:
    first = make("first")
    first.start()
    servers = f"[zookeeper]\nzk.zkConnect=127.0.0.1:{first.registry_port}\nzk.zkSyncTimeMs=0\n"
    second = make("second", settings={"brokerId": 1}, topics=f"[topic=test]\n{servers}")
    second.start()
    second.wait_registered()
    first.wait_registered()
    assert "embedded_registry" not in second.status()
    assert set(spy(first.registry_port).get_children("/meta/brokers/topics/test")) == {"0-m", "1-m"}


def test_the_log_is_the_brokers_own(make: Callable[..., BrokerProcess]) -> None:
    broker = make("broker")
    broker.start()
    broker.wait_registered()
    for request in (
        put(REGISTRY_TOPIC, b"x", 1),
        put(REGISTRY_TOPIC, b"x", 1, partition=-1),
        put(REGISTRY_TOPIC, b"x", 1, partition=1),
        put_batch(REGISTRY_TOPIC, record(b"x"), 1),
    ):
        reply = broker.ask(request)
        assert reply.status == 500
        assert "is the broker's own" in reply.text
    broker.assert_alive()
    start, end = offsets(broker)
    assert start == 0 < end
    reply = broker.ask(get(REGISTRY_TOPIC, 0, end, 1))
    assert len(parse_records(reply.body)) > 1
    assert not any(REGISTRY_TOPIC in line for line in broker.statistics("topics"))
    assert f"total_messages {0}" in broker.statistics()
    status = broker.status()
    assert (status["topics"], status["partitions"], status["messages"]) == (0, 0, 0)


def test_a_long_poll_of_a_slave_ends_with_the_next_transaction(make: Callable[..., BrokerProcess]) -> None:
    broker = make("broker")
    broker.start()
    broker.wait_registered()
    with Session(broker.registry_port) as session, broker.connect() as wire:
        _start, end = offsets(broker)
        wire.send(get(REGISTRY_TOPIC, end, 100_000, 7, wait_ms=60_000))
        assert session.ask(Create("/a", b"woken", ACL, 0)).code == 0
        reply = wire.reply()
        assert reply.status is None
        assert b"woken" in reply.body
        session.close()


def test_without_registration_there_is_no_registry(make: Callable[..., BrokerProcess]) -> None:
    broker = make("broker", topics="[topic=test]\n[zookeeper]\nzk.zkEnable=false\n")
    broker.start()
    assert "registry=" not in broker.ask(b"version 1\r\n").text
    assert not {"registry", "embedded_registry"} & set(broker.status())
    assert not (broker.data / str(REGISTRY_LOG)).exists()


def test_a_port_that_is_taken_ends_the_start(make: Callable[..., BrokerProcess]) -> None:
    first = make("first")
    first.start()
    port = first.registry_port
    second = make("second", topics=f"[topic=test]\n[zookeeper]\nregistryPort={port}\n")
    with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{port}: .*another registryPort"):
        second.start()


def test_a_damaged_registry_ends_nothing_but_itself(make: Callable[..., BrokerProcess]) -> None:
    broker = make("broker")
    broker.start()
    broker.wait_registered()
    broker.kill()
    directory = broker.data / str(REGISTRY_LOG)
    (directory / "recovery.checkpoint").unlink(missing_ok=True)
    (segment,) = directory.glob("*.meta")
    data = bytearray(segment.read_bytes())
    data[100] ^= 1
    segment.write_bytes(data)
    broker.start()
    assert broker.ask(put("test", b"x", 1)).status == 200
    status = broker.status()
    assert any("the embedded registry does not serve" in problem for problem in status["problems"])
    assert "is damaged or missing" in status["embedded_registry"]["failure"]
    assert broker.stop() == 0


def test_a_promoted_slave_serves_the_registry(make: Callable[..., BrokerProcess]) -> None:
    """Through compactions and all: files, sessions, offsets; nobody is refused for having seen more."""
    master = make("master", settings={"maxSegmentSize": 2**20})
    master.start()
    slave = make("slave", settings={"maxSegmentSize": 2**20}, slave_of=master.port)
    slave.start()
    session = Session(master.registry_port, timeout_ms=40_000)
    assert session.ask(Create("/offset", b"", ACL, 0)).code == 0
    assert session.ask(Create("/member", b"", ACL, 1)).code == 0
    value = 0
    for _ in range(3):
        snapshots = offsets(master)
        while offsets(master)[1] - snapshots[1] < 9_000_000:
            for _ in range(10):
                value += 1
                session.send(SetData("/offset", b"%d " % value + b"x" * _DATA, -1))
            for _ in range(10):
                reply = session.until_reply()[1]
                assert reply.code == 0
        eventually(lambda: _begins_with_snapshot(master), "the registry's log is compacted")
    assert offsets(master)[0] > 0, "no old segment was removed"
    eventually(lambda: {} != segments(slave) == segments(master), "the slave has the same files")

    master.kill()
    slave.kill()
    promoted = make("slave", settings=slave.settings)
    promoted.start()
    # It has seen transactions that this copy need not hold.
    again = session.resume(promoted.registry_port, last_zxid=reply.zxid + 1000)
    assert again.session_id == session.session_id
    assert again.ask(GetData("/offset", None)).body[4:].startswith(b"%d " % value)
    assert stat(again.ask(Exists("/member", None)).body).owner == session.session_id
    promoted.wait_registered()
    again.close()
    session.drop()


def _begins_with_snapshot(broker: BrokerProcess) -> bool:
    """Whether the last segments begin with a snapshot that nothing large follows."""
    return any(
        data[20:21] == b"\2" and len(data) < 2 * _DATA for data in list(segments(broker).values())[-1:]
    )
