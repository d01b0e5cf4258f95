"""Opening a partition, also after a crash. A log cannot be made from a directory in any other way.

The passes:

0. Repair: finish what a crash has interrupted (repair.py).
1. List: which segments there are. A file that ends like a segment and is none stops the opening.
2. Join: each segment must end where the next begins. A missing piece becomes a *hole*, or a *gap* where
   it is missing knowingly; two segments that both hold an offset stop the opening. A segment that ends in
   the middle of a record was cut short: zeros take the place of what is missing, damage like any other.
3. Trust: what does the checkpoint vouch for? Where it ends exactly where the log does, that is all.
4. Scan: verify the last segment from there. A damaged record with a valid one anywhere behind it
   becomes a *damaged range*; bytes with nothing valid behind them are the *torn tail*.
5. Cut: copy the torn tail into a file beside, sync that, then cut.
6. Settle: write what was scanned once more and sync it, so that a second crash cannot take it back.
   A sync alone would not do: where the process died of a failed sync, the kernel shows bytes it has
   given up writing. A log that ends before what the checkpoint vouches for has lost it since, by
   whatever hand: offsets must never be given out twice, so zeros take the place of what is missing.
7. Ids: where nothing above has shown the last message id, look into the segment before.

Segments before the last are not read: a roll syncs a segment before its successor exists.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import attrs

from metaserver.errors import CorruptLogError, LogFailedError
from metaserver.storage.checkpoint import fingerprint, load_checkpoint
from metaserver.storage.filenames import (
    claims_to_be_segment,
    parse_segment_name,
    segment_name,
    torn_name,
)
from metaserver.storage.filesystem import Point
from metaserver.storage.gaps import is_intended, load_gaps
from metaserver.storage.layout import merge_ranges, subtract_range
from metaserver.storage.patch import finish_repair
from metaserver.storage.resynchronise import ScanResult, scan_file
from metaserver.storage.segment import OffsetRange

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from metaserver.names import TopicPartition
    from metaserver.storage.checkpoint import Checkpoint
    from metaserver.storage.filesystem import Clock, File, FileSystem

_COPY_BYTES = 1024 * 1024


@attrs.frozen(kw_only=True)
class RecoveryReport:
    """What opening one partition found and did."""

    topic_partition: TopicPartition
    bytes_cut: int
    """Length of the torn tail that was cut."""
    torn_file: Path | None
    """Where the cut bytes are kept; None where none were cut, or all of them were zeros."""
    records_scanned: int
    bytes_scanned: int
    damaged_ranges: tuple[OffsetRange, ...]
    """Ranges that hold no valid record, but have valid ones behind them (also those known before)."""
    holes: tuple[OffsetRange, ...]
    """Ranges that no file holds, and should."""
    gaps: tuple[OffsetRange, ...]
    """Ranges that no file holds, knowingly (gaps.py)."""
    repaired: OffsetRange | None
    """Where a repair was finished that a crash had interrupted."""
    bytes_missing: int
    """What the checkpoint had vouched for at the end and is not there any more; damaged now."""
    highest_message_id: int | None
    """The last id of the log, where one was found."""
    seconds: float
    clean: bool
    """Whether the log was closed in order, so that nothing had to be looked at."""


@attrs.frozen
class FoundSegment:
    """A segment file in the directory."""

    start_offset: int
    size_bytes: int

    @property
    def end_offset(self) -> int:
        """The offset behind its last byte."""
        return self.start_offset + self.size_bytes


@attrs.frozen(kw_only=True)
class RecoveredLog:
    """A partition that is ready to be read and appended to."""

    directory: Path
    segments: tuple[FoundSegment, ...]
    """In order; at least one."""
    end_offset: int
    record_count: int
    last_message_id: int | None
    unreadable: tuple[OffsetRange, ...]
    checkpoint_offset: int
    """What the checkpoint on disk vouches for; -1 without a usable one."""
    is_checkpoint_clean: bool
    failure: LogFailedError | None
    """Why the log can only be read: its torn tail could not be cut, or not be synced."""

    @classmethod
    def empty(cls, directory: Path, start_offset: int) -> RecoveredLog:
        """A log that has just been created."""
        return cls(
            directory=directory,
            segments=(FoundSegment(start_offset, 0),),
            end_offset=start_offset,
            record_count=0,
            last_message_id=None,
            unreadable=(),
            checkpoint_offset=start_offset,
            is_checkpoint_clean=False,
            failure=None,
        )


@attrs.define
class _Trust:
    """What pass 3 decides."""

    scan_from: int
    """The offset where verifying begins."""
    checkpoint: Checkpoint | None
    """None where it does not fit the files."""
    is_settled: bool
    """Whether the names and everything before ``scan_from`` are known to be durable."""


def recover(
    filesystem: FileSystem, clock: Clock, directory: Path, topic_partition: TopicPartition
) -> tuple[RecoveredLog, RecoveryReport] | None:
    """Open a partition directory; None where it holds no segment and never did.

    Raises CorruptLogError where a human must look, and OSError where the disk does not answer.
    """
    started = clock.monotonic_seconds()
    repaired = finish_repair(filesystem, directory)
    segments = _list_segments(filesystem, directory)
    checkpoint = load_checkpoint(filesystem, directory)
    if not segments:
        if checkpoint is None:
            return None
        # All segments are gone, by whatever hand. Offsets must never be given out twice.
        _create_segment(filesystem, directory, checkpoint.end_offset)
        segments = [FoundSegment(checkpoint.end_offset, 0)]
    elif checkpoint is not None and _lacks_last_segment(segments[-1], checkpoint):
        _create_segment(filesystem, directory, checkpoint.segment_start)
        segments.append(FoundSegment(checkpoint.segment_start, 0))
    known = _known_unreadable(checkpoint, repaired)
    intended = load_gaps(filesystem, directory)
    holes, cut_short = _join_segments(filesystem, directory, segments, (*known, *intended))
    gaps = tuple(hole for hole in holes if is_intended(hole, intended))
    last = segments[-1]
    path = directory / segment_name(last.start_offset)

    trust = _decide_trust(filesystem, path, last, checkpoint)
    damaged = _still_damaged(known, segments[0].start_offset, trust, holes)
    damaged += cut_short
    end = _verify_end(filesystem, directory, last, trust, checkpoint)
    damaged += end.damaged
    segments[-1] = FoundSegment(last.start_offset, end.offset - last.start_offset)

    count, last_id, bytes_scanned = end.scanned.count, end.scanned.last_id, end.bytes_scanned
    if trust.checkpoint is not None:
        count += trust.checkpoint.record_count
    if last_id is None:
        earlier = _find_earlier_id(filesystem, directory, segments, trust.checkpoint)
        last_id = earlier.last_id
        count += earlier.count
        bytes_scanned += earlier.bytes_scanned
    if checkpoint is not None and checkpoint.last_message_id is not None:
        last_id = max(last_id or 0, checkpoint.last_message_id)
    is_clean = (
        trust.checkpoint is not None
        and trust.checkpoint.is_clean
        and trust.checkpoint.end_offset == end.offset
    )
    damaged = merge_ranges(damaged)
    recovered = RecoveredLog(
        directory=directory,
        segments=tuple(segments),
        end_offset=end.offset,
        record_count=count,
        last_message_id=last_id,
        unreadable=tuple(merge_ranges([*damaged, *holes])),
        # After a repair the one on disk may still call the range unreadable.
        checkpoint_offset=-1 if trust.checkpoint is None or repaired else trust.checkpoint.end_offset,
        is_checkpoint_clean=is_clean,
        failure=end.failure,
    )
    report = RecoveryReport(
        topic_partition=topic_partition,
        bytes_cut=end.bytes_cut,
        torn_file=end.torn_file,
        records_scanned=count - (trust.checkpoint.record_count if trust.checkpoint is not None else 0),
        bytes_scanned=bytes_scanned,
        damaged_ranges=tuple(damaged),
        holes=tuple(hole for hole in holes if hole not in gaps),
        gaps=gaps,
        repaired=repaired,
        bytes_missing=end.bytes_missing,
        highest_message_id=last_id,
        seconds=clock.monotonic_seconds() - started,
        clean=is_clean and not bytes_scanned,
    )
    return recovered, report


# Pass 1.


def _list_segments(filesystem: FileSystem, directory: Path) -> list[FoundSegment]:
    segments = []
    for name in filesystem.list_directory(directory):
        if not claims_to_be_segment(name):
            continue
        path = directory / name
        start_offset = parse_segment_name(name)
        if start_offset is None:
            if filesystem.is_directory(path):
                continue
            raise CorruptLogError(
                path, 0, "the name ends with .meta, but is not 20 digits and .meta; move the file away"
            )
        segments.append(FoundSegment(start_offset, filesystem.size(path)))
    segments.sort(key=lambda segment: segment.start_offset)
    return segments


def _lacks_last_segment(last: FoundSegment, checkpoint: Checkpoint) -> bool:
    is_before = last.start_offset < checkpoint.segment_start and last.end_offset <= checkpoint.segment_start
    return is_before and last.end_offset < checkpoint.end_offset


def _create_segment(filesystem: FileSystem, directory: Path, start_offset: int) -> None:
    filesystem.open(directory / segment_name(start_offset), "create", Point.ROLL_CREATE).close()
    filesystem.sync_directory(directory, Point.ROLL_SYNC_DIRECTORY)


# Pass 2.


def _join_segments(
    filesystem: FileSystem, directory: Path, segments: list[FoundSegment], known: tuple[OffsetRange, ...]
) -> tuple[list[OffsetRange], list[OffsetRange]]:
    """The holes, and the damage that lies before them; a segment that was cut short has its length again."""
    holes, damaged = [], []
    for index, (segment, following) in enumerate(pairwise(list(segments))):
        if segment.end_offset > following.start_offset:
            raise CorruptLogError(
                directory / segment_name(segment.start_offset),
                following.start_offset - segment.start_offset,
                f"the next segment begins here, but this one goes on to offset {segment.end_offset}",
            )
        if segment.end_offset == following.start_offset:
            continue
        hole = OffsetRange(segment.end_offset, following.start_offset)
        if is_intended(hole, known):
            holes.append(hole)
            continue
        path = directory / segment_name(segment.start_offset)
        result = _scan(filesystem, path, segment, segment.start_offset, None)
        damaged += [
            OffsetRange(segment.start_offset + start, segment.start_offset + end)
            for start, end in result.damaged
        ]
        whole_end = segment.start_offset + result.end
        # Between two records it may be that whole files are missing.
        is_cut_short = whole_end < segment.end_offset or not segment.size_bytes
        size = following.start_offset - segment.start_offset
        if is_cut_short and _lengthen(filesystem, path, size):
            segments[index] = FoundSegment(segment.start_offset, size)
            damaged.append(OffsetRange(whole_end, following.start_offset))
            continue
        holes.append(hole)
        if whole_end < segment.end_offset:
            damaged.append(OffsetRange(whole_end, segment.end_offset))
    return holes, damaged


def _lengthen(filesystem: FileSystem, path: Path, size: int) -> bool:
    """Whether it could be done: on a disk that takes nothing the hole stays one."""
    try:
        file = filesystem.open(path, "write", Point.RECOVERY_OPEN)
        try:
            file.truncate(size, Point.RECOVERY_CUT)
            file.sync(Point.RECOVERY_SYNC)
        finally:
            file.close()
    except OSError:
        return False
    return True


def _known_unreadable(checkpoint: Checkpoint | None, repaired: OffsetRange | None) -> tuple[OffsetRange, ...]:
    known = checkpoint.unreadable if checkpoint is not None else ()
    return known if repaired is None else tuple(subtract_range(known, repaired))


# Pass 3.


def _decide_trust(
    filesystem: FileSystem, path: Path, last: FoundSegment, checkpoint: Checkpoint | None
) -> _Trust:
    if checkpoint is None:
        return _Trust(last.start_offset, None, is_settled=False)
    if checkpoint.end_offset > last.end_offset:
        return _Trust(last.start_offset, None, is_settled=False)
    if checkpoint.segment_start != last.start_offset:
        # Rolled since then; the roll has synced what lies between.
        fits = checkpoint.end_offset <= last.start_offset
        return _Trust(last.start_offset, checkpoint if fits else None, is_settled=False)
    if not _has_fingerprint(filesystem, path, checkpoint):
        return _Trust(last.start_offset, None, is_settled=False)
    return _Trust(checkpoint.end_offset, checkpoint, is_settled=True)


def _has_fingerprint(filesystem: FileSystem, path: Path, checkpoint: Checkpoint) -> bool:
    position = checkpoint.end_offset - checkpoint.segment_start
    if not position:
        return True
    file = filesystem.open(path, "read", Point.RECOVERY_READ)
    try:
        return fingerprint(file, position) == checkpoint.fingerprint
    finally:
        file.close()


def _still_damaged(
    known: Iterable[OffsetRange], log_start: int, trust: _Trust, holes: Iterable[OffsetRange]
) -> list[OffsetRange]:
    """What of the ranges the checkpoint names is in a file, and not scanned again.

    The checkpoint has a hole and what joins it, damage or another hole, as one range.
    """
    damaged = [gap for gap in known if gap.start >= log_start]
    for hole in holes:
        damaged = subtract_range(damaged, hole)
    return [gap for gap in damaged if gap.end <= trust.scan_from]


# Pass 4.


def _scan(
    filesystem: FileSystem, path: Path, segment: FoundSegment, scan_from: int, last_id: int | None
) -> ScanResult:
    file = filesystem.open(path, "read", Point.RECOVERY_READ)
    try:
        return scan_file(file, scan_from - segment.start_offset, segment.size_bytes, last_id)
    finally:
        file.close()


# Passes 4 to 6, of the last segment.


@attrs.define
class _End:
    """How a log ends."""

    offset: int
    scanned: ScanResult
    bytes_scanned: int = 0
    damaged: list[OffsetRange] = attrs.Factory(list)
    bytes_cut: int = 0
    torn_file: Path | None = None
    bytes_missing: int = 0
    failure: LogFailedError | None = None


def _verify_end(
    filesystem: FileSystem, directory: Path, last: FoundSegment, trust: _Trust, checkpoint: Checkpoint | None
) -> _End:
    start, scan_from = last.start_offset, trust.scan_from - last.start_offset
    if trust.scan_from == last.end_offset and trust.is_settled:
        return _End(last.end_offset, ScanResult(scan_from))
    path = directory / segment_name(start)
    last_known_id = trust.checkpoint.last_message_id if trust.checkpoint is not None else None
    scanned = _scan(filesystem, path, last, trust.scan_from, last_known_id)
    end = _End(start + scanned.end, scanned, last.size_bytes - scan_from)
    end.damaged = [OffsetRange(start + damage_start, start + stop) for damage_start, stop in scanned.damaged]
    end.bytes_cut = last.size_bytes - scanned.end
    try:
        if end.bytes_cut:
            end.torn_file = _keep_torn_tail(filesystem, directory, last, scanned.end)
        _settle(filesystem, path, scan_from, scanned.end)
        if not trust.is_settled:
            filesystem.sync_directory(directory, Point.RECOVERY_SYNC_DIRECTORY)
    except OSError as error:
        end.failure = LogFailedError(path, f"its end could not be repaired: {error.strerror or error}")
        return end
    end.bytes_missing = _bytes_missing(checkpoint, last, end.offset)
    if end.bytes_missing and _lengthen(filesystem, path, scanned.end + end.bytes_missing):
        end.damaged.append(OffsetRange(end.offset, end.offset + end.bytes_missing))
        end.offset += end.bytes_missing
    return end


# Pass 5.


def _keep_torn_tail(
    filesystem: FileSystem, directory: Path, segment: FoundSegment, position: int
) -> Path | None:
    """Copy what will be cut into a file of its own; None where there is nothing but zeros."""
    file = filesystem.open(directory / segment_name(segment.start_offset), "read", Point.RECOVERY_READ)
    try:
        end = _end_of_content(file, position, segment.size_bytes)
        if end == position:
            return None
        existing = set(filesystem.list_directory(directory))
        repetition = 0
        # A cut that a crash interrupted is repeated; the copy it left may be incomplete.
        while (name := torn_name(segment.start_offset, position, repetition)) in existing:
            repetition += 1
        copy = filesystem.open(directory / name, "create", Point.RECOVERY_KEEP_CREATE)
        try:
            for start in range(position, end, _COPY_BYTES):
                data = file.read(min(_COPY_BYTES, end - start), start)
                copy.write([data], start - position, Point.RECOVERY_KEEP_WRITE)
            copy.sync(Point.RECOVERY_KEEP_SYNC)
        finally:
            copy.close()
    finally:
        file.close()
    filesystem.sync_directory(directory, Point.RECOVERY_KEEP_SYNC_DIRECTORY)
    return directory / name


def _end_of_content(file: File, start: int, end: int) -> int:
    """The position behind the last byte that is not zero."""
    while end > start:
        piece_start = max(start, end - _COPY_BYTES)
        content = file.read(end - piece_start, piece_start).rstrip(b"\0")
        if content:
            return piece_start + len(content)
        end = piece_start
    return start


# Pass 6.


def _settle(filesystem: FileSystem, path: Path, start: int, end: int) -> None:
    """Cut a segment, and make durable what was found in it between two positions."""
    file = filesystem.open(path, "write", Point.RECOVERY_OPEN)
    try:
        if file.size() > end:
            file.truncate(end, Point.RECOVERY_CUT)
        for position in range(start, end, _COPY_BYTES):
            data = file.read(min(_COPY_BYTES, end - position), position)
            file.write([data], position, Point.RECOVERY_REWRITE)
        file.sync(Point.RECOVERY_SYNC)
    finally:
        file.close()


def _bytes_missing(checkpoint: Checkpoint | None, last: FoundSegment, end_offset: int) -> int:
    """What of the last segment was vouched for and is not there, or is no whole record."""
    if checkpoint is None or checkpoint.segment_start != last.start_offset:
        return 0
    return max(0, checkpoint.end_offset - end_offset)


# Pass 7.


@attrs.frozen
class _EarlierId:
    last_id: int | None
    count: int = 0
    bytes_scanned: int = 0


def _find_earlier_id(
    filesystem: FileSystem, directory: Path, segments: list[FoundSegment], checkpoint: Checkpoint | None
) -> _EarlierId:
    """The last id before the last segment: from the checkpoint, or from the last segment that has one."""
    known = checkpoint.last_message_id if checkpoint is not None else None
    vouched = -1 if checkpoint is None else checkpoint.end_offset
    count = bytes_scanned = 0
    for segment in reversed(segments[:-1]):
        if vouched >= segment.end_offset:
            break
        scan_from = max(segment.start_offset, vouched)
        result = _scan(filesystem, directory / segment_name(segment.start_offset), segment, scan_from, known)
        count += result.count
        bytes_scanned += segment.end_offset - scan_from
        if result.last_id is not None:
            return _EarlierId(result.last_id, count, bytes_scanned)
    return _EarlierId(known, count, bytes_scanned)
