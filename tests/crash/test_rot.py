"""Damaged files of a master and its slave, in short; the long form is ``tools/torture/run rot``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.torture.rot import run_rot

if TYPE_CHECKING:
    from pathlib import Path

FILES = 6


def test_what_is_damaged_is_whole_again_or_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    table = dict(run_rot(tmp_path, FILES, 1, said.append))
    assert table["damaged files"] == str(FILES)
    outcomes = [one.rpartition(": ")[2] for one in said]
    assert len(outcomes) == FILES
    assert set(outcomes) <= {"all is well", "it is told", "a start refuses, and names the file"}
