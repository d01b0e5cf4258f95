from __future__ import annotations

import json
import logging
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaserver.http import HttpLimits, HttpSource, serve_http

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = b"x" * 16_000_000
"""More than the buffers of two loopback sockets hold."""

SOURCE = HttpSource(status=dict, metrics=lambda: lambda: BIG, readiness=list)
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test that logs something and does not say so by clearing the log."""
    caplog.set_level(logging.INFO)
    yield
    assert not caplog.messages


async def start(nursery: trio.Nursery, limits: HttpLimits | None = None, source: HttpSource = SOURCE) -> int:
    port: int = await nursery.start(partial(serve_http, "127.0.0.1", 0, source, limits=limits))
    return port


async def connect(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


async def read_answer(stream: trio.SocketStream) -> tuple[int, bytes]:
    """Status and body of the next answer, by its content-length; the status is 0 at the end."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = await stream.receive_some()
        if not data:
            return 0, received
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    parts = [body]
    missing = int(headers[b"content-length"]) - len(body)
    while missing > 0:
        parts.append(await stream.receive_some(1_000_000))
        missing -= len(parts[-1])
    return int(head.split()[1]), b"".join(parts)


async def is_healthy(port: int) -> bool:
    async with await connect(port) as stream:
        await stream.send_all(HEALTH)
        return await read_answer(stream) == (200, b"ok\n")


async def test_many_requests_on_one_connection(nursery: trio.Nursery) -> None:
    async with await connect(await start(nursery)) as stream:
        for _ in range(3):
            await stream.send_all(HEALTH)
            assert await read_answer(stream) == (200, b"ok\n")


async def test_a_large_answer_arrives_whole(nursery: trio.Nursery) -> None:
    async with await connect(await start(nursery)) as stream:
        await stream.send_all(METRICS)
        assert await read_answer(stream) == (200, BIG)


async def test_head_has_no_body(nursery: trio.Nursery) -> None:
    async with await connect(await start(nursery)) as stream:
        await stream.send_all(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = b"".join([part async for part in stream])
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"\r\n\r\n")


async def test_headers_past_the_limit(nursery: trio.Nursery) -> None:
    port = await start(nursery, HttpLimits(header_bytes=1000))
    async with await connect(port) as stream:
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\ny: " + b"y" * 900 + b"\r\n\r\n")
        assert await read_answer(stream) == (200, b"ok\n")
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\ny: " + b"y" * 1000)
        assert (await read_answer(stream))[0] == 431
    assert await is_healthy(port)


async def test_a_body_is_refused_before_it_is_read(nursery: trio.Nursery) -> None:
    async with await connect(await start(nursery)) as stream:
        await stream.send_all(b"DELETE /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n")
        assert (await read_answer(stream))[0] == 413
        assert await read_answer(stream) == (0, b"")


async def test_a_connection_that_sends_no_request_is_closed(nursery: trio.Nursery) -> None:
    port = await start(nursery, HttpLimits(idle_seconds=0.01))
    async with await connect(port) as stream:
        await stream.send_all(b"GET /heal")
        assert await read_answer(stream) == (0, b"")


async def test_one_connection_too_many(nursery: trio.Nursery) -> None:
    port = await start(nursery, HttpLimits(connections=1))
    async with await connect(port) as first:
        await first.send_all(HEALTH)
        assert (await read_answer(first))[0] == 200
        async with await connect(port) as second:
            assert await read_answer(second) == (503, b"too many connections\n")
        await first.send_all(HEALTH)
        assert (await read_answer(first))[0] == 200


async def test_a_peer_that_takes_no_answer_is_cut_off(nursery: trio.Nursery) -> None:
    port = await start(nursery, HttpLimits(send_seconds=0.05))
    async with await connect(port) as stream:
        await stream.send_all(METRICS)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(HEALTH * 1_000_000)  # blocks while the server sends; ends when it closes
    assert await is_healthy(port)


async def test_a_peer_that_has_ended_is_not_waited_for(nursery: trio.Nursery) -> None:
    port = await start(nursery, HttpLimits(idle_seconds=1000))
    async with await connect(port) as stream:
        await stream.send_eof()
        assert await read_answer(stream) == (0, b"")
    async with await connect(port) as stream:
        await stream.send_all(HEALTH)
        assert (await read_answer(stream))[0] == 200
        await stream.send_eof()
        assert await read_answer(stream) == (0, b"")


async def test_the_stop_is_not_delayed_by_idle_connections() -> None:
    limits = HttpLimits(stop_seconds=1000)
    async with trio.open_nursery() as nursery:
        stream = await connect(await start(nursery, limits))
        await stream.send_all(HEALTH)
        await read_answer(stream)
        nursery.cancel_scope.cancel()
    async with stream:
        assert await read_answer(stream) == (0, b"")


async def wait_until_refused(port: int) -> None:
    """Return when nothing accepts at the port any more."""
    with suppress(OSError):
        while True:
            await (await connect(port)).aclose()


async def test_the_stop_lets_an_answer_finish() -> None:
    rendering = threading.Event()
    proceed = threading.Event()

    def render() -> bytes:
        rendering.set()
        proceed.wait()
        return b"late 1\n"

    source = attrs.evolve(SOURCE, metrics=lambda: render)
    async with trio.open_nursery() as nursery:
        port = await start(nursery, HttpLimits(stop_seconds=1000), source)
        stream = await connect(port)
        await stream.send_all(METRICS)
        await trio.to_thread.run_sync(rendering.wait)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_until_refused(port)
            await trio.testing.wait_all_tasks_blocked()  # the stop waits for the answer
        proceed.set()
    async with stream:
        assert await read_answer(stream) == (200, b"late 1\n")


async def test_the_stop_is_not_delayed_by_a_peer_that_takes_nothing() -> None:
    async with trio.open_nursery() as nursery:
        stream = await connect(await start(nursery, HttpLimits(stop_seconds=0.05, send_seconds=1000)))
        await stream.send_all(METRICS)
        assert await stream.receive_some(1)  # the answer is under way
        nursery.cancel_scope.cancel()
    await stream.aclose()


async def throw_at(port: int, data: bytes) -> None:
    """Send the bytes and wait until the server has closed."""
    async with await connect(port) as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            await stream.send_eof()
            while await stream.receive_some():
                pass


UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: bKdPyn3u98cTfZJSh4TNeQ==\r\n\r\n"
)


H2_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 100,
        b"hello\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: [::\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        UPGRADE,
        UPGRADE + b"x",
        H2_START + b"\xff" * 50,
        # An HTTP/2 request for /\xff: hypercorn cannot decode the path.
        H2_START + b"\x00\x00\x0a\x01\x05\x00\x00\x00\x01\x82\x86\x41\x01x\x44\x03/\xff\xff",
    ],
)
async def test_no_bytes_end_the_server(
    nursery: trio.Nursery, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    port = await start(nursery, HttpLimits(idle_seconds=0.1))
    await throw_at(port, data)
    assert await is_healthy(port)
    caplog.clear()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the log is cleared each time
@given(
    data=st.lists(
        st.sampled_from(
            [
                HEALTH,
                UPGRADE,
                H2_START,
                b"GET /",
                b" HTTP/1.1\r\n",
                b"\r\n",
                b"content-length: 5\r\n",
                b"host: x\r\n",
                b"transfer-encoding: chunked\r\n\r\n",
                b"expect: 100-continue\r\n",
                b"upgrade: h2c\r\n",
                b"0\r\n\r\n",
            ]
        )
        | st.binary(max_size=30),
        max_size=6,
    ).map(b"".join)
)
async def test_mutated_requests_do_not_end_the_server(caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    async with trio.open_nursery() as nursery:
        port = await start(nursery, HttpLimits(idle_seconds=0.1))
        await throw_at(port, data)
        assert await is_healthy(port)
        nursery.cancel_scope.cancel()
    caplog.clear()


async def test_a_failing_page_is_answered_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> list[str]:
        raise ZeroDivisionError("a detail for the log")

    async with trio.open_nursery() as nursery:
        port = await start(nursery, source=attrs.evolve(SOURCE, readiness=fail))
        async with await connect(port) as stream:
            await stream.send_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
            status, body = await read_answer(stream)
        nursery.cancel_scope.cancel()
    assert status == 500
    assert json.loads(body)["detail"] == "the page failed inside the broker; its log says more"
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    caplog.clear()


async def test_sending_while_the_stream_is_being_ended_is_a_broken_stream() -> None:
    """Hypercorn ends a stream in one task while an answer leaves in another: found by fuzzing the port."""
    from metaserver.http.connections import _Stream

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    theirs = await trio.testing.open_stream_to_socket_listener(listener)
    accepted = await listener.accept()
    stream = _Stream(accepted, 5.0)
    async with listener, theirs, trio.open_nursery() as nursery:

        async def fill() -> None:
            with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
                await accepted.send_all(BIG)

        nursery.start_soon(fill)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError, match="being closed"):
            await stream.send_all(b"late")
        stream.abort()
