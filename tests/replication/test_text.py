"""The short form of `tools/torture/run gigabyte`: text through the command line, master and slave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.torture.gigabyte import is_equal, run_gigabyte, write_text

if TYPE_CHECKING:
    from pathlib import Path


def test_text_comes_out_of_the_slave_as_it_went_into_the_master(tmp_path: Path) -> None:
    told: list[str] = []
    table = dict(run_gigabyte(tmp_path, 4, told.append))
    assert table["text consumed and text produced"] == "identical"
    assert len(told) == 4


def test_texts_are_compared_to_the_last_byte(tmp_path: Path) -> None:
    left, right = tmp_path / "left", tmp_path / "right"
    assert write_text(left, 100_000) == left.read_bytes().count(b"\n")
    right.write_bytes(left.read_bytes())
    assert is_equal(left, right)
    right.write_bytes(left.read_bytes()[:-1] + b"!")
    assert not is_equal(left, right)
    right.write_bytes(left.read_bytes() + b"!")
    assert not is_equal(left, right)
