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
    """Its threads may be interrupted: they take the future's lock only behind the loop (see Bell).

    Not so in :func:`concurrent.futures.wait` and ``as_completed``, which take it themselves.
    """

    def __init__(self, thread: LoopThread) -> None:
        """Under way: it cannot be cancelled."""
        super().__init__()
        self.set_running_or_notify_cancel()
        self._thread = thread
        self._is_told = False
        self._told = Bell()
        self._callbacks: list[Callable[[Future[Sent]], object]] = []
        """The loop's."""

    def tell(self, outcome: Sent | Exception) -> None:
        """Once."""
        if isinstance(outcome, Exception):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)
        self._is_told = True
        self._told.ring()

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
        return not self._is_told

    def done(self) -> bool:
        """Whether it is known."""
        return self._is_told

    def result(self, timeout: float | None = None) -> Sent:
        """Wait, and return or raise it; raises TimeoutError after so many seconds."""
        self._wait(timeout)
        return super().result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and return what it raises; raises TimeoutError after so many seconds."""
        self._wait(timeout)
        return super().exception()

    def _wait(self, timeout: float | None) -> None:
        if self._is_told:
            return
        self._thread.forbid()
        timeout_seconds = -1 if timeout is None else max(0, timeout)
        if not self._told.wait_until(lambda: self._is_told, timeout_seconds):
            raise TimeoutError

    def _add(self, callback: Callable[[Future[Sent]], object]) -> None:
        if self._is_told:
            self._call(callback)
        else:
            self._callbacks.append(callback)

    def _call(self, callback: Callable[[Future[Sent]], object]) -> None:
        try:
            callback(self)
        except Exception:  # noqa: BLE001 - as the standard library's
            _log.exception("A callback of a message's future has failed")
