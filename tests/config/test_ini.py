from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.config.ini import parse_ini
from metaserver.config.text import Problems
from metaserver.errors import ConfigError


def parse(text: str, *, lenient: bool = False) -> dict[str, dict[str, tuple[str, int]]]:
    problems = Problems("f")
    sections = parse_ini(text, problems, lenient=lenient)
    problems.raise_if_any()
    return {
        name: {key: (entry.value, entry.line) for key, entry in section.entries.items()}
        for name, section in sections.items()
    }


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.problems


def test_both_separators_the_first_one_counts() -> None:
    assert parse("[s]\na=1\nb : 2\nc=x:y\nd:x=y\ne=")["s"] == {
        "a": ("1", 2),
        "b": ("2", 3),
        "c": ("x:y", 4),
        "d": ("x=y", 5),
        "e": ("", 6),
    }


def test_sections_of_one_name_are_merged_and_the_last_value_counts() -> None:
    found = parse("[s]\na=1\nb=1\n[t]\na=2\n[ s ]\na=3\n")
    assert found == {"s": {"a": ("3", 7), "b": ("1", 3)}, "t": {"a": ("2", 5)}}
    assert list(found) == ["s", "t"]


def test_there_are_no_comments_behind_a_value() -> None:
    assert parse("[s]\na=1 ; one\nb=2 # two")["s"] == {"a": ("1 ; one", 2), "b": ("2 # two", 3)}


def test_escapes_in_names_keys_and_values() -> None:
    assert parse("[\\u0041]\n\\u0062=C:\\\\x\\ty\n") == {"A": {"b": ("C:\\x\ty", 2)}}


def test_a_section_name_may_hold_brackets_and_separators() -> None:
    assert list(parse("[topic=a:b]\n[x[y]]")) == ["topic=a:b", "x[y]"]


def test_every_wrong_line_is_reported() -> None:
    assert problems_of("lost=1\n[open\nx\n[]\n[s]\nnothing\n=1\na=\\q\nb=\\") == (
        "f:1: 'lost=1' stands before the first section; begin with [system]",
        "f:2: '[open' has no closing bracket; write [NAME] and nothing else",
        "f:3: 'x' is no key=value line; a comment begins with ; or #",
        "f:4: the section has no name; write [NAME]",
        "f:6: [s]: 'nothing' is no key=value line; a comment begins with ; or #",
        "f:7: [s]: '=1' has no key before its =",
        "f:8: [s] a: \\q is no escape; write \\\\q for a backslash",
        "f:9: the file ends within a line that a backslash continues",
    )


def test_a_section_line_takes_nothing_behind_its_bracket() -> None:
    assert "no closing bracket" in problems_of("[s] ; comment")[0]


def test_a_wrong_escape_in_a_section_name() -> None:
    assert problems_of("[a\\q]\nb=1") == ("f:1: '[a\\q]': \\q is no escape; write \\\\q for a backslash",)


def test_lenient_takes_a_backslash_as_metaq_does() -> None:
    assert parse("[s]\na=C:\\data", lenient=True)["s"]["a"] == ("C:data", 2)


_LINE = st.one_of(
    st.text(st.sampled_from("[]=:;#\\ \tau0"), max_size=12),
    st.sampled_from(["[s]", "a=1", "b:\\", "\\u0041=2"]),
)


@given(st.one_of(st.text(), st.lists(_LINE, max_size=12).map("\n".join)), st.booleans())
def test_any_text_gives_sections_or_problems(text: str, lenient: bool) -> None:
    try:
        found = parse(text, lenient=lenient)
    except ConfigError as error:
        said = error.problems
        assert said
    else:
        assert all(name and all(entries) for name, entries in found.items())


@given(
    st.dictionaries(
        st.from_regex(r"[a-zA-Z.]{1,8}", fullmatch=True),
        st.text(st.characters(exclude_categories=("Cc", "Cs"))).map(str.strip),
        max_size=6,
    )
)
def test_what_is_written_is_read(entries: dict[str, str]) -> None:
    lines = [f"{key}={value}".replace("\\", "\\\\") for key, value in entries.items()]
    found = parse("\n".join(["[s]", *lines]))["s"]
    assert {key: value for key, (value, _) in found.items()} == entries
