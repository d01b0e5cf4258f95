"""The small forms of abuse: whoever misbehaves, an ordinary client is served and nothing is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tools.torture.abuse import ABUSES, run_abuse

if TYPE_CHECKING:
    from pathlib import Path

_SMALL = {
    "slow-loris": 60,
    "never-reading": 20,
    "huge-sizes": 5,
    "unfinished": 200,
    "no-descriptors": 300,
    "storm": 150,
    "idle": 200,
    "many-topics": 100,
}
_SLOW = ("time-outs",)
"""It waits for limits of up to 30 s, which the tests of each port know in virtual time or with shorter ones."""


@pytest.mark.parametrize("name", [name for name in ABUSES if name not in _SLOW])
def test_abuse(name: str, tmp_path: Path) -> None:
    found = run_abuse(tmp_path, name, _SMALL.get(name, 1), seconds=0.5)
    assert found.violations == ()
