from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.config.properties import parse_properties
from metaserver.config.text import Problems
from metaserver.errors import ConfigError


def parse(text: str, *, lenient: bool = False) -> dict[str, tuple[str, int]]:
    problems = Problems("f")
    entries = parse_properties(text, problems, lenient=lenient)
    problems.raise_if_any()
    return {key: (entry.value, entry.line) for key, entry in entries.items()}


def test_the_three_separators() -> None:
    assert parse("a=1\nb: 2\nc 3\nd\t=\t4\ne\nf==x\ng : = y") == {
        "a": ("1", 1),
        "b": ("2", 2),
        "c": ("3", 3),
        "d": ("4", 4),
        "e": ("", 5),
        "f": ("=x", 6),
        "g": ("= y", 7),
    }


def test_comments_continuations_and_the_last_value() -> None:
    assert parse("# a=0\n! b=0\n;c=1\na=1,\\\n   2\na=3\\\n4") == {";c": ("1", 3), "a": ("34", 6)}


def test_escaped_separators_belong_to_the_key() -> None:
    assert parse("a\\=b\\:c\\ d=1") == {"a=b:c d": ("1", 1)}


def test_escapes_in_values() -> None:
    assert parse("a=C:\\\\x\\u0041 ") == {"a": ("C:\\xA", 1)}


def test_every_wrong_line_is_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("=1\na=\\q\nok=1\nb=\\")
    assert caught.value.problems == (
        "f:1: the line has no key; write key=value",
        "f:2: a: \\q is no escape; write \\\\q for a backslash",
        "f:4: the file ends within a line that a backslash continues",
    )


@given(st.one_of(st.text(), st.text(st.sampled_from("=: \t\n\\#!au"))), st.booleans())
def test_any_text_gives_entries_or_problems(text: str, lenient: bool) -> None:
    try:
        found = parse(text, lenient=lenient)
    except ConfigError as error:
        said = error.problems
        assert said
    else:
        assert all(found)
