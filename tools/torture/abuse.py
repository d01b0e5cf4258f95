"""Peers that mean no good, on every port, while an ordinary client goes on: rows A1, A2, A5 and A6.

Each abuse is a function of the node and how many; it returns with its connections open or closed. An ordinary
client puts one message after the other, before and beside it: its p99 and the broker's memory are the figure.
What must hold is a violation where it does not: the broker lives, the client is answered, memory stays below
the ceiling, nothing lies outside of the data directory, the log holds no traceback. Times are not judged.
"""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import attrs

from tests.support import BrokerProcess, ConnectionEndedError, Wire, get, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RSS_BYTES_MAX = 256 * 1024 * 1024
"""The ceiling of the fault matrix."""
_CLIENT_PAUSE_SECONDS = 0.002
_EVIL_NAMES = (
    "../evil",
    "..",
    "a/../../evil",
    "/tmp/evil",
    "a\0b",
    "x" * 300,
    "ü",
    "a b",
)
_SIZES = (-1, 2**31 - 1, 2**31, 2**63, 10**30)


@attrs.frozen
class Abused:
    """What one abuse came to."""

    name: str
    connections: int
    p99_before_ms: float
    p99_beside_ms: float
    rss_megabytes: float
    violations: tuple[str, ...]


@attrs.define(eq=False)
class Client:
    """Puts one message after the other until told to stop."""

    node: BrokerProcess
    seconds: list[float] = attrs.Factory(list)
    problem: str = ""
    _stopping: threading.Event = attrs.Factory(threading.Event)
    _thread: threading.Thread = attrs.field(init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def p99_ms(self) -> float:
        """Of all puts so far."""
        ordered = sorted(self.seconds)
        return round(ordered[int(len(ordered) * 0.99)] * 1000, 2) if ordered else 0.0

    def _run(self) -> None:
        try:
            with self.node.connect() as wire:
                while not self._stopping.wait(_CLIENT_PAUSE_SECONDS):
                    began = time.monotonic()
                    reply = wire.ask(put("safe", b"x" * 100, 1))
                    self.seconds.append(time.monotonic() - began)
                    assert reply.status == 200, reply
        except (OSError, AssertionError, ConnectionEndedError) as error:
            self.problem = f"an ordinary client: {error!r}"


def _http_port(node: BrokerProcess) -> int:
    port: int = node.status()["http_port"]
    return port


def _ports(node: BrokerProcess) -> Iterator[tuple[Callable[[], socket.socket], bytes]]:
    """How each TCP port is reached, and how a request to it begins."""
    for port, begin in (
        (node.port, b"put t 0 100 0 1\r\n" + b"x" * 50),
        (node.registry_port, b"\0\0\1\0" + bytes(8)),
        (_http_port(node), b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: "),
    ):
        yield partial(socket.create_connection, ("127.0.0.1", port), 10.0), begin


def slow_loris(node: BrokerProcess, count: int, held: ExitStack) -> None:
    """A third of the connections at each port begin a request, and add a byte now and then."""
    for connect, begin in _ports(node):
        opened = [held.enter_context(connect()) for _ in range(count // 3)]
        for _ in range(3):
            for peer in opened:
                with suppress(OSError):  # Refused, or cut already: that is what is hoped for.
                    peer.sendall(begin)
            begin = b"x"  # noqa: PLW2901 - what follows the beginning


def never_reading(node: BrokerProcess, count: int, held: ExitStack) -> None:
    """Everybody asks for much and takes nothing."""
    with node.connect() as wire:
        for opaque in range(20):
            wire.ask(put("t", b"x" * 100_000, opaque))
    for _ in range(count):
        wire = held.enter_context(Wire(node.port, receive_buffer=4096))
        with suppress(OSError):
            wire.send_some(get("t", 0, 1 << 20, 1) * 1000)


def storm(node: BrokerProcess, count: int, _held: ExitStack) -> None:
    """Connect, say half a word, vanish."""
    ports = list(_ports(node))
    for number in range(count):
        connect, begin = ports[number % len(ports)]
        with suppress(OSError), connect() as peer:
            peer.sendall(begin[:7])


def idle(node: BrokerProcess, count: int, held: ExitStack) -> None:
    """Connections of which nothing is heard."""
    for _ in range(count):
        held.enter_context(node.connect())


def huge_sizes(node: BrokerProcess, count: int, _held: ExitStack) -> None:
    """Lengths that nobody has room for, and lines without an end."""
    for number in range(count):
        size = _SIZES[number % len(_SIZES)]
        requests = (
            b"put t 0 %d 0 1\r\n" % size,
            b"putbatch t 0 %d 1\r\n" % size,
            b"get t g 0 0 %d 1\r\n" % size,
            b"replicated s 1 %d 1\r\n" % size,
            b"x" * 100_000,
        )
        for request in requests:
            with node.connect() as wire, suppress(OSError, ConnectionEndedError):
                wire.send(request)
                wire.end_sending()
                reply = wire.reply()
                assert reply.status in (400, 404, None), reply
    for connect, _ in list(_ports(node))[1:]:
        for data in (
            b"\x7f\xff\xff\xff",
            b"\xff\xff\xff\xff",
            b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        ):
            with suppress(OSError), connect() as peer:
                peer.sendall(data)


def evil_names(node: BrokerProcess, _count: int, _held: ExitStack) -> None:
    """Names that would be paths, at every door that takes a name."""
    for name in _EVIL_NAMES:
        encoded = name.encode()
        with node.connect() as wire, suppress(OSError, ConnectionEndedError):
            reply = wire.ask(b"put %b 0 1 0 1\r\nx" % encoded)
            assert reply.status != 200, f"topic {name!r} was taken"
        with node.connect() as wire, suppress(OSError, ConnectionEndedError):
            wire.ask(b"get %b %b 0 0 100 1\r\n" % (encoded, encoded))
        with suppress(OSError), socket.create_connection(("127.0.0.1", _http_port(node)), 10.0) as peer:
            path = quote(name, safe="").encode()
            peer.sendall(b"POST /put/%b?partition=0 HTTP/1.0\r\nContent-Length: 1\r\n\r\nx" % path)
            peer.recv(4096)
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10.0)
            control.connect(str(node.control_socket))
            request = {"command": "create-topic", "topic": name, "settings": {}}
            control.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(control.makefile("rb").readline())
            assert not answer["ok"], f"topic {name!r} was made"


def many_topics(node: BrokerProcess, count: int, _held: ExitStack) -> None:
    """As many topics as somebody likes to name."""
    with node.connect() as wire:
        for number in range(count):
            assert wire.ask(put(f"t{number}", b"x", number)).status == 200


ABUSES: dict[str, tuple[str, Callable[[BrokerProcess, int, ExitStack], None], int]] = {
    "slow-loris": ("A1", slow_loris, 2000),
    "never-reading": ("A1", never_reading, 200),
    "huge-sizes": ("A2", huge_sizes, 40),
    "storm": ("A5", storm, 5000),
    "idle": ("A5", idle, 5000),
    "many-topics": ("A5", many_topics, 10_000),
    "evil-names": ("A6", evil_names, 1),
}
"""Row of the fault matrix, the abuse, and how many in the long form."""


def run_abuse(base: Path, name: str, count: int | None = None, seconds: float = 5.0) -> Abused:
    """One abuse at a broker of its own; the ordinary client is measured for so long before, and beside it."""
    _, act, usual = ABUSES[name]
    count = usual if count is None else count
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    node = BrokerProcess(
        base / "node", topics="[topic=t*]\n\n[topic=safe]\n", settings={"dashboardHttpPort": 0}
    )
    violations: list[str] = []
    try:
        node.start()
        node.wait_registered()
        outside = {path for path in base.rglob("*") if node.data not in path.parents}
        with Client(node) as before:
            time.sleep(seconds)
        with Client(node) as beside, ExitStack() as held:
            began = time.monotonic()
            try:
                act(node, count, held)
            except (AssertionError, OSError, ConnectionEndedError) as error:
                violations.append(repr(error))
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
            rss_bytes = node.rss_bytes()
        violations += [client.problem for client in (before, beside) if client.problem]
        if rss_bytes > RSS_BYTES_MAX:
            violations.append(f"{rss_bytes >> 20} MiB of memory, where {RSS_BYTES_MAX >> 20} are the ceiling")
        new = {path for path in base.rglob("*") if node.data not in path.parents} - outside
        if new:
            violations.append(f"made outside of the data directory: {sorted(map(str, new))}")
        if node.stop() or "Traceback" in node.log:
            violations.append(f"the broker's end: {node.log[-2000:]}")
    finally:
        node.make_sure_it_is_gone()
    return Abused(
        name, count, before.p99_ms(), beside.p99_ms(), round(rss_bytes / 2**20, 1), tuple(violations)
    )
