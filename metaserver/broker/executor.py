"""Worker threads for disk calls that may wait.

``trio.to_thread`` costs about 100 µs a call; threads that stay, and an event descriptor in the poller that is
read anyway, cost a third of it, which is what a single durable put feels.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import trio

from metaserver.broker.poller import READABLE, Poller

if TYPE_CHECKING:
    from collections.abc import Callable

Job: TypeAlias = "Callable[[], Any]"
Done: TypeAlias = "Callable[[Any, Exception | None], None]"


class Executor(Protocol):
    """Runs a job elsewhere and reports back on the loop."""

    def submit(self, job: Job, done: Done) -> None:
        """Run ``job``; then, on the loop, ``done(result, None)`` or ``done(None, exception)``."""
        ...


async def wait_done(begin: Callable[[Done], None]) -> Any:  # noqa: ANN401 - whatever the job returns
    """Begin a job and wait: what it returns. Raises what it raises.

    A job whose waiter is cancelled runs all the same.
    """
    finished = trio.Event()
    outcome: list[Any] = []

    def done(result: object, failure: Exception | None) -> None:
        outcome.extend((result, failure))
        finished.set()

    begin(done)
    await finished.wait()
    result, failure = outcome
    if failure is not None:
        raise failure
    return result


class ThreadExecutor:
    """A fixed number of daemon threads."""

    def __init__(self, thread_count: int, poller: Poller) -> None:
        """Start the threads; reports come from ``poller``'s loop."""
        self._poller = poller
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._finished: deque[tuple[Done, Any, Exception | None]] = deque()
        self._threads = [
            threading.Thread(target=self._work, name=f"disk-{number}", daemon=True)
            for number in range(thread_count)
        ]
        poller.register(self._wake, READABLE, self._report)
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job, done: Done) -> None:
        """Run ``job`` in one of the threads; then, on the loop, call ``done``, which must not raise."""
        self._jobs.put((job, done))

    def close(self) -> None:
        """Finish the jobs submitted and end the threads; what was not reported by now is dropped."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._poller.unregister(self._wake)
        os.close(self._wake)

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, done = entry
            result: Any = None
            failure: Exception | None = None
            try:
                result = job()
            except Exception as error:  # noqa: BLE001 - whatever a job raises belongs to who submitted it
                failure = error
            self._finished.append((done, result, failure))
            os.eventfd_write(self._wake, 1)

    def _report(self, _events: int) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        while self._finished:
            done, result, failure = self._finished.popleft()
            done(result, failure)
