"""What a start takes over from the journal of a Java broker, before its own is recovered.

All that matters becomes entries of the own journal: what is prepared, what is committed and lacks records in
its partitions, what operators have decided. Then the folder gets another name. A crash in between does no
harm: what stands in the own journal already is not written again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from metaserver.errors import CorruptLogError, OffsetOutOfRangeError, StorageError
from metaserver.logs import get_logger
from metaserver.message import checksum
from metaserver.names import TopicPartition
from metaserver.storage.documents import load_document
from metaserver.storage.filesystem import Point, translate_error
from metaserver.transactions import (
    Committed,
    Prepared,
    RolledBack,
    replay,
    split_parts,
)
from metaserver.transactions.entries import KEY_BYTES_MAX
from metaserver.transactions.java_journal import JavaJournal, JavaTransaction, is_boundary
from metaserver.transactions.java_outcomes import read_outcomes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metaserver.broker.broker import Broker
    from metaserver.protocol import XaKey
    from metaserver.storage import FileSystem, PartitionLog
    from metaserver.transactions import Batch, Entry
    from metaserver.transactions.java_journal import Place

_log = get_logger(__name__)

FOLDER_NAME = "transactions"
_CARRIED_NAME = "transactions.carried"
"""With a number behind a dot where that is taken. A hyphen would make it a partition of a topic."""
_REDO, _CHECKPOINT, _OUTCOMES = "redo.", "checkpoint.", "heuristic.log"
_READ_BYTES = 1024 * 1024
_FILE_BYTES_MAX = 1024 * 1024 * 1024
"""A file of more than 64 MiB takes no further transactions, and those it has are few."""
_BatchId: TypeAlias = tuple[TopicPartition, int]
"""The partition, and the last message id, which no other batch of the same partition has."""


@attrs.define
class _Found:
    """What a folder holds and this broker does not."""

    prepared: list[JavaTransaction]
    incomplete: list[JavaTransaction]
    """Committed, with batches that their partitions lack, as far as anybody knows."""
    outcomes: dict[XaKey, bool]
    highest_message_id: int


async def carry_over(broker: Broker, filesystem: FileSystem) -> None:
    """Take over what a Java broker has left, durably, and put its folder away.

    Before the port opens, and before the own journal is recovered. Raises StorageError, with all as it was,
    where something cannot be read or does not fit together.
    """
    folder = broker.config.data_log_path / FOLDER_NAME
    found = await trio.to_thread.run_sync(_look, broker, filesystem, folder)
    if found is None:
        return
    broker.message_ids.observe(found.highest_message_id)
    entries = [list(_entries(broker, transaction)) for transaction in found.prepared + found.incomplete]
    entries += [[_outcome(broker, *outcome)] for outcome in found.outcomes.items()]
    for one in entries:
        await broker.transactions.journal.write(one)
    journal = broker.transactions.journal.partition
    if entries and journal is not None:
        # As durable as it can be, whatever commits wait for: nobody reads that folder again.
        await broker.committer.borrow(journal, journal.log.flush)
    path = await trio.to_thread.run_sync(_put_away, filesystem, folder)
    _log.warning(
        "Carried over the transactions of a Java broker",
        prepared=[str(transaction.key) for transaction in found.prepared],
        completed=[str(transaction.key) for transaction in found.incomplete],
        decided=[str(key) for key in found.outcomes],
        path=str(path),
    )


# In a worker thread: nothing is served yet.


def _look(broker: Broker, filesystem: FileSystem, folder: Path) -> _Found | None:
    """None where no Java broker has been."""
    try:
        names = filesystem.list_directory(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise translate_error(filesystem, folder, "cannot be listed", error) from error
    numbers = sorted(_numbers(names, _REDO))
    if not numbers and _OUTCOMES not in names:
        return None
    journal = JavaJournal()
    first, position = _checkpoint(filesystem, folder, names, numbers)
    incomplete: list[JavaTransaction] = []
    for number in numbers:
        if number < first:
            continue
        path = folder / f"{_REDO}{number}"
        start = position if number == first else 0
        read = journal.read(path, _load(filesystem, path), start)
        incomplete += [committed for committed in read if _keep_missing(broker, committed)]
    known_keys, known_batches = _known(broker)
    incomplete = [one for one in incomplete if known_batches.isdisjoint(map(_batch_id, one.batches.items()))]
    prepared = [one for one in journal.prepared() if str(one.key) not in known_keys]
    for one in (*prepared, *incomplete):
        if one.damage:
            raise StorageError(f"{folder}: transaction {one.key}: {one.damage}")
    path = folder / _OUTCOMES
    try:
        outcomes = read_outcomes(_load(filesystem, path)) if _OUTCOMES in names else {}
    except ValueError as error:
        raise CorruptLogError(path, 0, f"what operators have decided cannot be read: {error}") from error
    for key in [*(one.key for one in prepared), *outcomes]:
        if len(str(key).encode()) > KEY_BYTES_MAX:
            raise StorageError(f"{folder}: the key {key} is longer than {KEY_BYTES_MAX} bytes")
    # The list is written now and then: what is prepared behind it is newer.
    known_keys |= {str(one.key) for one in journal.prepared()}
    new = {key: has_committed for key, has_committed in outcomes.items() if str(key) not in known_keys}
    return _Found(prepared, incomplete, new, journal.highest_message_id)


def _numbers(names: list[str], prefix: str) -> list[int]:
    rests = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [int(rest) for rest in rests if rest.isascii() and rest.isdigit()]


def _load(filesystem: FileSystem, path: Path) -> bytes:
    try:
        if filesystem.size(path) > _FILE_BYTES_MAX:
            raise StorageError(f"{path} is longer than {_FILE_BYTES_MAX} bytes")
        return load_document(filesystem, path, Point.CARRY_OVER_OPEN, _FILE_BYTES_MAX) or b""
    except OSError as error:
        raise translate_error(filesystem, path, "cannot be read", error) from error


def _checkpoint(
    filesystem: FileSystem, folder: Path, names: list[str], numbers: list[int]
) -> tuple[int, int]:
    """The file, and the position in it, before which nothing lives; zeros where nobody knows.

    One that names a file behind all there are, or a place in it where no record begins, is from before the
    Java broker began to count anew, as it does when it has removed its last file.
    """
    for number in sorted(_numbers(names, _CHECKPOINT), reverse=True):
        try:
            told = json.loads(_load(filesystem, folder / f"{_CHECKPOINT}{number}"))
        except (ValueError, RecursionError):
            continue
        match told:
            case {"number": int(file), "offset": int(position)} if position >= 0:
                if not numbers or file > numbers[-1]:
                    return 0, 0
                is_there = file not in numbers or is_boundary(
                    _load(filesystem, folder / f"{_REDO}{file}"), position
                )
                return (file, position) if is_there else (0, 0)
    return 0, 0


def _known(broker: Broker) -> tuple[set[str], set[_BatchId]]:
    """Keys and batches that the own journal has; they may be from here, before a crash."""
    journal = broker.transactions.journal.partition
    found = [] if journal is None else replay(journal.log)
    batches = {_batch_id(item) for transaction in found for item in transaction.batches.items()}
    return {str(transaction.key) for transaction in found}, batches


def _batch_id(item: tuple[TopicPartition, Batch]) -> _BatchId:
    name, batch = item
    return name, batch.last_id


def _keep_missing(broker: Broker, transaction: JavaTransaction) -> bool:
    """Leave the batches that are not where the commit has put them; whether there are any."""
    for name in list(transaction.batches):
        place, log = (transaction.places or {}).get(name), broker.store.partitions.get(name)
        if log is None and broker.config.topic_config(name.topic) is None:
            _log.warning(
                "A topic that is not configured any more stays without what a Java broker has committed",
                transaction=str(transaction.key),
                partition=str(name),
            )
        elif place is None or log is None or not _is_held(log, place):
            continue
        del transaction.batches[name]
    return bool(transaction.batches)


def _is_held(log: PartitionLog, place: Place) -> bool:
    """Whether a log has these bytes; what retention has removed was there."""
    if place.offset < log.start_offset:
        return True
    held = bytearray()
    end = place.offset + place.size_bytes
    if end > log.end_offset:
        return False
    while len(held) < place.size_bytes:
        try:
            piece = log.read(place.offset + len(held), min(_READ_BYTES, end - place.offset - len(held)), end)
        except OffsetOutOfRangeError:
            # Damaged, and perhaps repaired from a replica: it is there, and not to be appended again.
            return True
        try:
            held += piece.read()
        except OSError as error:
            raise StorageError(f"{log.directory} cannot be read: {error}") from error
        finally:
            piece.release()
    return checksum(held) == place.checksum


def _put_away(filesystem: FileSystem, folder: Path) -> Path:
    try:
        taken = filesystem.list_directory(folder.parent)
        numbers = [0, *_numbers(taken, f"{_CARRIED_NAME}.")] if _CARRIED_NAME in taken else []
        target = folder.with_name(f"{_CARRIED_NAME}.{max(numbers) + 1}" if numbers else _CARRIED_NAME)
        filesystem.rename(folder, target, Point.CARRY_OVER_RENAME)
        filesystem.sync_directory(folder.parent, Point.CARRY_OVER_SYNC_DIRECTORY)
    except OSError as error:
        raise translate_error(filesystem, folder, "cannot be put away", error) from error
    return target


# On the loop.


def _entries(broker: Broker, transaction: JavaTransaction) -> Iterator[Entry]:
    serial, key = broker.message_ids.take(1), transaction.key
    floors = {name: _floor(broker, transaction, name) for name in transaction.batches}
    batches = {name: (floors[name], bytes(batch.data)) for name, batch in transaction.batches.items()}
    yield from split_parts(serial, batches, broker.transactions.journal.part_bytes_max)
    if transaction.places is not None:
        yield Committed(serial, key, tuple(floors.values()))
    else:
        yield Prepared(serial, key)  # type: ignore[arg-type] # a local one is never prepared


def _floor(broker: Broker, transaction: JavaTransaction, name: TopicPartition) -> int:
    log = broker.store.partitions.get(name)
    if log is None:
        return 0
    if transaction.places is None:
        return log.end_offset
    place = transaction.places.get(name)
    if place is None or place.offset + place.size_bytes <= log.end_offset:
        # Other bytes lie there: this is no longer the log it was, and what was moved may lie anywhere.
        return log.start_offset
    return min(place.offset, log.end_offset)


def _outcome(broker: Broker, key: XaKey, has_committed: bool) -> Entry:  # noqa: FBT001 - an item of the map
    serial = broker.message_ids.take(1)
    return Committed(serial, key, (), True) if has_committed else RolledBack(serial, key, True)
