"""Disks that change what they hold, where others hold it as well: nothing of it may ever be lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metaserver.message import iterate_records
from metaserver.names import INTERNAL_TOPICS
from tests.simulation.node import DATA
from tools.torture.logfiles import UNCOVERED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.simulation.disk import SimDisk


def choose_rot(
    disks: Sequence[SimDisk], disk: SimDisk, random: Random, size: int, *, with_journal: bool
) -> str | None:
    """Change up to so many bytes of one record of a disk; says where, or None where nothing may be changed.

    What every disk holds, durably and whole, and what has another such record behind it: without that a
    recovery takes the end of its log for a torn write.
    """
    places = [
        (path, start, end)
        for path in _segments(disk, with_journal=with_journal)
        for start, end in _records([_surviving(one, path) for one in disks])
    ]
    if not places:
        return None
    path, start, end = random.choice(places)
    at = random.choice([*range(start, start + UNCOVERED.start), *range(start + UNCOVERED.stop, end)])
    size = min(size, (end if at >= start + UNCOVERED.stop else start + UNCOVERED.start) - at)
    disk.flip(path, at, size)
    return f"{size} bytes of {path.parent.name} at {int(path.stem) + at}"


def _segments(disk: SimDisk, *, with_journal: bool) -> list[Path]:
    """Of a machine that runs, or does not."""
    found: list[Path] = []
    for file, _content in disk.files():
        path = Path(file)
        topic, _, number = path.parent.name.rpartition("-")
        is_log = path.parent.parent == DATA and number.isdigit() and topic
        is_wanted = with_journal or topic not in INTERNAL_TOPICS
        if is_log and is_wanted and path.suffix == ".meta":
            found.append(path)
    return found


def _surviving(disk: SimDisk, path: Path) -> bytes:
    try:
        return disk.surviving_bytes(path)
    except (FileNotFoundError, KeyError):
        return b""


def _records(copies: list[bytes]) -> list[tuple[int, int]]:
    """The whole records that are equal in all copies of a segment, but for the last."""
    size = min(map(len, copies))
    if len({copy[:size] for copy in copies}) > 1:
        # One of them has been changed already: what lies in front of that.
        size = next(i for i in range(size) if len({copy[i] for copy in copies}) > 1)
    records = list(iterate_records(copies[0][:size]))
    return [(record.position, record.position + record.size) for record in records[:-1]]
