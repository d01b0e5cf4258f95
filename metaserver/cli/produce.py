"""``produce``: messages from a file or standard input to a broker."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click
import trio

from metaserver.cli.cluster import (
    check_topic,
    chosen_cluster,
    chosen_profile,
    how_to_make,
    parse_cluster_partition,
    profile_option,
    root_option,
    servers_option,
)
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.framing import LineSplitter, RecordSplitter
from metaserver.cli.options import server_file_option
from metaserver.cli.output import Failure, complain, count_of, say
from metaserver.cli.sender import Input, Job, Outcome, Request, Sender
from metaserver.cli.sending import describe_acknowledged, opened_input, progress, show_often
from metaserver.cli.signals import on_signal
from metaserver.cli.target import Address, chosen_address, server_option
from metaserver.client import connect
from metaserver.errors import UNCLEAR_TEXT
from metaserver.names import parse_digits
from metaserver.protocol import STORED_TEXT

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.cli.framing import Splitter
    from metaserver.cli.sending import Show

_PARTITION_MAX = 2**31 - 1
_BATCH_BYTES = 256 * 1024
_BATCH_BYTES_MAX = 8 * 1024 * 1024


@click.command()
@click.argument("topic")
@click.option(
    "--partition",
    "partition_text",
    metavar="N",
    help="0 without it; -1: the broker picks, each time. With --cluster BROKER-N; all without it.",
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
@click.option(
    "--cluster", "is_cluster", is_flag=True, help="To all brokers and partitions; so with --servers."
)
@servers_option
@profile_option
@root_option
@click.option(
    "--key-separator",
    metavar="TEXT",
    help="With --cluster: what is in front of it is the key, and not sent. Equal keys, equal partition.",
)
@click.option(
    "--key-regex", metavar="RE", help="With --cluster: the key is its first group, or all that matches."
)
def produce(
    *,
    topic: str,
    partition_text: str | None,
    server: str | None,
    server_file: Path | None,
    input_file: str,
    input_format: str,
    attribute: str | None,
    batch_bytes: int,
    no_batch: bool,
    rate: float | None,
    is_cluster: bool,
    servers: str | None,
    root: str | None,
    key_separator: str | None,
    key_regex: str | None,
) -> None:
    """Send lines or records to TOPIC, in order; prints how many were acknowledged, and where they are."""
    check_topic(topic)
    splitter: Splitter = LineSplitter() if input_format == "lines" else RecordSplitter()
    if is_cluster or servers is not None or chosen_profile() is not None:
        if server is not None:
            raise Failure("--server is for one broker; --servers metaq://HOST:PORT finds all", ExitCode.USAGE)
        from metaserver.cli import cluster_produce as cluster

        cluster_job = cluster.Job(
            topic=topic,
            partition=None if partition_text is None else parse_cluster_partition(partition_text),
            attribute=attribute,
            key_of=cluster.key_function(key_separator, key_regex),
            batch_bytes=batch_bytes,
            is_batched=not no_batch,
            messages_per_second=rate,
        )
        choice = chosen_cluster(servers, root, server_file)
        with opened_input(input_file) as descriptor, progress(descriptor) as show:
            source = Input(descriptor, splitter)
            result = trio.run(cluster.produce_in_cluster, choice, cluster_job, source, show)
        cluster.report(result)
        return
    for name, value in (("--key-separator", key_separator), ("--key-regex", key_regex), ("--root", root)):
        if value is not None:
            raise Failure(f"{name} belongs to --cluster", ExitCode.USAGE)
    partition = _parse_partition(partition_text)
    address = chosen_address(server, server_file, is_slave=False)
    job = Job(
        topic=topic,
        partition=partition,
        attribute=attribute,
        batch_bytes=batch_bytes,
        is_batched=not no_batch,
        messages_per_second=rate,
    )
    with opened_input(input_file) as descriptor, progress(descriptor) as show:
        outcome = trio.run(_send, address, job, Input(descriptor, splitter), show)
    _report(outcome, topic)


async def _send(address: Address, job: Job, source: Input, show: Show) -> Outcome:
    async with connect(address.host, address.port) as connection, trio.open_nursery() as nursery:
        sender = Sender(connection, job)
        await nursery.start(on_signal, lambda _number: sender.interrupt(), signal.SIGINT)
        nursery.start_soon(show_often, sender.outcome, show)
        await sender.run(source)
        nursery.cancel_scope.cancel()
    show(sender.outcome)
    return sender.outcome


def _parse_partition(text: str | None) -> int:
    """Of one broker; raises Failure."""
    if text is None:
        return 0
    number = -1 if text == "-1" else parse_digits(text, _PARTITION_MAX)
    if number is None:
        raise Failure(f"--partition {text}: write a number, or -1 and the broker picks", ExitCode.USAGE)
    return number


def _report(outcome: Outcome, topic: str) -> None:
    text = describe_acknowledged(outcome, outcome.seconds)
    if outcome.first_offset is not None:
        text += f"; offsets {outcome.first_offset} to {outcome.last_offset}"
    say(text)
    if outcome.refused is not None:
        request, error = outcome.refused
        # A slave's acknowledgement that does not come leaves the message where it is.
        if STORED_TEXT in str(error):
            fate = "stored, and not acknowledged"
        elif UNCLEAR_TEXT in str(error):
            fate = "refused by a disk that failed, so perhaps stored"
        else:
            fate = "refused by the broker, so not stored"
        complain(f"{_numbers(request)} {fate}: {error}")
        if f"not accept topic {topic}" in str(error):
            complain(how_to_make(topic))
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
