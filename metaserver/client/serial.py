"""Blocking calls from tasks, one at a time, in worker threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


@attrs.define(eq=False)
class Serial:
    """Runs calls one after another, in the order they were asked for."""

    _turn: anyio.Lock = attrs.Factory(anyio.Lock)
    _in_thread: threading.Lock = attrs.Factory(threading.Lock)
    # asyncio's own Task.cancel(), unlike a cancel scope, tears a task away from a thread that works on.

    async def run(self, call: Callable[[], Result]) -> Result:
        """What ``call`` returns or raises.

        A cancelled scope ends the wait for the turn: nothing has been called. A call that has begun is waited
        for, and what it returns is returned.
        """
        async with self._turn:
            return await anyio.to_thread.run_sync(self._run, call)

    def _run(self, call: Callable[[], Result]) -> Result:
        with self._in_thread:
            return call()
