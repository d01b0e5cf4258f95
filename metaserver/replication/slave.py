"""The trio shell of the slave: one connection to the master, for each partition one long poll at its end.

All partitions share the connection and this task; replies come back as calls, so a thousand idle
partitions are a thousand long polls and no task. With a master that knows the long poll, a new message
is here one round trip after it may be read there; ``slaveMaxDelayInMills`` bounds the idle wait. With one
that does not (MetaQ), it is the polling interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.broker.replicas import read_log, reconcile, skip
from metaserver.client import BrokerConnection, Moved, connect
from metaserver.client.comparison import parse_ranges
from metaserver.client.connection import expect_text, fetch_result
from metaserver.epochs import EpochChain
from metaserver.errors import ClientError, DiskFullError, StorageError
from metaserver.logs import get_logger
from metaserver.names import INTERNAL_TOPICS, TopicPartition
from metaserver.protocol import encode_epochs_query, encode_offset_query
from metaserver.replication.acknowledging import ProgressReports
from metaserver.replication.catch_up import CatchUp
from metaserver.replication.chain import Hop, check_circle
from metaserver.replication.internal_logs import InternalLogs
from metaserver.replication.master import ask_facts, format_place, meet
from metaserver.replication.progress import (
    Action,
    Append,
    AskEpochs,
    BeginAnew,
    Compare,
    Fetch,
    Locate,
    Reconcile,
    ReplicaProgress,
    ReplicaState,
    Skip,
    Stop,
)
from metaserver.replication.pulling import Pulls
from metaserver.replication.replica import Replica
from metaserver.replication.reports import ReplicaReport, SlaveReport, left_bytes
from metaserver.storage import Divergence, RealFileSystem
from metaserver.storage.filesystem import is_no_room

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.client.connection import Reply
    from metaserver.config import SlaveConfig
    from metaserver.replication.master import Address, MasterFacts, MasterPlace
    from metaserver.storage import Clock, FileSystem, QuarantineReport
    from metaserver.timers import Timers

_log = get_logger(__name__)

_REFRESH_SECONDS = 1.0
"""How often the master is asked for its partitions and their ends."""
_RECONNECT_SECONDS_MIN = 0.05
_RECONNECT_SECONDS_MAX = 0.5
_SILENCE_SECONDS = 15.0
"""A master that answers nothing for so long is given up, and connected to anew."""
_RETRY_SECONDS = 1.0
"""Pause after the local disk was full."""
_UNWRITTEN_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of one partition fetched and not yet on disk, before fetching pauses."""
_IDLE_POLLS_PER_SECOND = 200
"""With so many partitions that more long polls would end in a second, each waits longer: a new message
ends it at once all the same."""


@attrs.define(eq=False)
class Slave:
    """Follows a master until cancelled."""

    _broker: Broker
    _config: SlaveConfig
    _clock: Clock
    _timers: Timers
    _master: MasterPlace
    on_connected: Callable[[str], None] | None = None
    """Told the master's version text with each new connection."""
    on_facts: Callable[[BrokerConnection, MasterFacts], None] | None = None
    """Told what the master says of itself, with each new connection and with each look at its partitions."""
    _replicas: dict[TopicPartition, Replica] = attrs.Factory(dict)
    _link: BrokerConnection | None = None
    _address: Address | None = None
    """Of the connection."""
    _problem: str = "not connected yet"
    _filesystem: FileSystem = attrs.Factory(RealFileSystem)
    _knows_epochs: bool = False
    """Whether the master does."""
    quarantined: list[QuarantineReport] = attrs.Factory(list)
    """What this slave had to give up since its start."""
    skips: int = 0
    """How often a partition went on behind a gap since then, for the master did not have what came next."""
    _look: trio.Event = attrs.Factory(trio.Event)
    """Set when there may be something to do at once: a new master, new partitions, a broken connection."""
    _heard_wall_seconds: float | None = None
    _at_master: frozenset[TopicPartition] | None = None
    """The partitions that the master has; None before it has told over this connection."""
    _facts: MasterFacts | None = None
    """What the master said of itself last."""
    _catch_up: CatchUp = attrs.field(init=False)
    _pulls: Pulls[Replica] = attrs.field(init=False)
    _internal: InternalLogs = attrs.field(init=False)
    _reports: ProgressReports = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """The limit is that of the configuration."""
        self._catch_up = CatchUp(self._config.slave_max_bytes_per_second)
        self._pulls = Pulls(
            self._config, self._timers, self._catch_up, self._give_out, self._answered, self._wait_ms
        )
        self._reports = ProgressReports(self._broker, self._config, self._timers)
        self._internal = InternalLogs(self._broker, self._filesystem, self._unfollow)

    async def run(self) -> None:
        """Connect, copy, and connect again, for ever."""
        pause_seconds = _RECONNECT_SECONDS_MIN
        while True:
            self._look = trio.Event()
            address = self._master.address
            if address is None:
                self._problem = self._master.problem
                await self._look.wait()
                continue
            if address != self._address:
                self._address, self._facts = address, None
            try:
                async with connect(*address) as link:
                    facts = await meet(link, self._broker.config.broker_id, _SILENCE_SECONDS)
                    self._learn(facts)
                    _log.info("start subscribe message from master success", master=link.address)
                    pause_seconds = _RECONNECT_SECONDS_MIN
                    self._link, self._problem = link, ""
                    self._pulls.connected(link)
                    if self.on_connected is not None:
                        self.on_connected(link.version)
                    self._knows_epochs = "epochs" in link.extensions
                    self._reports.connected(link)
                    await self._follow(link, address, facts)
            except ClientError as error:
                if str(error) != self._problem:
                    _log.warning("problem occured in start subscribe message from master", reason=str(error))
                self._problem = str(error)
            finally:
                self._link = self._at_master = None
                self._catch_up.interrupted()
                self._pulls.disconnected()
                self._reports.disconnected()
                for replica in self._replicas.values():
                    replica.ticket += 1
                    replica.paused = replica.wanted = replica.deferred = None
                    replica.progress.disconnected()
            self._look = trio.Event()
            with trio.move_on_after(pause_seconds):
                await self._look.wait()
            pause_seconds = min(2 * pause_seconds, _RECONNECT_SECONDS_MAX)

    def is_connected(self) -> bool:
        """Whether there is a connection to the master."""
        return self._link is not None

    def is_orphan(self, name: TopicPartition) -> bool | None:
        """Whether the master does not have a partition, and nothing is under way here; None: nobody knows."""
        there = self._at_master
        return None if there is None else name not in there and name not in self._replicas

    def wake(self) -> None:
        """Look at once where the master is, and for its partitions."""
        self._look.set()

    @property
    def upstream(self) -> tuple[Hop, ...]:
        """Who is above this slave, nearest first; empty before it has met its master."""
        facts = self._facts
        if facts is None:
            return ()
        is_connected = self._link is not None
        lag_bytes = sum(self._report(replica).lag_bytes for replica in self._replicas.values())
        address = format_place(self._address)
        return (Hop(address, facts.instance, facts.is_slave, is_connected, lag_bytes), *facts.upstream)

    def report(self) -> SlaveReport:
        """How far each partition is."""
        replicas = tuple(self._report(replica) for replica in self._replicas.values())
        return SlaveReport(
            format_place(self._master.address if self._link is None else self._address),
            self._link is not None,
            self._problem,
            self._master.problem,
            replicas,
            self._pulls.requests,
            self._catch_up.report(left_bytes(replicas), trio.current_time()),
            self._heard_wall_seconds,
            self.upstream,
            self._pulls.report(),
            "" if self._facts is None else self._facts.promoted,
        )

    def _report(self, replica: Replica) -> ReplicaReport:
        gaps = self._broker.store.partitions[replica.name].unreadable
        return replica.report(self._clock.wall_seconds(), gaps)

    # The master's partitions.

    async def _follow(self, link: BrokerConnection, address: Address, facts: MasterFacts) -> None:
        """Copy over one connection until it breaks (ClientError), or the master is elsewhere."""
        while self._master.address in (None, address):
            self._look = trio.Event()
            if self.on_facts is not None:
                self.on_facts(link, facts)
            asked_wall_seconds = self._clock.wall_seconds()
            self._refresh(await link.stats("offsets", _SILENCE_SECONDS), asked_wall_seconds)
            self._catch_up.look(left_bytes(map(self._report, self._replicas.values())), trio.current_time())
            await self._internal.tend()
            self._reports.give_sign_of_life()
            with trio.move_on_after(_REFRESH_SECONDS):
                await self._look.wait()
            facts = await ask_facts(link, _SILENCE_SECONDS)
            self._learn(facts)

    def _learn(self, facts: MasterFacts) -> None:
        """What the master says of itself; raises CircleError where it follows this slave.

        A slave that finds this tells it to those below all the same, so that each of the circle does.
        """
        self._facts = facts
        check_circle(self._broker.instance, self.upstream)

    def _refresh(self, offsets: str, asked_wall_seconds: float) -> None:
        """Learn the master's partitions and ranges from its ``stats offsets``.

        They hold of the moment when they were asked for: what the master took before is in them.
        """
        self._heard_wall_seconds = asked_wall_seconds
        ranges = parse_ranges(offsets)
        self._at_master = frozenset(ranges)
        self._forget(self._replicas.keys() - ranges.keys())
        for name, span in ranges.items():
            start, end = span.start, span.end
            replica = self._replicas.get(name) or self._open(name, start)
            if replica is None or replica.failure is not None or replica.is_lent:
                continue
            if replica.unwritten_bytes and replica.progress.state is ReplicaState.PROBING:
                continue  # What is on its way to the log cannot be compared yet.
            # This node deletes old segments by itself, whenever its own retention says so.
            layout = self._broker.store.partitions[name].layout
            replica.progress.local_start = layout.starts[0]
            replica.progress.run_start = layout.last_run_start
            self._internal.look(replica, start, end)
            replica.progress.knows_epochs = self._knows_epochs
            replica.progress.master_is_slave = self._facts is not None and self._facts.is_slave
            action = replica.progress.master_range(start, end)
            if action is not None:
                self._act(replica, action)

    def _forget(self, gone: set[TopicPartition]) -> None:
        """Their topics were deleted at the master. What was copied stays; should they come again, anew."""
        for name in gone:
            replica = self._replicas[name]
            is_reconciling = replica.progress.state is ReplicaState.RECONCILING
            if replica.unwritten_bytes or replica.is_lent or is_reconciling:
                continue  # Something is under way to its log; the next look finds it at rest.
            self._unfollow(name)
            _log.info("The master has a partition no longer; its copy stays", partition=str(name))

    def _unfollow(self, name: TopicPartition) -> None:
        self._replicas.pop(name).ticket += 1
        self._reports.unfollow(name)

    def _open(self, name: TopicPartition, master_start: int) -> Replica | None:
        config = self._broker.config.topic_config(name.topic) or self._broker.config.defaults
        try:
            log = self._broker.open_partition(name, config, master_start).log
        except (StorageError, OSError) as error:
            _log.error("Cannot open partition", partition=str(name), reason=str(error))
            return None
        # The registry begins a segment with each snapshot, of whatever size the last one is; the journal of
        # transactions does with each compaction.
        is_internal = name.topic in INTERNAL_TOPICS
        segment_bytes_max = 0 if is_internal else self._broker.config.max_segment_size_bytes
        replica = Replica(
            name,
            ReplicaProgress(
                log.start_offset,
                log.end_offset,
                log.last_segment_start,
                segment_bytes_max,
                chain=self._broker.store.epochs[name].chain,
                is_internal=is_internal,
            ),
        )
        self._replicas[name] = replica
        return replica

    # One partition.

    def _act(self, replica: Replica, action: Action) -> None:
        match action:
            case Fetch():
                self._fetch(replica, action)
            case Append(begins_segment=True) | Skip() if replica.unwritten_bytes:
                replica.deferred = action
            case Skip():
                self._skip(replica, action)
            case Append():
                self._append(replica, action)
            case Locate():
                self._locate(replica, action.offset)
            case AskEpochs():
                self._ask_epochs(replica)
            case Reconcile():
                self._reconcile(replica, action)
            case Compare():
                log = self._broker.store.partitions[replica.name]
                is_equal = read_log(log, action.offset, len(action.data)) == action.data
                if not is_equal:
                    self._broker.suspect(replica.name, action.offset)
                self._act(
                    replica, replica.progress.compared(action.offset, len(action.data), is_equal=is_equal)
                )
            case BeginAnew():
                self._internal.begin_anew(replica.name, action.reason)
                self.wake()
            case Stop():
                if action.reason != replica.told:  # It may be tried again and again.
                    _log.error("Replication stopped", partition=str(replica.name), reason=action.reason)
                replica.told = action.reason

    def _ask_epochs(self, replica: Replica) -> None:
        if self._link is None:
            return
        replica.ticket += 1
        name, end = replica.name, replica.progress.local_end

        def answered(reply: Reply) -> None:
            try:
                chain = EpochChain.parse(expect_text(reply))
            except (ClientError, ValueError) as error:
                _log.warning("The master does not tell its epochs", partition=str(name), reason=str(error))
                replica.progress.disconnected()
                return
            action = replica.progress.epochs_told(chain)
            if action is not None:
                self._act(replica, action)

        self._ask(
            replica, lambda opaque: encode_epochs_query(name.topic, name.partition, end, opaque), answered
        )

    def _reconcile(self, replica: Replica, action: Reconcile) -> None:
        """In a worker: copy away what must go, cut, take over the master's epochs."""
        replica.ticket += 1
        ticket, name, broker = replica.ticket, replica.name, self._broker
        divergence = None
        if action.offset is not None:
            _log.error("Replica holds what its master does not", partition=str(name), reason=action.reason)
            divergence = Divergence(
                name=name,
                offset=action.offset,
                reason=action.reason,
                own=replica.progress.chain,
                masters=action.chain,
                master=format_place(self._address),
            )

        def done(report: QuarantineReport | None, error: Exception | None) -> None:
            log = broker.store.partitions[name]
            chain = broker.store.epochs[name].chain
            partition.progressed()  # What is cut off is no longer what the master was told.
            if report is not None:
                self.quarantined.append(report)
                _log.error(
                    "Put into quarantine",
                    partition=str(name),
                    offsets=f"{report.start_offset} to {report.end_offset}",
                    messages=report.records,
                )
            if error is not None:
                self._recover(replica, error)
            elif ticket == replica.ticket:
                self._act(replica, replica.progress.reconciled(log.end_offset, log.last_segment_start, chain))
            else:
                # The connection broke meanwhile: the next one begins with what there is now.
                replica.progress.rewind(log.end_offset, log.last_segment_start)
                replica.progress.chain = chain

        partition = self._partition(name)
        reconcile(broker, partition, self._filesystem, divergence, action.chain, done)

    def _skip(self, replica: Replica, action: Skip) -> None:
        replica.ticket += 1
        replica.wanted = None
        ticket, end = replica.ticket, replica.progress.local_end
        replica.is_lent, log = True, self._broker.store.partitions[replica.name]

        def done(error: Exception | None) -> None:
            replica.is_lent = False
            if error is not None:
                self._recover(replica, error)
                return
            self.skips += 1
            _log.error(
                "A gap stays in the log: the master does not have what came next",
                partition=str(replica.name),
                offsets=f"{end} to {log.end_offset}",
                reason=action.reason,
            )
            if ticket == replica.ticket:
                self._act(replica, replica.progress.skipped(log.end_offset))
            else:
                replica.progress.rewind(log.end_offset, log.last_segment_start)

        skip(self._broker.committer, self._partition(replica.name), action.offset, done)

    def _partition(self, name: TopicPartition) -> Partition:
        return self._broker.partitions[name.topic, name.partition]

    def _fetch(self, replica: Replica, fetch: Fetch) -> None:
        if replica.progress.is_copying:
            self._reports.follow(replica.name)
        if replica.unwritten_bytes > _UNWRITTEN_BYTES_MAX:
            replica.paused = fetch
            return
        if self._link is None:
            return
        replica.want(fetch)
        self._pulls.ask(replica)
        self._give_out(replica)

    def _give_out(self, replica: Replica) -> None:
        """Hand on what has come, as long as more is wanted and there."""
        if replica.is_giving_out:
            return  # Called from below: the loop goes on with it.
        replica.is_giving_out = True
        try:
            while (fetch := replica.wanted) is not None and replica.reading is not None:
                data = replica.reading.take(replica.known_end)
                if data is None:
                    break
                replica.wanted, replica.idle_seconds = None, 0.0
                self._act(replica, replica.progress.received(fetch.offset, data))
        finally:
            replica.is_giving_out = False

    def _answered(
        self, replica: Replica, fetch: Fetch, reply: Reply | ClientError, took_seconds: float
    ) -> None:
        """There are no bytes where they were due."""
        if isinstance(reply, ClientError):
            self._look.set()
            return
        name, progress = replica.name, replica.progress
        try:
            got = fetch_result(reply, name.topic, name.partition, fetch.offset)
        except ClientError as error:
            _log.warning("The master refused a fetch", partition=str(name), reason=str(error))
            self._fetch_later(replica, fetch)
            return
        if isinstance(got, Moved):
            self._act(replica, progress.moved(got.offset))
        else:
            action = progress.nothing_new()
            has_waited = took_seconds * 1000 >= self._wait_ms() / 2
            if isinstance(action, Fetch) and not has_waited:
                self._fetch_later(replica, action)
            elif action is not None:
                self._act(replica, action)

    def _locate(self, replica: Replica, offset: int) -> None:
        name = replica.name

        def answered(reply: Reply) -> None:
            try:
                segment_start = int(expect_text(reply))
            except ClientError as error:
                _log.warning("The master refused an offset query", partition=str(name), reason=str(error))
                self._fetch_later(replica, Fetch(offset, replica.progress.fetch_bytes))
                return
            self._act(replica, replica.progress.located(segment_start))

        self._ask(
            replica,
            lambda opaque: encode_offset_query(
                name.topic, self._config.slave_group, name.partition, offset, opaque
            ),
            answered,
        )

    def _ask(
        self, replica: Replica, encode: Callable[[int], bytes], answered: Callable[[Reply], None]
    ) -> None:
        """Send a query; its reply counts unless something newer was asked meanwhile."""
        if self._link is None:
            return
        ticket = replica.ticket

        def settle(reply: Reply | ClientError) -> None:
            if ticket != replica.ticket:
                return
            if isinstance(reply, ClientError):
                self._look.set()
            else:
                answered(reply)

        self._link.submit(encode, settle)

    def _fetch_later(self, replica: Replica, fetch: Fetch) -> None:
        """The master does not hold answers back: ask again after a while, each time a little later."""
        longest = self._config.slave_max_delay_ms / 1000
        replica.idle_seconds = min(replica.idle_seconds + longest / 10, longest)
        ticket = replica.ticket

        def fetch_now() -> None:
            if ticket == replica.ticket:
                self._fetch(replica, fetch)

        self._timers.schedule(replica.idle_seconds, fetch_now)

    def _wait_ms(self) -> int:
        return max(self._config.slave_max_delay_ms, 1000 * len(self._replicas) // _IDLE_POLLS_PER_SECOND)

    def _append(self, replica: Replica, append: Append) -> None:
        size = len(append.records)
        replica.unwritten_bytes += size

        def done(outcome: int | StorageError) -> None:
            replica.unwritten_bytes -= size
            if isinstance(outcome, StorageError):
                replica.failure = replica.failure or outcome
            else:
                replica.copied_bytes += size
                self._catch_up.copied_bytes += size
                replica.copied_messages += append.count
                replica.last_id = append.last_id
            self._written(replica)

        # The fetch of what follows leaves first: the network works while the disk does. What of it is here
        # already is handed on behind this.
        is_first, replica.is_giving_out = not replica.is_giving_out, True
        self._act(replica, replica.progress.appended(append))
        self._broker.append_replica(
            replica.name,
            append.offset,
            append.records,
            append.count,
            append.last_id,
            done,
            begins_segment=append.begins_segment,
        )
        if is_first:
            replica.is_giving_out = False
            self._give_out(replica)

    def _written(self, replica: Replica) -> None:
        if replica.failure is not None:
            replica.ticket += 1
            replica.paused = replica.wanted = replica.deferred = None
            if replica.unwritten_bytes == 0:
                self._recover(replica, replica.failure)
        elif replica.deferred is not None and replica.unwritten_bytes == 0:
            action, replica.deferred = replica.deferred, None
            self._act(replica, action)
        elif replica.paused is not None and replica.unwritten_bytes <= _UNWRITTEN_BYTES_MAX:
            fetch, replica.paused = replica.paused, None
            self._fetch(replica, fetch)

    def _recover(self, replica: Replica, failure: Exception) -> None:
        """All that was handed to the log has come back, some of it refused."""
        log = self._broker.store.partitions[replica.name]
        replica.progress.rewind(log.end_offset, log.last_segment_start)
        is_full = isinstance(failure, DiskFullError) or (isinstance(failure, OSError) and is_no_room(failure))
        if not is_full:
            self._act(replica, replica.progress.append_failed(str(failure)))
            return
        replica.failure = failure
        _log.warning(
            "Replication waits for room on the disk", partition=str(replica.name), reason=str(failure)
        )

        def try_again() -> None:
            replica.failure = None  # The next refresh starts the partition from its end.

        self._timers.schedule(_RETRY_SECONDS, try_again)
