"""What has become of a message, as a future of the standard library."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from metaserver.client.blocking.bell import Bell
from metaserver.client.lane import Sent

if TYPE_CHECKING:
    from metaserver.client.blocking.loop_thread import LoopThread


class Fate(Future[Sent]):
    """Its waiting threads may be interrupted: they take the future's lock only behind the loop (see Bell)."""

    def __init__(self, thread: LoopThread) -> None:
        """Under way: it cannot be cancelled."""
        super().__init__()
        self.set_running_or_notify_cancel()
        self._thread = thread
        self._is_told = False
        self._told = Bell()

    def settle(self, outcome: Sent | Exception) -> None:
        """Once; calls the callbacks."""
        if isinstance(outcome, Exception):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)
        self._is_told = True
        self._told.ring()

    def done(self) -> bool:
        """Whether it is known."""
        return self._is_told or (self._thread.is_current and super().done())

    def result(self, timeout: float | None = None) -> Sent:
        """Wait, and return or raise it; raises TimeoutError after so many seconds."""
        return super().result(self._wait(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and return what it raises; raises TimeoutError after so many seconds."""
        return super().exception(self._wait(timeout))

    def _wait(self, timeout: float | None) -> float | None:
        """Callbacks, on the loop, find it settled; other threads wait until the loop is done with it."""
        if not self._thread.is_current:
            timeout_seconds = -1 if timeout is None else max(0, timeout)
            if not self._told.wait_until(lambda: self._is_told, timeout_seconds):
                raise TimeoutError
        return timeout
