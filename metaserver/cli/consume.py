"""``consume``: messages from a broker to standard output."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Literal

import click
import trio
from click.core import ParameterSource

from metaserver.cli.cluster import (
    check_group,
    check_topic,
    chosen_cluster,
    chosen_profile,
    profile_option,
    root_option,
    servers_option,
)
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.formats import formatter
from metaserver.cli.options import server_file_option
from metaserver.cli.output import Failure, complain
from metaserver.cli.reader import Output, Reader
from metaserver.cli.signals import on_signal
from metaserver.cli.starting_point import parse_starting_point
from metaserver.cli.target import Address, chosen_address, server_option
from metaserver.client import connect
from metaserver.errors import BrokerUnreachableError
from metaserver.names import MAX_OFFSET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from metaserver.cli.cluster import Choice
    from metaserver.cli.group_consume import Job
    from metaserver.cli.starting_point import StartingPoint

_RETRY_SECONDS = 0.5
_NOT_IN_GROUPS = {
    "server": "a group reads from all brokers: --servers metaq://HOST:PORT names one to ask for them",
    "partition": "a group shares the partitions among its members; --partition is for reading without one",
    "is_slave": "write --read-from slave for a group",
}
_NOT_TO_END = {"is_following": "a member of a group waits for more; --count or --idle-exit ends it"}
_ONLY_IN_GROUPS = {
    "servers": "--servers belongs to --group; --server HOST:PORT reads from one broker",
    "root": "--root belongs to --group",
    "read_from": "--read-from belongs to --group; --slave reads from the slave of server.ini",
    "idle_seconds": "--idle-exit belongs to --group; without --follow, reading stops at the end",
}


@click.command()
@click.argument("topic")
@click.option("--partition", type=click.IntRange(0), help="Only this one; without it all partitions.")
@server_option
@server_file_option
@click.option("--slave", "is_slave", is_flag=True, help="Read from the slave of server.ini.")
@click.option(
    "--from",
    "start_text",
    default="start",
    show_default=True,
    metavar="WHERE",
    help="start, end, an offset, a time (2025-11-21T06:10, @SECONDS since 1970) or how long ago (-10m).",
)
@click.option("--follow/--no-follow", "is_following", help="Wait for more at the end; without it stop there.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Stop after N messages.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["lines", "records", "json", "raw"]),
    default="lines",
    show_default=True,
    help="A payload a line; payloads behind their 4-byte lengths; JSON lines; the log's own bytes.",
)
@click.option("--with-offsets", is_flag=True, help="PARTITION:OFFSET and a tab before each line.")
@click.option("--group", metavar="GROUP", help="As a member of this group, from all brokers of a cluster.")
@servers_option
@profile_option
@root_option
@click.option(
    "--read-from",
    type=click.Choice(["any", "master", "slave"]),
    help="With --group: which replicas are read.  [default: any]",
)
@click.option(
    "--idle-exit",
    "idle_seconds",
    type=click.FloatRange(min=0.001),
    metavar="SECONDS",
    help="With --group: end when nothing has come for so long.",
)
@click.pass_context
def consume(
    context: click.Context,
    *,
    topic: str,
    partition: int | None,
    server: str | None,
    server_file: Path | None,
    start_text: str,
    count: int | None,
    output_format: str,
    is_slave: bool,
    is_following: bool,
    with_offsets: bool,
    group: str | None,
    servers: str | None,
    root: str | None,
    read_from: Literal["any", "master", "slave"] | None,
    idle_seconds: float | None,
) -> None:
    """Print the messages of TOPIC: of one broker, or with --group as a member of a group."""
    check_topic(topic)
    starting_point = parse_starting_point(start_text)
    if with_offsets and output_format != "lines":
        raise Failure("--with-offsets belongs to --format lines; json has the offsets anyway", ExitCode.USAGE)
    profile = chosen_profile()
    if group is None and profile is not None:
        group = profile.group or None
        if group is None:
            raise Failure(f"profile {profile.name} names no group; give --group", ExitCode.USAGE)
    if group is not None:
        _refuse(context, _NOT_IN_GROUPS)
        if not is_following:
            _refuse(context, _NOT_TO_END)
        if output_format == "raw":
            raise Failure("--format raw is the log of one partition, without --group", ExitCode.USAGE)
        check_group(group)
        from metaserver.cli.group_consume import Job, renderer

        job = Job(
            topic=topic,
            group=group,
            start=_start_of_group(starting_point) if _is_given(context, "start_text") else None,
            read_from=read_from,
            count=count,
            idle_seconds=idle_seconds,
            render=renderer(output_format, with_offsets=with_offsets),
        )
        _run_in_group(chosen_cluster(servers, root, server_file), job)
        return
    _refuse(context, _ONLY_IN_GROUPS)
    address = chosen_address(server, server_file, is_slave=is_slave)
    sys.stdout.flush()
    reader = Reader(
        topic,
        partition,
        starting_point,
        is_following,
        formatter(output_format, with_offsets=with_offsets),
        Output(sys.stdout.fileno()),
        count,
    )
    if trio.run(_consume, address, reader):
        raise SystemExit(int(ExitCode.INTERRUPTED))
    if reader.problem is not None:
        raise reader.problem


def _refuse(context: click.Context, reasons: Mapping[str, str]) -> None:
    """Raises Failure where one of these options was given."""
    for name, reason in reasons.items():
        if _is_given(context, name):
            raise Failure(reason, ExitCode.USAGE)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _run_in_group(choice: Choice, job: Job) -> None:
    from metaserver.cli.group_consume import Output, consume_in_group

    sys.stdout.flush()
    ended = trio.run(consume_in_group, choice, job, Output(sys.stdout.fileno()))
    if ended.problem is not None:
        raise ended.problem
    if ended.signal_number == signal.SIGINT:
        raise SystemExit(int(ExitCode.INTERRUPTED))


def _start_of_group(starting_point: StartingPoint) -> Literal["earliest", "latest"]:
    """Where a group begins that has stored nothing; raises Failure for what is neither start nor end."""
    if starting_point.is_exact or starting_point.wall_seconds is not None:
        raise Failure(
            "a group goes on where it is; --from start or end says where a new one begins, and "
            "`metaServer groups reset` moves one",
            ExitCode.USAGE,
        )
    return "latest" if starting_point.offset == MAX_OFFSET else "earliest"


async def _consume(address: Address, reader: Reader) -> bool:
    """Whether it was interrupted."""
    is_interrupted = False
    async with trio.open_nursery() as nursery:

        def interrupt(_number: int) -> None:
            nonlocal is_interrupted
            is_interrupted = True
            nursery.cancel_scope.cancel()

        await nursery.start(on_signal, interrupt, signal.SIGINT)
        await _read(address, reader)
        nursery.cancel_scope.cancel()
    return is_interrupted


async def _read(address: Address, reader: Reader) -> None:
    """Read; while following, connect again where the connection breaks."""
    has_begun = False
    while True:
        try:
            async with connect(address.host, address.port) as connection:
                has_begun = True
                await reader.run(connection)
        except BrokerUnreachableError as error:
            problem = reader.problem
            reader.problem = error
            if isinstance(problem, BrokerUnreachableError):
                await trio.sleep(_RETRY_SECONDS)
                continue
        if not (has_begun and reader.is_following and isinstance(reader.problem, BrokerUnreachableError)):
            return
        complain(f"{reader.problem}; connecting again")
        await trio.sleep(_RETRY_SECONDS)
