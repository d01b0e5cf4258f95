"""An event loop in a thread of its own, and the way into it.

What is posted waits for nothing, and what is posted before the loop has woken up wakes it once. A call takes
some 60 us of processor time. On asyncio, the default, calls are a little cheaper than on trio, and iterating
is by a sixth at least (tools/bench/blocking). The thread that posts may be interrupted anywhere: it holds
nothing that the loop waits for.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio

from metaserver.client.blocking.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyio.abc import TaskGroup

Backend: TypeAlias = Literal["asyncio", "trio"]


class _Wake:
    """Wakes the loop once; each time it sleeps there is another."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self.event = anyio.Event()
        self._call_soon = call_soon
        self._is_used = False

    def __call__(self) -> None:
        if not self._is_used:
            # In this order: interrupted in between, the next one wakes the loop again.
            self._call_soon(self.event.set)
            self._is_used = True


class LoopThread:
    """Made by :func:`loop_thread`."""

    def __init__(self, backend: Backend) -> None:
        """Use :func:`loop_thread`."""
        self.backend = backend
        self.tasks: TaskGroup
        """For the loop only."""
        self.started: Outcome[None] = Outcome()
        self.ident = 0
        self._inbox: deque[Callable[[], object]] = deque()
        self._is_open = True
        self._wake: Callable[[], None] = _nobody_sleeps

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

        From any thread. Raises anyio.ClosedResourceError where the loop has ended. Interrupted, it may be
        posted or not: whoever must know posts another, and sees there whether this one came.
        """
        if self._has_ended():
            raise anyio.ClosedResourceError
        self._inbox.append(call)
        with suppress(RuntimeError):  # Of a loop that ends just now.
            self._wake()
        if self._has_ended():
            # It ended meanwhile, and may have looked before this was there: then nobody does it.
            with suppress(ValueError):
                self._inbox.remove(call)
                raise anyio.ClosedResourceError

    def run(self) -> None:
        """The thread: do what is posted, until :meth:`end`."""
        try:
            anyio.run(self._run, backend=self.backend)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the thread that waits is to have it
            self._is_open = False
            if not self.started.is_told:
                self.started.fail(error)
        finally:
            # Another thread may get the same one.
            self.ident = 0

    async def _run(self) -> None:
        self.ident = threading.get_ident()
        call_soon = _call_soon(self.backend)
        self.started.tell(None)
        try:
            async with anyio.create_task_group() as self.tasks:
                while True:
                    # First: what is posted behind the look into the inbox wakes this one.
                    self._wake = wake = _Wake(call_soon)
                    for _ in range(len(self._inbox)):
                        self._inbox.popleft()()
                    await wake.event.wait()
        finally:
            self._is_open = False
            self._wake = _nobody_sleeps
            # Who waits for one of these is told that it is too late.
            with suppress(IndexError):
                while True:
                    self._inbox.popleft()()

    def end(self) -> None:
        """Stop running; on the loop."""
        self.tasks.cancel_scope.cancel()

    def _has_ended(self) -> bool:
        return not self._is_open


@contextmanager
def loop_thread(backend: Backend) -> Iterator[LoopThread]:
    """A loop for the length of the block; everything on it is cancelled at the end."""
    loop = LoopThread(backend)
    thread = threading.Thread(target=loop.run, name=f"{backend}-loop", daemon=True)
    try:
        thread.start()
        loop.started.result()
        yield loop
        _end(loop, thread)
    except BaseException:
        # Also where the end itself was interrupted.
        _end(loop, thread)
        raise


def _end(loop: LoopThread, thread: threading.Thread) -> None:
    with suppress(anyio.ClosedResourceError):
        loop.post(loop.end)
    # The garbage collector ends an abandoned block wherever it happens to run, also on the loop.
    if loop.started.is_told and thread is not threading.current_thread():
        thread.join()


def _nobody_sleeps() -> None:
    pass


def _call_soon(backend: Backend) -> Callable[[Callable[[], None]], object]:
    """What wakes this loop from another thread."""
    if backend == "trio":
        import trio  # noqa: PLC0415 - only where it is wanted

        return trio.lowlevel.current_trio_token().run_sync_soon
    import asyncio  # noqa: PLC0415

    return asyncio.get_running_loop().call_soon_threadsafe
