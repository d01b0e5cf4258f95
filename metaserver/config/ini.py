"""``server.ini`` as ini4j 0.5.1 reads it, with the line of everything it holds.

``[section]`` lines, ``key=value`` or ``key: value``, comments from ``;`` or ``#`` at the start of a line
(never behind a value), backslash escapes, a backslash at the end continues a line. Sections of one name
are merged and the last value of a key counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from metaserver.config.text import BLANKS, LogicalLine, Problems, excerpt, logical_lines, unescape
from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPERATOR = re.compile("[=:]")


@attrs.frozen
class Entry:
    """The value of a key."""

    value: str
    """Escapes replaced, trimmed. Blank means: as if the key were not there."""
    line: int


@attrs.define
class Section:
    """Everything that stands under one name."""

    name: str
    line: int
    """Where the name comes first."""
    entries: dict[str, Entry] = attrs.field(factory=dict)
    replaced: list[tuple[str, Entry]] = attrs.field(factory=list)
    """Keys and values that a later line of the section has put another in the place of."""


@attrs.frozen
class IniLine:
    """A line that says something: it begins a section, or sets a key of one."""

    first: int
    last: int
    """Its first and last line of the file: a backslash may continue it."""
    section: str
    """Blank where the name cannot be read."""
    key: str | None = None
    """None: it begins the section."""
    value: str = ""


def ini_lines(text: str, problems: Problems, *, lenient: bool) -> Iterator[IniLine]:
    """What is no comment, in the order of the file; what cannot be read goes to `problems`."""
    section: str | None = None
    for line in logical_lines(text, comment_marks=";#", right_blanks=BLANKS):
        if line.is_cut_short:
            problems.add(line.number, "", "the file ends within a line that a backslash continues")
        elif line.text.startswith("["):
            # Lines under a name that cannot be read are checked, and belong to no section.
            section = _section_name(line, problems, lenient=lenient)
            yield IniLine(line.number, line.last, section)
        else:
            entry = _entry(section, line, problems, lenient=lenient)
            if entry is not None and section is not None:
                yield IniLine(line.number, line.last, section, *entry)


def parse_ini(text: str, problems: Problems, *, lenient: bool) -> dict[str, Section]:
    """The sections in the order in which their names come first; what cannot be read goes to `problems`."""
    sections: dict[str, Section] = {}
    for line in ini_lines(text, problems, lenient=lenient):
        if not line.section:
            continue
        section = sections.get(line.section)
        if section is None:
            section = sections[line.section] = Section(line.section, line.first)
        if line.key is not None:
            if line.key in section.entries:
                section.replaced.append((line.key, section.entries[line.key]))
            section.entries[line.key] = Entry(line.value, line.first)
    return sections


def _section_name(line: LogicalLine, problems: Problems, *, lenient: bool) -> str:
    """The name between the brackets, or nothing where there is none to be had."""
    if not line.text.endswith("]"):
        problems.add(
            line.number, "", f"{excerpt(line.text)} has no closing bracket; write [NAME] and nothing else"
        )
        return ""
    try:
        name = unescape(line.text[1:-1].strip(BLANKS), lenient=lenient)
    except ConfigError as error:
        problems.add_all(line.number, excerpt(line.text), error)
        return ""
    if not name:
        problems.add(line.number, "", "the section has no name; write [NAME]")
    return name


def _entry(
    section: str | None, line: LogicalLine, problems: Problems, *, lenient: bool
) -> tuple[str, str] | None:
    """The key and value of a line, or None where there are none to be had."""
    if section is None:
        problems.add(
            line.number, "", f"{excerpt(line.text)} stands before the first section; begin with [system]"
        )
        return None
    where = f"[{section}]" if section else ""
    operator = _OPERATOR.search(line.text)
    if operator is None:
        problems.add(
            line.number, where, f"{excerpt(line.text)} is no key=value line; a comment begins with ; or #"
        )
        return None
    try:
        key = unescape(line.text[: operator.start()], lenient=lenient).strip(BLANKS)
        value = unescape(line.text[operator.end() :], lenient=lenient).strip(BLANKS)
    except ConfigError as error:
        problems.add_all(line.number, f"{where} {line.text[: operator.start()].strip(BLANKS)}".strip(), error)
        return None
    if not key:
        problems.add(line.number, where, f"{excerpt(line.text)} has no key before its {operator[0]}")
        return None
    return key, value
