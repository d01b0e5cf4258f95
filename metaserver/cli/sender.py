"""Sends messages over one connection: many requests in flight, order kept, every reply counted.

Messages have numbers, from 1 in the order of the input, so that a failure can be traced to a line.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.cli.sending import keep_rate, piece_of
from metaserver.client.connection import batch_result, expect_text
from metaserver.errors import BrokerUnreachableError, ClientError, MetaServerError
from metaserver.message import FLAG_HAS_ATTRIBUTE, HEADER_SIZE, checksum, encode_records, join_attribute
from metaserver.protocol import encode_put, encode_put_batch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from metaserver.cli.framing import Splitter
    from metaserver.client import BrokerConnection
    from metaserver.client.connection import Reply

_IN_FLIGHT_BYTES = 6 * 1024 * 1024
"""Less than a broker takes from one connection before it stops reading (maxConnectionInflightBytes)."""
_IN_FLIGHT_REQUESTS = 2048
_SILENCE_SECONDS = 30.0
"""A broker that answers nothing for this long, while requests wait, is given up."""
_LAST_REPLIES_SECONDS = 5.0
"""After an interrupt or a failure: for the replies to what was sent already."""
_BATCH_SLACK = 1.5
"""So much larger than asked for may a batch be before it is split."""


@attrs.frozen(kw_only=True)
class Job:
    """What is to be sent, and how."""

    topic: str
    partition: int
    """-1: the broker picks."""
    attribute: str | None
    batch_bytes: int
    is_batched: bool
    """Use the extension ``put-batch`` where the broker has it."""
    messages_per_second: float | None


@attrs.frozen
class Request:
    """Some consecutive messages that share one reply."""

    first_number: int
    count: int
    payload_bytes: int
    last_record_position: int
    """Where the last record begins, counted from the first."""

    @property
    def last_number(self) -> int:
        """Number of its last message."""
        return self.first_number + self.count - 1


@attrs.define
class Outcome:
    """What became of the messages."""

    acknowledged: int = 0
    acknowledged_bytes: int = 0
    """Without attributes and record headers."""
    first_offset: int | None = None
    last_offset: int | None = None
    """Of the last acknowledged message."""
    seconds: float = 0.0
    refused: tuple[Request, ClientError] | None = None
    """The first messages the broker has refused, and why."""
    unanswered: list[Request] = attrs.Factory(list)
    """Sent, but no reply came: they may be stored or not."""
    broken: str | None = None
    """Why no reply came."""
    input_problem: str | None = None
    """Why the input ended early."""
    is_interrupted: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether everything that was read was acknowledged."""
        return self.refused is None and not self.unanswered and self.broken is None


@attrs.frozen
class Input:
    """A stream of messages."""

    descriptor: int
    splitter: Splitter

    async def batches(self, read_bytes: int) -> AsyncGenerator[list[bytes], None]:
        """The messages as they arrive: what one read completes; raises OSError and FramingError."""
        while True:
            # In a thread, which nobody waits for after an interrupt: a terminal may say nothing for hours.
            data = await trio.to_thread.run_sync(os.read, self.descriptor, read_bytes, abandon_on_cancel=True)
            bodies = self.splitter.feed(data) if data else self.splitter.finish()
            if bodies:
                yield bodies
            if not data:
                return


@attrs.define(eq=False)
class Sender:
    """One job over one connection."""

    _connection: BrokerConnection
    _job: Job
    outcome: Outcome = attrs.Factory(Outcome)
    _next_number: int = 1
    _in_flight: dict[Request, int] = attrs.Factory(dict)
    """Bytes of each request that waits for its reply, in the order they were sent."""
    _in_flight_bytes: int = 0
    _replied: trio.Event = attrs.Factory(trio.Event)
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    async def run(self, source: Input) -> None:
        """Send all of it and wait for the replies; what happened is in ``outcome``."""
        started = time.perf_counter()
        batched = self._job.is_batched and "put-batch" in self._connection.extensions
        with self._scope:
            try:
                async for bodies in source.batches(self._job.batch_bytes):
                    for piece in self._pieces(bodies):
                        await keep_rate(started, self._next_number - 1, self._job.messages_per_second)
                        await (self._send_batch(piece) if batched else self._send_each(piece))
            except (OSError, MetaServerError) as error:
                self.outcome.input_problem = str(error)
        await self._wait_for_replies()
        self.outcome.unanswered = list(self._in_flight)
        self.outcome.seconds = time.perf_counter() - started

    def interrupt(self) -> None:
        """Send nothing more."""
        self.outcome.is_interrupted = True
        self._scope.cancel()

    def _pieces(self, bodies: list[bytes]) -> Iterator[list[bytes]]:
        """The messages in runs that are sent together."""
        size_max = self._job.batch_bytes
        count_max = piece_of(len(bodies), self._job.messages_per_second)
        if len(bodies) <= count_max and _size_of(bodies) <= size_max * _BATCH_SLACK:
            yield bodies
            return
        start = end = size = 0
        for end, body in enumerate(bodies):
            if end > start and (end - start >= count_max or size >= size_max):
                yield bodies[start:end]
                start, size = end, 0
            size += HEADER_SIZE + len(body)
        yield bodies[start:]

    async def _send_batch(self, bodies: list[bytes]) -> None:
        job = self._job
        payload_bytes = sum(map(len, bodies))
        flag, bodies = self._with_attribute(bodies)
        # A broker ignores the ids; 1, because a record of nothing with the id 0 is none.
        count = len(bodies)
        records = encode_records(bodies, list(map(checksum, bodies)), [1] * count, [flag] * count)
        last_position = len(records) - HEADER_SIZE - len(bodies[-1])
        request = self._make_request(count, payload_bytes, last_position)
        await self._wait_for_room()
        self._note_sent(request, len(records))
        self._connection.submit(
            lambda opaque: encode_put_batch(job.topic, job.partition, records, opaque),
            lambda reply: self._settle(request, reply, is_batch=True),
        )

    async def _send_each(self, bodies: list[bytes]) -> None:
        topic, partition, submit = self._job.topic, self._job.partition, self._connection.submit
        payload_sizes = list(map(len, bodies))
        flag, bodies = self._with_attribute(bodies)
        for body, payload_bytes in zip(bodies, payload_sizes, strict=True):
            request = self._make_request(1, payload_bytes, 0)
            await self._wait_for_room()
            self._note_sent(request, len(body))

            def settle(reply: Reply | ClientError, request: Request = request) -> None:
                self._settle(request, reply, is_batch=False)

            def encode(opaque: int, body: bytes = body) -> bytes:
                return encode_put(topic, partition, body, flag, opaque)

            submit(encode, settle)

    def _with_attribute(self, bodies: list[bytes]) -> tuple[int, list[bytes]]:
        if self._job.attribute is None:
            return 0, bodies
        _, prefix = join_attribute(self._job.attribute, b"")
        return FLAG_HAS_ATTRIBUTE, [prefix + body for body in bodies]

    def _make_request(self, count: int, payload_bytes: int, last_record_position: int) -> Request:
        request = Request(self._next_number, count, payload_bytes, last_record_position)
        self._next_number += count
        return request

    def _note_sent(self, request: Request, size_bytes: int) -> None:
        self._in_flight[request] = size_bytes
        self._in_flight_bytes += size_bytes

    def _settle(self, request: Request, reply: Reply | ClientError, *, is_batch: bool) -> None:
        """The reply to a request is here, or will never come."""
        if isinstance(reply, BrokerUnreachableError):
            self._give_up(str(reply))
            return
        outcome = self.outcome
        self._in_flight_bytes -= self._in_flight.pop(request)
        self._replied.set()
        try:
            if isinstance(reply, ClientError):
                raise reply
            offset = batch_result(reply).offset if is_batch else int(expect_text(reply).split(" ")[2])
        except ClientError as error:
            if outcome.refused is None:
                outcome.refused = (request, error)
            self._scope.cancel()
            return
        outcome.acknowledged += request.count
        outcome.acknowledged_bytes += request.payload_bytes
        if outcome.first_offset is None:
            outcome.first_offset = offset
        outcome.last_offset = offset + request.last_record_position

    async def _wait_for_room(self) -> None:
        while self._in_flight and (
            self._in_flight_bytes > _IN_FLIGHT_BYTES or len(self._in_flight) >= _IN_FLIGHT_REQUESTS
        ):
            await self._wait_for_a_reply(_SILENCE_SECONDS)

    async def _wait_for_replies(self) -> None:
        patience = _LAST_REPLIES_SECONDS if self._scope.cancelled_caught else _SILENCE_SECONDS
        while self._in_flight and self.outcome.broken is None:
            await self._wait_for_a_reply(patience)

    async def _wait_for_a_reply(self, limit_seconds: float) -> None:
        self._replied = trio.Event()
        with trio.move_on_after(limit_seconds) as waiting:
            await self._replied.wait()
        if waiting.cancelled_caught:
            self._give_up(f"broker {self._connection.address} did not answer for {limit_seconds:g} s")
            await trio.lowlevel.checkpoint()

    def _give_up(self, reason: str) -> None:
        self.outcome.broken = self.outcome.broken or reason
        self._replied.set()
        self._scope.cancel()


def _size_of(bodies: list[bytes]) -> int:
    return sum(map(len, bodies)) + HEADER_SIZE * len(bodies)
