"""Every call that changes the disk fails once, and the process dies once before and once after it.

One script exercises the whole log. It runs once to list the calls; then it runs again for each call,
each kind of fault and each kind of restart, and what the disk holds is compared with what was promised.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import attrs
import pytest

from metaserver.epochs import EpochChain
from metaserver.errors import OffsetInHoleError, StorageError
from metaserver.message import encode_record
from metaserver.storage import Divergence, OffsetRange, Point, quarantine_tail
from metaserver.storage.documents import load_document, remove_document, save_document
from metaserver.storage.filesystem import translate_error
from metaserver.storage.layout import merge_ranges
from metaserver.storage.repair import repair_range
from metaserver.storage.scrub import scrub_step
from tests.storage.faulty_filesystem import CrashedError, Fault, FaultyFileSystem
from tests.storage.support import DIRECTORY, NAME, open_store, options, readable_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from metaserver.storage import MessageStore, PartitionLog
    from tests.storage.faulty_filesystem import Kind, Survival

Result = TypeVar("Result")
TORN = encode_record(b"x" * 50, 7)[:-9]
WEEK_SECONDS = 7 * 24 * 3600.0


@attrs.define
class Script:
    """Does what a broker does, and keeps account of what it may rely on."""

    filesystem: FaultyFileSystem
    written: dict[int, bytes] = attrs.Factory(dict)
    """Every record an append has returned an offset for, by that offset."""
    promised: dict[int, bytes] = attrs.Factory(dict)
    """Those that a flush has covered: they must be there after everything."""
    attempted: list[bytes] = attrs.Factory(list)
    """Every record an append was asked for: nothing else may ever be found."""
    next_id: int = 1
    skipped: set[OffsetRange] = attrs.Factory(set)
    """What the log may pass over, for it was told to."""
    damaged: set[OffsetRange] = attrs.Factory(set)
    """Records the disk has damaged and nobody has repaired yet: they may be found damaged, or repaired."""
    is_torn: bool = False
    """Whether a torn tail was left: wherever it is, it must not be lost."""
    segment_bytes_max: int = 400
    checkpoint_bytes: int = 300

    def run(self) -> None:
        """Errors of storage are met as a broker meets them: the next step goes on."""
        store = self.open()
        if store is None:
            return
        self.first_life(store)
        self.attempt(store.close)
        # A second life that begins with a torn tail.
        self.leave_torn_tail()
        self.filesystem._locks.clear()
        store = self.open()
        if store is None:
            return
        log = store.partitions.get(NAME)
        if log is not None:
            self.fill(log, 5)
            self.skip(log, 1000)
            self.fill(log, 3)
            self.attempt(partial(log.write_checkpoint, clean=False))
            self.skip(log, 1000)
            self.truncate(log, log.start_offset)
            self.fill(log, 3)
        self.attempt(store.close)
        # A third without a checkpoint, as after another broker.
        if not self.filesystem.is_directory(DIRECTORY):
            return
        if "recovery.checkpoint" in self.filesystem.list_directory(DIRECTORY):
            self.filesystem.delete(DIRECTORY / "recovery.checkpoint")
        self.filesystem._locks.clear()
        store = self.open()
        if store is not None:
            self.attempt(store.close)

    def first_life(self, store: MessageStore) -> None:
        log = self.attempt(partial(store.create, NAME, DIRECTORY.parent))
        if log is None:
            return
        self.fill(log, 6)
        self.attempt(partial(log.write_checkpoint, clean=False))
        self.fill(log, 15)
        self.give_up(log, self.boundary(log, 0.6))
        self.decide()
        self.fill(log, 10)
        self.skip(log, 5000)
        self.skip(log, 77)
        self.fill(log, 5)
        self.filesystem.clock.advance(WEEK_SECONDS)
        self.retain(log, "archive", compress=True)
        self.fill(log, 8)
        for start in log.layout.starts[-2:]:
            self.repair(log, start)
        self.fill(log, 2)
        self.filesystem.clock.advance(WEEK_SECONDS)
        self.retain(log, "archive", compress=False)
        self.fill(log, 8)
        self.filesystem.clock.advance(WEEK_SECONDS)
        self.retain(log, "delete", compress=False)
        self.fill(log, 5)

    def open(self) -> MessageStore | None:
        return self.attempt(
            lambda: open_store(
                self.filesystem,
                self.filesystem.clock,
                options(self.segment_bytes_max, checkpoint_bytes=self.checkpoint_bytes, epoch_origin=7),
            )
        )

    def attempt(self, call: Callable[[], Result]) -> Result | None:
        try:
            return call()
        except StorageError:
            return None

    def fill(self, log: PartitionLog, count: int) -> None:
        for number in range(count):
            body = b"%d." % self.next_id * (7 + self.next_id % 23)
            record = encode_record(body, self.next_id)
            self.next_id += 1
            self.attempted.append(record)
            end = log.end_offset
            try:
                offset = log.append([record[:11], record[11:]], len(record), 1, self.next_id - 1)
                assert offset == end
                self.written[offset] = record
                if number % 3 == 2:
                    log.flush()
                    self.promised.update(
                        (offset, record)
                        for offset, record in self.written.items()
                        if offset < log.flushed_offset
                    )
                if log.needs_roll:
                    log.roll()
                if log.checkpoint_due:
                    log.write_checkpoint(clean=False)
            except StorageError:
                if log.failure is not None:
                    log.discard_unflushed(log.flushed_offset)
                    self.written = {at: one for at, one in self.written.items() if at < log.end_offset}
                self.check_readable(log)

    def skip(self, log: PartitionLog, size_bytes: int) -> None:
        """As a replica does whose master no longer has what comes next; what it has stays readable."""
        gap = OffsetRange(log.end_offset, log.end_offset + size_bytes)
        self.skipped.add(gap)
        self.attempt(partial(log.skip_to, gap.end))
        assert log.end_offset in (gap.start, gap.end)
        if log.end_offset == gap.end:
            assert log.segment_start(gap.start) == gap.end
            with pytest.raises(OffsetInHoleError) as error:
                log.read(gap.start, 100, gap.end)
            assert error.value.next_offset == gap.end
        # The skip has flushed what there was, or has closed the log.
        if log.failure is None:
            self.promised.update(
                (offset, record) for offset, record in self.written.items() if offset < gap.start
            )
        if log.end_offset == gap.start:
            self.check_readable(log)

    def repair(self, log: PartitionLog, offset: int) -> None:
        """A disk has changed a byte; whatever comes, the record is the good one in the end, or damaged still."""
        good = self.promised.get(offset)
        if good is None or log.failure is not None or offset + len(good) not in self.promised:
            return
        path = DIRECTORY / f"{offset:020d}.meta"
        self.filesystem.flip(path, len(good) - 1)
        damaged = self.filesystem.read_bytes(path)[: len(good)]
        self.damaged.add(OffsetRange(offset, offset + len(good)))
        self.written.pop(offset, None)
        found = self.attempt(lambda: scrub_step(log, offset))
        if found is None:
            return
        assert found.damaged == (OffsetRange(offset, offset + len(good)),)
        self.attempt(lambda: log.set_unreadable(found.damaged[0]))
        done = self.attempt(lambda: repair_range(self.filesystem, log, NAME, offset, good, "another"))
        if done is not None:
            self.damaged.clear()
            self.written[offset] = good
            assert scrub_step(log, offset).damaged == ()
            assert log.unreadable == () or is_covered(log.unreadable, self.skipped)
        kept = [
            self.filesystem.read_bytes(path)
            for path in damaged_files(self.filesystem)
            if path.name == f"{offset:020d}.damaged"
        ]
        assert done is None or damaged in kept

    def truncate(self, log: PartitionLog, offset: int) -> None:
        # From now on what lies behind may be gone or not.
        for removed in [at for at in self.promised if at >= offset]:
            del self.promised[removed]
        self.attempt(lambda: log.truncate(offset))
        for removed in [at for at in self.written if at >= log.end_offset]:
            del self.written[removed]

    def give_up(self, log: PartitionLog, offset: int) -> None:
        """As a replica does whose master does not have these bytes: none of them is cut before it is copied."""
        if offset == log.end_offset:
            return
        divergence = Divergence(
            name=NAME, offset=offset, reason="a test", own=EpochChain(), masters=EpochChain(), master=""
        )
        before = b"".join(
            record for at, record in sorted(self.written.items()) if offset <= at < log.end_offset
        )
        report = self.attempt(
            partial(
                _translated,
                self.filesystem,
                lambda: quarantine_tail(self.filesystem, DIRECTORY.parent, log, divergence),
            )
        )
        if report is None:
            return
        kept = DIRECTORY.parent / "quarantine" / str(NAME) / f"{offset}-{report.end_offset}"
        assert self.filesystem.read_bytes(kept / f"{offset:020d}.meta") == before
        self.truncate(log, offset)

    def decide(self) -> None:
        """A document is the old one or the new one, or gone, whatever happens in between."""
        path, decisions = DIRECTORY.parent / "role.json", [b"one", b"two", None]
        known: bytes | None = None
        for decision in decisions:

            def decide(decision: bytes | None = decision) -> None:
                if decision is None:
                    remove_document(self.filesystem, path)
                else:
                    save_document(self.filesystem, path, decision)

            with suppress(OSError):
                decide()
            with suppress(OSError):
                found = load_document(self.filesystem, path)
                assert found in (known, decision)
                known = found

    def retain(self, log: PartitionLog, action: str, *, compress: bool) -> None:
        last_start = segment_starts(self.filesystem)[-1]
        for removed in [at for at in self.promised if at < last_start]:
            del self.promised[removed]
        now = self.filesystem.clock.wall_seconds()
        self.attempt(lambda: log.delete_expired(action, 3600.0, compress, now))  # type: ignore[arg-type]
        for removed in [at for at in self.written if at < log.start_offset]:
            del self.written[removed]

    def boundary(self, log: PartitionLog, part: float) -> int:
        starts = sorted(at for at in self.written if log.start_offset <= at < log.end_offset)
        return starts[int(len(starts) * part)] if starts else log.start_offset

    def leave_torn_tail(self) -> None:
        try:
            names = self.filesystem.list_directory(DIRECTORY)
        except OSError:
            return
        segments = sorted(name for name in names if name.endswith(".meta"))
        if segments:
            path = DIRECTORY / segments[-1]
            self.filesystem.write_bytes(path, self.filesystem.read_bytes(path) + TORN)
            self.is_torn = True

    def check_readable(self, log: PartitionLog) -> None:
        """Without a crash, everything written is readable, whatever failed."""
        found = readable_records(log)
        for offset, record in self.written.items():
            if log.start_offset <= offset < log.end_offset:
                assert encode_record(found[offset].data, found[offset].message_id) == record


def _translated(filesystem: FaultyFileSystem, call: Callable[[], Result]) -> Result:
    try:
        return call()
    except OSError as error:
        raise translate_error(filesystem, DIRECTORY, "quarantine", error) from error


def check_after_restart(script: Script) -> None:
    filesystem = script.filesystem
    store = script.open()
    assert store is not None
    assert not store.failed
    log = store.partitions.get(NAME)
    if log is None:
        assert not script.promised
        store.close()
        return
    assert log.failure is None
    still_damaged = find_damage(script, log)
    found = readable_records(log)
    for offset, record in script.promised.items():
        if any(gap.start == offset for gap in still_damaged):
            continue
        assert offset in found, f"the flushed record at {offset} is gone"
        assert encode_record(found[offset].data, found[offset].message_id) == record
    attempted = set(script.attempted)
    for offset, message in found.items():
        assert encode_record(message.data, message.message_id) in attempted, f"a phantom at {offset}"
    # Without lost sectors there are no gaps but those that were ordered: one run from start to end.
    covered = sum(message.size for message in found.values()) + sum(gap.size_bytes for gap in log.unreadable)
    assert covered == log.end_offset - log.start_offset
    assert is_covered(log.unreadable, script.skipped | still_damaged)
    assert all(not report.holes and {*report.damaged_ranges} <= still_damaged for report in store.reports)
    if found:
        assert store.highest_message_id >= max(message.message_id for message in found.values())
    # What readers were shown after the restart, a power cut cannot take away any more. (It may bring
    # back what retention had removed from the front.)
    assert log.flushed_offset == log.end_offset
    start = log.start_offset
    filesystem.cut_power("nothing")
    store = script.open()
    assert store is not None
    log = store.partitions[NAME]
    assert {at: record for at, record in readable_records(log).items() if at >= start} == found
    assert not script.is_torn or TORN in kept_tails(filesystem)
    check_usable(script, log)
    store.close()
    again = script.open()
    assert again is not None
    assert all(report.clean for report in again.reports)
    again.close()
    check_directory(filesystem, script.skipped)


def find_damage(script: Script, log: PartitionLog) -> set[OffsetRange]:
    """What a disk has damaged, and no repair came to; the whole record, and nothing else."""
    found = set()
    offset = log.start_offset
    while offset < log.flushed_offset:
        step = scrub_step(log, offset)
        found |= {*step.damaged}
        offset = step.next_offset
    for gap in found:
        log.set_unreadable(gap)
    found |= {gap for gap in log.unreadable if gap in script.damaged}
    assert found <= script.damaged
    return found


def damaged_files(filesystem: FaultyFileSystem) -> list[Path]:
    root = DIRECTORY.parent / "quarantine" / str(NAME)
    folders = (
        [root / name for name in filesystem.list_directory(root)] if filesystem.is_directory(root) else []
    )
    return [folder / name for folder in folders for name in filesystem.list_directory(folder)]


def is_covered(gaps: Iterable[OffsetRange], by: set[OffsetRange]) -> bool:
    merged = merge_ranges(by)
    return all(any(one.start <= gap.start and gap.end <= one.end for one in merged) for gap in gaps)


def check_usable(script: Script, log: PartitionLog) -> None:
    end = log.end_offset
    script.written.clear()
    script.fill(log, 4)
    log.flush()
    assert log.end_offset > end
    assert {offset for offset in readable_records(log) if offset >= end} == {
        offset for offset in script.written if offset >= end
    }


def check_directory(filesystem: FaultyFileSystem, skipped: set[OffsetRange]) -> None:
    """Segments join exactly, as another broker would demand, but for what was skipped."""
    starts = segment_starts(filesystem)
    ends = [start + filesystem.size(DIRECTORY / f"{start:020d}.meta") for start in starts]
    joints = zip(ends[:-1], starts[1:], strict=True)
    assert is_covered((OffsetRange(end, start) for end, start in joints if end != start), skipped)


def kept_tails(filesystem: FaultyFileSystem) -> list[bytes]:
    names = filesystem.list_directory(DIRECTORY)
    return [filesystem.read_bytes(DIRECTORY / name) for name in names if ".torn-" in name]


def segment_starts(filesystem: FaultyFileSystem) -> list[int]:
    names = filesystem.list_directory(DIRECTORY)
    return sorted(int(name.removesuffix(".meta")) for name in names if name.endswith(".meta"))


def list_calls() -> list[tuple[Point, int]]:
    filesystem = FaultyFileSystem()
    Script(filesystem).run()
    return [(point, number) for point, count in Counter(filesystem.calls).items() for number in range(count)]


CALLS = list_calls()
NOT_IN_THE_SCRIPT = {
    Point.DELETED_RENAME,
    Point.DELETED_SYNC_DIRECTORY,
    Point.CARRY_OVER_OPEN,
    Point.CARRY_OVER_RENAME,
    Point.CARRY_OVER_SYNC_DIRECTORY,
}
"""See test_deleted.py, and test_carry_over.py of the transactions."""
ONLY_AFTER_A_FAILURE = {
    Point.APPEND_UNDO,
    Point.APPEND_UNDO_SYNC,
    Point.ROLL_UNDO,
    Point.DISCARD_TRUNCATE,
    Point.SKIP_UNDO,
}


def test_the_script_reaches_every_point() -> None:
    assert {point for point, _ in CALLS} == set(Point) - ONLY_AFTER_A_FAILURE - NOT_IN_THE_SCRIPT


@pytest.mark.parametrize("point", [point for point in Point if point in dict(CALLS)])
@pytest.mark.parametrize("kind", ["EIO", "ENOSPC", "crash before", "crash after"])
def test_fault(point: Point, kind: Kind) -> None:
    for occurrence in (number for called, number in CALLS if called is point):
        for survival in ("process", "nothing", "everything", "prefix", "zeros"):
            run_with_fault(Fault(point, occurrence, kind), survival)


@pytest.mark.parametrize(
    "first", [Fault(Point.APPEND_WRITE, 9, "ENOSPC"), Fault(Point.ROLL_CREATE, 2, "EIO")]
)
@pytest.mark.parametrize("undo", [Point.APPEND_UNDO, Point.APPEND_UNDO_SYNC, Point.ROLL_UNDO])
@pytest.mark.parametrize("kind", ["EIO", "crash before", "crash after"])
def test_fault_while_undoing(first: Fault, undo: Point, kind: Kind) -> None:
    for survival in ("process", "nothing", "everything"):
        run_with_fault(first, survival, then=Fault(undo, 0, kind))


@pytest.mark.parametrize("kind", ["EIO", "crash before", "crash after"])
def test_fault_while_discarding(kind: Kind) -> None:
    for occurrence in range(8):
        run_with_fault(
            Fault(Point.APPEND_SYNC, occurrence, "EIO"),
            "process",
            then=Fault(Point.DISCARD_TRUNCATE, 0, kind),
        )


def run_with_fault(fault: Fault, survival: str, then: Fault | None = None) -> None:
    filesystem = FaultyFileSystem(fault=fault)

    def switch(point: Point) -> None:
        if then is not None and point is then.point:
            filesystem.fault = then

    filesystem.on_call = switch
    script = Script(filesystem)
    try:
        script.run()
    except CrashedError:
        assert filesystem.is_crashed
    filesystem.on_call = None
    restart(filesystem, survival)
    try:
        check_after_restart(script)
    except Exception as error:
        error.add_note(f"{fault}, then {then}, restart after: {survival}")
        raise


def restart(filesystem: FaultyFileSystem, survival: str) -> None:
    if survival == "process":
        filesystem.restart()
        return
    # Half of what there is to choose from: neither all nor nothing.
    kept: Survival = survival  # type: ignore[assignment]
    filesystem.cut_power(kept, lambda below: below // 2)
