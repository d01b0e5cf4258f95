"""Files byte for byte as the reference describes them; nothing here is computed by the code under test."""

from __future__ import annotations

from pathlib import Path

from metaserver.message import encode_record, iterate_records
from metaserver.storage import MessageStore, RealFileSystem
from tests.storage.faulty_filesystem import FakeClock
from tests.storage.support import NAME, open_store, options, read_all

TESTDATA = Path(__file__).resolve().parents[1] / "testdata" / "log"

BODIES = [
    (b"abc", 1, 0),
    (b"a", -2, 0),
    (b"", 0x400000, 0),
    (b"\0\0\0\x04bluepayload", 0x015202EF8D00038D, 1),
    (b"\0\0\0\0", 0x015202EF8D00038E, 1),
    (b"abc", 0x015202EF8D00038F, -0x7FFFFFFE),
]


def golden() -> bytes:
    lines = (TESTDATA / "segment.hex").read_text(encoding="utf-8").splitlines()
    return bytes.fromhex(" ".join(line.partition("#")[0] for line in lines))


def test_a_written_segment_is_the_golden_one(tmp_path: Path) -> None:
    store = open_store(RealFileSystem(), FakeClock(), path=tmp_path)
    log = store.create(NAME, tmp_path, 1024)
    for body, message_id, flag in BODIES:
        record = encode_record(body, message_id, flag)
        log.append([record], len(record), 1, message_id)
    store.close()
    assert (tmp_path / "orders-0" / "00000000000000001024.meta").read_bytes() == golden()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["orders-0"]
    assert sorted(path.name for path in (tmp_path / "orders-0").iterdir()) == [
        "00000000000000001024.meta",
        "recovery.checkpoint",
    ]


def test_the_golden_segment_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "orders-0"
    directory.mkdir()
    (directory / "00000000000000001024.meta").write_bytes(golden())
    store = MessageStore.open(RealFileSystem(), FakeClock(), options(), [tmp_path], "a test")
    log = store.partitions[NAME]
    assert (log.start_offset, log.end_offset, log.record_count) == (1024, 1024 + len(golden()), len(BODIES))
    assert store.highest_message_id == 0x015202EF8D00038F
    data = read_all(log)
    assert data == golden()
    found = list(iterate_records(data))
    assert [(record.data, record.message_id, record.flag) for record in found] == BODIES
    assert [record.attribute for record in found] == [None, None, None, "blue", "", None]
    assert [record.payload for record in found] == [b"abc", b"a", b"", b"payload", b"", b"abc"]
    store.close()


def test_segments_join_as_the_original_demands(tmp_path: Path) -> None:
    """Start and size of each file give the start of the next; the roll comes after the append."""
    store = open_store(RealFileSystem(), FakeClock(), options(segment_bytes_max=100), tmp_path)
    log = store.create(NAME, tmp_path)
    for number in range(1, 10):
        record = encode_record(b"x" * 40, number)
        log.append([record], len(record), 1, number)
        if log.needs_roll:
            log.roll()
    store.close()
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "orders-0").glob("*.meta")}
    assert sizes == {
        "00000000000000000000.meta": 120,
        "00000000000000000120.meta": 120,
        "00000000000000000240.meta": 120,
        "00000000000000000360.meta": 120,
        "00000000000000000480.meta": 60,
    }
