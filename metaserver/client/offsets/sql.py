"""Offsets in a table of a database, the Java client's, by any module of the DB-API 2.0 (PEP 249)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from metaserver.client.offsets.statements import Statements
from metaserver.client.partition import Partition
from metaserver.client.serial import Serial
from metaserver.errors import OffsetStorageError
from metaserver.registry.paths import BrokerPartition, StoredOffset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from metaserver.client.offsets.statements import Scalar, Statement

Result = TypeVar("Result")

DEFAULT_TABLE: Final = "meta_topic_partition_group_offset"
_NO_ID = -1
"""As the Java client writes it; its table has no NULL."""


class Connection(Protocol):
    """What is used of a connection of the DB-API."""

    def cursor(self) -> Any:  # noqa: ANN401 - modules differ in the types, not in the calls
        """A cursor: ``execute``, ``rowcount``, ``fetchall``, ``close``."""
        ...

    def commit(self) -> object:
        """Make the transaction durable."""
        ...

    def rollback(self) -> object:
        """Undo the transaction."""
        ...

    def close(self) -> object:
        """Give it back."""
        ...


class SqlOffsets:
    """Keeps offsets in a database, in the columns topic, partition (``B-P``), group_id, offset and msg_id.

    ``connect`` makes a connection with the time limits you want: here a call lasts as long as the module lets
    it. It must not commit by itself. It is used by one thread at a time, but not always by the same
    (``sqlite3.connect(path, check_same_thread=False)``). ``paramstyle`` is the module's attribute of that
    name. ``quote`` goes around identifiers, for ``partition`` and ``offset`` are words of SQL in some
    databases: ``"`` is the standard's, a backtick MySQL's; blank is none.

    The table needs a unique key over topic, partition and group_id, as :meth:`create_table` gives it:
    without one, two consumers that commit a partition for the first time may both insert it.

    A connection that fails is closed. What failed on one that was kept from an earlier call is done again
    on a new one, up to the commit: after that nobody knows what became of it.

    The constructor raises ValueError for a paramstyle, table or quote that cannot be.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        paramstyle: str,
        table: str = DEFAULT_TABLE,
        quote: str = '"',
    ) -> None:
        self._connect = connect
        self._table = table
        self._statements = Statements.build(paramstyle, table, quote)
        self._serial = Serial()
        self._connection: Connection | None = None
        self._is_closed = False

    async def create_table(self) -> None:
        """Make the table where there is none; databases differ, so yours may want it made by hand.

        Raises OffsetStorageError. Once begun it ends, whoever is cancelled.
        """
        create = self._statements.create
        await self._serial.run(lambda: self._transact(lambda link: _run(link, create, {}).close()))

    async def load(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, StoredOffset]:
        """Where the group stands; partitions it never committed are missing, and so are rows without sense.

        Raises OffsetStorageError. A cancellation leaves nothing.
        """
        if not partitions:
            return {}
        stored = await self.load_all(group)
        return {partition: stored[partition] for partition in partitions if partition in stored}

    async def load_all(self, group: str) -> dict[Partition, StoredOffset]:
        """Everything of the group; as :meth:`load`."""
        return await self._serial.run(lambda: self._transact(lambda link: self._read(link, group)))

    async def store(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        """Commit: all offsets or none, as durable as the database makes it. An id of None is kept as -1.

        Raises OffsetStorageError; its reason says whether the commit was under way, and may have worked.
        Cancelled while it waits for its turn it has changed nothing; once begun, it ends.
        """
        if not offsets:
            return
        # Everybody in one order, or two transactions could wait for each other's rows for ever.
        rows: list[Mapping[str, Scalar]] = [
            {
                "topic": partition.topic,
                "partition": str(partition.in_topic),
                "group_id": group,
                "offset": at.offset,
                "msg_id": _NO_ID if at.message_id is None else at.message_id,
            }
            for partition, at in sorted(offsets.items(), key=lambda item: item[0])
        ]
        await self._serial.run(lambda: self._transact(lambda link: self._write(link, rows)))

    async def aclose(self) -> None:
        """Close the connection; load and store raise OffsetStorageError from now on."""
        await self._serial.run(self._close)

    # In the worker thread.

    def _transact(self, work: Callable[[Connection], Result]) -> Result:
        """Do ``work`` and commit it."""
        has_raced = False
        while True:
            if self._is_closed:
                raise self._error("it is closed")
            is_kept = self._connection is not None
            try:
                connection = self._connection = self._connection or self._connect()
                result = work(connection)
            except Exception as error:  # each module has classes of its own, and OSError gets out too
                self._drop()
                # Another one inserted the row between our look and our insert: now an update finds it.
                is_race = not has_raced and _is_integrity_error(error)
                has_raced = has_raced or is_race
                if is_kept or is_race:
                    continue
                raise self._error(_describe(error)) from error
            try:
                connection.commit()
            except Exception as error:  # as above
                self._drop()
                reason = f"the commit failed, and may have worked all the same: {_describe(error)}"
                raise self._error(reason) from error
            return result

    def _read(self, connection: Connection, group: str) -> dict[Partition, StoredOffset]:
        cursor = _run(connection, self._statements.load, {"group_id": group})
        found = dict(filter(None, (_parse(*row) for row in cursor.fetchall())))
        cursor.close()
        return found

    def _write(self, connection: Connection, rows: Sequence[Mapping[str, Scalar]]) -> None:
        for row in rows:
            cursor = _run(connection, self._statements.update, row)
            count = cursor.rowcount
            cursor.close()
            # MySQL counts rows that changed, not rows that were found, and some modules do not count.
            if count <= 0 and not self._is_there(connection, row):
                _run(connection, self._statements.insert, row).close()

    def _is_there(self, connection: Connection, row: Mapping[str, Scalar]) -> bool:
        cursor = _run(connection, self._statements.find, row)
        is_there = bool(cursor.fetchall())
        cursor.close()
        return is_there

    def _close(self) -> None:
        self._is_closed = True
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Closing one that is broken may fail in any way. Without a commit it leaves nothing behind.
            with suppress(Exception):
                connection.rollback()
            with suppress(Exception):
                connection.close()

    def _error(self, reason: str) -> OffsetStorageError:
        return OffsetStorageError(f"table {self._table}", reason)


def _parse(topic: Any, partition: Any, offset: Any, message_id: Any) -> tuple[Partition, StoredOffset] | None:  # noqa: ANN401 - modules differ: numbers may be decimals
    """None for a row that names no partition."""
    place = BrokerPartition.parse(str(partition))
    if place is None:
        return None
    at = StoredOffset(int(offset), None if message_id is None else int(message_id))
    return Partition(str(topic), place.broker_id, place.partition), at


def _run(connection: Connection, statement: Statement, values: Mapping[str, Scalar]) -> Any:  # noqa: ANN401
    cursor = connection.cursor()
    if statement.parameters:
        cursor.execute(statement.text, statement.arguments(values))
    else:
        cursor.execute(statement.text)
    return cursor


def _is_integrity_error(error: Exception) -> bool:
    """PEP 249 fixes the names of the classes, not the place where they are."""
    return any(base.__name__ == "IntegrityError" for base in type(error).__mro__)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
