from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.config.text import BLANKS, LogicalLine, Problems, decode, excerpt, logical_lines, unescape
from metaserver.errors import ConfigError


def lines(text: str, *, comment_marks: str = ";#", right_blanks: str = BLANKS) -> list[LogicalLine]:
    return list(logical_lines(text, comment_marks=comment_marks, right_blanks=right_blanks))


def test_lines_end_as_in_java() -> None:
    found = lines("a\nb\r\nc\rd\u2028e\x0bf\x85g")
    assert [(line.number, line.text) for line in found] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
        (4, "d\u2028e\x0bf\x85g"),
    ]


def test_blanks_are_those_of_java() -> None:
    assert lines("\x00\t a\u00a0 \x1f")[0].text == "a\u00a0"


def test_comments_and_blank_lines_keep_the_count() -> None:
    assert lines("; a\n\n  # b\nc ; d") == [LogicalLine(4, "c ; d")]


def test_a_continued_line_has_the_number_of_its_first() -> None:
    assert lines("\na=1\\\n   +2\\\n\n ;3\nb=2") == [LogicalLine(2, "a=1+2;3"), LogicalLine(6, "b=2")]


def test_an_even_number_of_backslashes_continues_nothing() -> None:
    assert lines("a=\\\\\nb") == [LogicalLine(1, "a=\\\\"), LogicalLine(2, "b")]


def test_the_file_ends_within_a_continued_line() -> None:
    assert lines("a=1\\") == [LogicalLine(1, "a=1", is_cut_short=True)]


def test_trailing_blanks_are_removed_before_backslashes_are_counted_only_if_asked() -> None:
    assert lines("a\\ \nb") == [LogicalLine(1, "ab")]
    assert lines("a\\ \nb", right_blanks="") == [LogicalLine(1, "a\\ "), LogicalLine(2, "b")]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("plain", "plain"),
        (r"C:\\data\\log", r"C:\data\log"),
        (r"\t\n\f\b\r", "\t\n\f\b\r"),
        (r"\u0041\u00e9\u4E2D", "Aé中"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\:\=\ \[", ":= ["),
    ],
)
def test_escapes(written: str, meant: str) -> None:
    assert unescape(written, lenient=False) == meant


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (r"C:\data", r"\d is no escape; write \\d"),
        (r"\1", r"\1 is no escape"),
        (r"\u12", "four hexadecimal digits"),
        ("\\u\u0661\u0661\u0661\u0661", "four hexadecimal digits"),
        ("a\\", "single backslash ends"),
        (r"\ud83d", "half a character"),
    ],
)
def test_wrong_escapes(written: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        unescape(written, lenient=False)
    assert problem in str(caught.value)


def test_lenient_drops_a_backslash_as_metaq_does() -> None:
    assert unescape(r"C:\data", lenient=True) == "C:data"


@given(st.text())
def test_doubled_backslashes_survive(text: str) -> None:
    assert unescape(text.replace("\\", "\\\\"), lenient=False) == text


def test_decode_prefers_utf_8_and_falls_back_to_gbk() -> None:
    problems = Problems("f")
    assert decode("key=中".encode(), problems) == "key=中"
    assert decode(b"\xef\xbb\xbfkey", problems) == "key"
    assert decode("# 配置".encode("gbk"), problems) == "# 配置"


def test_decode_names_the_line_of_bytes_that_are_no_text() -> None:
    with pytest.raises(ConfigError) as caught:
        decode(b"a\nb\r\n\xff\xff", Problems("f"))
    assert caught.value.problems == ("f:3: is neither UTF-8 nor GBK text; save the file as UTF-8",)


def test_problems_come_in_the_order_of_the_file_those_without_a_line_last() -> None:
    problems = Problems("f")
    problems.raise_if_any()
    problems.add(None, "[system]", "c")
    problems.add(10, "x", "b")
    problems.add(9, "", "a")
    problems.add_all(10, "y", ConfigError(("d", "e")))
    with pytest.raises(ConfigError) as caught:
        problems.raise_if_any()
    assert caught.value.problems == ("f:9: a", "f:10: x: b", "f:10: y: d", "f:10: y: e", "f: [system]: c")


def test_excerpts_are_short_and_harmless_to_a_terminal() -> None:
    assert excerpt("a" * 100) == "'" + "a" * 80 + "…'"
    assert excerpt("\x1b[31m中") == "'�[31m中'"
