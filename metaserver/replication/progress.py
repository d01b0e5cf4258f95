"""What a slave does next for one partition. Pure: events in, one action out; every transition is here.

::

    PROBING ──▶ RECONCILING ──▶ CHECKING ──▶ TAILING ◀──▶ CAUGHT_UP
       │             │              │           │
       │             └───────▶ SKIPPING ◀───────┘
       └────────────▶└─────────────▶└──────────▶└──▶ STOPPED (foreign, ahead, damaged, disk)

A lost connection leads from any state but STOPPED back to PROBING. What stopped because of the bytes on
either side is looked at again after a while: they may have been repaired.

RECONCILING is for masters that know epochs: it finds the offset up to which both histories are one; what
this replica holds behind it goes into quarantine. With a master that knows none (MetaQ), a replica that is
ahead stops.

SKIPPING: what comes next is not at the master (its retention was faster, or it is damaged there). The log
goes on at the master's next offset; the gap is never bridged, and what is held before it stays readable.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import attrs

from metaserver.epochs import EpochChain, LogHistory, common_end
from metaserver.message import scan

CHECKED_BYTES = 64 * 1024
"""So much of the log's end is compared with the master's before the first append."""

FETCH_BYTES = 1024 * 1024
FETCH_BYTES_MAX = 64 * 1024 * 1024

LOOKS_BEFORE_RETRY = 10
"""A partition that stopped because of some bytes is tried again at every so manieth look at the master."""


class ReplicaState(Enum):
    """Where a partition of a slave stands."""

    PROBING = "probing"
    """The master's range is not known yet, or no longer."""
    RECONCILING = "reconciling"
    """Epochs are being compared with the master's, and what only this replica has is put away."""
    SKIPPING = "skipping"
    """The local log goes on where the master has bytes again."""
    CHECKING = "checking"
    """The end of the local log is being compared with the same bytes of the master."""
    TAILING = "tailing"
    """Bytes are being copied."""
    CAUGHT_UP = "caught up"
    """Everything the master lets readers see is here."""
    STOPPED = "stopped"
    """Nothing is copied any more; ``reason`` says why and what to do."""


@attrs.frozen
class Fetch:
    """Ask the master for bytes from ``offset`` on."""

    offset: int
    size_max: int


@attrs.frozen
class Append:
    """Append verified records at ``offset``, then tell :meth:`ReplicaProgress.appended`."""

    offset: int
    records: memoryview = attrs.field(repr=False)
    count: int
    last_id: int
    begins_segment: bool = False
    """Whether a segment of the master begins here: then one begins here too."""


@attrs.frozen
class Locate:
    """Ask the master where the segment begins that holds ``offset``; tell :meth:`ReplicaProgress.located`."""

    offset: int


@attrs.frozen
class Compare:
    """Compare the master's bytes with the local ones at ``offset``; tell :meth:`ReplicaProgress.compared`."""

    offset: int
    data: memoryview = attrs.field(repr=False)


@attrs.frozen
class AskEpochs:
    """Ask the master whose bytes its log holds; tell :meth:`ReplicaProgress.epochs_told`."""


@attrs.frozen
class Reconcile:
    """Put what only this replica has into quarantine, and take over the master's epochs.

    Tell :meth:`ReplicaProgress.reconciled`, or ``append_failed``.
    """

    offset: int | None
    """Everything from here on is cut off; None: there is nothing to give up."""
    chain: EpochChain
    reason: str


@attrs.frozen
class Skip:
    """Leave out what the master has not, and go on at ``offset``; tell :meth:`ReplicaProgress.skipped`."""

    offset: int
    reason: str


@attrs.frozen
class BeginAnew:
    """Put all of the local log aside, and copy the master's from its start, with another progress."""

    reason: str


@attrs.frozen
class Stop:
    """Copy nothing more."""

    reason: str


Action: TypeAlias = Fetch | Append | Locate | Compare | AskEpochs | Reconcile | Skip | BeginAnew | Stop


@attrs.define
class ReplicaProgress:
    """One partition of a slave as it follows its master.

    Invariant: bytes are appended only at ``local_end``, and
    ``local_start <= segment_start <= local_end``.

    Segments end where the master's do, so that the files are equal too. A master ends a segment behind
    the write that fills it, which no size tells: once the local one is that large, the master is asked.
    """

    local_start: int
    local_end: int
    """Behind the last byte appended here."""
    segment_start: int
    """Where the last local segment begins."""
    segment_bytes_max: int
    """The size from which on a segment of the master may end."""
    state: ReplicaState = ReplicaState.PROBING
    reason: str = ""
    """Why it is stopped, or waits."""
    master_start: int = 0
    master_end: int = 0
    """The greatest end of the master's log heard of; ``local_end`` may run ahead of it for a moment."""
    fetch_bytes: int = FETCH_BYTES
    chain: EpochChain = attrs.Factory(EpochChain)
    """Of the local log."""
    knows_epochs: bool = False
    """Whether the master does."""
    run_start: int = 0
    """From here on the local log has every byte; what is before it is not compared."""
    is_internal: bool = False
    """Whether the master drops what is over by itself, so that its log, whatever it begins with, is whole."""
    master_is_slave: bool = False
    """Whether the master follows another: then what it lacks is still to come, and no proof of anything."""
    _checked_to: int = 0
    _located: Append | None = None
    """What is appended when the master has said where its segment begins."""
    _looks_to_retry: int | None = None
    """While it is stopped: looks at the master before it is tried again; None: never."""

    def disconnected(self) -> None:
        """The connection is gone: what is known of the master may be wrong by the next one."""
        self._located = None
        if self.state is not ReplicaState.STOPPED:
            self.state = ReplicaState.PROBING

    def master_range(self, start: int, end: int) -> Action | None:
        """The master holds ``start..end``. None: there is nothing to do that is not under way."""
        self.master_start, self.master_end = start, max(end, self.local_end if self.is_copying else end)
        if self.state is ReplicaState.STOPPED and self._looks_to_retry is not None:
            self._looks_to_retry -= 1
            if self._looks_to_retry <= 0:
                self.state, self.reason = ReplicaState.PROBING, ""
        if self.state is not ReplicaState.PROBING:
            return None
        if self.knows_epochs:
            self.state = ReplicaState.RECONCILING
            return AskEpochs()
        if self.local_end > end:
            return self._stop(
                f"this slave ends at {self.local_end} and its master at {end}: the master has lost messages "
                "this slave still holds, or is not the master it followed before"
            )
        return self._check()

    def epochs_told(self, chain: EpochChain) -> Action | None:
        """The master has said whose bytes its log holds; None: wait for its next range."""
        own = LogHistory(self.chain, self.local_start, self.local_end)
        masters = LogHistory(chain, self.master_start, self.master_end)
        if self.local_start == self.local_end:
            return Reconcile(None, chain, "")
        common = common_end(own, masters)
        is_behind = self.master_is_slave and self.master_end < self.local_end
        if is_behind and (not chain.epochs or common == self.master_end):
            self.state = ReplicaState.PROBING
            self.reason = (
                f"this slave ends at {self.local_end} and the slave it follows at {self.master_end}: it "
                "waits until that one has as much"
            )
            return None
        if common is None or common <= self.local_start:
            facts = (
                f"this slave holds {self.local_start} to {self.local_end} and its master {self.master_start} "
                f"to {self.master_end}, and no message is common to both"
            )
            if self.is_internal and common is not None:
                # They were the same once. A master that has lost its disk is no reason to give this one up.
                return BeginAnew(f"{facts} any more")
            return self._stop(
                f"{facts}: the master is another one, or has lost its disk. Promote this slave if it holds "
                "the messages you want; else move this partition's directory away and start it again"
            )
        if common < self.local_end:
            return Reconcile(
                common,
                chain,
                f"the master's history parts from this one at offset {common}: the bytes from there to "
                f"{self.local_end} are not, or no longer, the master's",
            )
        return Reconcile(None, chain, "")

    def reconciled(self, local_end: int, segment_start: int, chain: EpochChain) -> Action:
        """What only this replica had is put away, and the master's epochs are its own."""
        self.local_end, self.segment_start, self.chain = local_end, segment_start, chain
        return self._check()

    def _check(self) -> Action:
        self.reason = ""
        if self.local_end < self.master_start:
            return self._skip(
                self.master_start,
                f"this slave ends at {self.local_end} and its master begins at {self.master_start}: the "
                "messages between are deleted there",
            )
        readable = max(self.local_start, self.run_start)
        self._checked_to = max(self.local_end - CHECKED_BYTES, readable, self.master_start)
        if self._checked_to >= self.local_end:
            return self._tail()
        self.state = ReplicaState.CHECKING
        return Fetch(self._checked_to, self.local_end - self._checked_to)

    def received(self, offset: int, data: bytes) -> Action:
        """The master answered a fetch at ``offset`` with bytes."""
        view = memoryview(data)
        if self.state is ReplicaState.CHECKING:
            return Compare(offset, view[: self.local_end - offset])
        if offset != self.local_end:
            return Fetch(self.local_end, self.fetch_bytes)
        found = scan(view)
        if found.last_id is not None:
            self.fetch_bytes = FETCH_BYTES
            append = Append(offset, view[: found.end], found.count, found.last_id)
            if offset - self.segment_start < self.segment_bytes_max:
                return append
            self._located = append
            return Locate(offset)
        if found.fault is not None:
            return self._pause(
                f"the master's bytes at offset {offset} are no record ({found.fault}): its log is damaged "
                "there, or is another than the one this slave followed before"
            )
        if len(data) < self.fetch_bytes or self.fetch_bytes >= FETCH_BYTES_MAX:
            return self._pause(f"the master gives no whole record at offset {offset}, only {len(data)} bytes")
        self.fetch_bytes *= 2
        return Fetch(offset, self.fetch_bytes)

    def located(self, segment_start: int) -> Action:
        """The segment of the master that holds the bytes received last begins at this offset."""
        append, self._located = self._located, None
        if append is None:
            return Fetch(self.local_end, self.fetch_bytes)
        return attrs.evolve(append, begins_segment=segment_start == append.offset)

    def compared(self, offset: int, size: int, *, is_equal: bool) -> Action:
        """The comparison asked for has been made."""
        if not is_equal:
            return self._pause(
                f"the last bytes before {self.local_end} differ from the master's: the histories have "
                "parted, or one of the two is damaged there"
            )
        self._checked_to = offset + size
        if self._checked_to < self.local_end:
            return Fetch(self._checked_to, self.local_end - self._checked_to)
        return self._tail()

    def appended(self, append: Append) -> Action:
        """What was handed out is on its way to disk; go on behind it."""
        self.local_end += len(append.records)
        if append.begins_segment:
            self.segment_start = append.offset
        self.master_end = max(self.master_end, self.local_end)
        return self._tail()

    def nothing_new(self) -> Action | None:
        """The master has nothing where it was asked; None: wait for its next range.

        While checking, that is no end of the log: the partition is closed there, or has just been cut.
        """
        if self.state is ReplicaState.CHECKING:
            self.state = ReplicaState.PROBING
            return None
        self.state = ReplicaState.CAUGHT_UP
        return Fetch(self.local_end, self.fetch_bytes)

    def moved(self, offset: int) -> Action:
        """The master does not hold the bytes asked for and names another offset."""
        if self.state is ReplicaState.CHECKING and offset > self._checked_to:
            # Deleted meanwhile, or damaged: there is nothing to compare with.
            self._checked_to = min(offset, self.local_end)
            if self._checked_to < self.local_end:
                return Fetch(self._checked_to, self.local_end - self._checked_to)
            return self._tail()
        if self.is_copying and offset > self.local_end:
            return self._skip(
                offset, f"the master has no bytes at {self.local_end}: they are deleted there, or damaged"
            )
        return self._stop(
            f"the master has no bytes at {self.local_end} and points back to {offset}: it has lost messages "
            "this slave still holds, or is not the master it followed before"
        )

    def skipped(self, local_end: int) -> Action:
        """The local log goes on at this offset, where a segment begins."""
        self.local_end = self.segment_start = self.run_start = local_end
        self.master_end = max(self.master_end, local_end)
        return self._check()

    def append_failed(self, reason: str) -> Action:
        """The local log takes no more."""
        return self._stop(f"the local log takes no more: {reason}")

    def rewind(self, local_end: int, segment_start: int) -> None:
        """Not everything handed out could be appended: begin again from the log's real end."""
        self.local_end, self.segment_start = local_end, segment_start
        self._located = None
        self.state = ReplicaState.PROBING

    @property
    def is_copying(self) -> bool:
        """Whether the end of the local log is known to be the master's, over this connection."""
        return self.state in (ReplicaState.TAILING, ReplicaState.CAUGHT_UP)

    def _tail(self) -> Fetch:
        self.state = ReplicaState.TAILING if self.local_end < self.master_end else ReplicaState.CAUGHT_UP
        return Fetch(self.local_end, self.fetch_bytes)

    def _skip(self, offset: int, reason: str) -> Skip:
        self.state = ReplicaState.SKIPPING
        return Skip(offset, reason)

    def _pause(self, reason: str) -> Stop:
        """Stop because of bytes that may be repaired."""
        stop = self._stop(reason)
        self._looks_to_retry = LOOKS_BEFORE_RETRY
        return stop

    def _stop(self, reason: str) -> Stop:
        self.state, self.reason, self._looks_to_retry = ReplicaState.STOPPED, reason, None
        return Stop(reason)
