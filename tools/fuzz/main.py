"""Fuzz parsers, files and ports: all, or those named. Ends with a table; exit code 1 where one failed.

Parsers and files are guided by coverage (atheris); without atheris, seeds are mutated blindly. An input that
fails is put into tests/fuzzing/corpus/TARGET, where it fails the tests as well until the fault is repaired.
``--keep`` adds to the corpus what reaches code that nothing in it reaches.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tests.fuzzing.ports import PORTS, fuzz_port
from tests.fuzzing.targets import CORPUS, TARGETS, kept_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fuzzing.target import Target

_INPUT_SECONDS_MAX = 20
"""An input that takes longer is a hang; the machine may be busy."""
_MEMORY_MEGABYTES_MAX = 1024
_INPUT_BYTES_MAX = 16 * 1024
_KEPT_BYTES_MAX = 1024
"""Of an input that ``--keep`` adds: the corpus is to stay small."""
_RUNS = re.compile(r"stat::number_of_executed_units:\s*([0-9]+)")
_EDGES = re.compile(r"cov: ([0-9]+)")


@attrs.frozen
class Outcome:
    """A line of the table."""

    target: str
    inputs: int
    covered: str
    """Edges of the code that were reached; blank without coverage."""
    seconds: float
    fault: str = ""
    """What is wrong, and with which input."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the exit code."""
    names = [*TARGETS, *PORTS]
    parser = argparse.ArgumentParser(
        prog="tools/fuzz/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names)}")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target; default: %(default)s")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--keep", action="store_true", help="add to the corpus what reaches new code")
    options = parser.parse_args(arguments)
    unknown = set(options.targets) - set(names)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    is_guided = importlib.util.find_spec("atheris") is not None
    outcomes = []
    for name in options.targets or names:
        print(f"fuzz: {name}, seed {options.seed}", file=sys.stderr, flush=True)
        seconds = options.minutes * 60
        if name in PORTS:
            outcome = _fuzz_port(name, seconds, options.seed)
        elif is_guided:
            outcome = _guided(TARGETS[name], seconds, options.seed, keep=options.keep)
        else:
            outcome = _blind(TARGETS[name], seconds, options.seed)
        if outcome.fault:
            print(outcome.fault, file=sys.stderr)
        outcomes.append(outcome)
    _print_table(outcomes)
    return int(any(outcome.fault for outcome in outcomes))


def _guided(target: Target, seconds: float, seed: int, *, keep: bool) -> Outcome:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="metaserver-fuzz-") as directory:
        found, seeds, faults = (Path(directory, name) for name in ("found", "seeds", "faults"))
        for path in (found, seeds, faults):
            path.mkdir()
        for number, data in enumerate([*target.seeds, *kept_inputs(target)]):
            (seeds / str(number)).write_bytes(data)
        words = Path(directory, "words")
        words.write_text("".join(f"{_quoted(word)}\n" for word in (*target.words, b"\0")), encoding="ascii")
        run = _libfuzzer(
            target.name,
            f"-dict={words}",
            f"-seed={seed}",
            f"-max_total_time={max(1, round(seconds))}",
            f"-timeout={_INPUT_SECONDS_MAX}",
            f"-rss_limit_mb={_MEMORY_MEGABYTES_MAX}",
            f"-max_len={_INPUT_BYTES_MAX}",
            f"-artifact_prefix={faults}/",
            "-print_final_stats=1",
            str(found),
            str(seeds),
        )
        fault = ""
        for path in sorted(faults.iterdir()):
            kept = _keep(target, path.read_bytes())
            fault += f"{kept}: {path.name.partition('-')[0]}\n{_said(run.stdout)}\n"
        if run.returncode and not fault:
            fault = _said(run.stdout)
        if keep and not fault:
            _keep_new(target, found, seeds, Path(directory, "merged"))
    runs, edges = _RUNS.search(run.stdout), _EDGES.findall(run.stdout)
    return Outcome(
        target.name,
        int(runs[1]) if runs else 0,
        edges[-1] if edges else "",
        time.monotonic() - began,
        fault,
    )


def _said(output: str) -> str:
    """The end of what libFuzzer says: from the exception on, where there is one."""
    return output[max(output.rfind("=== Uncaught"), len(output) - 4000) :]


def _keep_new(target: Target, found: Path, seeds: Path, merged: Path) -> None:
    """Add the smallest inputs that together reach what the seeds do not."""
    merged.mkdir()
    _libfuzzer(target.name, "-merge=1", str(merged), str(seeds), str(found))
    known = {path.read_bytes() for path in seeds.iterdir()}
    for path in sorted(merged.iterdir()):
        data = path.read_bytes()
        if data not in known and len(data) <= _KEPT_BYTES_MAX:
            _keep(target, data)


def _libfuzzer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "tools.fuzz.guided", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=dict(os.environ),
        check=False,
    )


def _quoted(word: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"'


def _blind(target: Target, seconds: float, seed: int) -> Outcome:
    """Seeds with pieces of them moved, doubled, dropped and replaced by words."""
    choose, began, inputs = random.Random(seed), time.monotonic(), 0
    pieces = [*target.seeds, *kept_inputs(target)]
    while time.monotonic() - began < seconds:
        data = choose.choice(pieces)
        for _ in range(choose.randrange(5)):
            start = choose.randrange(len(data) + 1)
            end = min(len(data), start + choose.choice([0, 0, 1, 2, 4, 8, 40]))
            other = choose.choice(
                [data[start:end], choose.randbytes(3), *target.words, choose.choice(pieces)]
            )
            data = data[:start] + other * choose.choice([1, 1, 1, 2, 50]) + data[end:]
            data = data[:_INPUT_BYTES_MAX]
        inputs += 1
        try:
            target.run(data)
        except Exception:  # noqa: BLE001 - any is a finding
            fault = f"{_keep(target, data)}\n{traceback.format_exc()}"
            return Outcome(target.name, inputs, "", time.monotonic() - began, fault)
    return Outcome(target.name, inputs, "", time.monotonic() - began)


def _keep(target: Target, data: bytes) -> Path:
    folder = CORPUS / target.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / sha1(data).hexdigest()[:16]
    path.write_bytes(data)
    return path


def _fuzz_port(name: str, seconds: float, seed: int) -> Outcome:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="metaserver-fuzz-") as directory:
        try:
            cases = fuzz_port(name, Path(directory, "node"), seed, seconds=seconds)
        except Exception:  # noqa: BLE001 - any is a finding
            return Outcome(name, 0, "", time.monotonic() - began, traceback.format_exc())
    return Outcome(name, cases, "", time.monotonic() - began)


def _print_table(outcomes: Sequence[Outcome]) -> None:
    print("| target | inputs | edges | seconds | faults |")
    print("|---|---|---|---|---|")
    for outcome in outcomes:
        fault = outcome.fault.partition("\n")[0] or "none"
        print(
            f"| {outcome.target} | {outcome.inputs:,} | {outcome.covered} | {outcome.seconds:.0f} | {fault} |"
        )


if __name__ == "__main__":
    sys.exit(main())
