"""Many deadlines, one task: long polls and flush intervals need no task each. On trio or asyncio."""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

import anyio
import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

_DEAD_MIN = 1000
"""Below so many cancelled timers the heap is not cleaned."""


@attrs.define(eq=False)
class Timer:
    """One scheduled call."""

    due: float
    """On the loop's clock, in seconds."""
    callback: Callable[[], None] | None
    """None once it was called or cancelled."""


@attrs.define(eq=False)
class Timers:
    """Calls synchronous callbacks in the order of their deadlines, from :meth:`run`."""

    _heap: list[tuple[float, int, Timer]] = attrs.Factory(list)
    _sequence: count[int] = attrs.Factory(count)
    _earlier: anyio.Event = attrs.Factory(anyio.Event)
    _dead: int = 0

    def schedule(self, after_seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back after a time; the callback must not raise."""
        timer = Timer(anyio.current_time() + after_seconds, callback)
        heapq.heappush(self._heap, (timer.due, next(self._sequence), timer))
        if self._heap[0][2] is timer:
            self._earlier.set()
        return timer

    def cancel(self, timer: Timer) -> None:
        """Do not call back; harmless when it already happened."""
        if timer.callback is None:
            return
        timer.callback = None
        self._dead += 1
        # A long poll that is answered early leaves its timer behind: without this, thousands a second.
        if self._dead > _DEAD_MIN and self._dead > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    async def run(self) -> None:
        """Fire what is due, until cancelled."""
        while True:
            now = anyio.current_time()
            while self._heap and (self._heap[0][0] <= now or self._heap[0][2].callback is None):
                timer = heapq.heappop(self._heap)[2]
                callback, timer.callback = timer.callback, None
                if callback is None:
                    self._dead = max(0, self._dead - 1)
                else:
                    callback()
            self._earlier = anyio.Event()
            sleep_seconds = self._heap[0][0] - now if self._heap else float("inf")
            with anyio.move_on_after(sleep_seconds):
                await self._earlier.wait()
