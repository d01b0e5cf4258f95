"""The embedded registry alone in a process: ``host.py DATA_DIRECTORY PORT TICK_MS COMPACTION_BYTES``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from metaserver.broker import Poller, ThreadExecutor, make_syncer, open_listener
from metaserver.message import MessageIdSource
from metaserver.names import BrokerId, PartitionId, Topic, TopicPartition
from metaserver.node.clock import SystemClock
from metaserver.registry.embedded import LogJournal, RegistryOptions, RegistryServer, ServerOptions
from metaserver.storage import MessageStore, RealFileSystem, StoreOptions


async def main(directory: Path, port: int, tick_ms: int, compaction_bytes: int) -> None:
    clock = SystemClock()
    options = StoreOptions(segment_bytes_max=1 << 20, checkpoint_bytes=1 << 18)
    store = MessageStore.open(RealFileSystem(), clock, options, [directory], f"pid {os.getpid()}")
    log = store.create(TopicPartition(Topic("registry"), PartitionId(0)), directory)
    ids = MessageIdSource(BrokerId(0), clock)
    ids.observe(store.highest_message_id)
    poller = Poller()
    executor = ThreadExecutor(2, poller)
    journal = LogJournal(log, ids, executor, make_syncer(poller, executor), lambda _offset: None)
    listener = open_listener("127.0.0.1", port)
    registry = RegistryOptions(tick_ms=tick_ms)
    server = RegistryServer(
        journal,
        listener,
        poller,
        clock,
        os.urandom,
        ServerOptions(registry=registry, compaction_bytes=compaction_bytes),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        await server.load()
        nursery.start_soon(server.serve)
        with trio.open_signal_receiver(15) as signals:
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()
    executor.close()
    store.close()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
