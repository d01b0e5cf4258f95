"""How a consumer fetches."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class ReadOptions:
    """How partitions are read."""

    fetch_bytes: int = 1024 * 1024
    """Of one answer; it grows by itself for a message that is larger."""
    prefetch_bytes: int = 1024 * 1024
    """Of one partition: no more is fetched while so much waits for the application."""
    wait_ms: int = 10_000
    """How long a broker may hold an answer back at the end of the log."""
    slave_wait_ms: int = 1_000
    """The same of a slave: after it the master is asked whether there is really nothing."""
    poll_seconds_max: float = 1.0
    """Longest pause between questions to a broker that does not know the long poll."""
