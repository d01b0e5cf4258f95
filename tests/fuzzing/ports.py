"""Random and mutated bytes on every port of a real broker, while somebody else goes on working with it.

The client port has a module of its own, for there it is known what must be answered. On the others: a connection
is answered in its protocol or closed, soon; the log holds no traceback; a second client of the same port is
answered all the time; memory stays where it was; and whatever was asked, nothing was created or changed on disk.
"""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzzing import client_port, registry
from tests.fuzzing.mutations import mutated
from tests.fuzzing.target import EDGES, Target
from tests.support import BrokerProcess, put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HANG_SECONDS = 10.0
"""Longer is a broker that hangs; shorter may be a busy machine."""
RSS_GROWTH_BYTES_MAX = 32 * 1024 * 1024
_BATCH_CASES = 500
_SETTINGS: dict[str, object] = {"dashboardHttpPort": 0, "maxSegmentSize": 1024 * 1024}


@attrs.frozen
class Port:
    """How one port is reached and what it may answer."""

    connector: Callable[[BrokerProcess], Callable[[], socket.socket]]
    target: Target
    """Its seeds and words; it runs nothing."""
    check: Callable[[bytes, bytes], None]
    """Of what was sent and what came back."""
    quiet_seconds: float = HANG_SECONDS
    """When an answer is over that the broker does not end by closing: what comes later is not looked at."""
    may_make: str = r"(?!)"
    """A pattern of the paths of files that who may use the port may have made."""


def _tcp(port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection(("127.0.0.1", port), HANG_SECONDS)


def _unix(path: Path) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(HANG_SECONDS)
        connected.connect(str(path))
        return connected

    return connect


def http_port(node: BrokerProcess) -> int:
    """Where the pages are served."""
    port: int = node.status()["http_port"]
    return port


# What may come back.


def _check_registry(_sent: bytes, received: bytes) -> None:
    while received:
        length = int.from_bytes(received[:4], "big")
        assert 0 < length <= len(received) - 4, f"a frame was cut: {received[:40]!r}"
        received = received[4 + length :]


_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) ")


def _check_http(_sent: bytes, received: bytes) -> None:
    if not received:
        return  # It was no request, or none that had ended.
    if received.startswith(b"\0\0"):
        return  # Frames of HTTP/2.
    first = _STATUS_LINE.match(received)
    assert first is not None, f"no HTTP: {received[:200]!r}"
    for found in re.finditer(rb"(?:^|\r\n)HTTP/1\.[01] ([1-5][0-9]{2}) ", received):
        assert found[1] != b"500", f"an error inside of the broker: {received[:1000]!r}"


def _check_control(sent: bytes, received: bytes) -> None:
    lines = received.split(b"\n")
    assert not lines.pop(), "an answer was cut"
    assert len(lines) <= sent.count(b"\n") + 1
    for line in lines:
        answer = json.loads(line)
        assert isinstance(answer["ok"], bool)
        assert "failed inside the broker" not in str(answer.get("error")), line


def _nothing(_data: bytes) -> None:
    """Ports run in a process of their own."""


_PAGES = (
    "/",
    "/metrics",
    "/readyz",
    "/api/v1/status",
    "/api/v1/openapi.json",
    "/api/v1/topics",
    "/api/v1/topics/test",
    "/api/v1/topics/test/partitions/0/messages?offset=0&count=2&wait=0",
    "/api/v1/topics/test/partitions/0/search?time=2026-01-01T00:00:00Z&text=a",
    "/api/v1/groups",
    "/api/v1/groups/g",
    "/api/v1/rates?minutes=1",
    "/console/",
    "/console/topics/test?partition=0&offset=0",
    "/get/test?partition=0&offset=0&group=g&maxsize=1000",
    "/offset/test?partition=0&offset=0&group=g",
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/console/static/..%2f..%2fserver.py",
)


def _request(page: str, method: str = "GET", body: bytes = b"", headers: str = "") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    head = f"{method} {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}{length}\r\n"
    return head.encode() + body


_HTTP = Target(
    "http",
    _nothing,
    [
        *map(_request, _PAGES),
        _request("/api/v1/topics/test/messages", "POST", b'{"messages":[{"payload":"a"}]}', "Content-Type: application/json\r\n"),
        _request("/api/v1/groups/g/positions", "POST", b'{"positions":[]}', "Content-Type: application/json\r\n"),
        _request("/api/v1/groups/g/reset", "POST", b"{}"),
        _request("/api/v1/topics/test/messages", "POST", b"4\r\n[{}]\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n"),
        _request("/put/test?partition=0", "POST", b"data"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _request("/", headers="Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"),
        _request("/", headers="Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n"),
    ],
    [
        b"\r\n", b"%00", b"%2f", b"..", b"?", b"&", b"=", b"/", b"Host: x\r\n", b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Range: bytes=0-1\r\n", b"Expect: 100-continue\r\n", b"\xff", b"<script>", *EDGES,
    ],
)  # fmt: skip
_CONTROL = Target(
    "control",
    _nothing,
    [
        b'{"command": "status"}\n',
        b'{"command": "slave-status"}\n{"command": "topics"}\n',
        b'{"command": "transactions"}\n',
        b'{"command": "transactions-commit", "key": "XID:1:ab::q"}\n',
        b'{"command": "transactions-forget", "key": ["XID"]}\n',
        b'{"command": "create-topic", "topic": "../evil", "settings": {"numPartitions": "1"}}\n',
        b'{"command": "alter-topic", "topic": "none", "settings": {}}\n',
        b'{"command": "delete-topic", "topic": 5}\n',
        b'{"command": "open-partitions", "topic": "none", "partitions": [0]}\n',
        b'{"command": "close-partitions", "topic": null, "partitions": {"a": 1}}\n',
        b'{"command": "repair", "topic": "none", "partition": -1}\n',
    ],
    [b"{", b"[", b'"', b"\n", b"null", b"true", b"NaN", b"1e999", b"\\u0000", b"\\ud800", b'"topic"', *EDGES],
)

PORTS = {
    "client-port": None,
    "registry-port": Port(
        lambda node: _tcp(node.registry_port),
        attrs.evolve(registry.TARGETS[0], name="registry-port", run=_nothing),
        _check_registry,
    ),
    "http-port": Port(lambda node: _tcp(http_port(node)), _HTTP, _check_http, quiet_seconds=0.05),
    "control-socket": Port(
        lambda node: _unix(node.control_socket),
        _CONTROL,
        _check_control,
        # A topic of a name that has become a good one.
        may_make=r".*/conf/server\.ini\.\d+",
    ),
}
"""The first has its own module."""


def fuzz_port(
    name: str, base: Path, first_seed: int, *, cases: int | None = None, seconds: float = float("inf")
) -> int:
    """So many cases on a broker of its own, or for so long; returns how many. Raises AssertionError.

    Nobody else may write into the parent of ``base``: a file that escapes would lie there.
    """
    port = PORTS[name]
    if port is None:
        return _fuzz_client_port(base, first_seed, cases, seconds)
    node = BrokerProcess(base, settings=_SETTINGS, topics="[topic=test]\n")
    began = time.monotonic()
    try:
        node.start()
        node.wait_registered()
        # Whoever may reach a port may send: the partitions for it are there from the start.
        assert node.ask(put("test", b"first", 1)).status == 200
        files = _names(node)
        done, rss_bytes = 0, 0
        while (cases is None or done < cases) and time.monotonic() - began < seconds:
            size = _BATCH_CASES if cases is None else min(_BATCH_CASES, cases - done)
            _run_batch(node, port, size, first_seed + done)
            done += size
            node.assert_alive()
            rss_bytes = rss_bytes or node.rss_bytes()
        assert node.rss_bytes() - rss_bytes < RSS_GROWTH_BYTES_MAX, f"{node.rss_bytes()} after {rss_bytes}"
        assert "Traceback" not in node.log, node.log[-4000:]
        new = {name for name in _names(node) - files if re.fullmatch(port.may_make, name) is None}
        assert not new, f"files that were not there: {new}"
        assert node.stop() == 0
    except BaseException as error:
        error.add_note(node.log[-4000:])
        raise
    finally:
        node.make_sure_it_is_gone()
    return done


def _fuzz_client_port(base: Path, first_seed: int, cases: int | None, seconds: float) -> int:
    began, done = time.monotonic(), 0
    while not done or (cases is None and time.monotonic() - began < seconds):
        # A new broker each time: its neighbour counts what it has put from 0 on.
        node = client_port.start_target(base / str(done))
        try:
            done += client_port.fuzz(node, cases or 5000, first_seed + done).cases
            assert node.stop() == 0
            assert "Traceback" not in node.log, node.log[-4000:]
        finally:
            node.make_sure_it_is_gone()
    return done


def _names(node: BrokerProcess) -> set[str]:
    """Files below the base and beside it; segments of the registry's log come and go."""
    own = node.base / "data"
    return {str(path) for path in node.base.parent.rglob("*") if own not in path.parents} | {
        path.name for path in own.iterdir()
    }


def _run_batch(node: BrokerProcess, port: Port, size: int, batch_seed: int) -> None:
    connect = port.connector(node)

    @seed(batch_seed)
    @settings(
        max_examples=size,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(port.target), st.integers(0, 1000), st.sampled_from(["half close"] * 3 + ["close"]))
    def one_case(data: bytes, position: int, ending: str) -> None:
        with connect() as peer:
            with suppress(OSError):  # Told off already; the answer is still to be read.
                peer.sendall(data[:position])
                peer.sendall(data[position:])
                if ending == "half close":
                    peer.shutdown(socket.SHUT_WR)
            if ending == "half close":
                port.check(data, _received(peer, port.quiet_seconds))

    with connect() as neighbour:
        one_case()
        # It has said nothing all the time, and is served when it does.
        seed_bytes = port.target.seeds[0]
        neighbour.sendall(seed_bytes)
        assert neighbour.recv(1), "a neighbour is not answered"


def _received(peer: socket.socket, quiet_seconds: float) -> bytes:
    """Until the end; raises TimeoutError where there is none, and the broker should have closed."""
    received = bytearray()
    peer.settimeout(quiet_seconds)
    try:
        while data := peer.recv(64 * 1024):
            received += data
    except ConnectionResetError:
        pass
    except TimeoutError:
        if quiet_seconds == HANG_SECONDS:
            raise
    return bytes(received)
