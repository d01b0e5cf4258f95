"""Mutated seeds as a Hypothesis strategy: whoever finds a fault sees it shrunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.fuzzing.target import Target

_EDITS_MAX = 4
_REPETITIONS = (2, 50, 2000)
"""The last is deeper than a recursive parser may go."""


@st.composite
def mutated(draw: st.DrawFn, target: Target) -> bytes:
    """A seed with up to four edits; now and then any bytes."""
    if not draw(st.integers(0, 15)):
        return draw(st.binary(max_size=200))
    data = draw(st.sampled_from(target.seeds))
    for _ in range(draw(st.integers(0, _EDITS_MAX))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 0, 1, 2, 4, 8, 40])))
        piece = draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from(target.words or [b"\0"]),
                st.sampled_from(target.seeds),
                st.just(data[start:end]),
            )
        )
        if len(piece) <= 8 and not draw(st.integers(0, 7)):
            piece *= draw(st.sampled_from(_REPETITIONS))
        data = data[:start] + piece + data[end:]
    return data
