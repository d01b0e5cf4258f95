"""Background tasks that end with a block."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVarTuple, Unpack

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import TaskGroup

_Arguments = TypeVarTuple("_Arguments")


class BackgroundTasks:
    """Made by :func:`background_tasks`."""

    def __init__(self, tasks: TaskGroup) -> None:
        """Use the function."""
        self._tasks = tasks
        self._scopes: set[anyio.CancelScope] = set()
        self._is_over = False

    def start_soon(
        self, function: Callable[[Unpack[_Arguments]], Awaitable[object]], *arguments: *_Arguments
    ) -> None:
        """Run it beside the block."""
        scope = anyio.CancelScope(shield=True)
        self._scopes.add(scope)
        if self._is_over:
            scope.cancel()

        async def run() -> None:
            try:
                with scope:
                    await function(*arguments)
            finally:
                self._scopes.discard(scope)

        self._tasks.start_soon(run)

    def cancel(self) -> None:
        """End all of them."""
        self._is_over = True
        self._tasks.cancel_scope.cancel()
        for scope in self._scopes:
            scope.cancel()


@asynccontextmanager
async def background_tasks() -> AsyncIterator[BackgroundTasks]:
    """Tasks that are cancelled at the end of the block, and not before.

    Where the block itself is cancelled they go on until it has come to its end: what it does then, storing
    offsets for one, takes the connections they serve. An error of the block comes out as it is, not in a
    group of one.
    """
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        background = BackgroundTasks(tasks)
        try:
            yield background
        except BaseException as error:  # noqa: BLE001 - kept out of the task group, which would wrap it
            failure = error
        background.cancel()
    if failure is not None:
        raise failure
