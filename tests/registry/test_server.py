"""The registry's port with small limits, in one process, on a journal that does what the test says."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing

from metaserver.broker import Poller, open_listener
from metaserver.errors import DiskFullError, LogFailedError
from metaserver.node.clock import SystemClock
from metaserver.registry.embedded import RegistryOptions, RegistryServer, ServerOptions
from tests.registry.wire import ACL, Create, GetData, SetData
from tests.support import WAIT_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from metaserver.errors import StorageError

CONNECT = bytes(12) + (4000).to_bytes(4, "big") + bytes(8) + b"\0\0\0\x10" + bytes(16)
OPTIONS = ServerOptions(
    registry=RegistryOptions(tick_ms=50),
    connections_max=3,
    frame_bytes_max=1000,
    outstanding_requests_max=5,
    outstanding_bytes_max=2000,
    unsent_bytes_max=100_000,
    compaction_bytes=2000,
)


@attrs.define(eq=False)
class MemoryJournal:
    """Keeps records in memory; holds appends back, or fails them, when told."""

    records: list[bytes] = attrs.Factory(list)
    is_holding: bool = False
    outcome: StorageError | None = None
    waiting: list[Callable[[], None]] = attrs.Factory(list)
    snapshots: int = 0

    @property
    def uncompacted_bytes(self) -> int:
        return sum(map(len, self.records))

    def replay(self) -> Iterator[bytes]:
        return iter(list(self.records))

    def append(self, records: Sequence[bytes], done: Callable[[StorageError | None], None]) -> None:
        def finish() -> None:
            if self.outcome is None:
                self.records += records
            done(self.outcome)

        if self.is_holding:
            self.waiting.append(finish)
        else:
            finish()

    def compact(self, records: Sequence[bytes], done: Callable[[StorageError | None], None]) -> None:
        self.snapshots += 1
        self.records = list(records)
        done(None)

    def let_go(self) -> None:
        self.is_holding = False
        waiting, self.waiting = self.waiting, []
        for finish in waiting:
            finish()


class Client:
    """Frames over a trio stream, with a bound on every wait."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._held = bytearray()

    async def send(self, *frames: bytes) -> None:
        await self._stream.send_all(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))

    async def receive(self) -> bytes | None:
        """The next frame; None at the end of the stream."""
        with trio.fail_after(WAIT_SECONDS_MAX):
            while len(self._held) < 4 or len(self._held) < 4 + int.from_bytes(self._held[:4], "big"):
                try:
                    data = await self._stream.receive_some(65536)
                except trio.BrokenResourceError:
                    return None
                if not data:
                    return None
                self._held += data
        end = 4 + int.from_bytes(self._held[:4], "big")
        frame = bytes(self._held[4:end])
        del self._held[:end]
        return frame

    async def codes(self, count: int) -> list[tuple[int, int]]:
        """Number and code of so many replies."""
        found = []
        for _ in range(count):
            frame = await self.receive()
            assert frame is not None
            found.append((_signed(frame[:4]), _signed(frame[12:16])))
        return found

    async def close(self) -> None:
        await self._stream.aclose()


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def frame(xid: int, request: object) -> bytes:
    kind: int = request.type  # type: ignore[attr-defined] # kazoo's classes share no type
    data: bytes = request.serialize()  # type: ignore[attr-defined] # the same
    return xid.to_bytes(4, "big") + kind.to_bytes(4, "big") + data


@attrs.define(eq=False)
class World:
    server: RegistryServer
    port: int
    first_zxid: int

    @property
    def transactions(self) -> int:
        """Since the start, but for the one that began its epoch."""
        return self.server.statistics().zxid - self.first_zxid

    async def open(self) -> Client:
        client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        await client.send(CONNECT)
        return client

    async def connect(self) -> Client:
        client = await self.open()
        assert await client.receive() is not None
        return client


@asynccontextmanager
async def serving(journal: MemoryJournal) -> AsyncIterator[World]:
    poller = Poller()
    listener = open_listener("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = RegistryServer(journal, listener, poller, SystemClock(), bytes, OPTIONS)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            await server.load()
            nursery.start_soon(server.serve)
            await trio.testing.wait_all_tasks_blocked()
            yield World(server, port, server.statistics().zxid)
            nursery.cancel_scope.cancel()
    finally:
        poller.close()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_SECONDS_MAX):
        while not condition():
            await trio.sleep(0.005)


async def test_nothing_is_told_before_it_is_durable() -> None:
    journal = MemoryJournal()
    async with serving(journal) as world:
        writer, reader = await world.connect(), await world.connect()
        journal.is_holding = True
        await writer.send(frame(1, Create("/a", b"", ACL, 0)))
        await until(lambda: bool(journal.waiting))
        await reader.send(frame(1, GetData("/a", None)))
        await writer.send(frame(2, SetData("/a", b"1", -1)))
        await until(lambda: world.transactions == 4)
        assert len(journal.waiting) == 1, "one append at a time"
        assert len(journal.records) == 3
        journal.let_go()
        assert await writer.codes(2) == [(1, 0), (2, 0)]
        assert await reader.codes(1) == [(1, 0)]
        await writer.close()
        await reader.close()


async def test_a_client_that_floods_waits_for_its_replies() -> None:
    journal = MemoryJournal()
    async with serving(journal) as world:
        flood, other = await world.connect(), await world.connect()
        journal.is_holding = True
        await flood.send(*(frame(number, Create(f"/{number}", b"", ACL, 0)) for number in range(100)))
        await until(lambda: world.transactions == 2 + OPTIONS.outstanding_requests_max)
        await other.send(frame(1, Create("/other", b"", ACL, 0)))
        await until(lambda: world.transactions == 3 + OPTIONS.outstanding_requests_max)
        journal.let_go()
        assert await flood.codes(100) == [(number, 0) for number in range(100)]
        assert await other.codes(1) == [(1, 0)]
        await flood.close()
        await other.close()


async def test_a_client_that_reads_nothing_is_not_served_without_end() -> None:
    async with serving(MemoryJournal()) as world:
        client = await world.connect()
        data = b"x" * 900
        await client.send(frame(1, Create("/a", data, ACL, 0)))
        await client.send(*(frame(number, GetData("/a", None)) for number in range(2, 5000)))
        for number in range(1, 5000):
            found = await client.receive()
            assert found is not None
            assert _signed(found[:4]) == number
        await client.close()


async def test_limits_of_frames_and_connections() -> None:
    async with serving(MemoryJournal()) as world:
        client = await world.connect()
        await client.send(frame(1, Create("/a", b"x" * 1000, ACL, 0)))
        assert await client.receive() is None
        await client.close()
        await until(lambda: world.server.statistics().connections == 0)
        clients = [await world.connect() for _ in range(3)]
        refused = await world.open()
        assert await refused.receive() is None
        assert world.server.statistics().connections == 3
        for opened in (*clients, refused):
            await opened.close()


async def test_a_full_disk_delays_and_loses_nothing(tmp_path: Path) -> None:
    journal = MemoryJournal()
    async with serving(journal) as world:
        client = await world.connect()
        journal.outcome = DiskFullError(tmp_path, 0)
        await client.send(frame(1, Create("/a", b"", ACL, 0)))
        await until(lambda: world.transactions == 2)
        assert len(journal.records) == 2
        journal.outcome = None
        assert await client.codes(1) == [(1, 0)]
        assert len(journal.records) == 3
        await client.close()


async def test_a_failed_log_ends_all_connections(tmp_path: Path) -> None:
    journal = MemoryJournal()
    async with serving(journal) as world:
        client, other = await world.connect(), await world.connect()
        journal.outcome = LogFailedError(tmp_path, "broken")
        await client.send(frame(1, Create("/a", b"", ACL, 0)))
        assert await client.receive() is None
        assert await other.receive() is None
        refused = await world.open()
        assert await refused.receive() is None
        assert world.server.statistics().failure is not None
        for opened in (client, other, refused):
            await opened.close()


async def test_a_fault_of_our_own_costs_connections_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = MemoryJournal()
    async with serving(journal) as world:
        client = await world.connect()
        await client.send(frame(1, Create("/a", b"", ACL, 0)))
        assert await client.codes(1) == [(1, 0)]
        with monkeypatch.context() as fault:
            fault.setattr("metaserver.registry.embedded.registry.encode_transaction", lambda _: 1 / 0)
            await client.send(frame(2, Create("/half", b"", ACL, 0)))
            assert await client.receive() is None
        await until(lambda: world.server.statistics().nodes == 5)
        again = await world.connect()
        await again.send(frame(1, GetData("/half", None)), frame(2, GetData("/a", None)))
        assert await again.codes(2) == [(1, -101), (2, 0)]
        await client.close()
        await again.close()


async def test_snapshots_are_written_when_the_log_has_grown() -> None:
    journal = MemoryJournal()
    async with serving(journal) as world:
        client = await world.connect()
        await client.send(*(frame(number, Create(f"/{number}", b"", ACL, 1)) for number in range(50)))
        await client.codes(50)
        await until(lambda: journal.snapshots > 0)
        await client.close()
    async with serving(journal) as world:
        assert world.server.statistics().nodes == 54
        assert world.server.statistics().sessions == 1


async def test_a_peer_that_closes_at_once_leaves_nothing_behind() -> None:
    async with serving(MemoryJournal()) as world:
        for _ in range(20):
            with socket.socket() as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                peer.connect(("127.0.0.1", world.port))
            await trio.lowlevel.checkpoint()
        await until(lambda: world.server.statistics().connections == 0)
        client = await world.connect()
        await client.close()


@pytest.mark.parametrize("greeting", [b"", b"\0\0\0\0"])
async def test_a_greeting_that_is_none_ends_the_connection(greeting: bytes) -> None:
    async with serving(MemoryJournal()) as world:
        client = Client(await trio.open_tcp_stream("127.0.0.1", world.port))
        await client.send(greeting)
        assert await client.receive() is None
        await client.close()
