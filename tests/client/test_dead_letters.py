"""What is said of a dead letter survives the way through a topic."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.client.dead_letters import DeadLetter

LETTERS = st.builds(
    DeadLetter,
    st.text(),
    st.text(),
    st.text(),
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(1, 1000),
    st.text(),
    st.none() | st.text(),
)


@given(LETTERS)
def test_there_and_back(letter: DeadLetter) -> None:
    attribute = letter.encode()
    assert attribute.isascii()
    assert DeadLetter.parse(attribute) == letter


@given(st.none() | st.text() | st.recursive(st.integers() | st.text(), st.lists).map(repr))
def test_other_attributes_are_no_dead_letters(attribute: str | None) -> None:
    assert DeadLetter.parse(attribute) is None


@pytest.mark.parametrize(
    "attribute",
    [
        "[]",
        "null",
        "{}",
        '{"metaserver":"dead-letter"}',
        '{"metaserver":"dead-letter","group":"g"}',
        '{"metaserver":"other"}',
        "[" * 100_000,
    ],
)
def test_what_only_looks_like_one_is_none(attribute: str) -> None:
    assert DeadLetter.parse(attribute) is None


def test_members_of_later_versions_make_it_none_rather_than_wrong() -> None:
    letter = DeadLetter("g", "t", "0-0", 1, 2, 3, "why", None)
    assert DeadLetter.parse(letter.encode().replace('"group"', '"later":1,"group"')) is None
    assert attrs.asdict(letter)["attempts"] == 3
