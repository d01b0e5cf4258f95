"""Every file name inside a data directory; this module alone builds and parses them.

::

    .lock                                   who owns the data directory
    role.json                               what its node is now, whatever its files say (node/role.py)
    quarantine/                             what replicas had to give up (quarantine.py)
    deleted/                                the logs of deleted topics (deleted.py)
    TOPIC-PARTITION/
        00000000000000001024.meta           a segment: 20 digits, so that ls sorts by offset
        00000000000000001024.meta.arc       a segment archived by retention
        00000000000000001024.meta.zip       the same, compressed
        00000000000000001024.torn-300       bytes that recovery cut off at position 300
        recovery.checkpoint                 what is known to be good (checkpoint.py)
        epochs                              whose bytes the log holds (epochs.py)
        repair.journal                      what a repair replaces, while it does (repair.py)
        gaps                                what the log passes over, knowingly (gaps.py)
        *.tmp                               a file being written; means nothing after a crash

Nothing but segments may end with ``.meta``: a Java broker reads every such file as one.
"""

from __future__ import annotations

import re

from metaserver.names import MAX_OFFSET

LOCK_NAME = ".lock"
CHECKPOINT_NAME = "recovery.checkpoint"
EPOCHS_NAME = "epochs"
GAPS_NAME = "gaps"
QUARANTINE_NAME = "quarantine"
DELETED_NAME = "deleted"
HISTORY_NAME = "history.json"
REPORT_NAME = "report.json"
REPAIR_NAME = "repair.journal"
DAMAGE_NAME = "damage.json"
REPLAYED_NAME = "replayed.json"
ROLE_NAME = "role.json"

_SEGMENT_SUFFIX = ".meta"
_SEGMENT = re.compile(r"([0-9]{20})\.meta", re.ASCII)


def segment_name(start_offset: int) -> str:
    """The name of the segment whose first byte has this offset."""
    return f"{start_offset:020d}{_SEGMENT_SUFFIX}"


def claims_to_be_segment(name: str) -> bool:
    """Whether a broker takes a file of this name for a segment; it must then also parse."""
    return name.endswith(_SEGMENT_SUFFIX)


def parse_segment_name(name: str) -> int | None:
    """The start offset in a segment's name; None where the name is not exactly one."""
    match = _SEGMENT.fullmatch(name)
    if match is None:
        return None
    start_offset = int(match[1])
    return start_offset if start_offset <= MAX_OFFSET else None


def archive_name(name: str, *, compressed: bool) -> str:
    """The name a segment has after retention archived it."""
    return f"{name}.zip" if compressed else f"{name}.arc"


def temporary_name(name: str) -> str:
    """The name under which a file is written before it is renamed to its own."""
    return f"{name}.tmp"


def torn_name(segment_start_offset: int, position: int, repetition: int) -> str:
    """The name for bytes cut off a segment; ``repetition`` counts cuts at one position, from 0."""
    name = f"{segment_start_offset:020d}.torn-{position}"
    return f"{name}-{repetition}" if repetition else name


def damaged_name(start_offset: int, end_offset: int, checksum: int) -> str:
    """The folder in quarantine for bytes that were replaced, because they were damaged in this way."""
    return f"{start_offset}-{end_offset}.damaged-{checksum:08x}"
