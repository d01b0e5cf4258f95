"""How a producer sends."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class ProducerOptions:
    """How a producer sends."""

    timeout_seconds: float = 30.0
    """From the call until the error, over all attempts."""
    request_timeout_seconds: float = 10.0
    """For the answer to one request; a broker silent for so long is connected to anew."""
    batch_bytes_max: int = 512 * 1024
    """Of the records of one request."""
    batch_messages_max: int = 10_000
    linger_seconds: float = 0.0
    """How long a message may wait for company. With 0, what comes while a request is under way gathers."""
    buffer_bytes_max: int = 32 * 1024 * 1024
    """Of all messages whose fate is not known yet; ``send`` waits and ``send_nowait`` raises beyond it."""
    retry_unknown: bool = False
    """Send again what may have been stored: nothing is lost then, and something may be stored twice."""
    announce_seconds: float = 2.0
    """How long the first message of a topic nobody announces waits: its broker may be just starting."""
    default_topic: str | None = None
    """Whose partitions are used for topics no broker has announced: a ``*`` section accepts them."""
