"""A long way for TCP: a proxy that delivers each byte a while after it came, perhaps changed."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from random import Random

_PIECE_BYTES = 64 * 1024
_ON_THE_WAY_BYTES_MAX = 64 * 1024 * 1024


@attrs.define(eq=False)
class _OneWay:
    """What is on its way in one direction."""

    _delay_seconds: float
    _pieces: deque[tuple[float, bytes]] = attrs.Factory(deque)
    _size_bytes: int = 0
    _changed: trio.Event = attrs.Factory(trio.Event)

    async def take(self, source: trio.SocketStream, proxy: LongWay) -> None:
        """Until its end; an empty piece says so."""
        data = b"."
        while data:
            while self._size_bytes > _ON_THE_WAY_BYTES_MAX:
                await self._wait()
            try:
                data = await source.receive_some(_PIECE_BYTES)
            except trio.BrokenResourceError:
                data = b""
            proxy.passed_bytes += len(data)
            data = proxy.change(data)
            self._pieces.append((trio.current_time() + self._delay_seconds, data))
            self._size_bytes += len(data)
            self._tell()

    async def deliver(self, target: trio.SocketStream) -> None:
        """Each piece at its time."""
        while True:
            while not self._pieces:
                await self._wait()
            due, data = self._pieces.popleft()
            await trio.sleep_until(due)
            try:
                if not data:
                    await target.send_eof()
                    return
                await target.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            self._size_bytes -= len(data)
            self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _wait(self) -> None:
        await self._changed.wait()


@attrs.define(eq=False)
class LongWay:
    """To one port of one host; connections to :attr:`port` go there."""

    target: tuple[str, int]
    round_trip_seconds: float
    port: int = 0
    connections: int = 0
    """So many there have been."""
    passed_bytes: int = 0
    """In both directions."""
    change: Callable[[bytes], bytes] = lambda data: data
    """What becomes of each piece; it keeps its size."""

    async def carry(self, client: trio.SocketStream) -> None:
        """One connection, to its end."""
        self.connections += 1
        async with client:
            try:
                server = await trio.open_tcp_stream(*self.target)
            except OSError:
                return
            async with server, trio.open_nursery() as nursery:
                for source, target in ((client, server), (server, client)):
                    way = _OneWay(self.round_trip_seconds / 2)
                    nursery.start_soon(way.take, source, self)
                    nursery.start_soon(way.deliver, target)


@attrs.define(eq=False)
class Flipper:
    """Changes a bit of a byte now and then; see :attr:`LongWay.change`."""

    _random: Random
    bytes_between: int
    """On average."""
    is_on: bool = True
    flips: int = 0
    _left: int = 0

    def __call__(self, data: bytes) -> bytes:
        """The piece, with as many flips as its size asks for."""
        if not self.is_on:
            return data
        changed = bytearray(data)
        while self._left < len(changed):
            changed[self._left] ^= 1 << self._random.randrange(8)
            self.flips += 1
            self._left += self._random.randint(1, 2 * self.bytes_between)
        self._left -= len(changed)
        return bytes(changed)


@asynccontextmanager
async def long_way(
    target: tuple[str, int], round_trip_seconds: float, host: str = "127.0.0.1"
) -> AsyncIterator[LongWay]:
    """A proxy at ``host``, for the time of the block."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host)
        way = LongWay(target, round_trip_seconds, listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, way.carry, listeners)
        yield way
        nursery.cancel_scope.cancel()
