"""Offsets in a table: every paramstyle, connections that break, two who insert at once."""

from __future__ import annotations

import sqlite3
from contextlib import aclosing, closing
from itertools import count
from typing import TYPE_CHECKING

import pytest

from metaserver.client.offsets import SqlOffsets
from metaserver.client.offsets.sql import DEFAULT_TABLE
from metaserver.client.offsets.statements import Statements
from metaserver.client.partition import Partition
from metaserver.errors import OffsetStorageError
from metaserver.registry.paths import StoredOffset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from tests.client.postgres_server import PgConnection, PostgresServer

    Run = Callable[[Callable[[], Awaitable[None]]], None]

T01, T02 = Partition("t", 0, 1), Partition("t", 0, 2)
_tables = count()


class Script:
    """What happens to connections of SQLite: each operation may be given an error once, or something to do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened = 0
        self.calls: list[str] = []
        self.values: list[tuple[object, ...]] = []
        self.happens: list[tuple[str, Exception | Callable[[], None]]] = []

    def connect(self) -> ScriptedConnection:
        self.meet("connect")
        self.opened += 1
        link = sqlite3.connect(self.path, timeout=20, check_same_thread=False)
        link.execute("PRAGMA synchronous = OFF")
        return ScriptedConnection(self, link)

    def meet(self, operation: str) -> None:
        self.calls.append(operation)
        if self.happens and self.happens[0][0] == operation:
            _, event = self.happens.pop(0)
            if isinstance(event, Exception):
                raise event
            event()

    def rows(self) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as link:
            return link.execute(f"SELECT * FROM {DEFAULT_TABLE}").fetchall()

    def storage(self) -> SqlOffsets:
        return SqlOffsets(self.connect, paramstyle="qmark")


class ScriptedConnection:
    def __init__(self, script: Script, link: sqlite3.Connection) -> None:
        self.script, self.link = script, link

    def cursor(self) -> ScriptedCursor:
        return ScriptedCursor(self.script, self.link.cursor())

    def commit(self) -> None:
        self.script.meet("commit")
        self.link.commit()

    def rollback(self) -> None:
        self.script.meet("rollback")
        self.link.rollback()

    def close(self) -> None:
        self.link.close()
        self.script.meet("close")


class ScriptedCursor:
    def __init__(self, script: Script, cursor: sqlite3.Cursor) -> None:
        self.script, self.cursor = script, cursor

    def execute(self, sql: str, values: Sequence[object] = ()) -> None:
        self.script.meet(sql.partition(" ")[0])
        self.script.values.append(tuple(values))
        self.cursor.execute(sql, values)

    @property
    def rowcount(self) -> int:
        return self.cursor.rowcount

    def fetchall(self) -> list[tuple[object, ...]]:
        return self.cursor.fetchall()

    def close(self) -> None:
        self.cursor.close()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path / "db")


class LostError(Exception):
    """Modules let out what they like."""


LOST = LostError("the server went away")


def test_a_connection_that_broke_since_is_replaced(run: Run, script: Script) -> None:
    async def test() -> None:
        async with aclosing(script.storage()) as storage:
            await storage.create_table()
            script.happens = [("UPDATE", LOST), ("close", LOST)]
            await storage.store("g", {T01: StoredOffset(1, 1)})
            assert script.opened == 2
            script.happens = [("SELECT", LOST), ("rollback", LOST)]
            assert await storage.load("g", [T01]) == {T01: StoredOffset(1, 1)}
            assert script.opened == 3
            assert not script.happens

    run(test)


def test_what_fails_on_the_new_connection_too_is_an_error_and_the_next_call_begins_anew(
    run: Run, script: Script
) -> None:
    async def test() -> None:
        async with aclosing(script.storage()) as storage:
            await storage.create_table()
            reason = f"^offsets in table {DEFAULT_TABLE}: LostError: the server went away$"
            script.happens = [("SELECT", LOST), ("connect", LOST)]
            with pytest.raises(OffsetStorageError, match=reason):
                await storage.load("g", [T01])
            assert await storage.load("g", [T01]) == {}
            script.happens = [("UPDATE", LOST), ("INSERT", LOST)]
            with pytest.raises(OffsetStorageError, match=reason):
                await storage.store("g", {T01: StoredOffset(1, 1)})
            assert not script.happens
            assert await storage.load("g", [T01]) == {}

    run(test)


def test_an_error_of_a_new_connection_is_not_tried_again(run: Run, script: Script) -> None:
    async def test() -> None:
        async with aclosing(script.storage()) as storage:
            with pytest.raises(OffsetStorageError, match="no such table"):
                await storage.store("g", {T01: StoredOffset(1, 1)})
            assert script.opened == 1

    run(test)


@pytest.mark.parametrize("has_worked", [False, True])
def test_a_commit_that_fails_is_not_done_again_and_says_so(
    run: Run, script: Script, has_worked: bool
) -> None:
    async def test() -> None:
        async with aclosing(script.storage()) as storage:
            await storage.create_table()
            script.calls.clear()
            link: ScriptedConnection = storage._connection  # type: ignore[assignment]

            def fail() -> None:
                if has_worked:
                    link.link.commit()
                raise LOST

            script.happens = [("commit", fail)]
            with pytest.raises(OffsetStorageError, match="commit failed, and may have worked all the same"):
                await storage.store("g", {T01: StoredOffset(1, 1)})
            assert script.calls.count("UPDATE") == 1
            assert len(script.rows()) == has_worked
            await storage.store("g", {T01: StoredOffset(1, 1)})
            assert len(script.rows()) == 1

    run(test)


def test_an_error_in_the_middle_keeps_nothing(run: Run, script: Script) -> None:
    async def test() -> None:
        async with aclosing(script.storage()) as storage:
            await storage.create_table()
            await storage.store("g", {T01: StoredOffset(1, 1)})
            script.happens = [("INSERT", LOST), ("INSERT", LOST)]
            with pytest.raises(OffsetStorageError):
                await storage.store("g", {T01: StoredOffset(5, 5), T02: StoredOffset(5, 5)})
            assert await storage.load("g", [T01, T02]) == {T01: StoredOffset(1, 1)}

    run(test)


def test_everybody_takes_rows_in_one_order(run: Run, script: Script) -> None:
    async def test() -> None:
        async with aclosing(script.storage()) as storage:
            await storage.create_table()
            at = StoredOffset(1, 1)
            await storage.store("g", {T02: at, T01: at})
            script.values.clear()
            await storage.store("g", {T02: at, T01: at})
            assert script.values == [(1, 1, "t", "0-1", "g"), (1, 1, "t", "0-2", "g")]

    run(test)


class IntegrityError(Exception):
    """As a module other than sqlite3 would have it."""


def test_another_one_inserts_first(run: Run, script: Script) -> None:
    async def test() -> None:
        async with aclosing(script.storage()) as storage, aclosing(script.storage()) as other:
            await storage.create_table()
            offsets = {T01: StoredOffset(1, 1), T02: StoredOffset(2, 2)}
            await other.store("g", {T02: StoredOffset(9, 9)})
            script.happens = [("INSERT", IntegrityError("unique")), ("INSERT", IntegrityError("unique"))]
            with pytest.raises(OffsetStorageError, match="IntegrityError: unique"):
                # New, so that nothing but the race is a reason to try again.
                await script.storage().store("g", offsets)
            assert not script.happens
            script.happens = [("INSERT", IntegrityError("unique"))]
            fresh = script.storage()
            await fresh.store("g", offsets)
            assert await fresh.load("g", [T01, T02]) == offsets
            await fresh.aclose()

    run(test)


def test_a_database_that_counts_only_rows_that_changed(
    run: Run, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedCursor, "rowcount", 0)

    async def test() -> None:
        async with aclosing(script.storage()) as storage:
            await storage.create_table()
            for offset in (1, 1, 2):
                await storage.store("g", {T01: StoredOffset(offset, 1)})
            assert script.rows() == [("t", "0-1", "g", 2, 1)]
            assert script.opened == 1

    run(test)


def test_rows_of_the_java_client_and_rows_without_sense(run: Run, script: Script) -> None:
    columns = "topic TEXT, partition TEXT, group_id TEXT, offset INT, msg_id INT"
    with closing(sqlite3.connect(script.path)) as link:
        link.execute(f"CREATE TABLE {DEFAULT_TABLE} ({columns})")
        link.executemany(
            f"INSERT INTO {DEFAULT_TABLE} VALUES (?, ?, 'g', ?, ?)",
            [("t", "0-1", 7, -1), ("t", "0-2", 8, None), ("t", "x", 9, 9)],
        )
        link.commit()

    async def test() -> None:
        async with aclosing(script.storage()) as storage:
            got = await storage.load("g", [T01, T02])
            assert got == {T01: StoredOffset(7, -1), T02: StoredOffset(8, None)}

    run(test)


def test_closed(run: Run, script: Script) -> None:
    async def test() -> None:
        storage = script.storage()
        await storage.create_table()
        await storage.aclose()
        assert script.calls[-1] == "close"
        with pytest.raises(OffsetStorageError, match="it is closed"):
            await storage.load("g", [T01])
        with pytest.raises(OffsetStorageError, match="it is closed"):
            await storage.store("g", {T01: StoredOffset(1, 1)})

    run(test)


def in_style(connect: Callable[[], PgConnection], paramstyle: str) -> Callable[[], PgConnection]:
    def connect_in_style() -> PgConnection:
        link = connect()
        cursor = link.cursor

        def cursor_in_style() -> object:
            made = cursor()
            made.paramstyle = paramstyle
            return made

        link.cursor = cursor_in_style
        return link

    return connect_in_style


@pytest.mark.parametrize("paramstyle", ["qmark", "numeric", "named", "format", "pyformat"])
def test_each_paramstyle(run: Run, postgres: PostgresServer, paramstyle: str) -> None:
    async def test() -> None:
        table = f"public.style_{next(_tables)}"
        connect = in_style(postgres.connect, paramstyle)
        async with aclosing(SqlOffsets(connect, paramstyle=paramstyle, table=table)) as storage:
            await storage.create_table()
            for offset in (1, 2):
                offsets = {T01: StoredOffset(offset, 3), T02: StoredOffset(offset + 10, -4)}
                await storage.store("%s ? :1 ':g'", offsets)
                assert await storage.load("%s ? :1 ':g'", [T01, T02]) == offsets

    run(test)


def test_a_server_that_ended_the_connection(run: Run, postgres: PostgresServer) -> None:
    async def test() -> None:
        table = f"ended_{next(_tables)}"
        async with aclosing(SqlOffsets(postgres.connect, paramstyle="format", table=table)) as storage:
            await storage.create_table()
            postgres.end_connections()
            await storage.store("g", {T01: StoredOffset(1, 2)})
            postgres.end_connections()
            assert await storage.load("g", [T01]) == {T01: StoredOffset(1, 2)}

    run(test)


def test_no_transaction_is_left_open(run: Run, postgres: PostgresServer) -> None:
    async def test() -> None:
        table = f"idle_{next(_tables)}"
        async with aclosing(SqlOffsets(postgres.connect, paramstyle="format", table=table)) as storage:
            await storage.create_table()
            await storage.load("g", [T01])
            await storage.store("g", {T01: StoredOffset(1, 2)})
            link: PgConnection = storage._connection
            assert not link._in_transaction

    run(test)


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        ('"', 'SELECT topic, "partition", "offset", msg_id FROM "s"."t" WHERE group_id = ?'),
        ("`", "SELECT topic, `partition`, `offset`, msg_id FROM `s`.`t` WHERE group_id = ?"),
        ("", "SELECT topic, partition, offset, msg_id FROM s.t WHERE group_id = ?"),
    ],
)
def test_the_quotes(quote: str, text: str) -> None:
    assert Statements.build("qmark", "s.t", quote).load.text == text


@pytest.mark.parametrize("table", ["", "a b", 'a"', "a;b", "a.b.c", "a.", ".a", "1a", "ä", "a" * 64, "a\n"])
def test_a_table_that_cannot_be(table: str) -> None:
    with pytest.raises(ValueError, match="neither TABLE nor"):
        SqlOffsets(lambda: None, paramstyle="qmark", table=table)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("wrong", [{"paramstyle": "percent"}, {"paramstyle": "qmark", "quote": "'"}])
def test_what_else_cannot_be(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="none of"):
        SqlOffsets(lambda: None, **wrong)  # type: ignore[arg-type, return-value]
