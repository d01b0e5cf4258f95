from __future__ import annotations

import errno
import socket
import subprocess
import sys
from typing import NoReturn

import attrs
import pytest
import trio

from metaserver.errors import MetaServerError
from metaserver.http import HttpLimits, HttpPortError, HttpSource, serve_http

SOURCE = HttpSource(status=dict, metrics=lambda: lambda: b"", readiness=list)


async def test_the_port_is_reported_and_answers(nursery: trio.Nursery) -> None:
    port = await nursery.start(serve_http, "127.0.0.1", 0, SOURCE)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = b"".join([part async for part in stream])
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"\r\n\r\nok\n")


async def test_it_listens_where_it_is_told(nursery: trio.Nursery) -> None:
    port = await nursery.start(serve_http, "127.0.0.1", 0, SOURCE)
    with pytest.raises(OSError, match=r"refused|failed"):
        await trio.open_tcp_stream("127.0.0.2", port)


async def test_a_port_in_use_is_named_before_anything_runs() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(HttpPortError) as caught:
            await serve_http("127.0.0.1", port, SOURCE)
    assert str(caught.value) == (
        f"the HTTP port 127.0.0.1:{port} cannot be opened: Address already in use; "
        "choose another dashboardHttpPort, or stop what uses this one"
    )
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, MetaServerError)
    assert caught.value.errno == errno.EADDRINUSE


async def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(HttpPortError, match=r"192\.0\.2\.1:8120 cannot be opened: "):
        await serve_http("192.0.2.1", 8120, SOURCE)


async def test_the_port_is_free_after_the_end() -> None:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve_http, "127.0.0.1", 0, SOURCE)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        assert await nursery.start(serve_http, "127.0.0.1", port, SOURCE) == port
        nursery.cancel_scope.cancel()


async def test_an_import_that_fails_closes_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = []

    class Reported:
        def started(self, port: int) -> None:
            ports.append(port)

    def fail(*_arguments: object) -> NoReturn:
        raise ImportError("no hypercorn")

    monkeypatch.setattr("metaserver.http.server._load", fail)
    with pytest.raises(ImportError):
        await serve_http("127.0.0.1", 0, SOURCE, task_status=Reported())  # type: ignore[arg-type]
    with pytest.raises(OSError, match=r"refused|failed"):
        await trio.open_tcp_stream("127.0.0.1", ports[0])


def test_every_limit_has_a_default() -> None:
    assert all(field.default is not attrs.NOTHING for field in attrs.fields(HttpLimits))


def test_the_import_brings_neither_hypercorn_nor_starlette() -> None:
    program = "import sys, metaserver.http; sys.exit(bool({'hypercorn', 'starlette'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
