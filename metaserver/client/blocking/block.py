"""An asynchronous context manager that a thread enters and leaves, and calls from that thread into it."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import attrs

from metaserver.client.blocking.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup

    from metaserver.client.blocking.loop_thread import LoopThread

T = TypeVar("T")
Result = TypeVar("Result")


class _LeftByError(Exception):
    """The thread's block ended with an error, which is for the thread itself to raise."""


class _EndedError(anyio.ClosedResourceError):
    """The block ended before the call did."""


@attrs.define(eq=False)
class _Call:
    """Everything but the waiting is for the loop."""

    outcome: Outcome[object] = attrs.Factory(Outcome)
    is_begun: bool = False
    scope: anyio.CancelScope | None = None
    """None before its task runs."""
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Give it up; posted behind it, where it was posted at all."""
        self.is_cancelled = True
        if self.scope is not None:
            self.scope.cancel()
        elif not self.is_begun:
            self.outcome.fail(_EndedError())


class Block(Generic[T]):
    """Made by :func:`entered`."""

    def __init__(self, thread: LoopThread, manager: AbstractAsyncContextManager[T]) -> None:
        """Use :func:`entered`."""
        self.thread = thread
        self.value: T
        """What the manager gave."""
        self._manager = manager
        self._owner = threading.get_ident()
        self._is_started = False
        self._scope: anyio.CancelScope | None = None
        self._is_cancelled = False
        self._entered: Outcome[None] = Outcome()
        self._ended: Outcome[None] = Outcome()
        self._leaving: anyio.Event
        self._is_failed = False
        self._calls: TaskGroup | None = None

    def call(self, function: Callable[..., Awaitable[Result]], *arguments: object) -> Result:
        """Call it on the loop, within the block, and return what it returns.

        Interrupted, it is cancelled, and nothing of it is left when the interruption goes on.
        """
        self.thread.forbid()
        call = _Call()
        try:
            self.thread.post(partial(self._begin, call, partial(function, *arguments)))
            return call.outcome.result()  # type: ignore[return-value]  # of the function
        except _EndedError:
            # Its owner hears what has ended it. For another thread the end itself may wait: a handler's.
            if self._ended.is_told or threading.get_ident() == self._owner:
                with suppress(_EndedError):
                    self._ended.result()
            raise
        except BaseException:
            if not call.outcome.is_told:
                with suppress(anyio.ClosedResourceError):
                    self.thread.post(call.cancel)
                    call.outcome.wait()
            raise

    def do(self, function: Callable[..., Result], *arguments: object) -> Result:
        """The same of a function that does not wait."""

        async def do() -> Result:
            return function(*arguments)

        return self.call(do)

    def start(self, function: Callable[..., Coroutine[Any, Any, object]], *arguments: object) -> bool:
        """Begin a task that is cancelled at the block's end; on the loop. False where that was already."""
        if self._calls is None:
            return False
        self._calls.start_soon(function, *arguments)
        return True

    def enter(self, parent: Block[Any] | None) -> None:
        """Returns when the manager has been entered; raises what it raises."""
        try:
            self.thread.post(partial(self._start, parent))
            self._entered.result()
        except BaseException:
            if not self._ended.is_told:
                with suppress(anyio.ClosedResourceError):
                    self.thread.post(self._cancel)
                    self._ended.wait()
            raise

    def leave(self, *, is_failed: bool) -> None:
        """Returns when the manager has been left; raises what it raises. Interrupted, it may be repeated."""
        with suppress(anyio.ClosedResourceError):
            self.thread.post(partial(self._leave, is_failed))
        if not self.thread.is_current:
            self._ended.result()

    # On the loop.

    def _start(self, parent: Block[Any] | None) -> None:
        self._is_started = True
        if parent is None:
            self.thread.tasks.start_soon(self._live)
        elif not parent.start(self._live):
            self._ended.tell(None)
            self._entered.fail(anyio.ClosedResourceError())

    async def _live(self) -> None:
        try:
            with anyio.CancelScope() as self._scope, suppress(_LeftByError):
                if self._is_cancelled:
                    self._scope.cancel()
                await self._hold()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the thread that waits is to have it
            self._ended.fail(error)
            if not self._entered.is_told:
                self._entered.fail(error)
        finally:
            if not self._ended.is_told:
                self._ended.tell(None)
            if not self._entered.is_told:
                self._entered.fail(anyio.ClosedResourceError())

    async def _hold(self) -> None:
        async with self._manager as self.value:
            self._leaving = anyio.Event()
            async with anyio.create_task_group() as calls:
                self._calls = calls
                try:
                    self._entered.tell(None)
                    await self._leaving.wait()
                finally:
                    # At once: a group that is ending takes no more, or may not wait for it.
                    self._calls = None
                    calls.cancel_scope.cancel()
            if self._is_failed:
                raise _LeftByError

    def _leave(self, is_failed: bool) -> None:  # noqa: FBT001 - posted with its argument
        self._is_failed = is_failed
        self._leaving.set()

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()
        elif not self._is_started:
            self._ended.tell(None)

    def _begin(self, call: _Call, function: Callable[[], Awaitable[object]]) -> None:
        call.is_begun = True
        if not self.start(self._run, call, function):
            call.outcome.fail(_EndedError())

    async def _run(self, call: _Call, function: Callable[[], Awaitable[object]]) -> None:
        try:
            with anyio.CancelScope() as call.scope:
                if call.is_cancelled:
                    call.scope.cancel()
                call.outcome.tell(await function())
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - it goes to the thread that waits, whatever it is
            call.outcome.fail(error)
        finally:
            if not call.outcome.is_told:
                call.outcome.fail(_EndedError())


@contextmanager
def entered(
    thread: LoopThread, manager: AbstractAsyncContextManager[T], parent: Block[Any] | None = None
) -> Iterator[Block[T]]:
    """Inside of ``manager``, on the loop; it ends no later than ``parent``."""
    block = Block(thread, manager)
    block.enter(parent)
    try:
        yield block
        block.leave(is_failed=False)
    except BaseException:
        # Also where leaving was interrupted. The error that ends the block comes out, whatever its end says.
        with suppress(Exception):
            block.leave(is_failed=True)
        raise
