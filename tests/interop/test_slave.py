"""Our slave behind a master of the Java original, which knows no long poll: it polls, and copies byte for byte."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from metaserver.client import connect
from metaserver.client.comparer import Comparer
from metaserver.client.comparison import Side
from metaserver.control.client import call
from tests.support import NO_REGISTRY, WAIT_SECONDS_MAX, BrokerProcess, eventually, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from metaserver.client.comparison import PartitionComparison
    from tests.interop.conftest import StartBroker

pytestmark = pytest.mark.java

TOPICS = "[topic=orders]\nnumPartitions=3\n\n[topic=late]\n"
SETTINGS: dict[str, Any] = {"maxSegmentSize": 10_000}
NAMES = ("orders-0", "orders-1", "orders-2")


@pytest.fixture
def start_slave(tmp_path: Path) -> Iterator[Callable[[BrokerProcess], BrokerProcess]]:
    started: list[BrokerProcess] = []

    def start(master: BrokerProcess) -> BrokerProcess:
        slave = BrokerProcess(
            tmp_path / "slave", settings=SETTINGS, topics=TOPICS, slave_of=master.port, registry=NO_REGISTRY
        )
        slave.base.mkdir()
        started.append(slave)
        slave.start()
        return slave

    yield start
    for slave in started:
        slave.make_sure_it_is_gone()


def fill(master: BrokerProcess, first: int, count: int) -> None:
    """Messages of all kinds to all partitions, pipelined a few at a time."""
    with master.connect() as wire:
        for number in range(first, first + count):
            body = b"message %d " % number * (number % 40)
            attribute = b"\0\0\0\x02\xc3\xa4" if number % 3 == 0 else b""
            flag = 1 if attribute else -2 * number
            wire.send(put("orders", attribute + body, number, number % 3, flag))
            if number % 10 == 9:
                assert {reply.status for reply in wire.replies(10)} == {200}


def status(slave: BrokerProcess) -> dict[str, Any]:
    return call(slave.control_socket, "slave-status", WAIT_SECONDS_MAX)


def files(broker: BrokerProcess, name: str) -> dict[str, bytes]:
    """The segments; not an empty last one, which a slave makes when there is something to write to it."""
    contents = {path.name: path.read_bytes() for path in (broker.data / name).glob("*.meta")}
    return {segment: content for segment, content in contents.items() if content}


def compared(master: BrokerProcess, slave: BrokerProcess) -> dict[str, PartitionComparison]:
    """What `metaServer compare` finds, over the wire of both brokers."""
    brokers = {Side.MASTER: master, Side.SLAVE: slave}
    comparer = Comparer({side: partial(connect, "127.0.0.1", one.port) for side, one in brokers.items()})
    trio.run(comparer.run)
    assert comparer.partitions is not None
    return {str(name): found for name, found in comparer.partitions.items()}


def is_readable(slave: BrokerProcess, offset: int) -> bool:
    return len(slave.read_all("orders", 0, offset)) == 1


def is_copied(master: BrokerProcess, slave: BrokerProcess) -> bool:
    """Every segment of the master is there, of the same name and content, and no other."""
    return all(files(slave, name) == files(master, name) != {} for name in NAMES)


def test_it_copies_a_java_master_through_restarts_of_both(
    start_java: StartBroker, start_slave: Callable[[BrokerProcess], BrokerProcess]
) -> None:
    master = start_java(topics=TOPICS, **SETTINGS)
    fill(master, 0, 600)
    slave = start_slave(master)
    eventually(lambda: is_copied(master, slave), "the copy of what was there")
    assert all(len(files(slave, name)) > 1 for name in NAMES), "several segments"

    # Messages that come while it follows are there soon: it asks again after slaveMaxDelayInMills at most.
    with master.connect() as wire:
        for number in range(5):
            offset = int(wire.ask(put("orders", b"now", number)).text.split(" ")[2])
            eventually(partial(is_readable, slave, offset), "the copy")
    eventually(lambda: is_copied(master, slave), "the copy of what came")
    eventually(lambda: status(slave)["lag_bytes"] == 0, "no lag")
    assert status(slave)["connected"] is True

    # A topic and its partition that are new to the slave.
    assert master.ask(put("late", b"hello", 1)).status == 200
    eventually(lambda: files(slave, "late-0") == files(master, "late-0") != {}, "the copy of a new topic")

    # The master goes and comes back.
    before = master.read_all("orders", 1)
    assert master.stop() == 0
    eventually(lambda: status(slave)["connected"] is False, "the slave notices")
    assert slave.read_all("orders", 1) == before
    master.start()
    fill(master, 600, 300)
    eventually(lambda: is_copied(master, slave), "the copy after the master's restart")
    slave.assert_alive()

    # The slave goes, the master is given more, the slave comes back.
    assert slave.stop() == 0
    fill(master, 900, 300)
    slave.start()
    eventually(lambda: is_copied(master, slave), "the copy after the slave's restart")
    eventually(lambda: status(slave)["lag_bytes"] == 0, "no lag")
    for partition in range(3):
        assert slave.read_all("orders", partition) == master.read_all("orders", partition)
    assert slave.stop() == 0
    assert master.stop() == 0
    assert is_copied(master, slave)
    assert "Traceback" not in slave.log


def test_it_begins_at_the_first_offset_of_a_java_master_and_refuses_puts(
    start_java: StartBroker, start_slave: Callable[[BrokerProcess], BrokerProcess]
) -> None:
    master = start_java(topics=TOPICS, **SETTINGS)
    fill(master, 0, 600)
    assert master.stop() == 0
    for name in NAMES:
        min((master.data / name).glob("*.meta")).unlink()
    master.start()
    fill(master, 600, 30)
    slave = start_slave(master)
    eventually(lambda: is_copied(master, slave), "the copy")
    assert "00000000000000000000.meta" not in files(slave, "orders-0")
    found = compared(master, slave)["orders-0"]
    assert found.is_equal
    assert found.content.compared_bytes == found.compared.size_bytes > 0
    assert len(found.segments[Side.MASTER]) == len(files(master, "orders-0")) - 1 > 0
    first = min((slave.data / "orders-0").glob("*.meta"))
    with first.open("r+b") as file:
        file.seek(30)
        old = file.read(1)[0]
        file.seek(30)
        file.write(bytes([old ^ 1]))
    assert compared(master, slave)["orders-0"].content.first is not None
    assert compared(master, slave)["orders-1"].is_equal
    reply = slave.ask(put("orders", b"hello", 1))
    assert reply.status == 503
    assert "slave" in reply.text
    assert slave.stop() == 0
    assert master.stop() == 0
