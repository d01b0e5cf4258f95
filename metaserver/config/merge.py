"""A slave's ``server.ini`` brought to what its master's says: two texts in, one text out.

What concerns topics and the broker's behaviour comes from the master; what belongs to the slave's machine
stays (:data:`OWN_SYSTEM_KEYS`, :data:`OWN_TOPIC_KEYS`, all of [zookeeper], sections that mean nothing). Lines
that need no change stay as they are, with their comments. The merge of its own result changes nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from metaserver.config.ini import ini_lines
from metaserver.config.schema import OUR_KEYS
from metaserver.config.text import BLANKS, Problems, decode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

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

_SYSTEM = "system"
_TOPIC = "topic="
_LINE_END = re.compile(r"(\r\n|\r|\n)")
_STAMP = re.compile(
    r"# Merged from the master's server\.ini with checksum ([0-9]{1,10})\b[^\r\n]*(?:\r\n|\r|\n|\Z)"
)
_BOM = b"\xef\xbb\xbf"


def merge_master(own: str, master: str, *, is_java: bool = False, lenient: bool = False) -> str:
    """The slave's text with the master's topics and behaviour.

    ``is_java``: the master's file cannot have the keys that are ours, so the slave's stay. Raises
    ConfigError where one of the texts cannot be read; whether the result can be used is not checked.
    """
    end = _line_end_of(own)
    mine = _sections(_without_stamp(own), "server.ini", lenient=lenient)
    theirs = _sections(_without_stamp(master), "the master's server.ini", lenient=lenient)
    theirs = [section.with_ends(end) for section in theirs]
    kept = OUR_KEYS if is_java else frozenset[str]()
    _edit(
        [section for section in mine if section.name == _SYSTEM],
        [section for section in theirs if section.name == _SYSTEM],
        OWN_SYSTEM_KEYS,
        kept,
    )
    return _join(_merge_topics(mine, theirs, kept), end)


def stamp(text: str, checksum: int) -> str:
    """The text with a comment in front that says which file of the master it has been merged from."""
    line = f"# Merged from the master's server.ini with checksum {checksum}; see autoSyncMasterConfig."
    return f"{line}{_line_end_of(text)}{_without_stamp(text)}"


def stamped_checksum(text: str) -> int | None:
    """What :func:`stamp` has written; None where it has not."""
    found = _STAMP.match(text)
    return None if found is None else int(found[1])


def origin_checksum(config: ServerConfig) -> int:
    """Of the file of the master that a node's comes from, perhaps through other slaves; else of its own."""
    stamped = stamped_checksum(decode_file(config.source_bytes, str(config.path)))
    return config.checksum if stamped is None else stamped


def decode_file(data: bytes, source: str) -> str:
    """The text of a file, UTF-8 or GBK; raises ConfigError."""
    return decode(data, Problems(source))


def encode_as(text: str, old: bytes) -> bytes:
    """The bytes of a text that takes the place of ``old``: in the same encoding, where that can hold it."""
    try:
        old.decode("utf-8")
    except UnicodeDecodeError:
        try:
            encoded = text.encode("gbk")
        except UnicodeEncodeError:
            return text.encode("utf-8")
        # Bytes that are UTF-8 by accident would be read as such.
        return encoded if decode_file(encoded, "") == text else text.encode("utf-8")
    return (_BOM if old.startswith(_BOM) else b"") + text.encode("utf-8")


@attrs.frozen
class _Piece:
    """Lines of the file that belong together: an entry, a section's head, a comment or a blank line."""

    text: str
    """With its line ends."""
    key: str | None = None
    """Of an entry."""
    value: str = ""
    is_head: bool = False

    @property
    def is_blank(self) -> bool:
        return not self.text.strip(BLANKS)

    @property
    def is_comment(self) -> bool:
        return self.key is None and not self.is_head and not self.is_blank


@attrs.define
class _Section:
    """A section as it stands in the file; a name may have several. The first of a file has no head."""

    name: str | None
    pieces: list[_Piece] = attrs.Factory(list)
    is_new: bool = False
    """It comes from the master."""

    def with_ends(self, end: str) -> _Section:
        """The same with these line ends, also behind the last line."""
        pieces = [
            attrs.evolve(piece, text=_LINE_END.sub(end, piece.text.rstrip("\r\n")) + end)
            for piece in self.pieces
        ]
        return _Section(self.name, pieces)

    @property
    def is_topic(self) -> bool:
        return self.name is not None and self.name.startswith(_TOPIC)

    def end_of_entries(self) -> int:
        """Where one more entry is put: behind the last one, in front of closing comments."""
        return max(
            number for number, piece in enumerate(self.pieces, 1) if piece.is_head or piece.key is not None
        )


def _sections(text: str, source: str, *, lenient: bool) -> list[_Section]:
    """The text, cut into sections; comments right above a head belong to it."""
    problems = Problems(source)
    parts = _LINE_END.split(text)
    lines = [line + end for line, end in zip(parts[::2], [*parts[1::2], ""], strict=True)]
    if not lines[-1]:
        lines.pop()
    sections = [_Section(None)]
    done = 0
    names = set()
    for line in ini_lines(text, problems, lenient=lenient):
        sections[-1].pieces += [_Piece(comment) for comment in lines[done : line.first - 1]]
        content = "".join(lines[line.first - 1 : line.last])
        if line.key is None:
            names.add(line.section)
            sections.append(_Section(line.section, _take_lead(sections[-1].pieces)))
            sections[-1].pieces.append(_Piece(content, is_head=True))
        else:
            sections[-1].pieces.append(_Piece(content, line.key, line.value))
        done = line.last
    sections[-1].pieces += [_Piece(comment) for comment in lines[done:]]
    if _SYSTEM not in names:
        problems.add(None, "[system]", "the section is missing")
    problems.raise_if_any()
    return sections


def _take_lead(pieces: list[_Piece]) -> list[_Piece]:
    start = len(pieces)
    while start and pieces[start - 1].is_comment:
        start -= 1
    lead = pieces[start:]
    del pieces[start:]
    return lead


def _entries(sections: Iterable[_Section]) -> dict[str, _Piece]:
    """What counts: of each key its last entry."""
    return {piece.key: piece for section in sections for piece in section.pieces if piece.key is not None}


def _edit(
    own: list[_Section], master: list[_Section], own_keys: Collection[str], kept: Collection[str]
) -> None:
    """Bring the sections of one name to what the master's say. ``kept`` keys stay where he lacks them."""
    before = _entries(own)
    wanted = {key: piece for key, piece in _entries(master).items() if piece.value and key not in own_keys}
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


def _merge_topics(own: list[_Section], master: list[_Section], kept: Collection[str]) -> list[_Section]:
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


def _topics(sections: list[_Section]) -> dict[str, list[_Section]]:
    found: dict[str, list[_Section]] = {}
    for section in sections:
        if section.name is not None and section.is_topic:
            found.setdefault(section.name, []).append(section)
    return found


def _as_new(section: _Section) -> _Section:
    """A topic that is new to the slave: with its comments, without what is the slave's own."""
    pieces = [piece for piece in section.pieces if piece.key not in OWN_TOPIC_KEYS]
    while pieces[-1].is_blank:
        pieces.pop()
    return _Section(section.name, pieces, is_new=True)


def _insert(
    rest: list[_Section], mine: dict[str, list[_Section]], order: list[str], staying: set[str]
) -> list[_Section]:
    """Put each new topic behind the one it follows at the master, those in front of all before the first."""
    result: list[_Section] = []
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


def _join(sections: list[_Section], end: str) -> str:
    """One text; a line end where one is missing, and a blank line where a section would stick to another."""
    parts: list[str] = []
    is_behind_new = False
    for section in sections:
        needs_blank = section.is_new or is_behind_new
        is_behind_new = section.is_new
        for piece in section.pieces:
            if parts and not parts[-1].endswith(("\r", "\n")):
                parts[-1] += end
            if needs_blank and parts and parts[-1].strip(BLANKS):
                parts.append(end)
            needs_blank = False
            parts.append(piece.text)
    return "".join(parts)


def _line_end_of(text: str) -> str:
    found = _LINE_END.search(text)
    return "\n" if found is None else found[0]


def _without_stamp(text: str) -> str:
    found = _STAMP.match(text)
    return text if found is None else text[found.end() :]
