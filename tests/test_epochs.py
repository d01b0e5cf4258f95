"""Which epochs of a log a group has read nothing of, by the ids of its records."""

from __future__ import annotations

import pytest

from metaserver.epochs import EpochChain, UnreadEpochs

CHAIN = EpochChain.parse("1 aa 0\n2 bb 100\n3 cc 200\n4 dd 300\n")


def search(offset: int, message_id: int, first_ids: dict[int, int | None]) -> tuple[int | None, list[int]]:
    """What is found, and what was asked for that."""
    found, asked = UnreadEpochs(CHAIN, offset, message_id), []
    while found.asked is not None:
        asked.append(found.asked)
        found.answer(first_ids[found.asked])
    return found.found, asked


FIRST_IDS: dict[int, int | None] = {100: 10, 200: 20, 300: 30}


@pytest.mark.parametrize(
    ("offset", "message_id", "found", "asked"),
    [
        (400, 35, None, [300]),
        (400, 30, None, [300]),
        (400, 25, 300, [300, 200]),
        (400, 15, 200, [300, 200, 100]),
        (400, 5, 100, [300, 200, 100]),
        (250, 15, 200, [200, 100]),
        (300, 25, None, [200]),
        (100, 5, None, []),
        (400, -1, None, []),
    ],
)
def test_an_epoch_that_begins_with_a_later_id_was_not_read(
    offset: int, message_id: int, found: int | None, asked: list[int]
) -> None:
    assert search(offset, message_id, FIRST_IDS) == (found, asked)


def test_an_epoch_without_a_record_was_not_read_and_hides_none_before_it() -> None:
    assert search(400, 15, {**FIRST_IDS, 300: None}) == (200, [300, 200, 100])
    assert search(400, 25, {**FIRST_IDS, 300: None}) == (300, [300, 200])


def test_what_is_gone_may_have_been_read() -> None:
    assert search(400, 5, {**FIRST_IDS, 100: -1}) == (200, [300, 200, 100])
