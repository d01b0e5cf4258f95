"""What an operator has closed. No port leads there yet: the rules are asked directly."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from metaserver.broker import Broker, Committer, DiskGuard
from metaserver.config import parse_server_config
from metaserver.protocol import CommandDecoder, Limits, ReplyDecoder, Result, Value
from metaserver.storage import MessageStore
from metaserver.timers import Timers
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import DATA, options
from tests.support import get, put, put_batch, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.storage import File, LogSlice

CONFIG = """\
[system]
brokerId=7
dataPath=/data
numPartitions=3
unflushThreshold=0
unflushInterval=1000
maxSegmentSize=1048576
maxTransferSize=4096
[topic=test]
[topic=other]
"""
PREFIX = "Put message to [broker 'meta://host:1'] [partition 'test-{}'] failed."


class AtOnce:
    """An executor and a syncer that are done before they return."""

    def submit(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        done(job(), None)

    def sync(self, file: File, done: Callable[[OSError | None], None]) -> None:
        done(None)

    def close(self) -> None:
        pass

    def holds(self, file: File, position: int, size: int) -> bool:
        return True

    def fetch(self, file: File, position: int, size: int) -> None:
        raise NotImplementedError


@attrs.define(eq=False)
class Peer:
    """Collects what it is sent."""

    broker: Broker
    received: bytearray = attrs.Factory(bytearray)
    is_open: bool = True

    def send(self, data: bytes) -> None:
        self.received += data

    def send_slice(self, header: bytes, log_slice: LogSlice) -> None:
        self.received += header + log_slice.file.read(log_slice.size, log_slice.position)
        log_slice.release()

    def flush(self) -> None:
        pass

    def add_inflight(self, size_bytes: int) -> None:
        pass

    def add_waiting_get(self, count: int) -> None:
        pass

    def resume(self) -> None:
        pass

    def close(self) -> None:
        self.is_open = False

    def close_after_replies(self) -> None:
        self.is_open = False

    def ask(self, request: bytes) -> tuple[int | None, str]:
        for command in CommandDecoder(Limits()).feed(request):
            self.broker.handle(command, self)
        (reply,) = ReplyDecoder().feed(bytes(self.received))
        self.received.clear()
        if isinstance(reply, Value):
            return None, f"{len(reply.data)} bytes"
        assert isinstance(reply, Result)
        return reply.status, reply.text


@pytest.fixture
def peer() -> Peer:
    filesystem = FaultyFileSystem()
    store = MessageStore.open(filesystem, filesystem.clock, options(1_000_000), [DATA], "a test")
    config = parse_server_config(CONFIG, source="a test", base_directory=Path("/"), lenient=False)
    at_once, timers = AtOnce(), Timers()
    disk = DiskGuard(filesystem, [DATA], 0)
    broker = Broker(
        config=config,
        store=store,
        committer=Committer(at_once, at_once, timers, filesystem.clock, disk),
        clock=filesystem.clock,
        timers=timers,
        executor=at_once,
        random=Random(1),
        page_cache=at_once,
        address="host:1",
    )
    return Peer(broker)


def used_partition(answer: tuple[int | None, str]) -> int:
    assert answer[0] == 200
    return int(answer[1].split(" ")[1])


@pytest.mark.parametrize(
    "request_of", [put, lambda *args, **kw: put_batch(args[0], record(args[1]), args[2], **kw)]
)
def test_puts(peer: Peer, request_of: Callable[..., bytes]) -> None:
    def status(partition: int, topic: str = "test") -> tuple[int | None, str]:
        return peer.ask(request_of(topic, b"hello", 1, partition=partition))

    peer.broker.close_partitions("test", 1, 2)
    assert [status(1), status(2)] == [
        (403, PREFIX.format(n) + f"Detail:partition[7-{n}] has been closed") for n in (1, 2)
    ]
    assert status(0)[0] == 200
    assert status(1, "other")[0] == 200
    peer.broker.open_partitions("test")
    assert [status(n)[0] for n in range(3)] == [200] * 3


def test_a_put_for_any_partition_avoids_the_closed_ones(peer: Peer) -> None:
    assert {used_partition(peer.ask(put("test", b"x", n, partition=-1))) for n in range(100)} == {0, 1, 2}
    peer.broker.close_partitions("test", 0, 0)
    assert {used_partition(peer.ask(put("test", b"x", n, partition=-1))) for n in range(100)} == {1, 2}
    peer.broker.close_partitions("test", 2, 2)
    assert {used_partition(peer.ask(put("test", b"x", n, partition=-1))) for n in range(100)} == {1}
    peer.broker.close_partitions("test", 1, 1)
    status, text = peer.ask(put("test", b"x", 1, partition=-1))
    assert status == 403
    assert text.startswith(PREFIX.format(-1))


def test_reads(peer: Peer) -> None:
    assert peer.ask(put("test", b"hello", 1))[0] == 200
    peer.broker.close_partitions("test", 0, 0)
    closed = (403, "Partition[7-0] has been closed")
    assert peer.ask(get("test", 0, 100, 1)) == closed
    assert peer.ask(get("test", 25, 100, 1, wait_ms=1000)) == closed
    assert peer.ask(get("test", 0, -1, 1)) == closed  # Looked at before the size.
    assert peer.ask(b"offset test g 0 0 1\r\n") == (200, "0")  # An offset query has no such check.
    peer.broker.open_partitions("test")
    assert peer.ask(get("test", 0, 100, 1)) == (None, "25 bytes")


def test_a_closed_partition_comes_before_an_unknown_topic(peer: Peer) -> None:
    peer.broker.close_partitions("nobody", 5, 5)
    text = PREFIX.replace("test", "nobody").format(5) + "Detail:partition[7-5] has been closed"
    assert peer.ask(put("nobody", b"x", 1, partition=5)) == (403, text)
    assert peer.ask(get("nobody", 0, 100, 1, partition=5))[0] == 403


def test_a_refusal_is_no_failure(peer: Peer) -> None:
    peer.broker.close_partitions("test", 0, 0)
    assert peer.ask(put("test", b"x", 1))[0] == 403
    assert (peer.broker.counters.put, peer.broker.counters.put_failed) == (1, 0)


def test_a_sealed_broker_takes_no_puts_until_it_is_unsealed(peer: Peer) -> None:
    broker = peer.broker
    assert peer.ask(put("test", b"x", 1))[0] == 200
    broker.gate.seal("the place is handed over")
    refused = (503, PREFIX.format(0) + "Detail:the place is handed over")
    assert peer.ask(put("test", b"x", 2)) == refused
    assert peer.ask(put_batch("test", record(b"x"), 3)) == refused
    assert peer.ask(put("test", b"x", 4, partition=2))[0] == 503
    assert ("test", 2) not in broker.partitions, "what is handed over no longer changes"
    assert peer.ask(get("test", 0, 100, 5)) == (None, "21 bytes")
    broker.gate.unseal()
    assert peer.ask(put("test", b"x", 6))[0] == 200


def test_a_fenced_broker_acknowledges_nothing_that_still_waits_for_the_disk(peer: Peer) -> None:
    held: list[Callable[[OSError | None], None]] = []

    class Slow(AtOnce):
        def sync(self, file: File, done: Callable[[OSError | None], None]) -> None:
            held.append(done)

    broker = peer.broker
    broker.committer._syncer = Slow()
    for command in CommandDecoder(Limits()).feed(put("test", b"x", 1)):
        broker.handle(command, peer)
    assert not peer.received
    broker.gate.fence("host:2 is registered as master of broker 7")
    (synced,) = held
    synced(None)
    (reply,) = ReplyDecoder().feed(bytes(peer.received))
    peer.received.clear()
    assert isinstance(reply, Result)
    assert reply.status == 503
    assert "host:2 is registered as master of broker 7" in reply.text
    # Neither the end of a seal nor another rival changes that.
    broker.gate.seal("the place is handed over")
    broker.gate.unseal()
    broker.gate.fence("host:3")
    assert "host:2" in peer.ask(put("test", b"x", 2))[1]
