"""Where bytes go that a replica must give up: kept whole, beside the partitions, with a report.

::

    DATA/quarantine/TOPIC-PARTITION/START-END/
        00000000000000001024.meta       the bytes from that offset on, as they lay in the log
        report.json                     whose they were, which messages, and why they are here
        replayed.json                   where they went, once somebody has sent them again

The folder is complete when its report is there. Its name is made from the offsets, so that the same work done
again after a crash leaves the same folder. Nothing is ever removed from it by a broker.
"""

from __future__ import annotations

import json
from types import NoneType
from typing import TYPE_CHECKING

import attrs

from metaserver.errors import OffsetInHoleError
from metaserver.message import message_id_to_seconds, scan
from metaserver.storage.documents import ReplaceSteps, parse_json, save_document
from metaserver.storage.filenames import QUARANTINE_NAME, REPORT_NAME, segment_name
from metaserver.storage.filesystem import Point, make_directories

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.epochs import EpochChain
    from metaserver.names import TopicPartition
    from metaserver.storage.filesystem import File, FileSystem
    from metaserver.storage.log import PartitionLog

_COPY_BYTES = 1024 * 1024
_STEPS = ReplaceSteps(
    create=Point.QUARANTINE_CREATE,
    write=Point.QUARANTINE_WRITE,
    sync=Point.QUARANTINE_SYNC,
    rename=Point.QUARANTINE_RENAME,
    sync_directory=Point.QUARANTINE_SYNC_DIRECTORY,
)


@attrs.frozen(kw_only=True)
class QuarantineReport:
    """What lies in one folder."""

    topic: str
    partition: int
    start_offset: int
    end_offset: int
    records: int
    first_message_id: int | None
    last_message_id: int | None
    first_wall_seconds: float | None
    """When the master of that time took the first of them, by its clock."""
    last_wall_seconds: float | None
    reason: str
    own_epochs: str
    master_epochs: str
    master: str
    """Where the master answers that does not have these bytes."""

    def encode(self) -> bytes:
        """As it lies in the folder."""
        return (json.dumps(attrs.asdict(self), indent=2) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> QuarantineReport:
        """Raises ValueError where it is none."""
        found = parse_json(data)
        if not isinstance(found, dict):
            raise ValueError("it is no object")  # noqa: TRY004 - the text is wrong, not our types
        for name, kinds in _KINDS.items():
            if name not in found:
                raise ValueError(f"{name} is missing")
            value = found[name]
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"{name} is {str(value)[:40]!r}, which makes no sense")  # noqa: TRY004 - as above
        if unknown := found.keys() - _KINDS.keys():
            raise ValueError(f"{min(unknown)} is unknown")
        return cls(**found)


_KINDS: dict[str, tuple[type, ...]] = {
    "topic": (str,),
    "partition": (int,),
    "start_offset": (int,),
    "end_offset": (int,),
    "records": (int,),
    "first_message_id": (int, NoneType),
    "last_message_id": (int, NoneType),
    "first_wall_seconds": (int, float, NoneType),
    "last_wall_seconds": (int, float, NoneType),
    "reason": (str,),
    "own_epochs": (str,),
    "master_epochs": (str,),
    "master": (str,),
}


@attrs.frozen(kw_only=True)
class Divergence:
    """Why bytes have to go."""

    name: TopicPartition
    offset: int
    """From here on."""
    reason: str
    own: EpochChain
    masters: EpochChain
    master: str


def quarantine_folders(filesystem: FileSystem, data_path: Path) -> list[Path]:
    """The complete folders below a data directory, by partition and offset. Raises OSError."""
    root = data_path / QUARANTINE_NAME
    if not filesystem.is_directory(root):
        return []
    folders = []
    for name in sorted(filesystem.list_directory(root)):
        if not filesystem.is_directory(root / name):
            continue
        found = [
            (int(start), folder)
            for folder in filesystem.list_directory(root / name)
            if (start := folder.partition("-")[0]).isdigit()
            and filesystem.is_directory(root / name / folder)
            and REPORT_NAME in filesystem.list_directory(root / name / folder)
        ]
        folders += [root / name / folder for _start, folder in sorted(found)]
    return folders


def quarantine_tail(
    filesystem: FileSystem, data_path: Path, log: PartitionLog, divergence: Divergence
) -> QuarantineReport:
    """Copy everything from the offset on, durably; the log stays as it is. Raises OSError, StorageError.

    In a worker thread; nothing may be appended meanwhile.
    """
    end = log.end_offset
    directory = data_path / QUARANTINE_NAME / str(divergence.name) / f"{divergence.offset}-{end}"
    make_directories(filesystem, directory)
    found = _Found()
    offset = divergence.offset
    while offset < end:
        offset = _copy_run(filesystem, directory, log, offset, found)
    report = QuarantineReport(
        topic=divergence.name.topic,
        partition=divergence.name.partition,
        start_offset=divergence.offset,
        end_offset=end,
        records=found.records,
        first_message_id=found.first_id,
        last_message_id=found.last_id,
        first_wall_seconds=None if found.first_id is None else message_id_to_seconds(found.first_id),
        last_wall_seconds=None if found.last_id is None else message_id_to_seconds(found.last_id),
        reason=divergence.reason,
        own_epochs=str(divergence.own),
        master_epochs=str(divergence.masters),
        master=divergence.master,
    )
    save_document(filesystem, directory / REPORT_NAME, report.encode(), _STEPS)
    return report


@attrs.define
class _Found:
    """What the copied bytes hold."""

    records: int = 0
    first_id: int | None = None
    last_id: int | None = None
    rest: bytes = b""

    def feed(self, data: bytes) -> None:
        found = scan(self.rest + data)
        self.records += found.count
        if found.first_id is not None:
            self.first_id = found.first_id if self.first_id is None else self.first_id
            self.last_id = found.last_id
        self.rest = (self.rest + data)[found.end :]


def _copy_run(filesystem: FileSystem, directory: Path, log: PartitionLog, offset: int, found: _Found) -> int:
    """Copy up to the end, or to bytes that no file holds; returns where to go on."""
    file = filesystem.open(directory / segment_name(offset), "replace", Point.QUARANTINE_CREATE)
    try:
        following = _copy(file, log, offset, found)
        file.sync(Point.QUARANTINE_SYNC)
    finally:
        file.close()
    return following


def _copy(file: File, log: PartitionLog, start: int, found: _Found) -> int:
    offset, end = start, log.end_offset
    while offset < end:
        try:
            piece = log.read(offset, _COPY_BYTES, end)
        except OffsetInHoleError as hole:
            found.rest = b""
            return hole.next_offset
        try:
            data = piece.read()
        finally:
            piece.release()
        file.write([data], offset - start, Point.QUARANTINE_WRITE)
        found.feed(data)
        offset += len(data)
    return offset
