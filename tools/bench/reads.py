"""Sequential reads of a log, and the same from a bare ``sendfile`` loop: the server's aim is their ratio.

The received bytes are discarded in the kernel (``MSG_TRUNC``) unless ``--copy`` asks for them, so that
the reader costs next to nothing and both are measured with the same one.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import TYPE_CHECKING

from tools.bench import wire

if TYPE_CHECKING:
    from argparse import Namespace

HEADER_BYTES = 48
"""Received for the header: more than it has, less than any value worth reading."""


class _Reader:
    """Asks for values and discards them."""

    def __init__(self, address: wire.Address, options: Namespace) -> None:
        self._socket = wire.connect(address)
        self._words = f"get {options.topic} bench {options.partition}"
        self._size_max = options.max_size
        self._flags = 0 if options.copy else socket.MSG_TRUNC
        self._view = memoryview(bytearray(max(1 << 20, options.max_size)))
        self._ahead = b""

    def ask(self, offset: int) -> None:
        self._socket.sendall(f"{self._words} {offset} {self._size_max} 7\r\n".encode())

    def take(self) -> int:
        """Bytes of the next value; 0 for any other reply."""
        data = self._ahead
        while (line_end := data.find(b"\r\n")) < 0:
            data += self._receive(HEADER_BYTES)
        words = data[:line_end].split(b" ")
        size = int(words[-2])
        body = data[line_end + 2 :]
        self._ahead = body[size:]
        remaining = size - len(body)
        while remaining > 0:
            received = self._socket.recv_into(self._view, min(remaining, len(self._view)), self._flags)
            if not received:
                wire.fail("the server closed the connection")
            remaining -= received
        return size if words[0] == b"value" else 0

    def _receive(self, size: int) -> bytes:
        received = self._socket.recv(size)
        if not received:
            wire.fail("the server closed the connection")
        return received


def read(options: Namespace) -> wire.Figures:
    """Read a partition from ``--offset`` to its end, over and over until the time is up."""
    wire.pin(wire.GENERATOR_CORE)
    return _read(options.address, options)


def _read(address: wire.Address, options: Namespace) -> wire.Figures:
    reader = _Reader(address, options)
    cpu = wire.cpu_seconds(options.server_pid) if options.server_pid else 0.0
    total = values = 0
    begin = wire.now()
    while wire.now() - begin < options.seconds:
        passed, count = _pass(reader, options, begin + options.seconds)
        if not passed:
            wire.fail(f"there is nothing to read at offset {options.offset}")
        total, values = total + passed, values + count
    seconds = wire.now() - begin
    cpu = (wire.cpu_seconds(options.server_pid) - cpu) if options.server_pid else 0.0
    return {
        "bytes": total,
        "values": values,
        "megabytes_per_second": round(total / seconds / 1e6),
        "server_cpu_seconds_per_gigabyte": round(cpu / total * 1e9, 4),
    }


def _pass(reader: _Reader, options: Namespace, deadline: float) -> tuple[int, int]:
    """Once through the log; with ``--pipeline`` the next values are asked for while one is received."""
    position = options.offset
    total = values = 0
    asked: deque[int] = deque()
    while True:
        while len(asked) < options.pipeline and wire.now() < deadline:
            reader.ask(position)
            asked.append(position)
            position += options.max_size
        if not asked:
            return total, values
        offset, size = asked.popleft(), reader.take()
        total, values = total + size, values + 1
        if size < options.max_size:  # The end of a segment, or of the log: what was asked ahead is void.
            while asked:
                asked.popleft()
                reader.take()
            if not size:
                return total, values
            position = offset + size


def sendfile_baseline(options: Namespace) -> wire.Figures:
    """The same reader against the smallest server there can be: it answers every line with ``sendfile``."""
    with wire.child_server(lambda listener: _serve_file(listener, options.file, options.max_size)) as address:
        wire.pin(wire.GENERATOR_CORE)
        return _read(address, options)


def _serve_file(listener: socket.socket, path: str, size_max: int) -> None:
    file = os.open(path, os.O_RDONLY)
    size = os.fstat(file).st_size
    position = 0
    peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while received := peer.recv(4096):
        for _ in range(received.count(b"\r\n")):
            if position >= size:
                peer.sendall(b"result 404 0 7\r\n")
                position = 0
                continue
            value_size = min(size_max, size - position)
            peer.send(b"value %d 7\r\n" % value_size, socket.MSG_MORE)
            remaining = value_size
            while remaining:
                sent = os.sendfile(peer.fileno(), file, position, remaining)
                position, remaining = position + sent, remaining - sent
