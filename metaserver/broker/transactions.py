"""Transactions of a running master: commands in, replies out; time-outs, lost connections, operators.

The table (:mod:`metaserver.transactions`) says what may happen, the journal makes it durable, and commits are
carried out by :mod:`metaserver.broker.commits`. Nothing here waits but :meth:`TransactionHandler.load`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.broker.commits import Commits
from metaserver.broker.records import CHECKSUM_FAILURE
from metaserver.broker.transaction_journal import TransactionJournal
from metaserver.broker.transaction_recovery import recover
from metaserver.errors import MetaServerError, RefusedError, StorageError, TransactionError
from metaserver.logs import get_logger
from metaserver.message import HEADER_SIZE, checksum
from metaserver.protocol import (
    COMMITTED_TEXT,
    PREPARED_TEXT,
    READ_ONLY_TEXT,
    LocalKey,
    Status,
    TransactionAction,
    XaCode,
    XaKey,
    encode_result,
    parse_key,
    xa_failure_text,
)
from metaserver.transactions import (
    Applied,
    Forgotten,
    Limits,
    RolledBack,
    State,
    TransactionTable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker.broker import Broker
    from metaserver.broker.sink import ReplySink
    from metaserver.protocol import Transaction as TransactionCommand
    from metaserver.protocol import TransactionalPut, TransactionKey
    from metaserver.timers import Timer
    from metaserver.transactions import Entry, Transaction

_log = get_logger(__name__)

_TICK_SECONDS = 1.0
"""How often applied commits are marked in the journal, and held-up ones tried again, while there are some."""
_WAITING_BYTES = 200
"""What a command that waits for the journal costs; it also keeps its connection from being idle."""
_NOT_LOADED = "The transactions of this broker have not been recovered"

_UNSUPPORTED: dict[TransactionAction | None, str] = {
    TransactionAction.BEGIN: "beginTransaction",
    TransactionAction.PREPARE: "prepareTransaction",
    TransactionAction.COMMIT_ONE_PHASE: "commitTransaction",
    TransactionAction.COMMIT_TWO_PHASE: "commitTransaction",
    TransactionAction.ROLLBACK: "rollbackTransaction",
    TransactionAction.FORGET: "forgetTransaction",
    TransactionAction.RECOVER: "getPreparedTransactions",
}
"""What a synchronous pair answers, in MetaQ's words."""

Outcome = TransactionError | None


@attrs.define(eq=False)
class TransactionHandler:
    """A broker's answers to transaction commands, and to puts inside of transactions."""

    _broker: Broker
    table: TransactionTable = attrs.field(init=False)
    journal: TransactionJournal = attrs.field(init=False)
    commits: Commits = attrs.field(init=False)
    problem: str = _NOT_LOADED
    """Why no transaction is taken; blank while they are."""
    java_problem: str = ""
    """Why what a Java broker has left cannot be carried over, and none is taken therefore."""
    timeout_count: int = 0
    """Transactions rolled back because their time was over."""
    _waiting: dict[Transaction, list[Callable[[Outcome], None]]] = attrs.Factory(dict)
    """Who is to be told what becomes of a decision."""
    _timers: dict[Transaction, Timer] = attrs.Factory(dict)
    _tick: Timer | None = None
    _compact_at: float = 0.0
    """On the monotonic clock."""
    _is_stopped: bool = False
    _is_unreadable: bool = False
    """The journal, when it was looked at last."""
    _settled: trio.Event = attrs.Factory(trio.Event)
    """Set when no decision is under way."""

    def __attrs_post_init__(self) -> None:
        """Nothing is known before :meth:`load`."""
        config = self._broker.config
        self.table = TransactionTable(
            Limits(open_max=config.max_tx_timeout_timer_capacity, bytes_max=config.max_transaction_bytes)
        )
        self.journal = TransactionJournal(self._broker)
        self.commits = Commits(self._broker)

    @property
    def is_unsupported(self) -> bool:
        """Whether this is a broker of a synchronous pair: what one of them appends, the other is sent."""
        return self._broker.pair_master is not None or self._broker.pair_slave is not None

    # Commands.

    def handle(self, command: TransactionCommand, sink: ReplySink) -> None:
        """Answer a command, now or when the journal has it."""
        match command.action:
            case TransactionAction.END:
                return
            case TransactionAction.RECOVER:
                self._recover(command, sink)
            case TransactionAction.COMMIT_ONE_PHASE | TransactionAction.COMMIT_TWO_PHASE:
                self._broker.counters.tx_commit += 1
            case TransactionAction.ROLLBACK:
                self._broker.counters.tx_rollback += 1
            case TransactionAction.BEGIN:
                self._broker.counters.tx_begin += 1
                self._broker.counters.tx_xa_begin += isinstance(command.key, XaKey)
        if command.action is TransactionAction.RECOVER:
            return
        success = PREPARED_TEXT if command.action is TransactionAction.PREPARE else ""

        def answer(outcome: Outcome, text: str = success) -> None:
            if outcome is None:
                sink.send(encode_result(Status.SUCCESS, text, command.opaque))
            else:
                sink.send(encode_result(Status.ERROR, _failure_text(outcome, command), command.opaque))

        try:
            self._check_usable(command.action)
            self._act(command, sink, answer)
        except TransactionError as error:
            answer(error)

    def put(self, put: TransactionalPut, sink: ReplySink) -> None:
        """Take a message into its transaction, or say why not."""
        self._broker.counters.put += 1
        try:
            self._check_usable()
            transaction = self.table.find(put.key, sink)
            _check_put(put)
            partition = self._broker.find_partition(put.topic, put.partition)
            self.table.check_put(transaction, HEADER_SIZE + len(put.body))
        except TransactionError as error:
            self._broker.counters.put_failed += 1
            sink.send(encode_result(Status.ERROR, error.message, put.opaque))
            return
        except RefusedError as refusal:
            self._broker.counters.put_failed += 1
            status = refusal.status if refusal.status == Status.FORBIDDEN else Status.ERROR
            detail = refusal.text.partition("failed.Detail:")[2] or refusal.text
            sink.send(encode_result(status, detail, put.opaque))
            return
        message_id = self._broker.message_ids.take(1)
        self.table.put(transaction, partition.name, put.body, message_id, put.flag)
        text = f"{message_id} {partition.name.partition} -1"
        sink.send(encode_result(Status.SUCCESS, text, put.opaque))

    def disconnected(self, sink: ReplySink) -> None:
        """A connection is gone, and with it its local transactions that are not decided."""
        for transaction in self.table.owned(sink):
            self._finish(transaction)
            _log.info("Rolled a transaction back: its connection is gone", transaction=str(transaction.key))

    def _check_usable(self, action: TransactionAction | None = None) -> None:
        broker = self._broker
        reason = ""
        if self.is_unsupported:
            raise TransactionError("Unsupported " + _UNSUPPORTED.get(action, "putInTransaction"))
        if broker.master_address is not None:
            reason = (
                f"This broker is a slave and takes no transactions,send to its master {broker.master_address}"
            )
        elif self._is_stopped or broker.gate.reason:
            reason = broker.gate.reason or "This broker stops"
        elif self.problem:
            reason = self.problem
        if reason:
            raise TransactionError(reason, XaCode.UNAVAILABLE)

    def _act(self, command: TransactionCommand, sink: ReplySink, answer: Callable[..., None]) -> None:
        if command.action is TransactionAction.BEGIN:
            self._begin(command, sink)
            answer(None)
            return
        if command.action is TransactionAction.FORGET:
            self._forget(command.key, self._when_done(sink, answer))
            return
        transaction = self.table.find(command.key, sink)
        match command.action:
            case TransactionAction.PREPARE:
                self.table.check_prepare(transaction)
                if not transaction.batches:
                    self._finish(transaction)
                    answer(None, READ_ONLY_TEXT)
                else:
                    self._prepare(transaction, self._when_done(sink, answer))
            case TransactionAction.ROLLBACK:
                self.table.check_rollback(transaction)
                self._roll_back(transaction, self._when_done(sink, answer))
            case _:
                one_phase = command.action is TransactionAction.COMMIT_ONE_PHASE
                self.table.check_commit(transaction, one_phase=one_phase)
                self._commit(transaction, self._when_done(sink, answer))

    def _when_done(self, sink: ReplySink, answer: Callable[..., None]) -> Callable[[Outcome], None]:
        """An answer that may come later; until then its connection and a stop wait for it."""
        self._broker.hold(_WAITING_BYTES, sink)

        def done(outcome: Outcome) -> None:
            fenced = self._broker.gate.fenced
            if outcome is None and fenced is not None:
                outcome = TransactionError(str(fenced), XaCode.UNAVAILABLE)
            answer(outcome)
            self._broker.hold(-_WAITING_BYTES, sink)
            sink.flush()

        return done

    def _begin(self, command: TransactionCommand, sink: ReplySink) -> None:
        if command.key is None:
            raise TransactionError("A transaction needs a key: TX:SESSION:NUMBER, or XID with four parts")
        now = self._broker.clock.wall_seconds()
        transaction = self.table.begin(command.key, sink, self._broker.message_ids.take(1), now)
        if command.timeout_seconds > 0 and transaction not in self._timers:
            seconds = min(command.timeout_seconds, self._broker.config.max_tx_timeout_seconds)
            self._timers[transaction] = self._broker.timers.schedule(
                seconds, partial(self._time_over, transaction)
            )

    def _recover(self, command: TransactionCommand, sink: ReplySink) -> None:
        try:
            self._check_usable(command.action)
        except TransactionError as error:
            sink.send(encode_result(Status.ERROR, _failure_text(error, command), command.opaque))
            return
        # Digits alone are taken for a timeout: all are returned then, as MetaQ does.
        keys = "\r\n".join(map(str, self.table.prepared(command.qualifier)))
        sink.send(encode_result(Status.SUCCESS, keys, command.opaque))

    # What happens to a transaction.

    def _prepare(self, transaction: Transaction, done: Callable[[Outcome], None]) -> None:
        try:
            rule = self.commits.check(transaction)
            self.commits.set_floors(transaction)
        except TransactionError as error:
            done(error)
            return
        self.table.leave_open(transaction, State.PREPARING)

        def prepared(offset: int, shortfall: str) -> None:
            self._cancel_timer(transaction)
            transaction.state, transaction.journal_offset = State.PREPARED, offset
            self._tick_soon()
            done(TransactionError(f"{shortfall}. It is prepared", XaCode.UNAVAILABLE) if shortfall else None)

        def failed(error: StorageError) -> None:
            self.table.reopen(transaction)
            done(TransactionError(str(error), XaCode.UNAVAILABLE))

        entries = transaction.entries(self.journal.part_bytes_max)
        self.journal.append(entries, prepared, failed, rule)

    def _commit(self, transaction: Transaction, done: Callable[[Outcome], None]) -> None:
        if transaction.state in (State.COMMITTING, State.COMMITTED):
            self._waiting[transaction].append(done)
            return
        if transaction.state is State.OPEN and not transaction.batches:
            self._finish(transaction)
            done(None)
            return
        try:
            rule = self.commits.check(transaction)
            self.commits.set_floors(transaction)
        except (TransactionError, StorageError, OSError) as error:
            done(_unavailable(error))
            return
        before = transaction.state
        self.table.leave_open(transaction, State.COMMITTING)
        self._waiting[transaction] = [done]
        entries: list[Entry] = (
            [transaction.decision()]
            if before is State.PREPARED
            else transaction.entries(self.journal.part_bytes_max)
        )

        def failed(error: StorageError) -> None:
            transaction.is_heuristic = False
            if before is State.OPEN:
                self.table.reopen(transaction)
            else:
                transaction.state = before
            self._tell(transaction, _unavailable(error))

        self.journal.append(entries, partial(self._decided, transaction), failed, rule)

    def _decided(self, transaction: Transaction, offset: int, shortfall: str) -> None:
        """The commit is in the journal: from now on it happens."""
        transaction.state = State.COMMITTED
        if transaction.journal_offset is None:
            transaction.journal_offset = offset

        def carried_out(problem: str) -> None:
            if transaction.is_heuristic:
                self.table.remember(transaction, has_committed=True)
            else:
                self._finish(transaction)
            problem = problem or shortfall
            text = f"{COMMITTED_TEXT}, but {problem}"
            self._tell(transaction, TransactionError(text, XaCode.UNAVAILABLE) if problem else None)

        self.commits.carry_out(transaction, transaction.journal_offset, carried_out)
        self._tick_soon()

    def _roll_back(self, transaction: Transaction, done: Callable[[Outcome], None]) -> None:
        if transaction.state is State.ROLLING_BACK:
            self._waiting[transaction].append(done)
            return
        if transaction.state is State.OPEN:
            self._finish(transaction)
            done(None)
            return
        transaction.state = State.ROLLING_BACK
        self._waiting[transaction] = [done]

        def rolled_back(offset: int, shortfall: str) -> None:
            if transaction.is_heuristic:
                self.table.remember(transaction, has_committed=False)
                transaction.journal_offset = offset
            else:
                self._finish(transaction)
            self._tick_soon()
            text = f"The transaction is rolled back, but {shortfall}"
            self._tell(transaction, TransactionError(text, XaCode.UNAVAILABLE) if shortfall else None)

        def failed(error: StorageError) -> None:
            transaction.state, transaction.is_heuristic = State.PREPARED, False
            self._tell(transaction, _unavailable(error))

        entry = RolledBack(transaction.serial, transaction.key, transaction.is_heuristic)
        self.journal.append([entry], rolled_back, failed, self.commits.rule(transaction))

    def _forget(self, key: TransactionKey | None, done: Callable[[Outcome], None]) -> None:
        if not isinstance(key, XaKey):
            text = "null" if key is None else str(key)
            done(TransactionError(f"{text} is not a valid xid", XaCode.UNKNOWN))
            return
        try:
            transaction = self.table.find(key, None)
        except TransactionError:
            done(None)
            return
        if transaction.state is not State.HEURISTIC:
            done(None)
            return

        def forgotten(_offset: int, _shortfall: str) -> None:
            self._finish(transaction)
            done(None)

        self.journal.append(
            [Forgotten(transaction.serial)], forgotten, lambda error: done(_unavailable(error))
        )

    def _finish(self, transaction: Transaction) -> None:
        self._cancel_timer(transaction)
        self.table.finish(transaction)

    def _tell(self, transaction: Transaction, outcome: Outcome) -> None:
        for done in self._waiting.pop(transaction, ()):
            done(outcome)
        if not self._waiting:
            self._settled.set()

    def _time_over(self, transaction: Transaction) -> None:
        self._timers.pop(transaction, None)
        if transaction.state is State.OPEN:
            self.timeout_count += 1
            self.table.finish(transaction)
            _log.info("A transaction is timeout,it is rolled back.", transaction=str(transaction.key))

    def _cancel_timer(self, transaction: Transaction) -> None:
        timer = self._timers.pop(transaction, None)
        if timer is not None:
            self._broker.timers.cancel(timer)

    # Operators.

    async def decide(self, key_text: str, *, commit: bool) -> None:
        """End a prepared transaction; the outcome is remembered for its manager. Raises TransactionError."""
        transaction = self._prepared(key_text)
        if transaction.state is not State.PREPARED:
            raise TransactionError(f"{key_text} is not prepared: {transaction.state.name.lower()}")
        transaction.is_heuristic = True
        carry_out = self._commit if commit else self._roll_back
        try:
            await self._wait(lambda done: carry_out(transaction, done))
        except TransactionError:
            if transaction.state is State.PREPARED:
                transaction.is_heuristic = False  # Nothing is decided: its manager may still.
            raise
        _log.warning("An operator has decided", transaction=key_text, commit=commit)

    async def forget(self, key_text: str) -> None:
        """Remember the outcome of an operator's decision no longer. Raises TransactionError."""
        transaction = self._prepared(key_text)
        if transaction.state is not State.HEURISTIC:
            raise TransactionError(f"No operator has decided on {key_text}: there is nothing to forget")
        await self._wait(lambda done: self._forget(transaction.key, done))

    def _prepared(self, key_text: str) -> Transaction:
        self._check_usable()
        try:
            key = parse_key(key_text)
        except ValueError as error:
            raise TransactionError(f"{key_text!r} {error}") from error
        if isinstance(key, LocalKey):
            raise TransactionError("A local transaction is never prepared: only its client can end it")
        return self.table.find(key, None)

    async def _wait(self, begin: Callable[[Callable[[Outcome], None]], None]) -> None:
        finished = trio.Event()
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            finished.set()

        begin(done)
        await finished.wait()
        if outcomes[0] is not None:
            raise outcomes[0]

    # The journal.

    async def load(self) -> None:
        """Take over what the journal holds, and finish what a crash has left unfinished.

        Does not raise: where it cannot be done, no transaction is taken, and the reason is told.
        """
        self._compact_at = self._broker.clock.monotonic_seconds()
        try:
            await recover(self._broker, self.table, self.journal, self.commits)
        except MetaServerError as error:
            self._is_unreadable = True
            self.problem = self.java_problem or f"{_NOT_LOADED}: {error}"
            _log.error("Transactions are not available", reason=str(error))
        else:
            self._is_unreadable = False
            self.problem = self.java_problem
            if self.journal.partition is not None:
                self._tick_soon()

    async def load_again(self) -> None:
        """The same, where it could not be done, and the journal has been repaired since."""
        if self._is_unreadable and not self._is_stopped:
            await self.load()

    def _tick_soon(self) -> None:
        if self._tick is None and not self._is_stopped:
            self._tick = self._broker.timers.schedule(_TICK_SECONDS, self._ticked)

    def _ticked(self) -> None:
        self._tick = None
        self.commits.retry()
        durable = self.commits.durable()
        if durable:
            self._mark_applied([commit.serial for commit in durable])
        now = self._broker.clock.monotonic_seconds()
        is_due = now - self._compact_at >= self._broker.config.checkpoint_interval_ms / 1000
        self.journal.begin_compaction(is_due=is_due)
        if is_due:
            self._compact_at = now
        if self.journal.keep_from is not None:
            self._compact(self.journal.keep_from)
        if self.commits.unapplied or self.journal.is_compacting:
            self._tick_soon()

    def _mark_applied(self, serials: list[int]) -> None:
        commits = [self.commits.unapplied[serial] for serial in serials]

        def marked(_offset: int, _shortfall: str) -> None:
            for serial in serials:
                del self.commits.unapplied[serial]

        def failed(_error: StorageError) -> None:
            for commit in commits:
                commit.is_marking = False

        for commit in commits:
            commit.is_marking = True
        self.journal.append([Applied(serial) for serial in serials], marked, failed)

    def _compact(self, keep_from: int) -> None:
        """Write again what begins before an offset, or drop the segments where nothing live is left there."""
        is_done = True
        for commit in self.commits.unapplied.values():
            is_done = is_done and commit.journal_offset >= keep_from
        for transaction in self.table:
            offset = transaction.journal_offset
            if offset is None or offset >= keep_from or transaction.serial in self.commits.unapplied:
                continue
            is_done = False
            if transaction.state in (State.PREPARED, State.HEURISTIC):
                entries = transaction.entries(self.journal.part_bytes_max)
                self.journal.append(entries, partial(self._rewritten, transaction), _ignore)
        if is_done:
            self.journal.finish_compaction()
        else:
            self.commits.flush()

    def _rewritten(self, transaction: Transaction, offset: int, _shortfall: str) -> None:
        transaction.journal_offset = offset

    async def wait_until_settled(self) -> None:
        """Return when no decision is under way."""
        while self._waiting:
            self._settled = trio.Event()
            await self._settled.wait()

    def stop(self) -> None:
        """Take no more transactions and write nothing more into the journal; what is under way goes on."""
        self._is_stopped = True
        if self._tick is not None:
            self._broker.timers.cancel(self._tick)
            self._tick = None


def _check_put(put: TransactionalPut) -> None:
    if put.partition == -1:
        raise TransactionError(f"Invalid partition for transaction command:{put.partition}")
    if put.checksum not in (None, -1) and put.checksum != checksum(put.body):
        raise TransactionError(CHECKSUM_FAILURE)


def _failure_text(error: TransactionError, command: TransactionCommand) -> str:
    """The bare sentence, or with its code where an XA client looks for one."""
    asks_for_code = not isinstance(command.key, LocalKey) or command.action in (
        TransactionAction.PREPARE,
        TransactionAction.FORGET,
    )
    if error.code is None or not asks_for_code:
        return error.message
    return xa_failure_text(error.code, error.message)


def _unavailable(error: Exception) -> TransactionError:
    return error if isinstance(error, TransactionError) else TransactionError(str(error), XaCode.UNAVAILABLE)


def _ignore(_error: StorageError) -> None:
    """It is tried again."""
