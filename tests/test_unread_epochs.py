"""Whether a stored offset is of a log, and which of its epochs a group has read nothing of."""

from __future__ import annotations

import pytest

from metaserver.epochs import EpochChain
from metaserver.message import encode_record
from metaserver.unread_epochs import UnreadEpochs

SIZE = 50
CHAIN = EpochChain.parse("".join(f"{1 + n} aa {begin * SIZE}\n" for n, begin in enumerate((0, 2, 4, 6))))
"""Each two records long; the last has what lies behind."""
IN_ORDER = (1, 2, 10, 11, 20, 21, 30, 31)


def log_of(ids: tuple[int, ...], payload_size: int = SIZE - 20) -> bytes:
    return b"".join(encode_record(b"x" * payload_size, message_id) for message_id in ids)


def search(
    log: bytes,
    offset: int,
    message_id: int | None,
    chain: EpochChain = CHAIN,
    *,
    start: int = 0,
    piece: int = 1 << 30,
) -> tuple[int | None, list[tuple[int, int]]]:
    """What is found, and what was asked for that, of a broker that gives a piece at a time."""
    unread, asked = UnreadEpochs(chain, offset, message_id), []
    while unread.asked is not None:
        at, size = unread.asked.offset, unread.asked.size
        asked.append((at, size))
        if at < start:
            unread.answer_gone(start)
        elif at >= len(log):
            unread.answer_none()
        else:
            unread.answer(log[at : at + min(size, piece)])
    return unread.found, asked


def begin_of(ids: tuple[int, ...], records: int, message_id: int | None) -> int | None:
    """Where a group goes on that has stored that id behind so many records, in records."""
    found, _ = search(log_of(ids), records * SIZE, message_id)
    assert found is None or found % SIZE == 0
    return None if found is None else found // SIZE


def test_where_the_stored_message_ends_nothing_else_is_asked() -> None:
    assert search(log_of(IN_ORDER), 8 * SIZE, 31) == (None, [(0, 8 * SIZE)])


def test_a_message_that_was_committed_after_a_later_start_was_read() -> None:
    assert begin_of((1, 2, 10, 11, 20, 21, 30, 5), 8, 5) is None


def test_an_epoch_that_begins_with_an_early_id_is_read_all_the_same() -> None:
    assert begin_of((1, 2, 10, 11, 20, 21, 5, 31), 8, 25) == 6


@pytest.mark.parametrize(
    ("records", "message_id", "found"),
    [
        pytest.param(8, 35, 6, id="later than all here"),
        pytest.param(8, 25, 6, id="as late as the epoch before the newest"),
        pytest.param(8, 15, 4, id="of a log that parted before"),
        pytest.param(8, 5, 2, id="of one that parted long ago"),
        pytest.param(5, 15, 4, id="what begins behind the offset is read anyway"),
        pytest.param(6, 25, 4, id="and what begins there"),
        pytest.param(2, 9, None, id="before any second epoch"),
        pytest.param(8, -1, None, id="not known"),
        pytest.param(8, None, None, id="in the old form"),
    ],
)
def test_an_offset_of_another_log_leads_back_to_where_that_may_have_parted(
    records: int, message_id: int | None, found: int | None
) -> None:
    assert begin_of(IN_ORDER, records, message_id) == found


def test_an_offset_inside_of_a_record_is_another_logs() -> None:
    assert search(log_of(IN_ORDER), 8 * SIZE - 1, 31)[0] == 6 * SIZE


def test_an_offset_behind_the_end_is_another_logs() -> None:
    assert begin_of(IN_ORDER[:6], 8, 21) == 6
    assert begin_of(IN_ORDER[:6], 8, 15) == 4
    assert begin_of(IN_ORDER, 9, 31) == 6


def test_what_cannot_be_read_may_have_been_read() -> None:
    log = log_of(IN_ORDER)
    assert search(log, 8 * SIZE, 25, start=8 * SIZE)[0] is None
    assert search(log, 8 * SIZE, 31, start=7 * SIZE)[0] is None
    assert search(log, 8 * SIZE, 5, start=3 * SIZE)[0] == 4 * SIZE


def test_as_much_is_looked_at_as_the_message_is_long() -> None:
    log = log_of((1, 2, 30), 100_000)
    chain = EpochChain.parse(f"1 aa 0\n2 bb {100_020 * 2}\n")
    end = len(log)
    found, asked = search(log, end, 30, chain, piece=30_000)
    assert found is None
    assert [size for _, size in asked][:5] == [4096, 65536, 35536, 5536, end]
    assert search(log, end, 29, chain)[0] == 200_040


def test_the_id_inside_of_a_payload_is_no_record() -> None:
    chain = EpochChain.parse(f"1 aa 0\n2 bb {SIZE}\n")
    inner = (77).to_bytes(8, "big")
    log = encode_record(b"x" * 30, 1) + encode_record(inner + b"\1" * 22, 5)
    assert search(log, len(log), 77, chain)[0] == SIZE
