"""Transactions for operators: commands of the control socket, a part of the status, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from metaserver.logs import get_logger
from metaserver.metrics import TransactionsSnapshot
from metaserver.transactions import State
from metaserver.transactions.java_journal import prepared_keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

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
    """Recover this broker's own; and take none while what a Java broker has prepared lies there undecided."""
    if broker.transactions.is_unsupported:
        broker.transactions.problem = ""
        return
    await broker.transactions.load()
    folder = broker.config.data_log_path / "transactions"
    keys = await trio.to_thread.run_sync(_left_by_java, folder)
    if keys:
        broker.transactions.problem = (
            f"A Java broker has left {len(keys)} prepared transactions in {folder}: {', '.join(keys[:10])}"
            f"{', …' if len(keys) > 10 else ''}. They are not carried over: start the Java "
            "broker again and decide them, or move the folder away and give them up"
        )
        _log.error("Transactions are not available", reason=broker.transactions.problem)


def _left_by_java(folder: Path) -> list[str]:
    """In a worker thread. An unreadable file is told as a key, so that nothing passes unseen."""
    found = [path for path in folder.glob("redo.*") if path.suffix[1:].isdigit()]
    try:
        return prepared_keys(
            path.read_bytes() for path in sorted(found, key=lambda path: int(path.suffix[1:]))
        )
    except OSError as error:
        return [f"(unreadable: {error})"]


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
