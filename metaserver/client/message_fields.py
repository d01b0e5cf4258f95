"""A message in values JSON knows: as the command line prints it, and HTTP answers."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaserver.client.messages import Message
    from metaserver.client.received import ReceivedMessage


def message_fields(message: Message | ReceivedMessage, partition: int | str) -> dict[str, object]:
    """For machines; a payload that is no UTF-8 comes in base64.

    ``partition``: a number of one broker, or, through a group, ``B-P`` of one of many brokers.
    """
    return {
        "topic": message.topic,
        "partition": partition,
        "offset": message.offset,
        "id": message.message_id,
        "time": time_text(message.wall_seconds),
        "attribute": message.attribute,
        **payload_fields(message.payload),
    }


def payload_fields(payload: bytes) -> dict[str, str]:
    """``payload``, or ``payload_base64`` where it is no text."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode()}


def time_text(wall_seconds: float) -> str:
    """ISO 8601 with milliseconds, in UTC; blank where it is no time a calendar knows."""
    try:
        text = datetime.fromtimestamp(wall_seconds, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return ""
    return text.replace("+00:00", "Z")
