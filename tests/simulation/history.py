"""What clients were told and given in a run; the verifier judges by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from metaserver.client.lane import Sent
from metaserver.errors import UNCLEAR_TEXT, SendFailedError, SendRefusedError, SendUnknownError
from metaserver.protocol import STORED_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metaserver.client.received import ReceivedMessage
    from metaserver.errors import SendError
    from metaserver.names import TopicPartition
    from metaserver.storage import OffsetRange

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

    @property
    def is_unanswered(self) -> bool:
        """Whether it left and no answer came."""
        outcome = self.outcome
        return isinstance(outcome, SendUnknownError) and not (
            STORED_TEXT in outcome.reason or UNCLEAR_TEXT in outcome.reason
        )

    def may_lie_behind(self, others: Iterable[SentMessage]) -> bool:
        """Whether it may be in a log behind these of its producer.

        Without an answer it may come late, over the connection that was given up. What its producer sent only
        after that may be there before it; that has been settled later, for a partition has one request under
        way.
        """
        later = [other for other in others if other.sequence >= self.sequence]
        return not later or (
            self.is_unanswered and all(other.settled_seconds > self.settled_seconds for other in later)
        )


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
    skipped: set[tuple[TopicPartition, OffsetRange]] = attrs.Factory(set)
    """Damage that nobody could repair for a while, so that a node sent its readers on behind it."""

    def may_be_missed(self, name: Name, offset: int) -> bool:
        """Whether a group may have been sent past an offset."""
        return any(
            (skipped.topic, skipped.partition) == name and gap.start <= offset < gap.end
            for skipped, gap in self.skipped
        )

    def delivered(self, seconds: float, consumer: str, group: str, message: ReceivedMessage) -> None:
        name = (message.topic, message.partition.number)
        self.deliveries.append(
            Delivery(seconds, consumer, group, name, message.offset, message.message_id, message.payload)
        )
