"""Makes a failing scenario short, and tells it as a story."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from tests.simulation.run import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.run import Outcome
    from tests.simulation.scenario import Scenario

RUNS_MAX = 120
"""A scenario is small: more runs make it no shorter."""
_REST_SECONDS = 1.0
_MESSAGE = re.compile(r"message (\d+) of (\w+)")


def shrink(outcome: Outcome, runs_max: int = RUNS_MAX) -> Outcome:
    """The shortest scenario found that still fails, of one that does; what fails may be another promise."""
    runs = 0
    is_shorter = True
    while is_shorter and runs < runs_max:
        is_shorter = False
        for scenario in shorter(outcome.scenario):
            runs += 1
            found = run(scenario)
            if found.violations:
                outcome, is_shorter = found, True
                break
            if runs >= runs_max:
                break
    return outcome


def shorter(scenario: Scenario) -> Iterator[Scenario]:
    """Scenarios with a little less, the boldest first."""
    actions = scenario.actions
    size = len(actions) // 2
    while size:
        for start in range(0, len(actions), size):
            yield attrs.evolve(scenario, actions=actions[:start] + actions[start + size :])
        size //= 2
    for topic in scenario.topics:
        if len(scenario.topics) > 1:
            yield attrs.evolve(scenario, topics=tuple(t for t in scenario.topics if t is not topic))
    if scenario.slave_count > 1:
        yield attrs.evolve(scenario, slave_count=scenario.slave_count - 1)
    if scenario.producer_count > 1:
        yield attrs.evolve(scenario, producer_count=1)
    if scenario.consumer_count:
        yield attrs.evolve(scenario, consumer_count=scenario.consumer_count - 1)
    last_seconds = actions[-1].at_seconds if actions else 0.0
    if scenario.seconds > last_seconds + _REST_SECONDS + 0.1:
        yield attrs.evolve(scenario, seconds=last_seconds + _REST_SECONDS)


def story(outcome: Outcome) -> str:
    """What happened, in the order of time, and what it broke."""
    named = {match.groups() for text in outcome.violations for match in _MESSAGE.finditer(text)}
    lines = [str(outcome.scenario), "", "the schedule:"]
    lines += [f"  {action}" for action in outcome.scenario.actions]
    lines += ["", "what happened:"]
    for event in outcome.events:
        is_named = any(event.who == who and f" {number}: " in event.text for number, who in named)
        if is_named or not event.is_detail:
            lines.append(f"  {event}")
    lines += ["", "what is broken:"]
    lines += [f"  {violation}" for violation in outcome.violations]
    return "\n".join(lines)
