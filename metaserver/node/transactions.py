"""Transactions for operators: commands of the control socket, a part of the status, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from metaserver.broker.java_transactions import FOLDER_NAME, carry_over
from metaserver.errors import StorageError
from metaserver.logs import get_logger
from metaserver.metrics import TransactionsSnapshot
from metaserver.storage import RealFileSystem
from metaserver.transactions import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metaserver.broker import Broker

    Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_log = get_logger(__name__)

_SHOWN_MAX = 1000
"""A reply of the control socket stays readable; the counts are of all."""


def transaction_handlers(broker: Broker) -> dict[str, Handler]:
    """``transactions`` lists, the others decide on one by its key."""
    handler = broker.transactions

    async def show(_request: dict[str, Any]) -> dict[str, Any]:
        now = broker.clock.wall_seconds()
        found = list(handler.table)
        return {
            **transactions_status(broker),
            "transactions": [
                {
                    "key": str(one.key),
                    "state": _state_text(one.state, has_committed=one.has_committed),
                    "messages": one.message_count,
                    "bytes": one.size_bytes,
                    "partitions": [str(name) for name in one.batches],
                    "age_seconds": round(max(0.0, now - one.began_seconds), 3),
                }
                for one in found[:_SHOWN_MAX]
            ],
        }

    async def commit(request: dict[str, Any]) -> dict[str, Any]:
        await handler.decide(str(request.get("key", "")), commit=True)
        return {}

    async def roll_back(request: dict[str, Any]) -> dict[str, Any]:
        await handler.decide(str(request.get("key", "")), commit=False)
        return {}

    async def forget(request: dict[str, Any]) -> dict[str, Any]:
        await handler.forget(str(request.get("key", "")))
        return {}

    return {
        "transactions": show,
        "transactions-commit": commit,
        "transactions-rollback": roll_back,
        "transactions-forget": forget,
    }


async def load_transactions(broker: Broker) -> None:
    """Recover this broker's own, and what a Java broker has left; take none where that cannot be done."""
    handler = broker.transactions
    folder = broker.config.data_log_path / FOLDER_NAME
    if handler.is_unsupported:
        if await trio.to_thread.run_sync(folder.is_dir):
            _log.warning(
                "A synchronous pair has no transactions: those of a Java broker stay", path=str(folder)
            )
        handler.problem = ""
        return
    try:
        await carry_over(broker, RealFileSystem())
    except StorageError as error:
        handler.java_problem = (
            f"A Java broker has left transactions in {folder} that are not carried over: {error}. Start the "
            "Java broker again and decide them there, or move the folder away and give them up"
        )
        _log.error("Transactions are not available", reason=handler.java_problem)
    await handler.load()


def transactions_status(broker: Broker) -> dict[str, object]:
    """In figures, for the status page."""
    snapshot = transactions_snapshot(broker)
    return {
        "open": snapshot.open,
        "prepared": snapshot.prepared,
        "heuristic": snapshot.heuristic,
        "unapplied": snapshot.unapplied,
        "bytes": snapshot.message_bytes,
        "problem": "" if broker.is_slave else broker.transactions.problem,
    }


def transactions_snapshot(broker: Broker) -> TransactionsSnapshot:
    """In figures, for a scrape."""
    handler, counters = broker.transactions, broker.counters
    prepared = [one.began_seconds for one in handler.table if one.state is State.PREPARED]
    now = broker.clock.wall_seconds()
    return TransactionsSnapshot(
        begun=counters.tx_begin,
        commit_requests=counters.tx_commit,
        rollback_requests=counters.tx_rollback,
        timeouts=handler.timeout_count,
        open=handler.table.open_count,
        prepared=len(prepared),
        oldest_prepared_seconds=max(0.0, now - min(prepared)) if prepared else 0.0,
        heuristic=sum(one.state is State.HEURISTIC for one in handler.table),
        unapplied=len(handler.commits.unapplied),
        message_bytes=handler.table.size_bytes,
        journal_bytes=handler.journal.size_bytes,
        failed=bool(handler.problem),
    )


def _state_text(state: State, *, has_committed: bool) -> str:
    if state is State.HEURISTIC:
        return "committed by an operator" if has_committed else "rolled back by an operator"
    return state.name.lower().replace("_", " ")
