"""SQL for any module of the DB-API: each has its own way to mark a parameter (PEP 249, paramstyle)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Scalar = str | int | None

_MARKS: Final = {
    "qmark": "?",
    "numeric": ":{number}",
    "named": ":{name}",
    "format": "%s",
    "pyformat": "%({name})s",
}
_BY_NAME = ("named", "pyformat")
_QUOTES = ('"', "`", "")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_TEMPLATE = re.compile(r"\[(?P<column>\w+)\]|:(?P<parameter>\w+)|(?P<table>TABLE_HERE)")

_ROW = "topic = :topic AND [partition] = :partition AND group_id = :group_id"
_LOAD = "SELECT topic, [partition], [offset], msg_id FROM TABLE_HERE WHERE group_id = :group_id"
_UPDATE = f"UPDATE TABLE_HERE SET [offset] = :offset, msg_id = :msg_id WHERE {_ROW}"  # noqa: S608 - constants
_FIND = f"SELECT topic FROM TABLE_HERE WHERE {_ROW}"  # noqa: S608 - constants
_INSERT = (
    "INSERT INTO TABLE_HERE (topic, [partition], group_id, [offset], msg_id)"
    " VALUES (:topic, :partition, :group_id, :offset, :msg_id)"
)
_CREATE = (
    "CREATE TABLE IF NOT EXISTS TABLE_HERE ("
    "topic VARCHAR(255) NOT NULL, [partition] VARCHAR(255) NOT NULL, group_id VARCHAR(255) NOT NULL,"
    " [offset] BIGINT NOT NULL, msg_id BIGINT NOT NULL, PRIMARY KEY (topic, [partition], group_id))"
)


@attrs.frozen
class Statement:
    """A statement as one module wants it."""

    text: str
    parameters: tuple[str, ...]
    """In order; a name may be there twice."""
    is_by_name: bool

    def arguments(self, values: Mapping[str, Scalar]) -> Sequence[Scalar] | Mapping[str, Scalar]:
        """What to give to ``execute`` beside the text: only what the statement names."""
        if self.is_by_name:
            return {name: values[name] for name in self.parameters}
        return [values[name] for name in self.parameters]


@attrs.frozen
class Statements:
    """All that a storage of offsets says to its database."""

    load: Statement
    update: Statement
    find: Statement
    """A row where the update's row exists."""
    insert: Statement
    create: Statement

    @classmethod
    def build(cls, paramstyle: str, table: str, quote: str) -> Statements:
        """For a module, a table (``TABLE`` or ``SCHEMA.TABLE``) and the quote around identifiers.

        Raises ValueError for what is none of these.
        """
        if paramstyle not in _MARKS:
            raise ValueError(f"paramstyle is {paramstyle!r}, none of {', '.join(_MARKS)}")
        if quote not in _QUOTES:
            raise ValueError(f"quote is {quote!r}, none of {', '.join(map(repr, _QUOTES))}")
        words = table.split(".")
        if len(words) > 2 or not all(_WORD.fullmatch(word) for word in words):
            raise ValueError(f"table is {table!r}, which is neither TABLE nor SCHEMA.TABLE")
        quoted = ".".join(f"{quote}{word}{quote}" for word in words)

        def statement(template: str) -> Statement:
            parameters: list[str] = []

            def put(found: re.Match[str]) -> str:
                if found["column"]:
                    return f"{quote}{found['column']}{quote}"
                if found["table"]:
                    return quoted
                parameters.append(found["parameter"])
                return _MARKS[paramstyle].format(number=len(parameters), name=found["parameter"])

            text = _TEMPLATE.sub(put, template)
            return Statement(text, tuple(parameters), paramstyle in _BY_NAME)

        return cls(*map(statement, (_LOAD, _UPDATE, _FIND, _INSERT, _CREATE)))
