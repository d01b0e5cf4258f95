"""Numbers and booleans of ``server.ini``, which MetaQ evaluates as expressions.

``64*1024*1024``, ``0x10``, ``010`` (ten: no octal), ``(1 + 2) << 3``, ``true``, ``!false``, ``2 > 1``.
The operators are those of Java, with its division (towards zero) and precedence. Values have 64 bits; a
result that does not fit is an error and never wraps.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING

import attrs

from metaserver.config.text import excerpt, wrong
from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

CHARACTERS_MAX = 500
DEPTH_MAX = 32
"""Parentheses and signs within one another; the parser calls itself for each."""

LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1

_TOKEN = re.compile(
    r"\s*(?:(?P<fraction>\d+\.\d*|\.\d+)|(?P<hexadecimal>0[xX][0-9a-fA-F]+\b)|(?P<decimal>\d+\b)"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<operator>\|\||&&|==|!=|<=|>=|<<|>>|[-+*/%&|^~!<>()]))",
    re.ASCII,
)

_PRECEDENCE = {
    name: level
    for level, names in enumerate(
        (
            ("||",),
            ("&&",),
            ("|",),
            ("^",),
            ("&",),
            ("==", "!="),
            ("<", "<=", ">", ">="),
            ("<<", ">>"),
            ("+", "-"),
            ("*", "/", "%"),
        )
    )
    for name in names
}


def _divide(dividend: int, divisor: int) -> int:
    if divisor == 0:
        raise wrong("divides by zero")
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) == (divisor < 0) else -quotient


def _remainder(dividend: int, divisor: int) -> int:
    return dividend - divisor * _divide(dividend, divisor)


def _shift(shifted: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def checked(value: int, places: int) -> int:
        if not 0 <= places < 64:
            raise wrong(f"shifts by {places}; 0 to 63 places are possible")
        return shifted(value, places)

    return checked


_ON_NUMBERS: dict[str, Callable[[int, int], int | bool]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "%": _remainder,
    "<<": _shift(operator.lshift),
    ">>": _shift(operator.rshift),
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

_ON_BOOLEANS: dict[str, Callable[[bool, bool], bool]] = {
    "&&": lambda left, right: left and right,
    "||": lambda left, right: left or right,
    "==": operator.eq,
    "!=": operator.ne,
}


def evaluate(text: str) -> int | bool:
    """The value of the expression. Raises ConfigError that says what is wrong with it."""
    if len(text) > CHARACTERS_MAX:
        raise wrong(f"is longer than an expression may be ({CHARACTERS_MAX} characters)")
    try:
        return _Parser(_tokens(text)).whole()
    except ConfigError as error:
        raise ConfigError(tuple(f"{excerpt(text)} {problem}" for problem in error.problems)) from None


@attrs.frozen
class _Token:
    kind: str
    text: str


_END = _Token("end", "the end")


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    position = 0
    while text[position:].strip():
        token = _TOKEN.match(text, position)
        if token is None:
            rest = text[position:].lstrip()
            raise wrong(f"is no number or boolean: {excerpt(rest[:12])} is not understood")
        kind = str(token.lastgroup)
        if kind == "fraction":
            raise wrong(f"has the fraction {token[kind]}; write a whole number")
        found.append(_Token(kind, token[kind]))
        position = token.end()
    return found


@attrs.define
class _Parser:
    """Precedence climbing over the tokens."""

    _rest: list[_Token]
    _next: int = 0
    _depth: int = 0

    def whole(self) -> int | bool:
        value = self._binary(0)
        if self._peek() is not _END:
            raise wrong(f"is no number or boolean: {excerpt(self._peek().text)} comes unexpectedly")
        return value

    def _peek(self) -> _Token:
        return self._rest[self._next] if self._next < len(self._rest) else _END

    def _take(self) -> _Token:
        token = self._peek()
        self._next += 1
        return token

    def _binary(self, level_min: int) -> int | bool:
        left = self._operand()
        while (level := _PRECEDENCE.get(self._peek().text, -1)) >= level_min:
            name = self._take().text
            left = _apply(name, left, self._binary(level + 1))
        return left

    def _operand(self) -> int | bool:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise wrong(f"is nested deeper than {DEPTH_MAX} levels")
        value = self._deeper(self._take())
        self._depth -= 1
        return value

    def _deeper(self, token: _Token) -> int | bool:
        if token.kind == "decimal":
            return _checked(int(token.text))
        if token.kind == "hexadecimal":
            return _checked(int(token.text, 16))
        if token.kind == "word":
            return _word(token.text)
        if token.text == "(":
            value = self._binary(0)
            if self._take().text != ")":
                raise wrong("has an opening parenthesis without its closing one")
            return value
        if token.text in {"-", "+", "~", "!"} and token.kind == "operator":
            return _sign(token.text, self._operand())
        place = "its end" if token is _END else excerpt(token.text)
        raise wrong(f"lacks a number or boolean before {place}")


def _word(word: str) -> bool:
    if word in {"true", "false"}:
        return word == "true"
    meant = f"write {word.lower()}" if word.lower() in {"true", "false"} else "only true and false are known"
    raise wrong(f"has the unknown word {excerpt(word)}; {meant}")


def _sign(name: str, value: int | bool) -> int | bool:  # noqa: FBT001 - values, not switches
    if name == "!":
        if not isinstance(value, bool):
            raise wrong("uses ! on a number")
        return not value
    if isinstance(value, bool):
        raise wrong(f"uses {name} on a boolean")
    return _checked({"-": -value, "+": value, "~": ~value}[name])


def _apply(name: str, left: int | bool, right: int | bool) -> int | bool:  # noqa: FBT001 - values, not switches
    if isinstance(left, bool) and isinstance(right, bool) and name in _ON_BOOLEANS:
        return _ON_BOOLEANS[name](left, right)
    if isinstance(left, bool) or isinstance(right, bool) or name not in _ON_NUMBERS:
        kinds = " and ".join(
            "a boolean" if isinstance(value, bool) else "a number" for value in (left, right)
        )
        raise wrong(f"uses {name} on {kinds}")
    return _checked(_ON_NUMBERS[name](left, right))


def _checked(value: int | bool) -> int | bool:  # noqa: FBT001 - values, not switches
    if not LONG_MIN <= value <= LONG_MAX:
        raise wrong(f"reaches {value}, which 64 bits cannot hold")
    return value
