"""What MetaQ's two file formats share: bytes to text, text to logical lines, and backslash escapes.

Lines end as Java's ``readLine`` ends them, and blanks are what Java's ``trim`` removes: Python's own
ideas (a line may end at U+2028, a no-break space is blank) would read the same file differently.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLANKS = "".join(map(chr, range(0x21)))
"""Every character that Java's ``String.trim`` removes."""

EXCERPT_CHARACTERS_MAX = 80

_LINE_END = re.compile(r"\r\n|\r|\n")
_LETTERS = {"\\": "\\", "t": "\t", "n": "\n", "f": "\f", "b": "\b", "r": "\r"}
_HEX4 = re.compile(r"[0-9a-fA-F]{4}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@attrs.frozen
class LogicalLine:
    """A line as the parser sees it: continuations joined, comments and blank lines gone."""

    number: int
    """Where it begins in the file, counted from 1."""
    text: str
    is_cut_short: bool = False
    """It ends with a backslash that asks for a next line, and the file has none."""
    last: int = attrs.field(default=0, eq=False)
    """The line of the file it ends with."""


@attrs.define
class Problems:
    """What is wrong with one file, gathered so that all of it is said at once."""

    source: str
    """The file, as it is named in front of every problem."""
    _found: list[tuple[float, str]] = attrs.field(factory=list, init=False)

    def add(self, line: int | None, where: str, text: str) -> None:
        """Note one problem; `where` is ``[section] key`` or the part of it that is known."""
        place = self.source if line is None else f"{self.source}:{line}"
        place = f"{place}: {_printable(where)}" if where else place
        self._found.append((float("inf") if line is None else line, f"{place}: {text}"))

    def add_all(self, line: int | None, where: str, error: ConfigError) -> None:
        """Note the problems of a value, which does not know where it stood."""
        for text in error.problems:
            self.add(line, where, text)

    def raise_if_any(self) -> None:
        """Raise ConfigError with every problem in the order of the file, if there is one."""
        if self._found:
            raise ConfigError(self.texts)

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them, in the order of the file."""
        return tuple(text for _, text in sorted(self._found, key=lambda found: found[0]))


def wrong(problem: str) -> ConfigError:
    """The error of a value with this one problem."""
    return ConfigError((problem,))


def excerpt(text: str) -> str:
    """The text in quotes, cut to a length that a terminal line can bear."""
    shown = text if len(text) <= EXCERPT_CHARACTERS_MAX else text[:EXCERPT_CHARACTERS_MAX] + "…"
    return f"'{_printable(shown)}'"


def _printable(text: str) -> str:
    """The text with a mark for each character that could upset a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


def decode(data: bytes, problems: Problems) -> str:
    """The text of a file: UTF-8, with or without its mark, else GBK as MetaQ wrote it.

    Raises ConfigError if it is neither: there is nothing to look at then.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(_LINE_END.findall(data[: error.start].decode("latin-1"))) + 1
    try:
        return data.decode("gbk")
    except UnicodeDecodeError:
        problems.add(line, "", "is neither UTF-8 nor GBK text; save the file as UTF-8")
        problems.raise_if_any()
        raise


def logical_lines(text: str, *, comment_marks: str, right_blanks: str) -> Iterator[LogicalLine]:
    """Join lines that end with an odd number of backslashes to their next, and leave out comments.

    Within a joined line, a comment mark is text. `right_blanks` are removed from the end of each line
    before its backslashes are counted.
    """
    joined: list[str] = []
    first = 0
    for number, raw in enumerate(_LINE_END.split(text), start=1):
        line = raw.lstrip(BLANKS).rstrip(right_blanks)
        if not line or (not joined and line[0] in comment_marks):
            continue
        first = first if joined else number
        if (len(line) - len(line.rstrip("\\"))) % 2:
            joined.append(line[:-1])
            continue
        yield LogicalLine(first, "".join(joined) + line, last=number)
        joined.clear()
    if joined:
        yield LogicalLine(first, "".join(joined), is_cut_short=True, last=number)


def escape(text: str, *, also: str = "") -> str:
    """What :func:`unescape` makes `text` of again; characters of `also` are escaped too."""
    letters = {character: letter for letter, character in _LETTERS.items()}
    return "".join(
        f"\\{letters[character]}"
        if character in letters
        else f"\\u{ord(character):04x}"
        if character < " " or character in also
        else character
        for character in text
    )


def unescape(text: str, *, lenient: bool) -> str:
    r"""Replace backslash escapes: ``\\ \t \n \f \b \r \uXXXX``; before punctuation the backslash goes.

    Before any other letter or digit MetaQ dropped the backslash without a word, which turns the path
    ``C:\data`` into ``C:data``. Here that raises ConfigError, unless lenient.
    """
    if "\\" not in text:
        return text
    parts: list[str] = []
    position = 0
    while (found := text.find("\\", position)) >= 0:
        parts.append(text[position:found])
        letter = text[found + 1 : found + 2]
        position = found + 2
        if letter in _LETTERS:
            parts.append(_LETTERS[letter])
        elif letter == "u":
            digits = _HEX4.match(text, position)
            if digits is None:
                raise wrong("\\u is not followed by four hexadecimal digits; write \\\\u for a backslash")
            parts.append(chr(int(digits[0], 16)))
            position += 4
        elif not letter:
            raise wrong("a single backslash ends the text; write two for a backslash")
        elif letter.isalnum() and not lenient:
            raise wrong(f"\\{letter} is no escape; write \\\\{letter} for a backslash")
        else:
            parts.append(letter)
    parts.append(text[position:])
    return _join_surrogates("".join(parts))


def _join_surrogates(text: str) -> str:
    """Java writes a character beyond U+FFFF as two escapes; put it together again."""
    if not _SURROGATE.search(text):
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise wrong("a \\u escape gives half a character; write both halves") from None
