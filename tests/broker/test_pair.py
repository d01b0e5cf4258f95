"""The synchronous pair on the wire of MetaQ: both of its nodes asked directly, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from metaserver.broker import Broker, PairMaster, PairSlave
from metaserver.config import apply_pair
from metaserver.config.pair import parse_pair_config
from tests.broker.bench import Peer, make_broker
from tests.support import checksum, parse_records, put, put_batch, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from tests.broker.test_committer import HandSyncer

CONFIG = """\
[system]
brokerId=7
dataPath=/data
numPartitions=2
unflushThreshold=0
unflushInterval=1000
maxSegmentSize=4096
maxTransferSize=4096
[topic=orders]
[topic=fast]
unflushThreshold=100
"""
PUT_FAILED = "Put message to [broker 'meta://host:1'] [partition '{}'] failed.Detail:"
NOT_COPIED = "Put message to [slave 'meta://other:2'] [partition 'orders-0'] failed"


@attrs.define(eq=False)
class Node:
    """A broker, somebody who talks to it, and a disk that syncs by hand."""

    broker: Broker
    syncer: HandSyncer
    peer: Peer

    def sync(self) -> None:
        while self.syncer.waiting:
            self.syncer.step()

    def ask(self, request: bytes) -> list[tuple[int | None, int, str]]:
        self.peer.ask(request)
        self.sync()
        return self.peer.answers()

    def stored(self, topic: str, partition: int = 0) -> list[tuple[int, int, bytes]]:
        """Id, flag and data of every record."""
        log = self.broker.partitions[topic, partition].log
        found = []
        for start, end in zip(log.segment_starts, [*log.segment_starts[1:], log.end_offset], strict=True):
            if start < end:
                piece = log.read(start, end - start, end)
                found += parse_records(piece.file.read(piece.size, piece.position), start)
        return [(one.message_id, one.flag, one.data) for one in found]


def make_node(nursery: trio.Nursery) -> Node:
    broker, syncer = make_broker(nursery, CONFIG)
    return Node(broker, syncer, Peer(broker))


def sync(
    topic: str, data: bytes, opaque: int, *, message_id: int, partition: int = 0, crc: int | None = None
) -> bytes:
    words = f"sync {topic} {partition} {len(data)} 5 {message_id}"
    return f"{words} {checksum(data) if crc is None else crc} {opaque}\r\n".encode() + data


# The slave.


@attrs.define(eq=False)
class Calls:
    """Who has called, and what is said to it."""

    heard: list[str] = attrs.Factory(list)
    refusal: str | None = None
    followed: str | None = None

    def call(self, address: str) -> str | None:
        self.heard.append(address)
        return self.refusal


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def slave(nursery: trio.Nursery, calls: Calls) -> Node:
    node = make_node(nursery)
    node.broker.master_address = "(unknown)"
    node.broker.pair_slave = PairSlave(node.broker, calls.call, lambda: calls.followed)
    return node


async def test_the_slave_stores_what_it_is_sent_with_the_masters_id(slave: Node) -> None:
    assert slave.ask(sync("orders", b"hello", 1, message_id=-77)) == [(200, 1, "-77 0 0")]
    assert slave.ask(sync("orders", b"world", 2, message_id=12, partition=1)) == [(200, 2, "12 1 0")]
    # Masters before 1.4.4 send no checksum, and -1 is none.
    assert slave.ask(b"sync orders 0 2 0 9 3\r\nhi") == [(200, 3, "9 0 25")]
    assert slave.ask(sync("orders", b"again", 4, message_id=9, crc=-1)) == [(200, 4, "9 0 47")]
    assert slave.stored("orders") == [(-77, 5, b"hello"), (9, 0, b"hi"), (9, 5, b"again")]
    assert slave.peer.inflight_bytes == slave.broker.inflight_bytes == 0


async def test_the_slaves_answer_waits_for_its_disk_as_that_of_a_put_does(slave: Node) -> None:
    slave.peer.ask(sync("orders", b"hello", 1, message_id=1))
    slave.peer.ask(sync("fast", b"hello", 2, message_id=1))
    assert slave.peer.answers() == [(200, 2, "1 0 0")]
    slave.sync()
    assert slave.peer.answers() == [(200, 1, "1 0 0")]


@pytest.mark.parametrize(
    ("request_bytes", "status", "text"),
    [
        (sync("nobody", b"x", 1, message_id=1), 500, "The server do not accept topic nobody"),
        (sync("orders", b"x", 1, message_id=1, partition=2), 500, "wrong partition 2"),
        (sync("orders", b"x", 1, message_id=1, partition=-1), 500, "wrong partition -1"),
        (sync("orders", b"x", 1, message_id=1, crc=3), 500, "Checksum failure,message may be corrupted"),
        (sync("orders", b"x" * 4077, 1, message_id=1), 500, "A record may have 4096 bytes (maxTransferSize)"),
        (sync("__registry", b"x", 1, message_id=1), 500, "The server do not accept topic __registry"),
    ],
)
async def test_the_slave_says_why_it_does_not_store(
    slave: Node, request_bytes: bytes, status: int, text: str
) -> None:
    ((found, opaque, said),) = slave.ask(request_bytes)
    assert (found, opaque) == (status, 1)
    assert text in said
    assert all(one.log.end_offset == 0 for one in slave.broker.partitions.values())
    assert slave.broker.inflight_bytes == 0


async def test_a_closed_partition_of_the_slave(slave: Node) -> None:
    slave.broker.close_partitions("orders", 0, 0)
    answer = slave.ask(sync("orders", b"x", 1, message_id=1))
    assert answer == [(403, 1, "Partition[7-0] has been closed")]


async def test_the_masters_test_of_its_slave(slave: Node) -> None:
    answer = slave.ask(sync("_metaq_slave_status_test", b"test", 1, message_id=1))
    assert answer == [(200, 1, "1 0 0")]


async def test_the_slave_ends_its_segments_by_itself(slave: Node) -> None:
    for number in range(5):
        slave.ask(sync("orders", b"x" * 2028, number, message_id=number))
    assert slave.broker.partitions["orders", 0].log.segment_starts == (0, 4096, 8192)


async def test_nobody_else_writes_while_a_master_of_ours_is_copied(slave: Node, calls: Calls) -> None:
    assert slave.ask(b"pair 10.0.0.1:8123 1\r\n") == [(200, 1, "")]
    assert calls.heard == ["10.0.0.1:8123"]
    calls.followed = "10.0.0.1:8123"
    ((status, _, text),) = slave.ask(sync("orders", b"x", 2, message_id=1))
    assert status == 500
    assert text.endswith("This broker copies 10.0.0.1:8123 and takes messages from nobody else")
    calls.refusal = "no"
    assert slave.ask(b"pair 10.0.0.2:8123 3\r\n") == [(503, 3, "no")]


async def test_a_broker_that_is_no_slave_of_a_pair(nursery: trio.Nursery) -> None:
    node = make_node(nursery)
    assert [status for status, _, _ in node.ask(sync("orders", b"x", 1, message_id=1))] == [503]
    assert [status for status, _, _ in node.ask(b"pair h:1 2\r\n")] == [503]


# The master of a slave of MetaQ's.


@attrs.define(eq=False)
class FakeLink:
    """What is sent to the slave, and how that is answered."""

    sent: list[bytes] = attrs.Factory(list)
    waiting: list[Callable[[bool], None]] = attrs.Factory(list)

    def submit(self, encode: Callable[[int], bytes], settle: Callable[[bool], None]) -> None:
        self.sent.append(encode(len(self.sent)))
        self.waiting.append(settle)


@attrs.define(eq=False)
class Master:
    node: Node
    link: FakeLink
    outcomes: list[bool] = attrs.Factory(list)

    @property
    def pair(self) -> PairMaster:
        assert self.node.broker.pair_master is not None
        return self.node.broker.pair_master


@pytest.fixture
def master(nursery: trio.Nursery) -> Master:
    node, link = make_node(nursery), FakeLink()
    text = "slave=other:2\nsendToSlaveTimeoutInMills=700"
    config = apply_pair(node.broker.config, parse_pair_config(text, source="a test"))
    node.broker.reconfigure(config)
    found = Master(node, link)
    node.broker.pair_master = PairMaster("meta://other:2", 0.7, node.broker.timers, link)
    node.broker.pair_master.on_outcome = found.outcomes.append
    return found


async def test_a_put_is_answered_when_both_have_it(master: Master) -> None:
    node, link = master.node, master.link
    node.peer.ask(put("orders", b"hello", 1))
    ((message_id, _, _),) = node.stored("orders")
    assert link.sent == [b"sync orders 0 5 0 %d %d 0\r\nhello" % (message_id, checksum(b"hello"))]
    node.sync()
    assert node.peer.answers() == []
    link.waiting[0](True)
    assert node.peer.answers() == [(200, 1, f"{message_id} 0 0")]

    node.peer.ask(put("orders", b"world", 2))
    link.waiting[1](True)
    assert node.peer.answers() == []
    node.sync()
    assert [(status, opaque) for status, opaque, _ in node.peer.answers()] == [(200, 2)]
    assert master.outcomes == [True, True]
    assert node.broker.inflight_bytes == 0


async def test_puts_of_one_read_go_in_their_order_and_are_answered_one_by_one(master: Master) -> None:
    node, link = master.node, master.link
    node.peer.ask(b"".join(put("orders", b"%d" % number, number) for number in range(3)))
    assert [frame[-1:] for frame in link.sent] == [b"0", b"1", b"2"]
    node.sync()
    for number, is_stored in ((1, True), (0, False), (2, True)):
        link.waiting[number](is_stored)
    answers = node.peer.answers()
    assert [(status, opaque) for status, opaque, _ in answers] == [(200, 1), (500, 0), (200, 2)]
    assert answers[1][2] == NOT_COPIED
    # What the slave has not is here all the same.
    assert [data for _, _, data in node.stored("orders")] == [b"0", b"1", b"2"]


async def test_a_slave_that_does_not_answer_in_time(master: Master, mock_clock: MockClock) -> None:
    node = master.node
    node.peer.ask(put("orders", b"hello", 1))
    node.sync()
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(0.69)
    await trio.testing.wait_all_tasks_blocked()
    assert node.peer.answers() == []
    mock_clock.jump(0.02)
    await trio.testing.wait_all_tasks_blocked()
    assert node.peer.answers() == [(500, 1, NOT_COPIED)]
    master.link.waiting[0](True)
    assert node.peer.answers() == []
    assert master.outcomes == [False]
    assert node.broker.inflight_bytes == 0


async def test_a_batch_is_one_put_to_its_producer_and_many_to_the_slave(master: Master) -> None:
    node, link = master.node, master.link
    for opaque, is_last_stored in ((1, True), (2, False)):
        link.sent.clear()
        link.waiting.clear()
        node.peer.ask(put_batch("orders", record(b"a") + record(b"b"), opaque))
        node.sync()
        assert [frame[-1:] for frame in link.sent] == [b"a", b"b"]
        link.waiting[0](True)
        assert node.peer.answers() == []
        link.waiting[1](is_last_stored)
        ((status, _, _),) = node.peer.answers()
        assert status == (200 if is_last_stored else 500)


async def test_nothing_is_taken_without_a_slave(master: Master) -> None:
    master.pair.link = None
    assert master.node.ask(put("orders", b"hello", 1)) == [(500, 1, "Slave is disconnected ")]
    assert ("orders", 0) not in master.node.broker.partitions


async def test_what_a_slave_of_ours_copies_is_not_sent_to_it(master: Master) -> None:
    master.pair.link, master.pair.is_copied = None, True
    ((status, _, text),) = master.node.ask(put("orders", b"hello", 1))
    assert (status, text) == (
        503,
        PUT_FAILED.format("orders-0")
        + "ackLevel=slave_disk asks for 1 slave,and 0 have reported within 3 s. The message is not stored",
    )
    ((status, _, text),) = master.node.ask(put("fast", b"hello", 2))
    assert "ackLevel=slave asks for 1 slave" in text
