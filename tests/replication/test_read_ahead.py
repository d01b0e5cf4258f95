"""Several gets at a time, against a master that answers them in any order and as short as it likes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metaserver.message import scan
from metaserver.replication.link_window import WINDOW_BYTES_MAX, WINDOW_BYTES_MIN, LinkWindow
from metaserver.replication.read_ahead import Get, ReadAhead
from tests.support import record

KIB = 1024


def answer(log: bytes, segments: list[int], get: Get, size_max: int) -> bytes:
    stop = min((start for start in segments if start > get.offset), default=len(log))
    return log[get.offset : min(get.offset + min(get.size_max, size_max), stop)]


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=40),
    splits=st.sets(st.integers(1, 40)),
    piece_bytes=st.integers(1, 500),
    room_bytes=st.integers(1, 2000),
    answer_bytes_max=st.integers(1, 400),
    data=st.data(),
)
def test_what_is_given_out_is_the_log_and_never_crosses_a_segment(
    sizes: list[int],
    splits: set[int],
    piece_bytes: int,
    room_bytes: int,
    answer_bytes_max: int,
    data: st.DataObject,
) -> None:
    records = [record(b"x" * size, number) for number, size in enumerate(sizes, 1)]
    log = b"".join(records)
    starts = [sum(map(len, records[:number])) for number in range(len(records))]
    segments = [starts[number] for number in sorted(splits) if number < len(starts)]
    reading = ReadAhead(0, 1 << 20, 1)
    under_way: list[Get] = []
    position, size_max, asked_bytes = 0, 1 << 20, 0
    for _ in range(100_000):
        if position == len(log):
            break
        while (chunk := reading.take(len(log))) is not None:
            assert chunk == log[position : position + len(chunk)]
            assert not any(position < start < position + len(chunk) for start in segments)
            end = scan(memoryview(chunk)).end
            assert end, "a whole record, for all of the log is known and none is that long"
            position += end
            assert reading.want(position, size_max)
        room = room_bytes - sum(get.size_max for get in under_way)
        planned = reading.plan(len(log), piece_bytes, room)
        asked_bytes += sum(
            len(answer(log, segments, get, answer_bytes_max)) for get in planned if get.is_known
        )
        under_way += planned
        if position < len(log):
            assert under_way, "it goes on"
            get = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            if get.offset != reading.next_offset and data.draw(st.integers(0, 9)) == 0:
                assert not reading.refused(get)
                asked_bytes -= len(answer(log, segments, get, answer_bytes_max))
            else:
                reading.arrived(get, answer(log, segments, get, answer_bytes_max))
    assert position == len(log)
    assert asked_bytes == len(log), "nothing comes twice"


def test_at_the_end_there_is_one_get_that_waits() -> None:
    reading = ReadAhead(100, 1000, 1)
    (get,) = reading.plan(100, 1000, 0)
    assert (get.offset, get.size_max, get.is_known) == (100, 1000, False)
    assert reading.plan(100, 1000, 5000) == []
    assert reading.refused(get)
    assert len(reading.plan(100, 1000, 0)) == 1


def test_elsewhere_it_begins_anew() -> None:
    reading = ReadAhead(100, 1000, 1)
    (get,) = reading.plan(0, 1000, 0)
    reading.arrived(get, record(b"abc"))
    assert reading.take(0) == record(b"abc")
    assert not reading.want(99, 1000)
    assert not reading.want(124, 1000)
    assert reading.want(123, 1000)


def test_a_record_that_does_not_end_is_given_out_as_large_as_it_was_wanted() -> None:
    reading = ReadAhead(0, 600, 1)
    torn = record(b"x" * 5000)
    for get in reading.plan(5020, 200, 10_000):
        reading.arrived(get, torn[get.offset : get.offset + get.size_max])
    assert reading.take(5020) == torn[:600]
    assert reading.want(0, 1200)
    assert reading.take(5020) == torn[:1200]
    assert reading.want(0, 1 << 20)
    assert reading.take(5020) == torn


# How much at a time.


def drive(window: LinkWindow, bytes_per_second: float, round_trip_seconds: float, seconds: float) -> float:
    """A link that sends one answer after the other; returns how many bytes it brought in a second."""
    now, free_at, came = 0.0, 0.0, 0
    queue: list[tuple[float, float, int]] = []
    while now < seconds:
        while window.room_bytes > 0:
            size = window.piece_bytes
            window.asked(size)
            free_at = max(free_at, now + round_trip_seconds) + size / bytes_per_second
            queue.append((free_at, now, size))
        now, asked, size = queue.pop(0)
        window.answered(size, size, asked, now)
        came += size
    return came / now


def test_a_long_way_is_filled() -> None:
    window = LinkWindow()
    assert drive(window, 50e6, 0.2, 30) > 0.8 * 50e6
    assert window.is_slow


def test_a_slow_link_is_filled_and_has_no_long_queue() -> None:
    window = LinkWindow()
    assert drive(window, 125e3, 0.001, 60) > 0.95 * 125e3
    assert window.window_bytes <= 3 * 125e3
    assert window.is_slow


def test_a_slow_and_long_link_is_filled() -> None:
    window = LinkWindow()
    assert drive(window, 125e3, 0.2, 60) > 0.7 * 125e3
    assert window.window_bytes <= 3 * 125e3


def test_a_fast_one_is_given_all() -> None:
    window = LinkWindow()
    drive(window, 1e9, 0.0001, 1)
    assert window.window_bytes == WINDOW_BYTES_MAX
    assert not window.is_slow


def test_a_limit_is_one_of_the_window_too() -> None:
    window = LinkWindow(WINDOW_BYTES_MIN)
    drive(window, 1e9, 0.0001, 1)
    assert window.window_bytes == WINDOW_BYTES_MIN
