"""What `tools/torture/run soak` calls growth; a run of it is for `tools`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tools.torture.filesystems import MIB
from tools.torture.nodes import Place
from tools.torture.soak import Sample, Soak

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def growth(tmp_path: Path, sample: Callable[[int], Sample], rounds: int = 400) -> list[str]:
    soak = Soak(Place(tmp_path, ()), 60, 1, 1, lambda _: None)
    soak.samples = [sample(number) for number in range(rounds)]
    return soak.growth()


def test_a_first_quarter_that_fills_caches_is_no_growth(tmp_path: Path) -> None:
    assert not growth(
        tmp_path, lambda number: Sample(60.0 * number, (60 + min(number, 100)) * MIB, 30 + number % 5, 1.0)
    )


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (
            lambda number: Sample(60.0 * number, 60 * MIB + number * 50_000, 30, 1.0),
            "MiB more memory than 3.",
        ),
        (lambda number: Sample(60.0 * number, 60 * MIB, 30 + number // 10, 1.0), "20 more descriptors than"),
    ],
)
def test_what_goes_on_growing_is_told(tmp_path: Path, sample: Callable[[int], Sample], words: str) -> None:
    (found,) = growth(tmp_path, sample)
    assert words in found


def test_too_few_rounds_show_nothing(tmp_path: Path) -> None:
    assert growth(tmp_path, lambda _: Sample(0, 0, 0, 0), rounds=3) == ["too few rounds to tell what grows"]
