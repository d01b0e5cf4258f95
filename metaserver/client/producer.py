"""Sends messages: chooses partitions, gathers batches, repeats what may be repeated, says what is known.

One request per partition is under way at a time, so nothing overtakes a message that has to be sent again.
Everything happens in synchronous calls on the loop (from senders, replies and timers); there is no task for a
message or a partition.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from metaserver.client.backoff import Backoff
from metaserver.client.lane import Lane, Outgoing, Sent
from metaserver.client.partition import Partition
from metaserver.client.pending_send import PendingSend, SendGroup, reason_of
from metaserver.client.put_request import acknowledged, put_request
from metaserver.client.selectors import KeyHash
from metaserver.client.transactions import open_transaction
from metaserver.errors import (
    UNCLEAR_TEXT,
    BrokerUnreachableError,
    ClientError,
    NoPartitionError,
    ReplyError,
    SendError,
    SendFailedError,
    SendManyError,
    SendRefusedError,
    SendUnknownError,
)
from metaserver.logs import get_logger
from metaserver.message import join_attribute
from metaserver.protocol import STORED_TEXT, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from metaserver.client.connection import BrokerConnection, Reply
    from metaserver.client.forwarding import Forwarder
    from metaserver.client.messages import OutgoingMessage
    from metaserver.client.network import Network
    from metaserver.client.pool import BrokerLink
    from metaserver.client.producer_options import ProducerOptions
    from metaserver.client.selectors import Selector
    from metaserver.client.transactions import Transaction
    from metaserver.timers import Timer

_log = get_logger(__name__)

_RETRY_SECONDS_MIN = 0.02
_RETRY_SECONDS_MAX = 1.0
_SWEEP_SECONDS = 0.1
"""How often messages whose time is over are looked for, while any wait."""
_CLOSED_SECONDS = 1.0
"""How long a partition that was closed is not chosen."""
_HELD_BYTES_PER_MESSAGE = 400
"""Of this process's memory, beside the data."""
_YIELD_MESSAGES = 500
"""``send_many`` lets others run after so many messages."""


class Producer:
    """Made by :meth:`metaserver.client.Session.producer`."""

    def __init__(
        self,
        network: Network,
        options: ProducerOptions,
        selector: Selector | None = None,
        forwarder: Forwarder | None = None,
    ) -> None:
        """Use the session's method."""
        self.options = options
        self._discovery = network.discovery
        self._network = network
        self._timers = network.timers
        self._selector = selector or KeyHash()
        self._forwarder = forwarder
        self._lanes: dict[Partition, Lane] = {}
        self._backoffs: dict[Partition, Backoff] = {}
        self._writable: dict[str, tuple[Partition, ...]] = {}
        """Of topics, as the cluster has it now."""
        self._followed: set[str] = set()
        """Topics the registry was asked for."""
        self._seen: set[str] = set()
        """Topics that had a partition once: one without is waited for."""
        self._parked: list[Outgoing] = []
        """Messages for which there is no partition now."""
        self._links: dict[Partition, BrokerLink] = {}
        """Where the lanes send to."""
        self._listeners: dict[Partition, Callable[[], None]] = {}
        """What the links call; one for each lane, for links know them by identity."""
        self._closed_until = 0.0
        """Until when some lane may be closed."""
        self._buffered_bytes = self._buffered = 0
        self._change = anyio.Event()
        """Set when the cluster has changed."""
        self._room = anyio.Event()
        self._drained = anyio.Event()
        self._is_full = self._is_sweeping = False
        """Whether somebody waits for room; whether the next sweep is scheduled."""
        self._is_open = True
        network.discovery.listen(self._cluster_changed)

    # For applications.

    async def send(
        self,
        topic: str,
        payload: bytes,
        *,
        attribute: str | None = None,
        key: bytes | None = None,
        partition: Partition | None = None,
    ) -> Sent:
        """Send one message and wait until a broker has taken it.

        Raises NoPartitionError (nobody takes such messages), SendRefusedError, SendFailedError (both: it is
        not stored) and SendUnknownError (it may be). Cancelled, the message goes its way all the same.
        """
        await self._prepare(topic)
        await self.wait_for_room()
        pending = PendingSend()
        now = anyio.current_time()
        self._submit(self._outgoing(topic, payload, attribute, key, partition, pending.settle, now), now)
        return await pending.wait()

    async def send_many(self, topic: str, messages: Iterable[bytes | OutgoingMessage]) -> list[Sent]:
        """Send messages in order, each partition's in batches, and wait for all of them.

        Raises SendManyError, which holds the outcome of each, where one was not acknowledged. Cancelled,
        those handed over go their way.
        """
        await self._prepare(topic)
        outcomes = await self._send_group(topic, list(messages), is_forwarded=False)
        sent = [outcome for outcome in outcomes if isinstance(outcome, Sent)]
        if len(sent) != len(outcomes):
            raise SendManyError(tuple(outcomes))
        return sent

    def transaction(self, *, timeout_seconds: int = 0) -> AbstractAsyncContextManager[Transaction]:
        """Messages that are taken together at the end of the block, or not at all."""
        return open_transaction(self._network, self._selector, self.partitions, timeout_seconds)

    async def send_stored(self, topic: str, messages: Sequence[OutgoingMessage]) -> list[Sent | SendError]:
        """Send what was in the local store, past all that waits there; the outcome of each."""
        await self._prepare(topic)
        return await self._send_group(topic, messages, is_forwarded=True)

    async def _send_group(
        self, topic: str, messages: Sequence[bytes | OutgoingMessage], *, is_forwarded: bool
    ) -> list[Sent | SendError]:
        group = SendGroup([None] * len(messages), len(messages))
        now = anyio.current_time()
        for index, message in enumerate(messages):
            if self._buffered_bytes >= self.options.buffer_bytes_max:
                self._pump_all()
                await self.wait_for_room()
            elif index % _YIELD_MESSAGES == _YIELD_MESSAGES - 1:
                self._pump_all()
                await anyio.lowlevel.checkpoint()
                now = anyio.current_time()
            settle = partial(group.settle, index)
            if isinstance(message, bytes):
                outgoing = self._outgoing(topic, message, None, None, None, settle, now)
            else:
                outgoing = self._outgoing(
                    topic, message.payload, message.attribute, message.key, message.partition, settle, now
                )
            outgoing.is_forwarded = is_forwarded
            try:
                self._hand_over(outgoing, now)
            except NoPartitionError as error:
                group.settle(index, SendFailedError(topic, "", error.reason, 0))
        self._pump_all()
        if messages:
            await group.is_complete.wait()
        return [outcome for outcome in group.outcomes if outcome is not None]

    def send_nowait(
        self,
        topic: str,
        payload: bytes,
        *,
        attribute: str | None = None,
        key: bytes | None = None,
        partition: Partition | None = None,
        callback: Callable[[Sent | SendError], None] | None = None,
    ) -> PendingSend:
        """Hand a message over and return; wait for its fate later, or have it told to ``callback``.

        What the callback raises is logged. Raises anyio.WouldBlock where the buffer is full
        (:meth:`wait_for_room`), and NoPartitionError.
        """
        if self._buffered_bytes >= self.options.buffer_bytes_max:
            raise anyio.WouldBlock
        pending = PendingSend(callback=callback)
        now = anyio.current_time()
        self._submit(self._outgoing(topic, payload, attribute, key, partition, pending.settle, now), now)
        return pending

    async def wait_for_room(self) -> None:
        """Returns when ``send_nowait`` would take a message."""
        while self._buffered_bytes >= self.options.buffer_bytes_max:
            # One for all who wait: each is woken by it.
            if self._room.is_set():
                self._room = anyio.Event()
            self._is_full = True
            await self._room.wait()

    async def partitions(self, topic: str) -> tuple[Partition, ...]:
        """Where messages of the topic may go now; raises DiscoveryError."""
        await self._prepare(topic)
        return self._partitions(topic)

    async def flush(self) -> None:
        """Returns when the fate of every message handed over so far is known; bounded by their time-outs.

        Those that linger for company are sent at once.
        """
        for lane in self._lanes.values():
            lane.hurry()
        self._pump_all()
        while self._buffered:
            if self._drained.is_set():
                self._drained = anyio.Event()
            await self._drained.wait()

    @property
    def buffered(self) -> int:
        """Messages whose fate is not known."""
        return self._buffered

    def close(self) -> None:
        """Take no more; what is still here is settled now, each as what is known of it."""
        self._is_open = False
        self._discovery.ignore(self._cluster_changed)
        for partition, link in list(self._links.items()):
            link.ignore(self._link_listener(partition))
        parked, self._parked = self._parked, []
        for message in parked:
            self._give_up(message, "the producer was closed")
        for lane in self._lanes.values():
            for message in lane.drain(only_free=False):
                self._give_up(message, "the producer was closed")
            for message in lane.answered():
                message.may_be_stored = True
                self._give_up(message, "the producer was closed before the answer came")

    # Handing over.

    async def _prepare(self, topic: str) -> None:
        if topic in self._followed and topic in self._writable:
            return
        topics = [topic] if self.options.default_topic is None else [topic, self.options.default_topic]
        await self._discovery.want(topics, self.options.timeout_seconds)
        self._followed.add(topic)
        with anyio.move_on_after(self.options.announce_seconds):
            while not self._partitions(topic) and not self._is_expected(topic):
                if self._change.is_set():
                    self._change = anyio.Event()
                await self._change.wait()

    def _submit(self, message: Outgoing, now: float) -> None:
        lane = self._hand_over(message, now)
        if lane is not None:
            self._pump(lane)

    def _outgoing(
        self,
        topic: str,
        payload: bytes,
        attribute: str | None,
        key: bytes | None,
        target: Partition | None,
        settle: Callable[[Sent | SendError], None],
        now: float,
    ) -> Outgoing:
        flag, data = (0, payload) if attribute is None else join_attribute(attribute, payload)
        deadline = now + self.options.timeout_seconds
        return Outgoing(topic, data, flag, payload, attribute, key, target, deadline, settle)

    def _hand_over(self, message: Outgoing, now: float) -> Lane | None:
        """The lane that has it now; None where it waits for one."""
        if not self._is_open:
            raise SendFailedError(message.topic, "", "the producer is closed", 0)
        self._buffered += 1
        self._buffered_bytes += len(message.data) + _HELD_BYTES_PER_MESSAGE
        if not self._is_sweeping:
            self._is_sweeping = True
            self._timers.schedule(_SWEEP_SECONDS, self._sweep)
        try:
            return self._route(message, now)
        except BaseException:
            self._forget(message)
            raise

    def _route(self, message: Outgoing, now: float) -> Lane | None:
        """Put a message into a lane, or where it waits for one; raises NoPartitionError."""
        topic, target = message.topic, message.target
        if self._forwarder is not None and not message.is_forwarded and self._forwarder.has_backlog(topic):
            self._keep(message, "behind others that wait in the local store")
            return None
        partitions = self._partitions(topic)
        if target is not None and self._may_come(target, partitions):
            chosen = target
        elif target is not None and partitions:
            raise NoPartitionError(topic, f"{target.in_topic} is none of its partitions")
        elif partitions:
            try:
                # A key keeps to its partition, closed or not, or its messages would overtake each other.
                usable = partitions if message.key is not None else self._open_ones(partitions, now)
                chosen = self._selector(topic, usable, message.key, message.payload)
            except NoPartitionError as error:
                if self._forwarder is None or message.is_forwarded:
                    raise
                self._keep(message, str(error))
                return None
        elif self._is_expected(topic):
            self._parked.append(message)
            return None
        else:
            raise NoPartitionError(topic, "no broker announces that it takes messages of it")
        lane = self._lane(chosen)
        lane.add(message, now)
        return lane

    def _lane(self, partition: Partition) -> Lane:
        lane = self._lanes.get(partition)
        if lane is None:
            options = self.options
            lane = self._lanes[partition] = Lane(
                partition, options.batch_bytes_max, options.batch_messages_max, options.linger_seconds
            )
        return lane

    def _may_come(self, target: Partition, partitions: tuple[Partition, ...]) -> bool:
        """Whether a partition is there, or may be there again: its broker is away."""
        return target in partitions or (
            target.topic in self._seen and all(p.broker_id != target.broker_id for p in partitions)
        )

    def _partitions(self, topic: str) -> tuple[Partition, ...]:
        found = self._writable.get(topic)
        if found is None:
            cluster = self._discovery.cluster
            found = cluster.writable(topic)
            if not found and self.options.default_topic is not None and topic not in self._seen:
                of_default = cluster.writable(self.options.default_topic)
                found = tuple(Partition(topic, p.broker_id, p.number) for p in of_default)
            if found:
                self._seen.add(topic)
            self._writable[topic] = found
        return found

    def _open_ones(self, partitions: tuple[Partition, ...], now: float) -> Sequence[Partition]:
        """Without those that were closed a moment ago, and those whose broker is away, if that leaves any."""
        if now >= self._closed_until:
            return partitions
        usable = [p for p in partitions if (lane := self._lanes.get(p)) is None or lane.closed_until <= now]
        return usable or partitions

    def _is_expected(self, topic: str) -> bool:
        """Whether a topic without a partition may have one again soon: its masters are away."""
        if topic in self._seen:
            return True
        replicas = self._discovery.cluster.subscribed.get(topic, {})
        return bool(replicas) and all(replica.slave_id is not None for replica in replicas)

    # Sending.

    def _pump_all(self) -> None:
        # A broker that is away sends messages to partitions that had none before.
        for lane in list(self._lanes.values()):
            if lane.waiting:
                self._pump(lane)

    def _pump(self, lane: Lane) -> None:
        """Send what is due."""
        connection = self._connection(lane.partition)
        now = anyio.current_time()
        if connection is None:
            self._reroute(lane)
            return
        messages = lane.take(now, can_batch="put-batch" in connection.extensions)
        if not messages:
            # One timer, not one for each message that comes meanwhile.
            if lane.waiting and lane.due > now and lane.timer_due != lane.due:
                lane.timer_due = lane.due
                self._timers.schedule(lane.due - now, partial(self._timer_is_due, lane))
            return
        timeout_seconds = self.options.request_timeout_seconds
        silent = partial(connection.break_off, f"no answer to a message within {timeout_seconds:g} s")
        timer = self._timers.schedule(timeout_seconds, silent)
        connection.submit(put_request(lane.partition, messages), partial(self._answered, lane, timer))

    def _timer_is_due(self, lane: Lane) -> None:
        lane.timer_due = 0.0
        self._pump(lane)

    def _connection(self, partition: Partition) -> BrokerConnection | None:
        """The connection to the partition's master; None while there is none, and then one is made."""
        link = self._links.get(partition)
        address = self._discovery.cluster.master_address(partition)
        if address is None:
            # The registry does not know it now; a connection that still stands is as good.
            return None if link is None else link.usable
        current = self._network.pool.link(address)
        if link is not current:
            if link is not None:
                link.ignore(self._link_listener(partition))
            self._links[partition] = current
            current.listen(self._link_listener(partition))
        return current.usable

    def _link_listener(self, partition: Partition) -> Callable[[], None]:
        return self._listeners.setdefault(partition, partial(self._link_changed, partition))

    def _link_changed(self, partition: Partition) -> None:
        lane = self._lanes.get(partition)
        if lane is not None and lane.waiting:
            lane.due = 0.0
            self._pump(lane)

    def _answered(self, lane: Lane, timer: Timer, reply: Reply | ClientError) -> None:
        self._timers.cancel(timer)
        messages = lane.answered()
        if not messages:
            return  # The producer was closed meanwhile.
        try:
            if isinstance(reply, ClientError):
                raise reply
            sent = acknowledged(lane.partition, messages, reply)
        except BrokerUnreachableError as error:
            self._broke(lane, messages, error)
        except ReplyError as error:
            self._refused(lane, messages, error)
        except (ClientError, ValueError) as error:
            unknown = BrokerUnreachableError(str(lane.partition), f"the answer cannot be read: {error}")
            self._broke(lane, messages, unknown)
        else:
            for message, outcome in zip(messages, sent, strict=True):
                self._settle(message, outcome)
            self._backoffs.pop(lane.partition, None)
        if lane.waiting:
            self._pump(lane)

    def _broke(self, lane: Lane, messages: list[Outgoing], error: BrokerUnreachableError) -> None:
        """There is no answer, and there will be none."""
        if error.was_sent:
            for message in messages:
                message.may_be_stored = True
        if error.was_sent and not self.options.retry_unknown:
            for message in messages:
                self._give_up(message, error.reason, lane.partition)
            messages = []
        lane.give_back(messages)
        self._pause(lane)

    def _refused(self, lane: Lane, messages: list[Outgoing], error: ReplyError) -> None:
        """The broker said no: nothing of the request is stored, with one exception."""
        if STORED_TEXT in error.text or UNCLEAR_TEXT in error.text:
            # In the log, with too few slaves, or the disk failed over it: neither success nor failure.
            self._broke(lane, messages, BrokerUnreachableError(str(lane.partition), error.text))
        elif error.status == Status.UNAVAILABLE:
            lane.refusal = error.text
            lane.give_back(messages)
            self._pause(lane)
        elif error.status == Status.FORBIDDEN:
            free = [message for message in messages if not message.is_bound]
            if self._leave(lane):
                self._route_again(lane, free)
            else:
                lane.give_back(free)
                self._pause(lane)
            for message in messages:
                if message.is_bound:
                    self._give_up(message, error.text, lane.partition, error.status)
        elif len(messages) > 1:
            # One of them is to blame.
            for message in messages:
                message.is_suspect = True
            lane.give_back(messages)
        else:
            self._give_up(messages[0], error.text, lane.partition, error.status)

    def _pause(self, lane: Lane) -> None:
        now = anyio.current_time()
        self._give_up_late(lane, now)
        backoff = self._backoffs.setdefault(lane.partition, Backoff(_RETRY_SECONDS_MIN, _RETRY_SECONDS_MAX))
        lane.pause(now + backoff.next_seconds())

    def _reroute(self, lane: Lane) -> None:
        """The lane's broker is away: what may go elsewhere does, where another broker is there."""
        if self._leave(lane):
            self._route_again(lane, lane.drain(only_free=True))

    def _leave(self, lane: Lane) -> bool:
        """Do not choose the partition for a while; tells whether there is another to choose."""
        now = anyio.current_time()
        until = lane.closed_until = self._closed_until = now + _CLOSED_SECONDS
        has_others = False
        for partition in self._partitions(lane.partition.topic):
            # Those that are away are left together, or messages would go from each to the next.
            if self._connection(partition) is None:
                self._lane(partition).closed_until = until
            elif (other := self._lanes.get(partition)) is None or other.closed_until <= now:
                has_others = True
        return has_others

    def _route_again(self, lane: Lane, messages: list[Outgoing]) -> None:
        now = anyio.current_time()
        for message in messages:
            try:
                other = self._route(message, now)
            except Exception as error:  # noqa: BLE001 - a selector is the application's
                self._give_up(message, reason_of(error), lane.partition)
                continue
            if other is not None and other is not lane:
                self._pump(other)

    # Time, and changes.

    def _cluster_changed(self) -> None:
        self._writable.clear()
        self._change.set()
        parked, self._parked = self._parked, []
        now = anyio.current_time()
        for message in parked:
            try:
                self._route(message, now)
            except NoPartitionError:
                self._parked.append(message)
            except Exception as error:  # noqa: BLE001 - as above
                self._give_up(message, reason_of(error))
        self._pump_all()

    def _sweep(self) -> None:
        """Give up what has waited too long."""
        now = anyio.current_time()
        for lane in list(self._lanes.values()):
            self._give_up_late(lane, now)
            if lane.waiting:
                self._pump(lane)
        gone = [message for message in self._parked if message.deadline <= now]
        if gone:
            self._parked = [message for message in self._parked if message.deadline > now]
            for message in gone:
                self._give_up(message, "no partition of the topic is there now")
        self._is_sweeping = bool(self._buffered)
        if self._is_sweeping:
            self._timers.schedule(_SWEEP_SECONDS, self._sweep)

    def _give_up_late(self, lane: Lane, now: float) -> None:
        link = self._links.get(lane.partition)
        reason = lane.refusal or ("no broker" if link is None else link.problem)
        for message in lane.expired(now):
            self._give_up(message, f"not sent in time: {reason}", lane.partition)

    def _give_up(
        self, message: Outgoing, reason: str, partition: Partition | None = None, status: int | None = None
    ) -> None:
        where = "" if partition is None else str(partition.in_topic)
        error: SendError
        if message.may_be_stored:
            error = SendUnknownError(message.topic, where, reason, message.attempts)
        elif status is not None:
            error = SendRefusedError(message.topic, where, reason, message.attempts, status)
        elif self._forwarder is not None and self._is_open and not message.is_forwarded:
            self._keep(message, reason)
            return
        else:
            error = SendFailedError(message.topic, where, reason, message.attempts)
        self._settle(message, error)

    def _keep(self, message: Outgoing, reason: str) -> None:
        if self._forwarder is None:
            raise AssertionError("kept only where there is a store")
        self._forwarder.keep(message, reason, partial(self._settle, message))

    def _settle(self, message: Outgoing, outcome: Sent | SendError) -> None:
        self._forget(message)
        message.settle(outcome)

    def _forget(self, message: Outgoing) -> None:
        self._buffered -= 1
        self._buffered_bytes -= len(message.data) + _HELD_BYTES_PER_MESSAGE
        if self._is_full and self._buffered_bytes < self.options.buffer_bytes_max:
            self._is_full = False
            self._room.set()
        if not self._buffered:
            self._drained.set()
