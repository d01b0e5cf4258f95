"""What threads wait at, and the loop rings.

The locks of :mod:`threading`'s conditions, and so of :mod:`concurrent.futures`, are taken in Python code. A
signal handler that raises (Ctrl-C) between there and the ``with`` block leaves them held for ever, and the
loop, which needs them to tell anything, stands still. A plain lock has no such gap.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Bell:
    """Any number of threads wait; whoever changes what they wait for rings."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._waiting: deque[threading.Lock] = deque()

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float = -1) -> bool:
        """Wait until the condition holds, which is asked now and at every ring; False: it took too long."""
        while not condition():
            lock = threading.Lock()
            lock.acquire()
            self._waiting.append(lock)
            # Asked again behind that: the other side changes first, and then looks for who waits.
            if not condition() and not lock.acquire(timeout=timeout_seconds):
                with suppress(ValueError):  # Rung for just now.
                    self._waiting.remove(lock)
                return condition()
        return True

    def ring(self) -> None:
        """Behind a change: have all who wait look. Who was interrupted meanwhile is rung for in vain.

        From any thread. Interrupted, it may be repeated.
        """
        for lock in self._waiting.copy():
            with suppress(RuntimeError):  # Another has rung for it.
                lock.release()
            with suppress(ValueError):
                self._waiting.remove(lock)
