"""Everything that lies in a data directory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from metaserver.cli.output import Failure
from metaserver.cli.quarantine_folder import load_folder
from metaserver.client.message_fields import time_text
from metaserver.client.offsets.file import DamagedError, OffsetFile
from metaserver.client.partition import Partition
from metaserver.epochs import Epoch, EpochChain
from metaserver.errors import OffsetInHoleError
from metaserver.message import iterate_records
from metaserver.node.role import load_decision
from metaserver.registry.paths import StoredOffset
from metaserver.storage.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from metaserver.storage.deleted import load_history
from metaserver.storage.documents import seal
from metaserver.storage.epochs import decode_epochs, encode_epochs
from metaserver.storage.filenames import (
    CHECKPOINT_NAME,
    DELETED_NAME,
    EPOCHS_NAME,
    GAPS_NAME,
    HISTORY_NAME,
    REPAIR_NAME,
    REPLAYED_NAME,
    REPORT_NAME,
    ROLE_NAME,
)
from metaserver.storage.gaps import decode_gaps, encode_gaps
from metaserver.storage.patch import Patch
from metaserver.storage.quarantine import QuarantineReport
from metaserver.storage.segment import OffsetRange
from metaserver.transactions import decode_entry, encode_entry
from metaserver.transactions.java_journal import JavaJournal
from metaserver.transactions.java_outcomes import read_outcomes
from metaserver.transactions.replay import Replay
from tests.fuzzing.target import DEEP, EDGES, Target, joined, pieces, refusing
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import DATA, DIRECTORY, NAME, append, open_store, records, segment_path
from tests.transactions.java_redo import PREPARE, XA_COMMIT, JavaPut, operation, places, put
from tests.transactions.test_entries import GOLDEN
from tests.transactions.test_java_journal import ONE, TESTDATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metaserver.storage import PartitionLog

_SEALS = len(seal(""))
_JSON_WORDS = (b"{", b"[", b"}", b":", b'"', b"null", b"true", b"NaN", b"Infinity", b"1e999", b"1.5", *EDGES)


# A partition: whatever lies there, what was readable once is readable for ever.


def _resealed(body: bytes) -> bytes:
    """With a checksum that fits: otherwise nothing else would ever be looked at."""
    return seal(body.decode(errors="replace"))


def _partition(data: bytes) -> None:
    filesystem = FaultyFileSystem()
    first, second, checkpoint, epochs, gaps, repair = (*pieces(data, 6), *[b""] * 6)[:6]
    files = {
        segment_path(0): first,
        segment_path(len(first)): second,
        DIRECTORY / CHECKPOINT_NAME: checkpoint and _resealed(checkpoint),
        DIRECTORY / EPOCHS_NAME: epochs and _resealed(epochs),
        DIRECTORY / GAPS_NAME: gaps and _resealed(gaps),
        DIRECTORY / REPAIR_NAME: repair,
    }
    for path, content in files.items():
        if content:
            filesystem.write_bytes(path, content)
    readable = _open_and_append(filesystem, 1)
    assert readable.items() <= _open_and_append(filesystem, 2).items(), "what was readable is not any more"


def _open_and_append(filesystem: FaultyFileSystem, message_id: int) -> dict[int, bytes]:
    store = open_store(filesystem, filesystem.clock)
    try:
        log = store.partitions.get(NAME)
        if log is None:
            return {}
        if log.failure is None and log.end_offset < 2**62:
            append(log, *records(1, message_id))
            log.flush()
        return dict(_readable(log))
    finally:
        store.close()


def _readable(log: PartitionLog) -> Iterator[tuple[int, bytes]]:
    """As a consumer reads: what a checkpoint calls unreadable may begin and end inside of records."""
    offset = log.start_offset
    while offset < log.end_offset:
        try:
            piece = log.read(offset, 1 << 30, log.end_offset)
        except OffsetInHoleError as hole:
            offset, before = hole.next_offset, offset
            if offset <= before:
                raise AssertionError("a reader is sent back") from hole
            continue
        for record in iterate_records(piece.read()):
            yield offset + record.position, record.data
        offset += piece.size
        piece.release()


_RECORDS = b"".join(records(4))
_CHECKPOINT = Checkpoint(
    segment_start=0,
    end_offset=100,
    is_clean=False,
    record_count=2,
    last_message_id=2,
    fingerprint=0,
    unreadable=(OffsetRange(50, 60),),
)
_EPOCHS = EpochChain((Epoch(1, 0xA1, 0), Epoch(2, 0xB2, 100)))
_GAPS = (OffsetRange(100, 200),)
_PATCH = Patch(0, 50, b"old!", _RECORDS[50:54])


def _unsealed(data: bytes) -> bytes:
    return data[:-_SEALS]


# Documents.


def _sealed(
    decode: Callable[[bytes], object], encode: Callable[[object], bytes]
) -> Callable[[bytes], object]:
    """What is believed is what would be written. As it comes, and with a checksum that fits."""

    def run(data: bytes) -> None:
        for document in (data, _resealed(data)):
            found = decode(document)
            assert found is None or decode(encode(found)) == found

    return run


def _patch(data: bytes) -> None:
    patch = Patch.decode(data)
    if patch is not None:
        assert patch.encode() == data
        assert patch.range.end - patch.range.start == len(patch.old) == len(patch.new)


def _folder_of_quarantine(data: bytes) -> None:
    report, replayed = (*pieces(data, 2), b"", b"")[:2]
    with tempfile.TemporaryDirectory(prefix="metaserver-fuzz-") as name:
        path = Path(name)
        (path / REPORT_NAME).write_bytes(report)
        if replayed:
            (path / REPLAYED_NAME).write_bytes(replayed)
        try:
            folder = load_folder(path)
        except Failure:
            return
        # What the command line does with it.
        found = folder.report
        assert isinstance(found.end_offset - found.start_offset + found.records, int)
        for seconds in (found.first_wall_seconds, found.last_wall_seconds):
            assert seconds is None or isinstance(time_text(seconds), str)
        assert isinstance(found.topic + found.reason + found.master, str)
        if folder.replayed is not None:
            assert folder.replayed.get("complete", False) in (True, False)
            assert all(message["offset"] is not None for message in folder.replayed["messages"])


def _role(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="metaserver-fuzz-") as name:
        Path(name, ROLE_NAME).write_bytes(data)
        decision = load_decision(Path(name))
        assert decision is not None
        assert decision.master
        assert decision.sentence


def _history(data: bytes) -> None:
    filesystem = FaultyFileSystem()
    filesystem.write_bytes(DATA / DELETED_NAME / str(NAME) / HISTORY_NAME, data)
    load_history(filesystem, DATA, NAME)


def _offset_file(data: bytes) -> None:
    try:
        offsets = OffsetFile.parse(data)
    except DamagedError:
        return
    merged = offsets.merge("g", {Partition("t", 0, 1): StoredOffset(5, None)})
    again = OffsetFile.parse(merged.encode())
    assert again.load("g")[Partition("t", 0, 1)].offset == 5
    for group in offsets.groups:
        assert offsets.load(group).keys() <= again.load(group).keys()


# Journals of transactions.


def _journal(data: bytes) -> None:
    replay = Replay()
    for piece in pieces(data, 64):
        try:
            entry = decode_entry(piece)
        except ValueError:
            continue
        assert decode_entry(encode_entry(entry)) == entry
        replay.take(entry)
    for transaction in replay.transactions():
        assert transaction.message_count >= 0


def _java_journal(data: bytes) -> None:
    journal = JavaJournal()
    for piece in pieces(data):
        for transaction in journal.read(DATA, piece):
            assert transaction.places is not None
    assert all(transaction.places is None for transaction in journal.prepared())


def _java_outcomes(data: bytes) -> None:
    for key, has_committed in read_outcomes(data).items():
        assert (str(key)[:4], type(has_committed)) == ("XID:", bool)


_REPORT = QuarantineReport(
    topic="test",
    partition=0,
    start_offset=100,
    end_offset=200,
    records=2,
    first_message_id=1,
    last_message_id=2,
    first_wall_seconds=1.7e9,
    last_wall_seconds=None,
    reason="the master has other bytes",
    own_epochs="1 a1 0\n",
    master_epochs="1 b2 0\n",
    master="127.0.0.1:8123",
)
_PUTS = [JavaPut("test", 0, b"a body", 5), JavaPut("test", 1, b"another", -6, 1)]
_REDO = b"".join(put(ONE, message) for message in _PUTS) + operation(PREPARE, ONE)
_REDO += operation(XA_COMMIT, ONE, places(_PUTS, {"test-0": 0, "test-1": 90}))
_REPLAYED = b'{"complete": false, "messages": [{"offset": 100, "new_id": 7, "new_offset": 900}]}'

TARGETS = (
    Target(
        "partition",
        _partition,
        [
            joined([_RECORDS]),
            joined([_RECORDS, _RECORDS[:100], _unsealed(encode_checkpoint(_CHECKPOINT))]),
            joined(
                [_RECORDS, _RECORDS, b"", _unsealed(encode_epochs(_EPOCHS)), _unsealed(encode_gaps(_GAPS))]
            ),
            joined([_RECORDS[:50] + b"old!" + _RECORDS[54:], b"", b"", b"", b"", _PATCH.encode()]),
        ],
        [bytes(8), b"\xff" * 4, b"\0\0\0\1", b"unreadable 0 50\n", b"gap 5 1\n", *EDGES],
    ),
    Target(
        "checkpoint",
        _sealed(decode_checkpoint, encode_checkpoint),  # type: ignore[arg-type] # what decodes is what encodes
        [encode_checkpoint(_CHECKPOINT), _unsealed(encode_checkpoint(_CHECKPOINT))],
        [b"unreadable 1 2\n", b"none", b"\n", b" ", *EDGES],
    ),
    Target(
        "epochs",
        _sealed(decode_epochs, encode_epochs),  # type: ignore[arg-type] # the same
        [encode_epochs(_EPOCHS), _unsealed(encode_epochs(_EPOCHS))],
        [b"\n", b" ", b"epoch 3 ff 7\n", *EDGES],
    ),
    Target(
        "gaps",
        _sealed(decode_gaps, encode_gaps),  # type: ignore[arg-type] # the same
        [encode_gaps(_GAPS), _unsealed(encode_gaps(_GAPS))],
        [b"\n", b" ", b"gap 3 7\n", *EDGES],
    ),
    Target("repair-journal", _patch, [_PATCH.encode()], [b"size ", b"\n", *EDGES]),
    Target(
        "quarantine",
        _folder_of_quarantine,
        [joined([_REPORT.encode()]), joined([_REPORT.encode(), _REPLAYED]), joined([DEEP])],
        _JSON_WORDS,
    ),
    Target(
        "role.json",
        refusing(_role),
        [b'{"role": "slave", "master_host": "h", "master_port": 8123, "time": "2026-01-01T00:00:00Z"}', DEEP],
        _JSON_WORDS,
    ),
    Target(
        "history.json",
        refusing(_history),
        [b'{"start_offset": 0, "end_offset": 100, "epochs": "1 a1 0\\n"}', DEEP],
        _JSON_WORDS,
    ),
    Target(
        "offset-file",
        _offset_file,
        [
            b'{"g":[{"topic":"t","partition":{"brokerId":0,"partition":1},"offset":9,"messageId":7,"modified":false}]}',
            b'{"g":null,"h":[]}',
            DEEP,
        ],
        _JSON_WORDS,
    ),
    Target(
        "journal",
        _journal,
        [joined([encode_entry(entry) for entry, _ in GOLDEN])],
        [b"TX:s:1", b"XID:1:ab::q"],
    ),
    Target(
        "java-journal",
        refusing(_java_journal),
        [joined([(TESTDATA / "redo.1").read_bytes()[:900]]), joined([_REDO, _REDO[:-1]])],
        [b"\xff" * 9, b"\x80" * 10 + b"\1", b"\x0a", b"\x12"],
    ),
    Target(
        "java-outcomes",
        refusing(_java_outcomes, ValueError),
        [(TESTDATA / name).read_bytes() for name in ("heuristic.log", "heuristic.log.none")],
        [b"\x71\0\x7e\0\0", b"sr", b"ur", b"xp", b"w\x08", *EDGES],
    ),
)
