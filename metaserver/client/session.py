"""A client's session: finds the brokers, holds a connection to each, makes producers and consumers.

::

    async with open_session("metaq://127.0.0.1:8123") as session:
        async with session.producer() as producer:
            await producer.send("test", b"hello")
        async with session.consumer("readers", "test") as consumer:
            async for message in consumer:
                print(message.payload)
"""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs

from metaserver.client.browser import TopicBrowser
from metaserver.client.consumer import Consumer, ConsumerOptions, check_group
from metaserver.client.discovery import Discovery
from metaserver.client.fetching import FetchReport, fetch_once, reach
from metaserver.client.membership import Broadcast, Membership
from metaserver.client.network import Network
from metaserver.client.offsets import FileOffsets
from metaserver.client.offsets_registry import RegistryOffsets
from metaserver.client.pool import BrokerPool
from metaserver.client.producer import Producer
from metaserver.client.producer_options import ProducerOptions
from metaserver.client.scope import background_tasks
from metaserver.client.selectors import KeyHash
from metaserver.client.servers import ROOT_DEFAULT, Servers
from metaserver.client.times import find_time
from metaserver.client.transactions import XaResource, check_qualifier, common_broker
from metaserver.timers import Timers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from metaserver.client.cluster import Cluster
    from metaserver.client.dead_letters import DeadLetters
    from metaserver.client.filters import Filter
    from metaserver.client.local_store import LocalStore
    from metaserver.client.offsets import OffsetStorage
    from metaserver.client.partition import Partition
    from metaserver.client.scope import BackgroundTasks
    from metaserver.client.selectors import Selector

_CLOSE_SECONDS_MAX = 15.0
"""How long a consumer's or producer's end may take: hand-over, last commit, last answers."""


@attrs.frozen(kw_only=True)
class SessionOptions:
    """How a session finds and reaches brokers."""

    root: str = ROOT_DEFAULT
    """``zk.zkRoot`` of the brokers."""
    registry_timeout_seconds: float = 10.0
    """Of the session with the registry: so long after a crash, the claims of this client are free."""
    discovery_seconds: float = 10.0
    """How long a first look at the registry may take."""


class Session:
    """Made by :func:`open_session`."""

    def __init__(self, servers: Servers, options: SessionOptions, tasks: BackgroundTasks) -> None:
        """Use :func:`open_session`."""
        self.options = options
        discovery = Discovery(servers, options.registry_timeout_seconds, options.root)
        self.network = Network(discovery, BrokerPool(tasks), Timers())
        self.consumer_class = Consumer
        """Of the consumers it makes."""

    @property
    def cluster(self) -> Cluster:
        """The brokers, and the topics asked for so far, as of the last look."""
        return self.network.discovery.cluster

    async def topics(self) -> list[str]:
        """Every topic a broker has announced; raises DiscoveryError."""
        return await self.network.discovery.topics()

    async def partitions(self, topic: str) -> tuple[Partition, ...]:
        """Every partition of the topic that can be read; raises DiscoveryError."""
        await self.network.discovery.want([topic], self.options.discovery_seconds)
        return self.cluster.readable(topic)

    def producer(
        self,
        options: ProducerOptions | None = None,
        *,
        selector: Selector | None = None,
        store: LocalStore | None = None,
    ) -> AbstractAsyncContextManager[Producer]:
        """A producer; at the end of the block it waits until the fate of every message is known.

        ``selector``: which partition a message goes to; by its key, else in turn. ``store``: where messages
        wait that no broker takes, instead of failing.
        """
        return self._producer(options or ProducerOptions(), selector, store)

    def consumer(
        self,
        group: str,
        topics: str | Sequence[str],
        options: ConsumerOptions | None = None,
        *,
        offsets: OffsetStorage | None = None,
        message_filter: Filter | None = None,
        dead_letters: DeadLetters | None = None,
        is_broadcast: bool = False,
    ) -> AbstractAsyncContextManager[Consumer]:
        """A member of a group; at the end of the block it gives its partitions back and stores its offsets.

        ``offsets``: where the group's offsets are kept; in the registry, as MetaQ does. ``message_filter``:
        messages it returns false for count as dealt with. ``is_broadcast``: every instance (by host name)
        gets every message; its offsets are in a file of its own. Raises ConfigError.
        """
        names = (topics,) if isinstance(topics, str) else tuple(topics)
        check_group(group)
        return self._consumer(
            group,
            names,
            options or ConsumerOptions(),
            offsets,
            message_filter,
            dead_letters,
            is_broadcast=is_broadcast,
        )

    async def fetch(
        self, partition: Partition, offset: int, *, size_max: int = 1024 * 1024, wait_ms: int = 0
    ) -> FetchReport:
        """Read by hand, once, from any replica that answers; says what happened. Raises ClientError."""
        await self.network.discovery.want([partition.topic], self.options.discovery_seconds)
        return await fetch_once(self.cluster, self.network.pool, partition, offset, size_max, wait_ms)

    async def offset_at(self, partition: Partition, wall_seconds: float) -> int:
        """Where the first message begins that its broker took then or later; the end where there is none.

        ``wall_seconds`` since 1970, by the broker's clock. Raises ClientError.
        """
        await self.network.discovery.want([partition.topic], self.options.discovery_seconds)
        _replica, connection = await reach(self.cluster, self.network.pool, partition)
        return await find_time(connection, partition.topic, partition.number, wall_seconds)

    def browse(self, topic: str) -> TopicBrowser:
        """Every message of a topic, partition after partition, up to where each ends at that time.

        Iterate over it with ``async for``. It belongs to no group and commits nothing. Raises ClientError.
        """
        return TopicBrowser(lambda: self.partitions(topic), self.fetch)

    async def xa_resource(
        self,
        topics: str | Sequence[str],
        *,
        qualifier: str,
        broker_id: int | None = None,
        selector: Selector | None = None,
    ) -> XaResource:
        """A broker that takes messages of all the topics, as a party of distributed transactions.

        ``qualifier`` names the application: what is prepared under it is found under it again. Raises
        NoPartitionError, DiscoveryError and ConfigError.
        """
        check_qualifier(qualifier)
        names = (topics,) if isinstance(topics, str) else tuple(topics)
        found = [await self._writable(topic) for topic in names]
        home = common_broker(names, found, broker_id)
        return XaResource(self.network, selector or KeyHash(), self._writable, home, qualifier)

    async def _writable(self, topic: str) -> tuple[Partition, ...]:
        await self.network.discovery.want([topic], self.options.discovery_seconds)
        return self.cluster.writable(topic)

    @asynccontextmanager
    async def _producer(
        self, options: ProducerOptions, selector: Selector | None, store: LocalStore | None
    ) -> AsyncIterator[Producer]:
        forwarder = None
        if store is not None:
            from metaserver.client.forwarding import Forwarder  # noqa: PLC0415 - sqlite, for who uses it

            forwarder = Forwarder(store)
            await forwarder.load()
        producer = Producer(self.network, options, selector, forwarder)
        async with AsyncExitStack() as stack:
            if forwarder is not None:
                tasks = await stack.enter_async_context(background_tasks())
                tasks.start_soon(forwarder.run, producer.send_stored)
            stack.callback(producer.close)
            yield producer
            await producer.flush()

    @asynccontextmanager
    async def _consumer(
        self,
        group: str,
        topics: tuple[str, ...],
        options: ConsumerOptions,
        offsets: OffsetStorage | None,
        message_filter: Filter | None,
        dead_letters: DeadLetters | None,
        *,
        is_broadcast: bool,
    ) -> AsyncIterator[Consumer]:
        await self.network.discovery.want(topics, self.options.discovery_seconds)
        if is_broadcast:
            group = f"{group}-{instance_name()}"
            offsets = offsets or FileOffsets()
        consumer = self.consumer_class(
            group,
            self.network,
            options,
            offsets or RegistryOffsets(self.network.discovery),
            message_filter,
            dead_letters,
        )
        membership: Membership | Broadcast
        if is_broadcast:
            membership = Broadcast(topics, self.network.discovery, consumer)
        else:
            member_id = f"{group}_{instance_name()}-{os.getpid()}-{uuid.uuid4()}"
            membership = Membership(
                group, member_id, topics, self.network.discovery, consumer, options.strategy
            )
        consumer.join(membership)
        try:
            async with background_tasks() as tasks:
                tasks.start_soon(membership.run)
                if options.commit == "auto":
                    tasks.start_soon(consumer.keep_committing)
                yield consumer
        finally:
            with anyio.move_on_after(_CLOSE_SECONDS_MAX, shield=True):
                consumer.close()
                await membership.leave()


def instance_name() -> str:
    """This machine, as group members are named after it."""
    return socket.gethostname().replace(".", "-").replace(":", "-") or "localhost"


@asynccontextmanager
async def open_session(servers: str, options: SessionOptions | None = None) -> AsyncIterator[Session]:
    """A session, closed at the end of the block.

    ``servers`` is ``zookeeper://HOST:PORT,…/CHROOT``, or ``metaq://HOST:PORT,…``: brokers that host the
    registry, or know who does. Raises ConfigError, and DiscoveryError where the registry cannot be reached.
    """
    options = options or SessionOptions()
    parsed = Servers.parse(servers)
    async with background_tasks() as tasks:
        session = Session(parsed, options, tasks)
        discovery = session.network.discovery
        discovery.listen(lambda: session.network.pool.retain(set(discovery.cluster.brokers.values())))
        tasks.start_soon(session.network.timers.run)
        tasks.start_soon(discovery.run)
        await discovery.wait_read(options.discovery_seconds)
        yield session
