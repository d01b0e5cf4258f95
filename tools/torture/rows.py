"""The rows of the fault matrix: for each the command lines of its rigs, or why there is none.

A new rig is one entry here. Rows run one after the other, and again with the next seed while there is time.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import attrs

from tools.torture.filesystems import UnavailableError
from tools.torture.nodes import ROOT
from tools.torture.verifier import BrokenPromiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Outcome = tuple[int, list[tuple[str, str]]]
"""Exit code and table of one run of a rig; with UNAVAILABLE, in the table why."""
UNAVAILABLE = 77
"""The exit code where this machine lacks something."""
_SHOWN_LINES = 40
_TESTS = "tests"
"""The rig that runs tests."""


@attrs.frozen
class Row:
    """One row of the matrix that can be run."""

    what: str
    commands: tuple[str, ...]
    """Of ``tools/torture/run``, without its name."""
    unit: str = "runs"
    """What is counted as reached."""
    figure: str = ""
    """In which figures it is: those whose names hold this text, added up. Empty: the runs are counted."""
    is_seeded: bool = False
    """Whether the rigs take ``--seed``; tests never do."""


def _tests(what: str, *files: str) -> Row:
    return Row(what, (f"{_TESTS} {' '.join(files)}",), "tests", "tests passed")


def _failover(what: str, **counts: int) -> Row:
    every = {"kills": 0, "disks": 0, "switchovers": 0, "promotions": 0, "behind": 0} | counts
    words = " ".join(f"--{name} {count}" for name, count in every.items())
    return Row(what, (f"failover {words}",), "rounds", "rounds: ", is_seeded=True)


def _links(what: str, *faults: str) -> Row:
    return Row(
        what, tuple(f"links {fault} --for 10" for fault in faults), "messages", "messages acknowledged"
    )


ROWS: dict[str, Row] = {
    "P1": Row(
        "SIGKILL of the master",
        ("kills --kills 20 --slave-kills 0 --both 0",),
        "kills",
        "kills of",
        is_seeded=True,
    ),
    "P2": Row("SIGKILL at a system call", ("steps --points 40",), "kills", "calls of a thread"),
    "P3": Row(
        "SIGKILL of the slave, of both",
        ("kills --kills 0 --slave-kills 10 --both 5",),
        "kills",
        "kills of",
        is_seeded=True,
    ),
    "P4": _tests("SIGSTOP of a master, of a slave", "tests/registry_zookeeper/test_fencing.py"),
    "P5": Row("a limit of memory", ("memory",), "kills", "kills once"),
    "P6": _tests(
        "SIGTERM under load",
        "tests/crash/test_kills.py::test_a_stop_under_load_answers_everything_and_needs_no_recovery",
    ),
    "D1": Row("power cut", ("powercut --cuts 50",), "cuts", "power cuts", is_seeded=True),
    "D2": Row("power cut in recovery", ("powercut --cuts 50",), "second cuts", "second cuts", is_seeded=True),
    "D3": Row(
        "each storage call is the last; what it may leave",
        ("states --count 20000",),
        "disks",
        "disks looked at",
        is_seeded=True,
    ),
    "D4": Row(
        "changed bytes and blocks, in every kind of file",
        (
            "rot --count 40",
            f"{_TESTS} tests/replication/test_repair.py tests/replication/test_repair_internal.py",
        ),
        "files",
        "damaged files",
        is_seeded=True,
    ),
    "D5": _tests("EIO and EROFS", "tests/crash/test_disk_error.py -k failed"),
    "D6": _tests("a lost write-back", "tests/crash/test_disk_error.py -k write_back"),
    "D7": _tests("a full disk", "tests/crash/test_disk_full.py"),
    "D8": Row(
        "slow and frozen disks",
        ("slow sync-50ms --for 10", "slow sync-1s --for 10", "slow frozen --for 20"),
        "messages",
        "messages acknowledged",
    ),
    "D9": _tests("data directories taken, read-only, gone", "tests/crash/test_directories.py"),
    "N1": _links("no way between master and slave", "cut"),
    "N2": _links("one-way cuts", "cut-towards-slave", "cut-towards-master"),
    "N4": _links("loss, rate, delay", "loss-1", "loss-10", "1mbit --messages 1000", "200ms"),
    "N5": Row("bits that change on the wire", ("flips",), "flips", "bits changed", is_seeded=True),
    "N6": _links("a peer that vanishes", "half-open", "silent-master"),
    "N7": _tests("ZooKeeper goes away and forgets", "tests/registry_zookeeper"),
    "R1": _failover("planned change of master", switchovers=10),
    "R2": _failover("promotion; the old master returns", promotions=10, behind=1),
    "R4": _failover("lost disk of either, lost tail", disks=2),
    "R6": _tests("beside MetaQ's Java broker and clients", "tests/interop"),
    "T1": Row("wall clocks that jump", ("clocks",), "jumps", "jumps of a clock"),
    "A1": Row("slow and never reading peers, time-outs", ("abuse slow-loris never-reading time-outs",)),
    "A2": Row("huge announced sizes, unfinished requests", ("abuse huge-sizes unfinished",)),
    "A4": Row("no descriptors left", ("abuse no-descriptors",)),
    "A5": Row("storms, idle connections, many topics", ("abuse storm idle many-topics",)),
    "A6": Row("path tricks in names", ("abuse evil-names",)),
    "A7": _tests("credentials of HTTP", "tests/http/test_access.py", "tests/http/test_groups_api.py"),
    "L1": Row(
        "a long ordinary life, in which nothing grows",
        ("soak --minutes 10",),
        "messages",
        "messages acknowledged",
        is_seeded=True,
    ),
}

MISSING: dict[str, str] = {
    "N3": "nodes do not elect a master: a promotion is a command",
    "R3": "R2 does it: every old master returns",
    "R5": "replicas that acknowledge are not elected; tools/simulate varies who follows",
    "A3": "tools/fuzz/run does it",
    "L2": "tools/bench/scale does it",
    "L3": "tools/bench/links does it",
}
"""The rows that cannot be run here, and why."""

KNOWN = sorted([*ROWS, *MISSING], key=lambda name: ("PDNRTAL".index(name[0]), name))
"""All, in the order of the matrix."""


def run_rows(
    names: Sequence[str],
    minutes: float | None,
    run: Callable[[Sequence[str]], Outcome],
    say: Callable[[str], None],
) -> tuple[int, list[tuple[str, ...]]]:
    """Run each once, or begin rows for so long; the exit code and the lines of the table.

    A row that broke a promise or that this machine cannot run is not run again.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes
    results = {name: _Result() for name in names if name in ROWS}
    for seed in range(1, 2 if end is None else sys.maxsize):
        going = [name for name, result in results.items() if not result.is_over]
        if not going or (end is not None and time.monotonic() >= end):
            break
        for name in going:
            if end is None or time.monotonic() < end:
                say(f"{name}: {ROWS[name].what}")
                results[name].add(ROWS[name], seed, run)
    lines = [_line(name, results.get(name)) for name in names]
    return int(any(result.violations for result in results.values())), lines


@attrs.define(eq=False)
class _Result:
    """What the runs of one row have come to."""

    runs: int = 0
    reached: int = 0
    violations: int = 0
    seconds: float = 0.0
    left_out: str = ""
    """What this machine lacks."""

    @property
    def is_over(self) -> bool:
        return bool(self.violations or self.left_out)

    def add(self, row: Row, seed: int, run: Callable[[Sequence[str]], Outcome]) -> None:
        began = time.monotonic()
        for command in row.commands:
            words = command.split()
            if row.is_seeded and words[0] != _TESTS:
                words += ["--seed", str(seed)]
            code, table = run(words)
            if code == UNAVAILABLE:
                self.left_out = table[0][1]
                break
            self.violations += code != 0
            if row.figure:
                self.reached += sum(_number(value) for name, value in table if row.figure in name)
            else:
                self.reached += code == 0
        self.runs += 1
        self.seconds += time.monotonic() - began


def _number(value: str) -> int:
    """The number that a figure begins with."""
    found = re.match(r"[\d,]+", value)
    return int(found[0].replace(",", "")) if found else 0


def _line(name: str, result: _Result | None) -> tuple[str, ...]:
    if result is None:
        return name, f"not available: {MISSING[name]}", "", "", ""
    row = ROWS[name]
    if result.left_out:
        return name, f"{row.what}: left out: {result.left_out}", "", "", ""
    if not result.runs:
        return name, f"{row.what}: not begun in the time", "", "", ""
    reached = f"{result.reached:,} {row.unit}"
    return name, row.what, reached, str(result.violations), f"{result.seconds:.0f}"


def run_tests(words: Sequence[str]) -> list[tuple[str, str]]:
    """Tests as a rig; raises BrokenPromiseError, and UnavailableError where all of them are left out."""
    if find_spec("pytest") is None:
        raise UnavailableError("there is no pytest here; tools/test installs it")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().rpartition("\n")[2]
    passed = re.search(r"(\d+) passed", last)
    if done.returncode:
        raise BrokenPromiseError(done.stdout.splitlines()[-_SHOWN_LINES:])
    if passed is None:
        raise UnavailableError(f"tests: {last}")
    return [("tests passed", passed[1])]
