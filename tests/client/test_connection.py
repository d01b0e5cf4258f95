"""The client against a peer that answers by script, on trio and on asyncio."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from metaserver.client import (
    Batch,
    BrokerConnection,
    Fetched,
    Moved,
    NothingThere,
    announced_registry_port,
    connect,
)
from metaserver.client.connection import announced_registry, announced_registry_elsewhere
from metaserver.errors import BrokerUnreachableError, ReplyError, RequestTimeoutError
from metaserver.message import encode_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import SocketStream

    Script = Callable[["Peer"], Awaitable[None]]
    Run = Callable[[Callable[[], Awaitable[None]]], None]

VERSION = b"1.4.6.2 metaserver/0.1.0 extensions=long-poll,put-batch,epochs,replica-ack,filter"


class Peer:
    """The broker's side of one connection."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def expect(self, pattern: bytes) -> re.Match[bytes]:
        """Wait for a line that matches; the group ``opaque`` is what a reply must carry."""
        while (found := re.match(pattern + rb" (?P<opaque>-?\d+)(?: \d+)?\r\n", self.buffer)) is None:
            self.buffer += await self.stream.receive()
        self.buffer = self.buffer[found.end() :]
        return found

    async def result(self, status: int, text: bytes, request: re.Match[bytes]) -> None:
        frame = b"result %d %d %b\r\n%b" % (status, len(text), request["opaque"], text)
        await self.stream.send(frame)

    async def value(self, data: bytes, request: re.Match[bytes]) -> None:
        await self.stream.send(b"value %d %b\r\n%b" % (len(data), request["opaque"], data))


@asynccontextmanager
async def scripted(script: Script, version: bytes = VERSION) -> AsyncIterator[BrokerConnection]:
    async def handle(stream: SocketStream) -> None:
        async with stream:
            peer = Peer(stream)
            await peer.result(200, version, await peer.expect(b"version"))
            try:
                await script(peer)
                await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        async with connect("127.0.0.1", port) as broker:
            yield broker
        tasks.cancel_scope.cancel()
    await listener.aclose()


def test_what_a_broker_announces_is_known(run: Run) -> None:
    async def test() -> None:
        async with scripted(idle) as broker:
            assert broker.extensions == {"long-poll", "put-batch", "epochs", "replica-ack", "filter"}
        async with scripted(idle, b"1.4.6.2") as broker:
            assert broker.extensions == frozenset()

    run(test)


def test_replies_find_their_requests_in_any_order(run: Run) -> None:
    async def swap(peer: Peer) -> None:
        first = await peer.expect(rb"offset t g 0 1")
        second = await peer.expect(rb"offset t g 0 2")
        await peer.result(200, b"22", second)
        await peer.result(200, b"11", first)

    async def test() -> None:
        async with scripted(swap) as broker, anyio.create_task_group() as tasks:
            got: dict[int, int] = {}

            async def ask(offset: int) -> None:
                got[offset] = await broker.offset("t", 0, offset, "g")

            tasks.start_soon(ask, 1)
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(ask, 2)
        assert sorted(got.values()) == [11, 22]

    run(test)


def test_a_refusal_carries_status_and_text(run: Run) -> None:
    async def refuse(peer: Peer) -> None:
        request = await peer.expect(rb"put t 0 5 0 \d+")
        await peer.result(500, b"The server do not accept topic t", request)

    async def test() -> None:
        async with scripted(refuse) as broker:
            with pytest.raises(ReplyError) as caught:
                await broker.put("t", 0, b"hello")
            assert (caught.value.status, caught.value.text) == (500, "The server do not accept topic t")

    run(test)


def test_a_put_with_an_attribute(run: Run) -> None:
    async def take(peer: Peer) -> None:
        request = await peer.expect(rb"put t 1 11 1 \d+")
        await peer.result(200, b"-77 1 4096", request)

    async def test() -> None:
        async with scripted(take) as broker:
            sent = await broker.put("t", 1, b"hello", "ab")
            assert (sent.message_id, sent.partition, sent.offset) == (-77, 1, 4096)

    run(test)


def test_a_batch_is_one_frame(run: Run) -> None:
    async def take(peer: Peer) -> None:
        request = await peer.expect(rb"putbatch t 0 48")
        await peer.result(200, b"9 0 100 2", request)

    async def test() -> None:
        async with scripted(take) as broker:
            batch = Batch()
            batch.add(b"hell")
            batch.add(b"", "")
            assert (len(batch), batch.size_bytes) == (2, 48)
            result = await broker.put_batch("t", 0, batch)
            assert (result.first_id, result.offset, result.count) == (9, 100, 2)

    run(test)


def test_the_answers_to_a_get(run: Run) -> None:
    records = encode_record(b"one", 1) + encode_record(b"two", 2)

    async def answer(peer: Peer) -> None:
        await peer.value(records + b"\0\0\0", await peer.expect(rb"get t meta-client 0 7 1048576"))
        await peer.result(301, b"99", await peer.expect(rb"get t meta-client 0 7 1048576"))
        await peer.result(404, b"nothing", await peer.expect(rb"get t meta-client 0 7 1048576"))
        await peer.result(403, b"closed", await peer.expect(rb"get t meta-client 0 7 1048576"))
        await peer.result(500, b"broken", await peer.expect(rb"get t meta-client 0 7 1048576"))

    async def test() -> None:
        async with scripted(answer) as broker:
            got = await broker.get("t", 0, 7)
            assert isinstance(got, Fetched)
            messages = list(got.messages())
            assert [(m.offset, m.next_offset, m.payload) for m in messages] == [
                (7, 30, b"one"),
                (30, 53, b"two"),
            ]
            assert await broker.get("t", 0, 7) == Moved(99)
            assert await broker.get("t", 0, 7) == NothingThere("nothing")
            assert await broker.get("t", 0, 7) == NothingThere("closed")
            with pytest.raises(ReplyError, match="broken"):
                await broker.get("t", 0, 7)

    run(test)


def test_following_goes_where_the_broker_points_and_asks_for_more_where_a_record_does_not_fit(
    run: Run,
) -> None:
    large = encode_record(b"x" * (1024 * 1024), 3)

    async def answer(peer: Peer) -> None:
        await peer.result(301, b"40", await peer.expect(rb"get t g 0 0 1048576"))
        await peer.value(encode_record(b"one", 1), await peer.expect(rb"get t g 0 40 1048576"))
        await peer.result(404, b"", await peer.expect(rb"get t g 0 63 1048576"))
        await peer.value(large[: 1024 * 1024], await peer.expect(rb"get t g 0 63 1048576"))
        await peer.value(large, await peer.expect(rb"get t g 0 63 2097152"))

    async def test() -> None:
        async with scripted(answer) as broker:
            seen = []
            messages = broker.follow("t", 0, 0, group="g")
            async for message in messages:
                seen.append((message.offset, len(message.payload)))
                if len(seen) == 2:
                    break
            await messages.aclose()  # type: ignore[attr-defined]
            assert seen == [(40, 3), (63, 1024 * 1024)]

    run(test)


def test_a_request_without_reply_times_out_and_the_connection_stays_usable(run: Run) -> None:
    async def late(peer: Peer) -> None:
        first = await peer.expect(rb"stats slow")
        second = await peer.expect(rb"stats quick")
        await peer.result(200, b"too late", first)
        await peer.result(200, b"in time", second)

    async def test() -> None:
        async with scripted(late) as broker:
            with pytest.raises(RequestTimeoutError):
                await broker.request(lambda opaque: b"stats slow %d\r\n" % opaque, 0.01)
            assert await broker.stats("quick") == "in time"

    run(test)


def test_a_broken_connection_answers_everybody_who_waits(run: Run) -> None:
    async def vanish(peer: Peer) -> None:
        await peer.expect(rb"stats a")
        await peer.stream.aclose()

    async def test() -> None:
        async with scripted(vanish) as broker:
            with pytest.raises(BrokerUnreachableError, match="closed the connection"):
                await broker.stats("a")
            with pytest.raises(BrokerUnreachableError):
                await broker.stats("b")

    run(test)


def test_bytes_that_are_no_reply_end_the_connection(run: Run) -> None:
    async def talk_http(peer: Peer) -> None:
        await peer.expect(rb"stats a")
        await peer.stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def test() -> None:
        async with scripted(talk_http) as broker:
            with pytest.raises(BrokerUnreachableError, match="no reply of this protocol"):
                await broker.stats("a")

    run(test)


def test_nobody_listens(run: Run) -> None:
    async def test() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        await listener.aclose()
        with pytest.raises(BrokerUnreachableError, match=f"127.0.0.1:{port}"):
            async with connect("127.0.0.1", port):
                pass
        with pytest.raises(BrokerUnreachableError, match=re.escape(f"[::1]:{port}")):
            async with connect("::1", port):
                pass

    run(test)


def test_an_error_inside_the_block_comes_out_as_it_is(run: Run) -> None:
    async def test() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)

        async def handle(stream: SocketStream) -> None:
            async with stream:
                peer = Peer(stream)
                await peer.result(200, VERSION, await peer.expect(b"version"))
                await stream.receive()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, handle)
            with pytest.raises(ZeroDivisionError):
                async with connect("127.0.0.1", port):
                    1 // 0  # noqa: B018 - the error is the point
            tasks.cancel_scope.cancel()
        await listener.aclose()

    run(test)


async def idle(_peer: Peer) -> None:
    """Say nothing more."""


def test_the_port_of_the_registry_stands_in_the_version() -> None:
    version = VERSION.decode()
    assert announced_registry_port(f"{version} registry=2181") == 2181
    assert announced_registry_port(f"{version} registry=2181 more=1") == 2181
    for text in (
        "",
        version,
        f"{version} registry=",
        f"{version} registry=-1",
        "registry=65536",
        "registry=²",
        "registry=0",
        f"registry={'9' * 5000}",
    ):
        assert announced_registry_port(text) is None


def test_a_slave_names_the_address_of_the_registry() -> None:
    version = VERSION.decode()
    assert announced_registry_elsewhere(f"{version} registry-at=h:2181 more=1") == "h:2181"
    assert announced_registry_elsewhere(f"{version} registry-at=[::1]:2181") == "[::1]:2181"
    assert announced_registry_port(f"{version} registry-at=h:2181") is None
    for word in (
        "",
        "registry=2181",
        "registry-at=2181",
        "registry-at=:1",
        "registry-at=h:",
        "registry-at=h:0",
        "registry-at=h:65536",
        f"registry-at=h:{'9' * 5000}",
    ):
        assert announced_registry_elsewhere(f"{version} {word}") is None


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("", None),
        ("registry=2181", "slave:2181"),
        ("registry-at=h:2181", "h:2181"),
        ("registry-at=[fe80::1]:2181", "[fe80::1]:2181"),
        ("registry-at=127.0.0.1:2181", "slave:2181"),
        ("registry-at=localhost:2181", "slave:2181"),
        ("registry-at=[::1]:2181", "slave:2181"),
    ],
)
def test_what_a_broker_says_of_the_registry_is_seen_from_here(said: str, found: str | None) -> None:
    assert announced_registry(f"{VERSION.decode()} {said}", "slave") == found


def test_every_request_that_waits_for_room_goes_out(run: Run) -> None:
    async def test() -> None:
        read_on = anyio.Event()
        count = 12

        async def script(peer: Peer) -> None:
            await read_on.wait()
            for _ in range(count):
                request = await peer.expect(rb"put t 0 1048576 0 \d+")
                while len(peer.buffer) < 1024 * 1024:
                    peer.buffer += await peer.stream.receive()
                peer.buffer = peer.buffer[1024 * 1024 :]
                await peer.result(200, b"1 0 0", request)

        async with scripted(script) as broker:
            taken = []

            async def put() -> None:
                taken.append(await broker.put("t", 0, bytes(1024 * 1024)))

            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(put)
                await anyio.wait_all_tasks_blocked()
                # Several wait by now, for the socket takes no more.
                assert broker.outstanding < count - 1
                read_on.set()
            assert len(taken) == count

    run(test)


def test_who_accepts_and_says_nothing_cannot_be_reached(run: Run) -> None:
    async def test() -> None:
        async def be_silent(stream: SocketStream) -> None:
            async with stream:
                await anyio.sleep_forever()

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, be_silent)
            with pytest.raises(BrokerUnreachableError, match="did not answer"), anyio.fail_after(10):
                async with connect("127.0.0.1", port, timeout_seconds=0.05):
                    pytest.fail("nobody answers")
            tasks.cancel_scope.cancel()

    run(test)


@pytest.mark.parametrize("host", ["a..b", "ü..b", "\u2010"])
def test_a_host_that_can_be_none_cannot_be_reached(run: Run, host: str) -> None:
    async def test() -> None:
        with pytest.raises(BrokerUnreachableError):
            async with connect(host, 1):
                pytest.fail("there is no such host")

    run(test)
