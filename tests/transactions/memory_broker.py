"""A broker on a filesystem in memory, whose workers, disk and timers do at once what they are asked."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import attrs

from metaserver.broker import Broker, Committer, DiskGuard
from metaserver.config import parse_server_config
from metaserver.message import iterate_records
from metaserver.names import TRANSACTIONS_LOG
from metaserver.protocol import CommandDecoder, ReplyDecoder, Result
from metaserver.protocol import Limits as WireLimits
from metaserver.storage import MessageStore, Point
from metaserver.storage import read_runs as runs
from tests.storage.support import options
from tests.support import checksum, put

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.config import ServerConfig
    from metaserver.storage import File, LogSlice
    from tests.storage.faulty_filesystem import FaultyFileSystem

TOPIC = "orders"
DATA = Path("/data")


def make_config(**settings: object) -> ServerConfig:
    keys: dict[str, object] = {
        "brokerId": 0,
        "numPartitions": 3,
        "maxSegmentSize": 4096,
        "maxTransferSize": 4096,
        "unflushThreshold": 0,
        "unflushInterval": 1000,
        "dataPath": "/data",
        **settings,
    }
    lines = "".join(f"{key}={value}\n" for key, value in keys.items())
    return parse_server_config(
        f"[system]\n{lines}[topic={TOPIC}]\n", source="f", base_directory=Path("/base")
    )


class AtOnce:
    """An executor, a syncer and timers."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], None]]] = []

    def submit(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        try:
            result = job()
        except OSError as error:
            done(None, error)
        except ValueError:
            raise
        else:
            done(result, None)

    def sync(self, file: File, done: Callable[[OSError | None], None]) -> None:
        try:
            file.sync(Point.APPEND_SYNC)
        except OSError as error:
            done(error)
        else:
            done(None)

    def close(self) -> None:
        pass

    def schedule(
        self, after_seconds: float, callback: Callable[[], None]
    ) -> tuple[float, Callable[[], None]]:
        entry = (after_seconds, callback)
        self.due.append(entry)
        return entry

    def cancel(self, timer: tuple[float, Callable[[], None]]) -> None:
        if timer in self.due:
            self.due.remove(timer)

    def pass_time(self) -> None:
        """Call what is scheduled by now, once."""
        due, self.due = self.due, []
        for _, callback in due:
            callback()


class Peer:
    """A connection: what it is answered, by opaque."""

    is_open = True

    def __init__(self) -> None:
        self.replies: dict[int, tuple[int, str]] = {}
        self.inflight_bytes = 0

    def send(self, data: bytes) -> None:
        for reply in ReplyDecoder().feed(data):
            assert isinstance(reply, Result)
            assert reply.opaque not in self.replies, "answered twice"
            self.replies[reply.opaque] = (reply.status, reply.text)

    def send_slice(self, header: bytes, log_slice: LogSlice) -> None:
        raise AssertionError

    def flush(self) -> None:
        pass

    def add_inflight(self, size_bytes: int) -> None:
        self.inflight_bytes += size_bytes

    def add_waiting_get(self, count: int) -> None:
        pass

    def resume(self) -> None:
        pass

    def close_after_replies(self) -> None:
        raise AssertionError("malformed")

    def close(self) -> None:
        raise AssertionError("nobody closes it")


@attrs.define(eq=False)
class MemoryBroker:
    """From the opening of its store to its crash or close."""

    filesystem: FaultyFileSystem
    config: ServerConfig = attrs.Factory(make_config)
    broker: Broker = attrs.field(init=False)
    machine: AtOnce = attrs.Factory(AtOnce)
    store: MessageStore = attrs.field(init=False)
    _opaque: int = 0

    def __attrs_post_init__(self) -> None:
        machine: Any = self.machine
        clock = self.filesystem.clock
        self.store = MessageStore.open(
            self.filesystem, clock, options(4096, epoch_origin=1), self.config.data_paths, "a test"
        )
        disk = DiskGuard(self.filesystem, self.config.data_paths, 0)
        nobody: Any = None
        self.broker = Broker(
            config=self.config,
            store=self.store,
            committer=Committer(machine, machine, machine, clock, disk),
            clock=clock,
            timers=machine,
            executor=machine,
            random=Random(1),
            page_cache=nobody,
            address="here:1",
        )

    def ask(self, peer: Peer, request: Callable[[int], bytes]) -> tuple[int, str] | None:
        """The answer, if there is one yet."""
        self._opaque += 1
        for command in CommandDecoder(WireLimits()).feed(request(self._opaque)):
            self.broker.handle(command, peer)
        return peer.replies.get(self._opaque)

    def do(self, peer: Peer, action: str, key: str, options: str = "") -> tuple[int, str] | None:
        return self.ask(
            peer, lambda opaque: f"transaction {key} null {action} {options}{opaque}\r\n".encode()
        )

    def put(self, peer: Peer, body: bytes, partition: int, key: str | None = None) -> tuple[int, str] | None:
        if key is None:
            return self.ask(peer, partial(put, TOPIC, body, partition=partition))
        head = f"put {TOPIC} {partition} {len(body)} 0 {checksum(body)} {key}"
        return self.ask(peer, lambda opaque: f"{head} {opaque}\r\n".encode() + body)

    def bodies(self, partition: int) -> list[bytes]:
        """What the partition's log holds."""
        found = self.broker.partitions.get((TOPIC, partition))
        if found is None:
            return []
        return [
            record.data
            for _, run in runs(found.log, found.log.start_offset)
            for record in iterate_records(run)
        ]

    @property
    def journal_start(self) -> int:
        return self.store.partitions[TRANSACTIONS_LOG].start_offset

    @property
    def prepared(self) -> list[str]:
        return [str(key) for key in self.broker.transactions.table.prepared()]
