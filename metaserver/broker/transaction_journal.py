"""The journal of transactions in a running broker: one partition of its own, appended to by group commit.

What is appended later comes later: an entry tells of the transaction's state when it was handed over. So old
segments can be dropped without stopping anything: a new one begins, what is still wanted of the old ones is
written once more, and when nothing live is left there, they go. All but the last: a slave that has not come
to its end finds there what it lacks, and its copy would have a gap otherwise.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from metaserver.broker.acknowledgements import shortfall_text
from metaserver.broker.executor import wait_done
from metaserver.broker.partition import PendingAppend
from metaserver.broker.replica_acks import WaitingPut
from metaserver.errors import StorageError
from metaserver.logs import get_logger
from metaserver.message import HEADER_SIZE, checksum, encode_records, message_id_block
from metaserver.names import TRANSACTIONS_LOG
from metaserver.transactions.entries import PART_OVERHEAD_BYTES_MAX, encode_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.broker.broker import Broker
    from metaserver.broker.executor import Done
    from metaserver.broker.partition import Partition
    from metaserver.broker.replica_acks import AckRule
    from metaserver.transactions.entries import Entry

_log = get_logger(__name__)

_PART_BYTES_MAX = 256 * 1024
_COMPACT_BYTES = 64 * 1024 * 1024
"""After so much, old segments are dropped before their time."""


@attrs.define(eq=False)
class TransactionJournal:
    """Of one master."""

    _broker: Broker
    _compacted_offset: int = 0
    """Where the last compaction began."""
    _keep_from: int | None = None
    """A compaction is under way: it ends when nothing live is left before this offset."""
    _drop_before: int = 0
    """Segments before this offset go then."""
    _is_working: bool = False
    """A worker has the log for a compaction."""

    @property
    def partition(self) -> Partition | None:
        """None while no transaction has needed it."""
        return self._broker.partitions.get((TRANSACTIONS_LOG.topic, TRANSACTIONS_LOG.partition))

    @property
    def size_bytes(self) -> int:
        """On disk."""
        partition = self.partition
        return 0 if partition is None else partition.log.end_offset - partition.log.start_offset

    @property
    def part_bytes_max(self) -> int:
        """How much of a transaction one entry may hold: a slave must be able to read it."""
        room = self._broker.config.max_transfer_size_bytes - HEADER_SIZE - PART_OVERHEAD_BYTES_MAX
        return min(_PART_BYTES_MAX, room)

    def check(self) -> None:
        """Raises StorageError where it would not take an entry."""
        partition = self._open()
        if partition.log.failure is not None:
            raise partition.log.failure.with_traceback(None)

    def append(
        self,
        entries: Sequence[Entry],
        done: Callable[[int, str], None],
        fail: Callable[[StorageError], None],
        rule: AckRule | None = None,
    ) -> None:
        """Append all of the entries or none.

        ``done(offset, shortfall)`` follows when they are as durable as ``flushTxLogAtCommit`` says and, with
        a rule, at enough slaves; the text is not blank where too few slaves had them in time.
        """
        try:
            partition = self._open()
        except (StorageError, OSError) as error:
            fail(error if isinstance(error, StorageError) else StorageError(str(error)))
            return
        bodies = [encode_entry(entry) for entry in entries]
        ids = list(message_id_block(self._broker.message_ids.take(len(bodies)), len(bodies)))
        data = encode_records(bodies, list(map(checksum, bodies)), ids, [0] * len(bodies))

        def succeed(offset: int) -> None:
            if rule is None:
                done(offset, "")
                return
            waiting = WaitingPut(
                offset + len(data),
                len(bodies),
                lambda: done(offset, ""),
                lambda count: done(offset, shortfall_text(rule, count)),
                _nothing,
            )
            self._broker.acknowledgements.wait(partition, rule, waiting)

        append = PendingAppend(
            [data],
            len(data),
            len(bodies),
            ids[-1],
            succeed,
            fail,
            _nothing,
            waits_for_disk=partition.is_group_commit,
        )
        self._broker.committer.append(partition, append)

    async def write(self, entries: Sequence[Entry]) -> None:
        """Append all of the entries or none; returns when it is done. Raises StorageError."""

        def begin(done: Done) -> None:
            self.append(entries, lambda _offset, _shortfall: done(None, None), partial(done, None))

        await wait_done(begin)

    def begin_compaction(self, *, is_due: bool) -> None:
        """Begin a new segment where it is due or the journal has grown; see :attr:`keep_from`."""
        partition = self.partition
        if partition is None or self._is_working or self._keep_from is not None:
            return
        grown_bytes = partition.log.end_offset - self._compacted_offset
        if not grown_bytes or not (is_due or grown_bytes > _COMPACT_BYTES):
            return
        log = partition.log

        def roll() -> tuple[int, int]:
            # Not one that an earlier compaction has begun in vain: what slaves may lack lies before it.
            filled = [start for start in log.segment_starts if start < log.end_offset]
            last = filled[-1] if filled else log.last_segment_start
            log.end_segment()
            if log.needs_roll:
                log.roll()
            return last, log.last_segment_start

        def rolled(starts: tuple[int, int] | None, failure: Exception | None) -> None:
            self._is_working = False
            if starts is None:
                _log.warning("The journal of transactions cannot be compacted", reason=str(failure))
            else:
                self._drop_before, self._compacted_offset = starts
                self._keep_from = self._compacted_offset

        self._is_working = True
        self._broker.committer.lend(partition, roll, rolled)

    @property
    def is_compacting(self) -> bool:
        """Whether old segments are about to go."""
        return self._is_working or self._keep_from is not None

    @property
    def keep_from(self) -> int | None:
        """What begins before this offset is to be written again, or to be over."""
        return self._keep_from

    def finish_compaction(self) -> None:
        """Nothing live is left before :attr:`keep_from`."""
        partition, offset = self.partition, self._drop_before
        if partition is None or self._keep_from is None or self._is_working:
            return

        def dropped(_names: list[str] | None, failure: Exception | None) -> None:
            self._is_working = False
            if failure is not None:
                _log.warning("Old segments of the journal of transactions stay", reason=str(failure))

        self._keep_from = None
        self._is_working = True
        self._broker.committer.lend(partition, lambda: partition.log.delete_before(offset), dropped)

    def _open(self) -> Partition:
        config = self._broker.config
        topic_config = attrs.evolve(config.defaults, data_path=config.data_log_path)
        return self._broker.open_partition(TRANSACTIONS_LOG, topic_config)


def _nothing() -> None:
    """Replies are flushed when there are some."""
