"""Which messages a group gets: ``group.G`` of a topic, and the names in [filters].

The value is a condition, a name of [filters], or a built-in one. A Java class, which MetaQ would load, is
none of these; its name may be given a meaning in [filters], which a Java broker passes over.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from metaserver.config import schema, values
from metaserver.errors import ConfigError, FilterError
from metaserver.filters import BUILT_IN, Filter, UnknownFilter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaserver.config.ini import Section
    from metaserver.config.text import Problems

_NAME = re.compile(r"[\w$-]+(?:\.[\w$-]+)*")


def named_filters(section: Section | None, problems: Problems) -> dict[str, Filter]:
    """What [filters] says; what cannot be read goes to `problems`."""
    found: dict[str, Filter] = {}
    for name, entry in {} if section is None else section.entries.items():
        if not entry.value:
            continue
        try:
            found[name] = _parse(entry.value)
        except ConfigError as error:
            problems.add_all(entry.line, f"[{schema.FILTERS_SECTION}] {name}", error)
    return found


def group_filters(
    section: Section, named: Mapping[str, Filter], problems: Problems, *, lenient: bool
) -> dict[str, Any]:
    """The field of a TopicConfig, where a topic's section has such keys.

    Lenient: a name that is not known stands; the gets of that group are refused, as by MetaQ.
    """
    found: list[tuple[str, Filter | UnknownFilter]] = []
    for key, entry in section.entries.items():
        if not key.startswith(schema.FILTER_PREFIX) or not entry.value:
            continue
        try:
            group = values.word(key.removeprefix(schema.FILTER_PREFIX))
            found.append((group, _find(entry.value, named, lenient=lenient)))
        except ConfigError as error:
            problems.add_all(entry.line, f"[{section.name}] {key}", error)
    return {"group_filters": tuple(found)} if found else {}


def _find(text: str, named: Mapping[str, Filter], *, lenient: bool) -> Filter | UnknownFilter:
    if text in named:
        return named[text]
    if text not in BUILT_IN and text.upper() not in ("TRUE", "FALSE") and _NAME.fullmatch(text):
        unknown = UnknownFilter(text)
        if lenient:
            return unknown
        raise ConfigError((unknown.reason,))
    return _parse(text)


def _parse(text: str) -> Filter:
    try:
        return Filter.parse(text)
    except FilterError as error:
        raise ConfigError((str(error),)) from error
