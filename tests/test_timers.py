from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from metaserver.timers import Timers

if TYPE_CHECKING:
    import trio
    from trio.testing import MockClock


async def test_callbacks_come_in_the_order_of_their_deadlines(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    timers, fired = Timers(), list[str]()
    nursery.start_soon(timers.run)
    for name, after_seconds in (("late", 3.0), ("early", 1.0), ("middle", 2.0)):
        timers.schedule(after_seconds, partial(fired.append, name))
    await _sleep(2.5)
    assert fired == ["early", "middle"]
    await _sleep(1.0)
    assert fired == ["early", "middle", "late"]


async def test_an_earlier_deadline_overtakes_the_one_waited_for(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    timers, fired = Timers(), list[str]()
    nursery.start_soon(timers.run)
    timers.schedule(100.0, partial(fired.append, "far"))
    await _sleep(1.0)
    timers.schedule(1.0, partial(fired.append, "near"))
    await _sleep(1.5)
    assert fired == ["near"]


async def test_a_cancelled_timer_does_not_fire(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers, fired = Timers(), list[int]()
    nursery.start_soon(timers.run)
    waiting = [timers.schedule(1.0 + n / 1000, partial(fired.append, n)) for n in range(5000)]
    for timer in waiting:
        if timer is not waiting[4321]:
            timers.cancel(timer)
    timers.cancel(waiting[0])
    await _sleep(100.0)
    assert fired == [4321]
    timers.cancel(waiting[4321])


async def test_a_callback_may_schedule(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers, fired = Timers(), list[int]()
    nursery.start_soon(timers.run)

    def again() -> None:
        fired.append(len(fired))
        if len(fired) < 3:
            timers.schedule(1.0, again)

    timers.schedule(1.0, again)
    await _sleep(10.0)
    assert fired == [0, 1, 2]


async def _sleep(seconds: float) -> None:
    import trio

    await trio.sleep(seconds)
