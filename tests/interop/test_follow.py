"""Our slave finds a master of the Java original in ZooKeeper, and keeps to its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.interop.original import JavaBroker
from tests.support import BrokerProcess, eventually, put
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.interop.original import ZooKeeperProcess

pytestmark = pytest.mark.java

ROOT = "/follow-java"
TOPICS = "# 订单\n[topic=orders]\nnumPartitions=2\n\n[topic=dyn*]\n"


@attrs.define(eq=False)
class SteadyJavaBroker(JavaBroker):
    """Below the same root through all starts; its file is in GBK, as MetaQ's scripts write it."""

    def configure(self, settings: Mapping[str, object], topics: str) -> None:
        super().configure(settings, topics)
        lines = self.server_file.read_text(encoding="utf-8").splitlines()
        text = "".join(
            f"zk.zkRoot={ROOT}\n" if line.startswith("zk.zkRoot=") else f"{line}\n" for line in lines
        )
        self.server_file.write_bytes(text.encode("gbk"))


@pytest.fixture
def brokers(zookeeper: ZooKeeperProcess, tmp_path: Path) -> Iterator[tuple[SteadyJavaBroker, BrokerProcess]]:
    (tmp_path / "java").mkdir()
    (tmp_path / "slave").mkdir()
    master = SteadyJavaBroker(tmp_path / "java", topics=TOPICS, zookeeper=zookeeper)
    section = f"[zookeeper]\nzk.zkConnect={zookeeper.address}\nzk.zkRoot={ROOT}\nzk.zkSyncTimeMs=0\n"
    slave = BrokerProcess(
        tmp_path / "slave",
        settings={"maxLineBytes": 4096},
        topics="# 自己的\n[topic=orders]\n",
        registry=section,
        slave_of=0,
        slave_settings={"masterAddress": None, "autoSyncMasterConfig": "true"},
    )
    slave.configure(slave.settings, slave.topics)
    slave.server_file.write_bytes(slave.server_file.read_text(encoding="utf-8").encode("gbk"))
    yield master, slave
    slave.make_sure_it_is_gone()
    master.make_sure_it_is_gone()


def sync(slave: BrokerProcess) -> dict[str, Any]:
    found: dict[str, Any] = slave.status()["config_sync"]
    return found


def checksum(master: BrokerProcess) -> int:
    """Of what it has loaded, as it says itself."""
    (line,) = (line for line in master.statistics() if line.startswith("config_checksum "))
    return int(line.split()[1])


def is_in_step(master: BrokerProcess, slave: BrokerProcess) -> bool:
    found = sync(slave)
    return found["drift"] is False and found["merged_checksum"] == checksum(master)


def files(broker: BrokerProcess) -> dict[str, bytes]:
    found = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in broker.data.glob("*-*/*.meta")}
    return {name: content for name, content in found.items() if content}


def test_it_finds_a_java_master_and_keeps_to_its_configuration(
    brokers: tuple[SteadyJavaBroker, BrokerProcess],
) -> None:
    master, slave = brokers
    # The first start: nobody is there yet.
    slave.start()
    assert any("has no master of broker 0" in problem for problem in slave.status()["problems"])
    master.start()
    written = master.server_file.read_bytes()
    eventually(lambda: is_in_step(master, slave), "the slave has the master's configuration")
    text = slave.server_file.read_bytes().decode("gbk")
    assert "[topic=dyn*]" in text
    assert "# 自己的\n[topic=orders]\nnumPartitions=2\n" in text
    assert "maxLineBytes=4096" in text, "a key that Java's file cannot have"
    assert "serverPort=0" in text

    # A topic of a wildcard, and a partition that is new.
    for topic, partition in (("orders", 0), ("orders", 1), ("dynamo", 0)):
        assert master.ask(put(topic, b"hello", 1, partition)).status == 200
    eventually(lambda: files(slave) == files(master) != {}, "the copy of all of them")
    assert {"orders-0", "orders-1", "dynamo-0"} == {name.partition("/")[0] for name in files(slave)}

    # Nothing is given to the master.
    assert master.server_file.read_bytes() == written

    # Edited and not loaded: Java sends the file as it lies on disk.
    with master.server_file.open("ab") as file:
        file.write("\n# 新的\n[topic=added]\n".encode("gbk"))
    slave_before = slave.server_file.read_bytes()
    assert slave.stop() == 0
    slave.start()
    eventually(lambda: "not loaded by the master yet" in sync(slave)["problem"], "it waits for the master")
    assert slave.server_file.read_bytes() == slave_before

    # The master comes back with it, on another port.
    assert master.stop() == 0
    master.topics = f"{TOPICS}\n# 新的\n[topic=added]\n"
    master.port = free_port()
    master.start()
    eventually(lambda: is_in_step(master, slave), "the slave has found it, and its new configuration")
    assert "# 新的\n[topic=added]" in slave.server_file.read_bytes().decode("gbk")
    assert master.ask(put("added", b"hello", 1)).status == 200
    eventually(lambda: files(slave) == files(master), "the copy of the new topic")
    eventually(lambda: slave.status()["problems"] == [], "no problem is left")
    assert slave.stop() == 0
    assert "Traceback" not in slave.log
    assert master.stop() == 0
