"""What both ways of ``produce`` share: where the messages come from, and how the progress is shown."""

from __future__ import annotations

import errno
import math
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from metaserver.cli.output import Failure, count_of, describe_bytes, describe_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Show = Callable[["Counts"], None]

_SHOW_SECONDS = 0.1
_RATE_SLICES = 20
"""With a rate, the messages of a second go out in about this many pieces."""


class Counts(Protocol):
    """How far it has come."""

    acknowledged: int
    acknowledged_bytes: int


def describe_acknowledged(counts: Counts, seconds: float) -> str:
    """How many, and how fast."""
    seconds, size = max(seconds, 1e-6), counts.acknowledged_bytes
    return (
        f"{count_of(counts.acknowledged, 'message')} acknowledged, {describe_bytes(size)} "
        f"in {describe_seconds(seconds)}: {counts.acknowledged / seconds:,.0f} messages/s, "
        f"{describe_bytes(size / seconds)}/s"
    )


def piece_of(available: int, messages_per_second: float | None) -> int:
    """How many messages go out together; without a rate, all there are."""
    return available if messages_per_second is None else math.ceil(messages_per_second / _RATE_SLICES)


async def keep_rate(started: float, sent: int, messages_per_second: float | None) -> None:
    """Returns when more may be sent; ``started`` by ``time.perf_counter``."""
    if messages_per_second is not None:
        due = started + sent / messages_per_second
        await trio.sleep(max(0.0, due - time.perf_counter()))


async def show_often(counts: Counts, show: Show) -> None:
    """Until cancelled."""
    while True:
        show(counts)
        await trio.sleep(_SHOW_SECONDS)


@contextmanager
def opened_input(name: str) -> Iterator[int]:
    """The descriptor of standard input (``-``), or of a file for the length of the block; raises Failure."""
    if name == "-":
        yield sys.stdin.fileno()
        return
    try:
        if Path(name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failure(f"{name}: cannot be read: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def progress(descriptor: int) -> Iterator[Show]:
    """What shows the progress: a bar where standard error is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _counts: None
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

        def show(counts: Counts) -> None:
            progress.update(
                task, completed=counts.acknowledged_bytes, messages=count_of(counts.acknowledged, "message")
            )

        yield show
