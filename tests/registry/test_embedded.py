"""The registry as a node hosts it: it fails alone, says so, and leaves its log at rest."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import attrs
import trio
import trio.lowlevel

from metaserver.broker import Partition, Poller, ThreadExecutor, open_listener
from metaserver.config import parse_server_config
from metaserver.message import MessageIdSource
from metaserver.names import REGISTRY_LOG, BrokerId
from metaserver.node.clock import SystemClock
from metaserver.node.registry import EmbeddedRegistry
from metaserver.storage import MessageStore, Point, RealFileSystem, StoreOptions
from tests.registry.wire import ACL, Create, Session, SessionEndedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from metaserver.config import TopicConfig
    from metaserver.names import TopicPartition
    from metaserver.storage import File

SERVER_INI = (
    "[system]\nbrokerId=0\nnumPartitions=1\nmaxSegmentSize=4096\nmaxTransferSize=4096\n"
    "unflushThreshold=0\nunflushInterval=1000\n[topic=test]\n"
)


@attrs.define
class Syncer:
    """Syncs at once; fails, or keeps the outcome to itself, when told."""

    failure: OSError | None = None
    held: list[Callable[[], None]] | None = None

    def sync(self, file: File, done: Callable[[OSError | None], None]) -> None:
        file.sync(Point.APPEND_SYNC)
        if self.held is None:
            done(self.failure)
        else:
            self.held.append(partial(done, self.failure))

    def close(self) -> None:
        """Nothing is held open."""


@attrs.define
class Host:
    """As much of a broker as a registry needs."""

    registry: EmbeddedRegistry
    syncer: Syncer
    partition: Partition


@asynccontextmanager
async def hosting(directory: Path) -> AsyncIterator[Host]:
    clock, syncer, poller = SystemClock(), Syncer(), Poller()
    options = StoreOptions(segment_bytes_max=1 << 20, checkpoint_bytes=1 << 18)
    store = MessageStore.open(RealFileSystem(), clock, options, [directory], "test")
    config = parse_server_config(SERVER_INI, source="f", base_directory=directory)
    partition = Partition.of(REGISTRY_LOG, store.create(REGISTRY_LOG, directory), config)

    def open_partition(name: TopicPartition, _config: TopicConfig) -> Partition:
        assert name == REGISTRY_LOG
        return partition

    broker: Any = SimpleNamespace(
        config=config,
        clock=clock,
        message_ids=MessageIdSource(BrokerId(0), clock),
        open_partition=open_partition,
    )
    executor = ThreadExecutor(1, poller)
    registry = EmbeddedRegistry(broker, "127.0.0.1", open_listener("127.0.0.1", 0), poller, executor, syncer)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            nursery.start_soon(registry.run)
            await registry.wait_opened()
            yield Host(registry, syncer, partition)
            nursery.cancel_scope.cancel()
    finally:
        executor.close()
        poller.close()
        store.close()


async def in_thread(function: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the function returns
    return await trio.to_thread.run_sync(function, abandon_on_cancel=True)


async def test_a_failed_sync_shows_and_ends_nobody_else(tmp_path: Path) -> None:
    async with hosting(tmp_path) as host:
        session = await in_thread(lambda: Session(host.registry.port))
        assert host.registry.has_sessions()
        assert host.registry.failure == ""
        assert host.partition.readable_offset == host.partition.log.end_offset > 0
        host.syncer.failure = OSError(5, "broken disk")
        try:
            await in_thread(lambda: session.ask(Create("/a", b"", ACL, 0)))
        except SessionEndedError:
            pass
        else:
            raise AssertionError("a write that is not on disk was acknowledged")
        assert "broken disk" in host.registry.failure
        assert not host.registry.has_sessions()
        session.drop()
        await host.registry.stop()


async def test_a_stop_waits_for_the_append_under_way(tmp_path: Path) -> None:
    async with hosting(tmp_path) as host:
        session = await in_thread(lambda: Session(host.registry.port))
        host.syncer.held = []
        session.send(Create("/a", b"", ACL, 0))
        while not host.syncer.held:
            await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            stopped = trio.Event()

            async def stop() -> None:
                await host.registry.stop()
                stopped.set()

            nursery.start_soon(stop)
            await in_thread(session.expect_end)
            assert not stopped.is_set()
            (finish,) = host.syncer.held
            finish()
        assert stopped.is_set()
        assert host.partition.log.flushed_offset == host.partition.log.end_offset
        session.drop()
