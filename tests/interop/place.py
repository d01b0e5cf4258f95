"""A registry, brokers of ours that register in it, and Java clients that find them there."""

from __future__ import annotations

import itertools
import json
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import attrs
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from tests.interop.java_member import JavaMember, in_time
from tests.support import BrokerProcess
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SYNC_MS = 200
"""How long a broker that leaves stays for those who have not noticed."""
_PORTS_MAX = 5
_numbers = itertools.count(1)


@attrs.frozen
class Registry:
    """Where brokers and clients of a test find each other."""

    kind: str
    """``zookeeper``, or ``embedded``."""
    address: str


@attrs.define(eq=False)
class RegisteredBroker(BrokerProcess):
    """Found by clients when its start returns: a broker serves without waiting for that for long."""

    def start(self) -> None:
        """Returns when it stands in the registry."""
        super().start()
        in_time(self._is_registered, f"{self.base.name} registers")

    def _is_registered(self) -> bool:
        return self.status()["registry"]["registered"] is True


@attrs.define(eq=False)
class Place:
    """What one test starts; everything has a name of its own, so that tests share a registry and a JVM."""

    registry: Registry
    java: JavaMember
    """The process for clients that nobody kills."""
    directory: Path
    number: int = attrs.Factory(lambda: next(_numbers))
    brokers: list[BrokerProcess] = attrs.Factory(list)
    members: list[JavaMember] = attrs.Factory(list)
    root: str = attrs.field(
        default=attrs.Factory(lambda self: f"/interop-{self.number}/meta", takes_self=True), kw_only=True
    )
    """Below it lies what this test registers."""
    _clients: list[str] = attrs.Factory(list)

    # Brokers.

    def broker(
        self, topics: str, *, broker_id: int = 0, sync_ms: int = SYNC_MS, **settings: object
    ) -> BrokerProcess:
        """A started master, whose port stays its own."""
        for attempt in range(_PORTS_MAX):
            settings |= {"brokerId": broker_id, "serverPort": free_port()}
            broker = self._broker(f"broker-{broker_id}-{attempt}", topics, sync_ms, **settings)
            try:
                broker.start()
            except AssertionError:
                # Somebody else has taken the port since: other tests look for one as well.
                if "Address already in use" not in broker.log:
                    raise
            else:
                return broker
        raise AssertionError("no port is free for long enough")

    def slave(self, master: BrokerProcess, slave_id: int = 0) -> BrokerProcess:
        """A slave of a master, not started."""
        broker_id = int(str(master.settings["brokerId"]))
        settings = {**master.settings, "serverPort": free_port()}
        slave = self._broker(f"slave-{broker_id}-{slave_id}", "", SYNC_MS, **settings)
        slave.topics, slave.slave_of, slave.slave_id = master.topics, master.port, slave_id
        # With it goes a node in the registry that Java's clients do not know.
        slave.slave_settings = {"autoSyncMasterConfig": "true"}
        return slave

    def _broker(self, name: str, topics: str, sync_ms: int, **settings: object) -> BrokerProcess:
        section = (
            f"[zookeeper]\nzk.zkConnect={self.registry.address}\nzk.zkRoot={self.root}\n"
            f"zk.zkSessionTimeoutMs=3000\nzk.zkSyncTimeMs={sync_ms}\n"
        )
        broker = RegisteredBroker(self.directory / name, settings=settings, topics=f"{topics}\n{section}")
        self.brokers.append(broker)
        return broker

    # Java clients in the shared process. Each method returns the name of what it made.

    def factory(self, kind: str = "plain", layout: Mapping[str, str] | None = None) -> str:
        """A session factory."""
        name = self._name("factory")
        self.java.factory(name, kind=kind, connect=self.registry.address, root=self.root, layout=layout)
        return name

    def producer(self, *topics: str, factory: str | None = None) -> str:
        """A producer that has published these topics."""
        factory = factory or self.factory()
        name = self._name("producer")
        self.java.producer(name, factory, *topics)
        return name

    def consumer(self, group: str, *topics: str, factory: str | None = None, **options: object) -> str:
        """A consumer whose subscription is complete; options as of JavaMember.consume."""
        factory = factory or self.factory()
        name = self._name("consumer")
        self.java.consume(name, factory, group, *topics, **options)
        return name

    def member(self) -> JavaMember:
        """A Java process of the test's own, started, with a factory ``factory``: for the killing."""
        name = f"member-{len(self.members)}"
        member = JavaMember(
            self.directory / name, self.java.classpath, connect=self.registry.address, root=self.root
        )
        self.members.append(member)
        member.start()
        member.factory("factory")
        return member

    def _name(self, what: str) -> str:
        name = f"{what}-{self.number}.{len(self._clients)}"
        self._clients.append(name)
        return name

    # The registry.

    @contextmanager
    def spy(self) -> Iterator[Any]:
        """A kazoo whose paths begin at the root."""
        client = KazooClient(f"{self.registry.address}{self.root}", timeout=10.0)
        client.start(10)
        try:
            yield client
        finally:
            client.stop()
            client.close()

    def offsets(self, group: str, topic: str) -> dict[str, str]:
        """What a group has stored, by partition."""
        with self.spy() as spy:
            path = f"/consumers/{group}/offsets/{topic}"
            if not spy.exists(path):
                return {}
            return {child: spy.get(f"{path}/{child}")[0].decode() for child in spy.get_children(path)}

    def owners(self, group: str, topic: str) -> dict[str, str]:
        """Who has which partition."""
        with self.spy() as spy:
            path = f"/consumers/{group}/owners/{topic}"
            if not spy.exists(path):
                return {}
            found = {}
            for child in spy.get_children(path):
                # An owner may go while we look.
                with suppress(NoNodeError):
                    found[child] = spy.get(f"{path}/{child}")[0].decode()
            return found

    def announced(self, topic: str, tree: str = "topics-sub") -> dict[str, int]:
        """Partitions by replica, as ``B-m`` or ``B-sS``."""
        with self.spy() as spy:
            path = f"/brokers/{tree}/{topic}"
            if not spy.exists(path):
                return {}
            return {
                child: json.loads(spy.get(f"{path}/{child}")[0])["numParts"]
                for child in spy.get_children(path)
            }

    def wait_committed(self, group: str, topic: str, offsets: Mapping[str, int]) -> None:
        """When the group has stored these offsets, by partition."""
        in_time(
            lambda: (
                {
                    partition: int(value.rpartition("-")[2])
                    for partition, value in self.offsets(group, topic).items()
                }
                == dict(offsets)
            ),
            f"{group} stores {dict(offsets)}; it has {self.offsets(group, topic)}",
        )

    def close(self) -> None:
        """Everything, whatever has happened; brokers must not have logged a traceback."""
        for name in reversed(self._clients):
            if name in self.java.clients():
                self.java.close(name)
        for member in self.members:
            member.make_sure_it_is_gone()
        for broker in reversed(self.brokers):
            broker.make_sure_it_is_gone()
        for broker in self.brokers:
            assert not (broker.base / "output").exists() or "Traceback" not in broker.log
