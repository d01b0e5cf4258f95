from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from metaserver.broker import Poller, ThreadExecutor
from metaserver.broker.poller import BROKEN, READABLE, WRITABLE

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


async def test_a_handler_is_called_for_what_it_waits_for(
    nursery: trio.Nursery, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    poller, happened = Poller(), trio.Event()
    seen: list[int] = []

    def handler(events: int) -> None:
        seen.append(events)
        poller.modify(ours.fileno(), 0)
        happened.set()

    poller.register(ours.fileno(), READABLE, handler)
    nursery.start_soon(poller.run)
    await trio.testing.wait_all_tasks_blocked()
    assert seen == []
    theirs.send(b"x")
    with trio.fail_after(5):
        await happened.wait()
    assert seen == [READABLE]
    happened = trio.Event()
    poller.modify(ours.fileno(), WRITABLE)
    with trio.fail_after(5):
        await happened.wait()
    assert seen == [READABLE, WRITABLE]


async def test_a_peer_that_is_gone_is_told_unasked(
    nursery: trio.Nursery, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    poller, gone = Poller(), trio.Event()

    def handler(events: int) -> None:
        assert events & BROKEN
        poller.unregister(ours.fileno())
        gone.set()

    poller.register(ours.fileno(), 0, handler)
    nursery.start_soon(poller.run)
    theirs.close()
    with trio.fail_after(5):
        await gone.wait()


async def test_who_is_unregistered_in_a_round_is_not_called_in_it(
    nursery: trio.Nursery, pair: tuple[socket.socket, socket.socket]
) -> None:
    poller, done = Poller(), trio.Event()
    seen: list[str] = []

    def handler(name: str) -> None:
        seen.append(name)
        for one in pair:
            poller.unregister(one.fileno())
        done.set()

    poller.register(pair[0].fileno(), WRITABLE, lambda _events: handler("first"))
    poller.register(pair[1].fileno(), WRITABLE, lambda _events: handler("second"))
    nursery.start_soon(poller.run)
    with trio.fail_after(5):
        await done.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert len(seen) == 1


async def test_jobs_report_on_the_loop(nursery: trio.Nursery) -> None:
    poller, finished = Poller(), trio.Event()
    executor = ThreadExecutor(2, poller)
    nursery.start_soon(poller.run)
    outcomes: list[tuple[object, Exception | None]] = []

    def done(result: object, failure: Exception | None) -> None:
        outcomes.append((result, failure))
        trio.lowlevel.current_task()  # Raises anywhere but on the loop.
        if len(outcomes) == 3:
            finished.set()

    executor.submit(lambda: 7, done)
    executor.submit(lambda: Path("/nowhere").stat(), done)
    executor.submit(lambda: 1 // 0, done)
    with trio.fail_after(5):
        await finished.wait()
    executor.close()
    by_kind = {type(failure): result for result, failure in outcomes}
    assert by_kind == {type(None): 7, FileNotFoundError: None, ZeroDivisionError: None}
