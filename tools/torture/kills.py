"""SIGKILL at random moments under load: the master, the slave, both; restart, and look at everything."""

from __future__ import annotations

import time
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from tools.torture.load import Consumer, Load
from tools.torture.nodes import until
from tools.torture.verifier import BrokenPromiseError, PrefixCheck, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tools.torture.logfiles import Name
    from tools.torture.nodes import Node, Place

Victim = Literal["master", "slave", "both"]

TOPICS = ("[topic=orders]\nnumPartitions=3", "[topic=events]\nnumPartitions=1")
NAMES: tuple[Name, ...] = (("orders", 0), ("orders", 1), ("orders", 2), ("events", 0))
SETTINGS = {
    "maxSegmentSize": 4 * 1024 * 1024,
    "recoveryCheckpointBytes": 1024 * 1024,
    "maxTransferSize": 1024 * 1024,
}
"""Small, so that the kills also meet rolls and checkpoints."""
CONNECTIONS = 4

_KILLED_AGAIN = 0.3
_START_SECONDS = (0.1, 0.5)
"""About when a start recovers the logs and becomes ready."""
_LOAD_SECONDS_MAX = 15.0
_CATCH_UP_SECONDS_MAX = 60.0
_PREFIX_SECONDS = 0.01


@attrs.define
class Figures:
    """What a run has come to."""

    kills: Counter[str] = attrs.Factory(Counter)
    master_start_seconds_max: float = 0.0
    slave_start_seconds_max: float = 0.0
    catch_up_seconds: float = 0.0
    seconds: float = 0.0


@attrs.define(eq=False)
class Killing:
    """One run: a master, a slave, and the seed that decides who is killed and when."""

    place: Place
    seed: int
    on_look: Callable[[Killing], None] = lambda _: None
    """Told after each look at the logs."""
    verifier: Verifier = attrs.Factory(Verifier)
    figures: Figures = attrs.Factory(Figures)
    load_seconds: tuple[float, float] = (0.05, 0.5)
    """How long the load goes on before a kill, from its first acknowledgement."""
    prefix: PrefixCheck = attrs.field(init=False)
    _random: Random = attrs.field(init=False)
    _load_random: Random = attrs.field(init=False)
    """How often the load draws depends on the machine: the kills have a source of their own."""

    def __attrs_post_init__(self) -> None:
        self._random, self._load_random = Random(self.seed), Random(self.seed)
        self.prefix = PrefixCheck(self.place.master_data, self.place.slave_data)

    async def run(self, victims: Sequence[Victim]) -> None:
        """Kill in this order; raises BrokenPromiseError where a promise is broken."""
        began = time.monotonic()
        await trio.to_thread.run_sync(self.place.master.start)
        await trio.to_thread.run_sync(self.place.slave.start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.prefix.keep_looking, _PREFIX_SECONDS)
            left = list(victims)
            while left:
                # The load goes on over the kills of a slave; that of its master ends it.
                lives = [victim for victim in left if victim != "slave"]
                count = left.index(lives[0]) + 1 if lives else len(left)
                await self._one_life(left[:count])
                del left[:count]
            await self._catch_up()
            nursery.cancel_scope.cancel()
        await self._finish()
        self.figures.seconds = time.monotonic() - began

    async def _one_life(self, victims: Sequence[Victim]) -> None:
        """Load on a running master and slave while these are killed; at the end both run again."""
        load = Load(self.verifier, NAMES, self._load_random)
        async with trio.open_nursery() as nursery:
            # What a consumer of the slave is given must be in the master's log for ever.
            nursery.start_soon(
                Consumer(self.verifier, self._load_random.choice(NAMES)).run, self.place.slave.port
            )
            async with trio.open_nursery() as loading:
                loading.start_soon(load.run, self.place.master.port, CONNECTIONS)
                for victim in victims:
                    await self._kill(victim, load)
                load.stop()
            nursery.cancel_scope.cancel()
        if not self.place.master.is_running:
            await self._restart(self.place.master)
            starts = self.figures.master_start_seconds_max, self.place.master.start_seconds
            self.figures.master_start_seconds_max = max(starts)
        await trio.to_thread.run_sync(self._check)
        if not self.place.slave.is_running:
            await self._restart_slave()
        self.on_look(self)

    async def _kill(self, victim: Victim, load: Load) -> None:
        before = load.acknowledged
        await until(lambda: load.acknowledged > before, _LOAD_SECONDS_MAX, "puts are acknowledged")
        await trio.sleep(self._random.uniform(*self.load_seconds))
        if victim in ("slave", "both"):
            self.place.slave.kill()
        if victim in ("master", "both"):
            self.place.master.kill()
        self.figures.kills[victim] += 1
        if victim == "slave":
            await self._restart_slave()

    async def _restart_slave(self) -> None:
        await self._restart(self.place.slave)
        starts = self.figures.slave_start_seconds_max, self.place.slave.start_seconds
        self.figures.slave_start_seconds_max = max(starts)

    async def _read_slave(self) -> None:
        """A consumer of the slave: what it is given must be in the master's log for ever."""
        await Consumer(self.verifier, self._load_random.choice(NAMES)).run(self.place.slave.port)

    async def _restart(self, node: Node) -> None:
        """Start a node that was killed; now and then it is killed once more before it is ready."""
        if self._random.random() < _KILLED_AGAIN:
            node.launch()
            await trio.sleep(self._random.uniform(*_START_SECONDS))
            node.kill()
            self.figures.kills["starting"] += 1
        await trio.to_thread.run_sync(node.start)

    def _check(self) -> None:
        self.verifier.check(self.place.master_data)
        problems = self.place.master.problems()
        if problems:
            raise BrokenPromiseError(problems)

    async def _catch_up(self) -> None:
        began = time.monotonic()
        await until(lambda: not self.prefix.is_behind(), _CATCH_UP_SECONDS_MAX, "the slave has caught up")
        self.figures.catch_up_seconds = time.monotonic() - began
        await until(self._is_well, _CATCH_UP_SECONDS_MAX, "the slave says that all is well")
        problems = self.place.slave.problems()
        if problems:
            raise BrokenPromiseError(problems)

    def _is_well(self) -> bool:
        """Connected again, which may take it a moment, and without a lag."""
        status = self.place.slave.ask("slave-status")
        return bool(status["connected"]) and status["lag_bytes"] == 0

    async def _finish(self) -> None:
        """Everything once more from the first byte, running and after a clean stop."""
        await trio.to_thread.run_sync(self.prefix.look_at_everything)
        await trio.to_thread.run_sync(self.place.slave.stop)
        await trio.to_thread.run_sync(self.place.master.stop)
        await trio.to_thread.run_sync(self.verifier.check_all_again, self.place.master_data)
        differences = self.prefix.differences()
        if differences:
            raise BrokenPromiseError(differences)


def lottery(seed: int, *, master: int, slave: int, both: int = 0) -> list[Victim]:
    """So many kills of each, in an order the seed decides."""
    victims: list[Victim] = [*["master"] * master, *["slave"] * slave, *["both"] * both]  # type: ignore[list-item]
    Random(seed).shuffle(victims)
    return victims
