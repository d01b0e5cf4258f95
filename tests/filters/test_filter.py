"""Conditions: what passes, what cannot be read and where, and that every one means what a plain reading says."""

from __future__ import annotations

import fnmatch
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.errors import FilterError
from metaserver.filters import TEXT_CHARACTERS_MAX, Filter

ORDER = json.dumps(
    {
        "price": 12.5,
        "count": 3,
        "state": "open",
        "vip": True,
        "note": None,
        "who": {"name": "Ann", "a b": 1},
        "tags": ["new", "big"],
    }
).encode()


def passes(text: str, payload: bytes = ORDER, attribute: str | None = "paid") -> bool:
    return Filter.parse(text).accepts(attribute, payload)


@pytest.mark.parametrize(
    "text",
    [
        "attribute = 'paid'",
        "ATTRIBUTE='paid' and SIZE > 10",
        "attribute <> 'open' AND attribute != 'closed'",
        "attribute IN ('new', 'paid')",
        "attribute NOT IN ('new', 'old')",
        "attribute LIKE 'p%'",
        "attribute LIKE '_a_d'",
        "attribute LIKE '%'",
        "attribute NOT LIKE 'P%'",
        "attribute IS NOT NULL",
        "json.note IS NULL AND json.nothing.at.all IS NULL",
        "json.who IS NOT NULL",
        "json.price BETWEEN 12 AND 13",
        "json.price NOT BETWEEN 1 AND 2",
        "json.count = 3.0 AND json.count > -1 AND json.count < 1e3 AND json.count >= .5",
        "json.state >= 'a'",
        "json.vip = TRUE AND json.vip <> FALSE",
        "json.who.name = 'Ann' AND json.who.\"a b\" = 1",
        "json.tags[1] = 'big' AND json.tags[7] IS NULL",
        "NOT json.count = 4",
        "json.count = 1 OR json.count = 2 OR json.count = 3",
        "(json.count = 1 OR TRUE) AND NOT (FALSE)",
        # AND binds more tightly than OR.
        "TRUE OR TRUE AND FALSE",
        "everything",
    ],
)
def test_what_passes(text: str) -> None:
    assert passes(text)


@pytest.mark.parametrize(
    "text",
    [
        "attribute = 'Paid'",
        "size < 10",
        "json.note = 1",
        "NOT json.note = 1",
        "json.nothing <> 1",
        "json.count = '3'",
        "NOT json.count = '3'",
        "json.vip = 1",
        "json.vip > FALSE",
        "json.who = 'Ann'",
        "json.price NOT IN ('a', 1)",
        "json.price LIKE '1%'",
        "json.state LIKE 'o'",
        "json[0] = 1",
        "nothing",
    ],
)
def test_what_does_not(text: str) -> None:
    assert not passes(text)


def test_messages_without_attribute_and_payloads_that_are_no_json() -> None:
    assert not passes("attribute = 'a' OR attribute <> 'a'", attribute=None)
    assert passes("attribute IS NULL", attribute=None)
    for payload in (b"", b"{", b"\xff", b"NaN", b"[" * 100_000, b'{"a": 1' + b" " * 70_000 + b"}"):
        assert passes("json.a IS NULL", payload)
        assert not passes("json.a = 1", payload)
    assert passes("json = 5", b"5")
    assert passes("json[1].x = 'y'", b'[1, {"x": "y"}]')
    assert Filter.parse("size = 3").accepts(None, memoryview(b"abc"))


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", 0, "a field, a 'text', a number"),
        ("attribute", 9, "a comparison is due"),
        ("attribute = ", 11, "a field, a 'text', a number"),
        ("attribute = 'a", 12, "the quote ' is not closed"),
        ("attribute = paid", 12, "paid is no field; there are attribute, size and json.NAME"),
        ("attribute = 'a' attribute", 16, "AND, OR or the end is due"),
        ("attribute = 'a')", 15, "AND, OR or the end is due"),
        ("(attribute = 'a'", 16, ") is due"),
        ("attribute NOT = 'a'", 14, "IN, BETWEEN or LIKE is due"),
        ("attribute IS 'a'", 13, "NULL is due"),
        ("attribute IN ()", 14, "a field, a 'text', a number"),
        ("attribute LIKE 5", 15, "a 'text' is due"),
        ("attribute LIKE 'a!b' ESCAPE '!'", 15, "! stands before %, _ or itself"),
        ("attribute LIKE 'a' ESCAPE 'ab'", 26, "ESCAPE takes one character"),
        ("json. = 1", 6, "the name of a field is due"),
        ("json[x] = 1", 5, "the number of an element is due"),
        ("size = 5x", 7, "a number goes on with what is none"),
        ("size = 1e999", 7, "the number is too large"),
        ("size ; 5", 5, "';' has no meaning here"),
        ("size = __import__('os')", 7, "__import__ is no field"),
        ("(" * 40 + "TRUE" + ")" * 40, 32, "nested deeper than 32"),
        (" OR ".join(["TRUE"] * 65), 512, "more than 64 comparisons"),
        (f"size IN ({','.join('1' * 257)})", 522, "longer than 256"),
        (f"attribute LIKE '{'a' * 257}'", 15, "longer than 256 characters"),
        ("'" + "a" * TEXT_CHARACTERS_MAX + "' = 'a'", TEXT_CHARACTERS_MAX, "longer than 2048 characters"),
    ],
)
def test_what_cannot_be_read(text: str, position: int, reason: str) -> None:
    with pytest.raises(FilterError) as refused:
        Filter.parse(text)
    assert reason in refused.value.reason
    assert refused.value.position == position
    assert f"at character {position + 1} of the filter" in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_an_error(text: str) -> None:
    try:
        position = 0 if Filter.parse(text).accepts("a", b"{}") else 1
    except FilterError as error:
        position = error.position
    assert 0 <= position <= max(1, len(text))


def test_quotes_in_texts_and_names() -> None:
    assert passes("attribute = 'it''s'", attribute="it's")
    assert passes('json."a ""b""" = 1', b'{"a \\"b\\"": 1}')


# LIKE against another implementation.


@given(st.text("ab%_", max_size=8), st.text("ab", max_size=12))
def test_like_is_a_shell_pattern_with_other_signs(pattern: str, text: str) -> None:
    expected = fnmatch.fnmatchcase(text, pattern.replace("%", "*").replace("_", "?"))
    assert passes(f"attribute LIKE '{pattern}'", attribute=text) == expected


def test_like_with_escapes() -> None:
    assert passes("attribute LIKE '50!%%' ESCAPE '!'", attribute="50% off")
    assert not passes("attribute LIKE '50!%%' ESCAPE '!'", attribute="500 off")
    assert passes("attribute LIKE 'a!_!!' ESCAPE '!'", attribute="a_!")


def test_a_hostile_pattern_comes_to_an_end() -> None:
    wanted = Filter.parse("json.x LIKE '" + "%a" * 127 + "b'")
    payload = json.dumps({"x": "a" * 4096}).encode()
    # A backtracking matcher would never be through with it.
    assert not wanted.accepts(None, payload)


# Every condition against a plain reading of it.

LITERALS = st.one_of(
    st.integers(-3, 3), st.sampled_from([0.5, 1.0]), st.booleans(), st.sampled_from(["", "a", "b"])
)
VALUES = st.one_of(LITERALS, st.none())
NAMES = ["attribute", "json.x", "json.y"]


def written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    return f"'{value}'" if isinstance(value, str) else str(value)


OPERANDS = st.one_of(
    st.sampled_from(NAMES).map(lambda name: ("name", name)), LITERALS.map(lambda v: ("value", v))
)
LEAVES = st.one_of(
    st.tuples(st.just("compare"), st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), OPERANDS, OPERANDS),
    st.tuples(st.just("in"), OPERANDS, st.lists(LITERALS, min_size=1, max_size=3)),
    st.tuples(st.just("between"), OPERANDS, OPERANDS, OPERANDS),
    st.tuples(st.just("null"), OPERANDS),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)),
        st.tuples(st.just("not"), inner),
    ),
    max_leaves=6,
)


def as_text(found: Any) -> str:  # noqa: ANN401 - a tree of tuples
    match found:
        case ("name", name):
            return str(name)
        case ("value", value):
            return written(value)
        case ("compare", sign, left, right):
            return f"{as_text(left)} {sign} {as_text(right)}"
        case ("in", left, values):
            return f"{as_text(left)} IN ({', '.join(map(written, values))})"
        case ("between", one, low, high):
            return f"{as_text(one)} BETWEEN {as_text(low)} AND {as_text(high)}"
        case ("null", one):
            return f"{as_text(one)} IS NULL"
        case ("not", one):
            return f"NOT ({as_text(one)})"
        case (word, parts):
            return f" {word.upper()} ".join(f"({as_text(part)})" for part in parts)
    raise AssertionError(found)


def compared(sign: str, left: Any, right: Any) -> bool | None:  # noqa: ANN401
    def kind(value: object) -> str:
        return "number" if type(value) in (int, float) else type(value).__name__

    if left is None or right is None or kind(left) != kind(right):
        return None
    if kind(left) == "bool" and sign not in ("=", "<>"):
        return None
    results: dict[str, bool] = {
        "=": left == right,
        "<>": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }
    return results[sign]


def all_true(parts: list[bool | None]) -> bool | None:
    return False if False in parts else None if None in parts else True


def truth(found: Any, row: dict[str, Any]) -> bool | None:  # noqa: ANN401
    def value(operand: tuple[str, Any]) -> Any:  # noqa: ANN401
        return row[operand[1]] if operand[0] == "name" else operand[1]

    def negated(one: bool | None) -> bool | None:
        return None if one is None else not one

    match found:
        case ("compare", sign, left, right):
            return compared(sign, value(left), value(right))
        case ("in", left, values):
            return negated(all_true([negated(compared("=", value(left), one)) for one in values]))
        case ("between", one, low, high):
            return all_true([compared(">=", value(one), value(low)), compared("<=", value(one), value(high))])
        case ("null", one):
            return value(one) is None
        case ("not", one):
            return negated(truth(one, row))
        case ("and", parts):
            return all_true([truth(part, row) for part in parts])
        case ("or", parts):
            return negated(all_true([negated(truth(part, row)) for part in parts]))
    raise AssertionError(found)


@given(CONDITIONS, st.one_of(st.none(), st.sampled_from(["", "a", "b"])), VALUES, VALUES)
def test_it_means_what_it_says(found: Any, attribute: str | None, x: Any, y: Any) -> None:  # noqa: ANN401
    row = {"attribute": attribute, "json.x": x, "json.y": y}
    expected = truth(found, row) is True
    assert Filter.parse(as_text(found)).accepts(attribute, json.dumps({"x": x, "y": y}).encode()) == expected
