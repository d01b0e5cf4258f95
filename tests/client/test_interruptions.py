"""Ctrl-C at any moment: the block ends in order, nothing is left of what was interrupted, nothing stands still."""

from __future__ import annotations

import gc
import signal
import threading
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest

from metaserver.client.blocking import open_session
from metaserver.client.blocking.bell import Bell
from metaserver.client.blocking.block import entered
from metaserver.client.blocking.loop_thread import loop_thread
from tests.client.brokers import Brokers
from tests.client.interruptions import interrupted_at
from tests.support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from metaserver.client.blocking.loop_thread import Backend
    from metaserver.client.blocking.producer import Producer

WAIT_SECONDS_MAX = 30.0


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A wait that never ends fails its test. Garbage is collected where the tests say, and what is old left out."""

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@attrs.define
class Inside:
    """Counts what is under way on the loop."""

    blocks: int = 0
    calls: int = 0

    @asynccontextmanager
    async def block(self) -> AsyncIterator[Inside]:
        await anyio.lowlevel.checkpoint()
        self.blocks += 1
        try:
            yield self
        finally:
            self.blocks -= 1

    async def call(self) -> str:
        self.calls += 1
        try:
            await anyio.lowlevel.checkpoint()
            return "done"
        finally:
            self.calls -= 1


def interrupted_everywhere(work: Callable[[], object], behind: Callable[[], object]) -> int:
    """Do the work again and again, interrupted at another place each time; returns how many there are."""
    for place in count():
        signal.setitimer(signal.ITIMER_REAL, WAIT_SECONDS_MAX, WAIT_SECONDS_MAX)
        try:
            with interrupted_at(place):
                work()
        except KeyboardInterrupt:
            pass
        else:
            return place
        finally:
            behind()
    raise AssertionError


def test_a_session_ends(backend: Backend) -> None:
    before = set(threading.enumerate())
    inside = Inside()

    def work() -> None:
        with loop_thread(backend) as thread, entered(thread, inside.block()) as outer:
            with entered(thread, inside.block(), outer) as inner:
                assert inner.call(inside.call) == "done"
            outer.call(inside.call)

    def behind() -> None:
        gc.collect()
        for thread in set(threading.enumerate()) - before:
            # One that was interrupted while it was made never began.
            if thread.is_alive():
                thread.join()
        assert inside == Inside()

    assert interrupted_everywhere(work, behind) > 50


def test_nothing_is_left_of_a_call(backend: Backend) -> None:
    inside = Inside()
    with loop_thread(backend) as thread, entered(thread, inside.block()) as block:

        def behind() -> None:
            assert inside.calls == 0
            assert block.call(inside.call) == "done"

        assert interrupted_everywhere(lambda: block.call(inside.call), behind) > 10


def test_nothing_is_left_of_a_block(backend: Backend) -> None:
    inside = Inside()
    with loop_thread(backend) as thread, entered(thread, inside.block()) as outer:

        def work() -> None:
            with entered(thread, inside.block(), outer):
                pass

        def behind() -> None:
            gc.collect()
            assert inside == Inside(blocks=1)
            assert outer.call(inside.call) == "done"

        assert interrupted_everywhere(work, behind) > 10


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """One broker with one partition."""
    found = Brokers(tmp_path_factory.mktemp("brokers"), partitions=1, topics=("test",))
    found.start()
    yield found
    found.end()


@pytest.mark.parametrize(
    "send",
    [
        lambda producer: producer.send("test", b"x"),
        lambda producer: producer.send_nowait("test", b"x").result(),
        lambda producer: producer.send_nowait("test", b"x").add_done_callback(str),
    ],
)
def test_a_message_goes_its_way_or_never_was(
    brokers: Brokers, backend: Backend, send: Callable[[Producer], object]
) -> None:
    with open_session(brokers.servers, backend=backend) as session, session.producer() as producer:

        def behind() -> None:
            producer.flush()
            assert producer.buffered == 0

        assert interrupted_everywhere(lambda: send(producer), behind) > 10


def test_a_flush_and_a_wait_for_room(brokers: Brokers, backend: Backend) -> None:
    with open_session(brokers.servers, backend=backend) as session, session.producer() as producer:

        def work() -> None:
            producer.send_nowait("test", b"x")
            producer.wait_for_room()
            producer.flush()

        assert interrupted_everywhere(work, producer.flush) > 10


def test_an_iteration_loses_nothing_and_a_commit_may_be_repeated(brokers: Brokers, backend: Backend) -> None:
    with open_session(brokers.servers, backend=backend) as session:
        with session.producer() as producer:
            producer.send_many("test", [b"x", b"x"])
        with session.consumer(f"group-{backend}", "test") as consumer:
            first = next(consumer)

            def work() -> None:
                next(consumer)
                consumer.commit()

            def behind() -> None:
                consumer.seek(first.partition, first.offset)
                assert next(consumer).offset == first.offset

            assert interrupted_everywhere(work, behind) > 20


def test_a_message_for_a_producer_that_is_closed_keeps_nobody_waiting(
    brokers: Brokers, backend: Backend
) -> None:
    with open_session(brokers.servers, backend=backend) as session, session.producer() as producer:
        pass
    assert interrupted_everywhere(lambda: producer.send_nowait("test", b"x"), producer.flush) > 10


def test_a_bell_rings_for_all_when_it_is_rung_again() -> None:
    bell = Bell()
    changed = threading.Event()
    threads: list[threading.Thread] = []

    def begin() -> None:
        changed.clear()
        for _ in range(2):
            threads.append(threading.Thread(target=bell.wait_until, args=[changed.is_set], daemon=True))
            threads[-1].start()
        eventually(lambda: len(bell._waiting) == 2, "they wait")
        changed.set()

    def behind() -> None:
        bell.ring()
        while threads:
            threads.pop().join()
        begin()

    begin()
    assert interrupted_everywhere(bell.ring, behind) > 5
    behind()
    changed.set()
    bell.ring()


def test_the_loop_does_not_wait_for_who_hands_in(brokers: Brokers, backend: Backend) -> None:
    with open_session(brokers.servers, backend=backend) as session, session.producer() as producer:
        gate = threading.Event()
        session._block.thread.post(gate.wait)
        sent = producer.send_nowait("test", b"x")
        # As a garbage collection there, which ends an abandoned block and so waits for the loop.
        with producer._count_lock:
            gate.set()
            assert sent.result(WAIT_SECONDS_MAX)
