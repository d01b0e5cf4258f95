"""What a full registry costs the broker it lives in: put rates with sessions connected, and without.

One broker, pipelined puts from the second core, the two loads by turns, so that both see the same machine.
The sessions are raw connections that watch nodes and ping as ZooKeeper's clients do, from a process of
their own on the generator's core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import signal
import socket
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tools.bench import puts, wire
from tools.bench.run import FSYNC, Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PINGS_PER_TIMEOUT = 3
"""ZooKeeper's clients ping when a third of the session's timeout has passed in silence."""
WATCHED_NODES = 500
_CONNECT = struct.Struct(">iqiqi16s?")
_FRAME = struct.Struct(">i")
_REQUEST = struct.Struct(">ii")
_PING_XID, _EXISTS, _PING, _CLOSE = -2, 3, 11, -11
_CONNECTED_SIZE_MIN, _REPLY_SIZE_MIN = 16, 16


def main() -> None:
    """Measure, and print one line of JSON."""
    options = _parser().parse_args()
    _allow_many_descriptors()
    with tempfile.TemporaryDirectory(prefix="metaserver-bench-", dir=options.directory) as directory:
        place = Place(Path(directory))
        with place.master() as master:
            address = "127.0.0.1", master.port
            registry = "127.0.0.1", _registry_port(address)
            load = _put_options(address, master.pid, options.seconds)
            puts.put(load)  # Not counted: the first run also makes the partitions.
            without, full = [], []
            for _ in range(options.repeat):
                without.append(puts.put(load))
                with _sessions(registry, options):
                    full.append(puts.put(load))
    print(json.dumps({**vars(options), **_figures(without, full)}))


def _figures(without: Sequence[wire.Figures], full: Sequence[wire.Figures]) -> wire.Figures:
    figures: wire.Figures = {}
    for name in ("messages_per_second", "server_cpu_seconds_per_million"):
        figures[f"{name}_without"] = wire.medians(without)[name]
        figures[f"{name}_with_sessions"] = wire.medians(full)[name]
    rates = "messages_per_second"
    shares = [{"share": one[rates] / other[rates]} for one, other in zip(full, without, strict=True)]
    figures["percent_of_the_rate"] = round(100 * wire.medians(shares)["share"], 1)
    return figures


def _put_options(address: wire.Address, pid: int, seconds: float) -> argparse.Namespace:
    return argparse.Namespace(
        address=address,
        server_pid=pid,
        seconds=seconds,
        topic=FSYNC,
        size=100,
        connections=8,
        partitions=8,
        pipeline=1024,
        batch=0,
        checksum=True,
        rate=0.0,
        null=False,
        warmup=0.5,
    )


def _registry_port(address: wire.Address) -> int:
    with wire.connect(address) as connection:
        text = wire.ReplyReader(connection).ask(b"version 1\r\n")[1].decode()
    (port,) = (word.removeprefix("registry=") for word in text.split(" ") if word.startswith("registry="))
    return int(port)


@contextmanager
def _sessions(registry: wire.Address, options: argparse.Namespace) -> Iterator[None]:
    """A process that holds the sessions; it begins when all watches are set, and ends when all are closed."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            wire.pin(wire.GENERATOR_CORE)
            _hold_sessions(registry, options, tell)
        except _Over:
            os._exit(0)
        finally:
            os._exit(1)
    os.close(tell)
    try:
        if os.read(ready, 1) != b"1":
            wire.fail("the sessions could not be opened")
        yield
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGTERM)
        if os.waitpid(pid, 0)[1] != 0:
            wire.fail("a session was ended while the puts were measured")


class _Over(Exception):  # noqa: N818 - no error
    """The sessions are not needed any more."""


def _end(*_arguments: object) -> None:
    raise _Over


def _hold_sessions(registry: wire.Address, options: argparse.Namespace, tell: int) -> None:
    signal.signal(signal.SIGTERM, _end)
    each, more = divmod(options.watches, options.sessions)
    sessions = [
        _open_session(registry, options.timeout, number, each + (number < more))
        for number in range(options.sessions)
    ]
    os.write(tell, b"1")
    try:
        _ping(sessions, options.timeout)
    finally:
        for session in sessions:
            session.sendall(_framed(_REQUEST.pack(options.watches + 1, _CLOSE)))
        for session in sessions:
            while session.recv(4096):
                pass


def _ping(sessions: Sequence[socket.socket], timeout_seconds: float) -> None:
    """Returns when the server closes one."""
    ping = _framed(_REQUEST.pack(_PING_XID, _PING))
    poll = selectors.DefaultSelector()
    for session in sessions:
        poll.register(session, selectors.EVENT_READ)
    # Spread evenly: sessions that were opened one after the other also ping one after the other.
    pause_seconds = timeout_seconds / PINGS_PER_TIMEOUT / len(sessions)
    due, turn = wire.now(), 0
    while True:
        while wire.now() >= due:
            sessions[turn].sendall(ping)
            turn, due = (turn + 1) % len(sessions), due + pause_seconds
        for key, _events in poll.select(max(0.0, due - wire.now())):
            if not isinstance(key.fileobj, socket.socket) or not key.fileobj.recv(4096):
                return


def _open_session(registry: wire.Address, timeout_seconds: float, number: int, watches: int) -> socket.socket:
    connection = wire.connect(registry)
    connection.sendall(_framed(_CONNECT.pack(0, 0, int(1000 * timeout_seconds), 0, 16, bytes(16), False)))
    _receive(connection, _CONNECTED_SIZE_MIN)
    for index in range(watches):
        path = f"/watched/{(number * watches + index) % WATCHED_NODES}".encode()
        request = _REQUEST.pack(index + 1, _EXISTS) + _FRAME.pack(len(path)) + path + b"\1"
        connection.sendall(_framed(request))
        _receive(connection, _REPLY_SIZE_MIN)
    return connection


def _framed(body: bytes) -> bytes:
    return _FRAME.pack(len(body)) + body


def _receive(connection: socket.socket, size_min: int) -> None:
    held = b""
    while len(held) < 4 or len(held) < 4 + _FRAME.unpack_from(held)[0]:
        received = connection.recv(4096)
        if not received:
            wire.fail("the registry closed a connection")
        held += received
    if len(held) - 4 < size_min:
        wire.fail(f"the registry answered with {held!r}")


def _allow_many_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="registry", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--watches", type=int, default=5000, help="of all sessions")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds, of a session")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each kind; the medians are printed")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one run")
    parser.add_argument("--directory", help="where the data lies, instead of the temporary directory")
    return parser


if __name__ == "__main__":
    main()
