"""The lines of a ``server.ini`` as they stand in the file, so that a part can change and the rest stays."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from metaserver.config.ini import ini_lines
from metaserver.config.text import BLANKS, Problems, decode

if TYPE_CHECKING:
    from collections.abc import Iterable

SYSTEM = "system"
TOPIC = "topic="
_LINE_END = re.compile(r"(\r\n|\r|\n)")
_BOM = b"\xef\xbb\xbf"


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
class Piece:
    """Lines of the file that belong together: an entry, a section's head, a comment or a blank line."""

    text: str
    """With its line ends."""
    key: str | None = None
    """Of an entry."""
    value: str = ""
    is_head: bool = False

    @property
    def is_blank(self) -> bool:
        """Whether it holds nothing."""
        return not self.text.strip(BLANKS)

    @property
    def is_comment(self) -> bool:
        """Whether it is for people only."""
        return self.key is None and not self.is_head and not self.is_blank


@attrs.define
class FileSection:
    """A section as it stands in the file; a name may have several. The first of a file has no head."""

    name: str | None
    pieces: list[Piece] = attrs.Factory(list)
    is_new: bool = False
    """It was not in the file."""

    def with_ends(self, end: str) -> FileSection:
        """The same with these line ends, also behind the last line."""
        pieces = [
            attrs.evolve(piece, text=_LINE_END.sub(end, piece.text.rstrip("\r\n")) + end)
            for piece in self.pieces
        ]
        return FileSection(self.name, pieces)

    @property
    def is_topic(self) -> bool:
        """Whether it is a topic's."""
        return self.name is not None and self.name.startswith(TOPIC)

    def end_of_entries(self) -> int:
        """Where one more entry is put: behind the last one, in front of closing comments."""
        return max(
            number for number, piece in enumerate(self.pieces, 1) if piece.is_head or piece.key is not None
        )


def cut_sections(text: str, source: str, *, lenient: bool) -> list[FileSection]:
    """The text, cut into sections; comments right above a head belong to it. Raises ConfigError."""
    problems = Problems(source)
    parts = _LINE_END.split(text)
    lines = [line + end for line, end in zip(parts[::2], [*parts[1::2], ""], strict=True)]
    if not lines[-1]:
        lines.pop()
    sections = [FileSection(None)]
    done = 0
    names = set()
    for line in ini_lines(text, problems, lenient=lenient):
        sections[-1].pieces += [Piece(comment) for comment in lines[done : line.first - 1]]
        content = "".join(lines[line.first - 1 : line.last])
        if line.key is None:
            names.add(line.section)
            sections.append(FileSection(line.section, _take_lead(sections[-1].pieces)))
            sections[-1].pieces.append(Piece(content, is_head=True))
        else:
            sections[-1].pieces.append(Piece(content, line.key, line.value))
        done = line.last
    sections[-1].pieces += [Piece(comment) for comment in lines[done:]]
    if SYSTEM not in names:
        problems.add(None, "[system]", "the section is missing")
    problems.raise_if_any()
    return sections


def counting_entries(sections: Iterable[FileSection]) -> dict[str, Piece]:
    """What counts: of each key its last entry."""
    return {piece.key: piece for section in sections for piece in section.pieces if piece.key is not None}


def _take_lead(pieces: list[Piece]) -> list[Piece]:
    start = len(pieces)
    while start and pieces[start - 1].is_comment:
        start -= 1
    lead = pieces[start:]
    del pieces[start:]
    return lead


def join_sections(sections: list[FileSection], end: str) -> str:
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


def line_end_of(text: str) -> str:
    """Of its first line; a line feed where there is none."""
    found = _LINE_END.search(text)
    return "\n" if found is None else found[0]
