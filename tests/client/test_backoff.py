"""Pauses between attempts."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from metaserver.client.backoff import Backoff


@given(st.floats(0.001, 10), st.floats(1, 1000), st.integers(0, 1000))
def test_pauses_double_up_to_the_longest_and_are_cut_by_half_at_most(
    seconds_min: float, factor: float, seed: int
) -> None:
    seconds_max = seconds_min * factor
    backoff = Backoff(seconds_min, seconds_max, random.Random(seed))
    expected = seconds_min
    for _ in range(20):
        pause = backoff.next_seconds()
        assert expected / 2 <= pause <= expected
        expected = min(2 * expected, seconds_max)
    backoff.reset()
    assert backoff.next_seconds() <= seconds_min


def test_two_that_failed_together_do_not_come_back_together() -> None:
    assert len({Backoff(1.0, 8.0, random.Random(seed)).next_seconds() for seed in range(20)}) == 20
