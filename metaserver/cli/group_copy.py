"""``groups copy``: a group's offsets for another group, in another storage, or for moved partitions."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import attrs
import click
import trio

from metaserver.cli.cluster import (
    check_group,
    check_topic,
    chosen_cluster,
    cluster_arguments,
    opened,
    parse_cluster_partition,
)
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.options import execute_option, json_option
from metaserver.cli.output import Failure, complain, count_of, say, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metaserver.cli.cluster import Choice
    from metaserver.cli.offset_places import OffsetPlace
    from metaserver.client import Partition, Session
    from metaserver.registry.paths import BrokerPartition, StoredOffset


@attrs.frozen
class Request:
    """What is to be copied."""

    group: str
    target_group: str
    source: str
    target: str
    topic: str | None
    moves: dict[BrokerPartition, BrokerPartition]
    """Which partitions get another number; empty: all are copied as they are."""
    replaces: bool
    executes: bool
    forces: bool


@attrs.define
class Copy:
    """One offset on its way."""

    source: Partition
    target: Partition
    stored: StoredOffset
    before: StoredOffset | None
    """At the target."""
    is_written: bool = False

    @property
    def fate(self) -> str:
        """In a word."""
        if self.before == self.stored:
            return "the same already"
        if self.before is not None:
            return "replaced" if self.is_written else "kept as it is"
        return "written" if self.is_written else "new"


@click.command()
@click.argument("group")
@click.argument("target_group", required=False, metavar="[TARGET]")
@click.option("--from", "source", default="registry", show_default=True, metavar="STORAGE")
@click.option(
    "--into",
    "target",
    default="registry",
    show_default=True,
    metavar="STORAGE",
    help="registry, file[:PATH], sqlite:PATH, jdbc:FILE, sql:MODULE:ARGUMENT; so with --from.",
)
@click.option("--topic", metavar="TOPIC", help="Only this one.")
@click.option(
    "--move",
    "move_texts",
    multiple=True,
    metavar="B-P=B-P",
    help="Only this partition, for another one; may be given again.",
)
@click.option("--replace", "replaces", is_flag=True, help="Also where the target has an offset.")
@click.option("--force", "forces", is_flag=True, help="Also while the target has members.")
@execute_option
@cluster_arguments
@json_option
def copy(
    *,
    group: str,
    target_group: str | None,
    source: str,
    target: str,
    topic: str | None,
    move_texts: tuple[str, ...],
    replaces: bool,
    forces: bool,
    executes: bool,
    servers: str | None,
    root: str | None,
    server_file: Path | None,
    as_json: bool,
) -> None:
    """Copy GROUP's offsets to the group TARGET, or to GROUP in another storage.

    Offsets that the target has stay, unless --replace is given.
    """
    from metaserver.cli.offset_places import is_registry

    target_group = target_group or group
    for name in (group, target_group):
        check_group(name)
    if topic is not None:
        check_topic(topic)
    moves = dict(map(_parse_move, move_texts))
    if moves and topic is None:
        raise Failure("--move needs --topic: the partitions of one topic", ExitCode.USAGE)
    if (group, source) == (target_group, target) and not moves:
        raise Failure("source and target are the same", ExitCode.USAGE)
    request = Request(group, target_group, source, target, topic, moves, replaces, executes, forces)
    needs_cluster = is_registry(source) or is_registry(target)
    choice = chosen_cluster(servers, root, server_file) if needs_cluster else None
    copies = trio.run(_copy, choice, request)
    say(json.dumps(_as_json(request, copies), indent=2) if as_json else _describe(copies))
    if not executes:
        complain("nothing was changed; --execute does it")
    elif left := [one for one in copies if not one.is_written and one.before != one.stored]:
        complain(f"{count_of(len(left), 'offset')} of the target stayed as they are; --replace replaces them")


async def _copy(choice: Choice | None, request: Request) -> list[Copy]:
    from metaserver.cli.offset_places import is_registry, open_place

    async with AsyncExitStack() as stack:
        session = None if choice is None else await stack.enter_async_context(opened(choice))
        source = open_place(request.source, session)
        target = open_place(request.target, session)
        if session is not None and is_registry(request.target) and request.executes and not request.forces:
            await _refuse_members(session, request.target_group)
        copies = await _plan(request, source, target)
        if request.executes:
            wanted = {one.target: one.stored for one in copies if one.before != one.stored}
            left = await target.store(request.target_group, wanted, replaces=request.replaces)
            for one in copies:
                one.is_written = one.target in wanted and one.target not in left
        return copies


async def _refuse_members(session: Session, name: str) -> None:
    from metaserver.client.groups import read_group

    group = await read_group(session.network.discovery, name)
    members = set() if group is None else set(group.members) | set(group.owners.values())
    if members:
        raise Failure(
            f"group {name} has {count_of(len(members), 'member')} ({', '.join(sorted(members))}): stop them "
            "first, or give --force"
        )


async def _plan(request: Request, source: OffsetPlace, target: OffsetPlace) -> list[Copy]:
    found = await source.load(request.group)
    chosen = {p: at for p, at in found.items() if request.topic in (None, p.topic)}
    missing = request.moves.keys() - {partition.in_topic for partition in chosen}
    if missing:
        names = ", ".join(sorted(map(str, missing)))
        raise Failure(f"group {request.group} has no offset of {request.topic} {names} in {source.name}")
    if not chosen:
        what = "" if request.topic is None else f" of {request.topic}"
        raise Failure(f"group {request.group} has no offsets{what} in {source.name}")
    before = await target.load(request.target_group)
    moved = _mover(request)
    return [
        Copy(partition, moved(partition), at, before.get(moved(partition)))
        for partition, at in sorted(chosen.items(), key=lambda item: item[0])
        if not request.moves or partition.in_topic in request.moves
    ]


def _mover(request: Request) -> Callable[[Partition], Partition]:
    def moved(partition: Partition) -> Partition:
        to = request.moves.get(partition.in_topic)
        if to is None:
            return partition
        return attrs.evolve(partition, broker_id=to.broker_id, number=to.partition)

    return moved


def _parse_move(text: str) -> tuple[BrokerPartition, BrokerPartition]:
    source, equals, target = text.partition("=")
    if not equals:
        raise Failure(f"--move {text}: write FROM=TO, like 0-3=1-0", ExitCode.USAGE)
    return parse_cluster_partition(source), parse_cluster_partition(target)


def _as_json(request: Request, copies: list[Copy]) -> dict[str, Any]:
    return {
        "group": request.group,
        "target_group": request.target_group,
        "executed": request.executes,
        "offsets": [
            {
                "topic": one.source.topic,
                "partition": str(one.source.in_topic),
                "target_partition": str(one.target.in_topic),
                "offset": one.stored.offset,
                "message_id": one.stored.message_id,
                "before": None if one.before is None else one.before.offset,
                "written": one.is_written,
            }
            for one in copies
        ],
    }


def _describe(copies: list[Copy]) -> str:
    rows = [["topic", "partition", "to", "offset", "id", "there", ""]]
    rows += [
        [
            one.source.topic,
            str(one.source.in_topic),
            str(one.target.in_topic),
            str(one.stored.offset),
            "-" if one.stored.message_id is None else str(one.stored.message_id),
            "-" if one.before is None else str(one.before.offset),
            one.fate,
        ]
        for one in copies
    ]
    return table(rows, right=frozenset({3, 4, 5}))
