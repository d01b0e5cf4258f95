"""A loop in a thread of its own, and those at its door: when it ends, when a future is done."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING

import anyio
import pytest

from metaserver.client import Partition
from metaserver.client.blocking.fate import Fate
from metaserver.client.blocking.loop_thread import loop_thread
from metaserver.client.lane import Sent

if TYPE_CHECKING:
    from metaserver.client.blocking.loop_thread import Backend, LoopThread

WAIT_SECONDS_MAX = 30.0


SENT = Sent(Partition("test", 0, 0), 1, 2)


def tell(thread: LoopThread, fate: Fate) -> None:
    def told() -> None:
        fate.tell(SENT)
        fate.call_back()

    thread.post(told)


# Futures.


def test_another_event_loop_awaits_a_future(thread: LoopThread) -> None:
    async def main() -> None:
        for _ in range(100):
            fate = Fate(thread)
            wrapped = asyncio.wrap_future(fate)
            tell(thread, fate)
            assert await asyncio.wait_for(wrapped, WAIT_SECONDS_MAX) is SENT

    asyncio.run(main())


def test_who_gets_a_future_from_a_callback_finds_it_done(thread: LoopThread) -> None:
    fate = Fate(thread)
    looked = threading.Event()
    handed: Future[Future[Sent]] = Future()

    def callback(told: Future[Sent]) -> None:
        handed.set_result(told)
        # Not before the other thread has looked.
        assert looked.wait(WAIT_SECONDS_MAX)

    fate.add_done_callback(callback)
    tell(thread, fate)
    told = handed.result(WAIT_SECONDS_MAX)
    found = (
        told.done(),
        told.running(),
        told.cancel(),
        told.cancelled(),
        told.exception(0) if told.done() else "?",
    )
    looked.set()
    assert found == (True, False, False, False, None)


def test_who_waits_for_several_finds_the_first_done(thread: LoopThread) -> None:
    first, second = Fate(thread), Fate(thread)
    found: list[object] = []

    class Waiter:
        """As those of concurrent.futures.wait and as_completed."""

        def add_result(self, told: Future[Sent]) -> None:
            found.append((told.done(), told.running()) == (True, False) and told.result(0))

    first._waiters.append(Waiter())  # type: ignore[arg-type]  # nothing else of it is used
    tell(thread, first)
    assert wait([first, second], WAIT_SECONDS_MAX, FIRST_COMPLETED).done == {first}
    assert found == [SENT]


def test_a_callback_that_fails_or_comes_late(thread: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    fate = Fate(thread)
    called: Future[int] = Future()
    fate.add_done_callback(lambda _: 1 // 0)
    tell(thread, fate)
    assert fate.result(WAIT_SECONDS_MAX) is SENT
    fate.add_done_callback(lambda _: called.set_result(threading.get_ident()))
    assert called.result(WAIT_SECONDS_MAX) == thread.ident
    assert "ZeroDivisionError" in caplog.text


def test_a_callback_that_exits_keeps_nobody_waiting(thread: LoopThread) -> None:
    fate = Fate(thread)
    fate.add_done_callback(lambda _: sys.exit(1))
    tell(thread, fate)
    assert fate.result(WAIT_SECONDS_MAX) is SENT


def test_waiting_in_vain_leaves_nothing(thread: LoopThread) -> None:
    fate = Fate(thread)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            fate.result(0)
    assert not fate._told._waiting


# The end of the loop.


def test_an_ended_loop_is_nobodys_thread(backend: Backend) -> None:
    with loop_thread(backend) as thread:
        ident = thread.ident
    assert ident
    # The operating system gives it to the next thread.
    assert thread.ident == 0


def test_what_comes_behind_the_end_is_not_done(backend: Backend) -> None:
    with loop_thread(backend) as thread:
        pass
    calls: list[str] = []
    theirs = lambda: calls.append("theirs")  # noqa: E731
    ours = lambda: calls.append("ours")  # noqa: E731
    # As if it ended between the two looks of the one that posts.
    thread._inbox.append(theirs)
    thread._is_open = True
    thread._wake = lambda: setattr(thread, "_is_open", False)
    with pytest.raises(anyio.ClosedResourceError):
        thread.post(ours)
    assert (calls, list(thread._inbox)) == ([], [theirs])
