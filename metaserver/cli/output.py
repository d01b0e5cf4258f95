"""What a person reads: sentences on standard error, results on standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from metaserver.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any

_KIB = 1024
STANDARD_OUTPUT = "standard output"


class Failure(click.ClickException):
    """Ends the command with a sentence on standard error and an exit code."""

    def __init__(self, text: str, code: ExitCode = ExitCode.FAILED) -> None:
        """``text`` may have several lines."""
        super().__init__(text)
        self.code = code

    def show(self, file: IO[str] | None = None) -> None:  # noqa: ARG002 - errors have one place to go
        """Print it the way every complaint is printed."""
        complain(self.message)


def say(text: str = "") -> None:
    """A line on standard output. Raises OSError that names it."""
    try:
        print(text)
    except OSError as error:
        raise named(error, STANDARD_OUTPUT) from error


def named(error: OSError, name: str) -> OSError:
    """The same error, of something that has this name."""
    return OSError(error.errno, error.strerror, name)


def describe_os_error(error: OSError) -> str:
    """What it is about, and what is wrong with it, without the number."""
    return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)


def complain(text: str) -> None:
    """A line on standard error, with the program's name in front."""
    print(f"metaServer: {text}", file=sys.stderr)


def describe_bytes(size: float) -> str:
    """``1.5 MiB``."""
    if size == 1:
        return "1 byte"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < _KIB:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= _KIB
    return f"{size:.1f} TiB"


def describe_seconds(seconds: float) -> str:
    """``3 d 4 h``, ``12 min 5 s``, ``0.250 s``: the two largest units."""
    if seconds < 10:
        return f"{seconds:.3f} s"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    if hours:
        return f"{hours} h {minute} min"
    return f"{minutes} min {second} s" if minutes else f"{second} s"


def count_of(number: int, noun: str) -> str:
    """``1 message``, ``1,000 messages``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def describe_lag(replication: dict[str, Any]) -> str:
    """How far a slave is behind, from its report: bytes, messages, seconds."""
    if replication["heard_seconds"] is None:
        return "not known: it has heard nothing of a master since it was started"
    return (
        f"{describe_bytes(replication['lag_bytes'])}, {count_of(replication['lag_messages'], 'message')}, "
        f"{describe_seconds(replication['lag_seconds'])}"
    )


def describe_quarantine(quarantine: dict[str, Any]) -> list[str]:
    """A line, where anything lies there."""
    folders = quarantine["folders"]
    if not folders:
        return []
    fresh = sum(report["messages"] for report in quarantine["since_start"])
    since = f"; {count_of(fresh, 'message')} since the start" if fresh else ""
    return [f"  quarantine     {count_of(folders, 'folder')}{since}: see `metaServer quarantine`"]


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Columns as wide as their widest cell; those in ``right`` are aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def describe_config_sync(sync: dict[str, Any]) -> str:
    """How a slave's server.ini stands to its master's, in one line."""
    checksums = f"master {sync['master_checksum']}, merged {sync['merged_checksum']}"
    if sync["drift"] is None:
        text = "not compared with the master's yet"
    elif sync["drift"]:
        text = f"differs from the master's ({checksums})"
    else:
        text = f"in step with the master's ({checksums})"
    if not sync["enabled"]:
        text += "; autoSyncMasterConfig is off"
    if sync["needs_restart"]:
        text += f"; with the next start: {', '.join(sync['needs_restart'])}"
    return f"{text}; {sync['problem']}" if sync["problem"] else text
