"""A slave copies the journal like any log: promoted, it knows what is prepared, and finishes what is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import NO_REGISTRY, BrokerProcess, checksum, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOPIC = "orders"
PARTITIONS = range(3)


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[BrokerProcess, BrokerProcess]]:
    level = getattr(request, "param", "disk")
    topics = f"[topic={TOPIC}]\nnumPartitions=3\nackLevel={level}\n"
    settings: dict[str, object] = {"checkpointInterval": 1000}
    master = BrokerProcess(tmp_path / "master", settings=settings, topics=topics, registry=NO_REGISTRY)
    started = [master]
    try:
        master.start()
        slave = BrokerProcess(
            tmp_path / "slave", settings=settings, topics=topics, registry=NO_REGISTRY, slave_of=master.port
        )
        started.append(slave)
        slave.start()
        yield master, slave
    finally:
        for one in started:
            one.make_sure_it_is_gone()
            assert "Traceback" not in one.log


def fill(broker: BrokerProcess, key: str, *actions: str) -> None:
    with broker.connect() as wire:
        assert wire.ask(f"transaction {key} null BEGIN 1\r\n".encode()).status == 200
        for partition in PARTITIONS:
            head = f"put {TOPIC} {partition} {len(key)} 0 {checksum(key.encode())} {key} 2\r\n"
            assert wire.ask(head.encode() + key.encode()).status == 200
        for action in actions:
            reply = wire.ask(f"transaction {key} null {action} 3\r\n".encode())
            assert reply.status == 200, reply


def bodies(broker: BrokerProcess, partition: int) -> list[str]:
    return [record.data.decode() for record in broker.read_all(TOPIC, partition)]


def prepared(broker: BrokerProcess) -> list[str]:
    text = broker.ask(b"transaction null null RECOVER 1\r\n").text
    return text.split("\r\n") if text else []


def promote(slave: BrokerProcess) -> None:
    assert slave.stop() == 0
    slave.slave_of = None
    # It has no slave of its own to wait for.
    slave.configure(slave.settings, f"[topic={TOPIC}]\nnumPartitions=3\nackLevel=disk\n")
    slave.start()


def sizes(broker: BrokerProcess) -> dict[str, int]:
    paths = sorted(broker.data.glob("*/*.meta"))
    return {f"{path.parent.name}/{path.name}": path.stat().st_size for path in paths if path.exists()}


@pytest.mark.parametrize("pair", ["disk", "slave"], indirect=True)
def test_a_promoted_slave_knows_what_is_prepared(
    pair: tuple[BrokerProcess, BrokerProcess], request: pytest.FixtureRequest
) -> None:
    master, slave = pair
    eventually(lambda: master.status().get("slaves") is not None, "the slave reports to its master")
    fill(master, "XID:1:01::q", "PREPARE", "COMMIT_TWO_PHASE")
    fill(master, "XID:1:02::q", "PREPARE")
    fill(master, "TX:s:3", "COMMIT_ONE_PHASE")
    fill(master, "XID:1:04::q", "PREPARE", "ROLLBACK")
    if request.node.callspec.params["pair"] == "disk":
        eventually(lambda: sizes(slave) == sizes(master), "the slave has everything")
    master.kill()
    promote(slave)
    assert prepared(slave) == ["XID:1:02::q"]
    for partition in PARTITIONS:
        assert bodies(slave, partition) == ["XID:1:01::q", "TX:s:3"]
    with slave.connect() as wire:
        assert wire.ask(b"transaction XID:1:02::q null COMMIT_TWO_PHASE 1\r\n").status == 200
    for partition in PARTITIONS:
        assert bodies(slave, partition) == ["XID:1:01::q", "TX:s:3", "XID:1:02::q"]


def test_a_slave_drops_what_its_master_has_dropped(pair: tuple[BrokerProcess, BrokerProcess]) -> None:
    master, slave = pair
    for number in range(3):
        fill(master, f"XID:1:0{number}::q", "PREPARE", "COMMIT_TWO_PHASE")
    fill(master, "XID:1:09::q", "PREPARE")

    def starts(broker: BrokerProcess) -> list[int]:
        return sorted(int(path.stem) for path in (broker.data / "__transactions-0").glob("*.meta"))

    eventually(lambda: len(starts(master)) == 2, "the journal of the master is compacted")
    fill(master, "XID:1:10::q", "PREPARE", "COMMIT_TWO_PHASE")
    eventually(lambda: starts(master)[0] > 0, "it is compacted a second time")
    eventually(lambda: starts(slave)[:1] >= starts(master)[:1], "that of the slave as well")
    eventually(lambda: slave.status()["replication"]["lag_bytes"] == 0, "the slave has everything")
    master.kill()
    promote(slave)
    assert prepared(slave) == ["XID:1:09::q"]
