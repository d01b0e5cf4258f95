"""What all parts of one simulated run share: time, the event log, processes, streams of random numbers."""

from __future__ import annotations

from contextvars import ContextVar
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.timers import Timers
from tests.storage.faulty_filesystem import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

WALL_SECONDS = 1_700_000_000.0
"""When every run begins."""


@attrs.frozen
class Event:
    """Something that happened, for the story and for comparing two runs."""

    seconds: float
    who: str
    text: str
    is_detail: bool = False
    """Whether the story leaves it out."""

    def __str__(self) -> str:
        return f"{self.seconds:10.4f}  {self.who:<10} {self.text}"


@attrs.define(eq=False)
class Process:
    """One life of a node or a client. What it left behind must do nothing after its death."""

    name: str
    address: str
    """Of its machine."""
    is_alive: bool = True
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    on_death: list[Callable[[], None]] = attrs.Factory(list)

    def die(self) -> None:
        """From this moment on it has no effect on anything; its tasks are cancelled."""
        if not self.is_alive:
            return
        self.is_alive = False
        for callback in self.on_death:
            callback()
        self.scope.cancel()

    def guard(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call it only if the process still lives then."""

        def guarded() -> None:
            if self.is_alive:
                callback()

        return guarded


current_process: ContextVar[Process] = ContextVar("current_process")
"""Who connects."""


class SimClock(FakeClock):
    """Time that passes when nothing is to be done."""

    def wall_seconds(self) -> float:
        return WALL_SECONDS + trio.current_time()

    def monotonic_seconds(self) -> float:
        return trio.current_time()


@attrs.define(eq=False)
class World:
    """Of one run."""

    seed: int
    timers: Timers = attrs.Factory(Timers)
    events: list[Event] = attrs.Factory(list)
    violations: list[str] = attrs.Factory(list)
    """What was found wrong while the run went on."""

    def random(self, purpose: str) -> Random:
        """A stream of its own for each purpose: taking a fault away leaves the others as they were."""
        return Random(f"{self.seed} {purpose}")

    def log(self, who: str, text: str, *, is_detail: bool = False) -> None:
        self.events.append(Event(trio.current_time(), who, text, is_detail))

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        self.timers.schedule(seconds, callback)
