"""Requests from within the process, to a broker that answers when the test says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import attrs
import trio
import trio.testing

from metaserver.node.local_requests import LocalRequests
from metaserver.protocol import Get, OversizedPut, Puts, Result, Value, encode_result

if TYPE_CHECKING:
    from metaserver.broker import ReplySink
    from metaserver.protocol import Command

GET = Get("t", "g", 0, 0, 100, 0)


@attrs.define(eq=False)
class Slice:
    """Bytes of a log, and how often they were let go."""

    data: bytes
    released: int = 0

    def read(self) -> bytes:
        assert not self.released
        return self.data

    def release(self) -> None:
        self.released += 1


@attrs.define(eq=False)
class FakeBroker:
    asked: list[tuple[Command, ReplySink]] = attrs.Factory(list)
    inflight_bytes: int = 0
    paused: dict[ReplySink, None] = attrs.Factory(dict)
    config: Any = attrs.Factory(lambda: SimpleNamespace(max_inflight_bytes=100, max_transfer_size_bytes=50))
    counters: Any = attrs.Factory(lambda: SimpleNamespace(bytes_out=0))

    def handle(self, command: Command, sink: ReplySink) -> None:
        self.asked.append((command, sink))


def requests(broker: FakeBroker) -> LocalRequests:
    anything: Any = broker
    return LocalRequests(anything)


async def ask_in(nursery: trio.Nursery, ours: LocalRequests, command: Command) -> list[Result | Value]:
    """Ask in a task; the reply comes into the list."""
    replies: list[Result | Value] = []

    async def ask() -> None:
        replies.append(await ours.ask(command))

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    return replies


async def test_a_text(nursery: trio.Nursery) -> None:
    broker = FakeBroker()
    replies = await ask_in(nursery, requests(broker), GET)
    ((command, sink),) = broker.asked
    assert command is GET
    assert not replies
    sink.send(encode_result(404, "größe", 0))
    await trio.testing.wait_all_tasks_blocked()
    assert replies == [Result(404, "größe", 0)]
    assert not sink.is_open


async def test_bytes_of_a_log_are_let_go(nursery: trio.Nursery) -> None:
    broker, found = FakeBroker(), Slice(b"records")
    with trio.fail_after(10):
        async with trio.open_nursery() as inner:
            replies = await ask_in(inner, requests(broker), GET)
            anything: Any = found
            broker.asked[0][1].send_slice(b"value 7 0\r\n", anything)
    assert replies == [Value(b"records", 0)]
    assert found.released >= 1
    assert broker.counters.bytes_out == 7


async def test_nobody_waits_any_more() -> None:
    broker, found = FakeBroker(), Slice(b"")
    async with trio.open_nursery() as nursery:
        await ask_in(nursery, requests(broker), GET)
        nursery.cancel_scope.cancel()
    sink, anything = broker.asked[0][1], found
    assert not sink.is_open
    late: Any = anything
    sink.send_slice(b"", late)
    assert found.released == 1


async def test_it_waits_for_room(nursery: trio.Nursery) -> None:
    broker = FakeBroker(inflight_bytes=101)
    await ask_in(nursery, requests(broker), GET)
    assert not broker.asked
    (sink,) = broker.paused
    broker.inflight_bytes = 100
    sink.resume()
    await trio.testing.wait_all_tasks_blocked()
    assert len(broker.asked) == 1
    nursery.cancel_scope.cancel()


async def test_who_waits_for_room_may_go() -> None:
    broker = FakeBroker(inflight_bytes=101)
    async with trio.open_nursery() as nursery:
        await ask_in(nursery, requests(broker), GET)
        nursery.cancel_scope.cancel()
    assert not broker.paused


async def test_a_put_that_no_connection_would_take(nursery: trio.Nursery) -> None:
    broker = FakeBroker()
    for size in (30, 31):
        await ask_in(nursery, requests(broker), Puts("t", 0, [b"x" * size], [0], [None], [b"0"]))
    assert isinstance(broker.asked[0][0], Puts)
    assert broker.asked[1][0] == OversizedPut("t", 0, 31, 0)
    nursery.cancel_scope.cancel()


async def test_a_stopping_broker_takes_nothing() -> None:
    broker = FakeBroker()
    ours = requests(broker)
    ours.stop()
    assert await ours.ask(GET) == Result(503, "The broker is stopping", 0)
    assert not broker.asked
