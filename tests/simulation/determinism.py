"""Makes a run a function of its seed: of one integer come scheduling, random numbers and names."""

from __future__ import annotations

import gc
import os
import random
import socket
import uuid
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_SEED = random.Random.seed
_SCOPE = trio.CancelScope


@contextmanager
def deterministic(seed: int) -> Iterator[Callable[[], None]]:
    """Whoever draws random numbers without a seed of its own has one of this block's.

    Gives what has to be called at the end of a run: a process may have died behind a shield from
    cancellation, where what it waited for does not come any more.
    """
    source = random.Random(seed)
    shields: list[trio.CancelScope] = []

    def seed_with(self: random.Random, a: int | str | None = None, version: int = 2) -> None:
        _SEED(self, source.getrandbits(64) if a is None else a, version)

    def next_uuid() -> uuid.UUID:
        return uuid.UUID(int=source.getrandbits(128), version=4)

    def scope(**options: Any) -> trio.CancelScope:  # noqa: ANN401 - whatever trio's has
        made = _SCOPE(**options)
        if made.shield:
            shields.append(made)
        return made

    def end() -> None:
        for shield in shields:
            shield.shield = False

    state = random.getstate()
    with ExitStack() as stack:
        # As pytest-trio does it for Hypothesis: tasks are sorted by age, then shuffled by this generator.
        stack.enter_context(patch.object(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True))
        stack.enter_context(patch.object(trio_run, "_r", random.Random(seed)))
        stack.enter_context(patch.object(random.Random, "seed", seed_with))
        stack.enter_context(patch.object(uuid, "uuid4", next_uuid))
        # They are told to others, and the length of what is told counts.
        stack.enter_context(patch.object(os, "getpid", lambda: 4711))
        stack.enter_context(patch.object(socket, "gethostname", lambda: "simulated"))
        stack.enter_context(patch.object(trio.to_thread, "run_sync", _refuse_thread))
        stack.enter_context(patch.object(trio, "CancelScope", scope))
        random.seed(seed)
        stack.callback(random.setstate, state)
        yield end


async def _refuse_thread(job: object, *_arguments: object, **_options: object) -> None:
    """Virtual time would not wait for it."""
    raise AssertionError(f"a thread for {job}")


def run_in_virtual_time(run: Callable[[], Awaitable[None]]) -> None:
    """Time stands still while anything is to be done, and jumps to the next deadline when nothing is."""
    was_enabled = gc.isenabled()
    # A collection in the middle would end what is no longer used at a moment of its own.
    gc.disable()
    try:
        trio.run(run, clock=MockClock(autojump_threshold=0))
    finally:
        if was_enabled:
            gc.enable()
