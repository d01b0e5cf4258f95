"""``consume``: messages from a broker to standard output."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import click
import trio

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.formats import formatter
from metaserver.cli.options import server_file_option
from metaserver.cli.output import Failure, complain
from metaserver.cli.reader import Output, Reader
from metaserver.cli.starting_point import parse_starting_point
from metaserver.cli.target import Address, chosen_address, server_option
from metaserver.client import connect
from metaserver.errors import BrokerUnreachableError
from metaserver.names import is_valid_topic

if TYPE_CHECKING:
    from pathlib import Path

_RETRY_SECONDS = 0.5


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
def consume(
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
) -> None:
    """Print the messages of TOPIC."""
    if not is_valid_topic(topic):
        raise Failure(
            f"{topic!r} is no topic: a topic is printable ASCII without blank and slash", ExitCode.USAGE
        )
    starting_point = parse_starting_point(start_text)
    if with_offsets and output_format != "lines":
        raise Failure("--with-offsets belongs to --format lines; json has the offsets anyway", ExitCode.USAGE)
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


async def _consume(address: Address, reader: Reader) -> bool:
    """Whether it was interrupted."""
    is_interrupted = False
    async with trio.open_nursery() as nursery:

        async def interrupt_with_control_c(
            task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        ) -> None:
            nonlocal is_interrupted
            with trio.open_signal_receiver(signal.SIGINT) as signals:
                task_status.started()
                async for _ in signals:
                    is_interrupted = True
                    nursery.cancel_scope.cancel()

        await nursery.start(interrupt_with_control_c)
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
