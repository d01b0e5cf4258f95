"""What a peer asked for, one class a command, and the two kinds of reply."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from metaserver.protocol.transactions import TransactionAction, TransactionKey

OPAQUE_MISSING = 2147483647
"""What a reply carries where the request had no opaque (``stats`` and ``version`` may omit it)."""


ZLIB = "zlib"
"""The word behind a get that asks for compressed bytes, and the extension's name."""


class Status(IntEnum):
    """The numbers in a ``result``; their meaning is the reference's (wire-protocol sections 5, 6)."""

    SUCCESS = 200
    MOVED = 301
    BAD_REQUEST = 400
    FORBIDDEN = 403
    NOT_FOUND = 404
    ERROR = 500
    UNAVAILABLE = 503


STORED_TEXT = "The message is on this master's disk"
"""Stands in the text of a 503 that does not mean what any other error means: the message is in the log."""


@attrs.define
class Puts:
    """Consecutive ``put`` frames to one partition, taken from one read.

    One object for the whole run, because one a message halves the put rate. The lists are parallel.
    """

    topic: str
    partition: int
    bodies: list[bytes] = attrs.Factory(list)
    flags: list[int] = attrs.Factory(list)
    checksums: list[bytes | None] = attrs.Factory(list)
    """As they stood in the frame: decimal text, None where the frame had none."""
    opaques: list[bytes] = attrs.Factory(list)
    """As they stood in the frame: decimal text, always in canonical form."""


@attrs.frozen
class PutBatch:
    """A run of whole records in the log's own layout, to be appended as one."""

    topic: str
    partition: int
    records: bytes = attrs.field(repr=False)
    opaque: int


@attrs.frozen
class OversizedPut:
    """A put whose record would be longer than the limit; its body has been thrown away."""

    topic: str
    partition: int
    length: int
    opaque: int


@attrs.frozen
class TransactionalPut:
    """A put inside a transaction."""

    topic: str
    partition: int
    body: bytes = attrs.field(repr=False)
    flag: int
    checksum: int | None
    """As it stood in the frame; None where the frame had none."""
    key: TransactionKey
    opaque: int


@attrs.frozen
class Get:
    """A read of at most ``size_max`` bytes from an offset on."""

    topic: str
    group: str
    partition: int
    offset: int
    size_max: int
    opaque: int
    wait_ms: int = 0
    """How long the broker may wait for data before it answers that there is none."""
    is_compressed: bool = False
    """Whether the bytes are wanted as a zlib stream; a refusal stays as it is."""
    condition: str | None = None
    """Which messages are wanted; blank: all of them. Not None: the peer knows how a skipped range is told."""


@attrs.frozen
class OffsetQuery:
    """Asks which valid offset is nearest, by the rules of reference wire-protocol 6.4."""

    topic: str
    group: str
    partition: int
    offset: int
    opaque: int


@attrs.frozen
class EpochsQuery:
    """A replica asks whose bytes a log holds, and says where its own copy ends."""

    topic: str
    partition: int
    end_offset: int
    opaque: int


@attrs.frozen
class Stats:
    """Asks for a statistics report."""

    item: str
    opaque: int


@attrs.frozen
class Version:
    """Asks for the broker's version; any 200 is a heartbeat."""

    opaque: int


@attrs.frozen
class Quit:
    """Asks to close the connection after the replies already owed."""


@attrs.frozen
class Transaction:
    """Any of the transaction commands."""

    action: TransactionAction
    key: TransactionKey | None
    """None where the frame said ``null``."""
    timeout_seconds: int
    """0 where the frame had none."""
    qualifier: str
    """Blank where the frame had none."""
    opaque: int


@attrs.frozen
class Sync:
    """A put that the master of a synchronous pair sends on to its slave (reference replication B2)."""

    topic: str
    partition: int
    data: bytes = attrs.field(repr=False)
    flag: int
    message_id: int
    """The master's."""
    checksum: int | None
    """None: masters before 1.4.4 send none."""
    opaque: int


@attrs.frozen
class Pair:
    """The master of a synchronous pair tells its slave whom to copy."""

    address: str
    """``HOST:PORT``."""
    opaque: int


@attrs.frozen
class Successor:
    """A promoted broker tells the one in whose place it is."""

    address: str
    """``HOST:PORT`` of who was promoted."""
    opaque: int


@attrs.frozen
class ReplicaPosition:
    """How far a slave has one partition."""

    topic: str
    partition: int
    memory_offset: int
    """Everything before it is with the slave's operating system."""
    disk_offset: int
    """Everything before it is synced there."""


@attrs.frozen
class Replicated:
    """A slave tells its master how far it is; without positions only that it is there."""

    slave_group: str
    slave_id: int
    positions: tuple[ReplicaPosition, ...]
    opaque: int


@attrs.frozen
class Malformed:
    """Bytes that are no frame: answer the reason, then close; nothing behind them is decoded."""

    reason: str
    opaque: int = OPAQUE_MISSING


Command: TypeAlias = (
    Puts
    | PutBatch
    | OversizedPut
    | TransactionalPut
    | Get
    | OffsetQuery
    | EpochsQuery
    | Stats
    | Version
    | Quit
    | Transaction
    | Sync
    | Pair
    | Successor
    | Replicated
    | Malformed
)


@attrs.frozen
class Result:
    """A ``result`` frame."""

    status: int
    text: str
    opaque: int
    raw: bytes = attrs.field(default=b"", eq=False, repr=False)
    """The bytes of the text as they came: a file that is sent need not be UTF-8."""


@attrs.frozen
class Value:
    """A ``value`` frame: bytes of a log, cut at an arbitrary place."""

    data: bytes = attrs.field(repr=False)
    opaque: int
