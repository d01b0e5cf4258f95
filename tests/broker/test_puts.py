"""Puts over a socket: order, ids, partitions, batches, and what makes them fail."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from metaserver.message import message_id_block
from tests.support import checksum, get, parse_records, put, put_batch, record

if TYPE_CHECKING:
    from tests.broker.conftest import StartBroker
    from tests.support import BrokerProcess

PREFIX = "Put message to [broker 'meta://127.0.0.1:{port}'] [partition '{topic}-{partition}'] failed."


def failed(broker: BrokerProcess, topic: str, partition: int = 0) -> str:
    return PREFIX.format(port=broker.port, topic=topic, partition=partition)


def answer(text: str) -> tuple[int, int, int]:
    """Message id, partition, offset."""
    message_id, partition, offset = text.split(" ")
    return int(message_id), int(partition), int(offset)


def test_what_is_put_is_stored(broker: BrokerProcess, topic: str) -> None:
    messages = [(b"", 0), (b"\r\n\x00\xff", 0), (b"\x00\x00\x00\x01axyz", 1), (b"x" * 2028, -1)]
    with broker.connect() as wire:
        answers = [answer(wire.ask(put(topic, data, 1, flag=flag)).text) for data, flag in messages]
    stored = broker.read_all(topic)
    assert [(found.data, found.flag) for found in stored] == messages
    assert [(found.message_id, 0, found.offset) for found in stored] == answers


def test_ids_carry_the_broker_and_only_grow(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as wire:
        wire.send(b"".join(put(topic, b"x", n, partition=n % 3) for n in range(6000)))
        ids = {}
        for reply in wire.replies(6000):
            assert reply.status == 200
            ids[reply.opaque] = answer(reply.text)[0]
    assert len(set(ids.values())) == 6000
    assert {(message_id >> 12) & 1023 for message_id in ids.values()} == {0}
    for partition in range(3):
        of_one = [ids[n] for n in range(partition, 6000, 3)]
        assert of_one == sorted(of_one)


def test_pipelined_puts_of_a_connection_keep_their_order_in_each_partition(
    broker: BrokerProcess, topic: str
) -> None:
    """Several connections at once, each with puts to three partitions mixed with other commands."""
    connections, count = 4, 600

    def produce(number: int) -> None:
        chance = random.Random(number)
        with broker.connect() as wire:
            data = bytearray()
            for sequence in range(count):
                size = chance.choice([0, 1, 50, 300])
                body = b"%d %d %b" % (number, sequence, b"." * size)
                data += put(topic, body, sequence, partition=chance.randrange(3))
                if chance.random() < 0.1:
                    data += b"version 100000\r\n"
            wire.send(bytes(data))
            answered: set[int] = set()
            while len(answered) < count:
                reply = wire.reply()
                if reply.opaque != 100000:
                    assert reply.status == 200
                    answered.add(reply.opaque)
            results.append(number)

    results: list[int] = []
    threads = [threading.Thread(target=produce, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(connections))
    seen: Counter[int] = Counter()
    for partition in range(3):
        sequences: dict[int, list[int]] = {number: [] for number in range(connections)}
        for stored in broker.read_all(topic, partition):
            producer, sequence, _ = stored.data.split(b" ", 2)
            sequences[int(producer)].append(int(sequence))
        for number, found in sequences.items():
            assert found == sorted(found)
            seen[number] += len(found)
    assert set(seen.values()) == {count}


def test_partition_minus_one_is_any_of_them(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as wire:
        wire.send(b"".join(put(topic, b"x", n, partition=-1) for n in range(300)))
        answers = [answer(reply.text) for reply in wire.replies(300)]
    by_partition = Counter(partition for _, partition, _ in answers)
    assert set(by_partition) == {0, 1, 2}
    for partition, count in by_partition.items():
        offsets = [offset for _, where, offset in answers if where == partition]
        assert sorted(offsets) == [21 * n for n in range(count)]


def test_wrong_checksums_in_a_pipeline_fail_alone(broker: BrokerProcess, topic: str) -> None:
    frames = []
    for n in range(30):
        data = b"message %d" % n
        right = checksum(data)
        given = right + 1 if n % 3 == 1 else -1 if n % 3 == 2 else right
        frames.append(b"put %b 0 %d 0 %d %d\r\n%b" % (topic.encode(), len(data), given, n, data))
    with broker.connect() as wire:
        wire.send(b"".join(frames))
        statuses = {reply.opaque: reply.status for reply in wire.replies(30)}
    assert statuses == {n: 500 if n % 3 == 1 else 200 for n in range(30)}
    assert [found.data for found in broker.read_all(topic)] == [
        b"message %d" % n for n in range(30) if n % 3 != 1
    ]


def test_a_failed_put_creates_nothing(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as wire:
        for request in (
            put(topic, b"x", 1, partition=3),
            put(topic, b"x" * 3000, 1),
            put_batch(topic, b"", 1, partition=7),
            put("../escape", b"x", 1),
            put("t/escape", b"x", 1),
            put("t" * 201, b"x", 1),
            put("tü", b"x", 1),
            put("t\ufffd", b"x", 1),
        ):
            assert wire.ask(request).status == 500
    assert not [name for name in broker.data.rglob("*") if topic == name.name.rpartition("-")[0]]
    assert not [name for name in broker.base.rglob("*") if "escape" in name.name or "tt" in name.name]
    assert {path.name for path in broker.base.iterdir()} == {"conf", "data", "logs", "output"}


def test_the_longest_topic_is_stored(broker: BrokerProcess) -> None:
    name = "t" + "x" * 199
    assert broker.ask(put(name, b"hello", 1)).status == 200
    assert [found.data for found in broker.read_all(name)] == [b"hello"]


# Batches.


def test_a_batch_is_stored_as_it_is_but_for_its_ids(broker: BrokerProcess, topic: str) -> None:
    bodies = [b"", b"one", b"\x00\x00\x00\x01aone", b"x" * 2028]
    flags = [0, 7, 1, -1]
    records = b"".join(record(data, 123456, flag) for data, flag in zip(bodies, flags, strict=True)) + record(
        b""
    )
    assert broker.ask(put(topic, b"before", 1)).text.endswith(" 0 0")
    reply = broker.ask(put_batch(topic, records, -5))
    assert reply.status == 200
    assert reply.opaque == -5
    first_id, partition, offset, count = map(int, reply.text.split(" "))
    assert (partition, offset, count) == (0, 26, 5)
    stored = broker.read_all(topic, offset=26)
    assert [(found.data, found.flag) for found in stored] == [*zip(bodies, flags, strict=True), (b"", 0)]
    assert [found.message_id for found in stored] == list(message_id_block(first_id, 5))
    after = broker.ask(put(topic, b"after", 1))
    assert after.text.endswith(f" 0 {26 + len(records)}")
    assert int(after.text.split(" ")[0]) > stored[-1].message_id


def test_the_ids_of_a_long_batch_follow_from_the_first(broker: BrokerProcess, topic: str) -> None:
    """More messages than a millisecond has ids for cannot be in one frame here; two batches meet it."""
    count = 3000
    records = b"".join(record(b"") for _ in range(count))
    first_ids = []
    with broker.connect() as wire:
        wire.send(put_batch(topic, records, 1) + put_batch(topic, records, 2))
        for reply in wire.replies(2):
            first_id, _, _, found = map(int, reply.text.split(" "))
            assert found == count
            first_ids.append(first_id)
    stored = broker.read_all(topic)
    ids = [found.message_id for found in stored]
    assert ids == [*message_id_block(first_ids[0], count), *message_id_block(first_ids[1], count)]
    assert ids == sorted(set(ids))


def test_a_batch_for_any_partition(broker: BrokerProcess, topic: str) -> None:
    partitions = set()
    with broker.connect() as wire:
        for _ in range(60):
            _, partition, _, count = map(
                int, wire.ask(put_batch(topic, record(b"x"), 1, partition=-1)).text.split(" ")
            )
            assert count == 1
            partitions.add(partition)
    assert partitions == {0, 1, 2}


GOOD = record(b"good")
WRONG = bytearray(record(b"wrong"))
WRONG[-1] ^= 1
CHECKSUM_FAILURE = "Checksum failure,message may be corrupted when transfering on networking."


@pytest.mark.parametrize(
    ("records", "detail"),
    [
        (b"", "The batch holds no record"),
        (
            GOOD + bytes(WRONG) + GOOD,
            f"{CHECKSUM_FAILURE} Record 1 of the batch, at byte 24: checksum mismatch",
        ),
        (
            GOOD + GOOD[:-1],
            f"{CHECKSUM_FAILURE} Record 1 of the batch, at byte 24: the record is not complete",
        ),
        (GOOD + b"\0", f"{CHECKSUM_FAILURE} Record 1 of the batch, at byte 24: the record is not complete"),
        (
            b"\xff" * 20 + GOOD,
            f"{CHECKSUM_FAILURE} Record 0 of the batch, at byte 0: negative length -1",
        ),
        (
            GOOD + record(b"x" * 2029),
            "A record of 2049 bytes is too long: it may have 2048 bytes (maxTransferSize)",
        ),
    ],
    ids=["empty", "wrong checksum", "cut record", "cut header", "negative length", "too long"],
)
def test_a_batch_with_a_fault_is_refused_whole(
    broker: BrokerProcess, topic: str, records: bytes, detail: str
) -> None:
    with broker.connect() as wire:
        reply = wire.ask(put_batch(topic, records, 9))
        assert (reply.status, reply.opaque) == (500, 9)
        assert reply.text == f"{failed(broker, topic)}Detail:{detail}"
        assert wire.ask(put_batch(topic, GOOD, 10)).text.endswith(" 0 0 1")
    assert [found.data for found in broker.read_all(topic)] == [b"good"]


def test_batches_and_puts_keep_their_order(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as wire:
        for n in range(0, 300, 3):
            wire.send(
                put(topic, b"%d" % n, n)
                + put_batch(topic, record(b"%d" % (n + 1)) + record(b"%d" % (n + 2)), n + 1)
            )
        assert {reply.status for reply in wire.replies(200)} == {200}
    assert [int(found.data) for found in broker.read_all(topic)] == list(range(300))


# Segments.


def test_segments_are_named_by_their_first_byte_and_follow_each_other(
    broker: BrokerProcess, topic: str
) -> None:
    with broker.connect() as wire:
        for n in range(40):
            assert wire.ask(put(topic, b"%04d" % n * 100, n)).status == 200
    files = sorted((broker.data / f"{topic}-0").glob("*.meta"))
    assert len(files) >= 4
    position = 0
    for path in files:
        assert path.name == f"{position:020d}.meta"
        size = path.stat().st_size
        assert path == files[-1] or 4096 <= size < 4096 + 420
        parse_records(path.read_bytes())  # A record never spans two files.
        position += size
    assert position == 40 * 420


# Brokers with other settings.


def test_a_slave_refuses_puts_and_names_its_master(broker: BrokerProcess, start_broker: StartBroker) -> None:
    slave = start_broker("slave", topics="[topic=t*]\nnumPartitions=3\n", slave_of=broker.port)
    detail = f"This broker is a slave and takes no messages,send to its master 127.0.0.1:{broker.port}"
    with slave.connect() as wire:
        for request, partition in (
            (put("tslave", b"x", 1), 0),
            (put("tslave", b"x", 1, partition=-1), -1),
            (put_batch("tslave", record(b"x"), 1), 0),
            (put("nobody", b"x", 1), 0),
        ):
            reply = wire.ask(request)
            assert reply.status == 503
            topic = request.split(b" ")[1].decode()
            assert reply.text == f"{failed(slave, topic, partition)}Detail:{detail}"
        assert wire.ask(b"version 2\r\n").status == 200
    assert "slave true" in slave.statistics()
    assert not [path for path in slave.data.iterdir() if path.name.startswith("nobody")]


def test_a_full_disk_answers_503_and_reads_go_on(start_broker: StartBroker) -> None:
    full = start_broker("full", minFreeDiskBytes=2**50)
    with full.connect() as wire:
        for request in (put("test", b"x", 1), put_batch("test", record(b"x"), 1)):
            reply = wire.ask(request)
            assert reply.status == 503
            assert reply.text.startswith(failed(full, "test") + "Detail:")
            assert "bytes" in reply.text
        assert wire.ask(get("test", 0, 100, 2)).status == 404
    assert full.read_all("test") == []


def test_replies_come_before_the_flush_with_a_threshold(start_broker: StartBroker) -> None:
    """unflushThreshold=1000: what was answered is in the log, flushed or not, and readable."""
    lazy = start_broker("lazy", unflushThreshold=1000, unflushInterval=600000)
    with lazy.connect() as wire:
        for n in range(5):
            assert wire.ask(put("test", b"%d" % n, n)).status == 200
    assert [found.data for found in lazy.read_all("test")] == [b"%d" % n for n in range(5)]


def test_partitions_of_no_configured_topic_are_read_but_take_no_puts(start_broker: StartBroker) -> None:
    """Directories are served whether their topic is still configured or not."""
    node = start_broker("leftover", topics="[topic=old]\nnumPartitions=2\n\n[topic=test]\n")
    assert node.ask(put("old", b"hello", 1)).status == 200
    assert node.ask(put("old", b"hello", 1, partition=1)).status == 200
    assert node.stop() == 0
    node.configure({}, "[topic=old]\nnumPartitions=1\n")
    node.start()
    assert node.ask(put("old", b"hello", 1, partition=1)).text == (
        f"{failed(node, 'old', 1)}Detail:wrong partition 1"
    )
    assert [found.data for found in node.read_all("old", 1)] == [b"hello"]
    assert node.stop() == 0
    node.configure({}, "[topic=test]\n")
    node.start()
    assert node.ask(put("old", b"hello", 1)).text == (
        f"{failed(node, 'old')}Detail:The server do not accept topic old"
    )
    assert [found.data for found in node.read_all("old")] == [b"hello"]
