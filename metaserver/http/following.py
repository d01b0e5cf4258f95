"""``/api/v1/topics/T/events``: a topic followed live, as server-sent events.

The id of an event says where each partition goes on, so a browser that connects again (``Last-Event-ID``)
gets what comes behind the last event it has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import trio

from metaserver.client.messages import Fetched, Moved
from metaserver.config.users import Role
from metaserver.errors import ReplyError
from metaserver.http.asking import Query, number, topic_of
from metaserver.http.local_broker import STEP_BYTES, LocalBroker
from metaserver.http.problems import ProblemError
from metaserver.http.streams import EventStream
from metaserver.http.topics_api import known_section, messages_content, place, raise_refused
from metaserver.message import HEADER, HEADER_SIZE

if TYPE_CHECKING:
    from starlette.requests import Request

    from metaserver.http.access import Access
    from metaserver.http.source import BrokerDoor
    from metaserver.http.streams import EventSink
    from metaserver.http.waiting import WaitingRoom

PARTITIONS_MAX: Final = 64
"""Of one stream."""
_WAIT_MS: Final = 10_000
_PAUSE_SECONDS: Final = 0.5
"""Before the next look at a partition that is not there yet, or is closed."""


@attrs.frozen
class FollowingApi:
    """Of one broker."""

    _door: BrokerDoor
    _access: Access
    _waiting: WaitingRoom

    async def follow(self, request: Request) -> EventStream:
        """A stream of ``message`` events."""
        self._access.admit(request, Role.READ)
        topic = topic_of(request)
        query = Query.of(request, "partition", "from")
        section = known_section(self._door, topic)
        chosen = query.optional("partition")
        numbers = (
            list(range(section.partition_count))
            if chosen is None
            else [number(chosen, "partition", 0, section.partition_count - 1)]
        )
        if len(numbers) > PARTITIONS_MAX:
            raise ProblemError(
                400, f"one stream follows {PARTITIONS_MAX} partitions at most; choose with partition"
            )
        broker = LocalBroker(self._door)
        places = _parse_places(request.headers.get("last-event-id", ""))
        start = query.text("from", "end")
        for partition in numbers:
            if partition not in places:
                places[partition] = await _begin(broker, topic, partition, start)
        return EventStream(
            _Follower(broker, topic, {partition: places[partition] for partition in numbers}).run,
            self._waiting,
        )


@attrs.define(eq=False)
class _Follower:
    _broker: LocalBroker
    _topic: str
    _places: dict[int, int]
    """Where each partition goes on."""

    async def run(self, sink: EventSink) -> None:
        async with trio.open_nursery() as nursery:
            for partition in self._places:
                nursery.start_soon(self._follow, partition, sink)

    async def _follow(self, partition: int, sink: EventSink) -> None:
        size = STEP_BYTES
        while True:
            offset = self._places[partition]
            asked = trio.current_time()
            try:
                got = await self._broker.get(self._topic, partition, offset, size_max=size, wait_ms=_WAIT_MS)
            except ReplyError as error:
                await sink.event("problem", {"partition": partition, "detail": error.text})
                await trio.sleep(_PAUSE_SECONDS)
                continue
            if isinstance(got, Moved):
                await sink.event("moved", {"partition": partition, "from": offset, "to": got.offset})
                self._places[partition] = got.offset
            elif isinstance(got, Fetched):
                size = await self._tell(got, partition, sink)
            elif trio.current_time() - asked < _PAUSE_SECONDS:
                await trio.sleep(_PAUSE_SECONDS)

    async def _tell(self, got: Fetched, partition: int, sink: EventSink) -> int:
        """Send what was fetched; how much to fetch next."""
        messages = tuple(got.messages())
        for message, content in zip(messages, messages_content(messages), strict=True):
            self._places[partition] = message.next_offset
            await sink.event("message", content, _format_places(self._places))
        if messages:
            return STEP_BYTES
        needed = HEADER_SIZE + int(HEADER.unpack_from(got.data)[0]) if len(got.data) >= HEADER_SIZE else 0
        if needed <= len(got.data):
            detail = f"no message begins at offset {got.offset}"
            await sink.event("problem", {"partition": partition, "detail": detail})
            await trio.sleep(_PAUSE_SECONDS)
        return max(STEP_BYTES, needed)


async def _begin(broker: LocalBroker, topic: str, partition: int, start: str) -> int:
    """0 for the end of a partition that has no messages yet: its first one comes."""
    if start != "end":
        return await place(broker, topic, partition, start)
    try:
        return await broker.end_offset(topic, partition)
    except ReplyError as error:
        if error.status != 404:
            raise_refused(error)
        return 0


def _format_places(places: dict[int, int]) -> str:
    return ",".join(f"{partition}:{offset}" for partition, offset in places.items())


def _parse_places(text: str) -> dict[int, int]:
    """Raises ProblemError where it is not what we have sent."""
    places = {}
    for entry in filter(None, text.split(",")[: PARTITIONS_MAX + 1]):
        partition, _, offset = entry.partition(":")
        places[number(partition, "Last-Event-ID")] = number(offset, "Last-Event-ID")
    return places
