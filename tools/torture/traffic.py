"""Producers and consumers in groups as applications have them, which tell the verifier everything.

They find the brokers by themselves, and go on whatever happens to these. A writer sends one message at a time
to one partition. Where the fate of one stays unknown, it goes on under a new number, as a new connection
would: what the verifier wants of a producer holds for each.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.client import (
    ConsumerOptions,
    ProducerOptions,
    SessionOptions,
    open_session,
)
from metaserver.client.groups import read_group
from metaserver.client.partition import Partition
from metaserver.errors import (
    ClientError,
    NoPartitionError,
    SendFailedError,
    SendRefusedError,
    SendUnknownError,
)
from metaserver.message import encode_record
from tools.torture.payloads import parse_payload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from metaserver.client import Producer, Session
    from metaserver.client.received import ReceivedMessage
    from tools.torture.logfiles import Name
    from tools.torture.verifier import Verifier

Key = tuple[int, int]
"""Producer and sequence number."""

_SEND_SECONDS = 5.0
_COMMIT_SECONDS = 0.1
_LOOK_SECONDS = 0.05


@attrs.define(eq=False)
class Traffic:
    """Writers, members of groups, and a look at the groups' offsets; made by :func:`traffic_at`."""

    verifier: Verifier
    broker_id: int = 0
    unknown: int = 0
    """Messages whose fate the producer could not tell."""
    reasons: Counter[str] = attrs.Factory(Counter)
    """Of the unknown, and those refused."""
    refused: int = 0
    """Messages that were given up: they are not stored."""
    acknowledged: Counter[Name] = attrs.Factory(Counter)
    acknowledged_at: dict[Key, float] = attrs.Factory(dict)
    """Wall time, of those that some group may not have been given yet."""
    delivered: dict[str, dict[Key, None]] = attrs.Factory(dict)
    """By group, of those in ``acknowledged_at``, and whatever else came."""
    repeated: int = 0
    """Messages a group was given again."""
    offsets: dict[tuple[str, Partition], int] = attrs.Factory(dict)
    """Of the groups, as they stood in the registry at the last look."""
    moved_back: list[tuple[Name, str]] = attrs.Factory(list)
    """Offsets that were smaller than at the look before, since the round began."""
    _gate: trio.Event = attrs.Factory(trio.Event)
    _busy: int = 0
    _life: int = 0
    """Counts the pauses: the verifier looks in them, and wants new numbers after it."""

    def resume(self) -> None:
        """Let the writers write."""
        self._gate.set()

    async def pause(self) -> None:
        """Returns when no message is under way."""
        if self._gate.is_set():
            self._gate = trio.Event()
            self._life += 1
        while self._busy:  # noqa: ASYNC110 - a few looks of a rig
            await trio.sleep(_LOOK_SECONDS / 10)

    async def write(self, producer: Producer, name: Name) -> None:
        """Send to one partition, until cancelled while paused."""
        number, sequence, life = self.verifier.new_producer(), 0, self._life
        target = Partition(name[0], self.broker_id, name[1])
        while True:
            await trio.lowlevel.checkpoint()
            while not self._gate.is_set():
                await self._gate.wait()
            if life != self._life:
                number, sequence, life = self.verifier.new_producer(), 0, self._life
            payload = self.verifier.about_to_send(number, sequence, name)
            self._busy += 1
            try:
                with trio.CancelScope(shield=True):
                    sent = await producer.send(name[0], payload, partition=target)
            except SendUnknownError as error:
                self.reasons[str(error)] += 1
                self.unknown += 1
                number, sequence = self.verifier.new_producer(), 0
                continue
            except (SendRefusedError, SendFailedError, NoPartitionError) as error:
                self.reasons[str(error)] += 1
                self.verifier.was_refused(number, [sequence], name)
                self.refused += 1
            else:
                assert sent.offset is not None
                assert sent.message_id is not None
                self.acknowledged_at[number, sequence] = time.time()
                self.verifier.was_acknowledged(number, [sequence], name, sent.offset, sent.message_id)
                self.acknowledged[name] += 1
            finally:
                self._busy -= 1
            sequence += 1

    async def consume(self, session: Session, group: str, topics: Sequence[str]) -> None:
        """Be a member of a group, until cancelled."""
        delivered = self.delivered.setdefault(group, {})
        options = ConsumerOptions(commit_interval_seconds=_COMMIT_SECONDS)
        async with session.consumer(group, topics, options) as consumer:
            async for message in consumer:
                self._received(message, delivered)

    def _received(self, message: ReceivedMessage, delivered: dict[Key, None]) -> None:
        name = (message.topic, message.partition.number)
        record = encode_record(message.payload, message.message_id)
        self.verifier.was_delivered(name, message.offset, record)
        key = parse_payload(message.payload)
        if key is None:
            return  # The verifier will find that nobody sent it.
        if key in delivered:
            self.repeated += 1
        delivered[key] = None

    async def watch_offsets(self, session: Session) -> None:
        """Look at the groups' offsets in the registry, until cancelled: they must not move back."""
        while True:
            for group in list(self.delivered):
                try:
                    found = await read_group(session.network.discovery, group)
                except ClientError:
                    continue
                for partition, node in found.offsets.items() if found is not None else ():
                    if node.stored is not None:
                        self._saw_offset(group, partition, node.stored.offset)
            await trio.sleep(_LOOK_SECONDS)

    def _saw_offset(self, group: str, partition: Partition, offset: int) -> None:
        before = self.offsets.get((group, partition), 0)
        if offset < before:
            text = f"the offset of group {group} in {partition} went back from {before} to {offset}"
            self.moved_back.append(((partition.topic, partition.number), text))
        self.offsets[group, partition] = offset

    def missing(self) -> dict[str, list[Key]]:
        """What was acknowledged and has not been given to a group yet."""
        return {
            group: [key for key in self.acknowledged_at if key not in delivered]
            for group, delivered in self.delivered.items()
        }

    def forget(self, lost: Sequence[Key]) -> None:
        """These are gone: no group will ever be given them."""
        for key in lost:
            self.acknowledged_at.pop(key, None)

    def begin_round(self) -> None:
        """Everything acknowledged so far has been delivered."""
        self.acknowledged_at.clear()
        self.moved_back.clear()


@asynccontextmanager
async def traffic_at(
    servers: str, names: Sequence[Name], groups: Sequence[str], verifier: Verifier, *, writers: int
) -> AsyncIterator[Traffic]:
    """Traffic for the time of the block; paused at first.

    So many writers, in turn for each of the partitions ``names``; one member for each of ``groups``, in
    which a name may stand more than once. Each writer and each member is a client of its own.
    """
    traffic = Traffic(verifier)
    topics = sorted({topic for topic, _ in names})
    options = SessionOptions(registry_timeout_seconds=4.0)
    async with trio.open_nursery() as nursery:

        async def write(name: Name) -> None:
            async with (
                open_session(servers, options) as session,
                session.producer(ProducerOptions(timeout_seconds=_SEND_SECONDS)) as producer,
            ):
                await traffic.write(producer, name)

        async def consume(group: str) -> None:
            async with open_session(servers, options) as session:
                await traffic.consume(session, group, topics)

        async def watch() -> None:
            async with open_session(servers, options) as session:
                await traffic.watch_offsets(session)

        for index in range(writers):
            nursery.start_soon(write, names[index % len(names)])
        for group in groups:
            nursery.start_soon(consume, group)
        nursery.start_soon(watch)
        yield traffic
        nursery.cancel_scope.cancel()
