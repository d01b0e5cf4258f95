"""Reads one partition for a consumer: fetches ahead, from whichever replica, and hands messages out in order.

No task: it acts when a reply, a timer or the consumer calls it. One request is under way at a time.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import anyio
import attrs

from metaserver.client.backoff import Backoff
from metaserver.client.connection import DEFAULT_GROUP, FETCH_BYTES_MAX, expect_text, fetch_result
from metaserver.client.headers import answer_search
from metaserver.client.messages import Fetched, Moved
from metaserver.client.pool import NOT_YET
from metaserver.client.received import decode_messages
from metaserver.epochs import EpochChain, LogHistory, common_end
from metaserver.errors import BrokerUnreachableError, ClientError, ReplyError
from metaserver.logs import get_logger
from metaserver.message import scan
from metaserver.names import MAX_OFFSET
from metaserver.protocol import Result, Status, Value, encode_epochs_query, encode_get, with_condition
from metaserver.unread_epochs import UnreadEpochs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.client.cluster import Address
    from metaserver.client.connection import BrokerConnection, Reply
    from metaserver.client.network import Network
    from metaserver.client.partition import Partition
    from metaserver.client.read_options import ReadOptions
    from metaserver.client.received import ReceivedMessage
    from metaserver.client.replica_choice import ReplicaChoice
    from metaserver.registry.paths import Replica
    from metaserver.timers import Timer
    from metaserver.unread_epochs import Stretch

_log = get_logger(__name__)

_RETRY_SECONDS_MIN = 0.05
_RETRY_SECONDS_MAX = 2.0
_ANSWER_SECONDS = 10.0
"""How long an answer may take beyond the wait that was asked for."""
_CONNECT_SECONDS = 3.0
"""A replica that cannot be connected to in this time is left for another."""
_CONTRADICTIONS_MAX = 6
_MISREADS_MAX = 5
"""So often a broker is asked for what it must give, find damaged, or pass over."""


@attrs.define(eq=False)
class Surroundings:
    """What all readers of a consumer share."""

    group: str
    options: ReadOptions
    network: Network
    choice: ReplicaChoice
    on_messages: Callable[[PartitionReader], None]
    """Told when a reader without messages has some."""
    on_moved: Callable[[PartitionReader, int], None]
    """Told when a broker has said that the reader must go on at another offset."""
    on_lost: Callable[[PartitionReader, int], None]
    """Told when what was read from there on is not in the log any more: the reader begins there again."""
    on_history: Callable[[PartitionReader], None]
    """Told when the log is another master's now, which may have set back what groups have stored."""
    condition: str = ""
    """Which messages are wanted; a broker may leave others out, and need not."""


@attrs.define(eq=False)
class PartitionReader:
    """One partition, from an offset on."""

    partition: Partition
    around: Surroundings
    position: int
    """Of the next fetch."""
    stored_id: int | None = None
    """Of the last message before it, where both were stored; None, and below 0: not known."""
    history: EpochChain | None = None
    """Of the log that was read so far; None: nobody has told."""
    messages: deque[ReceivedMessage] = attrs.Factory(deque)
    """Fetched and not handed out."""
    held_bytes: int = 0
    is_paused: bool = False
    problem: str = ""
    """Why nothing comes; blank where nothing is wrong."""
    end_offset: int | None = None
    """Of the log, as far as it was seen to reach."""
    served_by: Replica | None = None
    """Who gave the last messages."""
    _replica: Replica | None = None
    _address: Address | None = None
    """Where that is asked, or connected to."""
    _is_open: bool = True
    _ticket: int = 0
    """Of the request under way, or of the pause before the next; what belongs to an older one is dropped."""
    _is_busy: bool = False
    """Whether a request, or a pause, is under way."""
    _size_max: int = 0
    _idle_seconds: float = 0.0
    _waited_for: float | None = None
    """Since when the replica chosen is being connected to."""
    _is_refused: bool = False
    """Whether a broker does not understand the condition: it is not told again."""
    _jumps: dict[int, int] = attrs.Factory(dict)
    """Ranges that were left out behind messages not yet dealt with: where they begin and end."""
    _misread: int = 0
    """How often, one after the other, there was no record where one had to begin."""
    _contradictions: int = 0
    """How often who is announced as master has not known of the newest epoch."""
    _told: dict[Replica, EpochChain] = attrs.Factory(dict)
    """What each replica has said last."""
    _compared: dict[Replica, BrokerConnection] = attrs.Factory(dict)
    """Over which connection a replica's history was last compared with that."""
    _backoff: Backoff = attrs.Factory(lambda: Backoff(_RETRY_SECONDS_MIN, _RETRY_SECONDS_MAX))

    def start(self) -> None:
        """Begin to fetch."""
        self._size_max = self.around.options.fetch_bytes
        self.around.network.discovery.listen(self._follow)
        self.fetch()

    def behind(self, offset: int) -> int:
        """Where the log goes on behind a message that ends there: what was left out is dealt with too."""
        found = self._jumps.get(offset, offset)
        self._jumps = {start: end for start, end in self._jumps.items() if start > offset}
        return found

    def stop(self) -> None:
        """Fetch no more, and hand nothing out any more."""
        self._is_open = False
        self._ticket += 1
        self.around.network.discovery.ignore(self._follow)
        self.messages.clear()
        self.held_bytes = 0
        self.around.choice.forget(self.partition)

    def seek(self, offset: int) -> None:
        """Go on at another offset; what was fetched is dropped."""
        self.messages.clear()
        self._jumps.clear()
        self.held_bytes = 0
        self.position, self.stored_id = offset, None
        self._ticket += 1
        self._is_busy = False
        self.fetch()

    def take(self) -> ReceivedMessage:
        """The next message; there must be one."""
        message = self.messages.popleft()
        self.held_bytes -= message.next_offset - message.offset
        if not self._is_busy and self.held_bytes < self.around.options.prefetch_bytes // 2:
            self.fetch()
        return message

    def give_back(self, messages: Sequence[ReceivedMessage]) -> None:
        """Put messages that were taken in front again, in their order; stopped, they are dropped."""
        if self._is_open:
            self.messages.extendleft(reversed(messages))
            self.held_bytes += sum(message.next_offset - message.offset for message in messages)

    def fetch(self) -> None:
        """Ask for more, unless that is under way, or enough waits."""
        if (
            self._is_busy
            or not self._is_open
            or self.is_paused
            or self.held_bytes >= self.around.options.prefetch_bytes
        ):
            return
        around, now = self.around, anyio.current_time()
        replicas = around.network.discovery.cluster.replicas(self.partition)
        replica = around.choice.choose(self.partition, replicas, now) or self._reachable(replicas, now)
        if replica is None:
            self.problem = "no replica can be reached" if replicas else "no broker announces it"
            self._again_in(self._backoff.next_seconds())
            return
        self._address = around.network.discovery.cluster.brokers[replica]
        link = around.network.pool.link(self._address)
        connection = link.usable
        if connection is None:
            self._wait_for_connection(replica, link.problem, now)
            return
        self._waited_for = None
        self.problem = ""
        self._replica = replica
        if self._must_compare(connection, replica):
            self._compare(connection, replica)
            return
        self._get(connection, replica)

    def _follow(self) -> None:
        """Another broker may have the place of the one asked: what that one still says is not waited for.

        A master that is one no more and does not know it gives what is nobody's but its own.
        """
        if self._replica is None:
            return
        address = self.around.network.discovery.cluster.brokers.get(self._replica)
        if address is not None and address != self._address:
            self._waited_for = None
            self._ticket += 1
            self._is_busy = False
            self.fetch()

    def _get(self, connection: BrokerConnection, replica: Replica) -> None:
        options = self.around.options
        is_slave = replica.slave_id is not None
        self._ask(connection, replica, options.slave_wait_ms if is_slave else options.wait_ms)

    def _reachable(self, replicas: Sequence[Replica], now: float) -> Replica | None:
        """All were left. One that can be reached again is returned to at once: there is nobody else."""
        network, choice = self.around.network, self.around.choice
        for replica in replicas:
            if network.pool.link(network.discovery.cluster.brokers[replica]).usable is not None:
                choice.is_back(replica)
        return choice.choose(self.partition, replicas, now)

    def _wait_for_connection(self, replica: Replica, problem: str, now: float) -> None:
        if self._replica != replica or self._waited_for is None:
            self._replica, self._waited_for = replica, now
        others = self.around.network.discovery.cluster.replicas(self.partition)
        if now - self._waited_for > _CONNECT_SECONDS or (len(others) > 1 and problem != NOT_YET):
            self._leave(replica, problem)
            self.fetch()
            return
        if problem != NOT_YET:
            self.problem = problem
        self._again_in(_RETRY_SECONDS_MIN)

    def _leave(self, replica: Replica, problem: str) -> None:
        self.problem = problem
        self._waited_for = None
        self.around.choice.is_away(replica, anyio.current_time())

    def _must_compare(self, connection: BrokerConnection, replica: Replica) -> bool:
        """Whether this may be another log than the one that was read: it changes only between connections."""
        return "epochs" in connection.extensions and self._compared.get(replica) is not connection

    def _compare(self, connection: BrokerConnection, replica: Replica) -> None:
        """Ask whose bytes a replica holds, before anything is read there."""
        partition = self.partition

        def told(reply: Reply) -> None:
            if not isinstance(reply, Result) or reply.status != Status.NOT_FOUND:
                chain = EpochChain.parse(expect_text(reply))
                if self._take_history(replica, chain):
                    self._prove(connection, replica, chain)
            elif replica.slave_id is None:
                # Nobody has sent to it yet, and once somebody has there is a history to be asked for.
                self._get(connection, replica)
            else:
                self._lags(replica)

        encode = partial(encode_epochs_query, partition.topic, partition.number, 0)
        self._inquire(connection, replica, encode, told)

    def _prove(self, connection: BrokerConnection, replica: Replica, chain: EpochChain) -> None:
        """Ask whether an offset that was stored is of this log, and go back to what the group has not read.

        Whoever has stored it may have read the log of a master that was one no more.
        """
        partition = self.partition
        search = UnreadEpochs(chain, self.position, self.stored_id)

        def ask() -> None:
            asked = None if self.history is not None else search.asked
            if asked is None:
                if search.found is not None:
                    self._lost(search.found)
                self._compared[replica] = connection
                self.fetch()
                return
            # Not as the group, for which the broker may leave messages out.
            where = (partition.topic, DEFAULT_GROUP, partition.number, asked.offset, asked.size)
            self._inquire(connection, replica, partial(encode_get, *where), partial(told, asked))

        def told(asked: Stretch, reply: Reply) -> None:
            if isinstance(reply, Result) and reply.status == Status.FORBIDDEN:
                self._idle(has_waited=False)
            elif answer_search(search, asked, reply, is_master=replica.slave_id is None):
                ask()
            else:
                self._lags(replica)

        ask()

    def _inquire(
        self,
        connection: BrokerConnection,
        replica: Replica,
        encode: Callable[[int], bytes],
        told: Callable[[Reply], None],
    ) -> None:
        """Ask something beside the messages; ``told`` may raise what it raises for a reply to a fetch."""
        self._is_busy = True
        self._ticket += 1
        timers, ticket = self.around.network.timers, self._ticket
        silent = partial(connection.break_off, f"no answer within {_ANSWER_SECONDS:g} s")
        timer = timers.schedule(_ANSWER_SECONDS, silent)

        def answered(reply: Reply | ClientError) -> None:
            timers.cancel(timer)
            if ticket != self._ticket or not self._is_open:
                return
            self._is_busy = False
            try:
                if isinstance(reply, ClientError):
                    raise reply
                told(reply)
            except BrokerUnreachableError as error:
                self._leave(replica, error.reason)
                self._again_in(0.0)
            except (ClientError, ValueError) as error:
                self._cannot_read(replica, str(error) or "the answer cannot be read")

        connection.submit(encode, answered)

    def _lags(self, replica: Replica) -> None:
        """It does not have what others have: they are asked."""
        self.around.choice.lags(replica, self.partition, anyio.current_time())
        self._again_in(0.0)

    def _take_history(self, replica: Replica, told: EpochChain) -> bool:
        """Compare with what was read, and go back where that is gone; False: do not ask this replica."""
        known = self.history
        if known is not None and self.position != MAX_OFFSET:
            position = self.position
            common = common_end(LogHistory(known, 0, position), LogHistory(told, 0, position)) or 0
            self._contradictions += told.number < known.number and replica.slave_id is None
            if told.number < known.number and self._contradictions < _CONTRADICTIONS_MAX:
                # An old master that has not heard of the new one yet, or a slave that has not: what it has
                # may part from the log anywhere, also behind what was read. Who is still announced as master
                # after a while is right: the newest epoch was of a master that is gone, with what it wrote.
                self._cannot_read(replica, f"it has not followed the master beyond {common} yet")
                return False
            if common < self.position:
                self._lost(common)
        self._told[replica] = told
        if known is not None and told != known:
            self._know(told, replica)
            self.around.on_history(self)
        return True

    def _know(self, told: EpochChain, by: Replica) -> None:
        """What was read is of this log; others that agreed with what was known before need not."""
        self.history = told
        self._contradictions = 0
        self._compared = {one: link for one, link in self._compared.items() if one == by}

    def _lost(self, offset: int) -> None:
        """What was read from ``offset`` on is gone: begin there again."""
        _log.warning(
            "The log has lost what was read from it",
            partition=str(self.partition),
            read_to=self.position,
            now=offset,
        )
        while self.messages and self.messages[-1].next_offset > offset:
            message = self.messages.pop()
            self.held_bytes -= message.next_offset - message.offset
        self.position, self.stored_id = offset, None
        self.end_offset = None
        self._jumps.clear()
        self.around.on_lost(self, offset)

    def _ask(
        self,
        connection: BrokerConnection,
        replica: Replica,
        wait_ms: int,
        answered: Callable[[_Question, Reply | ClientError], None] | None = None,
    ) -> None:
        self._is_busy = True
        self._ticket += 1
        around, partition, position, size_max = self.around, self.partition, self.position, self._size_max
        if "long-poll" not in connection.extensions:
            wait_ms = 0
        late_seconds = wait_ms / 1000 + _ANSWER_SECONDS
        silent = partial(connection.break_off, f"no answer within {late_seconds:g} s")
        timer = around.network.timers.schedule(late_seconds, silent)
        asked = _Question(self._ticket, replica, position, wait_ms, anyio.current_time(), timer)
        condition = None
        if "filter" in connection.extensions:
            condition = "" if self._is_refused else around.condition

        def encode(opaque: int) -> bytes:
            line = encode_get(
                partition.topic, around.group, partition.number, position, size_max, opaque, wait_ms
            )
            return line if condition is None else with_condition(line, wait_ms, condition)

        connection.submit(encode, partial(answered or self._answered, asked))

    def _answered(self, asked: _Question, reply: Reply | ClientError) -> None:
        self.around.network.timers.cancel(asked.timer)
        if asked.ticket != self._ticket or not self._is_open:
            return
        self._is_busy = False
        try:
            if isinstance(reply, ClientError):
                raise reply
            got = fetch_result(reply, self.partition.topic, self.partition.number, asked.offset)
        except ReplyError as error:
            if error.status == Status.BAD_REQUEST and self.around.condition and not self._is_refused:
                # It knows another language of conditions. What it sends too much is left out here.
                _log.warning("A broker refuses the filter", partition=str(self.partition), reason=error.text)
                self._is_refused = True
                self.fetch()
                return
            self._cannot_read(asked.replica, str(error))
            return
        except BrokerUnreachableError as error:
            self._leave(asked.replica, error.reason)
            self._again_in(0.0)
            return
        except (ClientError, ValueError) as error:
            self._cannot_read(asked.replica, str(error) or "the answer cannot be read")
            return
        if isinstance(got, Fetched):
            self._received(asked, got)
        elif isinstance(got, Moved) and got.skipped_from is not None:
            self._skipped(asked, got.skipped_from, got.offset)
        elif isinstance(got, Moved):
            self._moved(asked, got.offset)
        else:
            self._nothing(asked)

    def _received(self, asked: _Question, got: Fetched) -> None:
        messages, end = decode_messages(self.partition, got.offset, got.data)
        if not messages:
            self._undecodable(asked, got)
            return
        if self.history is None and (told := self._told.get(asked.replica)) is not None:
            # Only now: of a replica that gave nothing nothing was read, and it may be far behind.
            self._know(told, asked.replica)
        self.problem = ""
        self._misread = 0
        self.served_by = asked.replica
        self._idle_seconds = 0.0
        self._backoff.reset()
        self._size_max = self.around.options.fetch_bytes
        self.around.choice.served(asked.replica, self.partition)
        was_empty = not self.messages
        self.position = end
        self.held_bytes += end - got.offset
        self.end_offset = max(self.end_offset or 0, got.offset + len(got.data))
        self.messages.extend(messages)
        self.fetch()
        if was_empty:
            self.around.on_messages(self)

    def _undecodable(self, asked: _Question, got: Fetched) -> None:
        is_cut = scan(got.data).fault is None
        if is_cut and len(got.data) >= self._size_max and self._size_max < FETCH_BYTES_MAX:
            self._size_max *= 2
            self.fetch()
            return
        self._misread += 1
        told = self._told.get(asked.replica)
        begin = None if told is None else told.begin_before(got.offset)
        if self._misread >= _MISREADS_MAX and begin is not None:
            # Damage the broker would have passed over by now: so no record begins here. The offset was stored
            # of another log, which a master wrote that was one no more, and what is here was never read.
            self._misread = 0
            self._lost(begin)
            self.fetch()
            return
        reason = f"no whole, valid record in {len(got.data)} bytes at offset {got.offset}"
        self._cannot_read(asked.replica, reason)

    def _moved(self, asked: _Question, offset: int) -> None:
        is_slave = asked.replica.slave_id is not None
        if is_slave and asked.offset != MAX_OFFSET and (offset < asked.offset or self._master() is not None):
            # It lost its tail, or begins later than the master: the master decides.
            self._lags(asked.replica)
            return
        if offset == asked.offset:
            self._again_in(self._backoff.next_seconds())
            return
        _log.info("Offset moved", partition=str(self.partition), asked=asked.offset, now=offset)
        self.position, self.stored_id = offset, None
        if offset < asked.offset:
            self._jumps.clear()  # The log lost its end: what was skipped there may be something else now.
        self.around.on_moved(self, offset)
        self.fetch()

    def _skipped(self, asked: _Question, start: int, offset: int) -> None:
        """The broker has looked at everything from there to there, and nothing of it is wanted."""
        if not start == asked.offset < offset:
            reason = f"the range {start} to {offset} was skipped where {asked.offset} was asked for"
            self._cannot_read(asked.replica, reason)
            return
        self.problem = ""
        self._idle_seconds = 0.0
        self._backoff.reset()
        self.around.choice.served(asked.replica, self.partition)
        self.position, self.stored_id = offset, None
        self.end_offset = max(self.end_offset or 0, offset)
        begins = next((start for start, end in self._jumps.items() if end == asked.offset), asked.offset)
        self._jumps[begins] = offset
        self.around.on_moved(self, offset)
        self.fetch()

    def _nothing(self, asked: _Question) -> None:
        if asked.offset != MAX_OFFSET:
            self.end_offset = max(self.end_offset or 0, asked.offset)
        waited_seconds = anyio.current_time() - asked.at
        has_waited = asked.wait_ms > 0 and waited_seconds * 1000 >= asked.wait_ms / 2
        self.problem = ""
        master = None if asked.replica.slave_id is None else self._master()
        if master is not None:
            network = self.around.network
            connection = network.pool.link(network.discovery.cluster.brokers[master]).usable
            if connection is not None and self._must_compare(connection, master):
                self._compare(connection, master)
                return
            if connection is not None:
                self._probe(connection, asked.replica, has_waited=has_waited)
                return
        self._idle(has_waited=has_waited)

    def _master(self) -> Replica | None:
        """The partition's master, where one is announced."""
        replicas = self.around.network.discovery.cluster.replicas(self.partition)
        return next((replica for replica in replicas if replica.slave_id is None), None)

    def _idle(self, *, has_waited: bool) -> None:
        """There is nothing: ask again, at once where the broker has waited for us."""
        if has_waited:
            self._idle_seconds = 0.0
            self.fetch()
            return
        # Answered at once: the broker knows no long poll, has no such partition (yet), or ends before.
        self._idle_seconds = min(
            self._idle_seconds + self.around.options.poll_seconds_max / 10,
            self.around.options.poll_seconds_max,
        )
        self._again_in(self._idle_seconds)

    def _probe(self, connection: BrokerConnection, slave: Replica, *, has_waited: bool) -> None:
        """The slave has nothing; ask whether the master has."""

        def answered(asked: _Question, reply: Reply | ClientError) -> None:
            self.around.network.timers.cancel(asked.timer)
            if asked.ticket != self._ticket or not self._is_open:
                return
            is_moved = isinstance(reply, Result) and reply.status == Status.MOVED
            if is_moved or isinstance(reply, Value):
                self.around.choice.lags(slave, self.partition, anyio.current_time())
                self._answered(asked, reply)
                return
            # Neither has anything, or the master cannot say: wait at the slave again.
            self._is_busy = False
            self._idle(has_waited=has_waited)

        self._ask(connection, attrs.evolve(slave, slave_id=None), 0, answered)

    def _cannot_read(self, replica: Replica, reason: str) -> None:
        if reason != self.problem:
            _log.warning("Fetch failed", partition=str(self.partition), replica=str(replica), reason=reason)
        self.problem = reason
        self.around.choice.lags(replica, self.partition, anyio.current_time())
        self._again_in(self._backoff.next_seconds())

    def _again_in(self, seconds: float) -> None:
        self._is_busy = True
        self._ticket += 1
        ticket = self._ticket

        def again() -> None:
            if ticket == self._ticket and self._is_open:
                self._is_busy = False
                self.fetch()

        self.around.network.timers.schedule(seconds, again)


@attrs.frozen
class _Question:
    """A request under way."""

    ticket: int
    replica: Replica
    offset: int
    wait_ms: int
    at: float
    timer: Timer
