"""What all peers together have begun to send and not ended: bounded, however many they are.

Each alone is bounded by what a request may be; ten thousand such requests would be all of the memory. Reading
from those who are in the middle of one cannot pause: none of them would ever end. So the largest goes.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Protocol

import attrs

from metaserver.logs import get_logger

_log = get_logger(__name__)


class Holder(Protocol):
    """A connection."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for log lines."""
        ...

    def refuse_unfinished(self, reason: str) -> None:
        """Drop the unfinished request, and the connection with it."""
        ...


@attrs.define(eq=False)
class UnfinishedRequests:
    """The memory of the unfinished requests of one broker's connections."""

    total_bytes: int = 0
    _held: dict[Holder, int] = attrs.Factory(dict)
    """Of those that hold any."""

    def hold(self, holder: Holder, size_bytes: int, bytes_max: int) -> None:
        """``holder`` holds so much now; where all hold more than ``bytes_max``, the largest are refused.

        A request beside which there is no other is never refused: it has its own limit.
        """
        self.total_bytes += size_bytes - self._held.pop(holder, 0)
        if size_bytes:
            self._held[holder] = size_bytes
        while self.total_bytes > bytes_max and len(self._held) > 1:
            largest, largest_bytes = max(self._held.items(), key=itemgetter(1))
            self.forget(largest)
            reason = (
                f"{bytes_max} bytes of requests that are not complete are held already, "
                f"and this one of {largest_bytes} is the largest (maxUnfinishedRequestBytes)"
            )
            _log.warning("Refused an unfinished request", peer=largest.peer, reason=reason)
            largest.refuse_unfinished(reason)

    def forget(self, holder: Holder) -> None:
        """It holds nothing any more."""
        self.total_bytes -= self._held.pop(holder, 0)
