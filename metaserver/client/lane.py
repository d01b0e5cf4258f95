"""Messages on their way to one partition, in order. Pure: what to send next, and what an answer means.

A lane has one request under way at a time. What is sent meanwhile gathers and is the next request, so batches
grow with the load; and nothing can overtake what has to be sent again.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import attrs

from metaserver.message import HEADER_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.client.partition import Partition
    from metaserver.errors import SendError


class Sent(NamedTuple):
    """A message that was acknowledged."""

    partition: Partition
    message_id: int | None
    """None: no broker took it, and it lies in the local store (as durable as that), to be sent later."""
    offset: int | None
    """Where its record begins in the partition's log; None as the id."""

    @property
    def is_local(self) -> bool:
        """Whether it only lies in the local store so far."""
        return self.message_id is None


@attrs.define(eq=False)
class Outgoing:
    """One message from when it was handed over until its fate is known."""

    topic: str
    data: bytes
    """Attribute and payload as they are stored."""
    flag: int
    payload: bytes
    attribute: str | None
    key: bytes | None
    target: Partition | None
    """Where the caller wants it."""
    deadline: float
    settle: Callable[[Sent | SendError], None]
    """Told once."""
    is_forwarded: bool = False
    """It comes from the local store, where its order is kept if it cannot be sent."""
    attempts: int = 0
    may_be_stored: bool = False
    """A request with it was sent and never answered."""
    is_suspect: bool = False
    """It was in a batch that was refused: it is sent alone, so that it has its own answer."""
    size_bytes: int = attrs.field(init=False)
    """What it takes in a batch."""

    def __attrs_post_init__(self) -> None:
        """Asked for several times for every message, so it is kept."""
        self.size_bytes = HEADER_SIZE + len(self.data)

    @property
    def is_bound(self) -> bool:
        """Whether it must stay with its partition: the caller's, that of its key, or one that may have it."""
        return self.target is not None or self.key is not None or self.may_be_stored


class LaneState(enum.Enum):
    """What a lane waits for."""

    IDLE = "idle"
    LINGERING = "lingering"
    """For more messages, until ``due``."""
    IN_FLIGHT = "in flight"
    PAUSED = "paused"
    """After a failure, until ``due``, or until the broker is back."""


@attrs.define(eq=False)
class Lane:
    """The queue of one partition."""

    partition: Partition
    batch_bytes_max: int
    batch_messages_max: int
    linger_seconds: float
    waiting: deque[Outgoing] = attrs.Factory(deque)
    waiting_bytes: int = 0
    in_flight: list[Outgoing] = attrs.Factory(list)
    state: LaneState = LaneState.IDLE
    due: float = 0.0
    """When a LINGERING or PAUSED lane may send."""
    timer_due: float = 0.0
    """For when a timer is set that sends."""
    closed_until: float = 0.0
    """Its broker has closed the partition: who may go elsewhere does, for a while."""
    refusal: str = ""
    """Why its broker takes nothing now, though it answers; blank where it has not said."""

    def add(self, message: Outgoing, now: float) -> None:
        """Put a message behind the others."""
        self.waiting.append(message)
        self.waiting_bytes += message.size_bytes
        if self.state is LaneState.IDLE and self.linger_seconds > 0:
            self.state, self.due = LaneState.LINGERING, now + self.linger_seconds

    def hurry(self) -> None:
        """Wait for no more company."""
        if self.state is LaneState.LINGERING:
            self.due = 0.0

    def take(self, now: float, *, can_batch: bool) -> list[Outgoing]:
        """The messages of the next request, which is under way from now on; none if none is due."""
        if not self.waiting or self.state is LaneState.IN_FLIGHT:
            return []
        if self.state is LaneState.PAUSED and now < self.due:
            return []
        if self.state is LaneState.LINGERING and now < self.due and not self._is_full:
            return []
        if not can_batch or self.waiting[0].is_suspect:
            taken = [self.waiting.popleft()]
            size_bytes = taken[0].size_bytes
        else:
            taken, size_bytes = self._take_batch()
        self.waiting_bytes -= size_bytes
        for message in taken:
            message.attempts += 1
        self.in_flight, self.state = taken, LaneState.IN_FLIGHT
        return taken

    def answered(self) -> list[Outgoing]:
        """The request under way has come to an end: its messages, which are the lane's no more."""
        taken, self.in_flight = self.in_flight, []
        self.state, self.refusal = LaneState.IDLE, ""
        return taken

    def give_back(self, messages: list[Outgoing]) -> None:
        """Put messages of the request that ended in front again, in their order."""
        self.waiting.extendleft(reversed(messages))
        self.waiting_bytes += sum(message.size_bytes for message in messages)

    def pause(self, until: float) -> None:
        """Send nothing before."""
        if self.state is not LaneState.IN_FLIGHT:
            self.state, self.due = LaneState.PAUSED, until

    def expired(self, now: float) -> list[Outgoing]:
        """Take out the waiting messages whose time is over."""
        gone = [message for message in self.waiting if message.deadline <= now]
        if gone:
            self.waiting = deque(message for message in self.waiting if message.deadline > now)
            self.waiting_bytes -= sum(message.size_bytes for message in gone)
        return gone

    def drain(self, *, only_free: bool) -> list[Outgoing]:
        """Take out all waiting messages, or only those that may go to another partition."""
        gone = [m for m in self.waiting if not only_free or not m.is_bound]
        if gone:
            taken = set(map(id, gone))
            self.waiting = deque(message for message in self.waiting if id(message) not in taken)
            self.waiting_bytes -= sum(message.size_bytes for message in gone)
        return gone

    @property
    def _is_full(self) -> bool:
        return self.waiting_bytes >= self.batch_bytes_max or len(self.waiting) >= self.batch_messages_max

    def _take_batch(self) -> tuple[list[Outgoing], int]:
        waiting, bytes_max = self.waiting, self.batch_bytes_max
        taken = [waiting.popleft()]
        size_bytes = taken[0].size_bytes
        while waiting and len(taken) < self.batch_messages_max and not waiting[0].is_suspect:
            following = size_bytes + waiting[0].size_bytes
            if following > bytes_max:
                break
            size_bytes = following
            taken.append(waiting.popleft())
        return taken, size_bytes
