"""A Java broker is replaced in place: ours starts with its file, its directory and its ZooKeeper."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from kazoo.client import KazooClient

from metaserver.control.client import call
from tests.interop.java_member import JavaMember, in_time
from tests.interop.test_java_client import session_of
from tests.support import WAIT_SECONDS_MAX, BrokerProcess, put
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.interop.conftest import StartBroker
    from tests.interop.original import ZooKeeperProcess

pytestmark = pytest.mark.java

TOPICS = "[topic=orders]\n\n[topic=audit]\nnumPartitions=1\n"
SETTINGS: dict[str, Any] = {"numPartitions": 3, "unflushThreshold": 1, "unflushInterval": 50}
XID = "XID:7:00:09ff:books"


@attrs.define(eq=False)
class Replacement(BrokerProcess):
    """Ours, with the file that the Java broker was started with; nothing is written for it."""

    file: Path = attrs.field(kw_only=True)

    @property
    def server_file(self) -> Path:
        return self.file

    @property
    def control_socket(self) -> Path:
        return self.file.parent.parent / "logs" / ".control.sock"


@attrs.define(eq=False)
class Place:
    """What was there before."""

    broker: BrokerProcess
    clients: JavaMember
    zookeeper: ZooKeeperProcess
    root: str
    classpath: str
    directory: Path

    def session(self, what: str) -> list[str]:
        """The Java client's XA resource, in a process of its own."""
        arguments = (self.zookeeper.address, self.root, str(self.broker.port), what)
        return session_of("TransactionSession", self.classpath, self.directory, *arguments)

    def stored(self, group: str, topic: str) -> dict[str, str]:
        """The group's offsets in ZooKeeper."""
        spy = KazooClient(f"{self.zookeeper.address}{self.root}", timeout=10.0)
        spy.start(10)
        try:
            path = f"/consumers/{group}/offsets/{topic}"
            return {child: spy.get(f"{path}/{child}")[0].decode() for child in spy.get_children(path)}
        finally:
            spy.stop()
            spy.close()


@pytest.fixture
def place(
    java_classpath: str, zookeeper: ZooKeeperProcess, start_java: StartBroker, tmp_path: Path
) -> Iterator[Place]:
    # The Java broker has no console here; ours has, and other tests run beside this one.
    java = start_java("before", topics=TOPICS, dashboardHttpPort=free_port(), **SETTINGS)
    (root,) = re.findall(r"^zk\.zkRoot=(.*)$", java.server_file.read_text(encoding="utf-8"), re.MULTILINE)
    clients = JavaMember(tmp_path / "clients", java_classpath, connect=zookeeper.address, root=root)
    clients.start()
    try:
        yield Place(java, clients, zookeeper, root, java_classpath, tmp_path)
    finally:
        clients.make_sure_it_is_gone()


@pytest.fixture
def replacement(place: Place) -> Iterator[Replacement]:
    """Not started."""
    ours = Replacement(place.broker.base / "ours", file=place.broker.server_file)
    ours.base.mkdir()
    yield ours
    ours.make_sure_it_is_gone()
    assert "Traceback" not in ours.log


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_java_clients_go_on(place: Place, replacement: Replacement, end: str) -> None:
    clients = place.clients
    clients.factory("factory")
    clients.producer("producer", "factory", "orders", "audit")
    clients.consume("billing", "factory", "billing", "orders", commit=100)
    before = clients.produce("producer", "orders", 30, prefix="before")
    audited = clients.produce("producer", "audit", 5, prefix="audited")
    clients.wait_received("billing", 30)
    in_time(
        lambda: (
            sum(int(value.split("-")[-1]) > 0 for value in place.stored("billing", "orders").values()) == 3
        ),
        "the group stores its offsets",
    )
    assert "prepare | 0" in place.session("prepare")

    if end == "stopped":
        assert place.broker.stop() == 0
    else:
        place.broker.kill()
    replacement.start()
    assert replacement.port == place.broker.port
    in_time(lambda: replacement.status()["registry"]["registered"] is True, "ours stands in ZooKeeper")

    # The same producer and the same consumer, which nobody has restarted.
    after = clients.produce_through("producer", "orders", 30)
    received = clients.wait_received("billing", 60)
    assert {one.message_id for one in received} >= {one.message_id for one in (*before, *after)}
    bodies = [one.body for one in received]
    assert [bodies.count(f"before-{number}") for number in range(30)] == [1] * 30
    ends = {one.partition: one.offset for one in before}
    assert all(one.offset > ends[one.partition] for one in after), "offsets go on"

    # A consumer of another group that begins now has everything, from both.
    clients.consume("late", "factory", "late", "audit", "orders", commit=100)
    clients.produce("producer", "audit", 5, prefix="after")
    everything = clients.wait_received("late", 70)
    assert {one.message_id for one in everything} >= {one.message_id for one in (*before, *after, *audited)}

    # What was prepared is known to its manager, and can still be committed.
    assert [entry["key"] for entry in transactions(replacement)] == [XID]
    assert place.session("decide") == [f"recover | [{XID}]", "commit | null", "recover | []", "end"]
    in_time(
        lambda: sum(one.body.startswith("left prepared-") for one in clients.received("billing")) == 3,
        "the group is given what was prepared",
    )
    assert not transactions(replacement)
    clients.stop()
    here = stored_bodies(replacement)
    assert replacement.stop() == 0

    # And back: the original opens the directory, with what ours keeps beside its partitions.
    place.broker.start()
    assert place.broker.ask(put("orders", b"java again", 1)).status == 200
    in_time(lambda: stored_bodies(place.broker) == sorted([*here, b"java again"]), "Java serves all of it")
    assert place.broker.stop() == 0


def stored_bodies(broker: BrokerProcess) -> list[bytes]:
    return sorted(record.data for partition in range(3) for record in broker.read_all("orders", partition))


def transactions(broker: BrokerProcess) -> list[dict[str, Any]]:
    """As ``metaServer transactions`` lists them."""
    told: dict[str, Any] = call(broker.control_socket, "transactions", WAIT_SECONDS_MAX)
    return list(told["transactions"])
