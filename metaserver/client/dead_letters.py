"""Where messages go that keep failing: a topic, or a store on this machine. Inspectable, and replayable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

import attrs

from metaserver.client.local_store import LocalMessage

if TYPE_CHECKING:
    from metaserver.client.local_store import LocalStore
    from metaserver.client.producer import Producer
    from metaserver.client.received import ReceivedMessage

_MARK = "dead-letter"
_REASON_CHARACTERS_MAX = 1000


class DeadLetters(Protocol):
    """Takes what a group could not deal with."""

    async def put(self, group: str, message: ReceivedMessage, reason: str, *, attempts: int) -> None:
        """Durable when it returns; raises ClientError where the message could not be put away."""


@attrs.frozen
class DeadLetter:
    """What is known of a message in a topic of dead letters."""

    group: str
    topic: str
    partition: str
    """``B-P``."""
    offset: int
    message_id: int
    attempts: int
    reason: str
    attribute: str | None
    """That of the message itself."""

    def encode(self) -> str:
        """As the attribute of the message in the topic of dead letters; its payload is unchanged."""
        return json.dumps({"metaserver": _MARK, **attrs.asdict(self)}, separators=(",", ":"))

    @classmethod
    def parse(cls, attribute: str | None) -> DeadLetter | None:
        """None where the attribute is that of an ordinary message."""
        try:
            members = json.loads(attribute or "")
        except (ValueError, RecursionError):
            return None
        if not isinstance(members, dict) or members.pop("metaserver", None) != _MARK:
            return None
        try:
            return cls(**members)
        except TypeError:
            return None


@attrs.frozen
class TopicDeadLetters:
    """Dead letters in a topic: seen by everybody, and as durable as the topic."""

    producer: Producer
    topic: str

    async def put(self, group: str, message: ReceivedMessage, reason: str, *, attempts: int) -> None:
        """See DeadLetters."""
        letter = DeadLetter(
            group,
            message.topic,
            str(message.partition.in_topic),
            message.offset,
            message.message_id,
            attempts,
            reason[:_REASON_CHARACTERS_MAX],
            message.attribute,
        )
        await self.producer.send(self.topic, message.payload, attribute=letter.encode())


@attrs.frozen
class LocalDeadLetters:
    """Dead letters in a store on this machine: no broker is needed to put them away."""

    store: LocalStore

    async def put(self, group: str, message: ReceivedMessage, reason: str, *, attempts: int) -> None:
        """See DeadLetters."""
        await self.store.add_many(
            [
                LocalMessage(
                    topic=message.topic,
                    payload=message.payload,
                    attribute=message.attribute,
                    partition=str(message.partition.in_topic),
                    message_id=message.message_id,
                    offset=message.offset,
                    group=group,
                    reason=reason,
                    attempts=attempts,
                )
            ]
        )
