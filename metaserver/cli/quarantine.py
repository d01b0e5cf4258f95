"""quarantine: what replicas had to give up. It is read from the files, whether the node runs or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metaserver.cli.dump import TITLE, json_line, text_line
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.formats import time_text
from metaserver.cli.options import (
    ROLES,
    chosen_node,
    json_option,
    node_arguments,
    plug_in_option,
    preview_option,
    server_file_option,
)
from metaserver.cli.output import Failure, complain, count_of, describe_bytes, say, table
from metaserver.cli.quarantine_folder import data_paths, find_folder, load_folder
from metaserver.cli.quarantine_replay import replay
from metaserver.cli.segment_file import Damage
from metaserver.storage import RealFileSystem, quarantine_folders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaserver.cli.quarantine_folder import Folder

_LINES_AT_A_TIME = 1000


@click.group(invoke_without_command=True)
@click.pass_context
def quarantine(context: click.Context) -> None:
    """List, show and send again what a replica had to give up because its master does not have it.

    `metaServer quarantine replay --help` lists the options of one.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_folders, place="", server_file=None, plug_ins=(), as_json=False)


@quarantine.command("list")
@click.argument("place", required=False, default="", metavar="[slave | DIR]")
@server_file_option
@plug_in_option
@json_option
def list_folders(place: str, server_file: Path | None, plug_ins: tuple[str, ...], *, as_json: bool) -> None:
    """List the folders in quarantine of a node, or of a data directory."""
    if place in ROLES:
        directories = data_paths(chosen_node(place, server_file, plug_ins))
    else:
        directories = [Path(place)]
        if not directories[0].is_dir():
            raise Failure(f"{place} is no directory")
    found = [load_folder(path) for path in _folders(directories)]
    if as_json:
        say(json.dumps({"folders": [_as_json(folder) for folder in found]}, indent=2))
    elif found:
        say(_describe(found))
    else:
        say(f"nothing is in quarantine in {', '.join(map(str, directories))}")


@quarantine.command()
@click.argument("folder_name", metavar="FOLDER")
@node_arguments
@json_option
@preview_option
@click.pass_context
def show(
    context: click.Context,
    folder_name: str,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    *,
    as_json: bool,
    preview_bytes: int,
) -> None:
    """Print the records of FOLDER, a path or TOPIC-PARTITION/START-END, as dump-log does."""
    folder = find_folder(folder_name, role, server_file, plug_ins)
    render = json_line if as_json else text_line
    lines = [] if as_json else [_describe_one(folder), TITLE]
    damages = 0
    for base, found in folder.records():
        damages += isinstance(found, Damage)
        lines.append(render(found, base, preview_bytes))
        if len(lines) >= _LINES_AT_A_TIME:
            say("\n".join(lines))
            lines.clear()
    if lines:
        say("\n".join(lines))
    if damages:
        complain(f"{folder.path} holds bytes that are no records")
        context.exit(int(ExitCode.DAMAGE))


quarantine.add_command(replay)


def _folders(directories: Sequence[Path]) -> list[Path]:
    filesystem = RealFileSystem()
    return [folder for path in directories for folder in quarantine_folders(filesystem, path)]


def _as_json(folder: Folder) -> dict[str, Any]:
    report = json.loads(folder.report.encode())
    return {"name": folder.name, "path": str(folder.path), **report, "replayed": folder.replayed}


def _describe(folders: Sequence[Folder]) -> str:
    rows = [["folder", "messages", "size", "from", "to", "replayed"]]
    for folder in folders:
        report = folder.report
        rows.append(
            [
                folder.name,
                f"{report.records:,}",
                describe_bytes(report.end_offset - report.start_offset),
                _time(report.first_wall_seconds),
                _time(report.last_wall_seconds),
                _replayed(folder),
            ]
        )
    lines = [table(rows, right=frozenset({1, 2}))]
    lines += [f"{folder.name}: {folder.report.reason}" for folder in folders]
    return "\n".join(lines)


def _describe_one(folder: Folder) -> str:
    report = folder.report
    return (
        f"{folder.path}: {count_of(report.records, 'message')} of {report.topic}-{report.partition}, "
        f"offsets {report.start_offset} to {report.end_offset}; replayed: {_replayed(folder)}\n"
        f"{report.reason}; the master was {report.master}"
    )


def _replayed(folder: Folder) -> str:
    if folder.replayed is None:
        return "no"
    return "yes" if folder.replayed.get("complete") else "in part"


def _time(wall_seconds: float | None) -> str:
    return "-" if wall_seconds is None else time_text(wall_seconds)
