"""Where groups' offsets are kept, as the command line names it: the registry, a file, a table of a database.

::

    registry                    the cluster's
    file[:PATH]                 the Java client's file, ~/.meta_offsets unless said otherwise
    sqlite:PATH                 a table in a SQLite database
    jdbc:FILE                   a table in the database that jdbc.url of a properties file names (MetaQ's)
    sql:MODULE:ARGUMENT         a table in any other: what MODULE.connect(ARGUMENT) gives (DB-API 2.0)
"""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure
from metaserver.client.groups import read_group, write_offsets
from metaserver.client.offsets import FileOffsets, SqlOffsets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metaserver.client import Partition, Session
    from metaserver.client.offsets.sql import Connection
    from metaserver.registry.paths import StoredOffset

REGISTRY = "registry"
_JDBC = re.compile(r"jdbc:(?P<kind>\w+):(?://(?P<host>[^:/?]+)(?::(?P<port>\d+))?/)?(?P<name>[^?]*)")
_PORTS = {"mysql": 3306, "postgresql": 5432}
_MODULES = {"mysql": ("pymysql", "MySQLdb"), "postgresql": ("psycopg", "psycopg2", "pg8000.dbapi")}


class OffsetPlace(Protocol):
    """One of them, opened."""

    @property
    def name(self) -> str:
        """As it was given."""
        ...

    async def load(self, group: str) -> dict[Partition, StoredOffset]:
        """Everything the group has there; raises ClientError."""
        ...

    async def store(
        self, group: str, offsets: Mapping[Partition, StoredOffset], *, replaces: bool
    ) -> list[Partition]:
        """Write them; which were left, because there is something already. Raises ClientError."""
        ...


class _Storage(Protocol):
    async def load_all(self, group: str) -> dict[Partition, StoredOffset]: ...

    async def store(self, group: str, offsets: Mapping[Partition, StoredOffset]) -> None: ...


@attrs.frozen
class RegistryPlace:
    """Offsets in the registry."""

    session: Session
    name: str = REGISTRY

    async def load(self, group: str) -> dict[Partition, StoredOffset]:
        """See OffsetPlace. Nodes that hold no offset are passed over."""
        found = await read_group(self.session.network.discovery, group)
        nodes = {} if found is None else found.offsets
        return {partition: node.stored for partition, node in nodes.items() if node.stored is not None}

    async def store(
        self, group: str, offsets: Mapping[Partition, StoredOffset], *, replaces: bool
    ) -> list[Partition]:
        """See OffsetPlace; by itself for each partition, whoever writes meanwhile."""
        version = -1 if replaces else None
        wanted = {partition: (stored, version) for partition, stored in offsets.items()}
        return await write_offsets(self.session.network.discovery, group, wanted)


@attrs.frozen
class StoragePlace:
    """Offsets in a storage that a consumer may have instead."""

    name: str
    storage: _Storage

    async def load(self, group: str) -> dict[Partition, StoredOffset]:
        """See OffsetPlace."""
        return await self.storage.load_all(group)

    async def store(
        self, group: str, offsets: Mapping[Partition, StoredOffset], *, replaces: bool
    ) -> list[Partition]:
        """See OffsetPlace."""
        there = {} if replaces else await self.load(group)
        await self.storage.store(
            group, {partition: at for partition, at in offsets.items() if partition not in there}
        )
        return [partition for partition in offsets if partition in there]


def is_registry(text: str) -> bool:
    """Whether a session is needed for the place."""
    return text in (REGISTRY, "zk")


def open_place(text: str, session: Session | None) -> OffsetPlace:
    """The place of that name; raises Failure."""
    kind, _, rest = text.partition(":")
    if is_registry(text) and session is not None:
        return RegistryPlace(session)
    if kind == "file":
        return StoragePlace(text, FileOffsets(rest) if rest else FileOffsets())
    if kind == "sqlite" and rest:
        return StoragePlace(text, _sqlite(rest))
    if kind == "jdbc" and rest:
        return StoragePlace(text, _jdbc(Path(rest)))
    if kind == "sql" and rest:
        module, _, argument = rest.partition(":")
        found = _module(module)
        return StoragePlace(
            text,
            SqlOffsets(partial(found.connect, argument), paramstyle=found.paramstyle, quote=_quote(module)),
        )
    raise Failure(
        f"{text!r} is no place for offsets; there are registry, file[:PATH], sqlite:PATH, jdbc:FILE and "
        "sql:MODULE:ARGUMENT",
        ExitCode.USAGE,
    )


def _sqlite(path: str) -> SqlOffsets:
    import sqlite3

    if not Path(path).is_file():
        raise Failure(f"there is no file {path}; a table of offsets is made with SqlOffsets.create_table")
    connect = partial(sqlite3.connect, path, check_same_thread=False)
    return SqlOffsets(connect, paramstyle=sqlite3.paramstyle)


def _jdbc(path: Path) -> SqlOffsets:
    """By jdbc.url, jdbc.username and jdbc.password, as MetaQ's query has them."""
    from metaserver.config.properties import parse_properties
    from metaserver.config.reading import read_file
    from metaserver.config.text import Problems, decode

    problems = Problems(str(path))
    entries = parse_properties(decode(read_file(path), problems), problems, lenient=True)
    problems.raise_if_any()
    values = {key: entry.value for key, entry in entries.items()}
    found = _JDBC.fullmatch(values.get("jdbc.url", "").partition("?")[0])
    if found is None:
        raise Failure(
            f"{path}: jdbc.url is missing, or no jdbc:KIND://HOST:PORT/NAME", ExitCode.CONFIGURATION
        )
    kind, name = found["kind"], found["name"]
    if kind == "sqlite":
        return _sqlite(name)
    if kind not in _MODULES:
        raise Failure(f"{path}: {kind} is not known here; use sql:MODULE:ARGUMENT", ExitCode.CONFIGURATION)
    module = _first_module(kind)
    connect: Callable[[], Connection] = partial(
        module.connect,
        host=found["host"] or "localhost",
        port=int(found["port"] or _PORTS[kind]),
        user=values.get("jdbc.username", ""),
        password=values.get("jdbc.password", ""),
        **{"dbname" if module.__name__.startswith("psycopg") else "database": name},
    )
    return SqlOffsets(connect, paramstyle=module.paramstyle, quote="`" if kind == "mysql" else '"')


def _first_module(kind: str) -> Any:  # noqa: ANN401 - a module of the DB-API
    for name in _MODULES[kind]:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise Failure(f"no Python module for {kind} is installed; there are {' and '.join(_MODULES[kind])}")


def _module(name: str) -> Any:  # noqa: ANN401 - a module of the DB-API
    try:
        found = import_module(name)
    except ImportError as error:
        raise Failure(f"the Python module {name!r} cannot be imported: {error}", ExitCode.USAGE) from error
    if not hasattr(found, "connect") or not hasattr(found, "paramstyle"):
        raise Failure(f"{name} is no module of the DB-API 2.0 (connect, paramstyle)", ExitCode.USAGE)
    return found


def _quote(module: str) -> str:
    return "`" if module in _MODULES["mysql"] else '"'
