"""Latencies between two places: put to consumer, and acknowledgement to slave; and those of the machine.

One thread watches both connections and takes one time stamp when either has something, so that both
ends of a difference are read from the same clock by the same eye.
"""

from __future__ import annotations

import os
import select
import socket
import tempfile
import time
from typing import TYPE_CHECKING

from tools.bench import wire

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

CATCH_UP_SECONDS_MAX = 120.0
_WRITTEN_BYTES = 1024 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
VALUE_BYTES_MAX = 1 << 20
FOUND = "value"


def delay(options: Namespace) -> wire.Figures:
    """From the master's acknowledgement of a put to its arrival at a reader that waits at the slave.

    A message that reaches the reader before its acknowledgement reaches the producer counts as 0.
    """
    _, acknowledged, delivered = _paced(options, options.address, options.slave)
    return wire.latency_figures(
        [max(0.0, there - here) for here, there in zip(acknowledged, delivered, strict=True)]
    )


def end_to_end(options: Namespace) -> wire.Figures:
    """From the sending of a put to its arrival at a reader that waits at the same broker."""
    sent, _, delivered = _paced(options, options.address, options.address)
    return wire.latency_figures([there - here for here, there in zip(sent, delivered, strict=True)])


def _paced(
    options: Namespace, producer_address: wire.Address, consumer_address: wire.Address
) -> tuple[list[float], list[float], list[float]]:
    """Puts at a fixed rate beside a long-polling reader: when each was sent, acknowledged, delivered."""
    wire.pin(wire.GENERATOR_CORE)
    count = int(options.rate * options.seconds)
    requests = wire.put_requests(options.topic, options.partition, options.size, 512, with_checksum=True)
    record_bytes = wire.RECORD_HEADER.size + options.size
    producer = wire.ReplyReader(wire.connect(producer_address))
    consumer = wire.ReplyReader(wire.connect(consumer_address))
    producer.ask(requests[0])  # So that there is a partition, on both sides.
    position = _wait_until_equal(options, producer, consumer)

    def long_poll() -> None:
        words = f"get {options.topic} bench {options.partition} {position} {VALUE_BYTES_MAX} 1 1000\r\n"
        consumer.connection.sendall(words.encode())

    sent: list[float] = []
    acknowledged: list[float] = []
    delivered: list[float] = []
    clock = wire.now
    long_poll()
    received = 0
    next_at = clock() + 0.01
    interval = 1 / options.rate
    both = [producer.connection, consumer.connection]
    while len(delivered) < count or len(acknowledged) < count:
        moment = clock()
        if len(sent) < count and moment >= next_at:
            sent.append(moment)
            producer.connection.sendall(requests[len(sent) % len(requests)])
            next_at += interval
            continue
        timeout = max(0.0, next_at - moment) if len(sent) < count else wire.REPLY_TIMEOUT_SECONDS
        readable, _, _ = select.select(both, [], [], timeout)
        moment = clock()
        if consumer.connection in readable:
            for status, body in consumer.feed():
                if status == FOUND:
                    position += len(body)
                    received += len(body)
                elif status != "result 404":
                    wire.fail(f"the reader was answered {status} {body.decode(errors='replace')}")
                long_poll()
            delivered.extend([moment] * (received // record_bytes - len(delivered)))
        if producer.connection in readable:
            for status, body in producer.feed():
                if status != "result 200":
                    wire.fail(f"the server answered: {status} {body.decode(errors='replace')}")
                acknowledged.append(moment)
        if not readable and len(sent) == count:
            wire.fail(f"{len(delivered)} of {count} messages arrived, {len(acknowledged)} acknowledged")
    return sent, acknowledged, delivered


def _wait_until_equal(options: Namespace, first: wire.ReplyReader, second: wire.ReplyReader) -> int:
    """Wait until both brokers end at the same offset, and return it."""
    begin = wire.now()
    while wire.now() - begin < CATCH_UP_SECONDS_MAX:
        end = first.end_offset(options.topic, options.partition)
        if end and second.end_offset(options.topic, options.partition) == end:
            return end
        time.sleep(0.01)
    wire.fail(f"the two brokers do not agree about {options.topic}-{options.partition}")


def catch_up(options: Namespace) -> wire.Figures:
    """How fast a slave that has just begun copies a partition; start this, then the slave."""
    wire.pin(wire.GENERATOR_CORE)
    target = wire.ReplyReader(wire.connect(options.address)).end_offset(options.topic, options.partition)
    slave = _connect_when_up(options.slave)
    begin = None
    first = 0
    deadline = wire.now() + CATCH_UP_SECONDS_MAX
    while (end := slave.end_offset(options.topic, options.partition)) < target:
        if begin is None and end:
            begin, first = wire.now(), end
        if wire.now() > deadline:
            wire.fail(f"the slave is at {end} of {target}")
        time.sleep(0.005)
    if begin is None:
        wire.fail("the slave had everything at the first look: too little to measure")
    seconds = wire.now() - begin
    record_bytes = wire.RECORD_HEADER.size + options.size
    return {
        "bytes": target,
        "megabytes_per_second": round((target - first) / seconds / 1e6, 1),
        "messages_per_second": round((target - first) / record_bytes / seconds),
    }


def _connect_when_up(address: wire.Address) -> wire.ReplyReader:
    deadline = wire.now() + wire.REPLY_TIMEOUT_SECONDS
    while True:
        try:
            return wire.ReplyReader(wire.connect(address))
        except OSError:
            if wire.now() > deadline:
                raise
            time.sleep(0.005)


def machine(options: Namespace) -> wire.Figures:
    """What no server here can beat: a small append with fdatasync, a loopback round trip, a large file."""
    wire.pin(wire.GENERATOR_CORE)
    return {
        **wire.latency_figures(_syncs(options.directory, options.seconds), "fdatasync_"),
        **wire.latency_figures(_round_trips(options.seconds), "round_trip_"),
        "write_megabytes_per_second": _write_rate(options.directory),
    }


def _syncs(directory: Path | None, for_seconds: float) -> list[float]:
    latencies = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        data = bytes(120)
        begin = wire.now()
        while wire.now() - begin < for_seconds:
            file.write(data)
            before = wire.now()
            os.fdatasync(file.fileno())
            latencies.append(wire.now() - before)
    return latencies


def _write_rate(directory: Path | None) -> float:
    """A gigabyte, one piece behind the other, with one sync at the end."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        data = os.urandom(_PIECE_BYTES)
        begin = wire.now()
        for _ in range(_WRITTEN_BYTES // _PIECE_BYTES):
            file.write(data)
        os.fdatasync(file.fileno())
        return _WRITTEN_BYTES / (wire.now() - begin) / 1e6


def _round_trips(for_seconds: float) -> list[float]:
    latencies = []
    with wire.child_server(_echo) as address, wire.connect(address) as connection:
        data = bytes(120)
        begin = wire.now()
        while (before := wire.now()) - begin < for_seconds:
            connection.sendall(data)
            connection.recv(4096)
            latencies.append(wire.now() - before)
    return latencies


def _echo(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := peer.recv(4096):
        peer.send(data)
