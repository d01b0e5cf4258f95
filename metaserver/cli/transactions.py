"""transactions: what waits for a decision, and deciding in place of a transaction manager that is gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from metaserver.cli.installation import find_installation
from metaserver.cli.options import json_option, server_file_option
from metaserver.cli.output import complain, count_of, describe_bytes, describe_seconds, say, table
from metaserver.cli.processes import ask

if TYPE_CHECKING:
    from pathlib import Path

_TITLES = ("KEY", "STATE", "MESSAGES", "SIZE", "AGE", "PARTITIONS")
_NUMBERS = frozenset({2, 3, 4})


@click.group(invoke_without_command=True)
@click.pass_context
def transactions(context: click.Context) -> None:
    """List the transactions of the master, and decide on prepared ones whose manager is gone.

    A decision is remembered, and told to the manager should it come back, until it forgets it or you do.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_transactions, server_file=None, as_json=False)


@transactions.command("list")
@server_file_option
@json_option
def list_transactions(server_file: Path | None, *, as_json: bool) -> None:
    """Every transaction with its state; those that are prepared wait for their manager."""
    report = ask(find_installation(server_file), "transactions")
    if as_json:
        say(json.dumps(report, indent=2))
        return
    if report["problem"]:
        complain(report["problem"])
    if report["transactions"]:
        say(_describe(report["transactions"]))
    else:
        say("there are no transactions")


@transactions.command()
@click.argument("key")
@server_file_option
def commit(key: str, server_file: Path | None) -> None:
    """Commit the prepared transaction KEY, as `transactions list` shows it."""
    ask(find_installation(server_file), "transactions-commit", key=key)
    say(f"{key} is committed; its manager is told so when it asks")


@transactions.command()
@click.argument("key")
@server_file_option
def rollback(key: str, server_file: Path | None) -> None:
    """Roll the prepared transaction KEY back: its messages are gone."""
    ask(find_installation(server_file), "transactions-rollback", key=key)
    say(f"{key} is rolled back; its manager is told so when it asks")


@transactions.command()
@click.argument("key")
@server_file_option
def forget(key: str, server_file: Path | None) -> None:
    """Remember the decision on KEY no longer."""
    ask(find_installation(server_file), "transactions-forget", key=key)
    say(f"{key} is forgotten")


def _describe(found: list[dict[str, Any]]) -> str:
    rows: list[tuple[str, ...]] = [_TITLES]
    rows += [
        (
            one["key"],
            one["state"],
            str(one["messages"]),
            describe_bytes(one["bytes"]),
            describe_seconds(one["age_seconds"]),
            " ".join(one["partitions"]),
        )
        for one in found
    ]
    return f"{table(rows, right=_NUMBERS)}\n{count_of(len(found), 'transaction')}"
