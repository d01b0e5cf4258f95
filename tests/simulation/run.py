"""One run of one scenario, from its first event to the verdict."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs
import trio

from tests.simulation.cluster import Cluster
from tests.simulation.determinism import deterministic, run_in_virtual_time
from tests.simulation.network import SimSockets
from tests.simulation.scenario import scenario_of
from tests.simulation.verifier import Verifier
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.scenario import Scenario
    from tests.simulation.world import Event

_CPU_STEPS_SECONDS = 600.0
"""Of virtual time: a run that has not ended by then hangs."""


@attrs.frozen
class Outcome:
    """What came of a run."""

    scenario: Scenario
    events: tuple[Event, ...]
    violations: tuple[str, ...]
    seconds: float
    """Of virtual time."""
    sent: int
    acknowledged: int
    delivered: int

    def transcript(self) -> str:
        """Every event, for comparing two runs."""
        return "\n".join(map(str, self.events))


def simulate(seed: int) -> Outcome:
    """Run the scenario of a seed."""
    return run(scenario_of(seed))


def run(scenario: Scenario) -> Outcome:
    """Run a scenario; the same one gives the same outcome, event by event."""
    outcome: Outcome | None = None
    logging.disable(logging.CRITICAL)

    async def main() -> None:
        nonlocal outcome
        outcome = await _run(scenario, end)

    try:
        with deterministic(scenario.seed) as end:
            run_in_virtual_time(main)
    finally:
        logging.disable(logging.NOTSET)
    assert outcome is not None
    return outcome


async def _run(scenario: Scenario, end: Callable[[], None]) -> Outcome:
    world = World(scenario.seed)
    with trio.move_on_after(_CPU_STEPS_SECONDS) as patience:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.timers.run)
            cluster = Cluster(world, scenario, nursery)
            trio.socket.set_custom_socket_factory(SimSockets(cluster.network))
            try:
                for name in cluster.machines:
                    cluster.start(name)
                await cluster.begin()
                cluster.start_clients()
                await cluster.carry_out()
                await cluster.settle()
                world.violations += Verifier(cluster).check()
            finally:
                end()
            nursery.cancel_scope.cancel()
    if patience.cancelled_caught:
        world.violations.append("the run has not come to its end")
    history = cluster.history
    return Outcome(
        scenario,
        tuple(world.events),
        tuple(world.violations),
        trio.current_time(),
        len(history.sent),
        sum(message.is_acknowledged for message in history.sent.values()),
        len(history.deliveries),
    )
