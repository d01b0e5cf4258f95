"""open-partitions, close-partitions (of a running broker), delete-partitions, move-partitions (of none).

The names and options are MetaQ's. What works on directories holds their lock meanwhile, so that no broker of
ours can have them open; a Java broker takes no lock.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.options import (
    chosen_node,
    jmx_options,
    json_option,
    plug_in_option,
    role_argument,
    server_file_option,
)
from metaserver.cli.output import Failure, complain, count_of, say
from metaserver.cli.processes import ask
from metaserver.names import PartitionId, Topic, TopicPartition, is_valid_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Function = TypeVar("_Function", bound="Callable[..., Any]")

_dry_run_option = click.option("--dry-run", "is_dry", is_flag=True, help="Only tell what would be done.")
_topic_option = click.option("-topic", "--topic", "topic", required=True, metavar="TOPIC")


def _range_options(function: _Function) -> _Function:
    number = click.IntRange(0)
    first = click.option(
        "-start", "--start", "first", required=True, type=number, help="The first partition."
    )
    last = click.option("-end", "--end", "last", required=True, type=number, help="The last, inclusive.")
    return first(last(function))


_data_option = click.option(
    "-dataDir",
    "--data-dir",
    "data_directory",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="dataPath of the broker, which must not be running.",
)


@click.command("close-partitions")
@_topic_option
@_range_options
@_dry_run_option
@role_argument
@server_file_option
@plug_in_option
@jmx_options
@json_option
def close_partitions(
    *,
    topic: str,
    first: int,
    last: int,
    is_dry: bool,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Have the running broker refuse puts to and gets from some partitions, until they are opened.

    A restart opens them too.
    """
    _check_range(topic, first, last)
    node = chosen_node(role, server_file, plug_ins)
    command = {"topic": topic, "first": first, "last": last, "dry_run": is_dry}
    done = ask(node, "close-partitions", **command)
    if as_json:
        say(json.dumps(done, indent=2))
        return
    verb = "would be" if is_dry else "are"
    say(f"partitions {_numbers(done['closed'])} of {topic} {verb} closed")


@click.command("open-partitions")
@_topic_option
@_dry_run_option
@role_argument
@server_file_option
@plug_in_option
@jmx_options
@json_option
def open_partitions(
    *,
    topic: str,
    is_dry: bool,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Have the running broker serve every partition of a topic again."""
    done = ask(chosen_node(role, server_file, plug_ins), "open-partitions", topic=topic, dry_run=is_dry)
    if as_json:
        say(json.dumps(done, indent=2))
    elif done["opened"]:
        verb = "would be" if is_dry else "are"
        say(f"partitions {_numbers(done['opened'])} of {topic} {verb} open again")
    else:
        say(f"no partition of {topic} is closed")


@click.command("delete-partitions")
@_data_option
@_topic_option
@_range_options
@click.option("-f", "--force", "is_forced", is_flag=True, help="Do not ask.")
@_dry_run_option
def delete_partitions(
    *, data_directory: Path, topic: str, first: int, last: int, is_forced: bool, is_dry: bool
) -> None:
    """Remove the directories of some partitions, for good; asks for each, unless -f."""
    _check_range(topic, first, last)
    with _locked(data_directory):
        found = []
        for number in range(first, last + 1):
            directory = data_directory / _name(topic, number)
            if directory.is_dir():
                found.append(directory)
            else:
                complain(f"there is no {directory}")
        if not found:
            raise Failure("nothing was removed")
        if not is_forced and not is_dry and not sys.stdin.isatty():
            raise Failure(
                "this removes messages for good, and there is no terminal to ask: look with --dry-run, then "
                "give -f",
                ExitCode.USAGE,
            )
        removed = 0
        for directory in found:
            size_bytes = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
            if is_dry:
                say(f"{directory}: would be removed, with {count_of(size_bytes, 'byte')}")
            elif is_forced or click.confirm(f"remove {directory}, with {count_of(size_bytes, 'byte')}?"):
                shutil.rmtree(directory)
                removed += 1
                say(f"{directory}: removed")
        _sync(data_directory)
    if is_dry:
        complain("nothing was removed; without --dry-run it is")
    elif removed < len(found):
        complain(f"{len(found) - removed} of {len(found)} were left")


@click.command("move-partitions")
@_data_option
@_topic_option
@_range_options
@click.option(
    "-offset", "--offset", "shift", required=True, type=int, help="By how much the numbers grow; not 0."
)
@_dry_run_option
def move_partitions(
    *, data_directory: Path, topic: str, first: int, last: int, shift: int, is_dry: bool
) -> None:
    """Give some partitions other numbers: TOPIC-N becomes TOPIC-(N+OFFSET). All or none.

    Groups' offsets do not move with them (`groups copy` does that), nor do the copies of slaves.
    """
    _check_range(topic, first, last)
    if not shift:
        raise Failure("-offset 0 moves nothing", ExitCode.USAGE)
    if first + shift < 0:
        raise Failure(f"partition {first} would become {first + shift}; numbers begin at 0", ExitCode.USAGE)
    with _locked(data_directory):
        numbers = range(first, last + 1)
        _check_moves(data_directory, topic, numbers, shift)
        # The target of each is free, or has just been left.
        for number in numbers if shift < 0 else reversed(numbers):
            source, target = (data_directory / _name(topic, at) for at in (number, number + shift))
            if not is_dry:
                source.rename(target)
            say(f"{source} {'would become' if is_dry else 'is now'} {target.name}")
        _sync(data_directory)
    if is_dry:
        complain("nothing was moved; without --dry-run it is")


def _check_moves(data_directory: Path, topic: str, numbers: range, shift: int) -> None:
    missing = [number for number in numbers if not (data_directory / _name(topic, number)).is_dir()]
    taken = [
        number + shift
        for number in numbers
        if number + shift not in numbers and (data_directory / _name(topic, number + shift)).exists()
    ]
    problems = [f"there is no {data_directory / _name(topic, number)}" for number in missing]
    problems += [f"{data_directory / _name(topic, number)} is there already" for number in taken]
    if problems:
        raise Failure("\n".join([*problems, "nothing was moved"]))


def _check_range(topic: str, first: int, last: int) -> None:
    if not is_valid_topic(topic):
        raise Failure(f"{topic!r} is no topic", ExitCode.USAGE)
    if first > last:
        raise Failure(f"-start {first} is behind -end {last}", ExitCode.USAGE)


def _name(topic: str, number: int) -> str:
    return str(TopicPartition(Topic(topic), PartitionId(number)))


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


@contextmanager
def _locked(data_directory: Path) -> Iterator[None]:
    """The lock that a broker would take; raises DirectoryLockedError where one has it."""
    from metaserver.storage import RealFileSystem
    from metaserver.storage.filenames import LOCK_NAME

    if not data_directory.is_dir():
        raise Failure(f"there is no directory {data_directory}")
    lock = RealFileSystem().lock(data_directory / LOCK_NAME, f"metaServer, pid {os.getpid()}")
    try:
        yield
    finally:
        lock.release()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
