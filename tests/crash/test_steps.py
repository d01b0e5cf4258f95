"""The short form of `tools/torture/run steps`: some system calls, each the last of a broker's life."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tools.torture.filesystems import UnavailableError
from tools.torture.steps import Steps

if TYPE_CHECKING:
    from pathlib import Path

POINTS = 16


def test_a_kill_at_a_system_call_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    try:
        steps = Steps(tmp_path / "steps")
    except UnavailableError as error:
        pytest.skip(f"system calls cannot be struck: {error}")
    steps.count()
    points = steps.points(POINTS)
    for point in points:
        steps.strike(point)

    assert steps.counts["script"]["pwritev"] + steps.counts["script"]["pwritev2"] > 0
    assert steps.counts["recovery"].total() > 0
    assert steps.struck.total() + steps.missed == len(points)
    assert steps.struck.total() > 0
    assert steps.acknowledged > 0
