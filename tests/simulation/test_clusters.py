"""Whole clusters in virtual time: whatever a seed does to them, they keep what they have promised."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from tests.simulation.models import MODELS
from tests.simulation.run import simulate
from tests.support import ROOT

SEEDS = range(1, 41)
"""Of the short run; ``tools/simulate`` goes on from there."""
TRANSACTIONS = range(10_000, 10_010)
"""As above, with producers of transactions."""
ROT = range(20_000, 20_010)
"""As above, with disks that change what they hold."""
JOURNAL_ROT = range(30_000, 30_010)
"""As above, also what the journal of transactions holds."""
REPAIRED = (494, 659, 848, 863, 1446, 2463, 2494, 2836, 3070, 3243, 3445, 4133, 4142, 4433, 4623,
            10_103, 10_149, 10_150, 10_423, 10_482, 10_494, 20_017, 20_020, 20_072, 20_808)  # fmt: skip
"""They broke a promise once; docs/reliability.md says which."""
SEEN_BY = {
    "commit_not_finished": TRANSACTIONS,
    "commit_finished_blindly": TRANSACTIONS,
    "floors_kept": [10_149],
    "journal_with_a_hole_taken": [20_839],
    "commit_sought_past_damage": [20_017],
}
"""Models of transactions; the others are seen by the short run."""
GROUP = 10
_PRINT_DIGEST = """
import hashlib
from tests.simulation.run import simulate
print(hashlib.sha256(simulate({seed}).transcript().encode()).hexdigest())
"""


@pytest.mark.parametrize(
    "first", [*SEEDS[::GROUP], *TRANSACTIONS[::GROUP], *ROT[::GROUP], *JOURNAL_ROT[::GROUP]]
)
def test_no_promise_is_broken(first: int) -> None:
    broken = []
    for seed in range(first, first + GROUP):
        outcome = simulate(seed)
        assert outcome.acknowledged > 0, "a run without load shows nothing"
        if outcome.violations:
            broken.append(f"tools/simulate --seed {seed}: {'; '.join(outcome.violations)}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("model", MODELS)
def test_a_broken_model_is_seen(model: str) -> None:
    with MODELS[model]():
        assert any(simulate(seed).violations for seed in SEEN_BY.get(model, SEEDS)), MODELS[model].__doc__


@pytest.mark.parametrize("seed", REPAIRED)
def test_what_was_repaired_stays_so(seed: int) -> None:
    assert not simulate(seed).violations


@pytest.mark.parametrize("seed", [3, 16])
def test_a_seed_replays_a_run_event_by_event(seed: int) -> None:
    first, second = simulate(seed), simulate(seed)
    assert first.transcript() == second.transcript()
    assert len(first.events) > 100
    assert first.transcript() != simulate(seed + 1).transcript()


@pytest.mark.parametrize("seed", [5, 10_494])
def test_a_seed_means_the_same_in_every_process(seed: int) -> None:
    """The second once depended on where in memory connections lay, and on the number of the process."""
    digest = hashlib.sha256(simulate(seed).transcript().encode()).hexdigest()
    printed = subprocess.run(
        [sys.executable, "-c", _PRINT_DIGEST.format(seed=seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == digest
