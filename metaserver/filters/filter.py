"""A condition, compiled: a text in, yes or no for each message out.

::

    condition   = and { OR and }                      and = not { AND not }
    not         = [ NOT ] ( '(' condition ')' | predicate | TRUE | FALSE )
    predicate   = operand comparison operand
                | operand [ NOT ] IN '(' literal { ',' literal } ')'
                | operand [ NOT ] BETWEEN operand AND operand
                | operand [ NOT ] LIKE text [ ESCAPE text ]
                | operand IS [ NOT ] NULL
    comparison  = '=' | '<>' | '!=' | '<' | '<=' | '>' | '>='
    operand     = literal | attribute | size | json { '.' name | '[' number ']' }
    literal     = 'text' | number | TRUE | FALSE

What is not there is NULL: the attribute of a message without one, a field of a payload that is no JSON. As in
SQL a comparison with NULL, or of values of different kinds, is neither true nor false, and only what is true
passes.
"""

from __future__ import annotations

import json
import operator
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import attrs

from metaserver.errors import FilterError
from metaserver.filters.tokens import Token, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT_CHARACTERS_MAX: Final = 2048
DEPTH_MAX: Final = 32
"""Of brackets and NOT."""
PREDICATES_MAX: Final = 64
LIST_MAX: Final = 256
"""Literals of an IN."""
JSON_BYTES_MAX: Final = 64 * 1024
"""A longer payload has no fields: the work for one message is bounded."""
LIKE_CHARACTERS_MAX: Final = 4096
"""A longer text is like nothing; so is the product with the pattern's length."""
PATTERN_CHARACTERS_MAX: Final = 256

_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_RESERVED = ("AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "ESCAPE", "IS", "NULL", "TRUE", "FALSE")
_COMPOSITE: Final = object()
"""An object or array of JSON: it is there, and compares with nothing."""

BUILT_IN: Final = {"everything": "TRUE", "nothing": "FALSE"}
"""Conditions that have a name."""

Truth: TypeAlias = bool | None


class _Message:
    """What is asked about."""

    __slots__ = ("_document", "_is_read", "attribute", "payload")

    def __init__(self, attribute: str | None, payload: bytes | memoryview) -> None:
        self.attribute = attribute
        self.payload = payload
        self._document: Any = None
        self._is_read = False

    def field(self, path: tuple[str | int, ...]) -> Any:  # noqa: ANN401 - whatever JSON holds
        if not self._is_read:
            self._document, self._is_read = _parse_json(self.payload), True
        found = self._document
        for part in path:
            if isinstance(part, str) and isinstance(found, dict):
                found = found.get(part)
            elif isinstance(part, int) and isinstance(found, list) and part < len(found):
                found = found[part]
            else:
                return None
        return _COMPOSITE if isinstance(found, dict | list) else found


_Operand: TypeAlias = "Callable[[_Message], Any]"
_Condition: TypeAlias = "Callable[[_Message], Truth]"


@attrs.frozen
class Filter:
    """Which messages pass. Two with the same text are equal."""

    text: str
    _condition: _Condition = attrs.field(eq=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Filter:
        """The condition, or the built-in one of that name; raises FilterError."""
        condition = BUILT_IN.get(text.strip(), text)
        if len(condition) > TEXT_CHARACTERS_MAX:
            raise FilterError(
                condition, TEXT_CHARACTERS_MAX, f"it is longer than {TEXT_CHARACTERS_MAX} characters"
            )
        return cls(text.strip(), _Parser(condition).parse())

    def accepts(self, attribute: str | None, payload: bytes | memoryview) -> bool:
        """Whether a message passes; never raises."""
        return self._condition(_Message(attribute, payload)) is True

    def __str__(self) -> str:
        """As it would stand in a file."""
        return self.text


@attrs.frozen
class UnknownFilter:
    """The name of a filter that there is not: a class of Java, in a file of MetaQ."""

    name: str

    def __str__(self) -> str:
        """As it stands in the file."""
        return self.name

    @property
    def reason(self) -> str:
        """What is wrong, and what to do."""
        return (
            f"the filter {self.name} is not known; classes of Java are not loaded here: write what it does "
            f"as a condition into a section [filters], {self.name}=CONDITION, or in place of the name"
        )


class _Piece(NamedTuple):
    """Of a LIKE: a stretch without percent sign, so of a fixed length; as a regular expression."""

    pattern: str
    length: int

    def with_one(self, pattern: str) -> _Piece:
        """One character more."""
        return _Piece(self.pattern + pattern, self.length + 1)


class _Parser:
    """Reads from left to right, and builds functions."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(tokens(text))
        self._next = 0
        self._depth = 0
        self._predicates = 0

    def parse(self) -> _Condition:
        condition = self._or()
        if self._token.kind != "end":
            raise self._error("AND, OR or the end is due")
        return condition

    # Conditions.

    def _or(self) -> _Condition:
        parts = [self._and()]
        while self._take_word("OR"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else _any_of(parts)

    def _and(self) -> _Condition:
        parts = [self._not()]
        while self._take_word("AND"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else _all_of(parts)

    def _not(self) -> _Condition:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._error(f"brackets and NOT are nested deeper than {DEPTH_MAX}")
        if self._take_word("NOT"):
            condition = _negated(self._not())
        elif self._take_sign("("):
            condition = self._or()
            self._expect_sign(")")
        else:
            condition = self._predicate()
        self._depth -= 1
        return condition

    def _predicate(self) -> _Condition:
        self._predicates += 1
        if self._predicates > PREDICATES_MAX:
            raise self._error(f"there are more than {PREDICATES_MAX} comparisons")
        constant = self._token if self._token.is_word("TRUE", "FALSE") else None
        left = self._operand()
        if self._take_word("IS"):
            is_negated = self._take_word("NOT")
            self._expect_word("NULL")
            return _null_test(left, is_wanted=not is_negated)
        is_negated = self._take_word("NOT")
        if self._take_word("IN"):
            found = _membership(left, self._list())
        elif self._take_word("BETWEEN"):
            low = self._operand()
            self._expect_word("AND")
            found = _all_of([_comparison(">=", left, low), _comparison("<=", left, self._operand())])
        elif self._take_word("LIKE"):
            found = _likeness(left, self._pattern())
        elif is_negated:
            raise self._error("IN, BETWEEN or LIKE is due")
        elif self._token.is_sign(*_COMPARISONS):
            found = _comparison(self._take().text, left, self._operand())
        elif constant is not None:
            truth = constant.is_word("TRUE")
            return lambda _message: truth
        else:
            raise self._error("a comparison is due: =, <>, <, <=, >, >=, IN, BETWEEN, LIKE or IS NULL")
        return _negated(found) if is_negated else found

    # Operands.

    def _operand(self) -> _Operand:
        token = self._token
        if token.kind == "word" and not token.is_word(*_RESERVED):
            self._take()
            name = token.text.lower()
            if name == "json":
                path = self._path()
                return lambda message: message.field(path)
            if name == "attribute":
                return lambda message: message.attribute
            if name == "size":
                return lambda message: len(message.payload)
            raise FilterError(
                self._text,
                token.position,
                f"{token.text} is no field; there are attribute, size and json.NAME",
            )
        value = self._literal()
        return lambda _message: value

    def _path(self) -> tuple[str | int, ...]:
        parts: list[str | int] = []
        while True:
            if self._take_sign("."):
                token = self._take()
                if token.kind not in ("word", "name"):
                    raise self._error('the name of a field is due, in "quotes" where it has signs', token)
                parts.append(token.text)
            elif self._take_sign("["):
                token = self._take()
                if token.kind != "number" or not token.text.isdecimal():
                    raise self._error("the number of an element is due, from 0", token)
                parts.append(int(token.text))
                self._expect_sign("]")
            else:
                return tuple(parts)

    def _literal(self) -> str | int | float | bool:
        token = self._take()
        if token.kind == "text":
            return token.text
        if token.is_word("TRUE", "FALSE"):
            return token.is_word("TRUE")
        sign = 1
        if token.is_sign("+", "-"):
            sign = -1 if token.text == "-" else 1
            token = self._take()
        if token.kind != "number":
            raise self._error("a field, a 'text', a number, TRUE or FALSE is due", token)
        if token.text.isdecimal():
            return sign * int(token.text)
        number = float(token.text)
        if number in (float("inf"), float("-inf")):
            raise self._error("the number is too large", token)
        return sign * number

    def _list(self) -> list[Any]:
        self._expect_sign("(")
        values: list[Any] = [self._literal()]
        while self._take_sign(","):
            values.append(self._literal())
            if len(values) > LIST_MAX:
                raise self._error(f"the list is longer than {LIST_MAX}")
        self._expect_sign(")")
        return values

    def _pattern(self) -> list[_Piece]:
        token = self._expect_text()
        if len(token.text) > PATTERN_CHARACTERS_MAX:
            raise self._error(f"the pattern is longer than {PATTERN_CHARACTERS_MAX} characters", token)
        escape = ""
        if self._take_word("ESCAPE"):
            found = self._expect_text()
            if len(found.text) != 1:
                raise self._error("ESCAPE takes one character", found)
            escape = found.text
        return self._pieces(token, escape)

    def _pieces(self, token: Token, escape: str) -> list[_Piece]:
        """What stands between the percent signs."""
        pieces = [_Piece("", 0)]
        characters = iter(token.text)
        for character in characters:
            if character == escape:
                literal = next(characters, None)
                if literal is None or literal not in ("%", "_", escape):
                    raise self._error(f"{escape} stands before %, _ or itself", token)
                pieces[-1] = pieces[-1].with_one(re.escape(literal))
            elif character == "%":
                pieces.append(_Piece("", 0))
            else:
                pieces[-1] = pieces[-1].with_one("." if character == "_" else re.escape(character))
        return pieces

    # Tokens.

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._token
        if token.kind != "end":
            self._next += 1
        return token

    def _take_word(self, word: str) -> bool:
        is_there = self._token.is_word(word)
        self._next += is_there
        return is_there

    def _take_sign(self, sign: str) -> bool:
        is_there = self._token.is_sign(sign)
        self._next += is_there
        return is_there

    def _expect_word(self, word: str) -> None:
        if not self._take_word(word):
            raise self._error(f"{word} is due")

    def _expect_sign(self, sign: str) -> None:
        if not self._take_sign(sign):
            raise self._error(f"{sign} is due")

    def _expect_text(self) -> Token:
        token = self._take()
        if token.kind != "text":
            raise self._error("a 'text' is due", token)
        return token

    def _error(self, reason: str, token: Token | None = None) -> FilterError:
        return FilterError(self._text, (token or self._token).position, reason)


def _any_of(parts: list[_Condition]) -> _Condition:
    def condition(message: _Message) -> Truth:
        truth: Truth = False
        for part in parts:
            found = part(message)
            if found:
                return True
            if found is None:
                truth = None
        return truth

    return condition


def _all_of(parts: list[_Condition]) -> _Condition:
    def condition(message: _Message) -> Truth:
        truth: Truth = True
        for part in parts:
            found = part(message)
            if found is False:
                return False
            if found is None:
                truth = None
        return truth

    return condition


def _negated(part: _Condition) -> _Condition:
    def condition(message: _Message) -> Truth:
        truth = part(message)
        return None if truth is None else not truth

    return condition


def _comparison(sign: str, left: _Operand, right: _Operand) -> _Condition:
    compare = _COMPARISONS[sign]
    is_order = sign not in ("=", "<>", "!=")

    def condition(message: _Message) -> Truth:
        one, other = left(message), right(message)
        kind = _kind(one)
        if kind is None or kind is not _kind(other) or (kind is bool and is_order):
            return None
        return compare(one, other)

    return condition


def _membership(left: _Operand, values: list[Any]) -> _Condition:
    kinds = {_kind(value) for value in values}
    wanted = {(_kind(value), value) for value in values}

    def condition(message: _Message) -> Truth:
        value = left(message)
        kind = _kind(value)
        if kind is None:
            return None
        if (kind, value) in wanted:
            return True
        # As in SQL it is a chain of comparisons: one that means nothing leaves the rest undecided.
        return False if kinds == {kind} else None

    return condition


def _likeness(left: _Operand, pieces: list[_Piece]) -> _Condition:
    others = pieces[1:]
    patterns = [re.compile(piece.pattern, re.DOTALL) for piece in pieces]

    def condition(message: _Message) -> Truth:
        text = left(message)
        if not isinstance(text, str):
            return None
        if len(text) > LIKE_CHARACTERS_MAX:
            return False
        if not others:
            return patterns[0].fullmatch(text) is not None
        found = patterns[0].match(text)
        # The first place is as good as any later one: what follows a percent sign may begin anywhere.
        for pattern in patterns[1:-1]:
            found = None if found is None else pattern.search(text, found.end())
        if found is None:
            return False
        start = len(text) - others[-1].length
        return start >= found.end() and patterns[-1].match(text, start) is not None

    return condition


def _null_test(left: _Operand, *, is_wanted: bool) -> _Condition:
    return lambda message: (left(message) is None) is is_wanted


def _kind(value: object) -> type | None:
    """What it may be compared with; None: with nothing."""
    if isinstance(value, bool):
        return bool
    if isinstance(value, int | float):
        return float
    return str if isinstance(value, str) else None


def _parse_json(payload: bytes | memoryview) -> Any:  # noqa: ANN401 - whatever JSON holds
    """None for what is no JSON, or too long."""
    if len(payload) > JSON_BYTES_MAX:
        return None
    try:
        return json.loads(bytes(payload), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
