"""``top``: what a node and its cluster do, live: rates, partitions, replicas, groups."""

from __future__ import annotations

import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import click
import trio

from metaserver.cli.cluster import chosen_cluster, opened
from metaserver.cli.options import chosen_node, node_arguments
from metaserver.cli.output import (
    Failure,
    count_of,
    describe_bytes,
    describe_lag,
    describe_seconds,
    say,
    table,
)
from metaserver.cli.processes import ask
from metaserver.errors import MetaServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from metaserver.cli.installation import Installation
    from metaserver.client import Session
    from metaserver.client.group_report import GroupReport

_PARTITIONS_MAX = 20
"""Of the busiest; more do not help."""


@attrs.frozen
class Sample:
    """What was told at one moment."""

    monotonic_seconds: float
    status: dict[str, Any]
    topics: dict[str, Any]
    groups: Sequence[GroupReport] = ()
    groups_problem: str = ""
    """Why there are no groups."""


@attrs.frozen
class Block:
    """A part of the screen."""

    title: str
    lines: list[str]


@click.command()
@node_arguments
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks; rates are of this time.",
)
@click.option("--once", "is_once", is_flag=True, help="Show it once, after one interval, and end.")
def top(
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    *,
    interval_seconds: float,
    is_once: bool,
) -> None:
    """Show what the node does, again and again until Control-C.

    On a terminal in place, elsewhere one below the other.
    """
    installation = chosen_node(role, server_file, plug_ins)
    try:
        trio.run(_run, installation, server_file, interval_seconds, is_once)
    except KeyboardInterrupt:
        return


async def _run(
    installation: Installation,
    server_file: Path | None,
    interval_seconds: float,
    is_once: bool,  # noqa: FBT001
) -> None:
    async with _session(server_file) as (session, problem):
        before = await _look(installation, session, problem)
        if is_once or not sys.stdout.isatty():
            while True:
                await trio.sleep(interval_seconds)
                after = await _look(installation, session, problem)
                say("\n\n".join("\n".join([block.title, *block.lines]) for block in blocks(before, after)))
                if is_once:
                    return
                say()
                sys.stdout.flush()
                before = after
        from rich.live import Live

        with Live(_render(blocks(before, before)), screen=True, auto_refresh=False) as live:
            while True:
                await trio.sleep(interval_seconds)
                after = await _look(installation, session, problem)
                live.update(_render(blocks(before, after)), refresh=True)
                before = after


@asynccontextmanager
async def _session(server_file: Path | None) -> AsyncIterator[tuple[Session | None, str]]:
    """With the registry, for the groups; None and the reason where it cannot be had."""
    try:
        choice = chosen_cluster(None, None, server_file)
        manager = opened(choice)
        session = await manager.__aenter__()
    except (Failure, MetaServerError) as error:
        yield None, error.message if isinstance(error, Failure) else str(error)
        return
    try:
        yield session, ""
    finally:
        await manager.__aexit__(*sys.exc_info())


async def _look(installation: Installation, session: Session | None, problem: str) -> Sample:
    from metaserver.client.group_report import report_groups

    status = await trio.to_thread.run_sync(ask, installation, "status")
    topics = await trio.to_thread.run_sync(ask, installation, "topics")
    groups: Sequence[GroupReport] = ()
    if session is not None:
        try:
            groups = await report_groups(session)
        except MetaServerError as error:
            problem = str(error)
    return Sample(time.monotonic(), status, topics, groups, problem)


def blocks(before: Sample, after: Sample) -> list[Block]:
    """What is shown, from two looks."""
    seconds = max(after.monotonic_seconds - before.monotonic_seconds, 0.001)
    found = [_node(before, after, seconds), _partitions(before, after, seconds), _replicas(after)]
    return [*filter(None, found), _groups(after)]


def _node(before: Sample, after: Sample, seconds: float) -> Block:
    status, counts, earlier = after.status, after.status["requests"], before.status["requests"]
    rates = {name: max(0, counts[name] - earlier[name]) / seconds for name in counts}
    size, room = describe_bytes(status["bytes"]), describe_bytes(status["disk_free_bytes"])
    received, sent = describe_bytes(rates["received_bytes"]), describe_bytes(rates["sent_bytes"])
    lines = [
        f"connections {status['connections']:,}   partitions {status['partitions']:,}",
        f"messages {status['messages']:,}   {size}   {room} free",
        f"puts {rates['put']:,.0f}/s   gets {rates['get']:,.0f}/s   in {received}/s   out {sent}/s",
        *(f"! {problem}" for problem in status["problems"]),
    ]
    uptime = describe_seconds(status["uptime_seconds"])
    return Block(f"{status['role']} {status['address']}, up {uptime}", lines)


def _partitions(before: Sample, after: Sample, seconds: float) -> Block:
    earlier = {(one["topic"], one["partition"]): one for one in before.topics["topics"]}
    rows = []
    for one in after.topics["topics"]:
        old = earlier.get((one["topic"], one["partition"]), one)
        messages = max(0, one["messages"] - old["messages"]) / seconds
        size = max(0, one["end_offset"] - old["end_offset"]) / seconds
        rows.append((size, messages, one))
    rows.sort(key=lambda row: (-row[0], row[2]["topic"], row[2]["partition"]))
    shown = [["topic", "partition", "start", "end", "messages", "messages/s", "bytes/s", ""]]
    shown += [
        [
            one["topic"],
            str(one["partition"]),
            str(one["start_offset"]),
            str(one["end_offset"]),
            str(one["messages"]),
            f"{messages:,.0f}",
            describe_bytes(size),
            "failed" if one["failed"] else "closed" if one.get("closed") else "",
        ]
        for size, messages, one in rows[:_PARTITIONS_MAX]
    ]
    lines = table(shown, right=frozenset({1, 2, 3, 4, 5, 6})).splitlines() if rows else []
    if len(rows) > _PARTITIONS_MAX:
        lines.append(f"and {count_of(len(rows) - _PARTITIONS_MAX, 'partition')} more, not as busy")
    return Block(count_of(len(rows), "partition"), lines)


def _replicas(after: Sample) -> Block | None:
    status = after.status
    if (replication := status.get("replication")) is not None:
        state = "connected" if replication["connected"] else f"not connected: {replication['problem']}"
        lines = [f"behind by {describe_lag(replication)}"]
        if replication["stopped"]:
            lines.append(f"! {count_of(replication['stopped'], 'partition')} stopped")
        return Block(f"master {replication['master'] or 'not known'}, {state}", lines)
    slaves = status.get("slaves")
    if not slaves:
        return None
    rows = [["slave", "connected", "behind", "seconds", "silent for"]]
    rows += [
        [
            f"{slave['slave_group']}/{slave['slave_id']}",
            "yes" if slave["connected"] else "no",
            "-" if slave["lag_bytes"] is None else describe_bytes(slave["lag_bytes"]),
            "-" if slave["lag_seconds"] is None else f"{slave['lag_seconds']:.3f}",
            describe_seconds(slave["silent_seconds"]),
        ]
        for slave in slaves
    ]
    return Block(count_of(len(slaves), "slave"), table(rows, right=frozenset({2, 3, 4})).splitlines())


def _groups(after: Sample) -> Block:
    if after.groups_problem:
        return Block("groups", [f"! {after.groups_problem}"])
    rows = [["group", "members", "partitions", "behind", "topics"]]
    rows += [
        [
            report.group.name,
            str(len(report.group.members)),
            str(len(report.partitions)),
            describe_bytes(report.lag_bytes) + (f" + {report.unknown} unknown" if report.unknown else ""),
            ", ".join(report.group.topics),
        ]
        for report in sorted(after.groups, key=lambda report: (-report.lag_bytes, report.group.name))
    ]
    lines = table(rows, right=frozenset({1, 2, 3})).splitlines() if after.groups else []
    return Block(count_of(len(after.groups), "group"), lines)


def _render(parts: list[Block]) -> Any:  # noqa: ANN401 - rich is imported only where it is used
    from rich.text import Text

    # What does not fit is cut off below.
    text = Text("Control-C ends\n", style="dim", no_wrap=True, overflow="crop")
    for part in parts:
        text.append(f"{part.title}\n", style="bold not dim")
        for line in part.lines:
            text.append(f"{line}\n", style="bold red" if line.startswith("!") else "not dim")
        text.append("\n")
    return text
