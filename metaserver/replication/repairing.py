"""Damage of this node's logs, and its repair from another replica; by the scrub, by an operator, at a start.

What is found is asked of every other replica that is known. Where none gives it, readers are sent on behind
it after a while, so that later records stay readable; it is asked for again and again.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast

import attrs
import trio

from metaserver.client import connect
from metaserver.client.servers import format_address
from metaserver.epochs import LogHistory
from metaserver.errors import ClientError, OffsetOutOfRangeError, PartitionRemovedError, StorageError
from metaserver.logs import get_logger
from metaserver.message import scan
from metaserver.names import REGISTRY_LOG
from metaserver.replication.donor import DamagedPlace, Donor
from metaserver.storage.repair import is_whole, read_piece, repair_range
from metaserver.storage.scrub import scrub_step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from metaserver.broker import Broker, Partition
    from metaserver.names import TopicPartition
    from metaserver.storage import FileSystem, MessageStore, OffsetRange, PartitionLog

_log = get_logger(__name__)

Address: TypeAlias = tuple[str, int]
Sources: TypeAlias = "Callable[[], Awaitable[list[Address] | None]]"
"""Which other replicas there are; None while that cannot be known."""

_Result = TypeVar("_Result")

_CONTEXT_BYTES = 4096
"""So much around the damage is compared."""
_TRIES_BEFORE_SKIP = 3
_RETRY_SECONDS = 5.0
"""After one of the first tries; later ones are further apart."""
_LATER_SECONDS = 60.0


class Logs(Protocol):
    """The logs of a node, running or stopped."""

    def names(self) -> list[TopicPartition]:
        """Every partition whose log may be repaired."""

    def log(self, name: TopicPartition) -> PartitionLog:
        """Of a partition. Raises PartitionRemovedError where it was removed since :meth:`names`."""

    def history(self, name: TopicPartition) -> LogHistory:
        """Whose bytes it holds. Raises as :meth:`log` does."""

    async def look(self, job: Callable[[], _Result]) -> _Result:
        """Run a job that only reads, in some thread, while others write; returns or raises what it does."""

    def renew(self, name: TopicPartition) -> bool:
        """Have whoever has the log for himself write it anew, without what is damaged; False: nobody has."""

    async def own(self, name: TopicPartition, job: Callable[[], _Result]) -> _Result:
        """Run a job in a thread that owns the log alone; returns or raises what it does.

        Raises as :meth:`log` does. Cancelled, the job goes on, and nobody is told of its outcome.
        """


@attrs.frozen
class StoppedLogs:
    """Those of a node that does not run."""

    _store: MessageStore

    def names(self) -> list[TopicPartition]:
        """See :class:`Logs`."""
        return list(self._store.partitions)

    def log(self, name: TopicPartition) -> PartitionLog:
        """See :class:`Logs`."""
        return self._store.partitions[name]

    def history(self, name: TopicPartition) -> LogHistory:
        """See :class:`Logs`."""
        log = self.log(name)
        return LogHistory(self._store.epochs[name].chain, log.start_offset, log.end_offset)

    async def look(self, job: Callable[[], _Result]) -> _Result:
        """See :class:`Logs`."""
        return await trio.to_thread.run_sync(job)

    def renew(self, name: TopicPartition) -> bool:  # noqa: ARG002
        """See :class:`Logs`."""
        return False

    async def own(self, name: TopicPartition, job: Callable[[], _Result]) -> _Result:  # noqa: ARG002
        """See :class:`Logs`."""
        return await trio.to_thread.run_sync(job)


class HostedRegistry(Protocol):
    """The registry of a master, which has all that its log holds in memory too."""

    def renew(self) -> bool:
        """Begin to write its log anew; False where it has ended, and nobody uses the log."""


@attrs.frozen
class RunningLogs:
    """Those of a node that runs."""

    _broker: Broker
    _registry: HostedRegistry | None = None
    """Whose log nobody else may write into."""

    def names(self) -> list[TopicPartition]:
        """See :class:`Logs`."""
        return [one.name for one in self._broker.partitions.values()]

    def log(self, name: TopicPartition) -> PartitionLog:
        """See :class:`Logs`."""
        return self._partition(name).log

    def history(self, name: TopicPartition) -> LogHistory:
        """See :class:`Logs`."""
        self._partition(name)
        return StoppedLogs(self._broker.store).history(name)

    async def look(self, job: Callable[[], _Result]) -> _Result:
        """See :class:`Logs`."""
        return await trio.to_thread.run_sync(job)

    def renew(self, name: TopicPartition) -> bool:
        """See :class:`Logs`."""
        return name == REGISTRY_LOG and self._registry is not None and self._registry.renew()

    async def own(self, name: TopicPartition, job: Callable[[], _Result]) -> _Result:
        """See :class:`Logs`."""
        return cast("_Result", await self._broker.committer.borrow(self._partition(name), job))

    def _partition(self, name: TopicPartition) -> Partition:
        partition = self._broker.partitions.get((name.topic, name.partition))
        if partition is None:
            raise PartitionRemovedError(name.topic, name.partition)
        return partition


@attrs.define(eq=False)
class Damage:
    """A range that holds no valid records."""

    name: TopicPartition
    range: OffsetRange
    reason: str = "nobody has been asked yet"
    """Why it is not repaired."""
    source: str = ""
    """Where its records came from."""
    is_over: bool = False
    """Whether nothing is damaged there any more: repaired, or gone."""
    tries: int = 0
    due_seconds: float = 0.0

    def as_fields(self) -> dict[str, object]:
        """In values JSON knows."""
        return {
            "topic": self.name.topic,
            "partition": self.name.partition,
            "start_offset": self.range.start,
            "end_offset": self.range.end,
            "over": self.is_over,
            "repaired_from": self.source or None,
            "reason": "" if self.is_over else self.reason,
        }


@attrs.define(eq=False)
class Repairer:
    """Finds damage and repairs it; one at a time."""

    _logs: Logs
    _filesystem: FileSystem
    _sources: Sources
    open: dict[tuple[TopicPartition, int], Damage] = attrs.Factory(dict)
    """What is known and not repaired, by partition and offset."""
    found: int = 0
    """Damaged ranges found since the start, also those known before."""
    repaired: int = 0
    mended: set[TopicPartition] = attrs.Factory(set)
    """Where something is damaged no more, since somebody has emptied this."""
    read_bytes: int = 0
    """By the search for damage."""
    _cuts: defaultdict[TopicPartition, list[int]] = attrs.Factory(lambda: defaultdict(list))
    """Where a log was cut, in turn; what was read meanwhile may be neither the old records nor the new."""
    _lock: trio.Lock = attrs.Factory(trio.Lock)

    async def check(
        self, name: TopicPartition, offset: int, source: Address | None = None
    ) -> tuple[int, list[Damage]]:
        """Look at the next records, and repair what is damaged; returns where to go on, and what was damaged.

        Raises OffsetOutOfRangeError at the end of what is durable, PartitionRemovedError, and StorageError.
        """
        log, cuts = self._logs.log(name), self.cut_count(name)
        step = await self._logs.look(partial(scrub_step, log, offset))
        self.read_bytes += step.read_bytes
        if self.cut_count(name) != cuts:
            # A record may begin elsewhere by now.
            return log.segment_start(min(offset, log.end_offset)), []
        return step.next_offset, [await self._take(name, damaged, source) for damaged in step.damaged]

    def forget(self, name: TopicPartition, offset: int) -> None:
        """The log is cut at an offset: what was found behind it is not there any more."""
        self._cuts[name].append(offset)
        for key in [key for key, one in self.open.items() if key[0] == name and one.range.end > offset]:
            del self.open[key]

    def cut_count(self, name: TopicPartition) -> int:
        """How often the log has been cut; for :meth:`resume`."""
        return len(self._cuts[name])

    def resume(self, name: TopicPartition, offset: int, cut_count: int) -> int:
        """Where to go on that was to go on at ``offset`` when there had been so many cuts.

        Behind a cut other records begin at other offsets; where it was made, one begins.
        """
        return min([offset, *self._cuts[name][cut_count:]])

    async def check_all(
        self, is_wanted: Callable[[TopicPartition], bool], source: Address | None = None
    ) -> list[Damage]:
        """Every byte, as fast as it goes, and what is known already; what was found, repaired or not.

        ``source``: whom to ask, instead of the replicas that are known. Raises StorageError where the disk
        does not answer.
        """
        found: list[Damage] = []
        for name in filter(is_wanted, self._logs.names()):
            with suppress(PartitionRemovedError):
                await self._check_partition(name, source, found)
        return found

    async def _check_partition(
        self, name: TopicPartition, source: Address | None, found: list[Damage]
    ) -> None:
        self.note_unreadable(name)
        known = [one for one in self.open.values() if one.name == name]
        for damage in known:
            await self._try(damage, source)
        found += known
        log = self._logs.log(name)
        offset, cuts = log.start_offset, self.cut_count(name)
        while offset < log.flushed_offset:
            offset, damages = await self.check(name, offset, source)
            offset, cuts = self.resume(name, offset, cuts), self.cut_count(name)
            found += [damage for damage in damages if damage not in known]

    def note_unreadable(self, name: TopicPartition) -> None:
        """Take up what the log is known not to be able to give, though a file holds it."""
        log = self._logs.log(name)
        for gap in log.unreadable:
            for part in log.layout.held_parts(gap, log.flushed_offset):
                if (name, part.start) not in self.open:
                    self.found += 1
                    self.open[name, part.start] = Damage(name, part)

    async def _take(self, name: TopicPartition, damaged: OffsetRange, source: Address | None) -> Damage:
        """Something was found: repair it, or keep it in mind."""
        damage = self.open.get((name, damaged.start))
        if damage is None:
            # Not due while it is tried for the first time.
            damage = Damage(name, damaged, due_seconds=trio.current_time() + _RETRY_SECONDS)
            self.found += 1
            self.open[name, damaged.start] = damage
            _log.error("Damage found", partition=str(name), offsets=f"{damaged.start} to {damaged.end}")
        await self._try(damage, source)
        return damage

    async def try_again(self) -> None:
        """What is open and due."""
        now = trio.current_time()
        for damage in [one for one in self.open.values() if one.due_seconds <= now]:
            await self._try(damage)

    async def _try(self, damage: Damage, source: Address | None = None) -> None:
        key = damage.name, damage.range.start
        async with self._lock:
            if self.open.get(key) is not damage:
                return
            try:
                damage.is_over = await self._is_valid(damage) or await self._repair(damage, source)
                if self.open.get(key) is not damage:
                    return  # The log has been cut there meanwhile.
            except (OffsetOutOfRangeError, PartitionRemovedError):
                # Retention has taken it, or a master, or its topic was deleted.
                damage.is_over = True
            except StorageError as error:
                damage.reason = str(error)
            if damage.is_over:
                self.open.pop(key, None)
                self.mended.add(damage.name)
                return
            damage.tries += 1
            pause_seconds = _RETRY_SECONDS if damage.tries <= _TRIES_BEFORE_SKIP else _LATER_SECONDS
            damage.due_seconds = trio.current_time() + pause_seconds

    async def _is_valid(self, damage: Damage) -> bool:
        """Whether it was none, or is none any more: a log that was being cut, a repair before a crash."""
        log = self._logs.log(damage.name)

        def look() -> bool:
            if not is_whole(read_piece(log, damage.range.start, damage.range.end)):
                return False
            log.set_readable(damage.range)
            return True

        return await self._logs.own(damage.name, look)

    async def _repair(self, damage: Damage, source: Address | None) -> bool:
        name, log = damage.name, self._logs.log(damage.name)
        if self._logs.renew(name):
            damage.reason = "what it holds is being written anew"
            return False
        sources = await self._sources() if source is None else [source]
        is_alone = sources == []
        if not sources:
            damage.reason = "no other replica is known" + ("" if is_alone else " as yet")
        offset = damage.range.start
        while offset < damage.range.end:
            given = await self._ask(sources or (), damage, log, offset)
            if given is None:
                if is_alone or damage.tries + 1 >= _TRIES_BEFORE_SKIP:
                    await self._skip(damage)
                return False
            records, damage.source = given
            if not await self._logs.own(name, partial(self._replace, damage, log, offset, records)):
                return False
            offset += len(records)
        self.repaired += 1
        _log.warning(
            "Damage repaired",
            partition=str(name),
            offsets=f"{damage.range.start} to {damage.range.end}",
            source=damage.source,
        )
        return True

    def _replace(self, damage: Damage, log: PartitionLog, offset: int, records: bytes) -> bool:
        """In a thread that owns the log; False where it was cut since the records were asked for."""
        if self.open.get((damage.name, damage.range.start)) is not damage:
            return False
        repair_range(self._filesystem, log, damage.name, offset, records, damage.source)
        return True

    async def _ask(
        self, sources: Iterable[Address], damage: Damage, log: PartitionLog, offset: int
    ) -> tuple[bytes, str] | None:
        place = await self._logs.look(partial(self._place, damage, log, offset))
        reasons = []
        for address in sources:
            try:
                async with connect(*address) as link:
                    return await Donor(link).records_for(place), format_address(*address)
            except ClientError as error:
                reasons.append(str(error))
        if reasons:
            damage.reason = "; ".join(reasons)
        return None

    def _place(self, damage: Damage, log: PartitionLog, offset: int) -> DamagedPlace:
        segment, stop = log.layout.piece_at(offset, log.flushed_offset)
        first = max(segment.start_offset, offset - _CONTEXT_BYTES)
        for gap in [*log.unreadable, *(one.range for one in self.open.values() if one.name == damage.name)]:
            if gap.end <= offset:
                first = max(first, gap.end)
        end = min(damage.range.end, stop)
        after = b""
        if end < stop:
            behind = read_piece(log, end, min(end + _CONTEXT_BYTES, stop))
            # A record that is cut short there, or damaged itself, shows nothing.
            after = behind[: scan(behind).end]
        return DamagedPlace(
            name=damage.name,
            start=offset,
            end=end,
            stop=stop,
            before=read_piece(log, first, offset) if first < offset else b"",
            after=after,
            history=self._logs.history(damage.name),
        )

    async def _skip(self, damage: Damage) -> None:
        """Send readers on behind it, so that they get what follows."""
        log = self._logs.log(damage.name)

        def skip() -> bool:
            # The log may have been cut there while this waited for it.
            is_there = self.open.get((damage.name, damage.range.start)) is damage
            if is_there:
                log.set_unreadable(damage.range)
            return is_there

        is_readable = log.layout.is_readable(damage.range.start, damage.range.end)
        if is_readable and await self._logs.own(damage.name, skip):
            _log.error(
                "Damage cannot be repaired: reads skip it",
                partition=str(damage.name),
                offsets=f"{damage.range.start} to {damage.range.end}",
                reason=damage.reason,
            )
