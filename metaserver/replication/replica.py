"""One partition of a slave: what is under way for it, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.message import message_id_to_seconds
from metaserver.replication.pulling import Pulled
from metaserver.replication.reports import ReplicaReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metaserver.replication.progress import Append, Fetch, Skip
    from metaserver.storage import OffsetRange


@attrs.define(eq=False)
class Replica(Pulled):
    """One partition, and what becomes of what has come."""

    unwritten_bytes: int = 0
    """Handed to the local log and not yet safe there."""
    paused: Fetch | None = None
    """What to fetch when enough is written."""
    is_giving_out: bool = False
    """Somebody further up goes on with what has come."""
    deferred: Append | Skip | None = None
    """What begins a segment, when everything before it is written."""
    is_lent: bool = False
    """A worker has the log and changes its end: no action is based on what is known of it."""
    failure: Exception | None = None
    """The local log refused something: nothing is done until what was handed to it has come back."""
    idle_seconds: float = 0.0
    copied_bytes: int = 0
    copied_messages: int = 0
    last_id: int | None = None
    told: str = ""
    """The reason of the last stop that was logged."""

    def report(self, now_wall_seconds: float, gaps: Iterable[OffsetRange]) -> ReplicaReport:
        """How far it is; ``gaps`` is what its log cannot give."""
        progress = self.progress
        written_end = progress.local_end - self.unwritten_bytes
        lag_bytes = max(0, progress.master_end - written_end)
        average = self.copied_bytes / self.copied_messages if self.copied_messages else lag_bytes
        lag_messages = max(1, round(lag_bytes / average)) if lag_bytes else 0
        lag_seconds = 0.0
        if lag_bytes and self.last_id is not None:
            lag_seconds = max(0.0, now_wall_seconds - message_id_to_seconds(self.last_id))
        return ReplicaReport(
            self.name,
            progress.state,
            progress.reason,
            progress.local_start,
            written_end,
            progress.master_end,
            lag_bytes,
            lag_messages,
            lag_seconds,
            tuple((gap.start, gap.end) for gap in gaps),
        )
