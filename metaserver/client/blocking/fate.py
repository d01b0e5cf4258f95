"""What has become of a message, as a future of the standard library."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

import anyio

from metaserver.client.blocking.bell import Bell
from metaserver.client.lane import Sent

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.client.blocking.loop_thread import LoopThread

_log = logging.getLogger(__name__)


class Fate(Future[Sent]):
    """Its threads may be interrupted: they do not take the future's lock (see Bell).

    Except in :func:`concurrent.futures.wait` and ``as_completed``, for which it is a future at all.
    """

    def __init__(self, thread: LoopThread) -> None:
        """Under way: it cannot be cancelled."""
        super().__init__()
        self.set_running_or_notify_cancel()
        self._thread = thread
        self._outcome: Sent | Exception | None = None
        self._told = Bell()
        self._callbacks: list[Callable[[Future[Sent]], object]] = []
        """The loop's."""

    def tell(self, outcome: Sent | Exception) -> None:
        """Once."""
        self._outcome = outcome
        self._told.ring()
        if isinstance(outcome, Exception):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)

    def call_back(self) -> None:
        """Behind :meth:`tell`: they find it done, as do those to whom they hand it."""
        for callback in self._callbacks:
            self._call(callback)

    def add_done_callback(self, fn: Callable[[Future[Sent]], object]) -> None:
        """Have it called on the loop when this is known, or soon where it is; what it raises is logged."""
        try:
            self._thread.post(partial(self._add, fn))
        except anyio.ClosedResourceError:
            self._add(fn)

    def cancel(self) -> bool:
        """False: it cannot be."""
        return False

    def cancelled(self) -> bool:
        """False."""
        return False

    def running(self) -> bool:
        """Whether it is not known."""
        return self._outcome is None

    def done(self) -> bool:
        """Whether it is known."""
        return self._outcome is not None

    def result(self, timeout: float | None = None) -> Sent:
        """Wait, and return or raise it; raises TimeoutError after so many seconds."""
        outcome = self._wait(timeout)
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                # The error's traceback holds this frame.
                del self, outcome
        return outcome

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and return what it raises; raises TimeoutError after so many seconds."""
        outcome = self._wait(timeout)
        return outcome if isinstance(outcome, Exception) else None

    def _wait(self, timeout: float | None) -> Sent | Exception:
        if self._outcome is None:
            self._thread.forbid()
            self._told.wait_until(self.done, -1 if timeout is None else max(0, timeout))
        if self._outcome is None:
            raise TimeoutError
        return self._outcome

    def _add(self, callback: Callable[[Future[Sent]], object]) -> None:
        if self.done():
            self._call(callback)
        else:
            self._callbacks.append(callback)

    def _call(self, callback: Callable[[Future[Sent]], object]) -> None:
        try:
            callback(self)
        except Exception:  # noqa: BLE001 - as the standard library's
            _log.exception("A callback of a message's future has failed")
