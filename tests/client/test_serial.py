"""Blocking calls one at a time."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from metaserver.client.serial import Serial

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Run = Callable[[Callable[[], Awaitable[None]]], None]


def test_results_and_errors_come_out(run: Run) -> None:
    async def test() -> None:
        serial = Serial()
        assert await serial.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await serial.run(lambda: 1 // 0)
        assert await serial.run(lambda: 8) == 8

    run(test)


def test_in_the_order_they_were_asked_for(run: Run) -> None:
    async def test() -> None:
        serial, done = Serial(), list[int]()
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(serial.run, lambda number=number: done.append(number))
                # Trio starts tasks of one batch in any order.
                await anyio.lowlevel.checkpoint()
        assert done == list(range(20))

    run(test)


def test_a_call_that_has_begun_is_waited_for(run: Run) -> None:
    async def test() -> None:
        serial, begun, go_on = Serial(), threading.Event(), threading.Event()
        results = []

        def call() -> int:
            begun.set()
            go_on.wait()
            return 7

        async def work() -> None:
            results.append(await serial.run(call))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            while not begun.is_set():
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
            go_on.set()
        assert results == [7]

    run(test)


class TellingLock:
    """Says when somebody comes to it for the second time."""

    def __init__(self) -> None:
        self.lock, self.came, self.came_again = threading.Lock(), 0, threading.Event()

    def __enter__(self) -> None:
        self.came += 1
        if self.came == 2:
            self.came_again.set()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_a_task_that_asyncio_tears_away_from_its_call_lets_nobody_else_in() -> None:
    async def test() -> None:
        lock = TellingLock()
        serial = Serial(in_thread=lock)  # type: ignore[arg-type]
        begun, go_on = threading.Event(), threading.Event()
        order = []

        def first() -> None:
            begun.set()
            go_on.wait()
            order.append("first")

        async with asyncio.timeout(60), anyio.create_task_group() as tasks:
            torn = asyncio.ensure_future(serial.run(first))
            try:
                while not begun.is_set():
                    await anyio.lowlevel.checkpoint()
                torn.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await torn
                tasks.start_soon(serial.run, lambda: order.append("second"))
                while not lock.came_again.is_set() and not order:
                    await anyio.lowlevel.checkpoint()
            finally:
                go_on.set()
        assert order == ["first", "second"]

    asyncio.run(test())
