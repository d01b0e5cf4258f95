"""Offsets in a file, in the format of the Java client.

::

    {"GROUP": [{"topic": "T", "partition": {"brokerId": 0, "partition": 1},
                "offset": 4096, "messageId": 7, "modified": false}, ...], ...}

Members that are not ours are kept as they are, in the file, the entries and the partitions.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from metaserver.client.partition import Partition
from metaserver.client.serial import Serial
from metaserver.errors import OffsetStorageError
from metaserver.registry.paths import StoredOffset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DEFAULT_PATH: Final = Path("~/.meta_offsets")
LOCK_SECONDS: Final = 10.0
"""How long another process may hold the file before a commit fails; it holds it for two syncs."""
_LOOK_SECONDS = 0.005
"""Between looks at a lock that another one holds: flock has no wait that a task could cancel."""
_ADVICE = "it was left as it is: repair it, or move it away and the groups in it start anew"


class DamagedError(ValueError):
    """Text that is no file of offsets."""


@attrs.frozen
class OffsetFile:
    """The content of a file: a value, which knows no disk."""

    groups: dict[str, list[dict[str, Any]]]

    @classmethod
    def parse(cls, data: bytes) -> OffsetFile:
        """Blank text holds no group. Raises DamagedError."""
        if not data.strip():
            return cls({})
        try:
            groups = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"it is no JSON ({error})") from error
        if not isinstance(groups, dict):
            raise DamagedError("it holds no object of groups")
        for group, entries in groups.items():
            # Java writes, and reads, null for a group without offsets.
            groups[group] = [] if entries is None else entries
            if not isinstance(groups[group], list):
                raise DamagedError(f"group {group!r} is no list")
            for entry in groups[group]:
                _read(group, entry)
        return cls(groups)

    def encode(self) -> bytes:
        """ASCII: Java reads the file in whatever encoding its machine prefers."""
        return json.dumps(self.groups, separators=(",", ":")).encode("ascii")

    def load(self, group: str) -> dict[Partition, StoredOffset]:
        """All the group has; of entries for one partition the last."""
        return dict(_read(group, entry) for entry in self.groups.get(group, ()))

    def merge(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> OffsetFile:
        """The same with these offsets in place of those of the same partitions."""
        kept = []
        before: dict[Partition, dict[str, Any]] = {}
        for entry in self.groups.get(group, ()):
            partition, _ = _read(group, entry)
            if partition in offsets:
                before[partition] = entry
            else:
                kept.append(entry)
        written = [_write(before.get(partition, {}), partition, at) for partition, at in offsets.items()]
        return OffsetFile({**self.groups, group: kept + written})


def _read(group: str, entry: object) -> tuple[Partition, StoredOffset]:
    members = entry if isinstance(entry, dict) else {}
    place = members.get("partition")
    if not isinstance(place, dict):
        place = {}
    topic, message_id = members.get("topic"), members.get("messageId")
    broker_id, number, offset = (
        _integer(value) for value in (place.get("brokerId"), place.get("partition"), members.get("offset"))
    )
    is_known_id = message_id is None or _integer(message_id) is not None
    if not isinstance(topic, str) or broker_id is None or number is None or offset is None or not is_known_id:
        raise DamagedError(f"group {group!r} has an entry that is no offset: {json.dumps(entry)[:200]}")
    return Partition(topic, broker_id, number), StoredOffset(offset, message_id)


def _write(before: dict[str, Any], partition: Partition, at: StoredOffset) -> dict[str, Any]:
    entry: dict[str, Any] = {
        **before,
        "topic": partition.topic,
        "partition": {
            **before.get("partition", {}),
            "brokerId": partition.broker_id,
            "partition": partition.number,
        },
        "offset": at.offset,
        "messageId": at.message_id,
        "modified": False,
    }
    if at.message_id is None:
        # Java's member is a long, for which null would be 0, the id of a message.
        del entry["messageId"]
    return entry


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _expanded(path: str | os.PathLike[str]) -> Path:
    return Path(path).expanduser()


@attrs.define(eq=False)
class FileOffsets:
    """Keeps offsets in a file that clients of MetaQ for Java can read and write too.

    Several consumers and processes may share a file: a commit changes only what it names, under a lock on
    ``PATH.lock``, which stays. The Java client takes no lock and writes all it knows of, so it may share the
    file only in turns. The directory must exist, on a file system where flock works.
    """

    path: Path = attrs.field(default=DEFAULT_PATH, converter=_expanded)
    lock_seconds: float = attrs.field(default=LOCK_SECONDS, kw_only=True)
    """How long to wait for another process."""
    _serial: Serial = attrs.field(factory=Serial, init=False)
    _turn: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)

    async def load(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, StoredOffset]:
        """Where the group stands; partitions it never committed are missing.

        Raises OffsetStorageError where the file is damaged or cannot be read. A cancellation leaves nothing.
        """
        stored = await self._serial.run(lambda: self._load(group))
        return {partition: stored[partition] for partition in partitions if partition in stored}

    async def load_all(self, group: str) -> dict[Partition, StoredOffset]:
        """Everything of the group; as :meth:`load`."""
        return await self._serial.run(lambda: self._load(group))

    async def store(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        """Commit: all offsets or none, on disk when it returns.

        Raises OffsetStorageError where the file is damaged (then it is left as it is), cannot be written, or
        is locked for too long. Cancelled while it waits it has changed nothing; once it writes, it ends.
        """
        if not offsets:
            return
        offsets = dict(offsets)
        # Held over the waits for others, or a later commit could pass an earlier one.
        async with self._turn:
            deadline = anyio.current_time() + self.lock_seconds
            while not await self._serial.run(lambda: self._try_store(group, offsets)):
                if anyio.current_time() >= deadline:
                    raise self._error(f"another process has kept it locked for {self.lock_seconds:g} s")
                await anyio.sleep(_LOOK_SECONDS)

    async def aclose(self) -> None:
        """Nothing to do: no file is open between two calls."""

    # In the worker thread.

    def _load(self, group: str) -> dict[Partition, StoredOffset]:
        with self._errors_named():
            return self._parsed(self.path).load(group)

    def _try_store(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> bool:
        """Whether nobody else held the lock."""
        with self._errors_named():
            # Behind a symbolic link it is the file that is replaced, and locked, not the link.
            path = Path(os.path.realpath(self.path))
            lock = os.open(_beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                _replace(path, self._parsed(path).merge(group, offsets).encode())
            finally:
                os.close(lock)
        return True

    def _parsed(self, path: Path) -> OffsetFile:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        return OffsetFile.parse(data)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except DamagedError as error:
            raise self._error(f"the file is damaged: {error}; {_ADVICE}") from error
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error

    def _error(self, reason: str) -> OffsetStorageError:
        return OffsetStorageError(str(self.path), reason)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _replace(path: Path, data: bytes) -> None:
    """Put ``data`` in place of the file, durably; whoever reads sees the old or the new. Under the lock."""
    new = _beside(path, ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        _keep_mode(path, descriptor)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _keep_mode(path: Path, descriptor: int) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return
    os.fchmod(descriptor, mode)
