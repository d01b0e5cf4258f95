"""The demo's clients: a producer that notes every acknowledgement, and a consumer at the slave."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.cli.demo_stage import TOPIC
from metaserver.client import Fetched, connect
from metaserver.client.connection import expect_text
from metaserver.errors import BrokerUnreachableError, ClientError
from metaserver.protocol import encode_put

if TYPE_CHECKING:
    from metaserver.cli.demo_stage import Node
    from metaserver.client import BrokerConnection
    from metaserver.client.connection import Reply

MESSAGES_PER_SECOND = 400
_RETRY_SECONDS = 0.05
_DELAYS = 200


@attrs.define
class Traffic:
    """What the clients have sent, heard and read."""

    acknowledged: dict[int, int] = attrs.Factory(dict)
    """Number and offset of every message the master has said yes to."""
    unanswered: set[int] = attrs.Factory(set)
    """Numbers of those sent into the crash: stored or not, nobody said."""
    refused: list[str] = attrs.Factory(list)
    """What a broker said no to; nothing, if all is well."""
    last_number: int = 0
    read_from_slave: int = 0
    """Messages a consumer has got from the slave."""
    last_read_number: int = 0
    out_of_order: int = 0
    is_producing: bool = True
    is_settled: bool = False
    """Nothing is sent any more, and no reply is missing."""
    _delays_ms: deque[float] = attrs.Factory(lambda: deque(maxlen=_DELAYS))

    @property
    def delay_ms(self) -> float | None:
        """From being sent to the master until being read from the slave, the median of the last ones."""
        return median(self._delays_ms) if self._delays_ms else None

    async def produce(self, master: Node) -> None:
        """Send at a steady pace until told to stop; wait for the master where it is down."""
        while self.is_producing:
            try:
                async with connect("127.0.0.1", master.port) as connection:
                    await self._produce_over(connection)
            except BrokerUnreachableError:
                await trio.sleep(_RETRY_SECONDS)
        self.is_settled = True

    async def _produce_over(self, connection: BrokerConnection) -> None:
        waiting: set[int] = set()
        is_broken = False
        all_answered = trio.Event()
        due = trio.current_time()
        while self.is_producing and not is_broken:
            self.last_number += 1
            number = self.last_number
            payload = f"message {number} sent at {time.time():.6f}".encode()
            waiting.add(number)

            def settle(reply: Reply | ClientError, number: int = number) -> None:
                nonlocal is_broken
                waiting.discard(number)
                try:
                    if isinstance(reply, ClientError):
                        raise reply
                    self.acknowledged[number] = int(expect_text(reply).split(" ")[2])
                except BrokerUnreachableError:
                    self.unanswered.add(number)
                    is_broken = True
                except ClientError as error:
                    self.refused.append(str(error))
                if not waiting and not self.is_producing:
                    all_answered.set()

            def encode(opaque: int, payload: bytes = payload) -> bytes:
                return encode_put(TOPIC, 0, payload, 0, opaque)

            connection.submit(encode, settle)
            due += 1 / MESSAGES_PER_SECOND
            await trio.sleep_until(due)
        if waiting and not is_broken:
            await all_answered.wait()

    async def follow(self, slave: Node) -> None:
        """Read from the slave, as it comes."""
        async with connect("127.0.0.1", slave.port) as connection:
            async for message in connection.follow(TOPIC, 0, 0):
                number, sent_at = parse_payload(message.payload)
                self.read_from_slave += 1
                self.out_of_order += number <= self.last_read_number
                self.last_read_number = number
                self._delays_ms.append((time.time() - sent_at) * 1000)

    def forget_delays(self) -> None:
        """What comes after a pause is measured afresh."""
        self._delays_ms.clear()


def parse_payload(payload: bytes) -> tuple[int, float]:
    """Number of a message, and when it was sent."""
    words = payload.split(b" ")
    return int(words[1]), float(words[4])


async def read_everything(node: Node) -> list[tuple[int, int]]:
    """(offset, number) of every message a node has, in its order. Raises ClientError."""
    found: list[tuple[int, int]] = []
    async with connect("127.0.0.1", node.port) as connection:
        offset = await connection.offset(TOPIC, 0, 0)
        while True:
            got = await connection.get(TOPIC, 0, offset)
            if not isinstance(got, Fetched):
                return found
            for message in got.messages():
                found.append((message.offset, parse_payload(message.payload)[0]))
                offset = message.next_offset
