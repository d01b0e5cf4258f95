"""What clients were told and given in a run; the verifier judges by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from metaserver.client.lane import Sent
from metaserver.errors import SendFailedError, SendRefusedError

if TYPE_CHECKING:
    from metaserver.client.received import ReceivedMessage
    from metaserver.errors import SendError

Name: TypeAlias = tuple[str, int]
"""Topic and partition."""


@attrs.define(eq=False)
class SentMessage:
    """One message and its fate, as its producer knows it."""

    producer: str
    sequence: int
    topic: str
    payload: bytes
    transaction: int = 0
    """Of its producer, counted from 1; 0: it was sent alone."""
    outcome: Sent | SendError | None = None
    settled_seconds: float = 0.0

    @property
    def is_acknowledged(self) -> bool:
        return isinstance(self.outcome, Sent)

    @property
    def is_refused(self) -> bool:
        """Whether its producer was told that it is not stored."""
        return isinstance(self.outcome, SendRefusedError | SendFailedError)


@attrs.frozen
class Delivery:
    """A message that a consumer has dealt with."""

    seconds: float
    consumer: str
    group: str
    name: Name
    offset: int
    message_id: int
    payload: bytes


@attrs.define(eq=False)
class History:
    """Of one run."""

    sent: dict[bytes, SentMessage] = attrs.Factory(dict)
    deliveries: list[Delivery] = attrs.Factory(list)
    promotions: int = 0
    """How often a master's place was taken by a slave."""
    power_cuts: int = 0
    power_cuts_of_slaves: int = 0

    def delivered(self, seconds: float, consumer: str, group: str, message: ReceivedMessage) -> None:
        name = (message.topic, message.partition.number)
        self.deliveries.append(
            Delivery(seconds, consumer, group, name, message.offset, message.message_id, message.payload)
        )
