"""A slave's ``server.ini`` brought to what its master's says: two texts in, one text out.

What concerns topics and the broker's behaviour comes from the master; what belongs to the slave's machine
stays (:data:`OWN_SYSTEM_KEYS`, :data:`OWN_TOPIC_KEYS`, all of [zookeeper], sections that mean nothing). Lines
that need no change stay as they are, with their comments. The merge of its own result changes nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from metaserver.config.layout import (
    SYSTEM,
    FileSection,
    counting_entries,
    cut_sections,
    decode_file,
    join_sections,
    line_end_of,
)
from metaserver.config.schema import FILTERS_SECTION, OUR_KEYS

if TYPE_CHECKING:
    from collections.abc import Collection

    from metaserver.config.models import ServerConfig

OWN_SYSTEM_KEYS: Final = {
    "brokerId": "says whose slave this is; a master with another number is not its master",
    "serverPort": "on one machine the master has it",
    "dashboardHttpPort": "on one machine the master has it",
    "hostName": "is the name of the machine",
    "bindAddress": "is an address of the machine",
    "dataPath": "is a place on the machine",
    "dataLogPath": "is a place on the machine",
    "appClassPath": "is a place on the machine",
    "minFreeDiskBytes": "depends on the size of the machine's disk",
    "flushThreadCount": "depends on what the machine's disk can do",
    "httpUsersFile": "is a place on the machine",
}
"""Keys of [system] that a slave keeps, and why."""

OWN_TOPIC_KEYS: Final = {"dataPath": "is a place on the machine"}
"""The same for sections of topics."""

_STAMP = re.compile(
    r"# Merged from the master's server\.ini with checksum ([0-9]{1,10})\b[^\r\n]*(?:\r\n|\r|\n|\Z)"
)


def merge_master(own: str, master: str, *, is_java: bool = False, lenient: bool = False) -> str:
    """The slave's text with the master's topics and behaviour.

    ``is_java``: the master's file cannot have the keys that are ours, so the slave's stay. Raises
    ConfigError where one of the texts cannot be read; whether the result can be used is not checked.
    """
    end = line_end_of(own)
    mine = cut_sections(_without_stamp(own), "server.ini", lenient=lenient)
    theirs = cut_sections(_without_stamp(master), "the master's server.ini", lenient=lenient)
    theirs = [section.with_ends(end) for section in theirs]
    kept = OUR_KEYS if is_java else frozenset[str]()
    _edit(
        [section for section in mine if section.name == SYSTEM],
        [section for section in theirs if section.name == SYSTEM],
        OWN_SYSTEM_KEYS,
        kept,
    )
    _merge_filters(mine, theirs)
    return join_sections(_merge_topics(mine, theirs, kept), end)


def stamp(text: str, checksum: int) -> str:
    """The text with a comment in front that says which file of the master it has been merged from."""
    line = f"# Merged from the master's server.ini with checksum {checksum}; see autoSyncMasterConfig."
    return f"{line}{line_end_of(text)}{_without_stamp(text)}"


def stamped_checksum(text: str) -> int | None:
    """What :func:`stamp` has written; None where it has not."""
    found = _STAMP.match(text)
    return None if found is None else int(found[1])


def origin_checksum(config: ServerConfig) -> int:
    """Of the file of the master that a node's comes from, perhaps through other slaves; else of its own."""
    stamped = stamped_checksum(decode_file(config.source_bytes, str(config.path)))
    return config.checksum if stamped is None else stamped


def _edit(
    own: list[FileSection], master: list[FileSection], own_keys: Collection[str], kept: Collection[str]
) -> None:
    """Bring the sections of one name to what the master's say. ``kept`` keys stay where he lacks them."""
    before = counting_entries(own)
    wanted = {
        key: piece for key, piece in counting_entries(master).items() if piece.value and key not in own_keys
    }
    gone = {
        key
        for key, piece in before.items()
        if piece.value and key not in wanted and key not in own_keys and key not in kept
    }
    replaced = {
        id(before[key]): piece
        for key, piece in wanted.items()
        if key in before and before[key].value != piece.value
    }
    for section in own:
        section.pieces = [replaced.get(id(piece), piece) for piece in section.pieces if piece.key not in gone]
    added = [piece for key, piece in wanted.items() if key not in before]
    place = own[-1].end_of_entries()
    own[-1].pieces[place:place] = added


def _merge_filters(own: list[FileSection], master: list[FileSection]) -> None:
    """The names that topics' filters may have are behaviour as well."""
    mine = [section for section in own if section.name == FILTERS_SECTION]
    theirs = [section for section in master if section.name == FILTERS_SECTION]
    if mine:
        _edit(mine, theirs, frozenset(), frozenset())
    else:
        own += [attrs.evolve(section, is_new=True) for section in theirs]


def _merge_topics(
    own: list[FileSection], master: list[FileSection], kept: Collection[str]
) -> list[FileSection]:
    """All sections of the result. Of topics the master's order holds: the first pattern that fits counts."""
    mine, theirs = _topics(own), _topics(master)
    staying = [name for name in mine if name in theirs]
    for name in staying:
        _edit(mine[name], theirs[name], OWN_TOPIC_KEYS, kept)
    for name, sections in theirs.items():
        if name not in mine:
            mine[name] = [_as_new(section) for section in sections]
    rest = [section for section in own if section.name not in mine or section.name in staying]
    is_in_order = [name for name in theirs if name in staying] == staying
    if is_in_order and len(staying) == len(theirs):
        return rest
    is_whole = all(len(mine[name]) == 1 for name in staying)
    if is_in_order and is_whole and staying:
        return _insert(rest, mine, list(theirs), set(staying))
    others = [section for section in own if not section.is_topic]
    place = next((number for number, section in enumerate(own) if section.is_topic), len(own))
    return [*others[:place], *(section for name in theirs for section in mine[name]), *others[place:]]


def _topics(sections: list[FileSection]) -> dict[str, list[FileSection]]:
    found: dict[str, list[FileSection]] = {}
    for section in sections:
        if section.name is not None and section.is_topic:
            found.setdefault(section.name, []).append(section)
    return found


def _as_new(section: FileSection) -> FileSection:
    """A topic that is new to the slave: with its comments, without what is the slave's own."""
    pieces = [piece for piece in section.pieces if piece.key not in OWN_TOPIC_KEYS]
    while pieces[-1].is_blank:
        pieces.pop()
    return FileSection(section.name, pieces, is_new=True)


def _insert(
    rest: list[FileSection], mine: dict[str, list[FileSection]], order: list[str], staying: set[str]
) -> list[FileSection]:
    """Put each new topic behind the one it follows at the master, those in front of all before the first."""
    result: list[FileSection] = []
    waiting = list(order)
    for section in rest:
        if section.name in staying:
            while waiting[0] != section.name:
                result += mine[waiting.pop(0)]
            waiting.pop(0)
            result.append(section)
            while waiting and waiting[0] not in staying:
                result += mine[waiting.pop(0)]
        else:
            result.append(section)
    return result


def _without_stamp(text: str) -> str:
    found = _STAMP.match(text)
    return text if found is None else text[found.end() :]
