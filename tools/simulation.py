"""Simulate clusters by seed: ``tools/simulate --seeds 1-5000``, or ``--seed 17`` for one and its story.

Every seed is a cluster, its load and its faults, and replays a run exactly, on any machine. A seed that
breaks a promise is shrunk to a short schedule, which is printed as a story; the exit code is 1 then.
``--model NAME`` breaks the system on purpose. At the end comes one table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING

import attrs

from tests.simulation.models import MODELS
from tests.simulation.run import simulate
from tests.simulation.shrinking import shrink, story

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.simulation.run import Outcome

_SHOWN_SECONDS = 10.0


@attrs.define
class Totals:
    """Of all seeds."""

    seeds: int = 0
    virtual_seconds: float = 0.0
    sent: int = 0
    acknowledged: int = 0
    delivered: int = 0
    actions: Counter[str] = attrs.Factory(Counter)
    failed: list[int] = attrs.Factory(list)

    def add(self, outcome: Outcome) -> None:
        """Count a run."""
        self.seeds += 1
        self.virtual_seconds += outcome.seconds
        self.sent += outcome.sent
        self.acknowledged += outcome.acknowledged
        self.delivered += outcome.delivered
        self.actions.update(action.kind for action in outcome.scenario.actions)
        if outcome.violations:
            self.failed.append(outcome.scenario.seed)

    def table(self, seconds: float) -> str:
        """For docs/reliability.md."""
        rows = [
            ("seeds", f"{self.seeds:,}"),
            ("hours of cluster time", f"{self.virtual_seconds / 3600:,.1f}"),
            ("messages sent, acknowledged", f"{self.sent:,}, {self.acknowledged:,}"),
            ("messages delivered", f"{self.delivered:,}"),
            ("faults", ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.actions.items()))),
            ("seeds that broke a promise", ", ".join(map(str, self.failed)) or "none"),
            ("seconds", f"{seconds:.0f}"),
        ]
        return "\n".join(f"| {what} | {figure} |" for what, figure in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as many seeds as asked for; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="tools/simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="this one alone, and tell its story")
    parser.add_argument("--seeds", type=_seed_range, default=range(1, 201), metavar="FIRST-LAST")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--model", choices=sorted(MODELS), help="break the system so")
    parser.add_argument("--no-shrink", action="store_true", help="tell the story as it is")
    options = parser.parse_args(arguments)
    model = nullcontext() if options.model is None else MODELS[options.model]()
    with model:
        if options.seed is not None:
            outcome = simulate(options.seed)
            _tell(outcome, is_shrunk=not options.no_shrink)
            return 1 if outcome.violations else 0
        return _run(options.seeds, options.processes, is_shrunk=not options.no_shrink)


def _run(seeds: range, processes: int, *, is_shrunk: bool) -> int:
    totals, began, shown = Totals(), time.monotonic(), time.monotonic()
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for outcome in pool.imap_unordered(simulate, seeds):
            totals.add(outcome)
            if outcome.violations:
                print(f"seed {outcome.scenario.seed}: {outcome.violations[0]}", flush=True)
            if time.monotonic() - shown > _SHOWN_SECONDS:
                shown = time.monotonic()
                print(f"{totals.seeds} of {len(seeds)} seeds", file=sys.stderr, flush=True)
    totals.failed.sort()
    if totals.failed:
        _tell(simulate(totals.failed[0]), is_shrunk=is_shrunk)
    print(totals.table(time.monotonic() - began))
    return 1 if totals.failed else 0


def _tell(outcome: Outcome, *, is_shrunk: bool) -> None:
    print(story(shrink(outcome) if outcome.violations and is_shrunk else outcome))
    if not outcome.violations:
        print("  nothing")


def _seed_range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    sys.exit(main())
