"""The background reader: every durable record of this node, again and again, slowly.

One pass over all partitions, then a pause until ``scrubIntervalInMills`` after its beginning. Where somebody
reads strangely (the same bytes twice in a row, or a query for the nearest offset inside the log, as a
consumer does that gets bytes it cannot decode), it is looked at once what lies there.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.errors import OffsetOutOfRangeError, PartitionRemovedError, StorageError
from metaserver.logs import get_logger
from metaserver.message import scan
from metaserver.names import TRANSACTIONS_LOG
from metaserver.rates import TokenBucket
from metaserver.storage.repair import read_piece
from metaserver.storage.scrub import STEP_BYTES

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.names import TopicPartition
    from metaserver.replication.repairing import Repairer, RunningLogs
    from metaserver.storage import PartitionLog

_log = get_logger(__name__)

_SUSPECTS_MAX = 64
_SUSPICION_SECONDS = 600.0
"""A segment that was looked at because of a suspicion is not for this time."""
_GLANCE_SECONDS = 1.0
"""A partition is not suspected more often."""
_GLANCE_BYTES = 64 * 1024
_TICK_SECONDS = 1.0


@attrs.define(eq=False)
class Scrub:
    """Run :meth:`run` as long as the node runs."""

    _broker: Broker
    _logs: RunningLogs
    repairer: Repairer
    passes: int = 0
    """Completed since the start."""
    last_pass_wall_seconds: float | None = None
    """When the last one was completed."""
    position: tuple[TopicPartition, int] | None = None
    """Where the pass under way is; None between two."""
    problem: str = ""
    """Why a partition could not be read, the last time; blank where none failed."""
    _suspects: deque[tuple[TopicPartition, int]] = attrs.Factory(deque)
    _suspected: dict[TopicPartition, float] = attrs.Factory(dict)
    """When, the last time."""
    _looked_at: dict[TopicPartition, tuple[int, float]] = attrs.Factory(dict)
    """The segment that was read last because of a suspicion, and when."""
    _wake: trio.Event = attrs.Factory(trio.Event)

    def suspect(self, name: TopicPartition, offset: int) -> None:
        """Somebody may not have been able to read what lies there."""
        now = trio.current_time()
        if now - self._suspected.get(name, -_GLANCE_SECONDS) < _GLANCE_SECONDS:
            return
        if len(self._suspects) < _SUSPECTS_MAX:
            self._suspected[name] = now
            self._suspects.append((name, offset))
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        for name in self._logs.names():
            self.repairer.note_unreadable(name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tend)
            if self._rate > 0:
                nursery.start_soon(self._pass_for_ever)

    @property
    def _rate(self) -> int:
        return self._broker.config.scrub_bytes_per_second

    async def _tend(self) -> None:
        """What is known to be damaged, and what is suspected."""
        while True:
            await self.repairer.try_again()
            while self._suspects:
                await self._look_at(*self._suspects.popleft())
            if TRANSACTIONS_LOG in self.repairer.mended:
                await self._broker.transactions.load_again()
            self.repairer.mended.clear()
            self._wake = trio.Event()
            with trio.move_on_after(_TICK_SECONDS):
                await self._wake.wait()

    async def _look_at(self, name: TopicPartition, offset: int) -> None:
        try:
            log = self._logs.log(name)
            if await self._logs.look(partial(_begins_well, log, offset)):
                return
            # From the beginning of the segment: not everybody asks where a record begins.
            position, now = log.segment_start(offset), trio.current_time()
            cuts = self.repairer.cut_count(name)
            segment_start, looked_at = self._looked_at.get(name, (-1, 0.0))
            if segment_start == position and now - looked_at < _SUSPICION_SECONDS:
                return
            self._looked_at[name] = position, now
            stop = min(offset + STEP_BYTES, log.flushed_offset)
            while position < stop:
                position, _found = await self.repairer.check(name, position)
                position, cuts = self.repairer.resume(name, position, cuts), self.repairer.cut_count(name)
        except (OffsetOutOfRangeError, PartitionRemovedError):
            return  # It is known not to be readable, or retention was faster, or its topic is gone.
        except StorageError as error:
            self._complain(name, error)

    async def _pass_for_ever(self) -> None:
        bucket = TokenBucket(self._rate, max(self._rate, STEP_BYTES))
        while True:
            began = trio.current_time()
            self.problem = ""
            for name in self._logs.names():
                await self._pass_over(name, bucket)
            self.position = None
            self.passes += 1
            self.last_pass_wall_seconds = self._broker.clock.wall_seconds()
            await trio.sleep_until(began + self._broker.config.scrub_interval_ms / 1000)

    async def _pass_over(self, name: TopicPartition, bucket: TokenBucket) -> None:
        try:
            await self._read_all(name, bucket)
        except PartitionRemovedError:
            return
        except StorageError as error:
            self._complain(name, error)

    async def _read_all(self, name: TopicPartition, bucket: TokenBucket) -> None:
        log = self._logs.log(name)
        offset, cuts = log.start_offset, self.repairer.cut_count(name)
        while offset < log.flushed_offset:
            self.position = name, offset
            before = self.repairer.read_bytes
            try:
                offset, _found = await self.repairer.check(name, offset)
            except OffsetOutOfRangeError:
                # Retention has taken what was to come next, or a master the end.
                if log.start_offset <= offset:
                    return
                offset = log.start_offset
            await trio.sleep(bucket.reserve(self.repairer.read_bytes - before, trio.current_time()))
            offset, cuts = self.repairer.resume(name, offset, cuts), self.repairer.cut_count(name)

    def _complain(self, name: TopicPartition, error: StorageError) -> None:
        if name not in self._logs.names():
            return  # The files of a removed one are elsewhere.
        self.problem = f"{name} cannot be checked: {error}"
        _log.error("A partition cannot be checked", partition=str(name), reason=str(error))


def _begins_well(log: PartitionLog, offset: int) -> bool:
    """Whether a valid record begins there, or something that is too long to be sure."""
    found = scan(read_piece(log, offset, offset + _GLANCE_BYTES))
    return found.end > 0 or found.fault is None
