"""A directory that the Java original wrote, kept in tests/testdata/java: it opens, reads and grows here, without Java.

``acknowledged.txt`` holds what the Java broker replied to each of the puts below.
"""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any

import pytest

from tests.interop.test_directories import check_files, check_wire, verify
from tests.support import NO_REGISTRY, BrokerProcess, Stored, put

if TYPE_CHECKING:
    from tests.interop.conftest import StartBroker
    from tests.interop.test_directories import Directory

TESTDATA = Path(__file__).resolve().parents[1] / "testdata" / "java"
TOPICS = "[topic=orders]\nnumPartitions=3\n"
SETTINGS: dict[str, Any] = {"maxSegmentSize": 1024}
PUTS = [
    # Partition, flag, data.
    (0, 0, b"hello"),
    (0, 0, b""),
    (0, 1, b"\0\0\0\x04bluepayload"),
    (0, 1, b"\0\0\0\0"),
    (0, 1, b"\0\0\0\x0bcol\xc3\xb6r=bl\xc3\xa4u\xff\0\xfe"),
    (0, -2, bytes(range(256)) * 4),
    (0, -(2**31) + 1, b"\0\0\0\x01anegative flag, and an attribute"),
    (0, 2**31 - 1, b"\0\0\x7f\xffsays that it has an attribute"),
    (0, 0, b"x" * 900),
    (0, 0, b"the last"),
    (1, 0, b"y" * 1004),  # Completes a segment: behind it the Java broker begins an empty one.
    (2, 0, b""),
]


def acknowledged() -> Directory:
    """What was put, where, under which id."""
    directory: Directory = {}
    lines = (TESTDATA / "acknowledged.txt").read_text(encoding="utf-8").splitlines()
    for (partition, flag, data), line in zip(PUTS, lines, strict=True):
        message_id, to_partition, offset = (int(word) for word in line.split(" "))
        assert to_partition == partition
        directory.setdefault(("orders", partition), []).append(Stored(offset, message_id, flag, data))
    return directory


def test_it_opens_and_grows(tmp_path: Path) -> None:
    directory = acknowledged()
    check_files(TESTDATA / "data", directory)
    data = tmp_path / "data"
    copytree(TESTDATA / "data", data)
    assert "damage" not in verify(data)
    broker = BrokerProcess(tmp_path, settings=SETTINGS, topics=TOPICS, registry=NO_REGISTRY)
    try:
        for _ in range(2):
            broker.start()
            check_wire(broker, directory)
            for partition in range(3):
                number = len(directory["orders", partition])
                body = b"number %d" % number
                reply = broker.ask(put("orders", body, 1, partition))
                message_id, _, offset = (int(word) for word in reply.text.split(" "))
                directory["orders", partition].append(Stored(offset, message_id, 0, body))
            check_wire(broker, directory)
            assert broker.stop() == 0
            check_files(data, directory)
        assert "damage" not in verify(data)
    finally:
        broker.make_sure_it_is_gone()
    # What was there before is not touched: only the last segments have grown.
    for segment in (TESTDATA / "data").rglob("*.meta"):
        after = (data / segment.relative_to(TESTDATA / "data")).read_bytes()
        assert after.startswith(segment.read_bytes())


def test_its_files_are_known_to_be_small() -> None:
    segments = sorted(TESTDATA.rglob("*.meta"))
    assert len(segments) >= 6
    assert sum(segment.stat().st_size for segment in segments) < 8192


@pytest.mark.java
def test_the_java_original_writes_the_same_today(start_java: StartBroker) -> None:
    java = start_java(topics=TOPICS, **SETTINGS)
    golden = acknowledged()
    offsets: dict[int, list[int]] = {}
    with java.connect() as wire:
        for partition, flag, data in PUTS:
            reply = wire.ask(put("orders", data, 1, partition, flag))
            offsets.setdefault(partition, []).append(int(reply.text.split(" ")[2]))
    assert java.stop() == 0
    for (topic, partition), stored in golden.items():
        assert offsets[partition] == [message.offset for message in stored]
        name = f"{topic}-{partition}"
        assert {path.name: path.stat().st_size for path in (java.data / name).glob("*.meta")} == {
            path.name: path.stat().st_size for path in (TESTDATA / "data" / name).glob("*.meta")
        }
