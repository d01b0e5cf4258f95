"""The same requests to two brokers, and what each made of them, as lines that can be compared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from tests.support import ConnectionEndedError, record

if TYPE_CHECKING:
    from tests.support import BrokerProcess, Reply

CLOSED = "closed"
"""The broker ended the connection."""
SILENCE = "silence"
"""The broker does not answer, within the patience a test has."""
_PATIENCE_SECONDS = 20.0
_LAST_OPAQUE = 424242
_MESSAGE_ID = re.compile(r"-?[0-9]{10,}(?= -?[0-9]+ -?[0-9]+\b)")


@attrs.frozen
class Pair:
    """The Java original and ours, with the same settings and topics."""

    java: BrokerProcess
    ours: BrokerProcess

    def stop(self) -> None:
        """Both cleanly."""
        assert self.java.stop() == 0
        assert self.ours.stop() == 0


def request_bytes(text: str) -> bytes:
    """A request as the golden conversations spell it (tests/testdata/wire)."""
    data = text.encode("latin-1").decode("unicode_escape").encode("latin-1")
    data = re.sub(rb"\{([0-9]+) bytes\}", lambda found: (b"version 6\r\n" * 400)[: int(found[1])], data)
    return re.sub(rb"\{record (\w*)\}", lambda found: record(found[1]), data)


def outcomes(
    broker: BrokerProcess, exchanges: list[tuple[bytes, int]], *, patience_seconds: float = _PATIENCE_SECONDS
) -> list[str]:
    """Send each request when the one before it has its number of replies; the replies, by opaque.

    The last line is CLOSED where the broker ended the connection, on its own or because of a frame,
    and SILENCE where it said nothing any more.
    """
    found: list[str] = []
    with broker.connect() as wire:
        wire.set_patience(patience_seconds)
        try:
            for request, count in exchanges:
                wire.send(request)
                replies: list[Reply] = []
                try:
                    replies.extend(wire.reply() for _ in range(count))
                finally:
                    found += (
                        describe(reply, broker) for reply in sorted(replies, key=lambda reply: reply.opaque)
                    )
            end = wire.ask(b"version %d\r\n" % _LAST_OPAQUE)
        except (ConnectionEndedError, BrokenPipeError, ConnectionResetError):
            return [*found, CLOSED]
        except TimeoutError:
            return [*found, SILENCE]
        assert end.opaque == _LAST_OPAQUE, f"a reply nobody expected: {end}"
    return found


def describe(reply: Reply, broker: BrokerProcess) -> str:
    """A reply without what differs from broker to broker: ids of messages and the port."""
    if reply.status is None:
        return f"value {reply.opaque} {without_ids(reply.body).hex(' ')}"
    text = reply.text.replace(f":{broker.port}'", ":PORT'")
    return f"{reply.status} {reply.opaque} {_MESSAGE_ID.sub('ID', text)}"


def without_ids(value: bytes) -> bytes:
    """Record bytes from a record boundary on, perhaps cut, with each message id zeroed."""
    masked = bytearray(value)
    position = 0
    while position + 8 <= len(masked):
        end = min(position + 16, len(masked))
        masked[position + 8 : end] = bytes(end - position - 8)
        position += 20 + int.from_bytes(masked[position : position + 4], "big")
    return bytes(masked)
