"""Puts: as many as the server takes (pipelined), or one at a time on each connection.

One thread, one epoll loop, requests built before the clock starts, replies counted and not parsed.
"""

from __future__ import annotations

import select
import socket
import time
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from tools.bench import wire

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

DIFFERENT_REQUESTS = 512
"""Requests built for a connection; they repeat from there."""


class _Sender:
    """One connection with a window of requests that wait for their replies."""

    def __init__(self, address: wire.Address, chunks: Sequence[bytes], chunk_requests: int) -> None:
        self.socket = wire.connect(address)
        self.socket.setblocking(False)
        self.counter = wire.ReplyCounter()
        self.in_flight = 0
        self.unsent = memoryview(b"")
        self._chunks = [memoryview(chunk) for chunk in chunks]
        self._chunk_requests = chunk_requests
        self._next = 0

    def start_chunk(self) -> None:
        """Begin to send the next prebuilt run of requests."""
        self.unsent = self._chunks[self._next]
        self._next = (self._next + 1) % len(self._chunks)
        self.in_flight += self._chunk_requests
        self.send()

    def send(self) -> None:
        """Send what the socket takes now."""
        try:
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            return


def _chunks(options: Namespace, partition: int, chunk_requests: int) -> list[bytes]:
    if options.batch:
        count = max(4, chunk_requests)
        requests = wire.batch_requests(options.topic, partition, options.size, options.batch, count)
    else:
        count = max(DIFFERENT_REQUESTS, chunk_requests)
        requests = wire.put_requests(
            options.topic, partition, options.size, count, with_checksum=options.checksum
        )
    usable = count - count % chunk_requests
    return [b"".join(requests[i : i + chunk_requests]) for i in range(0, usable, chunk_requests)]


def put(options: Namespace) -> wire.Figures:
    """Pipelined puts on several connections, counted over a steady stretch behind a warm-up."""
    wire.pin(wire.GENERATOR_CORE)
    chunk_requests = max(1, min(DIFFERENT_REQUESTS, options.pipeline // 4))
    blocks = [
        _chunks(options, partition, chunk_requests)
        for partition in range(min(options.connections, options.partitions))
    ]
    if not options.null:
        return _put(options, options.address, blocks, chunk_requests)
    sizes = [len(chunk) for chunk in blocks[0]]
    if options.connections > 1 and len({tuple(map(len, block)) for block in blocks}) > 1:
        wire.fail("--null with several connections needs --partitions 1")
    with wire.child_server(lambda listener: _answer_blindly(listener, sizes, chunk_requests)) as address:
        return _put(options, address, blocks, chunk_requests)


def _put(
    options: Namespace, address: wire.Address, blocks: list[list[bytes]], chunk_requests: int
) -> wire.Figures:
    poll = select.epoll()
    senders = {}
    for number in range(options.connections):
        sender = _Sender(address, blocks[number % len(blocks)], chunk_requests)
        senders[sender.socket.fileno()] = sender
        poll.register(sender.socket.fileno(), select.EPOLLIN)
    begin = wire.now()
    count_from, deadline = begin + options.warmup, begin + options.warmup + options.seconds
    counting, measured_from = False, begin
    started = done = 0
    cpu_before = own_cpu_before = 0.0
    while True:
        moment = wire.now()
        if not counting and moment >= count_from:
            counting, done, measured_from = True, 0, moment
            cpu_before = wire.cpu_seconds(options.server_pid) if options.server_pid else 0.0
            own_cpu_before = time.process_time()
        if moment >= deadline:
            break
        allowed = options.rate * (moment - begin) if options.rate else float("inf")
        for number, sender in senders.items():
            while (
                not sender.unsent
                and sender.in_flight + chunk_requests <= options.pipeline
                and (started + chunk_requests) * (options.batch or 1) <= allowed
            ):
                sender.start_chunk()
                started += chunk_requests
                if sender.unsent:
                    poll.modify(number, select.EPOLLIN | select.EPOLLOUT)
        for number, event in poll.poll(0.001 if options.rate else 1.0):
            sender = senders[number]
            if event & select.EPOLLOUT:
                sender.send()
                if not sender.unsent:
                    poll.modify(number, select.EPOLLIN)
            if event & ~select.EPOLLOUT:
                received = sender.socket.recv(1 << 18)
                if not received:
                    wire.fail("the server closed the connection")
                replies = sender.counter.count(received)
                sender.in_flight -= replies
                done += replies
    seconds = moment - measured_from
    busy = time.process_time() - own_cpu_before
    cpu = (wire.cpu_seconds(options.server_pid) - cpu_before) if options.server_pid else 0.0
    messages = done * (options.batch or 1)
    if not messages:
        wire.fail("not one reply came")
    for sender in senders.values():
        sender.socket.close()
    return {
        "messages": messages,
        "messages_per_second": round(messages / seconds),
        "megabytes_per_second": round(messages * options.size / seconds / 1e6, 1),
        "server_cpu_seconds_per_million": round(cpu / messages * 1e6, 3),
        "generator_busy_share": round(busy / seconds, 2),
    }


def _answer_blindly(listener: socket.socket, chunk_sizes: list[int], chunk_requests: int) -> None:
    """The null server: counts bytes, answers as many chunks as they make up. Shows the generator's limit."""
    ends = list(accumulate(chunk_sizes))
    reply = b"result 200 38 1000\r\n8000000000000000000 0 10000000000000000" * chunk_requests
    buffer = bytearray(1 << 20)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    peers: dict[int, socket.socket] = {}
    totals: dict[int, tuple[int, int]] = {}
    while True:
        for number, _event in poll.poll():
            if number == listener.fileno():
                peer, _ = listener.accept()
                peers[peer.fileno()], totals[peer.fileno()] = peer, (0, 0)
                poll.register(peer.fileno(), select.EPOLLIN)
                continue
            received = peers[number].recv_into(buffer, len(buffer), socket.MSG_TRUNC)
            if not received:
                poll.unregister(number)
                peers.pop(number).close()
                continue
            total, answered = totals[number]
            total += received
            rounds, rest = divmod(total, ends[-1])
            whole = rounds * len(ends) + bisect_right(ends, rest)
            totals[number] = total, whole
            if whole > answered:
                peers[number].sendall(reply * (whole - answered))


def ping(options: Namespace) -> wire.Figures:
    """One put at a time on each connection: rate and latency."""
    wire.pin(wire.GENERATOR_CORE)
    connections = [wire.connect(options.address) for _ in range(options.connections)]
    requests = [
        wire.put_requests(
            options.topic,
            number % options.partitions,
            options.size,
            DIFFERENT_REQUESTS,
            with_checksum=options.checksum,
        )
        for number in range(options.connections)
    ]
    _ping(connections, requests, options.warmup)
    cpu = wire.cpu_seconds(options.server_pid) if options.server_pid else 0.0
    latencies, seconds = _ping(connections, requests, options.seconds)
    cpu = (wire.cpu_seconds(options.server_pid) - cpu) if options.server_pid else 0.0
    return {
        "messages": len(latencies),
        "messages_per_second": round(len(latencies) / seconds),
        **wire.latency_figures(latencies),
        "server_cpu_seconds_per_million": round(cpu / len(latencies) * 1e6, 3),
    }


def _ping(
    connections: list[socket.socket], requests: list[list[bytes]], for_seconds: float
) -> tuple[list[float], float]:
    clock = wire.now
    latencies: list[float] = []
    begin = clock()
    if len(connections) == 1:  # No epoll: its call would be part of the latency.
        connection, (own,) = connections[0], requests
        while (sent := clock()) - begin < for_seconds:
            connection.sendall(own[len(latencies) % DIFFERENT_REQUESTS])
            _expect_success(connection)
            latencies.append(clock() - sent)
        return latencies, clock() - begin
    poll = select.epoll()
    by_number = {connection.fileno(): i for i, connection in enumerate(connections)}
    sent_at = [0.0] * len(connections)
    for i, connection in enumerate(connections):
        poll.register(connection.fileno(), select.EPOLLIN)
        sent_at[i] = clock()
        connection.sendall(requests[i][0])
    waiting = len(connections)
    while waiting:
        for number, _event in poll.poll():
            i = by_number[number]
            _expect_success(connections[i])
            moment = clock()
            latencies.append(moment - sent_at[i])
            if moment - begin < for_seconds:
                sent_at[i] = moment
                connections[i].sendall(requests[i][len(latencies) % DIFFERENT_REQUESTS])
            else:
                waiting -= 1
    return latencies, clock() - begin


def _expect_success(connection: socket.socket) -> None:
    """One reply; a reply of a put is so small that it comes whole but for rare cases."""
    reply = connection.recv(4096)
    while (head := reply.find(b"\r\n")) < 0 or len(reply) < head + 2 + int(reply.split(b" ", 3)[2]):
        more = connection.recv(4096)
        if not more:
            wire.fail("the server closed the connection")
        reply += more
    if not reply.startswith(b"result 200 "):
        wire.fail(f"the server answered: {reply.decode(errors='replace')}")
