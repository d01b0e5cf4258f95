"""What every part of the load generator shares: sockets, prebuilt requests, replies, percentiles.

Nothing here imports metaserver: the requests are written from docs/protocol.md, so that a figure is
never the server's own code measured against itself.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import statistics
import struct
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Address = tuple[str, int]
Figures = dict[str, float]

RECORD_HEADER = struct.Struct(">iiqi")
SERVER_CORE, GENERATOR_CORE = 0, 1
REPLY_TIMEOUT_SECONDS = 30.0


def parse_address(text: str) -> Address:
    """``HOST:PORT`` or ``PORT`` (on loopback)."""
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def pin(core: int) -> None:
    """Run this process on one core only, where there is that core."""
    if core in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {core})


def connect(address: Address) -> socket.socket:
    """A connection that sends at once and gives up on a silent peer."""
    connection = socket.create_connection(address, timeout=REPLY_TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def put_requests(
    topic: str, partition: int, body_bytes: int, count: int, *, with_checksum: bool
) -> list[bytes]:
    """``count`` puts of different bodies and opaques, whole frames."""
    source = random.Random(partition)
    requests = []
    for opaque in range(count):
        body = source.randbytes(body_bytes)
        checksum = f" {crc32(body) & 0x7FFFFFFF}" if with_checksum else ""
        requests.append(f"put {topic} {partition} {body_bytes} 0{checksum} {opaque}\r\n".encode() + body)
    return requests


def batch_requests(topic: str, partition: int, body_bytes: int, records: int, count: int) -> list[bytes]:
    """``count`` batched puts of ``records`` records each, whole frames."""
    source = random.Random(partition)
    requests = []
    for opaque in range(count):
        run = bytearray()
        for _ in range(records):
            body = source.randbytes(body_bytes)
            run += RECORD_HEADER.pack(body_bytes, crc32(body) & 0x7FFFFFFF, 0, 0) + body
        requests.append(f"putbatch {topic} {partition} {len(run)} {opaque}\r\n".encode() + run)
    return requests


class ReplyCounter:
    """Counts the successful replies of one connection without parsing them.

    The text of a successful put is digits and blanks, so each reply holds ``result 200 `` exactly once.
    """

    _SUCCESS, _ANY = b"result 200 ", b"result "

    def __init__(self) -> None:
        self._tail = b""

    def count(self, received: bytes) -> int:
        """How many replies became known with these bytes; ends the program at any other status."""
        data = self._tail + received
        successes = data.count(self._SUCCESS)
        # What may be the front of a split match is kept; it is too short to be counted twice.
        self._tail = data[1 - len(self._SUCCESS) :]
        # Every `result ` far enough from the end must have been a success.
        if data.count(self._ANY, 0, len(data) + len(self._ANY) - len(self._SUCCESS)) > successes:
            self._complain(data)
        return successes

    def _complain(self, data: bytes) -> None:
        position = 0
        while (position := data.find(self._ANY, position)) >= 0:
            word = data[position : position + len(self._SUCCESS)]
            if word != self._SUCCESS[: len(word)]:
                fail(f"the server answered: {data[position : position + 300].decode(errors='replace')}")
            position += 1


class ReplyReader:
    """Reads whole replies, one after the other, from a blocking connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = b""

    def feed(self) -> list[tuple[str, bytes]]:
        """Receive once; the replies that are complete now, as (first words of the header, body)."""
        received = self.connection.recv(1 << 20)
        if not received:
            fail("the server closed the connection")
        self._buffer += received
        replies = []
        while (line_end := self._buffer.find(b"\r\n")) >= 0:
            words = self._buffer[:line_end].decode().split(" ")
            body_start = line_end + 2
            body_end = body_start + int(words[-2])
            if len(self._buffer) < body_end:
                break
            replies.append((" ".join(words[:-2]), self._buffer[body_start:body_end]))
            self._buffer = self._buffer[body_end:]
        return replies

    def ask(self, request: bytes) -> tuple[str, bytes]:
        """Send one request and wait for its reply."""
        self.connection.sendall(request)
        while not (replies := self.feed()):
            pass
        return replies[0]

    def end_offset(self, topic: str, partition: int) -> int:
        """The end of a partition; 0 where there is none yet."""
        status, text = self.ask(f"offset {topic} bench {partition} {2**63 - 1} 1\r\n".encode())
        return int(text) if status == "result 200" else 0


def fail(reason: str) -> NoReturn:
    """End the program: a figure measured over errors is no figure."""
    sys.exit(f"load: {reason}")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def latency_figures(seconds: Sequence[float], prefix: str = "") -> Figures:
    """p50, p99 and the worst, in microseconds."""
    return {
        f"{prefix}p50_us": round(percentile(seconds, 0.5) * 1e6, 1),
        f"{prefix}p99_us": round(percentile(seconds, 0.99) * 1e6, 1),
        f"{prefix}max_us": round(max(seconds) * 1e6, 1),
    }


def medians(runs: Sequence[Figures]) -> Figures:
    """The median of each figure over several runs."""
    return {name: round(statistics.median(run[name] for run in runs), 6) for name in runs[0]}


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int, *, peak: bool = False) -> float:
    """Resident memory of a process: now, or the most it ever had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:" if peak else "VmRSS:")[2].split()[0]) / 1024


@contextmanager
def child_server(serve: Callable[[socket.socket], None]) -> Iterator[Address]:
    """A process on the server's core that serves one listening socket; killed at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address: Address = listener.getsockname()
        pid = os.fork()
        if pid == 0:
            try:
                pin(SERVER_CORE)
                serve(listener)
            finally:
                os._exit(0)
    try:
        yield address
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def now() -> float:
    """Seconds on the clock all figures are taken from."""
    return time.perf_counter()
