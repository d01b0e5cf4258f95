from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.rates import Pace, PaceMeter, TokenBucket

_CALLS = st.lists(st.tuples(st.floats(0, 10), st.integers(0, 5000), st.booleans()), max_size=40)


@given(_CALLS, st.integers(1, 2000), st.integers(0, 4000))
def test_no_stretch_of_time_has_more_than_the_burst_and_the_rate(
    calls: list[tuple[float, int, bool]], rate: int, burst: int
) -> None:
    bucket, now = TokenBucket(rate, burst), 0.0
    used: list[tuple[float, int]] = []
    for pause, size, is_used in calls:
        now += pause
        ready = now + bucket.reserve(size, now)
        assert ready >= (used[-1][0] if used else 0.0) - 1e-6, "first come, first served"
        if is_used:
            used.append((ready, size))
        else:
            bucket.give_back(size)
    for first, (start, _) in enumerate(used):
        # The one that waited longest for its turn may be larger than the burst, and is through at its end.
        total = 0
        for end, size in used[first + 1 :]:
            total += size
            assert total <= burst + rate * (end - start) + 1e-3


def test_a_full_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    bucket = TokenBucket(100, 250)
    assert [bucket.reserve(100, 5.0) for _ in range(4)] == [0.0, 0.0, 0.5, 1.5]
    assert bucket.reserve(0, 6.0) == 0.5
    assert bucket.reserve(250, 1000.0) == 0.0


def test_what_is_given_back_is_there_for_the_next() -> None:
    bucket = TokenBucket(100, 100)
    bucket.reserve(100, 0.0)
    bucket.give_back(60)
    assert bucket.reserve(60, 0.0) == 0.0
    bucket.give_back(10_000)
    assert bucket.reserve(101, 0.0) == pytest.approx(0.01)


def test_the_estimate_counts_what_is_added_meanwhile() -> None:
    meter = PaceMeter(10.0)
    assert meter.pace(0, 100, 0.0) == Pace(0.0, None)
    assert meter.pace(0, 0, 0.0) == Pace(0.0, 0.0)
    meter.look(0, 1000, 0.0)
    # 300 bytes are copied in two seconds while 100 more arrive.
    assert meter.pace(300, 800, 2.0) == Pace(150.0, 8.0)
    assert meter.pace(300, 1000, 2.0) == Pace(150.0, None)
    assert meter.pace(1300, 0, 2.0) == Pace(650.0, 0.0)


def test_only_the_last_seconds_count() -> None:
    meter = PaceMeter(10.0)
    for second in range(100):
        meter.look(second * 1000 if second < 50 else 50_000, 7, float(second))
    assert meter.pace(50_000, 7, 99.0).bytes_per_second == 0
    meter.look(51_000, 5, 100.0)
    assert meter.pace(51_000, 5, 100.0) == Pace(100.0, 25.0)
    meter.forget()
    assert meter.pace(51_000, 5, 100.0) == Pace(0.0, None)
