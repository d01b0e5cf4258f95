"""The gets of a slave, over all its partitions and one connection: who may ask for how much, and when.

What the master is known to hold is asked for as the window allows, partitions in turn; what is new at the end
of a log waits for nobody.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs
import trio

from metaserver.errors import BrokerUnreachableError, ProtocolError
from metaserver.names import Compression
from metaserver.protocol import ZLIB, Value, encode_get, encode_zlib_get
from metaserver.replication.link_window import WINDOW_BYTES_MAX, WINDOW_BYTES_MIN, LinkWindow
from metaserver.replication.read_ahead import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.client import BrokerConnection
    from metaserver.client.connection import Reply
    from metaserver.config import SlaveConfig
    from metaserver.errors import ClientError
    from metaserver.names import TopicPartition
    from metaserver.replication.catch_up import CatchUp, Reservation
    from metaserver.replication.progress import Fetch, ReplicaProgress
    from metaserver.replication.read_ahead import Get
    from metaserver.timers import Timers

PulledT = TypeVar("PulledT", bound="Pulled")


@attrs.frozen
class LinkReport:
    """The connection to the master."""

    is_compressed: bool
    round_trip_seconds: float | None
    """The shortest answer there was; None: none yet."""
    window_bytes: int
    """What is asked for at a time."""
    received_bytes: int
    carried_bytes: int
    """What came over the link for them."""


@attrs.define(eq=False)
class Pulled:
    """One partition: where it stands, and what is under way for it."""

    name: TopicPartition
    progress: ReplicaProgress
    ticket: int = 0
    """Of what was asked last; the reply to anything older is dropped."""
    wanted: Fetch | None = None
    """What is handed on as soon as it comes."""
    reading: ReadAhead | None = None

    @property
    def known_end(self) -> int:
        """Up to here the master holds what may be asked for ahead; 0 before the logs have been compared."""
        return self.progress.master_end if self.progress.is_copying else 0

    def want(self, fetch: Fetch) -> None:
        """Go on here; what is under way is of use where it belongs to the bytes behind the last ones."""
        reading = self.reading
        if reading is None or reading.ticket != self.ticket or not reading.want(fetch.offset, fetch.size_max):
            self.ticket += 1
            self.reading = ReadAhead(fetch.offset, fetch.size_max, self.ticket)
        self.wanted = fetch

    def is_of_use(self, reading: ReadAhead) -> bool:
        """Whether what was asked for it still counts."""
        return self.reading is reading and reading.ticket == self.ticket


@attrs.define(eq=False)
class Pulls(Generic[PulledT]):
    """Of one slave, for one connection after the other."""

    _config: SlaveConfig
    _timers: Timers
    _catch_up: CatchUp
    _on_bytes: Callable[[PulledT], None]
    """There is more to be taken from the partition's reading."""
    _on_nothing: Callable[[PulledT, Fetch, Reply | ClientError, float], None]
    """There are no bytes where they were due; and how long the answer took, in seconds."""
    idle_wait_ms: Callable[[], int]
    """How long the master may hold an answer back."""
    requests: int = 0
    """Under way."""
    window: LinkWindow = attrs.Factory(LinkWindow)
    """Of the connection."""
    received_bytes: int = 0
    """Of the logs, over this connection."""
    carried_bytes: int = 0
    """What came for them, compressed or not."""
    _link: BrokerConnection | None = None
    _waiting: dict[PulledT, None] = attrs.Factory(dict)
    """Who wants some of the window, in turn."""

    def connected(self, link: BrokerConnection) -> None:
        """Begin to learn what the link can do."""
        limit = self._config.slave_max_bytes_per_second
        bytes_max = min(WINDOW_BYTES_MAX, limit) if limit else WINDOW_BYTES_MAX
        self._link, self.window = link, LinkWindow(max(WINDOW_BYTES_MIN, bytes_max))
        self.carried_bytes = self.received_bytes = 0
        self._waiting.clear()

    def disconnected(self) -> None:
        """Nothing more is asked for."""
        self._link = None
        self._waiting.clear()

    def report(self) -> LinkReport:
        """How the link is."""
        window = self.window
        return LinkReport(
            self.is_compressing,
            window.round_trip_seconds,
            window.window_bytes,
            self.received_bytes,
            self.carried_bytes,
        )

    @property
    def is_compressing(self) -> bool:
        """Whether what is asked for now is to come compressed."""
        link, wanted = self._link, self._config.link_compression
        if link is None or ZLIB not in link.extensions or wanted is Compression.OFF:
            return False
        return wanted is Compression.ON or (self.window.is_slow and not link.is_local)

    def ask(self, pulled: PulledT) -> None:
        """Ask for what is wanted next and, where the master holds more, for what follows it."""
        reading, fetch = pulled.reading, pulled.wanted
        if reading is None or fetch is None:
            return
        if reading.next_offset < pulled.known_end:
            self._waiting[pulled] = None
            self._serve_waiting()
        else:
            for get in reading.plan(pulled.known_end, fetch.size_max, 0):
                self._reserve(pulled, reading, get)

    def _serve_waiting(self) -> None:
        """While there is room, a piece of it for each in turn."""
        window = self.window
        while self._waiting and window.room_bytes > 0:
            pulled = next(iter(self._waiting))
            del self._waiting[pulled]
            reading, fetch = pulled.reading, pulled.wanted
            if reading is None or fetch is None or reading.next_offset >= pulled.known_end:
                continue
            piece_bytes = min(window.piece_bytes, fetch.size_max)
            for get in reading.plan(pulled.known_end, piece_bytes, 1):
                self._waiting[pulled] = None
                window.asked(get.size_max)
                self._reserve(pulled, reading, get)

    def _reserve(self, pulled: PulledT, reading: ReadAhead, get: Get) -> None:
        known_bytes = pulled.progress.master_end - get.offset
        reservation = self._catch_up.reserve(get.size_max, known_bytes, trio.current_time())
        if reservation.wait_seconds <= 0:
            self._send(pulled, reading, get, reservation)
            return
        window = self.window

        def send_now() -> None:
            if pulled.is_of_use(reading) and window is self.window:
                self._send(pulled, reading, get, reservation)
                return
            self._catch_up.used(reservation, 0)
            if get.is_known:
                window.given_up(get.size_max)

        self._timers.schedule(reservation.wait_seconds, send_now)

    def _send(self, pulled: PulledT, reading: ReadAhead, get: Get, reservation: Reservation) -> None:
        if self._link is None:
            self._catch_up.used(reservation, 0)
            return
        window, name = self.window, pulled.name
        wait_ms = 0 if get.is_known else self.idle_wait_ms()
        asked_time, link, is_compressed = trio.current_time(), self._link, self.is_compressing
        self.requests += 1

        def settle(reply: Reply | ClientError) -> None:
            now, size_bytes = trio.current_time(), 0
            self.requests -= 1
            if isinstance(reply, Value):
                self.carried_bytes += len(reply.data)
                if is_compressed:
                    reply = _expanded(reply, get.size_max, link)
            if isinstance(reply, Value):
                size_bytes = len(reply.data)
                self.received_bytes += size_bytes
            self._catch_up.used(reservation, size_bytes)
            if get.is_known:
                window.answered(get.size_max, size_bytes, asked_time, now)
            if pulled.is_of_use(reading):
                if isinstance(reply, Value):
                    reading.arrived(get, reply.data)
                    self.ask(pulled)
                    self._on_bytes(pulled)
                elif reading.refused(get) and (fetch := pulled.wanted) is not None:
                    pulled.wanted = None
                    self._on_nothing(pulled, fetch, reply, now - asked_time)
            self._serve_waiting()

        encode = encode_zlib_get if is_compressed else encode_get
        link.submit(
            lambda opaque: encode(
                name.topic,
                self._config.slave_group,
                name.partition,
                get.offset,
                get.size_max,
                opaque,
                wait_ms,
            ),
            settle,
        )


def _expanded(reply: Value, size_max: int, link: BrokerConnection) -> Value | ClientError:
    """What was compressed; where it is not that, the connection is given up."""
    try:
        return Value(expand(reply.data, size_max), reply.opaque)
    except ProtocolError as error:
        link.break_off(f"the master sent what is no compressed answer: {error}")
        return BrokerUnreachableError(link.address, str(error))


def expand(data: bytes, size_max: int) -> bytes:
    """What a compressed answer holds; raises ProtocolError for anything else, and for more than was asked."""
    stream = zlib.decompressobj()
    try:
        expanded = stream.decompress(data, size_max)
    except zlib.error as error:
        raise ProtocolError(str(error)) from error
    if not stream.eof or not expanded:
        raise ProtocolError(f"an answer of more than {size_max} bytes, or of a part of them")
    return expanded
