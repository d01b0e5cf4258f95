"""What the HTTP pages show, and how much their readers may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable


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


@attrs.frozen(kw_only=True)
class HttpLimits:
    """How much one client, and all of them, may take."""

    connections: int = 64
    """Open at the same time; one more is told so and closed."""
    header_bytes: int = 16 * 1024
    """The request line and headers together."""
    idle_seconds: float = 15.0
    """A connection without a complete request is closed after this time."""
    send_seconds: float = 30.0
    """A peer that has not taken an answer after this time is cut off."""
    stop_seconds: float = 0.5
    """Answers under way get this long to finish when the server stops."""
