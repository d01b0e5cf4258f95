"""Where the broker's rules send replies: a connection, or a test's list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from metaserver.storage import LogSlice


class ReplySink(Protocol):
    """One peer that asked for something. No method waits, and none raises when the peer is gone."""

    @property
    def is_open(self) -> bool:
        """Whether anybody still waits for replies."""
        ...

    def send(self, data: bytes) -> None:
        """Queue whole reply frames."""
        ...

    def send_slice(self, header: bytes, log_slice: LogSlice) -> None:
        """Queue a header and the log bytes behind it; the slice is released when they are sent."""
        ...

    def flush(self) -> None:
        """Send what is queued, as far as the peer takes it now."""
        ...

    def add_inflight(self, size_bytes: int) -> None:
        """Account for puts and reads of this peer that wait for the disk (a negative size when over)."""
        ...

    def add_waiting_get(self, count: int) -> None:
        """Account for long polls of this peer (a negative count when they are over)."""
        ...

    def resume(self) -> None:
        """The broker has room again (called for those in ``Broker.paused``)."""
        ...

    def close(self) -> None:
        """Close now; replies not sent are dropped."""
        ...

    def close_after_replies(self) -> None:
        """Close once everything queued is sent; nothing more is read."""
        ...
