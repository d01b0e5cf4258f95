"""A failing seed becomes a short schedule, and a story that names what it broke."""

from __future__ import annotations

from tests.simulation.models import MODELS
from tests.simulation.run import run, simulate
from tests.simulation.shrinking import shorter, shrink, story

SEED = 1
MODEL = "truncate_without_quarantine"


def test_a_failing_seed_is_shrunk_and_told() -> None:
    with MODELS[MODEL]():
        failed = simulate(SEED)
        shrunk = shrink(failed, runs_max=25)
        again = run(shrunk.scenario)
    assert failed.violations
    assert shrunk.violations
    assert again.transcript() == shrunk.transcript()
    assert len(shrunk.scenario.actions) < len(failed.scenario.actions)
    told = story(shrunk)
    assert "promote" in told
    assert "is not there" in told
    assert len(told.splitlines()) < 80
    assert run(shrunk.scenario).violations == (), "without the model the schedule does no harm"


def test_each_step_of_shrinking_takes_something_away() -> None:
    scenario = simulate(SEED).scenario
    for candidate in shorter(scenario):
        assert candidate != scenario
        assert set(candidate.actions) <= set(scenario.actions)
