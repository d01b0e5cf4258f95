"""A producer that any number of threads may use."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import attrs

from metaserver.client.blocking.block import entered
from metaserver.client.blocking.transactions import Transaction
from metaserver.errors import MetaServerError, SendFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from metaserver.client import producer
    from metaserver.client.blocking.block import Block
    from metaserver.client.lane import Sent
    from metaserver.client.messages import OutgoingMessage
    from metaserver.client.partition import Partition

_HELD_BYTES_PER_MESSAGE = 1000
"""Of memory, beside the data; more than the loop's own producer counts, so that this one is full first."""


@attrs.frozen(eq=False)
class _Message:
    topic: str
    payload: bytes
    attribute: str | None
    key: bytes | None
    partition: Partition | None
    size_bytes: int
    fate: Future[Sent] = attrs.Factory(Future)


class Producer:
    """Made by :meth:`metaserver.client.blocking.Session.producer`.

    Messages of one thread to one partition are stored in the order in which it handed them over.
    """

    def __init__(self, block: Block[producer.Producer]) -> None:
        """Use the session's method."""
        self._block = block
        self._inner = block.value
        self._bytes_max = block.value.options.buffer_bytes_max
        self._change = threading.Condition()
        self._buffered = 0
        self._buffered_bytes = 0
        self._is_awaited = False
        """Whether somebody waits for a change."""
        self._known: set[str] = set()
        """The loop's: topics that were looked for."""
        self._waiting: dict[str, deque[_Message]] = {}
        """The loop's: messages of topics that are being looked for, or that there was no room for."""

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        attribute: str | None = None,
        key: bytes | None = None,
        partition: Partition | None = None,
    ) -> Sent:
        """Send one message and wait until a broker has taken it.

        Raises NoPartitionError (nobody takes such messages), DiscoveryError (who does is not known),
        SendRefusedError, SendFailedError (all four: it is not stored) and SendUnknownError (it may be).
        Interrupted, the message goes its way all the same.
        """
        self._block.thread.forbid()
        message = _message(topic, payload, attribute, key, partition)
        with self._change:
            while self._buffered_bytes >= self._bytes_max:
                self._await_change()
            self._count(message)
        return self._post(message).result()

    def send_nowait(
        self,
        topic: str,
        payload: bytes,
        *,
        attribute: str | None = None,
        key: bytes | None = None,
        partition: Partition | None = None,
    ) -> Future[Sent]:
        """Hand a message over and return: what :meth:`send` returns or raises is in the future.

        It cannot be cancelled. Its callbacks run on the session's loop: they must be quick, and may call
        nothing of the session that waits. Raises anyio.WouldBlock where ``buffer_bytes_max`` are under way
        (:meth:`wait_for_room`).
        """
        message = _message(topic, payload, attribute, key, partition)
        with self._change:
            if self._buffered_bytes >= self._bytes_max:
                raise anyio.WouldBlock
            self._count(message)
        return self._post(message)

    def send_many(self, topic: str, messages: Iterable[bytes | OutgoingMessage]) -> list[Sent]:
        """Send messages in order, each partition's in batches, and wait for all of them.

        Raises SendManyError, which holds the outcome of each, where one was not acknowledged. Interrupted,
        those handed over go their way.
        """
        return self._block.call(self._inner.send_many, topic, list(messages))

    @contextmanager
    def transaction(self, *, timeout_seconds: int = 0) -> Iterator[Transaction]:
        """Messages that are taken together at the end of the block, or not at all."""
        manager = self._inner.transaction(timeout_seconds=timeout_seconds)
        with entered(self._block.thread, manager, self._block) as block:
            yield Transaction(block)

    def wait_for_room(self) -> None:
        """Returns when ``send_nowait`` would take a message."""
        self._block.thread.forbid()
        with self._change:
            while self._buffered_bytes >= self._bytes_max:
                self._await_change()

    def flush(self) -> None:
        """Returns when the fate of every message handed over so far is known; bounded by their time-outs.

        Those that linger for company are sent at once.
        """
        self._block.thread.forbid()
        with suppress(anyio.ClosedResourceError):
            self._block.thread.post(self._hurry)
        with self._change:
            while self._buffered:
                self._await_change()

    def partitions(self, topic: str) -> tuple[Partition, ...]:
        """Where messages of the topic may go now; raises DiscoveryError."""
        return self._block.call(self._inner.partitions, topic)

    @property
    def asynchronous(self) -> producer.Producer:
        """The producer on the session's loop, for what runs there: ``TopicDeadLetters(it, "dead")``."""
        return self._inner

    @property
    def buffered(self) -> int:
        """Messages of ``send`` and ``send_nowait`` whose fate is not known."""
        return self._buffered

    def _await_change(self) -> None:
        self._is_awaited = True
        self._change.wait()

    def _count(self, message: _Message) -> None:
        self._buffered += 1
        self._buffered_bytes += message.size_bytes

    def _post(self, message: _Message) -> Future[Sent]:
        message.fate.set_running_or_notify_cancel()
        try:
            self._block.thread.post(partial(self._accept, message))
        except anyio.ClosedResourceError:
            self._settle(message, _closed(message))
        return message.fate

    # On the loop.

    def _accept(self, message: _Message) -> None:
        topic = message.topic
        if topic in self._waiting:
            self._waiting[topic].append(message)
        elif topic not in self._known or not self._hand_over(message):
            self._waiting[topic] = deque([message])
            if not self._block.start(self._work_off, topic):
                del self._waiting[topic]
                self._settle(message, _closed(message))

    def _hand_over(self, message: _Message) -> bool:
        """False where there is no room."""
        try:
            self._inner.send_nowait(
                message.topic,
                message.payload,
                attribute=message.attribute,
                key=message.key,
                partition=message.partition,
                callback=partial(self._settle, message),
            )
        except anyio.WouldBlock:
            return False
        except Exception as error:  # noqa: BLE001 - also what a selector raises is for who sends
            self._settle(message, error)
        return True

    def _hurry(self) -> None:
        self._block.start(self._inner.flush)

    async def _work_off(self, topic: str) -> None:
        waiting = self._waiting[topic]
        try:
            while waiting:
                try:
                    await self._inner.partitions(topic)
                except MetaServerError as error:
                    self._settle(waiting.popleft(), error)
                    continue
                self._known.add(topic)
                await self._inner.wait_for_room()
                while waiting and self._hand_over(waiting[0]):
                    waiting.popleft()
        finally:
            del self._waiting[topic]
            for message in waiting:
                self._settle(message, _closed(message))

    def _settle(self, message: _Message, outcome: Sent | Exception) -> None:
        with self._change:
            self._buffered -= 1
            self._buffered_bytes -= message.size_bytes
            if self._is_awaited:
                self._is_awaited = False
                self._change.notify_all()
        if isinstance(outcome, Exception):
            message.fate.set_exception(outcome)
        else:
            message.fate.set_result(outcome)


def _message(
    topic: str, payload: bytes, attribute: str | None, key: bytes | None, partition: Partition | None
) -> _Message:
    size_bytes = len(payload) + _HELD_BYTES_PER_MESSAGE + 4 * len(attribute or "")
    return _Message(topic, payload, attribute, key, partition, size_bytes)


def _closed(message: _Message) -> SendFailedError:
    return SendFailedError(message.topic, "", "the producer is closed", 0)
