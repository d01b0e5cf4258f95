"""Bits that change on the way between a master and its slave, in both directions, under load. Row N5.

TCP would find nearly all of them; a proxy between the two makes sums that fit again. Whatever the slave is
told, nothing wrong may be in its files, and once nothing changes any more it must have everything, by itself.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from tools.torture.load import Load
from tools.torture.nodes import NodeError, Place, until
from tools.torture.proxy import Flipper, LongWay, long_way
from tools.torture.verifier import BrokenPromiseError, PrefixCheck, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tools.torture.logfiles import Name

TOPICS = ("[topic=orders]\nnumPartitions=3",)
NAMES: tuple[Name, ...] = (("orders", 0), ("orders", 1), ("orders", 2))
SETTINGS = {"maxSegmentSize": 1024 * 1024}
_BYTES_BETWEEN = 50_000
_CONNECTIONS = 2
_FLIPS_SECONDS_MAX = 300.0
_WELL_SECONDS_MAX = 60.0
_PAUSE_SECONDS = 0.5
_MESSAGES = 500


@attrs.define(eq=False)
class Flipping:
    """One run."""

    place: Place
    flips: int
    flipper: Flipper
    say: Callable[[str], None]
    verifier: Verifier = attrs.Factory(Verifier)
    way: LongWay = attrs.field(init=False)
    prefix: PrefixCheck = attrs.field(init=False)
    _random: Random = attrs.Factory(lambda: Random(1))

    def __attrs_post_init__(self) -> None:
        self.prefix = PrefixCheck(self.place.master_data, self.place.slave_data)

    async def run(self) -> None:
        """Raises BrokenPromiseError where something wrong is stored, or the slave stays behind."""
        place = self.place
        await trio.to_thread.run_sync(place.master.start)
        async with long_way(("127.0.0.1", place.master_port), 0.0) as self.way:
            self.way.change = self.flipper
            place.follow(f"127.0.0.1:{self.way.port}")
            await trio.to_thread.run_sync(place.slave.start)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.prefix.keep_looking)
                with trio.move_on_after(_FLIPS_SECONDS_MAX):
                    while self.flipper.flips < self.flips:
                        await self._load()
                        self.say(f"{self.flipper.flips} of {self.flips} bits changed")
                self.flipper.is_on = False
                await self._load()
                try:
                    await until(self._is_well, _WELL_SECONDS_MAX, "the slave has everything")
                except NodeError as error:
                    raise BrokenPromiseError([str(error), *self._slave_says()]) from error
                nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(self._finish)

    async def _load(self) -> None:
        load = Load(self.verifier, NAMES, self._random)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, self.place.master.port, _CONNECTIONS)
            await until(lambda: load.acknowledged >= _MESSAGES, 60.0, "messages are acknowledged")
            load.stop()
        # What is on its way to the slave meanwhile shall meet flips too.
        await trio.sleep(_PAUSE_SECONDS)

    def _is_well(self) -> bool:
        return self.place.is_well() and not self.prefix.is_behind()

    def _slave_says(self) -> list[str]:
        return [*self.place.slave.problems(), self.place.slave.log_tail()]

    def _finish(self) -> None:
        self.prefix.look_at_everything()
        self.place.slave.stop()
        self.place.master.stop()
        self.verifier.check(self.place.master_data)
        violations = [
            *self.prefix.differences(),
            *(
                f"{node.output.name}: {node.log_tail()}"
                for node in (self.place.master, self.place.slave)
                if "Traceback" in node.output.read_text(encoding="utf-8")
            ),
        ]
        if violations:
            raise BrokenPromiseError(violations)


def run_flips(base: Path, flips: int, seed: int, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """Change so many bits. Raises NodeError and BrokenPromiseError."""
    place = Place(base / "place", TOPICS, settings=SETTINGS)
    flipping = Flipping(place, flips, Flipper(Random(seed), _BYTES_BETWEEN), say)
    try:
        trio.run(flipping.run)
    finally:
        place.end()
    return [
        ("seed", str(seed)),
        ("bits changed", f"{flipping.flipper.flips:,}"),
        ("bytes on the way", f"{flipping.way.passed_bytes:,}"),
        ("connections of the slave", f"{flipping.way.connections:,}"),
        ("messages acknowledged", f"{flipping.verifier.acknowledged:,}"),
        ("looks at the slave: a byte prefix each time", f"{flipping.prefix.rounds:,}"),
        ("master and slave files at the end", "identical"),
    ]
