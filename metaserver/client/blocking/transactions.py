"""Transactions for threads; see :mod:`metaserver.client.transactions`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaserver.client import transactions
    from metaserver.client.blocking.block import Block
    from metaserver.client.lane import Sent
    from metaserver.client.partition import Partition
    from metaserver.client.session import Session
    from metaserver.client.transactions import Xid
    from metaserver.protocol import LocalKey


class Transaction:
    """Made by :meth:`metaserver.client.blocking.Producer.transaction`; for the thread that has begun it."""

    def __init__(self, block: Block[transactions.Transaction]) -> None:
        """Use the producer's method."""
        self._block = block
        self._inner = block.value

    @property
    def key(self) -> LocalKey:
        """As it stands in the broker's log."""
        return self._inner.key

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        attribute: str | None = None,
        key: bytes | None = None,
        partition: Partition | None = None,
    ) -> Sent:
        """As :meth:`metaserver.client.transactions.Transaction.send`."""
        send = partial(self._inner.send, attribute=attribute, key=key, partition=partition)
        return self._block.call(send, topic, payload)

    def roll_back(self) -> None:
        """Drop all of it; the end of the block commits nothing then."""
        self._block.call(self._inner.roll_back)


class XaResource:
    """As :class:`metaserver.client.transactions.XaResource`, in every method; any thread may use it."""

    def __init__(self, block: Block[Session], inner: transactions.XaResource) -> None:
        """Use the session's method."""
        self._block = block
        self._inner = inner

    @property
    def broker_id(self) -> int:
        """Two resources of one broker are the same resource manager."""
        return self._inner.broker_id

    def start(self, xid: Xid, *, timeout_seconds: int = 0) -> None:
        """Begin a branch."""
        self._block.call(partial(self._inner.start, timeout_seconds=timeout_seconds), xid)

    def send(
        self,
        xid: Xid,
        topic: str,
        payload: bytes,
        *,
        attribute: str | None = None,
        key: bytes | None = None,
        partition: Partition | None = None,
    ) -> Sent:
        """Give a message to the branch."""
        send = partial(self._inner.send, attribute=attribute, key=key, partition=partition)
        return self._block.call(send, xid, topic, payload)

    def prepare(self, xid: Xid) -> bool:
        """Make it durable until it is decided; False where there was nothing to do, and it is over."""
        return self._block.call(self._inner.prepare, xid)

    def commit(self, xid: Xid, *, one_phase: bool = False) -> None:
        """Append all of it, once."""
        self._block.call(partial(self._inner.commit, one_phase=one_phase), xid)

    def roll_back(self, xid: Xid) -> None:
        """Drop all of it."""
        self._block.call(self._inner.roll_back, xid)

    def forget(self, xid: Xid) -> None:
        """An operator's decision has been taken note of."""
        self._block.call(self._inner.forget, xid)

    def recover(self) -> list[Xid]:
        """The branches of this qualifier that wait for a decision, or that an operator has decided."""
        return self._block.call(self._inner.recover)
