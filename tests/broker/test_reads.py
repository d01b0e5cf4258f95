"""Gets, offset queries and the long poll over a socket."""

from __future__ import annotations

import threading
import time
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.support import eventually, get, parse_records, put, put_batch, record

if TYPE_CHECKING:
    from tests.broker.conftest import StartBroker
    from tests.support import BrokerProcess

MAX_OFFSET = 2**63 - 1
WAIT_MS = 15_000
"""Longer than any test takes: what answers earlier was woken."""


def offset_query(topic: str, offset: int, opaque: int = 1) -> bytes:
    return b"offset %b group 0 %d %d\r\n" % (topic.encode(), offset, opaque)


@pytest.fixture
def segments(broker: BrokerProcess, topic: str) -> list[int]:
    """The starts of the segments of partition 0 of ``topic``, and behind them its end."""
    with broker.connect() as wire:
        for n in range(34):
            assert wire.ask(put(topic, b"%04d" % n * 100, n)).status == 200
    starts = sorted(int(path.name[:20]) for path in (broker.data / f"{topic}-0").glob("*.meta"))
    assert len(starts) >= 3
    return [*starts, 34 * 420]


def test_a_value_is_the_log_cut_at_the_size_asked_for(
    broker: BrokerProcess, topic: str, segments: list[int]
) -> None:
    log = b"".join(path.read_bytes() for path in sorted((broker.data / f"{topic}-0").glob("*.meta")))
    assert len(log) == segments[-1]
    with broker.connect() as wire:
        for offset in (
            0,
            1,
            19,
            20,
            419,
            420,
            421,
            segments[1] - 1,
            segments[1],
            segments[2] + 7,
            segments[-1] - 1,
        ):
            segment_end = min(end for end in segments if end > offset)
            for size in (1, 20, 419, 420, 2047, 2048, 2049, 2**31 - 1):
                reply = wire.ask(get(topic, offset, size, 7))
                assert reply.status is None
                assert reply.opaque == 7
                assert reply.body == log[offset : min(offset + size, offset + 2048, segment_end)]


def test_a_value_comes_compressed_where_it_is_asked_for(
    broker: BrokerProcess, topic: str, segments: list[int]
) -> None:
    with broker.connect() as wire:
        for offset in (0, 19, segments[1] - 1, segments[1], segments[-1] - 1):
            plain = wire.ask(get(topic, offset, 1000, 7))
            compressed = wire.ask(b"get %b group 0 %d 1000 8 0 zlib\r\n" % (topic.encode(), offset))
            assert (compressed.status, compressed.opaque) == (None, 8)
            assert zlib.decompress(compressed.body) == plain.body
        assert wire.ask(b"get %b group 0 %d 1000 9 0 zlib\r\n" % (topic.encode(), segments[-1])).status == 404
        # It may wait as any other.
        wire.send(b"get %b group 0 %d 1000 10 %d zlib\r\n" % (topic.encode(), segments[-1], WAIT_MS))
        assert broker.ask(put(topic, b"new", 1)).status == 200
        assert zlib.decompress(wire.reply().body)[20:] == b"new"


def test_offset_queries_in_several_segments(broker: BrokerProcess, topic: str, segments: list[int]) -> None:
    *starts, end = segments
    with broker.connect() as wire:

        def nearest(offset: int) -> int:
            reply = wire.ask(offset_query(topic, offset))
            assert reply.status == 200
            return int(reply.text)

        for start, following in pairwise(segments):
            assert {nearest(offset) for offset in (start, start + 1, start + 420, following - 1)} == {start}
        assert nearest(-1) == nearest(-(2**63)) == starts[0] == 0
        assert nearest(end) == nearest(end + 1) == nearest(MAX_OFFSET) == end


def test_a_log_whose_beginning_was_deleted(start_broker: StartBroker) -> None:
    """301 to the first offset there is, for gets; its first segment, for offset queries."""
    node = start_broker("short", maxSegmentSize=1024)
    with node.connect() as wire:
        for n in range(8):
            assert wire.ask(put("test", b"x" * 480, n)).status == 200
    assert node.stop() == 0
    files = sorted((node.data / "test-0").glob("*.meta"))
    assert len(files) >= 3
    files[0].unlink()
    first = int(files[1].name[:20])
    node.start()
    with node.connect() as wire:
        for offset in (0, first - 1, -1):
            reply = wire.ask(get("test", offset, 100, 1))
            assert (reply.status, reply.text) == (301, str(first))
            assert wire.ask(offset_query("test", offset)).text == str(first)
        assert wire.ask(get("test", first, 2048, 1)).status is None
    assert len(node.read_all("test", offset=first)) == 8 - first // 500


@pytest.mark.parametrize("update", [False, True])
def test_beyond_the_end_with_and_without_update_consumer_offsets(
    start_broker: StartBroker, update: bool
) -> None:
    node = start_broker("beyond", updateConsumerOffsets=str(update).lower())
    with node.connect() as wire:
        assert wire.ask(put("test", b"hello", 1)).status == 200
        at_end = wire.ask(get("test", 25, 100, 2))
        beyond = wire.ask(get("test", 26, 100, 3))
        far_beyond = wire.ask(get("test", MAX_OFFSET, 100, 4))
    assert (at_end.status, at_end.text) == (404, "Could not find message at position 25")
    expected = (301, "25") if update else (404, "Could not find message at position 26")
    assert (beyond.status, beyond.text) == expected
    assert (far_beyond.status, far_beyond.text) == (301, "25")


def test_a_consumer_reads_while_a_producer_writes(broker: BrokerProcess, topic: str) -> None:
    """Nothing is readable before it is safe, everything is once it was answered."""
    count = 400

    def produce() -> None:
        with broker.connect() as wire:
            for start in range(0, count, 20):
                wire.send(b"".join(put(topic, b"%d" % n, n) for n in range(start, start + 20)))
                for reply in wire.replies(20):
                    answered[reply.opaque] = int(reply.text.split(" ")[2])

    answered: dict[int, int] = {}
    thread = threading.Thread(target=produce)
    thread.start()
    found: list[int] = []
    offset = 0
    with broker.connect() as wire:
        while len(found) < count:
            known = len(answered)
            reply = wire.ask(get(topic, offset, 2048, 1, wait_ms=WAIT_MS))
            if reply.status == 404:
                assert known == 0  # The partition is made by the first put.
                continue
            assert reply.status is None
            body = reply.body
            while body and int.from_bytes(body[:4], "big") + 20 <= len(body):
                size = int.from_bytes(body[:4], "big") + 20
                (stored,) = parse_records(body[:size], offset)
                found.append(int(stored.data))
                body, offset = body[size:], offset + size
    thread.join()
    assert found == list(range(count))
    assert len(answered) == count


# The long poll.


def test_a_waiting_get_is_answered_when_data_comes(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as reader, broker.connect() as writer:
        assert writer.ask(put(topic, b"first", 1)).status == 200
        reader.send(get(topic, 25, 100, -3, wait_ms=WAIT_MS))
        assert reader.ask(b"version 4\r\n").opaque == 4  # It waits without holding up the others.
        assert writer.ask(put(topic, b"second", 2)).status == 200
        reply = reader.reply()
    assert (reply.status, reply.opaque) == (None, -3)
    assert [found.data for found in parse_records(reply.body)] == [b"second"]


def test_a_get_that_need_not_wait_does_not(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as wire:
        assert wire.ask(put(topic, b"first", 1)).status == 200
        began = time.monotonic()
        assert wire.ask(get(topic, 0, 100, 2, wait_ms=WAIT_MS)).status is None
        assert wire.ask(get(topic, -1, 100, 3, wait_ms=WAIT_MS)).status == 301
        assert wire.ask(get(topic, 25, 0, 4, wait_ms=WAIT_MS)).status == 400
        assert wire.ask(get(topic, 26, 100, 5, wait_ms=WAIT_MS)).status == 404
        assert wire.ask(get("nobody", 0, 100, 6, wait_ms=WAIT_MS)).status == 404
        assert wire.ask(get(topic, 25, 100, 7, wait_ms=0)).status == 404
        assert wire.ask(get(topic, 25, 100, 8)).status == 404
        assert time.monotonic() - began < WAIT_MS / 1000


def test_a_waiting_get_ends_with_404(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as wire:
        assert wire.ask(put(topic, b"first", 1)).status == 200
        began = time.monotonic()
        reply = wire.ask(get(topic, 25, 100, 2, wait_ms=300))
        waited = time.monotonic() - began
    assert (reply.status, reply.text) == (404, "Could not find message at position 25")
    assert waited >= 0.3


def test_waits_end_in_the_order_of_their_length(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as wire:
        assert wire.ask(put(topic, b"first", 1)).status == 200
        wire.send(b"".join(get(topic, 25, 100, ms, wait_ms=ms) for ms in (400, 1, 200, 100, 300)))
        assert [reply.opaque for reply in wire.replies(5)] == [1, 100, 200, 300, 400]


def test_the_longest_wait_is_limited(start_broker: StartBroker) -> None:
    node = start_broker("impatient", maxLongPollInMills=100, maxWaitingGets=3)
    with node.connect() as wire:
        assert wire.ask(put("test", b"first", 1)).status == 200
        assert wire.ask(get("test", 25, 100, 2, wait_ms=2**31 - 1)).status == 404
        # Three may wait; the others are answered at once, before those.
        wire.send(b"".join(get("test", 25, 100, n, wait_ms=100) for n in range(10)))
        opaques = [reply.opaque for reply in wire.replies(10)]
    assert opaques == [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]


def test_many_waiters(broker: BrokerProcess, topic: str) -> None:
    """On many connections and many on one; all see the same message, none is forgotten."""
    with broker.connect() as writer:
        assert writer.ask(put(topic, b"first", 1)).status == 200
        readers = [broker.connect() for _ in range(100)]
        try:
            for reader in readers:
                reader.send(
                    b"".join(get(topic, 25, 100, n, wait_ms=WAIT_MS) for n in range(10)) + b"version 99\r\n"
                )
            for reader in readers:
                assert reader.reply().opaque == 99
            assert writer.ask(put(topic, b"second", 2)).status == 200
            for reader in readers:
                replies = reader.replies(10)
                assert sorted(reply.opaque for reply in replies) == list(range(10))
                for reply in replies:
                    assert [found.data for found in parse_records(reply.body)] == [b"second"]
        finally:
            for reader in readers:
                reader.close()


@pytest.mark.parametrize("how", ["closed", "reset", "half closed"])
def test_a_waiter_whose_connection_is_gone(broker: BrokerProcess, topic: str, how: str) -> None:
    with broker.connect() as writer, broker.connect() as other:
        assert writer.ask(put(topic, b"first", 1)).status == 200
        before = connections(broker)
        waiter = broker.connect()
        try:
            waiter.send(get(topic, 25, 100, 2, wait_ms=WAIT_MS) + b"version 3\r\n")
            assert waiter.reply().opaque == 3
            other.send(get(topic, 25, 100, 2, wait_ms=WAIT_MS))
            match how:
                case "closed":
                    waiter.close()
                case "reset":
                    waiter.reset()
                case _:
                    waiter.end_sending()
            if how != "half closed":
                eventually(lambda: connections(broker) == before, "the connection is forgotten")
            assert writer.ask(put(topic, b"second", 4)).status == 200
            assert parse_records(other.reply().body)[0].data == b"second"
        finally:
            waiter.close()
        assert writer.ask(b"version 5\r\n").status == 200


def connections(broker: BrokerProcess) -> int:
    (line,) = (line for line in broker.statistics() if line.startswith("curr_connections "))
    return int(line.split(" ")[1])


def test_a_waiting_get_on_one_partition_is_not_woken_by_another(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as wire:
        for partition in range(2):
            assert wire.ask(put(topic, b"first", 1, partition=partition)).status == 200
        wire.send(get(topic, 25, 100, 2, wait_ms=WAIT_MS))
        assert wire.ask(put(topic, b"other", 3, partition=1)).opaque == 3
        assert wire.ask(put_batch(topic, record(b"this"), 4)).opaque in (2, 4)
        wire.reply()


def test_a_waiting_get_is_woken_by_a_batch_once(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as reader, broker.connect() as writer:
        assert writer.ask(put(topic, b"first", 1)).status == 200
        reader.send(get(topic, 25, 2048, 2, wait_ms=WAIT_MS) + b"version 3\r\n")
        assert reader.reply().opaque == 3
        assert writer.ask(put_batch(topic, record(b"a") + record(b"b"), 4)).status == 200
        assert [found.data for found in parse_records(reader.reply().body)] == [b"a", b"b"]
        assert reader.ask(b"version 5\r\n").opaque == 5
        reader.expect_nothing()


def test_replies_to_a_peer_that_has_ended_its_side(broker: BrokerProcess, topic: str) -> None:
    """A client may end its stream behind its requests and still gets every reply."""
    with broker.connect() as wire:
        wire.send(b"".join(put(topic, b"x", n) for n in range(50)))
        wire.end_sending()
        assert [reply.status for reply in wire.replies(50)] == [200] * 50
        wire.expect_end()


def test_a_log_with_a_hole(start_broker: StartBroker) -> None:
    """A segment in the middle is lost: readers are sent to what follows it, and nothing is invented."""
    node = start_broker("hole", maxSegmentSize=1024)
    with node.connect() as wire:
        for n in range(12):
            assert wire.ask(put("test", b"%02d" % n * 240, n)).status == 200
    assert node.stop() == 0
    files = sorted((node.data / "test-0").glob("*.meta"))
    assert len(files) >= 4
    files[1].unlink()
    hole, behind = int(files[1].name[:20]), int(files[2].name[:20])
    node.start()
    with node.connect() as wire:
        for offset in (hole, hole + 1, behind - 1):
            reply = wire.ask(get("test", offset, 2048, 1))
            assert (reply.status, reply.text) == (301, str(behind))
        assert len(wire.ask(get("test", 0, 4096, 2)).body) == hole
        assert wire.ask(get("test", behind, 100, 3)).status is None
        assert wire.ask(put("test", b"more", 4)).text.endswith(f" 0 {12 * 500}")
        # MetaQ answers with the end of the log, and a consumer misses what lies between.
        for offset in (hole, hole + 1, behind - 1, behind):
            assert int(wire.ask(offset_query("test", offset)).text) == behind
        assert int(wire.ask(offset_query("test", hole - 1)).text) == 0
    numbers = [found.data[:2] for found in node.read_all("test", offset=behind)]
    assert numbers == [*(b"%02d" % n for n in range(behind // 500, 12)), b"mo"]
