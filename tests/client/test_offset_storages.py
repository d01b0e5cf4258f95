"""The suite of storages of offsets over each of them."""

from __future__ import annotations

import sqlite3
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest

from metaserver.client.offsets import FileOffsets, MemoryOffsets, SqlOffsets
from tests.client.offset_storage_suite import OffsetStorageSuite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from metaserver.client.offsets import OffsetStorage
    from tests.client.offset_storage_suite import Make
    from tests.client.postgres_server import PostgresServer

_tables = count()


class TestMemory(OffsetStorageSuite):
    @pytest.fixture
    def make(self) -> Make:
        storage = MemoryOffsets()
        return lambda: aclosing(storage)


class TestFile(OffsetStorageSuite):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return lambda: aclosing(FileOffsets(tmp_path / "offsets"))


class TestSqlite(OffsetStorageSuite):
    @pytest.fixture(params=["rollback journal", "wal"])
    def make(self, tmp_path: Path, request: pytest.FixtureRequest) -> Make:
        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(tmp_path / "db", timeout=60, check_same_thread=False)
            connection.execute("PRAGMA synchronous = OFF")
            return connection

        if request.param == "wal":
            connection = connect()
            connection.execute("PRAGMA journal_mode = WAL")
            connection.close()

        @asynccontextmanager
        async def make() -> AsyncIterator[OffsetStorage]:
            async with aclosing(SqlOffsets(connect, paramstyle=sqlite3.paramstyle)) as storage:
                await storage.create_table()
                yield storage

        return make


class TestPostgres(OffsetStorageSuite):
    @pytest.fixture
    def make(self, postgres: PostgresServer) -> Make:
        table = f"conformance_{next(_tables)}"

        @asynccontextmanager
        async def make() -> AsyncIterator[OffsetStorage]:
            async with aclosing(SqlOffsets(postgres.connect, paramstyle="format", table=table)) as storage:
                await storage.create_table()
                yield storage

        return make


def test_a_default_storage_needs_no_loop() -> None:
    assert FileOffsets().path.name == ".meta_offsets"
