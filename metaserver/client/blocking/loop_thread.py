"""An event loop in a thread of its own, and the way into it.

anyio's portal starts and ends the loop. Its calls make a task each, and wait until it is made; what is posted
here waits for nothing, and what is posted before the loop has woken up wakes it once. A call takes some 60 us
of processor time either way. On asyncio, the default, calls are a little cheaper than on trio, and iterating
is by a sixth at least (tools/bench/blocking).
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
from anyio.from_thread import start_blocking_portal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyio.abc import TaskGroup

Backend: TypeAlias = Literal["asyncio", "trio"]


class LoopThread:
    """Made by :func:`loop_thread`."""

    def __init__(self, backend: Backend) -> None:
        """Use :func:`loop_thread`."""
        self.backend = backend
        self.tasks: TaskGroup
        """For the loop only."""
        self.ident = 0
        # Reentrant: a signal handler may post while the thread it interrupted does.
        self._lock = threading.RLock()
        self._inbox: deque[Callable[[], object]] = deque()
        self._is_open = True
        self._is_woken = True
        self._wake: anyio.Event
        self._call_soon: Callable[[Callable[[], None]], object]

    def forbid(self) -> None:
        """Raises RuntimeError on the loop itself: what follows would wait for it."""
        if self.is_current:
            raise RuntimeError(
                "called from a callback on the session's own loop, which would wait for itself"
            )

    @property
    def is_current(self) -> bool:
        """Whether the loop itself asks, which must not wait for itself."""
        return threading.get_ident() == self.ident

    def post(self, call: Callable[[], object]) -> None:
        """Have it called on the loop, behind all that was posted before; it must not raise.

        From any thread. Raises anyio.ClosedResourceError where the loop has ended.
        """
        with self._lock:
            if not self._is_open:
                raise anyio.ClosedResourceError
            self._inbox.append(call)
            if not self._is_woken:
                self._is_woken = True
                self._call_soon(self._wake.set)

    async def run(self) -> None:
        """Do what is posted, until cancelled; in the portal's thread."""
        self.ident = threading.get_ident()
        self._call_soon = _call_soon(self.backend)
        try:
            async with anyio.create_task_group() as self.tasks:
                while True:
                    with self._lock:
                        self._wake = anyio.Event()
                        self._is_woken = False
                        count = len(self._inbox)
                    for _ in range(count):
                        self._inbox.popleft()()
                    await self._wake.wait()
        finally:
            with self._lock:
                self._is_open = False
            # Who waits for one of these is told that it is too late.
            while self._inbox:
                self._inbox.popleft()()

    def end(self) -> None:
        """Stop running; on the loop."""
        self.tasks.cancel_scope.cancel()


@contextmanager
def loop_thread(backend: Backend) -> Iterator[LoopThread]:
    """A loop for the length of the block; everything on it is cancelled at the end."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal(backend))
        thread = LoopThread(backend)
        portal.start_task_soon(thread.run)
        try:
            yield thread
        finally:
            with suppress(anyio.ClosedResourceError):
                thread.post(thread.end)
            if thread.is_current:
                # The garbage collector ends an abandoned block wherever it happens to run: here, on the loop.
                threading.Thread(target=stack.pop_all().close, daemon=True).start()


def _call_soon(backend: Backend) -> Callable[[Callable[[], None]], object]:
    """What wakes this loop from another thread."""
    if backend == "trio":
        import trio  # noqa: PLC0415 - only where it is wanted

        return trio.lowlevel.current_trio_token().run_sync_soon
    import asyncio  # noqa: PLC0415

    return asyncio.get_running_loop().call_soon_threadsafe
