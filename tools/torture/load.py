"""Producers and consumers that tell the verifier everything, on trio.

A producer is one connection. It ends when its connection does, or when it is told to; either way it
knows the fate of each of its messages: acknowledged, refused, or unknown.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.client import Fetched, connect
from metaserver.client.connection import batch_result, expect_text
from metaserver.errors import BrokerUnreachableError, ClientError, ReplyError
from metaserver.message import encode_record
from metaserver.protocol import encode_put, encode_put_batch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from metaserver.client import BrokerConnection
    from metaserver.client.connection import Reply
    from tools.torture.logfiles import Name
    from tools.torture.verifier import Verifier

_IN_FLIGHT = (1, 16, 256, 1024)
"""Messages a producer has under way at most: from one at a time to a deep pipeline."""
_CONSUMER_WAIT_MS = 200
_CONSUMER_FETCH_BYTES = 256 * 1024


@attrs.define(eq=False)
class Producer:
    """One connection that sends single puts and batches, mixed, until it breaks or is stopped."""

    _verifier: Verifier
    _names: Sequence[Name]
    _random: Random
    _in_flight_max: int
    number: int = attrs.field(init=False)
    acknowledged: int = 0
    refusals: list[str] = attrs.Factory(list)
    """Status and text of the requests that were refused."""
    _sequence: int = 0
    _in_flight: int = 0
    _settled: trio.Event = attrs.Factory(trio.Event)
    _is_stopping: bool = False

    def __attrs_post_init__(self) -> None:
        self.number = self._verifier.new_producer()

    async def run(self, port: int, host: str = "127.0.0.1") -> None:
        """Send until stopped, or until the broker is gone; then everything is settled."""
        try:
            async with connect(host, port) as link:
                while not self._is_stopping:
                    self._send_one(link)
                    while self._in_flight >= self._in_flight_max:
                        await self._wait()
                    await trio.lowlevel.checkpoint()
                while self._in_flight:
                    await self._wait()
        except BrokerUnreachableError:
            return

    def stop(self) -> None:
        """Send nothing more; ``run`` returns when all replies are here."""
        self._is_stopping = True

    async def _wait(self) -> None:
        self._settled = trio.Event()
        await self._settled.wait()

    def _send_one(self, link: BrokerConnection) -> None:
        """One request: a put, or now and then a batch."""
        name = self._random.choice(self._names)
        room = self._in_flight_max - self._in_flight
        is_batch = room > 1 and self._random.random() < 0.2
        count = self._random.randint(1, min(room, 100)) if is_batch else 1
        sequences = list(range(self._sequence, self._sequence + count))
        self._sequence += count
        payloads = [self._verifier.about_to_send(self.number, number, name) for number in sequences]
        topic, partition = name
        self._in_flight += count
        settle = partial(self._settle, name, sequences, is_batch=is_batch)
        if is_batch:
            records = b"".join(encode_record(payload, 0) for payload in payloads)
            link.submit(lambda opaque: encode_put_batch(topic, partition, records, opaque), settle)
        else:
            link.submit(lambda opaque: encode_put(topic, partition, payloads[0], 0, opaque), settle)

    def _settle(
        self, name: Name, sequences: list[int], reply: Reply | ClientError, *, is_batch: bool
    ) -> None:
        self._in_flight -= len(sequences)
        self._settled.set()
        if isinstance(reply, ClientError):
            self._is_stopping = True
            return
        try:
            if is_batch:
                result = batch_result(reply)
                first_id, offset = result.first_id, result.offset
                if result.count != len(sequences) or result.partition != name[1]:
                    raise AssertionError(f"a batch of {len(sequences)} was answered with {result}")
            else:
                first_id, _, offset = map(int, expect_text(reply).split(" "))
        except ReplyError as error:
            self._verifier.was_refused(self.number, sequences, name)
            self.refusals.append(str(error))
            return
        self._verifier.was_acknowledged(self.number, sequences, name, offset, first_id)
        self.acknowledged += len(sequences)


@attrs.define(eq=False)
class Consumer:
    """Follows one partition of one node and tells the verifier what it was given, until cancelled."""

    _verifier: Verifier
    _name: Name
    offset: int = 0

    async def run(self, port: int, host: str = "127.0.0.1") -> None:
        """Read until the broker is gone."""
        topic, partition = self._name
        try:
            async with connect(host, port) as link:
                while True:
                    got = await link.get(
                        topic,
                        partition,
                        self.offset,
                        size_max=_CONSUMER_FETCH_BYTES,
                        wait_ms=_CONSUMER_WAIT_MS,
                    )
                    if isinstance(got, Fetched):
                        self._verifier.was_delivered(self._name, self.offset, got.data)
                        self.offset += len(got.data)
                    else:
                        await trio.lowlevel.checkpoint()
        except BrokerUnreachableError:
            return


@attrs.define(eq=False)
class Load:
    """All producers and consumers of one life of a master."""

    _verifier: Verifier
    _names: Sequence[Name]
    _random: Random
    producers: list[Producer] = attrs.Factory(list)

    @property
    def acknowledged(self) -> int:
        """Messages acknowledged to these producers."""
        return sum(producer.acknowledged for producer in self.producers)

    @property
    def refused(self) -> int:
        """Requests that were answered with an error."""
        return sum(len(producer.refusals) for producer in self.producers)

    async def run(self, port: int, connections: int, host: str = "127.0.0.1") -> None:
        """Return when every producer has ended and knows the fate of all it sent."""
        self.producers = [
            Producer(self._verifier, self._names, self._random, _IN_FLIGHT[index % len(_IN_FLIGHT)])
            for index in range(connections)
        ]
        async with trio.open_nursery() as nursery:
            consumer = Consumer(self._verifier, self._random.choice(self._names))
            nursery.start_soon(consumer.run, port, host)
            async with trio.open_nursery() as producing:
                for producer in self.producers:
                    producing.start_soon(producer.run, port, host)
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Let the producers end."""
        for producer in self.producers:
            producer.stop()
