"""How far a slave has come with copying, on one line, and ``slave-status --watch``, which repeats it."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from metaserver.cli.output import Failure, describe_bytes, describe_seconds, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOOK_SECONDS = 1.0


def describe_catch_up(status: dict[str, Any]) -> str:
    """From the report of a slave: what is left, how fast it goes, how long it takes."""
    if not status["connected"]:
        return f"not connected to the master {status['master']}: {status['problem']}"
    catch_up = status["catch_up"]
    if not catch_up["left_bytes"]:
        return "nothing is left to copy"
    seconds, limit = catch_up["estimated_seconds"], catch_up["limit_bytes_per_second"]
    end = "it does not become less" if seconds is None else f"about {describe_seconds(seconds)}"
    rate = f"{describe_bytes(catch_up['bytes_per_second'])}/s"
    text = f"{describe_bytes(catch_up['left_bytes'])} left, {rate}, {end}"
    return f"{text} (limit {describe_bytes(limit)}/s)" if limit else text


def replicating(status: dict[str, Any]) -> dict[str, Any]:
    """The report, of a slave; raises Failure where the node is none any more."""
    if not status:
        raise Failure("this node is master since it was promoted: `metaServer status slave` says more")
    return status


def watch(ask: Callable[[], dict[str, Any]], pause: Callable[[float], None] = time.sleep) -> None:
    """A line a second until nothing is left to copy; on a terminal always the same line.

    Raises Failure where a partition has stopped, for which nobody needs to wait, or where the node is a
    slave no more; and what ``ask`` raises.
    """
    with _line() as show:
        while True:
            status = replicating(ask())
            show(describe_catch_up(status))
            if status["connected"] and not status["catch_up"]["left_bytes"]:
                break
            pause(_LOOK_SECONDS)
    if status["stopped"]:
        raise Failure("partitions have stopped, and are not copied; `metaServer slave-status` says why")


@contextmanager
def _line() -> Iterator[Callable[[str], None]]:
    if not sys.stdout.isatty():

        def show(text: str) -> None:
            say(text)
            sys.stdout.flush()

        yield show
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console()) as live:
        yield lambda text: live.update(Text(text), refresh=True)
