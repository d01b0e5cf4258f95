"""``compare``: where the replicas of two running brokers differ, byte by byte, over the ordinary wire."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import click
import trio

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.formats import payload_fields, time_text
from metaserver.cli.options import json_option
from metaserver.cli.output import Failure, complain, count_of, describe_bytes, describe_seconds, say
from metaserver.cli.signals import on_signal
from metaserver.cli.target import parse_address
from metaserver.client import connect
from metaserver.client.comparer import CompareOptions, Comparer
from metaserver.client.comparison import Side
from metaserver.errors import ClientError
from metaserver.names import MAX_OFFSET, parse_digits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID

    from metaserver.cli.target import Address
    from metaserver.client.comparison import PartitionComparison, RecordSight, Span

_SHOWN_SPANS = 10
_SHOWN_SEGMENTS = 5


@click.command()
@click.argument("master", metavar="MASTER")
@click.argument("slave", metavar="SLAVE")
@click.option("--topic", help="Only this topic.")
@click.option("--partition", type=click.IntRange(0), help="Only the partitions of this number.")
@click.option(
    "--from",
    "from_text",
    default="start",
    show_default=True,
    metavar="OFFSET|start",
    help="Nothing before it.",
)
@click.option(
    "--last", "last_bytes", type=click.IntRange(1), metavar="BYTES", help="The end of each partition only."
)
@click.option(
    "--bytes-per-second",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Read no more than this from each of the two.  [default: as fast as it goes]",
)
@json_option
@click.pass_context
def compare(
    context: click.Context,
    *,
    master: str,
    slave: str,
    topic: str | None,
    partition: int | None,
    from_text: str,
    last_bytes: int | None,
    bytes_per_second: int,
    as_json: bool,
) -> None:
    """Show where the brokers MASTER and SLAVE (HOST:PORT) hold different bytes, while both run.

    A slave that is behind is no difference, nor is what it keeps longer than its master.
    """
    addresses = {Side.MASTER: parse_address(master), Side.SLAVE: parse_address(slave)}
    if not _endpoints(addresses[Side.MASTER]).isdisjoint(_endpoints(addresses[Side.SLAVE])):
        raise Failure(f"{master} and {slave} are one broker; name the two replicas", ExitCode.USAGE)
    options = CompareOptions(
        topic=topic,
        partition=partition,
        from_offset=_parse_offset(from_text),
        last_bytes=last_bytes,
        bytes_per_second=bytes_per_second,
    )
    started = time.perf_counter()
    with _progress() as watcher:
        comparer = Comparer(
            {side: partial(connect, *address) for side, address in addresses.items()}, options, watcher
        )
        problem = trio.run(_run, comparer)
    if isinstance(problem, KeyboardInterrupt):
        raise SystemExit(int(ExitCode.INTERRUPTED))
    if problem is not None:
        raise problem
    found = list((comparer.partitions or {}).values())
    if not found and (topic is not None or partition is not None):
        raise Failure("neither of the two has such a partition")
    if as_json:
        report: dict[str, Any] = {side.value: str(address) for side, address in addresses.items()}
        report["equal"] = all(one.is_equal for one in found)
        report["partitions"] = [as_fields(one) for one in found]
        say(json.dumps(report, indent=2))
    else:
        say("\n".join([*map(describe, found), _summary(found, time.perf_counter() - started)]))
    if not all(one.is_equal for one in found):
        context.exit(int(ExitCode.DIFFERENT))


async def _run(comparer: Comparer) -> ClientError | KeyboardInterrupt | None:
    """Why it came to no end, if it did not."""
    problem: ClientError | KeyboardInterrupt | None = None
    async with trio.open_nursery() as nursery:

        def interrupt(_number: int) -> None:
            nonlocal problem
            problem = KeyboardInterrupt()
            nursery.cancel_scope.cancel()

        await nursery.start(on_signal, interrupt, signal.SIGINT)
        try:
            await comparer.run()
        except ClientError as error:
            problem = error
        nursery.cancel_scope.cancel()
    return problem


def _parse_offset(text: str) -> int | None:
    if text == "start":
        return None
    offset = parse_digits(text, MAX_OFFSET)
    if offset is None:
        raise Failure(f"--from {text}: write an offset, or start", ExitCode.USAGE)
    return offset


def _endpoints(address: Address) -> set[object]:
    """Where an address leads; itself, where its host cannot be found."""
    try:
        return {found[4][:2] for found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return {address}


def _summary(found: list[PartitionComparison], seconds: float) -> str:
    different = sum(not one.is_equal for one in found)
    size = sum(one.content.compared_bytes for one in found)
    lag = sum(one.lag_bytes for one in found)
    return (
        f"{count_of(len(found), 'partition')}, {describe_bytes(size)} of each compared in "
        f"{describe_seconds(seconds)} ({describe_bytes(size / max(seconds, 1e-6))}/s): "
        + (f"{different:,} of them differ" if different else "equal")
        + (f"; the slave is {describe_bytes(lag)} behind" if lag else "")
    )


# For people.


def describe(found: PartitionComparison) -> str:
    """One partition: a line, and one for each finding."""
    verdict = "equal" if found.is_equal else "DIFFERENT"
    lines = [f"{found.name}: {verdict}; {_ranges(found)}"]
    if found.content.spans:
        lines += _content_lines(found)
    lines += [
        f"only the {side.value} has {span} ({describe_bytes(span.size_bytes)})" for side, span in found.only
    ]
    lines += [
        f"the {one.side.value} gives no bytes from {one.span}: {one.reason}" for one in found.unreadable
    ]
    for side, starts in found.only_segments.items():
        more = f" and {len(starts) - _SHOWN_SEGMENTS:,} more" if len(starts) > _SHOWN_SEGMENTS else ""
        shown = ", ".join(map(str, starts[:_SHOWN_SEGMENTS]))
        lines.append(f"only the {side.value} begins a segment at {shown}{more}")
    if found.kept_by_slave:
        lines.append(f"note: the slave still has {found.kept_by_slave}, which the master has deleted")
    lines += [f"note: the {side.value} deleted {span} meanwhile" for side, span in found.deleted]
    lines += [f"note: neither gives {span}: a gap, or damaged on both" for span in found.missing]
    return "\n  ".join(lines)


def _ranges(found: PartitionComparison) -> str:
    if found.master is None or found.slave is None:
        side, span = ("slave", found.slave) if found.master is None else ("master", found.master)
        return f"only the {side} has the partition, {span}"
    if found.master == found.slave:
        text = f"both hold {found.master}"
    else:
        text = f"master {found.master}, slave {found.slave}"
    if found.compared != found.master:
        text += f", compared {found.compared}"
    return text + (f", slave {describe_bytes(found.lag_bytes)} behind" if found.lag_bytes else "")


def _content_lines(found: PartitionComparison) -> list[str]:
    content, offset = found.content, found.content.record_offset
    where = "" if offset is None else f", in the record that begins at {offset}"
    lines = [f"first difference at offset {content.first}{where}"]
    for side, sight in found.records.items():
        lines.append(f"  {side.value}: {_record(sight)}")
        lines.append(f"  {' ' * len(side.value)}  bytes {sight.different.hex(' ')}")
    spans = ", ".join(str(span) for span in content.spans[:_SHOWN_SPANS])
    more = content.span_count - _SHOWN_SPANS
    sizes = (
        f"different: {count_of(content.differing_bytes, 'byte')} in {count_of(content.span_count, 'range')}"
    )
    lines.append(f"{sizes}: {spans}" + (f" and {more:,} more" if more > 0 else ""))
    return lines


def _record(sight: RecordSight) -> str:
    text = sight.preview.decode(errors="backslashreplace")
    shown = text if text.isprintable() else ascii(text)[1:-1]
    state = "valid" if sight.problem is None else f"no record: {sight.problem}"
    return (
        f"id {sight.message_id}, {time_text(sight.wall_seconds) or 'no time'}, "
        f"{count_of(sight.length, 'byte')}, {state}: {shown}"
    )


# For machines.


def as_fields(found: PartitionComparison) -> dict[str, Any]:
    """Everything about one partition, in values JSON knows."""
    content = found.content
    return {
        "topic": found.name.topic,
        "partition": found.name.partition,
        "equal": found.is_equal,
        "master": _fields(found.master),
        "slave": _fields(found.slave),
        "compared": _fields(found.compared),
        "lag_bytes": found.lag_bytes,
        "first_difference": content.first,
        "record_offset": content.record_offset,
        "records": {side.value: _record_fields(sight) for side, sight in found.records.items()},
        "differing_bytes": content.differing_bytes,
        "differing_count": content.span_count,
        "differing": [_fields(span) for span in content.spans],
        "only": [{"side": side.value, **attrs.asdict(span)} for side, span in found.only],
        "unreadable": [
            {"side": one.side.value, **attrs.asdict(one.span), "reason": one.reason}
            for one in found.unreadable
        ],
        "only_segments": {side.value: starts for side, starts in found.only_segments.items()},
        "kept_by_slave": _fields(found.kept_by_slave or None),
        "missing": [attrs.asdict(span) for span in found.missing],
        "deleted_meanwhile": [{"side": side.value, **attrs.asdict(span)} for side, span in found.deleted],
    }


def _fields(span: Span | None) -> dict[str, int] | None:
    return None if span is None else {"start": span.start, "end": span.end}


def _record_fields(sight: RecordSight) -> dict[str, Any]:
    return {
        "id": sight.message_id,
        "time": time_text(sight.wall_seconds),
        "flag": sight.flag,
        "length": sight.length,
        "problem": sight.problem,
        "different_hex": sight.different.hex(),
        **payload_fields(sight.preview),
    }


# On a terminal.


@attrs.define(eq=False)
class _Watcher:
    """Tells what a person has to know; the bar is None where there is no terminal."""

    _bar: tuple[Progress, TaskID] | None = None

    def advanced(self, compared_bytes: int, total_bytes: int) -> None:
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=compared_bytes, total=total_bytes)

    def interrupted(self, reason: str) -> None:
        complain(f"{reason}; trying again")


@contextmanager
def _progress() -> Iterator[_Watcher]:
    if not sys.stderr.isatty():
        yield _Watcher()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Watcher((progress, progress.add_task("", total=None)))
