"""One transaction: its state, and the records it will append."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

import attrs

from metaserver.message import encode_record
from metaserver.protocol import LocalKey, TransactionKey
from metaserver.transactions.entries import Committed, Entry, Prepared, RolledBack, split_parts

if TYPE_CHECKING:
    from metaserver.names import TopicPartition


class State(Enum):
    """Where a transaction stands."""

    OPEN = auto()
    """Begun; it takes puts, and a crash, a lost connection or its timeout rolls it back."""
    PREPARING = auto()
    """On its way into the journal."""
    PREPARED = auto()
    """Only a decision ends it."""
    COMMITTING = auto()
    """The decision is on its way into the journal."""
    COMMITTED = auto()
    """Decided: what is missing in its partitions will be appended, whatever happens."""
    ROLLING_BACK = auto()
    """The decision against a prepared one is on its way into the journal."""
    HEURISTIC = auto()
    """Ended by an operator; what became of it is remembered for the transaction manager."""
    FINISHED = auto()
    """Nobody finds it any more."""


@attrs.define(eq=False)
class Batch:
    """What a transaction appends to one partition, as one piece."""

    data: bytearray = attrs.field(factory=bytearray, repr=False)
    count: int = 0
    last_id: int = 0
    floor: int = 0
    """No byte of it is in the partition before this offset."""

    def add(self, body: bytes, message_id: int, flag: int) -> int:
        """Append a message; returns the bytes it takes."""
        record = encode_record(body, message_id, flag)
        self.data += record
        self.count += 1
        self.last_id = message_id
        return len(record)


@attrs.define(eq=False)
class Transaction:
    """Changed by the table and by whoever carries out what the table decides."""

    key: TransactionKey
    serial: int
    """Its name in the journal; never used again."""
    owner: object = None
    """The connection a local transaction belongs to; None for others."""
    state: State = State.OPEN
    batches: dict[TopicPartition, Batch] = attrs.Factory(dict)
    size_bytes: int = 0
    began_seconds: float = 0.0
    """When it began, in seconds since 1970; of a recovered one, when it was found."""
    is_heuristic: bool = False
    """Whether an operator decides, or has decided."""
    has_committed: bool = False
    """What an operator has decided."""
    journal_offset: int | None = None
    """Where in the journal all that is known of it begins; None while nothing is there."""

    @property
    def is_local(self) -> bool:
        """Whether it belongs to one connection, and cannot be prepared."""
        return isinstance(self.key, LocalKey)

    @property
    def message_count(self) -> int:
        """Over all partitions."""
        return sum(batch.count for batch in self.batches.values())

    def add(self, name: TopicPartition, body: bytes, message_id: int, flag: int) -> int:
        """Take a put; returns the bytes it will take in the log."""
        size = self.batches.setdefault(name, Batch()).add(body, message_id, flag)
        self.size_bytes += size
        return size

    def entries(self, part_bytes_max: int) -> list[Entry]:
        """All that the journal must know of a transaction that is prepared or decided."""
        if self.state is State.HEURISTIC:
            decided = Committed(self.serial, self.key, (), True) if self.has_committed else None
            return [decided or RolledBack(self.serial, self.key, True)]
        batches = {name: (batch.floor, bytes(batch.data)) for name, batch in self.batches.items()}
        parts: list[Entry] = list(split_parts(self.serial, batches, part_bytes_max))
        if isinstance(self.key, LocalKey) or self.state in (State.COMMITTING, State.COMMITTED):
            return [*parts, self.decision()]
        return [*parts, Prepared(self.serial, self.key)]

    def decision(self) -> Committed:
        """That it is committed; all it needs behind :class:`Prepared`."""
        floors = tuple(batch.floor for batch in self.batches.values())
        return Committed(self.serial, self.key, floors, self.is_heuristic)
