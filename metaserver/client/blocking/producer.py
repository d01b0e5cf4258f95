"""A producer that any number of threads may use."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import attrs

from metaserver.client.blocking.bell import Bell
from metaserver.client.blocking.block import entered
from metaserver.client.blocking.fate import Fate
from metaserver.client.blocking.transactions import Transaction
from metaserver.errors import MetaServerError, SendFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from metaserver.client import producer
    from metaserver.client.blocking.block import Block
    from metaserver.client.lane import Sent
    from metaserver.client.messages import OutgoingMessage
    from metaserver.client.partition import Partition

_HELD_BYTES_PER_MESSAGE = 1000
"""Of memory, beside the data; more than the loop's own producer counts, so that this one is full first."""


@attrs.define(eq=False)
class _Message:
    topic: str
    payload: bytes
    attribute: str | None
    key: bytes | None
    partition: Partition | None
    size_bytes: int
    fate: Fate
    is_counted: bool = False
    is_accepted: bool = False
    """By the loop, for which this is."""


class Producer:
    """Made by :meth:`metaserver.client.blocking.Session.producer`.

    Messages of one thread to one partition are stored in the order in which it handed them over.
    """

    def __init__(self, block: Block[producer.Producer]) -> None:
        """Use the session's method."""
        self._block = block
        self._inner = block.value
        self._bytes_max = block.value.options.buffer_bytes_max
        self._count_lock = threading.Lock()
        """Of threads that hand in. The loop does not take it: the garbage collector may wait there for it."""
        self._handed_in = 0
        self._handed_in_bytes = 0
        self._settled = 0
        """The loop's, as are the bytes."""
        self._settled_bytes = 0
        self._change = Bell()
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
        Interrupted, the message goes its way all the same, or is as if it had never been.
        """
        self._block.thread.forbid()
        message = self._message(topic, payload, attribute, key, partition)
        while not self._hand_in(message):
            self._change.wait_until(self._has_room)
        return message.fate.result()

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
        message = self._message(topic, payload, attribute, key, partition)
        if not self._hand_in(message):
            raise anyio.WouldBlock
        return message.fate

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
        self._change.wait_until(self._has_room)

    def flush(self) -> None:
        """Returns when the fate of every message handed over so far is known; bounded by their time-outs.

        Those that linger for company are sent at once.
        """
        self._block.thread.forbid()
        self._post(self._hurry)
        self._change.wait_until(lambda: self.buffered <= 0)

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
        # In this order: of those handed in meanwhile none counts as settled.
        settled = self._settled
        return self._handed_in - settled

    def _has_room(self) -> bool:
        settled_bytes = self._settled_bytes
        return self._handed_in_bytes - settled_bytes < self._bytes_max

    def _message(
        self,
        topic: str,
        payload: bytes,
        attribute: str | None,
        key: bytes | None,
        partition: Partition | None,
    ) -> _Message:
        size_bytes = len(payload) + _HELD_BYTES_PER_MESSAGE + 4 * len(attribute or "")
        return _Message(topic, payload, attribute, key, partition, size_bytes, Fate(self._block.thread))

    def _hand_in(self, message: _Message) -> bool:
        """False where there is no room. Interrupted, the message goes its way or is as if it never was."""
        try:
            with self._count_lock:
                if not self._has_room():
                    return False
                self._handed_in += 1
                self._handed_in_bytes += message.size_bytes
                message.is_counted = True
            try:
                self._block.thread.post(partial(self._accept, message))
            except anyio.ClosedResourceError:
                self._uncount(message)
                message.fate.tell(_closed(message))
        except BaseException:
            try:
                self._block.thread.post(partial(self._withdraw, message))
            except anyio.ClosedResourceError:
                # The loop's last look may still accept it: it is counted once too little then, which keeps
                # nobody waiting.
                if not message.is_accepted:
                    self._uncount(message)
            raise
        return True

    def _uncount(self, message: _Message) -> None:
        with self._count_lock:
            if message.is_counted:
                self._handed_in -= 1
                self._handed_in_bytes -= message.size_bytes
                message.is_counted = False
        self._change.ring()

    def _post(self, call: Callable[[], object]) -> None:
        with suppress(anyio.ClosedResourceError):
            self._block.thread.post(call)

    # On the loop.

    def _accept(self, message: _Message) -> None:
        message.is_accepted = True
        topic = message.topic
        if topic in self._waiting:
            self._waiting[topic].append(message)
        elif topic not in self._known or not self._hand_over(message):
            self._waiting[topic] = deque([message])
            if not self._block.start(self._work_off, topic):
                del self._waiting[topic]
                self._settle(message, _closed(message))

    def _withdraw(self, message: _Message) -> None:
        """Posted behind it, where it was posted at all."""
        if message.is_counted and not message.is_accepted:
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
        # In this order: behind a flush all are done, and a callback finds the room there is now.
        message.fate.tell(outcome)
        self._settled += 1
        self._settled_bytes += message.size_bytes
        try:
            message.fate.call_back()
        finally:
            self._change.ring()


def _closed(message: _Message) -> SendFailedError:
    return SendFailedError(message.topic, "", "the producer is closed", 0)
