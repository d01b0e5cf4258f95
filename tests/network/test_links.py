"""The short form of `tools/torture/run links`: a fault between master and slave while both are used.

Each runs in a process of its own, which moves into a network namespace. It looks at everything: what was
acknowledged, what was delivered, the slave's files all the time and at the end, the offsets of a group.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tools.torture.nodes import ROOT
from tools.torture.rows import UNAVAILABLE

if TYPE_CHECKING:
    from pathlib import Path

RUN_SECONDS_MAX = 300.0
SHORT = (
    "cut",
    "cut-towards-slave",
    "cut-towards-master",
    "loss-1",
    "loss-10",
    "1mbit",
    "200ms",
    "half-open",
)
LONG = (*SHORT, "1mbit-loss-1", "silent-master")


def run(base: Path, fault: str, messages: int, seconds: float) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "tools.torture.main", "--directory", str(base)),
            *("links", fault, "--messages", str(messages), "--for", str(seconds)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS_MAX,
    )
    if done.returncode == UNAVAILABLE:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("fault", SHORT)
def test_nothing_is_lost_or_changed(fault: str, tmp_path: Path) -> None:
    run(tmp_path, fault, 200, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", LONG)
def test_nothing_is_lost_or_changed_in_the_long_form(fault: str, tmp_path: Path) -> None:
    run(tmp_path, fault, 500 if "1mbit" in fault else 5_000, 60.0)
