"""What peers that mean no good do, on every port, in a process of their own.

Each abuse is a function of where the broker is and how many; it returns with its connections open or closed,
and what it has seen. They stay as they are until the block ends.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs

from tests.support import ConnectionEndedError, Wire, get, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

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
_CUT_SECONDS_MAX = 90.0
_LOOK_SECONDS = 0.2
_OPEN_STATES = ("01", "08")
"""Of /proc/net/tcp: established, and ended by the peer but not by the broker."""

Findings = dict[str, str]
"""What an abuse has seen, by what it is."""


@attrs.frozen
class Target:
    """Where a broker is."""

    client_port: int
    registry_port: int
    http_port: int
    control_socket: Path

    def connect(self, *, receive_buffer: int = 0) -> Wire:
        """To the client port."""
        return Wire(self.client_port, receive_buffer=receive_buffer)

    def doors(self) -> Iterator[tuple[str, int, Callable[[], socket.socket], bytes]]:
        """Name and number of each TCP port, how it is reached, and how a request to it begins."""
        for name, port, begin in (
            ("client port", self.client_port, b"put t 0 100 0 1\r\n" + b"x" * 50),
            ("registry", self.registry_port, b"\0\0\1\0" + bytes(8)),
            ("HTTP", self.http_port, b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: "),
        ):
            yield name, port, partial(socket.create_connection, ("127.0.0.1", port), 10.0), begin


def slow_loris(target: Target, count: int, held: ExitStack) -> Findings:
    """A third of the connections at each port begin a request, and add a byte now and then."""
    for _, _, connect, begin in target.doors():
        opened = [held.enter_context(connect()) for _ in range(count // 3)]
        for _ in range(3):
            for peer in opened:
                with suppress(OSError):  # Refused, or cut already: that is what is hoped for.
                    peer.sendall(begin)
            begin = b"x"  # noqa: PLW2901 - what follows the beginning
    return {}


def never_reading(target: Target, count: int, held: ExitStack) -> Findings:
    """Everybody asks for much and takes nothing."""
    _put_some(target)
    for _ in range(count):
        wire = held.enter_context(target.connect(receive_buffer=4096))
        with suppress(OSError):
            wire.send_some(get("t", 0, 1 << 20, 1) * 1000)
    return {}


def time_outs(target: Target, count: int, held: ExitStack) -> Findings:
    """Silent, dripping and never reading peers at every port: after how long the last of them is cut off."""
    _put_some(target)
    share = max(1, count // 9)
    began = time.monotonic()
    left: dict[str, tuple[int, list[socket.socket], bytes, float]] = {}
    requests = {
        "client port": get("t", 0, 1 << 20, 1) * 1000,
        "registry": _registry_requests(),
        "HTTP": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 500,
    }
    for name, port, _, begin in target.doors():
        for kind, first, drip in (
            ("silent", b"", b""),
            ("dripping", begin, b"x"),
            ("never reading", requests[name], b""),
        ):
            peers = [held.enter_context(_narrow(port)) for _ in range(share)]
            for peer in peers:
                with suppress(OSError):
                    peer.send(first)
            left[f"{name}: {kind} peers cut off within"] = port, peers, drip, time.monotonic()
    found: Findings = {}
    dripped = began
    while left:
        now = time.monotonic()
        assert now - began < _CUT_SECONDS_MAX, f"not cut off in {_CUT_SECONDS_MAX:g} s: {sorted(left)}"
        is_drip_due = now - dripped >= 1.0
        dripped = now if is_drip_due else dripped
        open_ends = _open_ends()
        for what, (port, peers, drip, opened) in list(left.items()):
            if not any((port, peer.getsockname()[1]) in open_ends for peer in peers):
                found[what] = f"{now - opened:.1f} s"
                del left[what]
            elif drip and is_drip_due:
                for peer in peers:
                    with suppress(OSError):
                        peer.send(drip)
        time.sleep(_LOOK_SECONDS)
    return found


def unfinished(target: Target, count: int, held: ExitStack) -> Findings:
    """Everybody announces a large message, and sends most of it."""
    wires = [held.enter_context(target.connect()) for _ in range(count)]
    for wire in wires:
        with suppress(OSError):
            wire.send_some(b"put t 0 1000000 0 1\r\n")
    piece = b"x" * 100_000
    for _ in range(9):
        for wire in wires:
            with suppress(OSError):
                wire.send_some(piece)
    return {}


def storm(target: Target, count: int, _held: ExitStack) -> Findings:
    """Connect, say half a word, vanish."""
    doors = list(target.doors())
    for number in range(count):
        _, _, connect, begin = doors[number % len(doors)]
        with suppress(OSError), connect() as peer:
            peer.sendall(begin[:7])
    return {}


def idle(target: Target, count: int, held: ExitStack) -> Findings:
    """Connections of which nothing is heard."""
    for _ in range(count):
        held.enter_context(target.connect())
    return {}


def no_descriptors(target: Target, count: int, held: ExitStack) -> Findings:
    """More connections than the broker has descriptors, at all ports in turn."""
    doors = list(target.doors())
    refused = 0
    for number in range(count):
        _, _, connect, _ = doors[number % len(doors)]
        with suppress(OSError):
            peer = held.enter_context(connect())
            peer.settimeout(0.01)
            with suppress(TimeoutError):
                peer.recv(1000)
                refused += 1
    return {"connections ended by the broker at once": f"{refused:,} of {count:,}"}


def huge_sizes(target: Target, count: int, _held: ExitStack) -> Findings:
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
            with target.connect() as wire, suppress(OSError, ConnectionEndedError):
                wire.send(request)
                wire.end_sending()
                reply = wire.reply()
                assert reply.status in (400, 404, None), reply
    for _, _, connect, _ in list(target.doors())[1:]:
        for data in (
            b"\x7f\xff\xff\xff",
            b"\xff\xff\xff\xff",
            b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        ):
            with suppress(OSError), connect() as peer:
                peer.sendall(data)
    return {}


def evil_names(target: Target, _count: int, _held: ExitStack) -> Findings:
    """Names that would be paths, at every door that takes a name."""
    for name in _EVIL_NAMES:
        encoded = name.encode()
        with target.connect() as wire, suppress(OSError, ConnectionEndedError):
            reply = wire.ask(b"put %b 0 1 0 1\r\nx" % encoded)
            assert reply.status != 200, f"topic {name!r} was taken"
        with target.connect() as wire, suppress(OSError, ConnectionEndedError):
            wire.ask(b"get %b %b 0 0 100 1\r\n" % (encoded, encoded))
        with suppress(OSError), socket.create_connection(("127.0.0.1", target.http_port), 10.0) as peer:
            path = quote(name, safe="").encode()
            peer.sendall(b"POST /put/%b?partition=0 HTTP/1.0\r\nContent-Length: 1\r\n\r\nx" % path)
            peer.recv(4096)
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10.0)
            control.connect(str(target.control_socket))
            request = {"command": "create-topic", "topic": name, "settings": {}}
            control.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(control.makefile("rb").readline())
            assert not answer["ok"], f"topic {name!r} was made"
    return {}


def many_topics(target: Target, count: int, _held: ExitStack) -> Findings:
    """As many topics as somebody likes to name."""
    with target.connect() as wire:
        for number in range(count):
            assert wire.ask(put(f"t{number}", b"x", number)).status == 200
    return {}


@attrs.frozen
class Abuser:
    """What to do, in another process."""

    act: Callable[[Target, int, ExitStack], Findings]
    target: Target
    count: int

    @contextmanager
    def at_work(self) -> Iterator[Callable[[float], Findings]]:
        """The process, for the time of the block; what is yielded waits until it has done what it does.

        It gives what was seen; raises AssertionError where that must not be, and TimeoutError.
        """
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=self._run, args=(theirs,))
        process.start()

        def findings(seconds: float) -> Findings:
            if not ours.poll(seconds):
                raise TimeoutError(f"the abusers have not done in {seconds:g} s")
            found: Findings | str = ours.recv()
            assert not isinstance(found, str), found
            return found

        try:
            yield findings
        finally:
            ours.send(None)
            process.join(_CUT_SECONDS_MAX)
            process.kill()

    def _run(self, link: Connection) -> None:
        os.nice(19)  # They are not to take the core from the client, only what the broker gives them.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        with ExitStack() as held:
            try:
                link.send(self.act(self.target, self.count, held))
            except (AssertionError, OSError, ConnectionEndedError) as error:
                link.send(repr(error))
            link.recv()


def _put_some(target: Target) -> None:
    with target.connect() as wire:
        for opaque in range(20):
            wire.ask(put("t", b"x" * 100_000, opaque))


def _narrow(port: int) -> socket.socket:
    """A connection that takes little before its buffer is full."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.settimeout(10.0)
    peer.connect(("127.0.0.1", port))
    return peer


def _registry_requests() -> bytes:
    """A session, and much to be told: the children of the root, again and again."""
    session = struct.pack(">iqiqi16s", 0, 0, 10_000, 0, 16, bytes(16))
    framed = [struct.pack(">i", len(session)) + session]
    for number in range(1, 2_000):
        request = struct.pack(">iii", number, 12, 1) + b"/\0"
        framed.append(struct.pack(">i", len(request)) + request)
    return b"".join(framed)


def _open_ends() -> set[tuple[int, int]]:
    """Local and remote port of every connection that a process here still holds open."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    ends = set()
    for line in lines:
        _, local, remote, state, *_ = line.split()
        if state in _OPEN_STATES:
            ends.add((int(local.partition(":")[2], 16), int(remote.partition(":")[2], 16)))
    return ends
