"""Topics of a ``server.ini`` added, changed and removed: a text in, a text out, all else as it stands.

Whether the result can be used is for :func:`metaserver.config.parse_server_config` to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.config.layout import (
    TOPIC,
    FileSection,
    Piece,
    counting_entries,
    cut_sections,
    join_sections,
    line_end_of,
)
from metaserver.config.text import BLANKS, escape
from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SOURCE = "server.ini"
_OPERATORS = "=:;#[]"
"""What a key must not have as it is."""


def add_topic(text: str, topic: str, entries: Mapping[str, str], *, lenient: bool = False) -> str:
    """With a section for the topic behind those of the others. Raises ConfigError where it has one."""
    sections = cut_sections(text, _SOURCE, lenient=lenient)
    if _of(sections, topic):
        raise ConfigError((f"there is a section [topic={topic}] already",))
    end = line_end_of(text)
    head = Piece(f"[{TOPIC}{escape(topic)}]{end}", is_head=True)
    added = FileSection(TOPIC + topic, [head, *(_entry(*one, end) for one in entries.items())], is_new=True)
    place = max((n for n, section in enumerate(sections, 1) if section.is_topic), default=len(sections))
    sections.insert(place, added)
    return join_sections(sections, end)


def change_topic(text: str, topic: str, entries: Mapping[str, str | None], *, lenient: bool = False) -> str:
    """With these values in its section; None removes the key. Raises ConfigError where it has no section."""
    sections = cut_sections(text, _SOURCE, lenient=lenient)
    own = _own(sections, topic)
    end = line_end_of(text)
    before = counting_entries(own)
    for key, value in entries.items():
        if value is None:
            for section in own:
                section.pieces = [piece for piece in section.pieces if piece.key != key]
        elif key not in before:
            own[-1].pieces.insert(own[-1].end_of_entries(), _entry(key, value, end))
        elif before[key].value != value:
            old = before[key]
            for section in own:
                section.pieces = [_entry(key, value, end) if one is old else one for one in section.pieces]
    return join_sections(sections, end)


def remove_topic(text: str, topic: str, *, lenient: bool = False) -> str:
    """Without its section and the comments of it. Raises ConfigError where it has none.

    Comments behind it, set off by a blank line, stay: they speak of something else.
    """
    sections = cut_sections(text, _SOURCE, lenient=lenient)
    own = _own(sections, topic)
    kept: list[FileSection] = []
    for section in sections:
        if section in own:
            kept.append(FileSection(None, _set_off(section)))
        else:
            kept.append(section)
    return join_sections(kept, line_end_of(text))


def _of(sections: list[FileSection], topic: str) -> list[FileSection]:
    return [section for section in sections if section.name == TOPIC + topic]


def _own(sections: list[FileSection], topic: str) -> list[FileSection]:
    found = _of(sections, topic)
    if not found:
        raise ConfigError((f"there is no section [topic={topic}]",))
    return found


def _entry(key: str, value: str, end: str) -> Piece:
    value = value.strip(BLANKS)
    return Piece(f"{escape(key, also=_OPERATORS)}={escape(value)}{end}", key, value)


def _set_off(section: FileSection) -> list[Piece]:
    behind = section.pieces[section.end_of_entries() :]
    blank = next((number for number, piece in enumerate(behind) if piece.is_blank), len(behind))
    rest = behind[blank:]
    return rest if any(piece.is_comment for piece in rest) else []
