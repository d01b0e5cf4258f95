"""From the entries of a section to the fields they set; from a path to the bytes of its file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaserver.config.text import excerpt
from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from metaserver.config.ini import Entry
    from metaserver.config.schema import Key
    from metaserver.config.text import Problems

FILE_BYTES_MAX = 16 * 1024 * 1024


def base_directory_of(path: Path) -> Path:
    """Where relative paths begin: the directory of the file, or the parent of that if it is ``conf``."""
    parent = Path(os.path.abspath(path)).parent  # noqa: PTH100 - resolve() would follow a linked conf
    return parent.parent if parent.name == "conf" else parent


def absolute(base_directory: Path, text: str) -> Path:
    """The path that the text means, without ``..`` in it."""
    return Path(os.path.normpath(base_directory / text))


def read_file(path: Path) -> bytes:
    """The bytes of a configuration file. Raises ConfigError if there are none to be had."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError((f"{path}: cannot be read: {reason}",)) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError((f"{path}: is larger than a configuration may be ({FILE_BYTES_MAX} bytes)",))
    return data


def read_entries(
    entries: Mapping[str, Entry],
    keys: Mapping[str, Key],
    problems: Problems,
    *,
    section: str,
    section_line: int | None,
) -> dict[str, Any]:
    """The fields that are set, by name. Blank is absent; what is wrong or lacking goes to `problems`."""
    fields: dict[str, Any] = {}
    for key in keys.values():
        where = f"{section} {key.name}".strip()
        entry = entries.get(key.name)
        if entry is None or not entry.value:
            if key.is_required:
                line = section_line if entry is None else entry.line
                problems.add(line, where, "is required and has no value; give it one")
            continue
        try:
            fields[key.field] = key.read(entry.value)
        except ConfigError as error:
            problems.add_all(entry.line, where, error)
    return fields


def report_unknown(
    entries: Mapping[str, Entry],
    known: Iterable[str],
    ignored: Collection[str],
    problems: Problems,
    *,
    section: str,
) -> None:
    """A problem for each entry with a name that is neither known nor ignored."""
    names = list(known)
    accepted = {*names, *ignored}
    for name, entry in entries.items():
        if name not in accepted:
            hint = f"do you mean '{nearest(name, names)}'?"
            problems.add(entry.line, f"{section} {excerpt(name)[1:-1]}".strip(), f"is no known key; {hint}")


def nearest(name: str, names: Iterable[str]) -> str:
    """The name with the smallest edit distance, the first of several in their order."""
    return min(names, key=lambda candidate: distance(name[:64], candidate))


def distance(left: str, right: str) -> int:
    """How many insertions, deletions and replacements of a character lead from one to the other."""
    row = list(range(len(right) + 1))
    for above, character in enumerate(left, start=1):
        diagonal, row[0] = row[0], above
        for column, other in enumerate(right, start=1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (character != other)),
            )
    return row[-1]
