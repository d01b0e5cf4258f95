"""A graceful stop keeps every promise and cuts no reply; a reload changes the topics of a running broker."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from metaserver.control.client import call
from metaserver.errors import ConfigError
from tests.support import ConnectionEndedError, eventually, get, put, put_batch, record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.broker.conftest import StartBroker
    from tests.support import BrokerProcess, Wire

PRODUCERS = 4
UNANSWERED_MAX = 1000


class Producer:
    """Pipelines puts and batches until the broker ends the connection; knows what was answered."""

    def __init__(self, node: BrokerProcess, number: int) -> None:
        self.wire = node.connect()
        self.number = number
        self.answered: dict[int, str] = {}
        """The texts of the answers, by opaque."""
        self.refused: list[str] = []
        self.cut: bytes | None = None
        """What was left in the end: the beginning of a reply that was cut."""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def request(self, opaque: int) -> bytes:
        data = b"%d-%d" % (self.number, opaque)
        partition = self.number % 2
        if opaque % 5:
            return put("test", data, opaque, partition=partition)
        return put_batch("test", record(data) * 3, opaque, partition=partition)

    def finish(self) -> None:
        """Wait for the end of the connection."""
        self._thread.join()
        self.wire.close()

    def _run(self) -> None:
        sent = answered = 0
        try:
            while True:
                if sent - answered < UNANSWERED_MAX:
                    requests = b"".join(self.request(sent + n) for n in range(50))
                    sent += 50
                    with suppress(OSError):  # What the broker has said before it closed is still to be read.
                        self.wire.send(requests)
                reply = self.wire.reply()
                answered += 1
                if reply.status == 200:
                    self.answered[reply.opaque] = reply.text
                else:
                    self.refused.append(f"{reply.status} {reply.text}")
        except ConnectionEndedError as ended:
            self.cut = ended.held


@pytest.mark.parametrize("threshold", [0, 1000])
def test_a_stop_under_load(start_broker: StartBroker, threshold: int) -> None:
    """Whatever was answered is in the log after a restart, where the answer said; no answer is cut."""
    node = start_broker(
        "busy",
        topics="[topic=test]\nnumPartitions=2\n",
        unflushThreshold=threshold,
        maxSegmentSize=256 * 1024,
    )
    producers = [Producer(node, number) for number in range(PRODUCERS)]
    try:
        eventually(lambda: all(len(p.answered) > 500 for p in producers), "answers for every producer")
    finally:
        code = node.stop()
        for producer in producers:
            producer.finish()
    assert code == 0
    assert "Stop metamorphosis server successfully" in node.log
    assert [producer.cut for producer in producers] == [b""] * PRODUCERS
    assert [producer.refused for producer in producers] == [[]] * PRODUCERS
    node.start()
    stored = {
        (partition, found.offset): found
        for partition in range(2)
        for found in node.read_all("test", partition)
    }
    for producer in producers:
        for opaque, text in producer.answered.items():
            message_id, partition, offset, *_ = map(int, text.split(" "))
            found = stored[partition, offset]
            assert found.data == b"%d-%d" % (producer.number, opaque)
            assert found.message_id == message_id
    for number in range(PRODUCERS):
        # In order, and none left out: what was not answered may be there, behind the rest.
        name = b"%d-" % number
        opaques = [int(found.data[2:]) for found in stored.values() if found.data.startswith(name)]
        expected = [n for n in range(max(opaques) + 1) for _ in range(1 if n % 5 else 3)]
        assert opaques == expected[: len(opaques)]


def test_a_stop_answers_who_waits(start_broker: StartBroker) -> None:
    node = start_broker("waited-for")
    with node.connect() as wire, node.connect() as idle:
        assert wire.ask(put("test", b"x", 1)).status == 200
        wire.send(b"".join(get("test", 21, 100, n, wait_ms=60_000) for n in range(50)))
        assert wire.ask(b"version 99\r\n").opaque == 99
        began = time.monotonic()
        node.ask_to_stop()
        assert sorted(reply.opaque for reply in wire.replies(50)) == list(range(50))
        wire.expect_end()
        idle.expect_end()
        wire.close()
        idle.close()
        assert node.wait_for_end() == 0
        assert time.monotonic() - began < 5


def test_a_stop_does_not_wait_for_a_peer_that_reads_nothing(start_broker: StartBroker) -> None:
    node = start_broker("stubborn", stopTimeoutInMills=500)
    with node.connect(receive_buffer=4096) as wire:
        assert wire.ask(put("test", b"x" * 1_000_000, 1)).status == 200
        wire.send(get("test", 0, 2**20, 2) * 200)
        eventually(lambda: counted(node, "cmd_get") > 10, "gets under way")
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 5
    assert "Some replies were not taken in time" in node.log


def counted(node: BrokerProcess, key: str) -> int:
    (line,) = (line for line in node.statistics() if line.startswith(f"{key} "))
    return int(line.split(" ")[1])


@pytest.mark.parametrize("how", ["quit", "half close"])
def test_gets_of_cold_pages_are_answered_before_the_end(start_broker: StartBroker, how: str) -> None:
    """The pages come from the disk, in another thread, after the client has said that it is done."""
    node = start_broker("cold")
    data = os.urandom(100_000)
    with node.connect() as wire:
        for n in range(40):
            assert wire.ask(put("test", data, n)).status == 200
        forget_pages(node.data / "test-0")
        wire.send(b"".join(get("test", n * 100_020, 100_020, n) for n in range(40)))
        if how == "quit":
            wire.send(b"quit\r\n")
        else:
            wire.end_sending()
        replies = wire.replies(40)
        wire.expect_end()
    assert sorted(reply.opaque for reply in replies) == list(range(40))
    assert {reply.body[20:] for reply in replies} == {data}


def forget_pages(directory: Path) -> None:
    """Out of the page cache, if the filesystem does it."""
    for path in directory.glob("*.meta"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


# Reload.


def status_of(wire: Wire, topic: str, partition: int = 0) -> int | None:
    return wire.ask(put(topic, b"x", 1, partition=partition)).status


def test_a_reload_changes_topics_while_connections_stay(start_broker: StartBroker) -> None:
    node = start_broker("reloaded", topics="[topic=test]\n\n[topic=going]\n")
    with node.connect() as wire:
        assert [status_of(wire, topic) for topic in ("test", "going", "new")] == [200, 200, 500]
        assert status_of(wire, "test", 1) == 500
        node.configure({}, "[topic=test]\nnumPartitions=2\n\n[topic=new]\n")
        call(node.control_socket, "reload", 10)
        assert [status_of(wire, topic) for topic in ("test", "going", "new")] == [200, 500, 200]
        assert status_of(wire, "test", 1) == 200
        assert wire.ask(get("going", 0, 100, 1)).status is None
        assert wire.ask(b"stats config 1\r\n").body == node.server_file.read_bytes()
        assert "new *Empty*" not in node.statistics("topics")


def test_a_reload_of_a_wrong_file_changes_nothing(start_broker: StartBroker) -> None:
    node = start_broker("reloaded")
    before = node.server_file.read_bytes()
    with node.connect() as wire:
        node.configure({"maxSegmentSize": "large"}, "[topic=new]\nnumPartitions=0\n")
        with pytest.raises(ConfigError) as caught:
            call(node.control_socket, "reload", 10)
        assert "maxSegmentSize" in str(caught.value)
        assert "numPartitions" in str(caught.value)
        assert [status_of(wire, topic) for topic in ("test", "new")] == [200, 500]
        assert wire.ask(b"stats config 1\r\n").body == before


def test_reloads_under_load_lose_nothing(start_broker: StartBroker) -> None:
    node = start_broker("reloaded", topics="[topic=test]\nnumPartitions=2\n")
    producer = Producer(node, 0)
    try:
        for n in range(5):
            node.configure({}, f"[topic=test]\nnumPartitions=2\n\n[topic=extra{n}]\n")
            call(node.control_socket, "reload", 10)
            enough = len(producer.answered) + 1000

            def has_gone_on(enough: int = enough) -> bool:
                return len(producer.answered) > enough

            eventually(has_gone_on, "more answers")
    finally:
        assert node.stop() == 0
        producer.finish()
    assert producer.refused == []
    assert producer.cut == b""
