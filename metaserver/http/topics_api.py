"""``/api/v1/topics``: what this broker has, sending to it, and reading from it by hand."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs
import trio

from metaserver.client.message_fields import message_fields
from metaserver.client.messages import Batch, Moved
from metaserver.client.starting_point import parse_starting_point
from metaserver.config.users import Role
from metaserver.errors import ConfigError, ReplyError
from metaserver.http.asking import (
    Query,
    check_media_type,
    json_response,
    media_type,
    read_body,
    read_json,
    topic_of,
)
from metaserver.http.browsing import holds, offset_of_id, page_from, search
from metaserver.http.local_broker import LocalBroker
from metaserver.http.problems import ProblemError
from metaserver.message import join_attribute, message_id_block
from metaserver.protocol import STORED_TEXT, Get, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from metaserver.client.messages import Message
    from metaserver.config import TopicConfig
    from metaserver.http.access import Access
    from metaserver.http.source import BrokerDoor, HttpLimits
    from metaserver.http.waiting import WaitingRoom

MESSAGES_MAX: Final = 10_000
"""Of one request and of one answer."""
BYTES_MAX: Final = 1024 * 1024
_AT_A_TIME: Final = 200
"""Partitions that are looked at before others have their turn."""
_PARTITION_MAX: Final = 99_999
_RAW: Final = "application/octet-stream"


@attrs.frozen
class TopicsApi:
    """Of one broker."""

    _door: BrokerDoor
    _access: Access
    _limits: HttpLimits
    _waiting: WaitingRoom
    _bodies: WaitingRoom

    @property
    def _broker(self) -> LocalBroker:
        return LocalBroker(self._door)

    async def topics(self, request: Request) -> Response:
        """Every topic with its partitions on this broker."""
        self._access.admit(request, Role.READ)
        Query.of(request)
        content = await topics_content(self._door)
        return await json_response({"topics": content}, is_long=True)

    async def topic(self, request: Request) -> Response:
        """One of them, with its configuration and traffic."""
        self._access.admit(request, Role.READ)
        Query.of(request)
        return await json_response(topic_content(self._door, topic_of(request)), is_long=True)

    async def produce(self, request: Request) -> Response:
        """Append messages: all of them, in their order, or none."""
        self._access.admit(request, Role.WRITE)
        topic = topic_of(request)
        section = known_section(self._door, topic)
        query = Query.of(request, "partition", "attribute")
        partition = query.integer("partition", -1, -1, _PARTITION_MAX)
        if partition >= section.partition_count:
            raise ProblemError(
                404, f"topic {topic} has {section.partition_count} partitions, and there is no {partition}"
            )
        with self._bodies.enter():
            batch, sizes = await self._read_batch(request, query.optional("attribute"))
            try:
                result = await self._broker.put_batch(topic, partition, batch)
            except ReplyError as error:
                raise_refused(error)
        at, messages = result.offset, []
        for message_id, size in zip(message_id_block(result.first_id, result.count), sizes, strict=True):
            messages.append({"partition": result.partition, "offset": at, "id": message_id})
            at += size
        return await json_response({"topic": topic, "messages": messages}, 201, is_long=True)

    async def _read_batch(self, request: Request, attribute: str | None) -> tuple[Batch, list[int]]:
        """The messages of the body, and how long each is in the log. Raises ProblemError."""
        limit, seconds = self._door.config.max_request_bytes, self._limits.body_seconds
        if media_type(request) == _RAW:
            return _raw_batch(await read_body(request, limit, seconds), attribute)
        check_media_type(request, "application/json")
        content = await read_json(request, limit, seconds)
        return await trio.to_thread.run_sync(_batch, content, attribute)

    async def fetch(self, request: Request) -> Response:
        """Messages of a partition from a place on, waiting for some at its end."""
        self._access.admit(request, Role.READ)
        topic, partition = topic_of(request), _partition_of(request)
        query = Query.of(request, "from", "max_messages", "max_bytes", "wait_ms")
        count_max = query.integer("max_messages", 500, 1, MESSAGES_MAX)
        bytes_max = query.integer("max_bytes", BYTES_MAX, 1, 4 * BYTES_MAX)
        wait_ms = query.integer("wait_ms", 0, 0, self._door.config.max_long_poll_ms)
        known_section(self._door, topic)
        offset = await self._place(topic, partition, query.text("from", "start"))
        try:
            page = await page_from(self._broker, topic, partition, offset, count_max, bytes_max=bytes_max)
            if not page.messages and page.is_last and wait_ms:
                with self._waiting.enter():
                    await self._door.ask(
                        Get(topic, "http", partition, page.next_offset, 1, 0, wait_ms),
                    )
                page = await page_from(
                    self._broker, topic, partition, page.next_offset, count_max, bytes_max=bytes_max
                )
        except ReplyError as error:
            raise_refused(error)
        content = await trio.to_thread.run_sync(messages_content, page.messages)
        return await json_response(
            {
                "topic": topic,
                "partition": partition,
                "messages": content,
                "next_offset": page.next_offset,
                "start_offset": page.start_offset,
                "end_offset": page.end_offset,
            },
            is_long=True,
        )

    async def search(self, request: Request) -> Response:
        """The messages of a partition that hold a text, or the one with an id."""
        self._access.admit(request, Role.READ)
        topic, partition = topic_of(request), _partition_of(request)
        query = Query.of(request, "text", "id", "from", "max_messages")
        known_section(self._door, topic)
        text, message_id = query.optional("text"), query.optional("id")
        if (text is None) == (message_id is None):
            raise ProblemError(400, "give either text or id")
        count_max = query.integer("max_messages", 100, 1, MESSAGES_MAX)
        try:
            if text is None:
                number = query.integer("id", low=-(2**63))
                at = await offset_of_id(self._broker, topic, partition, number)
                if at is None:
                    raise ProblemError(404, f"no message of {topic}-{partition} has the id {number}")
                page = await page_from(self._broker, topic, partition, at, 1)
                found, next_offset, end, is_complete = page.messages, page.next_offset, page.end_offset, True
            else:
                offset = await self._place(topic, partition, query.text("from", "start"))
                done = await search(self._broker, topic, partition, offset, holds(text), count_max)
                found, next_offset, end = done.messages, done.next_offset, done.end_offset
                is_complete = done.is_complete
        except ReplyError as error:
            raise_refused(error)
        content = await trio.to_thread.run_sync(messages_content, found)
        return await json_response(
            {
                "topic": topic,
                "partition": partition,
                "messages": content,
                "next_offset": next_offset,
                "end_offset": end,
                "is_complete": is_complete,
            },
            is_long=True,
        )

    async def _place(self, topic: str, partition: int, text: str) -> int:
        return await place(self._broker, topic, partition, text)


async def place(broker: LocalBroker, topic: str, partition: int, text: str) -> int:
    """The offset that somebody means; raises ProblemError."""
    try:
        point = parse_starting_point(text)
        offset = await point.find(broker, topic, partition)
        if not point.is_exact:
            return offset
        got = await broker.get(topic, partition, offset, size_max=1)
        return got.offset if isinstance(got, Moved) else offset
    except ConfigError as error:
        raise ProblemError(400, f"from: {error}") from None
    except ReplyError as error:
        if error.status == Status.NOT_FOUND:
            return 0  # It is not there yet, so this is where it begins.
        raise_refused(error)


def raise_refused(error: ReplyError) -> NoReturn:
    """The broker's refusal, as a problem."""
    if error.status == Status.UNAVAILABLE:
        is_stored = STORED_TEXT in error.text
        headers = {} if is_stored else {"retry-after": "1"}
        raise ProblemError(503, error.text, {"is_stored": is_stored}, headers) from None
    status = int(error.status) if error.status in (400, 403, 404) else 500
    raise ProblemError(status, error.text) from None


def known_section(door: BrokerDoor, topic: str) -> TopicConfig:
    """What the configuration says of a topic; raises ProblemError where it is none, and has no messages."""
    section = door.config.topic_config(topic)
    if section is not None:
        return section
    if topic in door.partition_numbers():
        return door.config.defaults
    raise ProblemError(404, f"this broker has no topic {topic!r}: add a section to server.ini, and reload")


async def topics_content(door: BrokerDoor, part_of_name: str = "") -> list[dict[str, object]]:
    """The topics of this broker whose names hold a text, in values JSON knows.

    There may be ten thousand partitions: the loop has its turn in between.
    """
    numbers = door.partition_numbers()
    sections = [section.name for section in door.config.topics if not section.is_pattern]
    found, looked_at = [], 0
    for topic in sorted({*numbers, *sections}):
        if part_of_name in topic:
            found.append(_topic_content(door, topic, numbers.get(topic, [])))
            looked_at += 1 + len(numbers.get(topic, ()))
        if looked_at >= _AT_A_TIME:
            looked_at = 0
            await trio.lowlevel.checkpoint()
    return found


def topic_content(door: BrokerDoor, topic: str) -> dict[str, object]:
    """One topic, in values JSON knows; raises ProblemError."""
    known_section(door, topic)
    return _topic_content(door, topic, door.partition_numbers().get(topic, []))


def _topic_content(door: BrokerDoor, topic: str, numbers: list[int]) -> dict[str, object]:
    section = door.config.topic_config(topic)
    config = door.config.defaults if section is None else section
    found = (door.partition(topic, number) for number in sorted(numbers))
    partitions = [part for part in found if part is not None]
    return {
        "topic": topic,
        "is_configured": section is not None,
        "messages": _sum(partitions, "messages"),
        "bytes": _sum(partitions, "end_offset") - _sum(partitions, "start_offset"),
        "traffic": attrs.asdict(door.topic_traffic(topic)),
        "config": {
            "numPartitions": config.partition_count,
            "unflushThreshold": config.unflush_threshold,
            "unflushInterval": config.unflush_interval_ms,
            "dataPath": str(config.data_path),
            "deletePolicy": str(config.delete_policy),
            "deleteWhen": config.delete_when,
            "acceptPublish": config.accept_publish,
            "acceptSubscribe": config.accept_subscribe,
            "stat": config.stat,
            "ackLevel": str(config.acknowledged),
        },
        "partitions": partitions,
    }


def messages_content(messages: Sequence[Message]) -> list[dict[str, object]]:
    """In values JSON knows."""
    return [
        {**message_fields(message, message.partition), "next_offset": message.next_offset}
        for message in messages
    ]


def _sum(parts: list[dict[str, object]], key: str) -> int:
    return sum(int(str(part[key])) for part in parts)


def _partition_of(request: Request) -> int:
    partition: int = request.path_params["partition"]
    if partition > _PARTITION_MAX:
        raise ProblemError(404, f"there is no partition {partition}")
    return partition


def _raw_batch(body: bytes, attribute: str | None) -> tuple[Batch, list[int]]:
    batch = Batch()
    batch.add(body, attribute)
    return batch, [batch.size_bytes]


def _batch(content: Any, attribute: str | None) -> tuple[Batch, list[int]]:  # noqa: ANN401 - whatever came
    """The messages a body holds, and the size of each in the log; raises ProblemError."""
    messages = content.get("messages") if isinstance(content, dict) else None
    if not isinstance(messages, list) or set(content) != {"messages"}:
        raise ProblemError(400, 'the body must be {"messages": [{"payload": "text"}, …]}')
    if not 1 <= len(messages) <= MESSAGES_MAX:
        raise ProblemError(400, f"one request takes 1 to {MESSAGES_MAX} messages, not {len(messages)}")
    batch, sizes = Batch(), []
    for number, message in enumerate(messages):
        payload, own_attribute = _message(message, f"messages[{number}]")
        before = batch.size_bytes
        batch.add(payload, attribute if own_attribute is None else own_attribute)
        sizes.append(batch.size_bytes - before)
    return batch, sizes


def _message(message: Any, where: str) -> tuple[bytes, str | None]:  # noqa: ANN401
    if not isinstance(message, dict) or (
        unknown := set(message) - {"payload", "payload_base64", "attribute"}
    ):
        odd = f"{min(unknown)!r} is unknown" if isinstance(message, dict) else "it is no object"
        raise ProblemError(400, f"{where}: {odd}; it may have payload or payload_base64, and attribute")
    attribute = message.get("attribute")
    if attribute is not None and not isinstance(attribute, str):
        raise ProblemError(400, f"{where}: attribute must be a text")
    text, encoded = message.get("payload"), message.get("payload_base64")
    try:
        if isinstance(text, str) and encoded is None:
            payload = text.encode()
        elif isinstance(encoded, str) and text is None:
            payload = base64.b64decode(encoded, validate=True)
        else:
            raise ProblemError(400, f"{where}: give either payload or payload_base64, as a text")
        join_attribute(attribute, b"")
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ProblemError(400, f"{where}: {error}") from None
    return payload, attribute
