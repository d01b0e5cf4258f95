"""``groups reset``: another offset for a group. Without ``--execute`` it only tells what would change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
import click
import trio

from metaserver.cli.cluster import (
    check_group,
    check_topic,
    chosen_cluster,
    cluster_arguments,
    known_group,
    known_partitions,
    opened,
    parse_cluster_partition,
)
from metaserver.cli.options import execute_option, json_option
from metaserver.cli.output import Failure, complain, count_of, say, table
from metaserver.cli.starting_point import StartingPoint, parse_starting_point

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.cli.cluster import Choice
    from metaserver.client import Partition, Session
    from metaserver.client.group_moves import Move
    from metaserver.client.groups import Group
    from metaserver.registry.paths import BrokerPartition, StoredOffset


@attrs.frozen
class Request:
    """What is to be moved, and where to."""

    group: str
    starting_point: StartingPoint
    topic: str | None
    partitions: frozenset[BrokerPartition]
    """Empty: all of them."""
    executes: bool
    forces: bool


@attrs.frozen
class Done:
    """What came of it."""

    group: Group
    moves: list[Move]


@click.command()
@click.argument("group")
@click.option(
    "--to",
    "to_text",
    required=True,
    metavar="WHERE",
    help="start, end, an offset where a message begins, a time (2025-11-21T06:10, @SECONDS since 1970) "
    "or how long ago (-10m).",
)
@click.option("--topic", metavar="TOPIC", help="Only this one; without it all topics of the group.")
@click.option(
    "--partition", "partition_texts", multiple=True, metavar="B-P", help="Only these; may be given again."
)
@execute_option
@click.option("--force", "forces", is_flag=True, help="Also while the group has members.")
@cluster_arguments
@json_option
def reset(
    *,
    group: str,
    to_text: str,
    topic: str | None,
    partition_texts: tuple[str, ...],
    executes: bool,
    forces: bool,
    servers: str | None,
    root: str | None,
    server_file: Path | None,
    as_json: bool,
) -> None:
    """Have GROUP go on elsewhere.

    Refused while it has members: stop them first. With --force a member notices the change when it next
    stores its own offset, and goes on from the new one.
    """
    check_group(group)
    if topic is not None:
        check_topic(topic)
    request = Request(
        group,
        parse_starting_point(to_text, "--to"),
        topic,
        frozenset(map(parse_cluster_partition, partition_texts)),
        executes,
        forces,
    )
    done = trio.run(_reset, chosen_cluster(servers, root, server_file), request)
    if as_json:
        say(json.dumps(_as_json(request, done), indent=2))
    else:
        say(_describe(done))
    _conclude(request, done)


async def _reset(choice: Choice, request: Request) -> Done:
    from metaserver.client.group_moves import Move, find_moves, write_moves

    async with opened(choice) as session:
        group = await known_group(session, request.group)
        if request.executes and not request.forces and (group.members or group.owners):
            members = set(group.members) | set(group.owners.values())
            raise Failure(
                f"group {group.name} has {count_of(len(members), 'member')} ({', '.join(sorted(members))}): "
                "stop them first, or give --force"
            )
        moves = [
            Move(partition, group.offsets.get(partition))
            for partition in await _chosen(session, group, request)
        ]

        await find_moves(session, moves, request.starting_point)
        problems = [f"{move.partition}: {move.problem}" for move in moves if move.problem is not None]
        if problems:
            raise Failure("\n".join([*problems, "nothing was changed"]))
        if request.executes:
            await write_moves(session, group.name, moves, forces=request.forces)
        return Done(group, moves)


async def _chosen(session: Session, group: Group, request: Request) -> list[Partition]:
    """The partitions to be moved, in their order; raises Failure where there is none of these."""
    from metaserver.client.group_report import readable_partitions

    if request.topic is not None:
        found = set(await known_partitions(session, request.topic))
        if request.topic not in group.topics:
            raise Failure(
                f"group {group.name} has nothing to do with topic {request.topic}; "
                f"its topics: {', '.join(group.topics) or 'none'}"
            )
    else:
        found = await readable_partitions(session, group.topics)
    missing = request.partitions - {partition.in_topic for partition in found}
    if missing:
        raise Failure(
            f"no broker announces partition {', '.join(sorted(map(str, missing)))} of "
            f"{request.topic or ', '.join(group.topics)}; `metaServer groups {group.name}` lists them"
        )
    chosen = [p for p in sorted(found) if not request.partitions or p.in_topic in request.partitions]
    if not chosen:
        raise Failure(
            f"group {group.name} has no partition that a broker announces; there is nothing to move"
        )
    return chosen


def _as_json(request: Request, done: Done) -> dict[str, Any]:
    return {
        "group": done.group.name,
        "executed": request.executes,
        "partitions": [
            {
                "topic": move.partition.topic,
                "partition": str(move.partition.in_topic),
                "from": None if (stored := _stored(move)) is None else stored.offset,
                "from_message_id": None if stored is None else stored.message_id,
                "to": move.offset,
                "to_message_id": move.message_id,
                "written": move.is_written,
            }
            for move in done.moves
        ],
    }


def _stored(move: Move) -> StoredOffset | None:
    return None if move.node is None else move.node.stored


def _describe(done: Done) -> str:
    rows = [["topic", "partition", "from", "to", "id", "bytes"]]
    for move in done.moves:
        stored = _stored(move)
        rows.append(
            [
                move.partition.topic,
                str(move.partition.in_topic),
                "-" if stored is None else str(stored.offset),
                str(move.offset),
                str(move.message_id),
                "-" if stored is None else f"{move.offset - stored.offset:+d}",
            ]
        )
    return table(rows, right=frozenset({2, 3, 4, 5}))


def _conclude(request: Request, done: Done) -> None:
    group = done.group
    if not request.executes:
        complain("nothing was changed; --execute does it")
        if group.members or group.owners:
            complain(
                f"the group has {count_of(len(group.members), 'member')}: stop them before, or give --force"
            )
        return
    conflicts = [str(move.partition) for move in done.moves if not move.is_written]
    if conflicts:
        raise Failure(
            f"somebody else has written the offsets of {', '.join(conflicts)} meanwhile, so these were not "
            "changed; look again"
        )
    if group.members:
        complain("a running member notices when it next stores an offset of its own, and goes on from these")
