"""What a verb that is under way does at a signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


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
