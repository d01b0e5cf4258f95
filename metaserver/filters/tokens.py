"""The words of a condition, each with its position."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from metaserver.errors import FilterError

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind: TypeAlias = Literal["word", "name", "text", "number", "sign", "end"]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.]))
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | '(?P<text>(?:[^']|'')*)'
      | "(?P<name>(?:[^"]|"")+)"
      | (?P<sign><>|!=|<=|>=|[=<>(),.\[\]+-])
    )""",
    re.VERBOSE,
)


@attrs.frozen
class Token:
    """One of them."""

    kind: Kind
    text: str
    """Of a text or a quoted name what is between the quotes."""
    position: int
    """Where it begins, counted from 0."""

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these, in any case of letters."""
        return self.kind == "word" and self.text.upper() in words

    def is_sign(self, *signs: str) -> bool:
        """Whether it is one of these."""
        return self.kind == "sign" and self.text in signs


def tokens(text: str) -> Iterator[Token]:
    """All of them, and one that stands for the end; raises FilterError."""
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            start = position + len(text[position:end]) - len(text[position:end].lstrip())
            raise FilterError(text, start, _complaint(text[start]))
        kind: Kind = found.lastgroup  # type: ignore[assignment]  # the groups of the pattern
        content = found[kind]
        start = found.start(kind)
        if kind in ("text", "name"):
            quote = "'" if kind == "text" else '"'
            content, start = content.replace(quote * 2, quote), start - 1
        yield Token(kind, content, start)
        position = found.end()
    yield Token("end", "", end)


def _complaint(character: str) -> str:
    if character in "'\"":
        return f"the quote {character} is not closed"
    if character.isdigit():
        return "a number goes on with what is none"
    return f"{character!r} has no meaning here"
