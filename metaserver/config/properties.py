"""Java properties files, as MetaQ's plug-in files are.

``key=value``, ``key: value`` or ``key value``; comments from ``#`` or ``!`` at the start of a line; backslash
escapes; a backslash at the end continues a line; the last value of a key counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaserver.config.ini import Entry
from metaserver.config.reading import read_entries, report_unknown
from metaserver.config.text import BLANKS, Problems, decode, logical_lines, unescape
from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaserver.config.schema import Key

_SEPARATORS = "=: \t\f"


def read_properties(
    text: str | bytes, keys: Mapping[str, Key], *, source: str, lenient: bool
) -> dict[str, Any]:
    """The fields that a file of these keys sets, by name; ``source`` is its path, as problems name it.

    Raises ConfigError with every problem of the file; lenient: unknown keys are passed over.
    """
    problems = Problems(source)
    decoded = text if isinstance(text, str) else decode(text, problems)
    entries = parse_properties(decoded, problems, lenient=lenient)
    if not lenient:
        report_unknown(entries, keys, (), problems, section="")
    fields = read_entries(entries, keys, problems, section="", section_line=None)
    problems.raise_if_any()
    return fields


def parse_properties(text: str, problems: Problems, *, lenient: bool) -> dict[str, Entry]:
    """Every key with its value and line; what cannot be read goes to `problems`."""
    entries: dict[str, Entry] = {}
    for line in logical_lines(text, comment_marks="#!", right_blanks=""):
        if line.is_cut_short:
            problems.add(line.number, "", "the file ends within a line that a backslash continues")
            continue
        end = _key_end(line.text)
        try:
            key = unescape(line.text[:end], lenient=lenient).strip(BLANKS)
            value = unescape(_without_separator(line.text[end:]), lenient=lenient).strip(BLANKS)
        except ConfigError as error:
            problems.add_all(line.number, line.text[:end], error)
            continue
        if not key:
            problems.add(line.number, "", "the line has no key; write key=value")
            continue
        entries[key] = Entry(value, line.number)
    return entries


def _key_end(line: str) -> int:
    """Where the key ends: the first separator that no backslash escapes."""
    position = 0
    while position < len(line) and line[position] not in _SEPARATORS:
        position += 2 if line[position] == "\\" else 1
    return min(position, len(line))


def _without_separator(rest: str) -> str:
    """What follows blanks, at most one ``=`` or ``:``, and blanks."""
    rest = rest.lstrip(BLANKS)
    return rest[1:] if rest[:1] in {"=", ":"} else rest
