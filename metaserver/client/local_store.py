"""Messages on the client's own disk: those no broker took yet, and those that no listener could handle.

A database of SQLite, which may be opened by several processes. ``PATH-wal`` and ``PATH-shm`` beside it belong
to it while it is open: move the three together, or after everybody has closed it.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

import anyio
import attrs

from metaserver.client.serial import Serial
from metaserver.errors import LocalStoreError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

Result = TypeVar("Result")

MESSAGES_MAX: Final = 500_000
BUSY_SECONDS: Final = 10.0
"""How long another process may be at the file before a call fails; it is for one sync of the disk."""
_LOOK_SECONDS = 0.01
_APPLICATION_ID: Final = 0x4D515331
"""``MQS1``: tells a store from any other database."""
_FORMAT: Final = 1

# AUTOINCREMENT: a key is never given twice, so who walks by keys misses nothing. The payload comes last, for
# what is behind a large one is slow to reach. SQLite counts by walking, hence the tally.
_SCHEMA: Final = """
CREATE TABLE message (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    partition TEXT NOT NULL,
    message_group TEXT NOT NULL,
    attribute TEXT,
    sorting_key BLOB,
    message_id INTEGER,
    offset INTEGER,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    stored_wall_seconds REAL NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX message_by_topic ON message (topic);
CREATE INDEX message_by_partition ON message (topic, partition);
CREATE INDEX message_by_group ON message (message_group);
CREATE INDEX message_by_topic_and_group ON message (topic, message_group);
CREATE TABLE tally (
    topic TEXT NOT NULL,
    partition TEXT NOT NULL,
    message_group TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (topic, partition, message_group)
);
CREATE TRIGGER message_added AFTER INSERT ON message BEGIN
    INSERT OR IGNORE INTO tally VALUES (new.topic, new.partition, new.message_group, 0);
    UPDATE tally SET count = count + 1
        WHERE topic = new.topic AND partition = new.partition AND message_group = new.message_group;
END;
CREATE TRIGGER message_removed AFTER DELETE ON message BEGIN
    UPDATE tally SET count = count - 1
        WHERE topic = old.topic AND partition = old.partition AND message_group = old.message_group;
    DELETE FROM tally WHERE count = 0
        AND topic = old.topic AND partition = old.partition AND message_group = old.message_group;
END;
"""
_INSERT: Final = (
    "INSERT INTO message (topic, partition, message_group, attribute, sorting_key, message_id, offset,"
    " reason, attempts, stored_wall_seconds, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT: Final = (
    "SELECT key, topic, partition, message_group, attribute, sorting_key, message_id, offset, reason,"
    " attempts, stored_wall_seconds, payload FROM message"
)


@attrs.frozen(kw_only=True)
class LocalMessage:
    """A message to be kept."""

    topic: str
    payload: bytes = attrs.field(repr=False)
    attribute: str | None = None
    partition: str = ""
    """``B-P``, where it belongs or comes from; blank: none was chosen."""
    sorting_key: bytes | None = None
    """The key it was sent with: what its partition is chosen by."""
    group: str = ""
    """The group that failed to handle it; blank for one that waits to be sent."""
    message_id: int | None = None
    """The broker's; None before a broker has taken it."""
    offset: int | None = None
    """Where its record begins in the partition."""
    reason: str = ""
    """Why it is here."""
    attempts: int = 0
    """How often it was tried in vain."""


@attrs.frozen(kw_only=True)
class StoredMessage(LocalMessage):
    """A message that is kept."""

    key: int
    """Its number: larger than those of all that were added before, in this file for ever."""
    stored_wall_seconds: float
    """When it was added, in seconds since 1970 by this machine's clock."""


class LocalStore:
    """Keeps messages in the order in which they were added; get one from :meth:`open`.

    Many tasks may use it at once. Every method raises LocalStoreError where the disk fails, where the file is
    damaged, or where another process keeps it locked for longer than BUSY_SECONDS. A cancellation of a call
    that waits for its turn changes nothing; once begun, a call ends, and returns.

    The file does not shrink: the room of removed messages is for the next ones.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, messages_max: int, wall_clock: Callable[[], float]
    ) -> None:
        """For :meth:`open`."""
        self.path = path
        self.messages_max = messages_max
        self._connection = connection
        self._wall_clock = wall_clock
        self._serial = Serial()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        messages_max: int = MESSAGES_MAX,
        wall_clock: Callable[[], float] = time.time,
    ) -> AsyncIterator[Self]:
        """A store for the length of the block; the file is made where there is none, its directory is not.

        ``messages_max`` bounds what all processes together keep in the file. Raises LocalStoreError where the
        file is no store, or damaged; then it is left as it is.
        """
        file = _expanded(path)
        serial = Serial()
        deadline = anyio.current_time() + BUSY_SECONDS
        # Two that open a new file at once can be in each other's way without SQLite waiting for either.
        while (connection := await serial.run(lambda: _connect(file))) is None:
            if anyio.current_time() >= deadline:
                raise LocalStoreError(file, _BUSY)
            await anyio.sleep(_LOOK_SECONDS)
        store = cls(file, connection, messages_max, wall_clock)
        try:
            yield store
        finally:
            with anyio.CancelScope(shield=True):
                await store._serial.run(connection.close)

    async def add(self, message: LocalMessage) -> int:
        """Keep a message and return its key; on disk when it returns.

        Raises LocalStoreError where there are ``messages_max`` already. After an error of the disk the
        message may be there nevertheless when the file is next opened.
        """
        (key,) = await self.add_many([message])
        return key

    async def add_many(self, messages: Sequence[LocalMessage]) -> list[int]:
        """Keep all of the messages or none, with one sync of the disk; see :meth:`add`."""
        kept = list(messages)
        if not kept:
            return []
        return await self._serial.run(lambda: self._add(kept))

    async def first(
        self,
        limit: int,
        *,
        topic: str | None = None,
        partition: str | None = None,
        group: str | None = None,
        after_key: int = 0,
    ) -> list[StoredMessage]:
        """The oldest messages with keys above ``after_key``, at most ``limit``, of all or of these only."""
        where, values = _where(topic, partition, group)
        sql = f"{_SELECT} WHERE key > ? AND {where} ORDER BY key LIMIT ?"
        rows = await self._query(sql, [after_key, *values, limit])
        return [_message(row) for row in rows]

    async def get(self, key: int) -> StoredMessage | None:
        """The message with this key; None where it was removed."""
        rows = await self._query(f"{_SELECT} WHERE key = ?", [key])
        return _message(rows[0]) if rows else None

    async def remove(self, keys: Iterable[int]) -> int:
        """Forget messages, all at once, and say how many of them were there; on disk when it returns."""
        gone = [(key,) for key in keys]
        if not gone:
            return 0
        return await self._serial.run(
            lambda: self._write(
                lambda link: link.executemany("DELETE FROM message WHERE key = ?", gone).rowcount
            )
        )

    async def note_failure(self, key: int, reason: str) -> bool:
        """Count one more attempt in vain, and its reason; False where the message was removed meanwhile."""
        sql = "UPDATE message SET attempts = attempts + 1, reason = ? WHERE key = ?"
        values = (_printable(reason), key)
        return await self._serial.run(
            lambda: self._write(lambda link: link.execute(sql, values).rowcount == 1)
        )

    async def count(
        self, *, topic: str | None = None, partition: str | None = None, group: str | None = None
    ) -> int:
        """How many there are, of all or of these only; it takes no longer with more messages."""
        where, values = _where(topic, partition, group)
        ((total,),) = await self._query(f"SELECT coalesce(sum(count), 0) FROM tally WHERE {where}", values)  # noqa: S608 - constants
        return int(str(total))

    async def topics(self) -> list[str]:
        """The topics that have messages, sorted."""
        return [
            str(topic)
            for (topic,) in await self._query("SELECT DISTINCT topic FROM tally ORDER BY topic", [])
        ]

    # In the worker thread.

    def _add(self, messages: Sequence[LocalMessage]) -> list[int]:
        now = self._wall_clock()
        return self._write(lambda link: self._insert(link, messages, now))

    def _insert(self, link: sqlite3.Connection, messages: Sequence[LocalMessage], now: float) -> list[int]:
        (count,) = link.execute("SELECT coalesce(sum(count), 0) FROM tally").fetchone()
        if count + len(messages) > self.messages_max:
            raise LocalStoreError(self.path, f"it is full: {count} messages, of {self.messages_max}")
        return [link.execute(_INSERT, _row(message, now)).lastrowid or 0 for message in messages]

    async def _query(self, sql: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        return await self._serial.run(lambda: self._read(sql, values))

    def _read(self, sql: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        with _errors_named(self.path):
            return self._connection.execute(sql, values).fetchall()

    def _write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do ``work`` in a transaction, and commit it."""
        link = self._connection
        with _errors_named(self.path):
            # IMMEDIATE: a transaction that reads first and writes later can fail for another's sake.
            link.execute("BEGIN IMMEDIATE")
            try:
                result = work(link)
                link.execute("COMMIT")
            except BaseException:
                if link.in_transaction:
                    link.execute("ROLLBACK")
                raise
            return result


_BUSY = f"another process has kept it locked for {BUSY_SECONDS:g} s"
_ADVICE = "move it away, with those beside it, and keep it: sqlite3's .recover may get messages out of it"
_NOT_OURS = "it is a database, but no local store; it was left as it is"


def _expanded(path: str | os.PathLike[str]) -> Path:
    return Path(path).expanduser()


def _connect(path: Path) -> sqlite3.Connection | None:
    """None where others are about to make the file."""
    with _errors_named(path):
        # The file is used by one thread at a time, though not always by the same.
        link = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _prepare(link, path)
        except BaseException as error:
            link.close()
            if isinstance(error, sqlite3.Error) and _is_busy(error):
                return None
            raise
        return link


def _prepare(link: sqlite3.Connection, path: Path) -> None:
    # Before anything is changed: a file of others stays as it is.
    _expect_ours(link, path)
    link.execute("PRAGMA synchronous = FULL")
    link.execute("PRAGMA journal_mode = WAL").fetchone()
    link.execute("BEGIN IMMEDIATE")
    if _expect_ours(link, path):
        for statement in _statements(_SCHEMA):
            link.execute(statement)
        link.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        link.execute(f"PRAGMA user_version = {_FORMAT}")
    link.execute("COMMIT")


def _expect_ours(link: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is blank; raises LocalStoreError where it is neither that nor a store."""
    (objects,) = link.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = link.execute("PRAGMA application_id").fetchone()
    (version,) = link.execute("PRAGMA user_version").fetchone()
    if not objects and not application:
        return True
    if application != _APPLICATION_ID:
        raise LocalStoreError(path, _NOT_OURS)
    if version != _FORMAT:
        raise LocalStoreError(path, f"it has format {version}, and this version knows {_FORMAT} only")
    return False


def _statements(script: str) -> Iterator[str]:
    """One by one: ``executescript`` would end the transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _where(topic: str | None, partition: str | None, group: str | None) -> tuple[str, list[str]]:
    wanted = {"topic": topic, "partition": partition, "message_group": group}
    named = {column: value for column, value in wanted.items() if value is not None}
    return " AND ".join([f"{column} = ?" for column in named] or ["TRUE"]), list(named.values())


def _row(message: LocalMessage, now: float) -> tuple[object, ...]:
    return (
        message.topic,
        message.partition,
        message.group,
        message.attribute,
        message.sorting_key,
        message.message_id,
        message.offset,
        _printable(message.reason),
        message.attempts,
        now,
        message.payload,
    )


def _message(row: Sequence[object]) -> StoredMessage:
    names = ("key", "topic", "partition", "group", "attribute", "sorting_key", "message_id", "offset")
    others = ("reason", "attempts", "stored_wall_seconds", "payload")
    return StoredMessage(**dict(zip((*names, *others), row, strict=True)))  # type: ignore[arg-type]  # as the table's columns have it


def _printable(reason: str) -> str:
    """Errors quote what is no text at all, which would be refused here."""
    return reason.encode("utf-8", "backslashreplace").decode()


def _is_busy(error: Exception) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: Exception) -> int:
    """SQLite's; the low byte, for the others say where exactly. 0 for errors of the module itself."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _reason(error: Exception) -> str:
    if _is_busy(error):
        return _BUSY
    if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"the file is damaged: {error}; {_ADVICE}"
    return f"{type(error).__name__}: {error}"


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        raise LocalStoreError(path, _reason(error)) from error
