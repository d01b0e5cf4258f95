"""What the HTTP pages show, what they may ask of the broker, and how much their readers may take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from metaserver.client import Session
    from metaserver.config import ServerConfig
    from metaserver.config.users import Users
    from metaserver.protocol import Command, Result, Value


@attrs.frozen(kw_only=True)
class Traffic:
    """Counters since the start, and gauges, of one moment."""

    put_messages: int
    put_bytes: int
    get_requests: int
    got_bytes: int
    put_failures: int
    connections: int
    fsyncs: int


@attrs.frozen(kw_only=True)
class TopicTraffic:
    """Counters of one topic since the start."""

    messages: int = 0
    bytes_in: int = 0
    gets: int = 0
    bytes_out: int = 0


class BrokerDoor(Protocol):
    """All that HTTP may ask of the node it runs in. What does not wait is quick, and called on the loop."""

    @property
    def config(self) -> ServerConfig:
        """As it runs."""
        ...

    @property
    def users(self) -> Users | None:
        """None: no file says who may do what."""
        ...

    async def ask(self, command: Command) -> Result | Value:
        """One command of the protocol, one reply."""
        ...

    async def session(self) -> Session:
        """With the cluster the broker is in. Raises DiscoveryError."""
        ...

    async def reload(self) -> dict[str, list[str]]:
        """Read ``server.ini`` again; what has changed. Raises ConfigError, and changes nothing then."""
        ...

    async def replicas(self) -> dict[str, object]:
        """What is known of slaves and masters, in values JSON knows."""
        ...

    async def peer_config(self, address: str) -> bytes:
        """The ``server.ini`` of another broker (``HOST:PORT``). Raises ClientError."""
        ...

    def traffic(self) -> Traffic:
        """Of the whole broker."""
        ...

    def topic_traffic(self, topic: str) -> TopicTraffic:
        """Of one topic."""
        ...

    def topics_with_traffic(self) -> Collection[str]:
        """Every topic that has had some."""
        ...

    def partition_numbers(self) -> dict[str, list[int]]:
        """Of clients, in no order: which partitions of each topic there are."""
        ...

    def partition(self, topic: str, number: int) -> dict[str, object] | None:
        """``partition``, offsets, ``messages``, ``failed``, in values JSON knows; None: there is none."""
        ...

    def process(self) -> dict[str, object]:
        """The process and its machine, in values JSON knows."""
        ...

    def log_lines(self) -> Sequence[str]:
        """The last lines of the log, the oldest first."""
        ...

    def config_loaded_seconds(self) -> float:
        """How long ago the configuration was read."""
        ...


@attrs.frozen(kw_only=True)
class HttpSource:
    """Where the pages take their values from. All of it is called in the event loop and must be quick."""

    status: Callable[[], dict[str, object]]
    """What ``/api/v1/status`` shows; values that JSON knows."""
    metrics: Callable[[], Callable[[], bytes]]
    """Takes the values of ``/metrics`` and returns what renders them, which runs in a worker thread
    (``BrokerMetrics.prepare``)."""
    readiness: Callable[[], list[str]]
    """Why the broker is not ready, a sentence each; empty when it is."""
    door: BrokerDoor | None = None
    """Without one there are no messages, groups and console."""


@attrs.frozen(kw_only=True)
class HttpLimits:
    """How much one client, and all of them, may take."""

    connections: int = 256
    """Open at the same time; one more is told so and closed."""
    header_bytes: int = 16 * 1024
    """The request line and headers together."""
    idle_seconds: float = 15.0
    """A connection without a complete request is closed after this time."""
    send_seconds: float = 30.0
    """A peer that has not taken an answer after this time is cut off."""
    stop_seconds: float = 0.5
    """Answers under way get this long to finish when the server stops."""
    body_seconds: float = 30.0
    """The body of a request has to arrive within this time."""
    bodies: int = 16
    """Messages sent over HTTP that are held in memory; one more is answered 503."""
    waiting: int = 128
    """Long polls and streams; one more is answered 503, so that connections are left for others."""
