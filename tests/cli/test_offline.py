"""dump-log and verify on files, whole and damaged; neither may change anything."""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.segment_file import Damage, Placed, open_for_reading, walk
from metaserver.storage import MessageStore, RealFileSystem, StoreOptions
from metaserver.storage.filenames import LOCK_NAME, segment_name
from tests.support import record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Home, Ran

    Call = Callable[..., Ran]

_random = random.Random(3)  # Bodies without structure: nothing in them looks like a record.
BODIES = [_random.randbytes(50) for _ in range(10)]
RECORDS = [record(body, 1000 + number) for number, body in enumerate(BODIES)]
SIZE = len(RECORDS[0])
WHOLE = b"".join(RECORDS)


class Clock:
    def wall_seconds(self) -> float:
        return 1e9

    def monotonic_seconds(self) -> float:
        return 0.0


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def write_segment(directory: Path, start: int, content: bytes) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / segment_name(start)
    path.write_bytes(content)
    return path


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    """Two segments that follow each other."""
    directory = tmp_path / "data" / "orders-0"
    write_segment(directory, 0, WHOLE)
    write_segment(directory, len(WHOLE), WHOLE)
    return directory


# dump-log.


def test_every_record_on_a_line(partition: Path, call: Call) -> None:
    (partition / segment_name(len(WHOLE))).write_bytes(
        record(b"hello\x1b[31m", 2060866805546614784) + record(b"\0\0\0\4kindbody", -5, 1)
    )
    ran = call("dump-log", partition / segment_name(len(WHOLE)))
    assert ran.code == 0
    title, first, second, end = ran.out.splitlines()
    assert title.split() == ["offset", "id", "time", "flag", "length", "checksum", "payload"]
    assert first.split()[:5] == [
        str(len(WHOLE)),
        "2060866805546614784",
        "2026-11-21T07:03:15.999Z",
        "0",
        "10",
    ]
    assert first.endswith(r"hello\x1b[31m")
    assert second.endswith("[kind] body")
    assert end == "2 records"


def test_dump_as_json(partition: Path, call: Call) -> None:
    path = partition / segment_name(0)
    ran = call("dump-log", path, "--json", "--count", "2", "--preview", "3")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [(line["offset"], line["id"], line["length"]) for line in lines] == [
        (0, 1000, 50),
        (SIZE, 1001, 50),
    ]


def test_dump_goes_on_behind_damage(partition: Path, call: Call) -> None:
    path = partition / segment_name(0)
    content = bytearray(WHOLE)
    content[3 * SIZE + 30] ^= 1
    path.write_bytes(bytes(content[:-5]))
    before = snapshot(partition)
    ran = call("dump-log", path, "--json")
    assert ran.code == ExitCode.DAMAGE
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["offset"] for line in lines] == [number * SIZE for number in range(10)]
    assert [(line["damage"], line["end_offset"]) for line in lines if "damage" in line] == [
        ("damaged", 4 * SIZE),
        ("torn tail", 10 * SIZE - 5),
    ]
    text = call("dump-log", path).out
    assert f"-- damaged: {SIZE} bytes, up to offset {4 * SIZE}: checksum mismatch" in text
    assert f"-- torn tail: {SIZE - 5} bytes" in text
    assert text.endswith("8 records; damaged in 2 places\n")
    assert snapshot(partition) == before


def test_dump_reads_any_file(tmp_path: Path, call: Call) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert call("dump-log", empty).code == 0
    text = tmp_path / "text"
    text.write_bytes(b"this is no log at all, but somebody may try")
    assert call("dump-log", text).code == ExitCode.DAMAGE
    assert call("dump-log", tmp_path / "none").code == ExitCode.FAILED
    ran = call("dump-log", tmp_path)
    assert (ran.code, ran.err) == (
        ExitCode.FAILED,
        f"metaServer: {tmp_path}: cannot be read: Is a directory\n",
    )


@given(
    bodies=st.lists(st.binary(max_size=40)),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
)
def test_walking_covers_every_byte_once_whatever_is_damaged(
    bodies: list[bytes], changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(b"".join(record(body, 7 + number) for number, body in enumerate(bodies)))
    for position, value in changes:
        if content:
            content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "walked"
    path.write_bytes(content)
    file = open_for_reading(path)
    try:
        position = 0
        for found in walk(file, 0, len(content)):
            if isinstance(found, Placed):
                assert found.position == position
                position += found.record.size
            else:
                assert isinstance(found, Damage)
                assert found.start == position < found.end
                position = found.end
        assert position == len(content)
    finally:
        file.close()


# verify.


def test_a_clean_directory(partition: Path, call: Call) -> None:
    before = snapshot(partition.parent)
    for directory in (partition, partition.parent):
        ran = call("verify", directory)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.splitlines()[0] == (
            f"orders-0: 20 messages, 1.4 KiB in 2 segments, offsets 0 to {2 * len(WHOLE)}: clean"
        )
        assert ran.out.splitlines()[-1].endswith(": clean")
    assert snapshot(partition.parent) == before
    (report,) = json.loads(call("verify", partition, "--json").out)
    assert (report["messages"], report["damage"]) == (20, [])


def damage_of(call: Call, directory: Path) -> list[str]:
    before = snapshot(directory)
    ran = call("verify", directory, "--json")
    found = [text for report in json.loads(ran.out) for text in report["damage"]]
    assert ran.code == (ExitCode.DAMAGE if found else 0)
    assert snapshot(directory) == before
    return found


def test_every_kind_of_damage_is_named(partition: Path, call: Call) -> None:
    data, end = partition.parent, len(WHOLE)
    first, second = partition / segment_name(0), partition / segment_name(end)

    content = bytearray(WHOLE)
    content[SIZE + 25] ^= 1
    first.write_bytes(content)
    assert damage_of(call, data) == [
        f"damaged: offsets {SIZE} to {2 * SIZE} ({SIZE} bytes) in {first.name}: checksum mismatch"
    ]

    first.write_bytes(WHOLE)
    second.write_bytes(WHOLE[:-3])
    assert [text.partition(" (")[0] for text in damage_of(call, data)] == [
        f"torn tail: offsets {2 * end - SIZE} to {2 * end - 3}"
    ]

    second.write_bytes(WHOLE + bytes(64))
    (zeros,) = damage_of(call, data)
    assert zeros.startswith(f"torn tail: offsets {2 * end} to {2 * end + 64}")

    second.write_bytes(WHOLE)
    first.write_bytes(WHOLE[:-SIZE])
    assert damage_of(call, data) == [
        f"gap: {first.name} ends at offset {end - SIZE}, the next begins at {end}: {SIZE} bytes are missing"
    ]

    first.write_bytes(WHOLE + RECORDS[0])
    assert damage_of(call, data) == [
        f"overlap: {first.name} ends at offset {end + SIZE}, but the next begins at {end}"
    ]

    first.write_bytes(WHOLE)
    (partition / "5.meta").touch()
    assert damage_of(call, data) == [
        "5.meta ends with .meta and is no segment: no broker opens the partition"
    ]


def test_what_is_strange_but_no_damage(partition: Path, call: Call) -> None:
    (partition / "notes.txt").touch()
    (partition / f"{0:020d}.torn-12").write_bytes(b"abc")
    (partition / f"{0:020d}.meta.arc").write_bytes(b"old")
    (partition.parent / "readme").touch()
    ran = call("verify", partition.parent)
    assert ran.code == 0
    assert "note: notes.txt is no file of a broker" in ran.out
    assert "note: 00000000000000000000.torn-12: 3 bytes that recovery has cut off" in ran.out
    assert "note: readme belongs to no partition" in ran.out
    assert ".arc" not in ran.out


@pytest.fixture
def stopped(partition: Path) -> Path:
    """The same, as a broker left it: with a checkpoint."""
    options = StoreOptions(segment_bytes_max=1 << 20, checkpoint_bytes=1 << 20)
    MessageStore.open(RealFileSystem(), Clock(), options, [partition.parent], "a test").close()
    assert (partition / "recovery.checkpoint").exists()
    return partition


def test_a_checkpoint_that_vouches_for_more_than_there_is(stopped: Path, call: Call) -> None:
    assert damage_of(call, stopped) == []
    path = stopped / segment_name(len(WHOLE))
    path.write_bytes(WHOLE[:-SIZE])
    (text,) = damage_of(call, stopped)
    assert text.endswith(f"{SIZE} bytes are missing")


def test_a_checkpoint_of_other_bytes(stopped: Path, call: Call) -> None:
    path = stopped / segment_name(len(WHOLE))
    path.write_bytes(b"".join(record(b"z" * 50, 5) for _ in BODIES))
    (text,) = damage_of(call, stopped)
    assert "does not fit" in text


def test_a_checkpoint_that_cannot_be_read(stopped: Path, call: Call) -> None:
    (stopped / "recovery.checkpoint").write_bytes(b"rubbish")
    (text,) = damage_of(call, stopped)
    assert text.startswith("recovery.checkpoint is damaged")


def test_nothing_to_verify(tmp_path: Path, call: Call) -> None:
    assert call("verify", tmp_path / "none").code == ExitCode.FAILED
    # Hardly what was meant: it is not called clean.
    ran = call("verify", tmp_path)
    assert (ran.code, ran.out) == (ExitCode.FAILED, "")
    assert f"{tmp_path} holds no partition (a folder TOPIC-NUMBER)" in ran.err
    # A broker without a message yet.
    (tmp_path / LOCK_NAME).touch()
    ran = call("verify", tmp_path)
    assert (ran.code, ran.out.startswith("0 partitions, 0 messages")) == (0, True)
    assert "there is nothing to check" in ran.err


def test_beside_a_running_broker_the_tail_is_no_damage(pair: Home, topic: str, call: Call) -> None:
    pair.run("produce", topic, stdin="one\ntwo\n")
    data = pair.base / "data" / "master"
    ran = call("verify", data / f"{topic}-0")
    assert (ran.code, "a broker is using this directory" in ran.err) == (0, True)
    (file,) = (data / f"{topic}-0").glob("*.meta")
    size = file.stat().st_size
    with file.open("ab") as stream:
        stream.write(record(b"three", 9)[:-1])
    ran = call("verify", data / f"{topic}-0")
    os.truncate(file, size)
    assert (ran.code, "being written now" in ran.out) == (0, True)


def test_a_broker_that_was_killed_holds_no_lock(partition: Path, call: Call) -> None:
    (partition.parent / ".lock").write_text("pid 1\n", encoding="utf-8")
    with suppress(FileNotFoundError):
        (partition / segment_name(len(WHOLE))).write_bytes(WHOLE[:-1])
    assert len(damage_of(call, partition.parent)) == 1
