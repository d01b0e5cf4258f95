"""topics: which there are, and making, changing and deleting them while the broker runs."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import click

from metaserver.cli.administration import topics as show
from metaserver.cli.cluster import check_topic
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.options import (
    chosen_node,
    execute_option,
    json_option,
    node_arguments,
    server_file_option,
)
from metaserver.cli.output import Failure, complain, count_of, describe_bytes, say, table
from metaserver.cli.processes import ask
from metaserver.cli.sub_verbs import ShowByDefault
from metaserver.cli.target import config_of

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.cli.installation import Installation
    from metaserver.storage import DeletedLog

_set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of the topic's section in server.ini; may be given again.",
)
_partitions_option = click.option(
    "--partitions", "partition_count", type=click.IntRange(1), metavar="N", help="How many (numPartitions)."
)


@click.group(
    cls=ShowByDefault,
    usage_text="[slave|TOPIC] [OPTIONS] | create|alter|delete|purge TOPIC [OPTIONS] | deleted [OPTIONS]",
)
def topics() -> None:
    """Show topics and partitions; make, change and delete topics while the broker runs.

    `metaServer topics show --help` lists the options of showing, `metaServer topics create --help` those of
    making one.
    """


topics.add_command(show, "show")


@topics.command()
@click.argument("topic")
@_partitions_option
@_set_option
@server_file_option
@json_option
def create(
    topic: str,
    *,
    partition_count: int | None,
    settings: tuple[str, ...],
    server_file: Path | None,
    as_json: bool,
) -> None:
    """Write a section for TOPIC into server.ini, and have the broker load it.

    What is not said is as in [system].
    """
    check_topic(topic)
    entries = _entries(partition_count, settings)
    done = ask(chosen_node("", server_file, ()), "create-topic", topic=topic, entries=entries)
    if as_json:
        say(json.dumps(done, indent=2))
        return
    say(f"topic {topic} is there; {done['config']} has it, {done['previous']} is the file before")


@topics.command()
@click.argument("topic")
@_partitions_option
@_set_option
@click.option(
    "--unset", "unset", multiple=True, metavar="KEY", help="Take it away: as in [system] again. Also again."
)
@server_file_option
@json_option
def alter(
    topic: str,
    *,
    partition_count: int | None,
    settings: tuple[str, ...],
    unset: tuple[str, ...],
    server_file: Path | None,
    as_json: bool,
) -> None:
    """Change the section of TOPIC in server.ini, and have the broker load it."""
    entries: dict[str, str | None] = {**_entries(partition_count, settings)}
    if both := entries.keys() & set(unset):
        raise Failure(f"{', '.join(sorted(both))} cannot be both set and unset", ExitCode.USAGE)
    entries |= dict.fromkeys(unset)
    if not entries:
        raise Failure("nothing to change: say it with --partitions, --set or --unset", ExitCode.USAGE)
    done = ask(chosen_node("", server_file, ()), "alter-topic", topic=topic, entries=entries)
    if as_json:
        say(json.dumps(done, indent=2))
    elif done["changed"]:
        say(f"topic {topic} is changed in {done['config']}; {done['previous']} is the file before")
    else:
        say(f"topic {topic} has these values already")


@topics.command()
@click.argument("topic")
@node_arguments
@execute_option
@json_option
def delete(
    topic: str,
    *,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    executes: bool,
    as_json: bool,
) -> None:
    """Take TOPIC out of server.ini and out of service.

    Its messages are kept aside in the data directory until `topics purge` removes them. Slaves keep their
    copies; at a slave this puts aside what its master has deleted.
    """
    installation = chosen_node(role, server_file, plug_ins)
    done = ask(installation, "delete-topic", topic=topic, executes=executes)
    say(json.dumps(done, indent=2) if as_json else _describe_deletion(done))
    problems = [one["problem"] for one in done["partitions"] if "problem" in one]
    if problems:
        raise Failure("\n".join(problems))
    if not executes:
        complain("nothing was changed; --execute does it")


@topics.command()
@node_arguments
@json_option
def deleted(role: str, server_file: Path | None, plug_ins: tuple[str, ...], *, as_json: bool) -> None:
    """List what is kept of deleted topics."""
    logs = _deleted_logs(chosen_node(role, server_file, plug_ins))
    if as_json:
        say(json.dumps([_as_json(log) for log in logs], indent=2))
    else:
        say(_describe_logs(logs) if logs else "nothing is kept of deleted topics")


@topics.command()
@click.argument("topic")
@node_arguments
@execute_option
@json_option
def purge(
    topic: str,
    *,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    executes: bool,
    as_json: bool,
) -> None:
    """Remove what is kept of the deleted TOPIC, for good."""
    logs = [log for log in _deleted_logs(chosen_node(role, server_file, plug_ins)) if log.name.topic == topic]
    if not logs:
        raise Failure(
            f"nothing is kept of a deleted topic {topic}; `metaServer topics deleted` lists what is"
        )
    report = [_as_json(log) for log in logs]
    text = _describe_logs(logs)
    if executes:
        for log in logs:
            shutil.rmtree(log.path)
    say(json.dumps({"executed": executes, "logs": report}, indent=2) if as_json else text)
    if not executes:
        complain("nothing was removed; --execute does it")


def _entries(partition_count: int | None, settings: tuple[str, ...]) -> dict[str, str]:
    entries: dict[str, str] = {}
    if partition_count is not None:
        entries["numPartitions"] = str(partition_count)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise Failure(f"--set {setting}: write KEY=VALUE, like --set ackLevel=disk", ExitCode.USAGE)
        if key.strip() in entries:
            raise Failure(f"{key.strip()} is given twice", ExitCode.USAGE)
        entries[key.strip()] = value.strip()
    return entries


def _describe_deletion(done: dict[str, Any]) -> str:
    topic, partitions = done["topic"], done["partitions"]
    lines = []
    if partitions:
        rows = [["topic", "partition", "start", "end", "messages", "kept in" if done["executed"] else "in"]]
        rows += [
            [
                one["topic"],
                str(one["partition"]),
                str(one["start_offset"]),
                str(one["end_offset"]),
                str(one["messages"]),
                one.get("kept", one["directory"]),
            ]
            for one in partitions
        ]
        lines.append(table(rows, right=frozenset({1, 2, 3, 4})))
    if not done["executed"]:
        lines.append(f"topic {topic} would be deleted, with {count_of(len(partitions), 'partition')}")
        return "\n".join(lines)
    lines.append(f"topic {topic} is deleted, with {count_of(len(partitions), 'partition')}")
    if any("kept" in one for one in partitions):
        lines.append(
            "`metaServer topics deleted` lists what is kept, `metaServer topics purge TOPIC` removes it"
        )
    if "previous" in done:
        lines.append(f"{done['previous']} is the server.ini before")
    return "\n".join(lines)


def _deleted_logs(installation: Installation) -> list[DeletedLog]:
    from metaserver.storage import RealFileSystem, deleted_logs

    filesystem = RealFileSystem()
    return [log for path in config_of(installation).data_paths for log in deleted_logs(filesystem, path)]


def _size_bytes(log: DeletedLog) -> int:
    return sum(path.stat().st_size for path in log.path.iterdir() if path.is_file())


def _as_json(log: DeletedLog) -> dict[str, Any]:
    return {
        "topic": log.name.topic,
        "partition": log.name.partition,
        "start_offset": log.start_offset,
        "end_offset": log.end_offset,
        "bytes": _size_bytes(log),
        "path": str(log.path),
    }


def _describe_logs(logs: list[DeletedLog]) -> str:
    rows = [["topic", "partition", "start", "end", "size", "path"]]
    rows += [
        [
            log.name.topic,
            str(log.name.partition),
            str(log.start_offset),
            str(log.end_offset),
            describe_bytes(_size_bytes(log)),
            str(log.path),
        ]
        for log in logs
    ]
    return table(rows, right=frozenset({1, 2, 3, 4}))
