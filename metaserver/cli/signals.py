"""What a verb that is under way does at a signal."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


async def on_signal(
    act: Callable[[int], object],
    *numbers: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call it for each of these signals, until cancelled; for ``nursery.start``."""
    with trio.open_signal_receiver(*numbers) as signals:
        task_status.started()
        async for number in signals:
            act(number)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the block as Control-C does; for the main thread."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
