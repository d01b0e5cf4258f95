"""`tools/torture/run ROW...`: what its rows name, and how their runs come to one table."""

from __future__ import annotations

import re
import time
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tools.torture import rows
from tools.torture.main import main, run_apart
from tools.torture.nodes import ROOT
from tools.torture.rows import KNOWN, MISSING, ROWS, UNAVAILABLE, Outcome, Row, run_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

ROW_KILLS = Row("kills", ("kills --kills 3",), "kills", "kills of", is_seeded=True)
ROW_TWO = Row("two rigs", ("first", "second"))


@pytest.fixture
def _two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows, and a clock on which a second passes with each look."""
    seconds = count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr(rows, "ROWS", {"P1": ROW_KILLS, "D1": ROW_TWO})


def nothing(_: str) -> None:
    """No progress is shown."""


def test_every_row_is_in_one_table_and_every_command_is_one_of_the_rigs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not set(ROWS) & set(MISSING)
    with pytest.raises(SystemExit):
        main(["--help"])
    rigs = re.findall(r"\{([^}]*)\}", capsys.readouterr().out)[0].split(",")
    for row in ROWS.values():
        for command in row.commands:
            rig, *words = command.split()
            assert rig in rigs
            for word in words:
                if word.startswith("tests/"):
                    assert (ROOT / word.partition("::")[0]).exists()


@pytest.mark.usefixtures("_two_rows")
def test_figures_are_added_up_and_a_row_without_rig_says_why() -> None:
    asked: list[Sequence[str]] = []

    def run(words: Sequence[str]) -> Outcome:
        asked.append(words)
        return 0, [("kills of the master", "1,003"), ("kills of the slave", "2 kills"), ("sent", "9")]

    code, lines = run_rows(["P1", "N3", "D1"], None, run, nothing)
    assert code == 0
    assert [line[:4] for line in lines] == [
        ("P1", "kills", "1,005 kills", "0"),
        ("N3", f"not available: {MISSING['N3']}", "", ""),
        ("D1", "two rigs", "2 runs", "0"),
    ]
    assert asked == [["kills", "--kills", "3", "--seed", "1"], ["first"], ["second"]]


@pytest.mark.usefixtures("_two_rows")
def test_a_broken_promise_is_counted_and_a_lack_is_named() -> None:
    def run(words: Sequence[str]) -> Outcome:
        return (1, []) if words[0] == "kills" else (UNAVAILABLE, [("left out", "there is no strace here")])

    code, lines = run_rows(["P1", "D1"], 1, run, nothing)
    assert code == 1
    assert lines[0][3] == "1"
    assert lines[1][1] == "two rigs: left out: there is no strace here"


@pytest.mark.usefixtures("_two_rows")
def test_rows_run_again_with_other_seeds_while_there_is_time() -> None:
    asked: list[str] = []

    def run(words: Sequence[str]) -> Outcome:
        asked.append(words[-1])
        return 0, [("kills of the master", "1")]

    code, lines = run_rows(["P1"], 0.25, run, nothing)
    assert code == 0
    assert len(asked) > 1
    assert asked == [str(seed) for seed in range(1, len(asked) + 1)]
    assert lines[0][2] == f"{len(asked)} kills"
    # Nothing is begun behind the end.
    assert run_rows(["D1"], 0, run, nothing)[1][0][1] == "two rigs: not begun in the time"


def test_a_rig_runs_in_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever ends it, there is an outcome: here a case that does not exist, and a directory."""
    code, table = run_apart(["abuse", "nonsense"])
    assert (code, table) == (1, [])
    assert "KeyError: 'nonsense'" in capfd.readouterr().err
    assert run_apart(["--directory", "/nonexistent", "abuse"]) == (1, [])
    assert run_apart(["tests", "tests/test_names.py"])[0] == 0


def test_a_row_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["P1", "X9"])
    complaint = capsys.readouterr().err
    assert "'X9'" in complaint
    assert all(name in complaint for name in KNOWN)
