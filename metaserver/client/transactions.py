"""Messages that are taken together or not at all: local transactions, and branches of distributed ones.

::

    async with producer.transaction() as transaction:
        await transaction.send("orders", b"...")
        await transaction.send("stock", b"...")
"""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs

from metaserver.client.connection import expect_text
from metaserver.client.lane import Sent
from metaserver.client.servers import format_address
from metaserver.errors import (
    BrokerUnreachableError,
    ClientError,
    ConfigError,
    NoPartitionError,
    ReplyError,
    RequestTimeoutError,
    SendFailedError,
    SendRefusedError,
    TransactionFailedError,
    TransactionUnknownError,
    XaError,
)
from metaserver.message import join_attribute
from metaserver.protocol import (
    COMMITTED_TEXT,
    PREPARED_TEXT,
    LocalKey,
    TransactionAction,
    TransactionKey,
    XaCode,
    XaKey,
    encode_transaction,
    encode_transactional_put,
    parse_key,
    parse_xa_failure,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from metaserver.client.connection import BrokerConnection
    from metaserver.client.network import Network
    from metaserver.client.partition import Partition
    from metaserver.client.selectors import Selector

REQUEST_SECONDS = 5.0
"""For the answer to one command, as in the Java client."""


@attrs.define(eq=False)
class Transaction:
    """Made by :meth:`metaserver.client.Producer.transaction`.

    The first message chooses the broker, and the others go there too. Nobody reads them before the block has
    ended without an error; with one, or when the connection breaks, they are gone.
    """

    _network: Network
    _selector: Selector
    _partitions: Callable[[str], Awaitable[tuple[Partition, ...]]]
    _timeout_seconds: int
    key: LocalKey = attrs.Factory(lambda: LocalKey(f"py-{uuid.uuid4().hex}", 1))
    """As it stands in the broker's log."""
    _broker_id: int | None = None
    _connection: BrokerConnection | None = None
    """A transaction is of one connection; None before the first message."""
    _is_rolled_back: bool = False
    _failure: str = ""
    """Why it cannot be committed; blank while it can."""

    async def send(
        self,
        topic: str,
        payload: bytes,
        *,
        attribute: str | None = None,
        key: bytes | None = None,
        partition: Partition | None = None,
    ) -> Sent:
        """Give a message to the broker; it has its id now, and its offset only after the commit (None).

        Raises NoPartitionError, SendRefusedError and SendFailedError: the transaction can then only be
        rolled back. So it is with a cancellation.
        """
        try:
            return await self._send(topic, payload, attribute, key, partition)
        except BaseException as error:
            self._failure = self._failure or f"a message was not taken: {str(error) or type(error).__name__}"
            raise

    async def roll_back(self) -> None:
        """Drop all of it; the end of the block commits nothing then. Does not raise ClientError."""
        self._is_rolled_back = True
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await _command(connection, TransactionAction.ROLLBACK, self.key)
        except ClientError:
            return  # Its connection is gone, and the transaction with it; or its time was over.

    async def commit(self) -> None:
        """What the end of the block does."""
        if self._is_rolled_back:
            return
        if self._failure:
            await self.roll_back()
            raise TransactionFailedError(str(self.key), self._failure)
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await _command(connection, TransactionAction.COMMIT_ONE_PHASE, self.key)
        except ReplyError as error:
            if error.text.startswith(COMMITTED_TEXT):
                raise TransactionUnknownError(str(self.key), error.text) from None
            raise TransactionFailedError(str(self.key), error.text) from None
        except BrokerUnreachableError as error:
            if not error.was_sent:
                raise TransactionFailedError(str(self.key), str(error)) from None
            raise TransactionUnknownError(str(self.key), str(error)) from None
        except RequestTimeoutError as error:
            raise TransactionUnknownError(str(self.key), str(error)) from None

    async def _send(
        self, topic: str, payload: bytes, attribute: str | None, key: bytes | None, target: Partition | None
    ) -> Sent:
        if self._failure or self._is_rolled_back:
            reason = self._failure or "it was rolled back"
            raise SendFailedError(topic, "", f"the transaction is over: {reason}", 0)
        partitions = await self._partitions(topic)
        if self._broker_id is not None:
            partitions = tuple(p for p in partitions if p.broker_id == self._broker_id)
        chosen = _choose(topic, partitions, self._selector, payload, key, target)
        try:
            connection = self._connection or await self._begin(chosen)
            return await _put(connection, chosen, payload, attribute, self.key)
        except (BrokerUnreachableError, RequestTimeoutError) as error:
            raise SendFailedError(topic, str(chosen.in_topic), str(error), 1) from error

    async def _begin(self, chosen: Partition) -> BrokerConnection:
        connection = await _master(self._network, chosen)
        await _command(connection, TransactionAction.BEGIN, self.key, timeout_seconds=self._timeout_seconds)
        self._broker_id, self._connection = chosen.broker_id, connection
        return connection


@asynccontextmanager
async def open_transaction(
    network: Network,
    selector: Selector,
    partitions: Callable[[str], Awaitable[tuple[Partition, ...]]],
    timeout_seconds: int,
) -> AsyncIterator[Transaction]:
    """See :meth:`metaserver.client.Producer.transaction`."""
    transaction = Transaction(network, selector, partitions, timeout_seconds)
    try:
        yield transaction
    except BaseException:
        with anyio.move_on_after(REQUEST_SECONDS, shield=True):
            await transaction.roll_back()
        raise
    await transaction.commit()


@attrs.frozen
class Xid:
    """Names a branch of a distributed transaction, as its manager does."""

    format_id: int
    global_id: bytes
    branch: bytes = b""


@attrs.define(eq=False)
class XaResource:
    """A broker as a party of distributed transactions; made by :meth:`metaserver.client.Session.xa_resource`.

    A manager starts a branch, sends, prepares, and commits or rolls back; what was prepared outlives
    everything but that decision, and any resource of the same qualifier finds it with :meth:`recover`. All
    raise XaError with the number of the XA specification, and BrokerUnreachableError or RequestTimeoutError
    where there is no answer: then nothing is known, and the call may be repeated.
    """

    _network: Network
    _selector: Selector
    _partitions: Callable[[str], Awaitable[tuple[Partition, ...]]]
    _home: Partition
    """Any partition of the broker."""
    qualifier: str

    @property
    def broker_id(self) -> int:
        """Two resources of one broker are the same resource manager."""
        return self._home.broker_id

    async def start(self, xid: Xid, *, timeout_seconds: int = 0) -> None:
        """Begin a branch; after the time, if it is not prepared by then, it is rolled back (0: never)."""
        await self._do(
            TransactionAction.BEGIN, xid, timeout_seconds=timeout_seconds, qualifier=self.qualifier
        )

    async def send(
        self,
        xid: Xid,
        topic: str,
        payload: bytes,
        *,
        attribute: str | None = None,
        key: bytes | None = None,
        partition: Partition | None = None,
    ) -> Sent:
        """Give a message to the branch. Raises NoPartitionError and SendRefusedError as well."""
        partitions = tuple(p for p in await self._partitions(topic) if p.broker_id == self.broker_id)
        chosen = _choose(topic, partitions, self._selector, payload, key, partition)
        return await _put(await self._connection(), chosen, payload, attribute, self._key(xid))

    async def prepare(self, xid: Xid) -> bool:
        """Make it durable until it is decided; False where there was nothing to do, and it is over."""
        return await self._do(TransactionAction.PREPARE, xid) == PREPARED_TEXT

    async def commit(self, xid: Xid, *, one_phase: bool = False) -> None:
        """Append all of it, once; ``one_phase`` is for a branch that was not prepared."""
        action = TransactionAction.COMMIT_ONE_PHASE if one_phase else TransactionAction.COMMIT_TWO_PHASE
        await self._do(action, xid)

    async def roll_back(self, xid: Xid) -> None:
        """Drop all of it."""
        await self._do(TransactionAction.ROLLBACK, xid)

    async def forget(self, xid: Xid) -> None:
        """An operator's decision, told as XaError with 6 or 7, has been taken note of."""
        await self._do(TransactionAction.FORGET, xid)

    async def recover(self) -> list[Xid]:
        """The branches of this qualifier that wait for a decision, or that an operator has decided."""
        text = await self._do(TransactionAction.RECOVER, None, qualifier=self.qualifier)
        keys = [parse_key(line) for line in text.split("\r\n") if line]
        return [
            Xid(key.format_id, bytes.fromhex(key.global_id), bytes.fromhex(key.branch))
            for key in keys
            # A qualifier of digits is taken for something else, and all are told.
            if isinstance(key, XaKey) and key.qualifier == self.qualifier
        ]

    def _key(self, xid: Xid) -> XaKey:
        return XaKey(xid.format_id, xid.global_id.hex(), xid.branch.hex(), self.qualifier)

    async def _connection(self) -> BrokerConnection:
        return await _master(self._network, self._home)

    async def _do(
        self, action: TransactionAction, xid: Xid | None, *, timeout_seconds: int = 0, qualifier: str = ""
    ) -> str:
        key = None if xid is None else self._key(xid)
        connection = await self._connection()
        try:
            return await _command(
                connection, action, key, timeout_seconds=timeout_seconds, qualifier=qualifier
            )
        except ReplyError as error:
            code, message = parse_xa_failure(error.text) or (XaCode.RESOURCE_ERROR, error.text)
            raise XaError(int(code), message) from None


def check_qualifier(qualifier: str) -> None:
    """Raises ConfigError for what a key cannot hold."""
    if not qualifier or not qualifier.isprintable() or ":" in qualifier or " " in qualifier:
        raise ConfigError((f"{qualifier!r} is no qualifier: a word without colon is",))


def common_broker(
    topics: Sequence[str], partitions: Sequence[tuple[Partition, ...]], broker_id: int | None
) -> Partition:
    """A partition of a broker that takes messages of all the topics; raises NoPartitionError."""
    brokers = [{partition.broker_id for partition in found} for found in partitions]
    common = sorted(set.intersection(*brokers)) if brokers else []
    if broker_id is not None:
        common = [broker_id] if broker_id in common else []
    if not common:
        which = "no broker" if broker_id is None else f"broker {broker_id} is not one that"
        raise NoPartitionError(", ".join(topics), f"{which} takes messages of all of them")
    return next(partition for partition in partitions[0] if partition.broker_id == common[0])


def _choose(
    topic: str,
    partitions: tuple[Partition, ...],
    selector: Selector,
    payload: bytes,
    key: bytes | None,
    target: Partition | None,
) -> Partition:
    if target is not None and target in partitions:
        return target
    if target is not None:
        raise NoPartitionError(topic, f"{target.in_topic} is none of those of the transaction's broker")
    if not partitions:
        raise NoPartitionError(topic, "the transaction's broker takes no messages of it")
    return selector(topic, partitions, key, payload)


async def _master(network: Network, partition: Partition) -> BrokerConnection:
    address = network.discovery.cluster.master_address(partition)
    if address is None:
        raise BrokerUnreachableError(f"broker {partition.broker_id}", "it is away", was_sent=False)
    link = network.pool.link(address)
    connection = link.usable or await link.wait_connected(REQUEST_SECONDS)
    if connection.is_broken:
        raise BrokerUnreachableError(format_address(*address), link.problem, was_sent=False)
    return connection


async def _put(
    connection: BrokerConnection,
    partition: Partition,
    payload: bytes,
    attribute: str | None,
    key: TransactionKey,
) -> Sent:
    flag, data = join_attribute(attribute, payload)
    try:
        reply = await connection.request(
            lambda opaque: encode_transactional_put(
                partition.topic, partition.number, data, flag, key, opaque
            ),
            REQUEST_SECONDS,
        )
        message_id = int(expect_text(reply).split(" ")[0])
    except ReplyError as error:
        where = str(partition.in_topic)
        raise SendRefusedError(partition.topic, where, error.text, 1, error.status) from None
    return Sent(partition, message_id, None)


async def _command(
    connection: BrokerConnection,
    action: TransactionAction,
    key: TransactionKey | None,
    *,
    timeout_seconds: int = 0,
    qualifier: str = "",
) -> str:
    """The text of the answer; raises ReplyError, BrokerUnreachableError and RequestTimeoutError."""
    reply = await connection.request(
        lambda opaque: encode_transaction(
            action, key, opaque, timeout_seconds=timeout_seconds, qualifier=qualifier
        ),
        REQUEST_SECONDS,
    )
    return expect_text(reply)
