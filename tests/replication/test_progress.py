"""Every state of a replica, every event in it, and what comes of it; and random transcripts against a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.message import encode_record
from metaserver.replication.progress import (
    CHECKED_BYTES,
    FETCH_BYTES,
    FETCH_BYTES_MAX,
    LOOKS_BEFORE_RETRY,
    Append,
    Compare,
    Fetch,
    Locate,
    ReplicaProgress,
    ReplicaState,
    Skip,
    Stop,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.replication.progress import Action

PROBING, CHECKING, TAILING = ReplicaState.PROBING, ReplicaState.CHECKING, ReplicaState.TAILING
CAUGHT_UP, STOPPED, SKIPPING = ReplicaState.CAUGHT_UP, ReplicaState.STOPPED, ReplicaState.SKIPPING
SEGMENT_BYTES = 1_000_000
RECORDS = b"".join(encode_record(b"message %d" % number, number) for number in range(1, 6))
LAST_RECORD = encode_record(b"message 5", 5)


def replica(start: int = 0, end: int = 0, segment_start: int | None = None) -> ReplicaProgress:
    return ReplicaProgress(start, end, start if segment_start is None else segment_start, SEGMENT_BYTES)


def checking(end: int = 500) -> ReplicaProgress:
    progress = replica(0, end)
    assert progress.master_range(0, 10_000) == Fetch(0, end)
    assert progress.state is CHECKING
    return progress


def tailing(end: int = 0, master_end: int = 10_000) -> ReplicaProgress:
    progress = replica(end, end)
    assert progress.master_range(0, master_end) == Fetch(end, FETCH_BYTES)
    assert progress.state is TAILING
    return progress


def caught_up(end: int = 0) -> ReplicaProgress:
    progress = replica(end, end)
    assert progress.master_range(0, end) == Fetch(end, FETCH_BYTES)
    assert progress.state is CAUGHT_UP
    return progress


def append_of(action: Action) -> Append:
    assert isinstance(action, Append)
    return action


# Probing: what the master's range means for what is here.


@pytest.mark.parametrize(
    ("local", "master", "state", "action"),
    [
        pytest.param((0, 0), (0, 0), CAUGHT_UP, Fetch(0, FETCH_BYTES), id="both empty"),
        pytest.param((0, 0), (0, 700), TAILING, Fetch(0, FETCH_BYTES), id="empty slave"),
        pytest.param(
            (300, 300), (300, 700), TAILING, Fetch(300, FETCH_BYTES), id="empty slave, old segments deleted"
        ),
        pytest.param((0, 500), (0, 500), CHECKING, Fetch(0, 500), id="equal"),
        pytest.param((0, 500), (0, 900), CHECKING, Fetch(0, 500), id="behind"),
        pytest.param((200, 500), (100, 900), CHECKING, Fetch(200, 300), id="the slave has deleted more"),
        pytest.param((100, 500), (200, 900), CHECKING, Fetch(200, 300), id="the master has deleted more"),
        pytest.param(
            (0, 500), (500, 900), TAILING, Fetch(500, FETCH_BYTES), id="nothing in common, but they join"
        ),
        pytest.param(
            (0, 10 * CHECKED_BYTES),
            (0, 11 * CHECKED_BYTES),
            CHECKING,
            Fetch(9 * CHECKED_BYTES, CHECKED_BYTES),
            id="only the end is checked",
        ),
    ],
)
def test_a_master_that_fits(
    local: tuple[int, int], master: tuple[int, int], state: ReplicaState, action: Action
) -> None:
    progress = replica(*local)
    assert progress.master_range(*master) == action
    assert (progress.state, progress.master_start, progress.master_end) == (state, *master)
    assert progress.local_end == local[1]


@pytest.mark.parametrize(
    ("local", "master", "text"),
    [
        pytest.param((0, 500), (0, 499), "this slave ends at 500 and its master at 499", id="slave ahead"),
        pytest.param((0, 500), (0, 0), "is not the master it followed before", id="the master is empty"),
    ],
)
def test_a_master_that_does_not_fit(local: tuple[int, int], master: tuple[int, int], text: str) -> None:
    progress = replica(*local)
    action = progress.master_range(*master)
    assert isinstance(action, Stop)
    assert text in action.reason
    assert (progress.state, progress.reason, progress.local_end) == (STOPPED, action.reason, local[1])


@pytest.mark.parametrize("make", [checking, tailing, caught_up])
def test_later_ranges_start_nothing(make: Callable[[], ReplicaProgress]) -> None:
    progress = make()
    state = progress.state
    assert progress.master_range(50, 20_000) is None
    assert (progress.state, progress.master_start, progress.master_end) == (state, 50, 20_000)


def test_a_range_that_is_older_than_what_was_copied_is_no_step_back() -> None:
    progress = caught_up()
    progress.appended(append_of(progress.received(0, RECORDS)))
    assert progress.master_range(0, 10) is None
    assert (progress.master_end, progress.state) == (len(RECORDS), CAUGHT_UP)


# Checking: the end of the local log against the same bytes of the master.


def test_an_equal_end_is_followed_by_copying() -> None:
    progress = checking(500)
    compare = progress.received(0, bytes(500))
    assert isinstance(compare, Compare)
    assert (compare.offset, len(compare.data)) == (0, 500)
    assert progress.compared(0, 500, is_equal=True) == Fetch(500, FETCH_BYTES)
    assert progress.state is TAILING


def test_more_bytes_than_asked_for_are_not_compared() -> None:
    compare = checking(500).received(0, bytes(900))
    assert isinstance(compare, Compare)
    assert len(compare.data) == 500


def test_the_end_is_compared_piece_by_piece_where_it_lies_in_two_segments() -> None:
    progress = checking(500)
    compare = progress.received(0, bytes(200))
    assert isinstance(compare, Compare)
    assert progress.compared(0, 200, is_equal=True) == Fetch(200, 300)
    assert progress.state is CHECKING
    assert isinstance(progress.received(200, bytes(300)), Compare)
    assert progress.compared(200, 300, is_equal=True) == Fetch(500, FETCH_BYTES)


def test_an_end_that_differs_stops() -> None:
    progress = checking(500)
    progress.received(0, bytes(500))
    action = progress.compared(0, 500, is_equal=False)
    assert action == Stop(
        "the last bytes before 500 differ from the master's: the histories have parted, or one of the two is "
        "damaged there"
    )
    assert progress.state is STOPPED


def test_nothing_where_the_end_is_checked_waits_for_the_next_range() -> None:
    progress = checking(500)
    assert progress.nothing_new() is None
    assert progress.state is PROBING
    assert isinstance(progress.master_range(0, 500), Fetch), "the partition was closed for a while"
    progress.nothing_new()
    assert isinstance(progress.master_range(0, 400), Stop), "the master has been cut"


# Copying.


def test_records_are_appended_where_they_belong() -> None:
    progress = tailing(700)
    append = append_of(progress.received(700, RECORDS))
    assert (append.offset, bytes(append.records), append.count, append.last_id) == (700, RECORDS, 5, 5)
    assert progress.local_end == 700  # Only handing it on moves the end.
    assert progress.appended(append) == Fetch(700 + len(RECORDS), FETCH_BYTES)
    assert (progress.local_end, progress.state) == (700 + len(RECORDS), TAILING)


def test_an_incomplete_record_at_the_end_waits_for_the_next_fetch() -> None:
    append = append_of(tailing().received(0, RECORDS[:-1]))
    assert (bytes(append.records), append.count, append.last_id) == (RECORDS[: -len(LAST_RECORD)], 4, 4)


def test_damage_behind_good_records_shows_when_it_is_reached() -> None:
    damaged = bytearray(RECORDS)
    damaged[-1] ^= 1
    progress = tailing()
    append = append_of(progress.received(0, bytes(damaged)))
    assert append.count == 4
    fetch = progress.appended(append)
    assert fetch == Fetch(len(RECORDS) - len(LAST_RECORD), FETCH_BYTES)
    action = progress.received(progress.local_end, bytes(damaged[progress.local_end :]))
    assert isinstance(action, Stop)
    assert "are no record (checksum mismatch)" in action.reason


@pytest.mark.parametrize(
    ("data", "fault"),
    [(bytes(40), "zeros"), (b"\xff" * 40, "negative length"), (b"\x00" * 7 + b"1" * 33, "checksum")],
)
def test_what_is_no_record_is_never_appended(data: bytes, fault: str) -> None:
    progress = tailing()
    action = progress.received(0, data)
    assert isinstance(action, Stop)
    assert fault in action.reason
    assert (progress.local_end, progress.state) == (0, STOPPED)


def test_bytes_for_another_offset_are_asked_for_anew() -> None:
    progress = tailing(700)
    assert progress.received(600, RECORDS) == Fetch(700, FETCH_BYTES)
    assert progress.local_end == 700


def test_a_fetch_grows_until_a_record_fits_and_shrinks_again() -> None:
    record = encode_record(bytes(3 * FETCH_BYTES), 1)
    progress = tailing()
    assert progress.received(0, record[:FETCH_BYTES]) == Fetch(0, 2 * FETCH_BYTES)
    assert progress.received(0, record[: 2 * FETCH_BYTES]) == Fetch(0, 4 * FETCH_BYTES)
    append = append_of(progress.received(0, record))
    assert len(append.records) == len(record)
    assert progress.appended(append) == Fetch(len(record), FETCH_BYTES)


def test_a_master_that_gives_less_than_a_record_stops_it() -> None:
    progress = tailing()
    assert progress.received(0, RECORDS[:10]) == Stop(
        "the master gives no whole record at offset 0, only 10 bytes"
    )


def test_a_fetch_does_not_grow_for_ever() -> None:
    endless = bytes.fromhex("7fffffff") + bytes(FETCH_BYTES_MAX)
    progress, action, rounds = tailing(), None, 0
    while not isinstance(action, Stop):
        action = progress.received(0, endless[: progress.fetch_bytes])
        rounds += 1
    assert rounds == 7


@pytest.mark.parametrize("offset", [0, 5, 500])
def test_a_master_that_points_back_is_never_followed(offset: int) -> None:
    progress = tailing(500)
    action = progress.moved(offset)
    assert isinstance(action, Stop)
    assert f"points back to {offset}" in action.reason
    assert (progress.state, progress.local_end) == (STOPPED, 500)


# Skipping: what the master no longer has is left out, never bridged.


@pytest.mark.parametrize("make", [tailing, caught_up])
def test_bytes_the_master_does_not_have_are_skipped(make: Callable[[int], ReplicaProgress]) -> None:
    progress = make(500)
    action = progress.moved(900)
    assert isinstance(action, Skip)
    assert (action.offset, progress.state, progress.local_end) == (900, SKIPPING, 500)
    assert progress.master_range(0, 10_000) is None, "it is under way"
    assert progress.skipped(900) == Fetch(900, FETCH_BYTES)
    assert (progress.local_end, progress.segment_start, progress.is_copying) == (900, 900, True)


def test_a_master_that_begins_behind_the_end_is_followed_from_there() -> None:
    progress = replica(0, 500)
    action = progress.master_range(800, 2000)
    assert isinstance(action, Skip)
    assert action.offset == 800
    assert "its master begins at 800" in action.reason
    assert progress.skipped(800) == Fetch(800, FETCH_BYTES)
    assert progress.state is TAILING


def test_a_skip_that_a_lost_connection_interrupts_begins_again_from_the_real_end() -> None:
    progress = tailing(500)
    progress.moved(900)
    progress.disconnected()
    assert progress.state is PROBING
    progress.rewind(900, 900)
    progress.run_start = 900
    assert progress.master_range(0, 2000) == Fetch(900, FETCH_BYTES)


def test_only_what_lies_behind_a_gap_is_compared() -> None:
    progress = replica(0, 500, 300)
    progress.run_start = 300
    assert progress.master_range(0, 900) == Fetch(300, 200)


@pytest.mark.parametrize(
    ("to", "then"),
    [
        pytest.param(300, Fetch(300, 200), id="the rest is compared"),
        pytest.param(500, Fetch(500, FETCH_BYTES), id="nothing is left to compare"),
        pytest.param(700, Fetch(500, FETCH_BYTES), id="the end is asked for, and will be skipped"),
    ],
)
def test_what_the_master_no_longer_has_is_not_compared(to: int, then: Fetch) -> None:
    assert checking(500).moved(to) == then


def test_a_master_that_points_back_while_the_end_is_compared() -> None:
    progress = checking(500)
    assert isinstance(progress.moved(0), Stop)


# Stopped because of some bytes: they may be repaired.


def test_what_stopped_because_of_bytes_is_tried_again_after_some_looks() -> None:
    progress = tailing(500)
    assert isinstance(progress.received(500, bytes(40)), Stop)
    for _ in range(LOOKS_BEFORE_RETRY - 1):
        assert progress.master_range(0, 10_000) is None
        assert progress.state is STOPPED
    assert progress.master_range(0, 10_000) == Fetch(500, FETCH_BYTES)
    assert progress.reason == ""
    assert isinstance(progress.received(500, bytes(40)), Stop)


def test_nothing_new_is_asked_for_again() -> None:
    progress = tailing()
    assert progress.nothing_new() == Fetch(0, FETCH_BYTES)
    assert progress.state is CAUGHT_UP
    progress.appended(append_of(progress.received(0, RECORDS)))
    assert progress.state is TAILING
    assert progress.nothing_new() == Fetch(len(RECORDS), FETCH_BYTES)
    assert progress.state is CAUGHT_UP


# Segments end where the master's do.


def full_segment() -> ReplicaProgress:
    progress = replica(0, SEGMENT_BYTES, segment_start=0)
    progress.state = TAILING
    return progress


def test_below_the_size_nobody_is_asked() -> None:
    progress = replica(0, SEGMENT_BYTES - 1, segment_start=0)
    progress.state = TAILING
    assert not append_of(progress.received(SEGMENT_BYTES - 1, RECORDS)).begins_segment


def test_a_segment_begins_where_one_begins_at_the_master() -> None:
    progress = full_segment()
    assert progress.received(SEGMENT_BYTES, RECORDS) == Locate(SEGMENT_BYTES)
    append = append_of(progress.located(SEGMENT_BYTES))
    assert (append.begins_segment, append.offset, append.count) == (True, SEGMENT_BYTES, 5)
    assert progress.segment_start == 0  # It has not begun yet.
    progress.appended(append)
    assert progress.segment_start == SEGMENT_BYTES
    assert not append_of(progress.received(progress.local_end, RECORDS)).begins_segment


def test_the_segment_goes_on_where_it_does_at_the_master() -> None:
    progress = full_segment()
    assert progress.received(SEGMENT_BYTES, RECORDS) == Locate(SEGMENT_BYTES)
    append = append_of(progress.located(0))
    assert not append.begins_segment
    progress.appended(append)
    assert progress.received(progress.local_end, RECORDS) == Locate(SEGMENT_BYTES + len(RECORDS))


@pytest.mark.parametrize("interrupt", [lambda p: p.disconnected(), lambda p: p.rewind(SEGMENT_BYTES, 0)])
def test_an_answer_from_before_an_interruption_appends_nothing(
    interrupt: Callable[[ReplicaProgress], None],
) -> None:
    progress = full_segment()
    progress.received(SEGMENT_BYTES, RECORDS)
    interrupt(progress)
    assert progress.located(SEGMENT_BYTES) == Fetch(SEGMENT_BYTES, FETCH_BYTES)
    assert (progress.local_end, progress.segment_start) == (SEGMENT_BYTES, 0)


# What leads back, and what does not.


@pytest.mark.parametrize("make", [checking, tailing, caught_up])
def test_a_lost_connection_leads_back_to_probing(make: Callable[[], ReplicaProgress]) -> None:
    progress = make()
    before = progress.local_end
    progress.disconnected()
    assert (progress.state, progress.local_end) == (PROBING, before)


def test_a_rewind_begins_again_from_the_real_end() -> None:
    progress = tailing()
    progress.appended(append_of(progress.received(0, RECORDS)))
    progress.rewind(34, 0)
    assert (progress.state, progress.local_end) == (PROBING, 34)
    assert progress.master_range(0, 10_000) == Fetch(0, 34)


def test_a_local_log_that_takes_no_more_stops() -> None:
    progress = tailing()
    assert progress.append_failed("no fsync") == Stop("the local log takes no more: no fsync")


def stopped() -> ReplicaProgress:
    progress = tailing(9)
    progress.moved(0)
    return progress


def test_stopped_stays_stopped() -> None:
    progress = stopped()
    reason = progress.reason
    progress.disconnected()
    assert progress.master_range(0, 20_000) is None
    assert (progress.state, progress.reason, progress.local_end) == (STOPPED, reason, 9)


# Anything a master may do, in any order.


@attrs.frozen
class Log:
    """A master's log and where its records begin."""

    data: bytes
    starts: tuple[int, ...]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    sizes = draw(st.lists(st.integers(0, 60), min_size=1, max_size=20))
    data, starts = b"", []
    for number, size in enumerate(sizes, 1):
        starts.append(len(data))
        data += encode_record(bytes([number]) * size, number)
    return Log(data, (*starts, len(data)))


@given(log=logs(), choices=st.data())
def test_whatever_happens_every_byte_is_at_its_offset(log: Log, choices: st.DataObject) -> None:
    """The model: bytes by offset. Replies are cut, connections break, the disk fills up, retention goes on."""
    progress = ReplicaProgress(0, 0, 0, 100)
    copy: dict[int, int] = {}
    start, end = 0, len(log.data)
    action: Action | None = None
    for _ in range(200):
        assert all(log.data[at] == byte for at, byte in copy.items())
        run = [at for at in log.starts if progress.run_start <= at <= progress.local_end]
        assert all(at in copy for at in range(run[0], progress.local_end))
        event = choices.draw(st.sampled_from(["go on"] * 6 + ["disconnect", "disk full", "retention"]))
        if event == "retention":
            start = choices.draw(st.sampled_from([at for at in log.starts if at >= start]))
        elif event == "disconnect" or action is None:
            progress.disconnected()
            action = progress.master_range(start, end)
        elif event == "disk full" and copy:
            kept = choices.draw(st.sampled_from(run))
            copy = {at: byte for at, byte in copy.items() if at < kept}
            progress.rewind(kept, progress.run_start)
            action = progress.master_range(start, end)
        elif isinstance(action, Fetch) and action.offset >= end:
            assert progress.state is CAUGHT_UP
            return
        elif isinstance(action, Fetch) and action.offset < start:
            action = progress.moved(start)
        elif isinstance(action, Fetch):
            following = next(at for at in log.starts if at > action.offset)
            shortest = min(following, action.offset + action.size_max)
            stop = choices.draw(st.integers(shortest, min(end, action.offset + action.size_max)))
            action = progress.received(action.offset, log.data[action.offset : stop])
        elif isinstance(action, Compare):
            held = bytes(copy[at] for at in range(action.offset, action.offset + len(action.data)))
            assert held == bytes(action.data)
            action = progress.compared(action.offset, len(action.data), is_equal=True)
        elif isinstance(action, Locate):
            action = progress.located(choices.draw(st.sampled_from([0, action.offset])))
        elif isinstance(action, Append):
            copy.update(enumerate(bytes(action.records), action.offset))
            action = progress.appended(action)
        elif isinstance(action, Skip):
            assert start >= action.offset > progress.local_end
            action = progress.skipped(action.offset)
        else:
            raise AssertionError(action)
