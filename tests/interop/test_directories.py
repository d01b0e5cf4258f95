"""One data directory, handed from the Java original to ours and back; nothing in it is lost or changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.interop.outcomes import Pair
from tests.support import Stored, get, put, record

if TYPE_CHECKING:
    from tests.interop.conftest import StartBroker
    from tests.support import BrokerProcess, Reply

pytestmark = pytest.mark.java

ROOT = Path(__file__).resolve().parents[2]
TOPICS = "[topic=orders]\nnumPartitions=3\n\n[topic=large]\n"
SETTINGS: dict[str, Any] = {"maxSegmentSize": 700_000}
NAMES = (("orders", 0), ("orders", 1), ("orders", 2), ("large", 0))


class Outgoing(NamedTuple):
    """What is put."""

    topic: str
    partition: int
    data: bytes
    flag: int = 0


def messages(writer: str, *, has_large: bool) -> list[Outgoing]:
    """Every kind there is; the bodies name who wrote them."""
    mark = writer.encode()
    attribute = b"\0\0\0\x0bcol\xc3\xb6r=bl\xc3\xa4u"
    return [
        # Partition 0: every kind of flag and body, and all byte values.
        Outgoing("orders", 0, mark + b" plain"),
        Outgoing("orders", 0, b""),
        Outgoing("orders", 0, attribute + mark, 1),
        Outgoing("orders", 0, b"\0\0\0\0" + mark, 1),
        Outgoing("orders", 0, b"\0\0\0\0", 1),
        Outgoing("orders", 0, b"\0\0\x7f\xffno such attribute", 1),
        Outgoing("orders", 0, mark, -1),
        Outgoing("orders", 0, attribute + mark, -(2**31) + 1),
        Outgoing("orders", 0, mark, 2**31 - 2),
        Outgoing("orders", 0, bytes(range(256)) * 4),
        # Partition 1: several segments.
        *(Outgoing("orders", 1, (b"%b %d " % (mark, number)) * 7000) for number in range(30)),
        # Partition 2: only empty ones.
        *(Outgoing("orders", 2, b"") for _ in range(5)),
        # A record beyond 512 KiB comes last: the Java broker writes it past its group commit, shows it
        # only after a later flush, and, where it completes a segment, answers no later put.
        Outgoing("large", 0, mark),
        *([Outgoing("large", 0, mark + bytes(range(256)) * 2400)] if has_large else []),
    ]


Directory = dict[tuple[str, int], list[Stored]]


def put_all(broker: BrokerProcess, writer: str, directory: Directory, *, has_large: bool = True) -> None:
    """One message after the other; the directory is told where the broker says that it put them."""
    with broker.connect() as wire:
        for opaque, message in enumerate(messages(writer, has_large=has_large)):
            topic, partition, data, flag = message
            reply = wire.ask(put(topic, data, opaque, partition, flag))
            assert reply.status == 200, reply
            message_id, to_partition, offset = (int(word) for word in reply.text.split(" "))
            assert to_partition == partition
            directory.setdefault((topic, partition), []).append(Stored(offset, message_id, flag, data))


def log_bytes(messages: list[Stored]) -> bytes:
    return b"".join(record(message.data, message.message_id, message.flag) for message in messages)


def check_wire(broker: BrokerProcess, directory: Directory) -> None:
    """Everything is there, byte for byte, at the offsets it was given."""
    for (topic, partition), expected in directory.items():
        assert broker.read_all(topic, partition) == expected
        end = expected[-1].offset + 20 + len(expected[-1].data)
        text = broker.ask(f"offset {topic} g {partition} {2**63 - 1} 1\r\n".encode()).text
        assert int(text) == end


def check_files(data: Path, directory: Directory) -> None:
    """The segments, end to end, are the records and nothing else."""
    for (topic, partition), expected in directory.items():
        segments = sorted((data / f"{topic}-{partition}").glob("*.meta"))
        written = b""
        for segment in segments:
            assert segment.name == f"{len(written):020d}.meta"
            written += segment.read_bytes()
        assert written == log_bytes(expected)


def verify(data: Path) -> str:
    found = subprocess.run(
        [sys.executable, "-P", "-m", "metaserver", "verify", str(data)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.parametrize("unflush_threshold", [0, 1000], ids=["fsync", "page-cache"])
def test_from_java_to_ours_and_back_twice(
    start_java: StartBroker, start_ours: StartBroker, unflush_threshold: int
) -> None:
    settings = {**SETTINGS, "unflushThreshold": unflush_threshold}
    directory: Directory = {}
    java = start_java(topics=TOPICS, **settings)
    put_all(java, "java", directory)
    assert java.stop() == 0
    assert set(directory) == set(NAMES)
    check_files(java.data, directory)
    assert "damage" not in verify(java.data)

    ours = start_ours(topics=TOPICS, dataPath=java.data, **settings)
    check_wire(ours, directory)
    put_all(ours, "ours", directory)
    check_wire(ours, directory)
    assert ours.stop() == 0
    check_files(java.data, directory)
    assert "damage" not in verify(java.data)

    # The Java broker may leave partitions unopened until something is put to them: read after that.
    java.start()
    put_all(java, "java again", directory)
    assert java.stop() == 0
    java.start()
    put_all(java, "java a third time", directory, has_large=False)
    if unflush_threshold == 0:
        check_wire(java, directory)
    assert java.stop() == 0
    check_files(java.data, directory)

    ours.start()
    check_wire(ours, directory)
    put_all(ours, "ours again", directory)
    check_wire(ours, directory)
    assert ours.stop() == 0
    check_files(java.data, directory)
    assert "damage" not in verify(java.data)
    assert len(list((java.data / "orders-1").glob("*.meta"))) > 10


def test_ours_first(start_java: StartBroker, start_ours: StartBroker) -> None:
    directory: Directory = {}
    ours = start_ours(topics=TOPICS, **SETTINGS)
    put_all(ours, "ours", directory)
    assert ours.stop() == 0
    java = start_java(topics=TOPICS, dataPath=ours.data, **SETTINGS)
    put_all(java, "java", directory, has_large=False)
    check_wire(java, directory)
    assert java.stop() == 0
    check_files(ours.data, directory)
    ours.start()
    check_wire(ours, directory)
    assert ours.stop() == 0


def ask_all(broker: BrokerProcess, requests: list[bytes]) -> list[Reply]:
    """Pipelined; the replies in the order of the requests."""
    with broker.connect() as wire:
        for opaque, request in enumerate(requests):
            wire.send(request.replace(b" 0\r\n", b" %d\r\n" % opaque))
        return sorted(wire.replies(len(requests)), key=lambda reply: reply.opaque)


@pytest.mark.parametrize("tell_the_end", [False, True], ids=["404", "301"])
def test_both_read_a_directory_alike(
    start_java: StartBroker, start_ours: StartBroker, tell_the_end: bool
) -> None:
    """Copies of one directory, whose first segment retention has taken, read at every interesting offset."""
    settings: dict[str, Any] = {
        "maxSegmentSize": 4096,
        "maxTransferSize": 2048,
        "updateConsumerOffsets": str(tell_the_end).lower(),
    }
    topics = "[topic=orders]\n"
    java = start_java(topics=topics, **settings)
    with java.connect() as wire:
        for number in range(40):
            assert wire.ask(put("orders", b"message %d " % number * (number % 100), number)).status == 200
    assert java.stop() == 0
    segments = sorted((java.data / "orders-0").glob("*.meta"))
    assert len(segments) > 2
    segments[0].unlink()
    ours = start_ours(topics=topics, **settings)
    assert ours.stop() == 0
    copytree(java.data, ours.data, dirs_exist_ok=True)
    pair = Pair(java, ours)
    java.start()
    ours.start()

    starts = [int(segment.name.removesuffix(".meta")) for segment in segments[1:]]
    end = starts[-1] + segments[-1].stat().st_size
    near = {edge + step for edge in (0, *starts, end) for step in (-21, -20, -1, 0, 1, 19, 20, 21, 700, 2048)}
    offsets = [*sorted(near), -(2**63), 2**63 - 2, 2**63 - 1]
    # The Java broker may not have opened the partition until something is put to it.
    for broker in (java, ours):
        assert broker.ask(put("orders", b"", 1)).text.endswith(f" 0 {end}")
    requests = [b"offset orders g 0 %d 0\r\n" % offset for offset in offsets]
    requests += [get("orders", offset, size, 0) for offset in offsets for size in (1, 20, 1000, 1_000_000)]
    of_java, of_ours = (ask_all(broker, requests) for broker in (java, ours))
    for request, java_reply, our_reply in zip(requests, of_java, of_ours, strict=True):
        if java_reply.status is None:
            # The record just put begins at the end and has another id at each broker.
            offset = int(request.split(b" ")[4])
            size = max(0, end + 8 - offset)
            assert (java_reply.body[:size], len(java_reply.body)) == (
                our_reply.body[:size],
                len(our_reply.body),
            )
        else:
            assert our_reply == java_reply, request
    pair.stop()
