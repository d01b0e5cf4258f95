"""A broker that is asked directly, in virtual time, on a disk that syncs by hand."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.broker import Broker, Committer, DiskGuard
from metaserver.config import parse_server_config
from metaserver.protocol import CommandDecoder, Limits, ReplyDecoder, Result, Value
from metaserver.storage import MessageStore
from metaserver.timers import Timers
from tests.broker.test_closed_partitions import AtOnce
from tests.broker.test_committer import HandSyncer
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import DATA, options

if TYPE_CHECKING:
    from metaserver.storage import LogSlice


class VirtualClock:
    """The loop's clock, for the broker."""

    def wall_seconds(self) -> float:
        return 1_700_000_000.0 + trio.current_time()

    def monotonic_seconds(self) -> float:
        return trio.current_time()


@attrs.define(eq=False)
class Peer:
    """A connection: what it is sent, and what is held for it."""

    broker: Broker
    received: bytearray = attrs.Factory(bytearray)
    flushed: int = 0
    is_open: bool = True
    inflight_bytes: int = 0
    is_resumed: bool = False

    def send(self, data: bytes) -> None:
        if self.is_open:
            self.received += data

    def send_slice(self, header: bytes, log_slice: LogSlice) -> None:
        self.received += header + log_slice.file.read(log_slice.size, log_slice.position)
        log_slice.release()

    def flush(self) -> None:
        self.flushed = len(self.received)

    def add_inflight(self, size_bytes: int) -> None:
        self.inflight_bytes += size_bytes

    def add_waiting_get(self, count: int) -> None:
        pass

    def resume(self) -> None:
        self.is_resumed = True

    def close(self) -> None:
        self.is_open = False

    def close_after_replies(self) -> None:
        self.is_open = False

    def ask(self, request: bytes) -> None:
        for command in CommandDecoder(Limits()).feed(request):
            self.broker.handle(command, self)
        self.flush()

    def answers(self) -> list[tuple[int | None, int, str]]:
        """Status, opaque and text of what has been sent since the last call."""
        assert self.flushed == len(self.received), "a reply waits for somebody to send it"
        found: list[tuple[int | None, int, str]] = []
        for reply in ReplyDecoder().feed(bytes(self.received)):
            if isinstance(reply, Value):
                found.append((None, reply.opaque, f"{len(reply.data)} bytes"))
            else:
                assert isinstance(reply, Result)
                found.append((reply.status, reply.opaque, reply.text))
        self.received.clear()
        self.flushed = 0
        return found

    def statuses(self) -> list[tuple[int | None, int]]:
        return [(status, opaque) for status, opaque, _ in self.answers()]


def make_broker(nursery: trio.Nursery, config_text: str) -> tuple[Broker, HandSyncer]:
    """Its configuration lies in no file; the nursery runs its timers."""
    filesystem, clock, timers = FaultyFileSystem(), VirtualClock(), Timers()
    nursery.start_soon(timers.run)
    store = MessageStore.open(filesystem, filesystem.clock, options(1_000_000), [DATA], "a test")
    disk, at_once, syncer = DiskGuard(filesystem, [DATA], 0), AtOnce(), HandSyncer()
    broker = Broker(
        config=parse_server_config(config_text, source="a test", base_directory=Path("/")),
        store=store,
        committer=Committer(at_once, syncer, timers, clock, disk),
        clock=clock,
        timers=timers,
        executor=at_once,
        random=Random(1),
        page_cache=at_once,
        address="host:1",
    )
    return broker, syncer
