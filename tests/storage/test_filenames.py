from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.storage import filenames


@pytest.mark.parametrize(
    ("start_offset", "name"),
    [
        (0, "00000000000000000000.meta"),
        (1024, "00000000000000001024.meta"),
        (2**63 - 1, "09223372036854775807.meta"),
    ],
)
def test_segment_names_have_twenty_digits(start_offset: int, name: str) -> None:
    assert filenames.segment_name(start_offset) == name
    assert filenames.parse_segment_name(name) == start_offset


@pytest.mark.parametrize(
    "name",
    [
        "1024.meta",
        "000000000000000001024.meta",
        "0000000000000000102x.meta",
        "-0000000000000001024.meta",
        "09223372036854775808.meta",
        "\u0660" * 20 + ".meta",
        "00000000000000001024.meta\n",
        ".meta",
        "copy of 00000000000000001024.meta",
    ],
)
def test_other_names_are_no_segments(name: str) -> None:
    assert filenames.parse_segment_name(name) is None


@given(start_offset=st.integers(0, 2**63 - 1), position=st.integers(0, 2**40), repetition=st.integers(0, 3))
def test_nothing_but_segments_ends_like_one(start_offset: int, position: int, repetition: int) -> None:
    segment = filenames.segment_name(start_offset)
    assert filenames.claims_to_be_segment(segment)
    others = [
        filenames.archive_name(segment, compressed=True),
        filenames.archive_name(segment, compressed=False),
        filenames.temporary_name(segment),
        filenames.torn_name(start_offset, position, repetition),
        filenames.CHECKPOINT_NAME,
        filenames.LOCK_NAME,
    ]
    assert not any(filenames.claims_to_be_segment(name) for name in others)


def test_archived_and_torn_names() -> None:
    assert (
        filenames.archive_name("00000000000000001024.meta", compressed=False)
        == "00000000000000001024.meta.arc"
    )
    assert (
        filenames.archive_name("00000000000000001024.meta", compressed=True)
        == "00000000000000001024.meta.zip"
    )
    assert filenames.torn_name(1024, 300, 0) == "00000000000000001024.torn-300"
    assert filenames.torn_name(1024, 300, 2) == "00000000000000001024.torn-300-2"
