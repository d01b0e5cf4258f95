"""``verify``: every byte of a data directory is read and checked; nothing is written.

Works beside a running broker too: then the last segment of a partition may end inside a record that is
just being written, which is no damage.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import attrs
import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.options import json_option
from metaserver.cli.output import Failure, complain, count_of, describe_bytes, describe_seconds, say
from metaserver.cli.segment_file import fault_at, open_for_reading
from metaserver.names import TopicPartition
from metaserver.storage import OffsetRange, RealFileSystem
from metaserver.storage.checkpoint import fingerprint, load_checkpoint
from metaserver.storage.filenames import (
    CHECKPOINT_NAME,
    DELETED_NAME,
    EPOCHS_NAME,
    GAPS_NAME,
    LOCK_NAME,
    QUARANTINE_NAME,
    REPAIR_NAME,
    ROLE_NAME,
    claims_to_be_segment,
    parse_segment_name,
    segment_name,
)
from metaserver.storage.gaps import is_intended, load_gaps
from metaserver.storage.resynchronise import scan_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metaserver.storage import File

_KEPT_SUFFIXES = (".arc", ".zip")
_KNOWN_NAMES = (CHECKPOINT_NAME, EPOCHS_NAME, GAPS_NAME, REPAIR_NAME)
_BESIDE_PARTITIONS = (LOCK_NAME, DELETED_NAME, QUARANTINE_NAME, ROLE_NAME, "transactions")


@attrs.define
class Report:
    """What was found in one directory."""

    path: Path
    segments: int = 0
    messages: int = 0
    size_bytes: int = 0
    start_offset: int = 0
    end_offset: int = 0
    damage: list[str] = attrs.Factory(list)
    notes: list[str] = attrs.Factory(list)
    """Worth knowing, and no damage."""


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def verify(context: click.Context, directory: Path, *, as_json: bool) -> None:
    """Check a data directory, or the directory of one partition, without writing to it."""
    started = time.perf_counter()
    partitions, stray = _find_partitions(directory)
    if not partitions:
        text = f"{directory} holds no partition (a folder TOPIC-NUMBER)"
        if not any((directory / name).exists() for name in _BESIDE_PARTITIONS):
            raise Failure(f"{text}; name the dataPath of a broker, or one partition")
        complain(f"{text}: there is nothing to check")
    is_running = _is_locked(directory) or _is_locked(directory.parent)
    total = sum(path.stat().st_size for partition in partitions for path in partition.glob("*.meta"))
    reports = [Report(directory, notes=stray)] if stray else []
    with _progress(total) as advance:
        reports += [_check_partition(partition, advance, is_running=is_running) for partition in partitions]
    if as_json:
        say(json.dumps([attrs.asdict(report) | {"path": str(report.path)} for report in reports], indent=2))
    else:
        _print(reports, len(partitions), time.perf_counter() - started, is_running=is_running)
    if any(report.damage for report in reports):
        context.exit(int(ExitCode.DAMAGE))


def _find_partitions(directory: Path) -> tuple[list[Path], list[str]]:
    """The partition directories, and what else there is."""
    try:
        children = sorted(directory.iterdir())
    except OSError as error:
        raise Failure(f"{directory}: cannot be read: {error.strerror}") from error
    if any(claims_to_be_segment(child.name) and child.is_file() for child in children):
        return [directory], []
    partitions = [
        child for child in children if child.is_dir() and TopicPartition.parse(child.name) is not None
    ]
    known = {*_BESIDE_PARTITIONS, *(partition.name for partition in partitions)}
    return partitions, [
        f"{child.name} belongs to no partition" for child in children if child.name not in known
    ]


def _is_locked(directory: Path) -> bool:
    """Whether a broker has the data directory; its lock is tried for an instant, and not kept."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _check_partition(directory: Path, advance: Callable[[int], None], *, is_running: bool) -> Report:
    report = Report(directory)
    try:
        starts = _list_segments(directory, report)
        sizes = {start: (directory / segment_name(start)).stat().st_size for start in starts}
        gaps = load_gaps(RealFileSystem(), directory)
        for start, following in pairwise(starts):
            _check_joint(report, start, start + sizes[start], following, gaps)
        for start in starts:
            is_last = start == starts[-1]
            _check_segment(report, start, sizes[start], advance, may_be_unfinished=is_last and is_running)
        if starts:
            report.start_offset, report.end_offset = starts[0], starts[-1] + sizes[starts[-1]]
            report.segments, report.size_bytes = len(starts), sum(sizes.values())
        _check_checkpoint(report, starts, is_running=is_running)
    except OSError as error:
        if is_running and isinstance(error, FileNotFoundError):
            report.notes.append(f"{error.filename} went away meanwhile: retention, most likely")
        else:
            report.damage.append(f"{error.filename or directory}: cannot be read: {error.strerror}")
    return report


def _list_segments(directory: Path, report: Report) -> list[int]:
    starts = []
    for child in sorted(directory.iterdir()):
        name = child.name
        if claims_to_be_segment(name) and not child.is_dir():
            start = parse_segment_name(name)
            if start is None:
                report.damage.append(
                    f"{name} ends with .meta and is no segment: no broker opens the partition"
                )
            else:
                starts.append(start)
        elif ".torn-" in name:
            report.notes.append(f"{name}: {child.stat().st_size} bytes that recovery has cut off")
        elif name not in _KNOWN_NAMES and not name.endswith(_KEPT_SUFFIXES):
            report.notes.append(f"{name} is no file of a broker")
    return sorted(starts)


def _check_joint(report: Report, start: int, end: int, following: int, gaps: tuple[OffsetRange, ...]) -> None:
    if end < following and is_intended(OffsetRange(end, following), gaps):
        report.notes.append(
            f"gap: offsets {end} to {following} are missing knowingly: the master had them no more"
        )
    elif end < following:
        report.damage.append(
            f"gap: {segment_name(start)} ends at offset {end}, the next begins at {following}: "
            f"{following - end} bytes are missing"
        )
    elif end > following:
        report.damage.append(
            f"overlap: {segment_name(start)} ends at offset {end}, but the next begins at {following}"
        )


def _check_segment(
    report: Report, start: int, size: int, advance: Callable[[int], None], *, may_be_unfinished: bool
) -> None:
    name = segment_name(start)
    file = open_for_reading(report.path / name)
    try:
        result = scan_file(cast("File", _CountedFile(file, advance)), 0, size, None)
        report.messages += result.count
        report.damage += [
            f"damaged: offsets {start + first} to {start + end} ({end - first} bytes) in {name}: "
            f"{fault_at(file, first, size)}"
            for first, end in result.damaged
        ]
        if result.end < size:
            where = f"offsets {start + result.end} to {start + size} ({size - result.end} bytes) in {name}"
            if may_be_unfinished:
                report.notes.append(f"unfinished: {where}: being written now")
            else:
                report.damage.append(f"torn tail: {where}: {fault_at(file, result.end, size)}")
    finally:
        file.close()


def _check_checkpoint(report: Report, starts: list[int], *, is_running: bool) -> None:
    directory = report.path
    checkpoint = load_checkpoint(RealFileSystem(), directory)
    if checkpoint is None:
        if (directory / CHECKPOINT_NAME).exists():
            report.damage.append(f"{CHECKPOINT_NAME} is damaged; the next start does without it")
        return
    if checkpoint.end_offset > report.end_offset:
        # Beside a running broker both may have moved on since the segments were listed.
        if not is_running:
            report.damage.append(
                f"{CHECKPOINT_NAME} vouches for offsets up to {checkpoint.end_offset}, the log ends at "
                f"{report.end_offset}: {checkpoint.end_offset - report.end_offset} bytes are missing"
            )
    elif checkpoint.segment_start in starts:
        file = open_for_reading(directory / segment_name(checkpoint.segment_start))
        try:
            found = fingerprint(file, checkpoint.end_offset - checkpoint.segment_start)
        finally:
            file.close()
        if found != checkpoint.fingerprint:
            report.damage.append(
                f"{CHECKPOINT_NAME} does not fit: the bytes before offset {checkpoint.end_offset} were others"
            )


@attrs.define
class _CountedFile:
    """The one method of a file that a scan needs; tells how many bytes were read."""

    _file: File
    _advance: Callable[[int], None]
    _read_to: int = 0

    def read(self, size: int, position: int) -> bytes:
        data = self._file.read(size, position)
        end = position + len(data)
        # A search behind damage reads the same bytes again.
        if end > self._read_to:
            self._advance(end - self._read_to)
            self._read_to = end
        return data


@contextmanager
def _progress(total_bytes: int) -> Iterator[Callable[[int], None]]:
    """What is told how many bytes have been read: a bar where standard error is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total_bytes)
        yield lambda size: progress.advance(task, size)


def _print(reports: list[Report], partitions: int, seconds: float, *, is_running: bool) -> None:
    for report in reports:
        if report.segments or report.damage:
            say(
                f"{report.path.name}: {count_of(report.messages, 'message')}, "
                f"{describe_bytes(report.size_bytes)} in {count_of(report.segments, 'segment')}, "
                f"offsets {report.start_offset} to {report.end_offset}: "
                f"{'damaged' if report.damage else 'clean'}"
            )
        else:
            say(f"{report.path.name}:")
        for text in [*report.damage, *(f"note: {note}" for note in report.notes)]:
            say(f"  {text}")
    size = sum(report.size_bytes for report in reports)
    problems = sum(len(report.damage) for report in reports)
    if is_running:
        complain("a broker is using this directory: what it is writing now is not counted as damage")
    messages = sum(report.messages for report in reports)
    say(
        f"{count_of(partitions, 'partition')}, {count_of(messages, 'message')}, {describe_bytes(size)} read "
        f"in {describe_seconds(seconds)} ({describe_bytes(size / max(seconds, 1e-6))}/s): "
        f"{count_of(problems, 'problem') if problems else 'clean'}"
    )
    if any(text.startswith("damaged") for report in reports for text in report.damage):
        complain("`metaServer repair` fetches damaged records from another replica")
