"""A slow link and a dead one, told apart: bytes that come by the clock, in virtual time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

import anyio
import attrs
import pytest
import trio
import trio.testing

from metaserver.client.connection import connect
from metaserver.client.pool import HEARTBEAT_SECONDS, BrokerLink
from metaserver.errors import RequestTimeoutError
from metaserver.protocol import Value

if TYPE_CHECKING:
    from metaserver.client.connection import BrokerConnection

BYTES_PER_SECOND = 1000
VALUE_BYTES = 100_000
"""Ten heartbeats long."""


@attrs.define(eq=False)
class SlowStream:
    """Answers in order, each byte in its time; cut, it is silent for ever."""

    queue: list[bytes] = attrs.Factory(list)
    is_cut: bool = False
    _asked: trio.Event = attrs.Factory(trio.Event)

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for line in data.split(b"\r\n")[:-1]:
            verb, opaque = re.fullmatch(rb"(\w+) .*?(\d+)", line).groups()  # type: ignore[union-attr]
            if verb == b"version":
                self.queue.append(b"result 200 7 %b\r\n1.4.6.2" % opaque)
            else:
                opaque = line.split(b" ")[6]
                self.queue.append(b"value %d %b\r\n%b" % (VALUE_BYTES, opaque, b"." * VALUE_BYTES))
        self._asked.set()

    async def receive(self, size_max: int) -> bytes:
        while not self.queue or self.is_cut:
            self._asked = trio.Event()
            await self._asked.wait()
        first = self.queue.pop(0)
        piece, rest = first[:BYTES_PER_SECOND], first[BYTES_PER_SECOND:]
        if rest:
            self.queue.insert(0, rest)
        await trio.sleep(len(piece) / BYTES_PER_SECOND)
        return piece

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_cut = True


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[SlowStream]:
    found: list[SlowStream] = []

    async def connect_tcp(_host: str, _port: int) -> SlowStream:
        await trio.lowlevel.checkpoint()
        found.append(SlowStream())
        return found[-1]

    monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)
    return found


async def receive_value(connection: BrokerConnection) -> bytes:
    got = await connection.get("t", 0, 0)
    return getattr(got, "data", b"")


async def test_a_link_that_still_receives_is_kept(
    streams: list[SlowStream], autojump_clock: trio.testing.MockClock
) -> None:
    link = BrokerLink(("h", 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        connection = await link.wait_connected()
        began = trio.current_time()
        assert len(await receive_value(connection)) == VALUE_BYTES
        assert trio.current_time() - began > 9 * HEARTBEAT_SECONDS
        await trio.sleep(10 * HEARTBEAT_SECONDS)
        assert link.connection is connection
        assert len(streams) == 1
        nursery.cancel_scope.cancel()


async def test_a_link_that_is_silent_is_given_up(
    streams: list[SlowStream], autojump_clock: trio.testing.MockClock
) -> None:
    link = BrokerLink(("h", 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        connection = await link.wait_connected()
        nursery.start_soon(_ignoring_its_end, connection)
        await trio.sleep(5 * HEARTBEAT_SECONDS)
        streams[0].is_cut = True
        with trio.fail_after(2 * HEARTBEAT_SECONDS + 2):
            await connection.wait_broken()
        nursery.cancel_scope.cancel()


async def _ignoring_its_end(connection: BrokerConnection) -> None:
    with pytest.raises(Exception, match="h:1"):
        await receive_value(connection)


async def test_a_request_with_a_limit_keeps_to_it(
    streams: list[SlowStream], autojump_clock: trio.testing.MockClock
) -> None:
    async with connect("h", 1) as connection:
        pending = await connection.send(lambda opaque: b"get t g 0 0 9 %d\r\n" % opaque)
        with pytest.raises(RequestTimeoutError):
            await connection.request(lambda opaque: b"version %d\r\n" % opaque, 5.0)
        assert isinstance(await pending.wait(), Value)
        assert await connection.ping() == "1.4.6.2"
