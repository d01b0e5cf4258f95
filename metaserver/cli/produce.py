"""``produce``: messages from a file or standard input to a broker."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import trio

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.framing import LineSplitter, RecordSplitter
from metaserver.cli.options import server_file_option
from metaserver.cli.output import Failure, complain, count_of, describe_bytes, describe_seconds, say
from metaserver.cli.sender import Input, Job, Outcome, Request, Sender
from metaserver.cli.target import Address, chosen_address, server_option
from metaserver.client import connect
from metaserver.names import is_valid_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from metaserver.cli.framing import Splitter

    Show = Callable[[Outcome], None]

_BATCH_BYTES = 256 * 1024
_BATCH_BYTES_MAX = 8 * 1024 * 1024
_SHOW_SECONDS = 0.1


@click.command()
@click.argument("topic")
@click.option(
    "--partition",
    type=click.IntRange(-1),
    default=0,
    show_default=True,
    help="-1: the broker picks, each time.",
)
@server_option
@server_file_option
@click.option("--file", "input_file", default="-", metavar="FILE", help="What to send; - is standard input.")
@click.option(
    "--format",
    "input_format",
    type=click.Choice(["lines", "records"]),
    default="lines",
    show_default=True,
    help="A message a line; or each behind its length, 4 bytes, big-endian.",
)
@click.option("--attribute", metavar="TEXT", help="An attribute for every message.")
@click.option(
    "--batch-bytes",
    type=click.IntRange(1024, _BATCH_BYTES_MAX),
    default=_BATCH_BYTES,
    show_default=True,
    help="About so many bytes are sent at a time.",
)
@click.option("--no-batch", is_flag=True, help="One request a message, as a Java client sends.")
@click.option("--rate", type=click.FloatRange(min=0.001), metavar="N", help="At most N messages a second.")
def produce(
    *,
    topic: str,
    partition: int,
    server: str | None,
    server_file: Path | None,
    input_file: str,
    input_format: str,
    attribute: str | None,
    batch_bytes: int,
    no_batch: bool,
    rate: float | None,
) -> None:
    """Send lines or records to TOPIC, in order; prints how many were acknowledged, and where they are."""
    if not is_valid_topic(topic):
        raise Failure(
            f"{topic!r} is no topic: a topic is printable ASCII without blank and slash", ExitCode.USAGE
        )
    address = chosen_address(server, server_file, is_slave=False)
    job = Job(
        topic=topic,
        partition=partition,
        attribute=attribute,
        batch_bytes=batch_bytes,
        is_batched=not no_batch,
        messages_per_second=rate,
    )
    splitter: Splitter = LineSplitter() if input_format == "lines" else RecordSplitter()
    with _opened(input_file) as descriptor, _progress(descriptor) as show:
        outcome = trio.run(_send, address, job, Input(descriptor, splitter), show)
    _report(outcome)


async def _send(address: Address, job: Job, source: Input, show: Show) -> Outcome:
    async with connect(address.host, address.port) as connection, trio.open_nursery() as nursery:
        sender = Sender(connection, job)
        await nursery.start(_interrupt_with_control_c, sender)
        nursery.start_soon(_show_often, sender.outcome, show)
        await sender.run(source)
        nursery.cancel_scope.cancel()
    show(sender.outcome)
    return sender.outcome


async def _interrupt_with_control_c(
    sender: Sender, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            sender.interrupt()


async def _show_often(outcome: Outcome, show: Show) -> None:
    while True:
        show(outcome)
        await trio.sleep(_SHOW_SECONDS)


@contextmanager
def _opened(name: str) -> Iterator[int]:
    if name == "-":
        yield sys.stdin.fileno()
        return
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failure(f"{name}: cannot be read: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _progress(descriptor: int) -> Iterator[Show]:
    """What shows the progress: a bar where standard error is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _outcome: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.fields[messages]}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=os.fstat(descriptor).st_size or None, messages="")

        def show(outcome: Outcome) -> None:
            progress.update(
                task, completed=outcome.acknowledged_bytes, messages=count_of(outcome.acknowledged, "message")
            )

        yield show


def _report(outcome: Outcome) -> None:
    seconds = max(outcome.seconds, 1e-6)
    size = outcome.acknowledged_bytes
    text = (
        f"{count_of(outcome.acknowledged, 'message')} acknowledged, {describe_bytes(size)} "
        f"in {describe_seconds(seconds)}: {outcome.acknowledged / seconds:,.0f} messages/s, "
        f"{describe_bytes(size / seconds)}/s"
    )
    if outcome.first_offset is not None:
        text += f"; offsets {outcome.first_offset} to {outcome.last_offset}"
    say(text)
    if outcome.refused is not None:
        request, error = outcome.refused
        complain(f"{_numbers(request)} refused by the broker, so not stored: {error}")
    if outcome.unanswered:
        unanswered = f"from {outcome.unanswered[0].first_number} to {outcome.unanswered[-1].last_number}"
        count = sum(request.count for request in outcome.unanswered)
        complain(
            f"{count_of(count, 'message')} without a reply, between message {unanswered}: "
            f"the broker may have stored them or not; {outcome.broken or 'interrupted'}"
        )
    elif outcome.broken is not None:
        complain(outcome.broken)
    if outcome.input_problem is not None:
        complain(f"the input: {outcome.input_problem}")
    if not outcome.is_complete:
        raise SystemExit(int(ExitCode.NOT_ACKNOWLEDGED))
    if outcome.is_interrupted:
        raise SystemExit(int(ExitCode.INTERRUPTED))
    if outcome.input_problem is not None:
        raise SystemExit(int(ExitCode.FAILED))


def _numbers(request: Request) -> str:
    if request.count == 1:
        return f"message {request.first_number} was"
    return f"messages {request.first_number} to {request.last_number} (one batch) were"
