"""A block that ends while others still call into it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.to_thread import run_sync

from metaserver.client.blocking.block import Block, entered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from metaserver.client.blocking.loop_thread import LoopThread

WAIT_SECONDS_MAX = 30.0


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield None


def test_a_call_that_comes_while_others_are_being_cancelled(thread: LoopThread) -> None:
    async def checkpoints(number: int) -> None:
        for _ in range(number):
            await anyio.lowlevel.checkpoint()

    with entered(thread, nothing()) as outer:
        for number in range(160):
            block = Block(thread, nothing())
            block.enter(None)

            async def leave(block: Block[None] = block, number: int = number) -> None:
                assert block.start(anyio.sleep_forever)
                await checkpoints(3)
                block._leave(False)
                await checkpoints(number % 8)
                block.start(anyio.sleep_forever)

            # It raises nothing, which would end the loop.
            outer.call(leave)
            block._ended.wait()


def test_a_handler_that_calls_into_a_block_which_waits_for_it(thread: LoopThread) -> None:
    begun, leaving = threading.Event(), threading.Event()
    heard: list[BaseException] = []

    def handler() -> None:
        begun.set()
        assert leaving.wait(WAIT_SECONDS_MAX)
        try:
            block.call(anyio.sleep_forever)
        except anyio.ClosedResourceError as error:
            heard.append(error)

    block = Block(thread, nothing())
    block.enter(None)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(block.call, run_sync, handler)
        assert begun.wait(WAIT_SECONDS_MAX)
        thread.post(lambda: block._leave(False))
        thread.post(leaving.set)
        running.exception(WAIT_SECONDS_MAX)
    assert len(heard) == 1
