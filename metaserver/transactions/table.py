"""Which transactions there are, and what each command may do to them.

Source: reference transactions section 2.

Pure: it neither waits nor writes. A command that may not be carried out raises
:class:`~metaserver.errors.TransactionError` and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.errors import TransactionError
from metaserver.protocol import LocalKey, TransactionKey, XaCode, XaKey
from metaserver.transactions.entries import KEY_BYTES_MAX
from metaserver.transactions.transaction import State, Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.names import TopicPartition

_NO_TWO_PHASES = "Cannot do 2 phase commit if the transaction has not been prepared."
_NOT_LOCAL = "Prepare not implemented on Local Transactions."


@attrs.frozen(kw_only=True)
class Limits:
    """What the transactions of a broker may take."""

    open_max: int
    """Transactions that are begun and neither prepared nor finished."""
    bytes_max: int
    """Of the messages of all transactions together, prepared ones included."""


@attrs.define(eq=False)
class TransactionTable:
    """The transactions of one broker."""

    limits: Limits
    size_bytes: int = 0
    """Of the messages held."""
    _found: dict[tuple[object, TransactionKey], Transaction] = attrs.Factory(dict)
    _owned: dict[object, dict[Transaction, None]] = attrs.Factory(dict)
    """The open transactions of each connection, in the order they were opened."""
    _open_count: int = 0

    def __iter__(self) -> Iterator[Transaction]:
        """Every transaction, in the order they came."""
        return iter(list(self._found.values()))

    @property
    def open_count(self) -> int:
        """Transactions that a timeout, a crash or a lost connection may still roll back."""
        return self._open_count

    def begin(self, key: TransactionKey, owner: object, serial: int, now_seconds: float) -> Transaction:
        """The transaction of that key: a new one, or the one that is open already."""
        place = _place(key, owner)
        found = self._found.get(place)
        if found is not None:
            if found.state is State.OPEN:
                return found
            raise self._wrong_state(found, "begin")
        if len(str(key).encode()) > KEY_BYTES_MAX:
            raise TransactionError(f"The key of a transaction may have {KEY_BYTES_MAX} bytes")
        if self._open_count >= self.limits.open_max:
            raise TransactionError(
                f"There are {self._open_count} open transactions already (maxTxTimeoutTimerCapacity)"
            )
        begun = Transaction(key, serial, place[0], began_seconds=now_seconds)
        self._found[place] = begun
        self._open_count += 1
        if begun.owner is not None:
            self._owned.setdefault(begun.owner, {})[begun] = None
        return begun

    def restore(self, transaction: Transaction) -> None:
        """Take over what the journal knows."""
        self._found[_place(transaction.key, transaction)] = transaction
        self.size_bytes += transaction.size_bytes

    def find(self, key: TransactionKey | None, owner: object) -> Transaction:
        """Raises TransactionError where there is none."""
        found = None if key is None else self._found.get(_place(key, owner))
        if found is not None:
            return found
        if isinstance(key, LocalKey):
            raise TransactionError(f"Local transaction '{key}' has not been started.")
        if key is None:
            raise TransactionError("A transaction command needs a key; there is none in 'null'")
        raise TransactionError(f"XA transaction '{key}' has not been started.", XaCode.UNKNOWN)

    def owned(self, owner: object) -> list[Transaction]:
        """The open transactions of a connection."""
        return list(self._owned.get(owner, ()))

    def put(
        self, transaction: Transaction, name: TopicPartition, body: bytes, message_id: int, flag: int
    ) -> None:
        """Take a message into a transaction; see also :meth:`check_put`."""
        self.size_bytes += transaction.add(name, body, message_id, flag)

    def check_put(self, transaction: Transaction, size_bytes: int) -> None:
        """Whether the transaction takes a message that needs so much of the log."""
        if transaction.state is not State.OPEN:
            raise self._wrong_state(transaction, "put")
        if self.size_bytes + size_bytes > self.limits.bytes_max:
            raise TransactionError(
                f"The transactions of this broker hold {self.size_bytes} bytes; with {size_bytes} more they "
                f"would be above {self.limits.bytes_max} (maxTransactionBytes)"
            )

    def check_prepare(self, transaction: Transaction) -> None:
        """Whether it may be prepared."""
        if transaction.is_local:
            raise TransactionError(_NOT_LOCAL, XaCode.RESOURCE_ERROR)
        if transaction.state is not State.OPEN:
            raise self._wrong_state(transaction, "prepare")

    def check_commit(self, transaction: Transaction, *, one_phase: bool) -> None:
        """Whether it may be committed; one whose commit is under way may, again."""
        match transaction.state:
            case State.OPEN if one_phase or transaction.is_local:
                return
            case State.OPEN:
                raise TransactionError(_NO_TWO_PHASES, XaCode.PROTOCOL)
            case State.PREPARED | State.COMMITTING | State.COMMITTED if not transaction.is_heuristic:
                return
            case _:
                raise self._wrong_state(transaction, "commit")

    def check_rollback(self, transaction: Transaction) -> None:
        """Whether it may be rolled back; one whose rollback is under way may, again."""
        if transaction.state is State.ROLLING_BACK and not transaction.is_heuristic:
            return
        if transaction.state not in (State.OPEN, State.PREPARED):
            raise self._wrong_state(transaction, "rollback")

    def prepared(self, qualifier: str = "") -> list[XaKey]:
        """The keys that wait for a decision, or whose outcome is remembered; of one qualifier, or all."""
        return [
            found.key
            for found in self._found.values()
            if isinstance(found.key, XaKey)
            and (found.state is State.PREPARED or found.is_heuristic)
            and qualifier in ("", found.key.qualifier)
        ]

    def leave_open(self, transaction: Transaction, state: State) -> None:
        """It is no longer open: nothing but a decision ends it."""
        self._close(transaction)
        transaction.state = state

    def reopen(self, transaction: Transaction) -> None:
        """What was to become of it could not be written: it is as before."""
        transaction.state = State.OPEN
        self._open_count += 1
        if transaction.owner is not None:
            self._owned.setdefault(transaction.owner, {})[transaction] = None

    def remember(self, transaction: Transaction, *, has_committed: bool) -> None:
        """What an operator has decided is told until :meth:`finish`; the messages are no longer held."""
        self._release(transaction)
        transaction.state = State.HEURISTIC
        transaction.is_heuristic, transaction.has_committed = True, has_committed

    def finish(self, transaction: Transaction) -> None:
        """Nobody finds it any more."""
        if transaction.state is State.FINISHED:
            return
        self._close(transaction)
        self._release(transaction)
        transaction.state = State.FINISHED
        place = _place(transaction.key, transaction.owner)
        if self._found.get(place) is transaction:
            del self._found[place]

    def _close(self, transaction: Transaction) -> None:
        if transaction.state is not State.OPEN:
            return
        self._open_count -= 1
        if transaction.owner is not None:
            owned = self._owned[transaction.owner]
            owned.pop(transaction, None)
            if not owned:
                del self._owned[transaction.owner]

    def _release(self, transaction: Transaction) -> None:
        self.size_bytes -= transaction.size_bytes
        transaction.batches, transaction.size_bytes = {}, 0

    def _wrong_state(self, transaction: Transaction, call: str) -> TransactionError:
        if transaction.state is State.HEURISTIC:
            if transaction.has_committed:
                return TransactionError("An operator has committed the transaction.", XaCode.HEURISTIC_COMMIT)
            return TransactionError("An operator has rolled the transaction back.", XaCode.HEURISTIC_ROLLBACK)
        return TransactionError(f"Cannot call {call} now.", None if transaction.is_local else XaCode.PROTOCOL)


def _place(key: TransactionKey, owner: object) -> tuple[object, TransactionKey]:
    """A local transaction is of its connection; of an XA transaction there is one in the broker."""
    return (owner if isinstance(key, LocalKey) else None, key)
