"""``server.ini`` as ini4j 0.5.1 reads it, with the line of everything it holds.

``[section]`` lines, ``key=value`` or ``key: value``, comments from ``;`` or ``#`` at the start of a line
(never behind a value), backslash escapes, a backslash at the end continues a line. Sections of one name
are merged and the last value of a key counts.
"""

from __future__ import annotations

import re

import attrs

from metaserver.config.text import BLANKS, LogicalLine, Problems, excerpt, logical_lines, unescape
from metaserver.errors import ConfigError

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


def parse_ini(text: str, problems: Problems, *, lenient: bool) -> dict[str, Section]:
    """The sections in the order in which their names come first; what cannot be read goes to `problems`."""
    sections: dict[str, Section] = {}
    current: Section | None = None
    for line in logical_lines(text, comment_marks=";#", right_blanks=BLANKS):
        if line.is_cut_short:
            problems.add(line.number, "", "the file ends within a line that a backslash continues")
        elif line.text.startswith("["):
            # Lines under a name that cannot be read are checked, and belong to no section.
            name = _section_name(line, problems, lenient=lenient)
            current = sections.get(name) or Section(name, line.number)
            if name:
                sections[name] = current
        else:
            _add_entry(current, line, problems, lenient=lenient)
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


def _add_entry(section: Section | None, line: LogicalLine, problems: Problems, *, lenient: bool) -> None:
    """Put the key and value of a line into its section."""
    if section is None:
        problems.add(
            line.number, "", f"{excerpt(line.text)} stands before the first section; begin with [system]"
        )
        return
    where = f"[{section.name}]" if section.name else ""
    operator = _OPERATOR.search(line.text)
    if operator is None:
        problems.add(
            line.number, where, f"{excerpt(line.text)} is no key=value line; a comment begins with ; or #"
        )
        return
    try:
        key = unescape(line.text[: operator.start()], lenient=lenient).strip(BLANKS)
        value = unescape(line.text[operator.end() :], lenient=lenient).strip(BLANKS)
    except ConfigError as error:
        problems.add_all(line.number, f"{where} {line.text[: operator.start()].strip(BLANKS)}".strip(), error)
        return
    if not key:
        problems.add(line.number, where, f"{excerpt(line.text)} has no key before its {operator[0]}")
        return
    section.entries[key] = Entry(value, line.number)
