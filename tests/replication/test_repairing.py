"""What is found in a log that is being cut is no damage; and when readers are sent on behind what is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
import trio.testing

from metaserver.message import encode_record
from metaserver.replication import repairing
from metaserver.replication.repairing import Repairer, StoppedLogs
from metaserver.storage import OffsetRange
from metaserver.storage.scrub import ScrubStep
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import DATA, NAME, open_store, read_all

if TYPE_CHECKING:
    from metaserver.replication.repairing import Address
    from metaserver.storage import PartitionLog

RECORD = encode_record(b"hello", 1)


async def nobody() -> list[Address]:
    return []


def make() -> tuple[Repairer, PartitionLog]:
    filesystem = FaultyFileSystem()
    store = open_store(filesystem, filesystem.clock)
    log = store.create(NAME, DATA)
    log.append([RECORD * 8], 8 * len(RECORD), 8, 1)
    log.flush()
    return Repairer(StoppedLogs(store), filesystem, nobody), log


async def test_what_is_read_of_a_log_while_it_is_cut_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    repairer, log = make()

    def step(_log: PartitionLog, offset: int) -> ScrubStep:
        repairer.forget(NAME, 50)
        return ScrubStep(200, 200 - offset, (OffsetRange(60, 200),))

    monkeypatch.setattr(repairing, "scrub_step", step)
    assert await repairer.check(NAME, 25) == (0, [])
    assert repairer.open == {}
    assert log.unreadable == ()


async def test_a_search_goes_on_where_the_log_was_cut_since_its_last_look() -> None:
    repairer, log = make()
    other = encode_record(b"of another length", 1)
    offset, _ = await repairer.check(NAME, 0)
    seen = repairer.cut_count(NAME)
    assert repairer.resume(NAME, offset, seen) == offset == 8 * len(RECORD)
    for end in (6 * len(RECORD), 5 * len(RECORD)):
        repairer.forget(NAME, end)
        log.truncate(end)
    log.append([other * 8], 8 * len(other), 8, 1)
    log.flush()
    assert repairer.resume(NAME, offset, seen) == 5 * len(RECORD)
    assert await repairer.check(NAME, 5 * len(RECORD)) == (log.end_offset, [])
    _, damaged = await repairer.check(NAME, offset)
    assert damaged, "no record begins where it would have gone on"


async def test_damage_behind_a_cut_is_forgotten_while_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or readers would be sent on behind it, past records that are good."""
    repairer, log = make()

    async def sources() -> list[Address]:
        repairer.forget(NAME, 50)
        return []

    monkeypatch.setattr(repairer, "_sources", sources)
    monkeypatch.setattr(
        repairing, "scrub_step", lambda _log, _offset: ScrubStep(200, 200, (OffsetRange(60, 190),))
    )
    await repairer.check(NAME, 0)
    assert repairer.open == {}
    assert log.unreadable == ()


async def test_damage_before_a_cut_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    repairer, log = make()
    monkeypatch.setattr(
        repairing, "scrub_step", lambda _log, _offset: ScrubStep(200, 200, (OffsetRange(10, 40),))
    )
    await repairer.check(NAME, 0)
    repairer.forget(NAME, 50)
    assert list(repairer.open) == [(NAME, 10)]
    assert log.unreadable == (OffsetRange(10, 40),)


@pytest.mark.parametrize("is_known", [True, False])
async def test_readers_are_sent_on_at_once_only_where_it_is_known_that_nobody_can_help(
    monkeypatch: pytest.MonkeyPatch, *, is_known: bool
) -> None:
    """A registry that does not answer says nothing about other replicas."""
    repairer, log = make()

    async def sources() -> list[Address] | None:
        return [] if is_known else None

    damaged = OffsetRange(10, 40)
    monkeypatch.setattr(repairer, "_sources", sources)
    monkeypatch.setattr(repairing, "scrub_step", lambda _log, _offset: ScrubStep(200, 200, (damaged,)))
    await repairer.check(NAME, 0)
    assert log.unreadable == ((damaged,) if is_known else ())
    for _ in range(2):
        await repairer.check(NAME, 0)
    assert log.unreadable == (damaged,), "not for ever"
    assert [damage.reason.startswith("no other replica is known") for damage in repairer.open.values()] == [
        True
    ]


async def test_what_another_gives_is_not_written_into_a_log_that_was_cut_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slave that follows another master by then has other records there, and they are good."""
    repairer, log = make()
    new = encode_record(b"of the new master", 2)
    cut = 2 * len(RECORD)

    async def ask(*_arguments: object) -> tuple[bytes, str]:
        repairer.forget(NAME, cut)
        log.truncate(cut)
        log.append([new * 8], 8 * len(new), 8, 2)
        log.flush()
        return RECORD, "somebody"

    start = 4 * len(RECORD)
    step = ScrubStep(log.end_offset, 200, (OffsetRange(start, start + len(RECORD)),))
    monkeypatch.setattr(repairing, "scrub_step", lambda _log, _offset: step)
    monkeypatch.setattr(repairing, "is_whole", lambda _data: False)
    monkeypatch.setattr(Repairer, "_ask", ask)
    await repairer.check(NAME, 0)
    assert read_all(log) == RECORD * 2 + new * 8
    assert (repairer.open, repairer.repaired) == ({}, 0)


async def test_what_is_tried_for_the_first_time_is_not_tried_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repairer, _log = make()
    asked, may_answer = [], trio.Event()

    async def sources() -> list[Address] | None:
        asked.append("somebody")
        await may_answer.wait()
        return None

    damaged = OffsetRange(10, 40)
    monkeypatch.setattr(repairer, "_sources", sources)
    monkeypatch.setattr(repairing, "scrub_step", lambda _log, _offset: ScrubStep(200, 200, (damaged,)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repairer.check, NAME, 0)
        while not asked:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(repairer.try_again)
        await trio.testing.wait_all_tasks_blocked()
        may_answer.set()
    assert asked == ["somebody"]
