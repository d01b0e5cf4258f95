"""Interrupts this thread at each of the places, one after the other, where Python may call a signal handler.

That is behind a call of C code, at the beginning of a function, and before a loop's next round (the eval
breaker of CPython). A signal cannot be aimed at one of them; a trace function can raise there. Left out is the
start of a thread: interrupted there, the standard library's own start ends in one of several errors.
"""

from __future__ import annotations

import _weakrefset
import dis
import inspect
import sys
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

Tracer: TypeAlias = "Callable[[FrameType, str, Any], Tracer | None]"

_CHECKING = frozenset({"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"})


@contextmanager
def interrupted_at(place: int) -> Iterator[None]:
    """Raise KeyboardInterrupt at this place of what the block calls; nowhere, where it has fewer."""
    interrupter = _Interrupter(place)
    before = sys.gettrace()
    sys.settrace(interrupter.trace)
    try:
        yield
    finally:
        sys.settrace(before)


class _Interrupter:
    def __init__(self, place: int) -> None:
        self._left = place
        self._executed: dict[FrameType, str] = {}
        self._spared: FrameType | None = None

    def trace(self, frame: FrameType, event: str, _argument: object) -> Tracer | None:
        if self._left < 0:
            return None
        code = frame.f_code
        if self._spared is None and _is_spared(code):
            self._spared = frame
        if self._spared is not None:
            if frame is self._spared and event == "return":
                self._spared = None
            return self.trace
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        if event == "call":
            self._executed[frame] = "RESUME"
        elif event == "opcode":
            checked = self._executed.get(frame) in _CHECKING
            self._executed[frame] = _names(code)[frame.f_lasti]
            if checked:
                if self._left == 0:
                    self._left = -1
                    self._executed.clear()
                    raise KeyboardInterrupt
                self._left -= 1
        elif event == "return":
            self._executed.pop(frame, None)
            caller = frame.f_back
            # Nothing is checked behind a function that Python itself called; a generator was resumed by C.
            if caller in self._executed and not code.co_flags & inspect.CO_GENERATOR:
                self._executed[caller] = ""
        return self.trace


def _is_spared(code: CodeType) -> bool:
    """Whether nothing is raised there. What is raised in the garbage collector's calls goes nowhere."""
    is_garbage = code.co_name == "__del__" or code.co_filename == _weakrefset.__file__
    return is_garbage or code is threading.Thread.start.__code__ or code.co_filename == __file__


@cache
def _names(code: CodeType) -> dict[int, str]:
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
