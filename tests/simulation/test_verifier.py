"""What the verifier lets pass, and what it does not: holes of a log, and messages that come late."""

from __future__ import annotations

from random import Random

import pytest

from metaserver.client.lane import Sent
from metaserver.client.partition import Partition
from metaserver.errors import UNCLEAR_TEXT, SendUnknownError
from metaserver.protocol import STORED_TEXT
from metaserver.storage.filenames import GAPS_NAME
from metaserver.storage.gaps import encode_gaps
from metaserver.storage.segment import OffsetRange
from tests.simulation.disk import SimDisk
from tests.simulation.history import SentMessage
from tests.simulation.node import DATA
from tests.simulation.verifier import read_journal, read_logs
from tests.storage.faulty_filesystem import FakeClock

TOLD = [OffsetRange(10, 30)]


def disk_with(directory: str, starts: tuple[int, ...], gaps: list[OffsetRange]) -> SimDisk:
    """A partition with segments of ten bytes."""
    disk = SimDisk(clock=FakeClock(), name="alpha", random=Random(1))
    for start in starts:
        disk.write_bytes(DATA / directory / f"{start:020}.meta", b"x" * 10)
    if gaps:
        disk.write_bytes(DATA / directory / GAPS_NAME, encode_gaps(gaps))
    return disk


@pytest.mark.parametrize(
    ("starts", "gaps", "runs"),
    [((0, 10, 20), [], [(0, 30)]), ((0, 30, 40), TOLD, [(0, 10), (30, 50)]), ((), [], [])],
)
def test_a_journal_may_have_the_gaps_of_which_it_tells(
    starts: tuple[int, ...], gaps: list[OffsetRange], runs: list[tuple[int, int]]
) -> None:
    problems: list[str] = []
    found = read_journal(disk_with("__transactions-0", starts, gaps), problems)
    assert [(run.start, run.end) for run in found] == runs
    assert problems == []


@pytest.mark.parametrize(
    ("starts", "gaps"),
    [((0, 30), []), ((0, 31), TOLD), ((0, 30, 50), TOLD), ((0, 5), TOLD)],
    ids=["not told", "longer than told", "another one", "overlapping"],
)
def test_any_other_is_told(starts: tuple[int, ...], gaps: list[OffsetRange]) -> None:
    problems: list[str] = []
    read_journal(disk_with("__transactions-0", starts, gaps), problems)
    assert len(problems) == 1


def test_a_topic_has_no_gap() -> None:
    problems: list[str] = []
    assert read_logs(disk_with("orders-0", (0, 30), TOLD), problems)["orders", 0].start == 0
    assert problems == ["alpha orders-0: a file ends at 10, the next begins at 30"]


def message(sequence: int, settled_seconds: float, reason: str | None = None) -> SentMessage:
    """Acknowledged; with a reason, of unknown fate."""
    unknown = None if reason is None else SendUnknownError("orders", "0-0", reason, 1)
    outcome = unknown or Sent(Partition("orders", 0, 0), 1, 0)
    return SentMessage("p", sequence, "orders", b"%d" % sequence, 0, outcome, settled_seconds)


@pytest.mark.parametrize(
    ("late", "others", "is_right"),
    [
        (message(3, 1.0), [message(1, 0.5), message(2, 0.5)], True),
        (message(3, 1.0), [message(4, 2.0)], False),
        (message(3, 1.0, "no answer"), [message(2, 0.5), message(4, 2.0), message(5, 2.0)], True),
        (message(3, 1.0, "no answer"), [message(4, 1.0, "no answer")], False),
        (message(3, 1.0, "no answer"), [message(4, 0.9), message(5, 2.0)], False),
        (message(3, 1.0, "no answer"), [message(3, 1.0, "no answer")], False),
        (message(3, 1.0, f"too few. {STORED_TEXT} at offset 7"), [message(4, 2.0)], False),
        (message(3, 1.0, f"EIO. {UNCLEAR_TEXT}"), [message(4, 2.0)], False),
    ],
    ids=["order", "answered", "unanswered", "one request", "sent before", "twice", "stored", "unclear"],
)
def test_only_what_was_not_answered_comes_late(
    late: SentMessage, others: list[SentMessage], is_right: bool
) -> None:
    assert late.may_lie_behind(others) is is_right
