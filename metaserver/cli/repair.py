"""``repair``: everything a node holds is read, and what is damaged is fetched from another replica."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.options import chosen_node, json_option, node_arguments
from metaserver.cli.output import Failure, count_of, describe_bytes, say
from metaserver.cli.target import Address, config_of, parse_address

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.cli.installation import Installation

_ANSWER_SECONDS = 24 * 3600.0
"""A terabyte takes hours."""


@click.command()
@node_arguments
@click.option(
    "--from", "source", metavar="HOST:PORT", help="The replica to ask; needed where the node is stopped."
)
@click.option("--topic", help="Only this topic.")
@click.option("--partition", type=click.IntRange(0), help="Only the partitions of this number.")
@json_option
@click.pass_context
def repair(
    context: click.Context,
    *,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    source: str | None,
    topic: str | None,
    partition: int | None,
    as_json: bool,
) -> None:
    """Check every byte of a node, and repair what is damaged from another replica.

    The node may run or not. Without --from a running slave asks its master, a running master its slaves.
    """
    from metaserver.cli.processes import find_node, paths_of
    from metaserver.control.client import call

    installation = chosen_node(role, server_file, plug_ins)
    address = None if source is None else parse_address(source)
    if find_node(installation).is_running:
        found: dict[str, Any] = dict(
            call(
                paths_of(installation).control_socket,
                "repair",
                _ANSWER_SECONDS,
                source=address,
                topic=topic,
                partition=partition,
            )
        )
    elif address is None:
        raise Failure(
            f"the {installation.role} is not running: start it, or say with --from HOST:PORT whom to ask",
            ExitCode.NOT_RUNNING,
        )
    else:
        found = _repair_stopped(installation, address, topic, partition)
    say(json.dumps(found, indent=2) if as_json else _describe(found))
    if found["repaired"] < found["found"]:
        context.exit(int(ExitCode.DAMAGE))


def _repair_stopped(
    installation: Installation, source: Address, topic: str | None, partition: int | None
) -> dict[str, Any]:
    """As the node itself would, with its lock; opening its logs is what a start does."""
    import trio

    from metaserver.node.checking import describe_damages, wanted_by
    from metaserver.node.clock import SystemClock
    from metaserver.replication.repairing import Repairer, StoppedLogs
    from metaserver.storage import MessageStore, RealFileSystem, StoreOptions

    config, filesystem = config_of(installation), RealFileSystem()
    options = StoreOptions(
        segment_bytes_max=config.max_segment_size_bytes, checkpoint_bytes=config.checkpoint_bytes
    )
    owner = f"pid {os.getpid()}, metaServer repair"
    store = MessageStore.open(filesystem, SystemClock(), options, config.data_paths, owner)

    async def sources() -> list[tuple[str, int]]:
        return [source]

    try:
        repairer = Repairer(StoppedLogs(store), filesystem, sources)
        damages = trio.run(repairer.check_all, wanted_by(topic, partition))
        return describe_damages(damages, repairer.read_bytes)
    finally:
        store.close()


def _describe(found: dict[str, Any]) -> str:
    lines = []
    for damage in found["damages"]:
        offsets = f"offsets {damage['start_offset']} to {damage['end_offset']}"
        where = f"{damage['topic']}-{damage['partition']}: {offsets}"
        if damage["repaired_from"] and damage["over"]:
            lines.append(f"{where}: repaired from {damage['repaired_from']}")
        elif damage["over"]:
            lines.append(f"{where}: valid again, or no longer held")
        else:
            lines.append(f"{where}: damaged, not repaired: {damage['reason']}")
    told = len(found["damages"])
    if told < found["found"]:
        lines.append(f"and {found['found'] - told} more")
    summary = f"{describe_bytes(found['read_bytes'])} read: "
    if not found["found"]:
        return summary + "clean"
    lines.append(f"{summary}{count_of(found['found'], 'damaged range')}, {found['repaired']} repaired")
    return "\n".join(lines)
