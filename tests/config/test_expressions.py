from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from metaserver.config.expressions import CHARACTERS_MAX, DEPTH_MAX, LONG_MAX, LONG_MIN, evaluate
from metaserver.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8123", 8123),
        ("1024*1024", 1048576),
        ("1024*1024*1024*2", 2147483648),
        ("0x10", 16),
        ("0XfF", 255),
        ("010", 10),
        ("-1", -1),
        ("- -1", 1),
        ("+5", 5),
        ("~0", -1),
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("10-4-3", 3),
        ("7/2", 3),
        ("-7/2", -3),
        ("-7%3", -1),
        ("7%-3", 1),
        ("1<<10", 1024),
        ("-8>>1", -4),
        ("1+1<<2", 8),
        ("6&3|8^1", 11),
        ("9223372036854775807", LONG_MAX),
        ("-9223372036854775807-1", LONG_MIN),
        ("true", True),
        ("false", False),
        ("!false", True),
        ("2>1&&3>=3", True),
        ("1==2||2!=2", False),
        ("true==false", False),
        ("1<2==true", True),
        ("3 <= 2", False),
        ("\t 1 +\n2 ", 3),
    ],
)
def test_values(text: str, value: int | bool) -> None:
    found = evaluate(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1.5", "has the fraction 1.5"),
        (".5", "has the fraction .5"),
        ("TRUE", "unknown word 'TRUE'; write true"),
        ("yes", "unknown word 'yes'; only true and false"),
        ("8123x", "'8123x' is not understood"),
        ("1 2", "'2' comes unexpectedly"),
        ("1)", "')' comes unexpectedly"),
        ("", "before its end"),
        ("1+", "before its end"),
        ("*1", "before '*'"),
        ("(1", "opening parenthesis"),
        ("1/0", "divides by zero"),
        ("1%0", "divides by zero"),
        ("1<<64", "shifts by 64"),
        ("1<<-1", "shifts by -1"),
        ("9223372036854775807+1", "reaches 9223372036854775808"),
        ("99999999999999999999", "64 bits"),
        ("true+1", "uses + on a boolean and a number"),
        ("1&&2", "uses && on a number and a number"),
        ("true<false", "uses < on a boolean and a boolean"),
        ("!1", "uses ! on a number"),
        ("-true", "uses - on a boolean"),
        ("\u0661", "is not understood"),
        ("1=1", "is not understood"),
        ("0x", "is not understood"),
        ("1_000", "is not understood"),
    ],
)
def test_problems(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate(text)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"'{text}'")


def test_length_limit() -> None:
    assert evaluate("1" + "+1" * ((CHARACTERS_MAX - 1) // 2)) == (CHARACTERS_MAX + 1) // 2
    with pytest.raises(ConfigError, match="longer than"):
        evaluate("1" + " " * CHARACTERS_MAX)


def test_depth_limit() -> None:
    inner = DEPTH_MAX - 1
    assert evaluate("(" * inner + "1" + ")" * inner) == 1
    with pytest.raises(ConfigError, match="nested deeper"):
        evaluate("(" * DEPTH_MAX + "1" + ")" * DEPTH_MAX)
    with pytest.raises(ConfigError, match="nested deeper"):
        evaluate("-" * 400 + "1")


_TREE = st.recursive(
    st.integers(0, 1000).map(str),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "&", "|", "^"]), inner).map(
        lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
    ),
    max_leaves=12,
)


@given(_TREE)
def test_agrees_with_python_where_both_mean_the_same(text: str) -> None:
    expected = eval(text)
    assume(LONG_MIN <= expected <= LONG_MAX)
    assert evaluate(text) == expected


@given(
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["+", "-", "*", "<<", "&", "^", "|"])), max_size=6)
)
def test_precedence_without_parentheses_is_that_of_python(parts: list[tuple[int, str]]) -> None:
    text = (
        "".join(f"{number % 8 if operator == '<<' else number}{operator}" for number, operator in parts) + "3"
    )
    try:
        found = evaluate(text)
    except ConfigError:
        return
    assert found == eval(text)


@given(st.one_of(st.text(), st.text(st.sampled_from("0123456789abxtrue()+-*/%<>=!&|^~ "))))
def test_any_text_gives_a_value_or_a_problem(text: str) -> None:
    try:
        value = evaluate(text)
    except ConfigError as error:
        said = error.problems
        assert len(said) == 1
    else:
        assert LONG_MIN <= value <= LONG_MAX
