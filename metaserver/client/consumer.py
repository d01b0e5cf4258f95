"""Receives messages as a member of a group: an async iterator, or a handler that is called.

Each partition's messages come in order. What is committed is the offset behind the last message that was
dealt with; after a crash, or a partition's move to another member, those behind the last commit come again.
Nothing is passed over.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import anyio
import anyio.lowlevel
import attrs

from metaserver.client.assignment import Strategy, assign_blocks
from metaserver.client.filters import ByCondition, Filter
from metaserver.client.held_partition import HeldPartition, Lag
from metaserver.client.read_options import ReadOptions
from metaserver.client.reader import PartitionReader, Surroundings
from metaserver.client.replica_choice import ReplicaChoice
from metaserver.errors import (
    ClientError,
    ConfigError,
    HandlerFailedError,
    OffsetConflictError,
    OffsetStorageError,
)
from metaserver.logs import get_logger
from metaserver.names import MAX_OFFSET
from metaserver.registry.paths import StoredOffset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from metaserver.client.dead_letters import DeadLetters
    from metaserver.client.membership import Broadcast, Membership
    from metaserver.client.network import Network
    from metaserver.client.offsets import OffsetStorage
    from metaserver.client.partition import Partition
    from metaserver.client.received import ReceivedMessage
    from metaserver.client.replica_choice import ReadFrom
    from metaserver.epochs import EpochChain

_log = get_logger(__name__)

Handler: TypeAlias = "Callable[[ReceivedMessage], Awaitable[object]]"

_FORBIDDEN_IN_GROUPS = frozenset("~!#$%^&*()+=`'\",;/?[]<>.: ")
_TURN_MESSAGES = 64
"""Of one partition, before the next one has its turn."""
_YIELD_MESSAGES = 256
"""An iteration that never waits lets others run after so many messages."""


@attrs.frozen(kw_only=True)
class ConsumerOptions:
    """How a consumer consumes."""

    start: Literal["earliest", "latest"] = "earliest"
    """Where a group begins in a partition of which it has no offset."""
    commit: Literal["auto", "manual"] = "auto"
    """``auto``: a message is dealt with when the next one is asked for, or its handler has returned."""
    commit_interval_seconds: float = 5.0
    """Between two commits of ``auto``. Also at every hand-over, and at the end."""
    read_from: ReadFrom = "any"
    read: ReadOptions = attrs.Factory(ReadOptions)
    strategy: Strategy = assign_blocks
    """Must be the same in all members of a group."""
    release_seconds: float = 30.0
    """How long the hand-over of a partition waits for the message the application is busy with. After that
    the next owner gets it too."""
    attempts_max: int = 6
    """How often a handler gets a message that it fails on."""
    retry_seconds_min: float = 0.5
    retry_seconds_max: float = 30.0
    """Pauses between them double. Only the message's own partition waits."""
    concurrency: int = 16
    """Handlers that run at a time; of one partition always one."""


class Consumer:
    """Made by :meth:`metaserver.client.Session.consumer`; iterate over it, or :meth:`run` a handler."""

    def __init__(
        self,
        group: str,
        network: Network,
        options: ConsumerOptions,
        offsets: OffsetStorage,
        message_filter: Filter | None = None,
        dead_letters: DeadLetters | None = None,
    ) -> None:
        """Use the session's method."""
        self.group = group
        self.options = options
        self._offsets = offsets
        self._filter = message_filter
        self._dead_letters = dead_letters
        self._around = Surroundings(
            group,
            options.read,
            network,
            ReplicaChoice(options.read_from),
            self._has_messages,
            self._has_moved,
            self._has_lost,
            self._has_new_history,
            message_filter.condition.text if isinstance(message_filter, ByCondition) else "",
        )
        self._held: dict[Partition, HeldPartition] = {}
        self._left: dict[Partition, tuple[StoredOffset, EpochChain]] = {}
        """Of partitions that left: what was stored, and the history of the log that was read up to there."""
        self._ready: deque[HeldPartition] = deque()
        self._available = anyio.Event()
        self._current: tuple[HeldPartition, ReceivedMessage] | None = None
        """What the iterator gave last."""
        self._turn = 0
        self._unyielded = 0
        self._is_open = True
        self._membership: Membership | Broadcast | None = None
        self._commit_lock = anyio.Lock()
        self._commit_problem = ""

    # For applications.

    def __aiter__(self) -> Self:
        """Itself: one iteration at a time."""
        return self

    async def __anext__(self) -> ReceivedMessage:
        """The next message, of any partition; waits for one.

        With automatic commit the one before counts as dealt with now. Cancelled, nothing is lost. What the
        filter raises comes out; its message is not dealt with, and the next call asks the filter again.
        """
        self._finish_current()
        if self._unyielded >= _YIELD_MESSAGES:
            # Before a message is taken: one that was, and is not returned, would count as dealt with.
            self._unyielded = 0
            await anyio.lowlevel.checkpoint()
        while True:
            found = self._pop()
            if found is not None:
                self._current = found
                self._unyielded += 1
                return found[1]
            if not self._is_open:
                raise StopAsyncIteration
            self._unyielded = 0
            self._available = anyio.Event()
            await self._available.wait()

    async def run(self, handler: Handler) -> None:
        """Call the handler for every message, until cancelled; partitions run side by side.

        A handler that raises gets the message again, up to ``attempts_max`` times, after growing pauses; then
        it goes to the dead letters, and where there are none HandlerFailedError ends this call. Its partition
        waits meanwhile, the others go on. A filter that raises is a handler that raises.
        """
        limiter = anyio.CapacityLimiter(self.options.concurrency)
        failure: HandlerFailedError | None = None
        try:
            async with anyio.create_task_group() as workers:
                while True:
                    while self._ready:
                        held = self._ready.popleft()
                        workers.start_soon(self._work, held, handler, limiter)
                    self._available = anyio.Event()
                    await self._available.wait()
        except BaseExceptionGroup as group:
            failure = _first_failure(group)
            if failure is None:
                raise
        if failure is not None:
            raise failure

    async def commit(self, message: ReceivedMessage | None = None) -> None:
        """Store how far the group has come, now.

        With a message: it and all before it in its partition are dealt with. Without one: everything handed
        out so far is. Raises OffsetStorageError; the same commit may be tried again. OffsetConflictError:
        others have moved these offsets, and this consumer goes on from there.
        """
        if message is not None:
            held = self._held.get(message.partition)
            if held is not None:
                held.finish(message, is_done=True)
        else:
            for held in self._held.values():
                if held.last_handed_out is not None:
                    held.finish(held.last_handed_out, is_done=True)
        await self._commit(self._held.values())

    async def reject(self, message: ReceivedMessage, reason: str) -> None:
        """Put a message that cannot be dealt with to the dead letters; then it counts as dealt with.

        Raises ClientError where it cannot be put there: it is not dealt with then.
        """
        if self._dead_letters is None:
            raise ConfigError(("the consumer has no dead letters; give dead_letters=… to the session",))
        await self._dead_letters.put(self.group, message, reason, attempts=1)
        held = self._held.get(message.partition)
        if held is not None:
            held.finish(message, is_done=True)

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """What this member owns now."""
        return tuple(self._held)

    async def wait_assigned(self) -> None:
        """Returns when this member has found its place in the group for the first time."""
        if self._membership is not None:
            await self._membership.is_settled.wait()

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on at another offset, also backwards. Raises KeyError unless it is one of :attr:`partitions`."""
        held = self._held[partition]
        held.handed_out = held.last_handed_out = None
        held.idle.set()
        # The broker says where the end is; until then there is nothing to store.
        held.done = None if offset == MAX_OFFSET else StoredOffset(offset, -1)
        if self._current is not None and self._current[0] is held:
            self._current = None
        held.reader.seek(offset)

    def pause(self, partitions: Iterable[Partition] | None = None) -> None:
        """Hand out nothing of these (of all) until :meth:`resume`; they stay this member's."""
        for held in self._chosen(partitions):
            held.reader.is_paused = True

    def resume(self, partitions: Iterable[Partition] | None = None) -> None:
        """Go on."""
        for held in self._chosen(partitions):
            held.reader.is_paused = False
            held.reader.fetch()
            if held.reader.messages:
                self._has_messages(held.reader)

    def lag(self) -> list[Lag]:
        """How far this member is behind in each of its partitions, as far as it has seen their ends."""
        return [
            Lag(
                held.partition,
                held.position,
                held.reader.end_offset,
            )
            for held in self._held.values()
        ]

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, in words; empty when all is well."""
        found = [
            f"{held.partition}: {held.reader.problem}" for held in self._held.values() if held.reader.problem
        ]
        if self._membership is not None and self._membership.problem:
            found.append(f"group {self.group}: {self._membership.problem}")
        return [*found, self._commit_problem] if self._commit_problem else found

    # For the session.

    def join(self, membership: Membership | Broadcast) -> None:
        """Consume what this membership claims."""
        self._membership = membership

    async def keep_committing(self) -> None:
        """Commit now and then, until cancelled."""
        while True:
            await anyio.sleep(self.options.commit_interval_seconds)
            with suppress(OffsetStorageError):
                await self._commit(self._held.values())

    def close(self) -> None:
        """Hand out no more. What was handed out last is dealt with only if another was asked for."""
        self._is_open = False
        self._available.set()
        self._current = None
        for held in self._held.values():
            held.revoked.set()
            held.handed_out = None
            held.idle.set()

    # As the holder of what the membership claims.

    async def take(self, partitions: Sequence[Partition]) -> None:
        """See Holder; raises OffsetStorageError."""
        stored = await self._offsets.load(self.group, partitions)
        for partition in partitions:
            offset = stored.get(partition)
            if offset is not None:
                left_at, history = self._left.pop(partition, (offset, None))
                # A new master may have set the group back, by ids, and not far enough: what was read is known
                # here. Others that have stored more have read what is not.
                known = history if offset.offset <= left_at.offset else None
                reader = PartitionReader(partition, self._around, offset.offset, offset.message_id, known)
            else:
                position = 0 if self.options.start == "earliest" else MAX_OFFSET
                reader = PartitionReader(partition, self._around, position)
            self._held[partition] = HeldPartition(reader, committed=offset)
            reader.start()

    async def release(self, partitions: Sequence[Partition], *, is_lost: bool) -> None:
        """See Holder."""
        leaving = [held for partition in partitions if (held := self._held.get(partition)) is not None]
        for held in leaving:
            held.revoked.set()
            held.reader.stop()
        with anyio.move_on_after(self.options.release_seconds):
            for held in leaving:
                while held.handed_out is not None:
                    held.idle = anyio.Event()
                    await held.idle.wait()
        if not is_lost:
            try:
                await self._commit(leaving)
            except OffsetStorageError as error:
                _log.warning("Offsets of a partition that leaves are not stored", reason=str(error))
        for held in leaving:
            self._held.pop(held.partition, None)
            if held.committed is not None and held.reader.history is not None:
                self._left[held.partition] = held.committed, held.reader.history

    # Inside.

    def _chosen(self, partitions: Iterable[Partition] | None) -> list[HeldPartition]:
        return list(self._held.values()) if partitions is None else [self._held[p] for p in partitions]

    def _has_messages(self, reader: PartitionReader) -> None:
        held = self._held.get(reader.partition)
        if held is None or held.reader is not reader or held.is_ready or held.is_revoked:
            return
        if not reader.is_paused:
            held.is_ready = True
            self._ready.append(held)
            self._available.set()

    def _has_moved(self, reader: PartitionReader, offset: int) -> None:
        """The broker told another position: where nothing is under way, the group has come as far as that."""
        held = self._held.get(reader.partition)
        if held is None or held.reader is not reader or reader.messages or held.handed_out is not None:
            return
        known = held.done or held.committed
        if not held.is_open and (known is None or offset > known.offset):
            held.done = StoredOffset(offset, -1)

    def _has_lost(self, reader: PartitionReader, offset: int) -> None:
        """What was read from there on is not in the log any more: the group has come no further than that."""
        held = self._held.get(reader.partition)
        if held is not None and held.reader is reader:
            held.lost(offset)

    def _has_new_history(self, reader: PartitionReader) -> None:
        held = self._held.get(reader.partition)
        if held is not None and held.reader is reader:
            held.store_again()

    def _finish_current(self) -> None:
        if self._current is not None:
            (held, message), self._current = self._current, None
            held.finish(message, is_done=self.options.commit == "auto")

    def _pop(self) -> tuple[HeldPartition, ReceivedMessage] | None:
        """The next message that passes the filter, from the partition whose turn it is."""
        ready = self._ready
        while ready:
            held = ready[0]
            reader = held.reader
            if held.is_revoked or not reader.messages or reader.is_paused:
                held.is_ready = False
                ready.popleft()
                self._turn = 0
                continue
            message = held.take()
            try:
                is_wanted = self._filter is None or self._filter(message)
            except BaseException:
                # Nobody has seen it: who asks again gets it.
                reader.give_back([message])
                raise
            self._turn += 1
            if self._turn >= _TURN_MESSAGES:
                self._turn = 0
                ready.rotate(-1)
            if not is_wanted:
                self._pass_over(held, message)
                continue
            held.handed_out = held.last_handed_out = message
            return held, message
        return None

    def _pass_over(self, held: HeldPartition, message: ReceivedMessage) -> bool:
        """The filter does not want it; tells whether it is dealt with: what is before it may be open."""
        is_done = self.options.commit == "auto" or not held.is_open
        held.last_handed_out = message
        held.finish(message, is_done=is_done)
        return is_done

    async def _work(self, held: HeldPartition, handler: Handler, limiter: anyio.CapacityLimiter) -> None:
        """Deal with what one partition has, in order."""
        try:
            while held.reader.messages and not held.is_revoked and not held.reader.is_paused:
                message = held.take()
                held.handed_out = message
                is_done = False
                try:
                    is_done = await self._handle(held, message, handler, limiter)
                except BaseException:
                    # Failed or cancelled: who goes on with this consumer gets it again.
                    if held.handed_out is message:
                        held.reader.give_back([message])
                    raise
                finally:
                    held.finish(message, is_done=is_done)
        finally:
            held.is_ready = False
            if held.reader.messages:
                self._has_messages(held.reader)

    async def _handle(
        self, held: HeldPartition, message: ReceivedMessage, handler: Handler, limiter: anyio.CapacityLimiter
    ) -> bool:
        """Until the handler, or the dead letters, have it; tells whether that is so."""
        options = self.options
        pause_seconds = options.retry_seconds_min
        for attempt in range(1, options.attempts_max + 1):
            try:
                if self._filter is not None and not self._filter(message):
                    return self._pass_over(held, message)
                held.last_handed_out = message
                async with limiter:
                    await handler(message)
            except Exception as error:  # noqa: BLE001 - whatever an application raises is a failure of its own
                reason = f"{type(error).__name__}: {error}"
                _log.warning(
                    "Handler failed",
                    partition=str(message.partition),
                    offset=message.offset,
                    attempt=attempt,
                    reason=reason,
                )
                failure = error
            else:
                return options.commit == "auto"
            if attempt < options.attempts_max:
                with anyio.move_on_after(pause_seconds):
                    await held.revoked.wait()
                if held.is_revoked:
                    return False
                pause_seconds = min(2 * pause_seconds, options.retry_seconds_max)
        if self._dead_letters is None:
            raise HandlerFailedError(
                str(message.partition), message.offset, options.attempts_max
            ) from failure
        await self._dead_letters.put(self.group, message, reason, attempts=options.attempts_max)
        held.last_handed_out = message  # Also where the filter failed, and no handler has seen it.
        return True

    async def _commit(self, held_partitions: Iterable[HeldPartition]) -> None:
        """Store what has changed; raises OffsetStorageError, after a conflict gone to others' offsets."""
        async with self._commit_lock:
            changed = {
                held.partition: (held, held.done, held.lost_offset)
                for held in held_partitions
                if held.done is not None and held.done != held.committed
            }
            if not changed:
                return
            conflict: OffsetConflictError | None = None
            try:
                await self._offsets.store(
                    self.group, {partition: done for partition, (_held, done, _lost) in changed.items()}
                )
            except OffsetConflictError as error:
                conflict = error
            except OffsetStorageError as error:
                self._commit_problem = str(error)
                _log.warning("Offsets cannot be stored", group=self.group, reason=str(error))
                raise
            self._commit_problem = ""
            conflicting = set() if conflict is None else set(conflict.partitions)
            for partition, (held, done, lost_offset) in changed.items():
                if partition not in conflicting:
                    held.stored(done, lost_offset)
        if conflict is not None:
            await self._give_up(conflict)
            raise conflict

    async def _give_up(self, conflict: OffsetConflictError) -> None:
        """Others have moved these offsets: begin again where they say.

        Not behind a loss: a new master has only the ids to tell what the group has read of its log, and this
        member has read, and knows, the histories. It stores that over theirs.
        """
        _log.warning(
            "Offsets were changed by others; going on from there", group=self.group, reason=str(conflict)
        )
        for partition in conflict.partitions:
            held = next((held for held in self._held.values() if held.partition == partition), None)
            if held is None or held.is_revoked:
                continue
            try:
                stored = (await self._offsets.load(self.group, [held.partition])).get(held.partition)
            except ClientError:
                continue
            is_held = self._held.get(held.partition) is held
            if stored is not None and is_held and not held.is_beyond_loss(stored):
                self.seek(held.partition, stored.offset)
                held.done = stored
                held.stored(stored, held.lost_offset)


def check_group(group: str) -> None:
    """Raises ConfigError where it is no name of a group: MetaQ's rule."""
    if not group.strip():
        raise ConfigError(("the group is blank; give the consumer a name",))
    wrong = sorted(_FORBIDDEN_IN_GROUPS.intersection(group))
    if wrong:
        raise ConfigError(
            (f"group {group!r} contains {''.join(wrong)!r}; letters, digits, - and _ are fine",)
        )


def _first_failure(group: BaseExceptionGroup[BaseException]) -> HandlerFailedError | None:
    """The one failure of a handler that ended a run; None where there is anything else."""
    errors: list[BaseException] = [group]
    failure: HandlerFailedError | None = None
    while errors:
        error = errors.pop()
        if isinstance(error, BaseExceptionGroup):
            errors += error.exceptions
        elif isinstance(error, HandlerFailedError):
            failure = failure or error
        else:
            return None
    return failure
