"""Interrupts this thread at each of the places, one after the other, where Python calls signal handlers.

That is at the beginning of a function and behind a call of C code (and before a loop's next round, which is
left out). A signal cannot be aimed at one of them; a profile function is called there, and may raise. Left out
is the start of a thread: interrupted there, the standard library's own start ends in one of several errors.
"""

from __future__ import annotations

import _weakrefset
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType


@contextmanager
def interrupted_at(place: int) -> Iterator[None]:
    """Raise KeyboardInterrupt at this place of what the block calls; nowhere, where it has fewer."""
    before = sys.getprofile()
    sys.setprofile(_Interrupter(place).profile)
    try:
        yield
    finally:
        sys.setprofile(before)


class _Interrupter:
    def __init__(self, place: int) -> None:
        self._left = place
        self._spared: FrameType | None = None

    def profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if self._spared is None and _is_spared(frame.f_code):
            self._spared = frame
        if self._spared is not None:
            if frame is self._spared and event == "return":
                self._spared = None
        elif event in {"call", "c_return"}:
            self._left -= 1
            if self._left == -1:
                sys.setprofile(None)
                raise KeyboardInterrupt


def _is_spared(code: CodeType) -> bool:
    """Whether nothing is raised there. What is raised in the garbage collector's calls goes nowhere."""
    is_garbage = code.co_name == "__del__" or code.co_filename == _weakrefset.__file__
    return is_garbage or code is threading.Thread.start.__code__ or code.co_filename == __file__
