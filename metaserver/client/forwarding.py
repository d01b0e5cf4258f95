"""Store and forward: messages that no broker takes wait on the local disk, in order, and are sent later.

While a topic has messages in the store, those that follow go behind them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, TypeAlias

import anyio
import attrs

from metaserver.client.lane import Sent
from metaserver.client.local_store import LocalMessage
from metaserver.client.messages import OutgoingMessage
from metaserver.client.partition import Partition
from metaserver.errors import ClientError, LocalStoreError, SendError, SendFailedError, SendRefusedError
from metaserver.logs import get_logger
from metaserver.registry.paths import BrokerPartition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from metaserver.client.lane import Outgoing
    from metaserver.client.local_store import LocalStore, StoredMessage

_log = get_logger(__name__)

_Settle: TypeAlias = "Callable[[Sent | SendError], None]"
_Arrival: TypeAlias = "tuple[Outgoing, str, _Settle]"
Send: TypeAlias = "Callable[[str, Sequence[OutgoingMessage]], Awaitable[list[Sent | SendError]]]"

_PAUSE_SECONDS = 1.0
"""Between two attempts to send what is in the store."""
_BATCH = 500
_NOWHERE = Partition("", -1, -1)


@attrs.define(eq=False)
class Forwarder:
    """What a producer does with messages no broker takes. Run :meth:`run` beside it."""

    _store: LocalStore
    _backlog: defaultdict[str, int] = attrs.Factory(lambda: defaultdict(int))
    """Messages in the store, or on their way there, by topic."""
    _arriving: deque[_Arrival] = attrs.Factory(deque)
    _wake: anyio.Event = attrs.Factory(anyio.Event)
    _stuck: set[int] = attrs.Factory(set)
    """Keys of messages a broker refuses: they stay in the store and hold nobody up."""

    def has_backlog(self, topic: str) -> bool:
        """Whether messages of the topic must go behind others in the store."""
        return self._backlog[topic] > 0

    def keep(self, message: Outgoing, reason: str, settle: _Settle) -> None:
        """Put a message into the store; ``settle`` is told when it is on the disk, or why it is not."""
        self._backlog[message.topic] += 1
        self._arriving.append((message, reason, settle))
        self._wake.set()

    async def load(self) -> None:
        """Learn what is in the store already; raises LocalStoreError."""
        for topic in await self._store.topics():
            self._backlog[topic] = await self._store.count(topic=topic)

    async def run(self, send: Send) -> None:
        """Keep and forward until cancelled. ``send`` tells what came of each message."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_arriving)
            tasks.start_soon(self._forward, send)

    async def _keep_arriving(self) -> None:
        while True:
            while self._arriving:
                arrived = [self._arriving.popleft() for _ in range(min(len(self._arriving), _BATCH))]
                await self._keep_all(arrived)
            self._wake = anyio.Event()
            await self._wake.wait()

    async def _keep_all(self, arrived: list[_Arrival]) -> None:
        try:
            await self._store.add_many(
                [
                    LocalMessage(
                        topic=message.topic,
                        payload=message.payload,
                        attribute=message.attribute,
                        partition="" if message.target is None else str(message.target.in_topic),
                        sorting_key=message.key,
                        reason=reason,
                    )
                    for message, reason, _settle in arrived
                ]
            )
        except LocalStoreError as error:
            for message, reason, settle in arrived:
                self._backlog[message.topic] -= 1
                settle(SendFailedError(message.topic, "", f"{reason}; {error}", message.attempts))
        else:
            for message, _reason, settle in arrived:
                settle(Sent(attrs.evolve(_NOWHERE, topic=message.topic), None, None))

    async def _forward(self, send: Send) -> None:
        while True:
            await anyio.sleep(_PAUSE_SECONDS)
            for topic in [topic for topic, count in self._backlog.items() if count]:
                try:
                    await self._forward_topic(topic, send)
                except LocalStoreError as error:
                    _log.error("The local store cannot be read", reason=str(error))
                except ClientError as error:
                    _log.info("Stored messages wait", topic=topic, reason=str(error))

    async def _forward_topic(self, topic: str, send: Send) -> None:
        """Send what the store holds of a topic, in order, until something cannot be sent."""
        after_key = 0
        while stored := await self._store.first(_BATCH, topic=topic, after_key=after_key):
            after_key = stored[-1].key
            fresh = [message for message in stored if message.key not in self._stuck]
            messages = [_outgoing(message) for message in fresh]
            outcomes = await send(topic, messages)
            gone = [
                message.key
                for message, outcome in zip(fresh, outcomes, strict=True)
                if isinstance(outcome, Sent)
            ]
            await self._store.remove(gone)
            self._backlog[topic] -= len(gone)
            for message, outcome in zip(fresh, outcomes, strict=True):
                if isinstance(outcome, SendRefusedError):
                    self._stuck.add(message.key)
                    self._backlog[topic] -= 1
                    _log.error("A stored message stays in the store", key=message.key, reason=str(outcome))
            if any(
                isinstance(outcome, SendError) and not isinstance(outcome, SendRefusedError)
                for outcome in outcomes
            ):
                return


def _outgoing(message: StoredMessage) -> OutgoingMessage:
    """As it was handed over at first, so that it goes where it would have gone."""
    place = BrokerPartition.parse(message.partition)
    target = None if place is None else Partition(message.topic, place.broker_id, place.partition)
    return OutgoingMessage(message.payload, message.attribute, message.sorting_key, target)
