"""groups: which there are, where one stands, and moving one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import trio

from metaserver.cli.cluster import (
    check_group,
    chosen_cluster,
    cluster_arguments,
    describe_registry,
    known_group,
    opened,
)
from metaserver.cli.group_copy import copy
from metaserver.cli.group_delete import delete
from metaserver.cli.group_reset import reset
from metaserver.cli.options import json_option
from metaserver.cli.output import Failure, count_of, describe_bytes, describe_seconds, say, table
from metaserver.cli.sub_verbs import ShowByDefault

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.cli.cluster import Choice
    from metaserver.client.group_report import GroupReport, PartitionReport

_MIB = 1024 * 1024


@click.group(
    cls=ShowByDefault,
    usage_text="[GROUP] [OPTIONS] | reset GROUP --to WHERE | copy GROUP [TARGET] | delete GROUP",
)
def groups() -> None:
    """Show the groups of consumers, or where one stands and who its members are; move, copy, delete one.

    `metaServer groups show --help`, `metaServer groups reset --help` and so on list the options.
    """


@groups.command()
@click.argument("group", required=False)
@click.option(
    "--scan-mib",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Count messages in so much of a partition; beyond it estimate them, marked with ~.",
)
@cluster_arguments
@json_option
def show(
    *,
    group: str | None,
    scan_mib: int,
    servers: str | None,
    root: str | None,
    server_file: Path | None,
    as_json: bool,
) -> None:
    """List all groups; of GROUP the members, and where it stands in each partition."""
    from metaserver.client.group_report import group_fields, summary_fields

    choice = chosen_cluster(servers, root, server_file)
    if group is None:
        reports = trio.run(_report_all, choice)
        summaries = {"groups": [summary_fields(report) for report in reports]}
        if as_json:
            say(json.dumps(summaries, indent=2))
        elif reports:
            say(_describe_all(reports))
        else:
            say(f"no groups {describe_registry(choice.servers, choice.root)}")
        return
    check_group(group)
    try:
        report = trio.run(_report_one, choice, group, scan_mib * _MIB)
    except Failure as error:
        raise Failure(error.message + groups.meant(group), error.code) from error
    say(json.dumps(group_fields(report), indent=2) if as_json else _describe(report))


groups.add_command(reset)
groups.add_command(copy)
groups.add_command(delete)


async def _report_all(choice: Choice) -> list[GroupReport]:
    from metaserver.client.group_report import report_groups

    async with opened(choice) as session:
        return await report_groups(session)


async def _report_one(choice: Choice, name: str, scan_bytes_max: int) -> GroupReport:
    from metaserver.client.group_report import report_group

    async with opened(choice) as session:
        return await report_group(session, await known_group(session, name), scan_bytes_max)


def _describe_all(reports: list[GroupReport]) -> str:
    rows = [["group", "members", "partitions", "behind", "topics"]]
    rows += [
        [
            report.group.name,
            str(len(report.group.members)),
            str(len(report.partitions)),
            describe_bytes(report.lag_bytes) + _unknown_text(report),
            ", ".join(report.group.topics),
        ]
        for report in reports
    ]
    return table(rows, right=frozenset({1, 2, 3}))


def _unknown_text(report: GroupReport) -> str:
    return f" + {report.unknown} unknown" if report.unknown else ""


def _describe(report: GroupReport) -> str:
    group = report.group
    oldest = report.lag_seconds
    head = (
        f"group {group.name}: {count_of(len(group.members), 'member')}, "
        f"{count_of(len(report.partitions), 'partition')}, behind by "
        f"{describe_bytes(report.lag_bytes)}{_unknown_text(report)}, "
        f"{'~' if report.is_estimated else ''}{count_of(report.lag_messages, 'message')}"
    )
    lines = [head if oldest is None else f"{head}, {describe_seconds(oldest)}"]
    numbers = {name: f"#{number}" for number, name in enumerate(group.members, 1)}
    lines += [
        f"{number} {name}: {', '.join(group.members[name]) or 'no topic'}" for name, number in numbers.items()
    ]
    if report.partitions:
        rows = [
            ["topic", "partition", "owner", "offset", "id", "end", "bytes", "messages", "behind", "served by"]
        ]
        rows += [_row(found, numbers) for found in report.partitions]
        lines += ["", table(rows, right=frozenset({3, 4, 5, 6, 7, 8}))]
    lines += [f"{found.partition}: {found.problem}" for found in report.partitions if found.problem]
    return "\n".join(lines)


def _row(found: PartitionReport, numbers: dict[str, str]) -> list[str]:
    backlog = found.backlog
    return [
        found.partition.topic,
        str(found.partition.in_topic),
        "-" if found.owner is None else numbers.get(found.owner, found.owner),
        _text(found.offset),
        _text(found.message_id),
        _text(found.end_offset),
        _text(found.lag_bytes),
        "-" if backlog is None else f"{'~' if backlog.is_estimated else ''}{backlog.messages}",
        "-" if found.lag_seconds is None else describe_seconds(found.lag_seconds),
        " ".join(found.replicas) or "nobody",
    ]


def _text(number: int | None) -> str:
    return "-" if number is None else str(number)
