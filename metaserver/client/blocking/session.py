"""A session with plain calls: finds the brokers, makes producers and consumers."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from metaserver.client import session as asynchronous
from metaserver.client.blocking.block import Block, entered
from metaserver.client.blocking.consumer import Consumer
from metaserver.client.blocking.lending import LendingConsumer
from metaserver.client.blocking.loop_thread import loop_thread
from metaserver.client.blocking.producer import Producer
from metaserver.client.blocking.transactions import XaResource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from metaserver.client import transactions
    from metaserver.client.blocking.loop_thread import Backend
    from metaserver.client.cluster import Cluster
    from metaserver.client.consumer import ConsumerOptions
    from metaserver.client.dead_letters import DeadLetters
    from metaserver.client.fetching import FetchReport
    from metaserver.client.filters import Filter
    from metaserver.client.local_store import LocalStore
    from metaserver.client.offsets import OffsetStorage
    from metaserver.client.partition import Partition
    from metaserver.client.producer_options import ProducerOptions
    from metaserver.client.received import ReceivedMessage
    from metaserver.client.selectors import Selector
    from metaserver.client.session import SessionOptions

Result = TypeVar("Result")


class Session:
    """Made by :func:`open_session`."""

    def __init__(self, block: Block[asynchronous.Session]) -> None:
        """Use :func:`open_session`."""
        self._block = block
        self._inner = block.value

    @property
    def options(self) -> SessionOptions:
        """As it was made with."""
        return self._inner.options

    @property
    def cluster(self) -> Cluster:
        """The brokers, and the topics asked for so far, as of the last look."""
        return self._inner.cluster

    def topics(self) -> list[str]:
        """Every topic a broker has announced; raises DiscoveryError."""
        return self._block.call(self._inner.topics)

    def partitions(self, topic: str) -> tuple[Partition, ...]:
        """Every partition of the topic that can be read; raises DiscoveryError."""
        return self._block.call(self._inner.partitions, topic)

    @contextmanager
    def producer(
        self,
        options: ProducerOptions | None = None,
        *,
        selector: Selector | None = None,
        store: LocalStore | None = None,
    ) -> Iterator[Producer]:
        """A producer for any number of threads; the end of the block waits for the fate of every message.

        Where an error ends the block, nothing is waited for. The selector runs on the session's loop: it must
        not wait.
        """
        manager = self._inner.producer(options, selector=selector, store=store)
        with entered(self._block.thread, manager, self._block) as block:
            producer = Producer(block)
            yield producer
            producer.flush()

    @contextmanager
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
    ) -> Iterator[Consumer]:
        """A member of a group; at the end of the block it gives its partitions back and stores its offsets.

        As :meth:`metaserver.client.Session.consumer`, also in what ``offsets`` and ``dead_letters`` are: the
        session's loop calls them. Raises ConfigError.
        """
        manager = self._inner.consumer(
            group,
            topics,
            options,
            offsets=offsets,
            message_filter=message_filter,
            dead_letters=dead_letters,
            is_broadcast=is_broadcast,
        )
        with entered(self._block.thread, manager, self._block) as block:
            yield Consumer(block, message_filter)  # type: ignore[arg-type]  # as open_session has told it

    def xa_resource(
        self,
        topics: str | Sequence[str],
        *,
        qualifier: str,
        broker_id: int | None = None,
        selector: Selector | None = None,
    ) -> XaResource:
        """A broker as a party of distributed transactions; see the session of :mod:`metaserver.client`."""

        async def make() -> transactions.XaResource:
            return await self._inner.xa_resource(
                topics, qualifier=qualifier, broker_id=broker_id, selector=selector
            )

        return XaResource(self._block, self._block.call(make))

    def fetch(
        self, partition: Partition, offset: int, *, size_max: int = 1024 * 1024, wait_ms: int = 0
    ) -> FetchReport:
        """Read by hand, once, from any replica that answers; says what happened. Raises ClientError."""

        async def fetch() -> FetchReport:
            return await self._inner.fetch(partition, offset, size_max=size_max, wait_ms=wait_ms)

        return self._block.call(fetch)

    def offset_at(self, partition: Partition, wall_seconds: float) -> int:
        """Where the first message begins that its broker took then or later; the end where there is none.

        ``wall_seconds`` since 1970, by the broker's clock. Raises ClientError.
        """
        return self._block.call(self._inner.offset_at, partition, wall_seconds)

    def browse(self, topic: str) -> Iterator[ReceivedMessage]:
        """Every message of a topic, partition after partition, up to where each ends at that time.

        Belongs to no group, and commits nothing. Raises ClientError.
        """
        partitions, offset = deque(self.partitions(topic)), 0
        while partitions:
            report = self.fetch(partitions[0], offset)
            yield from report.messages
            if report.next_offset == offset:
                partitions.popleft()
                offset = 0
            else:
                offset = report.next_offset

    @contextmanager
    def enter(self, manager: AbstractAsyncContextManager[Result]) -> Iterator[Result]:
        """Enter an asynchronous context on the session's loop, such as ``LocalStore.open(path)``."""
        with entered(self._block.thread, manager, self._block) as block:
            yield block.value

    def call(self, function: Callable[..., Awaitable[Result]], *arguments: object) -> Result:
        """Call an asynchronous function on the session's loop: ``session.call(offsets.create_table)``.

        Interrupted, it is cancelled, and nothing of it is left when the interruption goes on.
        """
        return self._block.call(function, *arguments)


@asynccontextmanager
async def _lending_session(
    servers: str, options: SessionOptions | None
) -> AsyncIterator[asynchronous.Session]:
    async with asynchronous.open_session(servers, options) as session:
        session.consumer_class = LendingConsumer
        yield session


@contextmanager
def open_session(
    servers: str, options: SessionOptions | None = None, *, backend: Backend = "asyncio"
) -> Iterator[Session]:
    """A session, closed at the end of the block, and all that is still open in it.

    ``servers`` as in :func:`metaserver.client.open_session`; ``backend``: which event loop its thread runs.
    Raises ConfigError, and DiscoveryError where the registry cannot be reached.
    """
    with loop_thread(backend) as thread, entered(thread, _lending_session(servers, options)) as block:
        yield Session(block)
