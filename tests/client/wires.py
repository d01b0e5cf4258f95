"""Brokers for tests without a network: the client's own connections, and somebody who answers by hand.

Nothing moves by itself. A request goes to the broker when the test asks for it (:meth:`Broker.take`), and the
clock is trio's, which jumps.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import attrs
import trio.testing

from metaserver.client.cluster import Cluster
from metaserver.client.connection import BrokerConnection
from metaserver.client.discovery import Discovery
from metaserver.client.network import Network
from metaserver.client.partition import Partition
from metaserver.client.pool import BrokerLink, BrokerPool
from metaserver.client.servers import Servers
from metaserver.message import scan, split_attribute
from metaserver.protocol import Result, Value
from metaserver.registry.paths import Replica
from metaserver.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anyio.abc import SocketStream

    from metaserver.client.scope import BackgroundTasks

_LINE = re.compile(rb"(putbatch|put|get|epochs|version) ?([^\r]*)\r\n")
EXTENSIONS = frozenset({"long-poll", "put-batch"})


@attrs.frozen
class Request:
    """What a broker has received."""

    connection: BrokerConnection
    verb: str
    words: tuple[str, ...]
    body: bytes = attrs.field(repr=False)
    opaque: int

    @property
    def payloads(self) -> list[bytes]:
        """Of a put or a putbatch."""
        if self.verb == "put":
            return [split_attribute(int(self.words[3]), self.body)[1]]
        found = scan(self.body, has_ids=False)
        assert found.end == len(self.body), "a batch is whole records"
        ends = [*found.positions[1:], found.end]
        return [
            split_attribute(int.from_bytes(self.body[start + 16 : start + 20]), self.body[start + 20 : end])[
                1
            ]
            for start, end in zip(found.positions, ends, strict=True)
        ]

    @property
    def partition(self) -> Partition:
        """Of a put or a putbatch, at broker 0."""
        return Partition(self.words[0], 0, int(self.words[1]))

    @property
    def offset(self) -> int:
        """Of a get."""
        return int(self.words[3])

    @property
    def size_max(self) -> int:
        """Of a get."""
        return int(self.words[4])

    @property
    def wait_ms(self) -> int:
        """Of a get."""
        return int(self.words[6]) if len(self.words) > 6 else 0

    def result(self, status: int, text: str = "") -> None:
        self._settle(Result(status, text, self.opaque))

    def value(self, data: bytes) -> None:
        self._settle(Value(data, self.opaque))

    def take(self, offset: int = 0, message_id: int = 1) -> None:
        """Acknowledge a put or a putbatch."""
        partition = self.words[1]
        if self.verb == "put":
            self.result(200, f"{message_id} {partition} {offset}")
        else:
            self.result(200, f"{message_id} {partition} {offset} {len(self.payloads)}")

    def _settle(self, reply: Result | Value) -> None:
        settle = self.connection._waiting.pop(self.opaque, None)
        if settle is not None:
            settle(reply)


@attrs.define(eq=False)
class Broker:
    """One replica, at an address of its own."""

    link: BrokerLink
    extensions: frozenset[str] = EXTENSIONS

    def connect(self) -> None:
        connection = BrokerConnection(cast("SocketStream", None), f"{self.link.address[0]}:8123")
        connection.extensions = self.extensions
        self.link._set(connection)

    def disconnect(self, reason: str = "gone") -> None:
        self.link.problem = reason
        self.link._set(None)

    def take(self) -> list[Request]:
        """What was sent since the last time: it has left the client."""
        connection = self.link.connection
        assert connection is not None, "there is no connection"
        data = b"".join(connection._outgoing)
        connection._outgoing.clear()
        connection._outgoing_bytes = 0
        connection._sent_opaque = connection._last_opaque
        found = []
        while data:
            match = _LINE.match(data)
            assert match is not None, data[:80]
            verb, words = match[1].decode(), tuple(match[2].decode().split(" "))
            size = int(words[2]) if verb.startswith("put") else 0
            opaque = int(words[5] if verb == "get" else words[-1])
            found.append(Request(connection, verb, words, data[match.end() : match.end() + size], opaque))
            data = data[match.end() + size :]
        return found

    def one(self) -> Request:
        (request,) = self.take()
        return request

    def is_broken(self) -> bool:
        return self.link.usable is None

    def is_asked(self) -> bool:
        connection = self.link.connection
        return connection is not None and bool(connection._outgoing)


class _NoTasks:
    def start_soon(self, *_: object) -> None:
        """Links do not connect by themselves here."""


@attrs.define(eq=False)
class Wires:
    """A client's network, with brokers that are told what to do. Make it on the loop."""

    brokers: dict[Replica, Broker] = attrs.Factory(dict)
    discovery: Discovery = attrs.Factory(
        lambda: Discovery(Servers(is_zookeeper=False, addresses=(("127.0.0.1", 1),)), 10.0)
    )
    pool: BrokerPool = attrs.Factory(lambda: BrokerPool(cast("BackgroundTasks", _NoTasks())))
    timers: Timers = attrs.Factory(Timers)

    @property
    def network(self) -> Network:
        return Network(self.discovery, self.pool, self.timers)

    def broker(self, broker_id: int = 0, slave_id: int | None = None, *, is_connected: bool = True) -> Broker:
        replica = Replica(broker_id, slave_id)
        found = self.brokers[replica] = Broker(self.pool.link((str(replica), 8123)))
        if is_connected:
            found.connect()
        return found

    def succeed(self, replica: Replica) -> Broker:
        """Another broker has its place, at another address; the registry says so."""
        found = self.brokers[replica] = Broker(self.pool.link((f"next {replica}", 8123)))
        found.connect()
        cluster = self.discovery.cluster
        self.discovery.cluster = attrs.evolve(
            cluster, brokers={**cluster.brokers, replica: found.link.address}
        )
        self._changed()
        return found

    def announce(
        self,
        topic: str,
        counts: Mapping[int, int] | None = None,
        *,
        replicas: Iterable[Replica] | None = None,
        is_known: bool = True,
    ) -> None:
        """The registry says: brokers with so many partitions of the topic, at these replicas (at all)."""
        counts = {0: 1} if counts is None else counts
        there = [r for r in (self.brokers if replicas is None else replicas) if r.broker_id in counts]
        subscribed = {replica: counts[replica.broker_id] for replica in there}
        published = {replica: count for replica, count in subscribed.items() if replica.slave_id is None}
        cluster = self.discovery.cluster
        addresses = {replica: (str(replica), 8123) for replica in self.brokers}
        self.discovery.cluster = Cluster(
            addresses, {**cluster.published, topic: published}, {**cluster.subscribed, topic: subscribed}
        )
        self.discovery.problem = ""
        if is_known:
            self.discovery._topics[topic] = None
            self.discovery._known.add(topic)
        self._changed()

    def _changed(self) -> None:
        for on_change in list(self.discovery._listeners):
            on_change()


async def settle() -> None:
    """Let everything run that can run now."""
    await trio.testing.wait_all_tasks_blocked()


async def collect(*calls: Any) -> None:  # noqa: ANN401 - coroutine functions
    """Run them side by side."""
    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(call)
