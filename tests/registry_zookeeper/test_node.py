"""Real brokers that register in a real ZooKeeper."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.control.client import call
from tests.registry_zookeeper.zookeeper_server import tree
from tests.support import BrokerProcess, eventually, put
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.registry_zookeeper.zookeeper_server import Kazoo, ZooKeeperServer

TOPICS = "[topic=test]\nnumPartitions=3\n[topic=wild*]\n[topic=quiet]\nacceptPublish=false\n"


@pytest.fixture
def brokers(
    tmp_path: Path, server: ZooKeeperServer, root: str
) -> Iterator[tuple[BrokerProcess, BrokerProcess]]:
    registry = f"[zookeeper]\nzk.zkConnect={server.address}\nzk.zkRoot={root}\nzk.zkSyncTimeMs=100\n"
    port = free_port()
    topics = f"{TOPICS}{registry}"
    master = BrokerProcess(tmp_path / "master", settings={"serverPort": port}, topics=topics)
    slave = BrokerProcess(tmp_path / "slave", topics=topics, slave_of=port)
    yield master, slave
    for broker in (slave, master):
        broker.make_sure_it_is_gone()


def status(broker: BrokerProcess) -> dict[str, Any]:
    return call(broker.control_socket, "status", 5.0)


def names(spy: Kazoo, root: str) -> set[str]:
    return {path.removeprefix(root) for path in tree(spy, root)}


def test_a_master_and_its_slave_come_and_go(
    brokers: tuple[BrokerProcess, BrokerProcess], spy: Kazoo, root: str
) -> None:
    master, slave = brokers
    master.start()
    assert status(master)["registry"]["registered"] is True
    assert spy.get(f"{root}/brokers/ids/0/master")[0] == b"meta://127.0.0.1:%d" % master.port
    assert json.loads(spy.get(f"{root}/brokers/topics-sub/test/0-m")[0]) == {"numParts": 3, "broker": "0-m"}
    assert "/brokers/topics-pub/quiet/0-m" not in names(spy, root)
    assert "/brokers/topics-sub/quiet/0-m" in names(spy, root)

    slave.start()
    assert spy.get(f"{root}/brokers/ids/0/slave0")[0] == b"meta://127.0.0.1:%d" % slave.port

    assert master.ask(put("wilderness", b"x", 1)).status == 200
    eventually(lambda: "/brokers/topics-sub/wilderness/0-m" in names(spy, root), "the topic of a wildcard")
    eventually(lambda: "/brokers/topics-sub/wilderness/0-s0" in names(spy, root), "its replica")

    slave.stop()
    assert not {name for name in names(spy, root) if "0-s0" in name or "slave0" in name}
    master.stop()
    assert not {name for name in names(spy, root) if name.endswith(("0-m", "/master", "checksum"))}


def test_a_reload_announces_what_is_new(
    brokers: tuple[BrokerProcess, BrokerProcess], spy: Kazoo, root: str
) -> None:
    master, _ = brokers
    master.start()
    before = spy.get(f"{root}/brokers/ids/0/master_config_checksum")[0]
    with master.server_file.open("a", encoding="utf-8") as file:
        file.write("\n[topic=added]\n")
    call(master.control_socket, "reload", 5.0)
    eventually(lambda: "/brokers/topics-pub/added/0-m" in names(spy, root), "the new topic")
    eventually(
        lambda: spy.get(f"{root}/brokers/ids/0/master_config_checksum")[0] != before, "the new checksum"
    )


def test_a_broker_starts_and_serves_without_zookeeper(tmp_path: Path) -> None:
    registry = f"[zookeeper]\nzk.zkConnect=127.0.0.1:{free_port()}\n"
    broker = BrokerProcess(tmp_path, topics=f"[topic=test]\n{registry}")
    try:
        broker.start()
        assert broker.ask(put("test", b"x", 1)).status == 200
        assert any("not registered in ZooKeeper" in problem for problem in status(broker)["problems"])
    finally:
        broker.make_sure_it_is_gone()
