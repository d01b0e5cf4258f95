"""Where the logs of deleted topics go: whole, beside the partitions, until somebody removes them.

::

    DATA/deleted/TOPIC-PARTITION/
        history.json                        where the log ended, and whose bytes it held
        START-END/                          its directory as it was, when it held those offsets

The history stays when the bytes are removed. A partition of that name that is made later goes on behind the
old end: an offset never means two messages, neither to a group that has stored it nor to a replica.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from metaserver.epochs import EpochChain, LogHistory
from metaserver.errors import CorruptLogError, StorageError
from metaserver.names import TopicPartition
from metaserver.storage.documents import load_document, parse_json, save_document
from metaserver.storage.filenames import DELETED_NAME, HISTORY_NAME
from metaserver.storage.filesystem import Point, make_directories, translate_error

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.storage.filesystem import FileSystem
    from metaserver.storage.log import PartitionLog


@attrs.frozen
class DeletedLog:
    """What lies in one folder."""

    name: TopicPartition
    path: Path
    start_offset: int
    end_offset: int


def put_aside(filesystem: FileSystem, name: TopicPartition, log: PartitionLog, chain: EpochChain) -> Path:
    """Close the log and move its directory away; where to. In a worker thread; nobody else may use the log.

    A crash leaves it where it was, or there. Raises StorageError; then the log is closed and where it was.
    """
    # A log that cannot be flushed has said so before, and is recovered wherever it is opened again.
    with suppress(StorageError):
        log.close()
    source = log.directory
    data_path = source.parent
    home = data_path / DELETED_NAME / str(name)
    try:
        make_directories(filesystem, home)
        history = {"start_offset": log.start_offset, "end_offset": log.end_offset, "epochs": str(chain)}
        save_document(filesystem, home / HISTORY_NAME, (json.dumps(history, indent=2) + "\n").encode())
        target = home / f"{log.start_offset}-{log.end_offset}"
        repetition = 0
        while filesystem.is_directory(target):
            # Only logs without any bytes can have the same name.
            repetition += 1
            target = home / f"{log.start_offset}-{log.end_offset}.{repetition}"
        filesystem.rename(source, target, Point.DELETED_RENAME)
        filesystem.sync_directory(home, Point.DELETED_SYNC_DIRECTORY)
        filesystem.sync_directory(data_path, Point.DELETED_SYNC_DIRECTORY)
    except OSError as error:
        raise translate_error(filesystem, data_path, f"{name} cannot be put aside", error) from error
    return target


def load_history(filesystem: FileSystem, data_path: Path, name: TopicPartition) -> LogHistory | None:
    """What there was of a partition before it was deleted; None: nothing. Raises OSError, CorruptLogError."""
    path = data_path / DELETED_NAME / str(name) / HISTORY_NAME
    data = load_document(filesystem, path)
    if data is None:
        return None
    try:
        found = parse_json(data)
        return LogHistory(
            EpochChain.parse(str(found["epochs"])), int(found["start_offset"]), int(found["end_offset"])
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        text = f"it says where the deleted log ended; restore it, or move it away to begin at 0 ({error})"
        raise CorruptLogError(path, 0, text) from error


def deleted_logs(filesystem: FileSystem, data_path: Path) -> list[DeletedLog]:
    """What is kept below a data directory, by partition and offset. Raises OSError."""
    root = data_path / DELETED_NAME
    if not filesystem.is_directory(root):
        return []
    found = []
    for directory in filesystem.list_directory(root):
        name = TopicPartition.parse(directory)
        if name is None:
            continue
        for folder in filesystem.list_directory(root / directory):
            start, dash, end = folder.partition("-")
            end = end.partition(".")[0]
            if dash and start.isdecimal() and end.isdecimal():
                found.append(DeletedLog(name, root / directory / folder, int(start), int(end)))
    return sorted(found, key=lambda log: (log.name, log.start_offset, log.end_offset, log.path))
