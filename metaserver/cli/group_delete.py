"""``groups delete``: what the registry keeps of a group goes. Without ``--execute`` it is only told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import trio

from metaserver.cli.cluster import (
    check_group,
    check_topic,
    chosen_cluster,
    cluster_arguments,
    known_group,
    opened,
)
from metaserver.cli.options import execute_option, json_option
from metaserver.cli.output import Failure, complain, count_of, say, table

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.cli.cluster import Choice
    from metaserver.client.groups import Group


@click.command()
@click.argument("group")
@click.option("--topic", metavar="TOPIC", help="Only its offsets of this one.")
@execute_option
@cluster_arguments
@json_option
def delete(
    *,
    group: str,
    topic: str | None,
    executes: bool,
    servers: str | None,
    root: str | None,
    server_file: Path | None,
    as_json: bool,
) -> None:
    """Forget GROUP, with all its offsets; refused while it has members."""
    check_group(group)
    if topic is not None:
        check_topic(topic)
    done = trio.run(_delete, chosen_cluster(servers, root, server_file), group, topic, executes)
    say(json.dumps(_as_json(done, topic, executes=executes), indent=2) if as_json else _describe(done, topic))
    if not executes:
        complain("nothing was removed; --execute does it")


async def _delete(choice: Choice, name: str, topic: str | None, executes: bool) -> Group:  # noqa: FBT001
    """The group as it was."""
    from metaserver.client.groups import delete_group

    async with opened(choice) as session:
        group = await known_group(session, name)
        members = set(group.members) | set(group.owners.values())
        if members:
            raise Failure(
                f"group {name} has {count_of(len(members), 'member')} ({', '.join(sorted(members))}): stop "
                "them first"
            )
        if topic is not None and topic not in group.topics:
            raise Failure(
                f"group {name} has nothing of topic {topic}; its topics: {', '.join(group.topics) or 'none'}"
            )
        if executes:
            await delete_group(session.network.discovery, name, topic)
        return group


def _rows(group: Group, topic: str | None) -> list[list[str]]:
    return [
        [partition.topic, str(partition.in_topic), node.data.decode("utf-8", "replace")]
        for partition, node in sorted(group.offsets.items(), key=lambda item: item[0])
        if topic in (None, partition.topic)
    ]


def _as_json(group: Group, topic: str | None, *, executes: bool) -> dict[str, Any]:
    return {
        "group": group.name,
        "executed": executes,
        "offsets": [
            {"topic": name, "partition": partition, "data": data}
            for name, partition, data in _rows(group, topic)
        ],
    }


def _describe(group: Group, topic: str | None) -> str:
    rows = _rows(group, topic)
    if not rows:
        return f"group {group.name} has no offsets"
    return table([["topic", "partition", "id-offset"], *rows])
