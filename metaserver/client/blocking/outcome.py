"""What becomes of something on the loop: told there once, waited for in threads."""

from __future__ import annotations

from typing import Generic, TypeVar

from metaserver.client.blocking.bell import Bell

T = TypeVar("T")


class Outcome(Generic[T]):
    """A future whose waiting threads may be interrupted anywhere; see :mod:`.bell`."""

    def __init__(self) -> None:
        """Open."""
        self.is_told = False
        self._bell = Bell()
        self._value: T
        self._error: BaseException | None = None

    def tell(self, value: T) -> None:
        """It went well; on the loop, once."""
        self._value = value
        self._end()

    def fail(self, error: BaseException) -> None:
        """It did not; on the loop, once."""
        self._error = error
        self._end()

    def wait(self) -> None:
        """Returns when it is told."""
        self._bell.wait_until(lambda: self.is_told)

    def result(self) -> T:
        """Wait, and return or raise what was told."""
        self.wait()
        if self._error is not None:
            try:
                raise self._error
            finally:
                # The error's traceback holds this frame.
                del self
        return self._value

    def _end(self) -> None:
        self.is_told = True
        self._bell.ring()
