"""A log and a byte string with the same history must agree, whatever happens to the machine between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from metaserver.errors import OffsetInHoleError, OffsetOutOfRangeError
from metaserver.message import encode_record
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import (
    DATA,
    NAME,
    append,
    open_store,
    options,
    read_all,
    readable_records,
    segment_path,
)

if TYPE_CHECKING:
    from random import Random

    from tests.storage.faulty_filesystem import Survival

HOUR_SECONDS = 3600.0


class LogMachine(RuleBasedStateMachine):
    """The model: all bytes ever kept, where records begin, what is flushed, where segments begin."""

    @initialize(
        start=st.sampled_from([0, 1000]),
        segment_bytes_max=st.sampled_from([1, 200, 1500]),
        checkpoint_bytes=st.sampled_from([1, 400, 100_000]),
    )
    def create(self, start: int, segment_bytes_max: int, checkpoint_bytes: int) -> None:
        self.filesystem = FaultyFileSystem()
        self.options = options(segment_bytes_max, checkpoint_bytes, open_segments_max=2)
        self.store = open_store(self.filesystem, self.filesystem.clock, self.options)
        self.log = self.store.create(NAME, DATA, start)
        self.origin = start
        """The offset of the model's first byte."""
        self.start = start
        self.data = bytearray()
        self.records: dict[int, bytes] = {}
        self.flushed = start
        self.segments = [start]
        self.next_id = 1
        self.count = 0
        """Records appended and not truncated; retention does not lower it."""
        self.is_count_known = True

    @property
    def end(self) -> int:
        return self.origin + len(self.data)

    def bytes_between(self, start: int, end: int) -> bytes:
        return bytes(self.data[start - self.origin : end - self.origin])

    # What the owner of a log does.

    @rule(bodies=st.lists(st.binary(max_size=90), min_size=1, max_size=5), in_pieces=st.booleans())
    def append(self, bodies: list[bytes], in_pieces: bool) -> None:
        encoded = []
        for body in bodies:
            encoded.append(encode_record(body, self.next_id))
            self.next_id += 1
        offset = append(self.log, *encoded) if in_pieces else append(self.log, b"".join(encoded))
        assert offset == self.end
        for record in encoded:
            self.records[self.end] = record
            self.data += record
        self.count += len(encoded)

    @rule()
    def flush(self) -> None:
        self.log.flush()
        self.flushed = self.end

    @precondition(lambda self: self.log.needs_roll)
    @rule()
    def roll(self) -> None:
        self.log.roll()
        self.flushed = self.end
        self.segments.append(self.end)

    @rule()
    def roll_early(self) -> None:
        self.log.roll()
        self.flushed = self.end
        if self.segments[-1] != self.end:
            self.segments.append(self.end)

    @rule(random=st.randoms(use_true_random=False))
    def truncate(self, random: Random) -> None:
        offset = random.choice([self.start, self.end, *(at for at in self.records if at >= self.start)])
        self.log.truncate(offset)
        if offset < self.end:
            self.flushed = offset
            # No segment is left empty behind another.
            self.segments = [self.start, *(at for at in self.segments[1:] if at < offset)]
        del self.data[offset - self.origin :]
        self.count -= sum(1 for at in self.records if at >= offset)
        self.records = {at: record for at, record in self.records.items() if at < offset}
        assert self.log.segment_starts == tuple(self.segments)

    @rule(
        hours=st.sampled_from([0.5, 2]), action=st.sampled_from(["delete", "archive"]), compress=st.booleans()
    )
    def delete_expired(self, hours: float, action: str, compress: bool) -> None:
        self.filesystem.clock.advance(hours * HOUR_SECONDS)
        now = self.filesystem.clock.wall_seconds()
        names = self.log.delete_expired(action, HOUR_SECONDS, compress, now)  # type: ignore[arg-type]
        assert names == [segment_path(at).name for at in self.segments[: len(names)]]
        if hours > 1:
            assert len(names) == len(self.segments) - 1
        del self.segments[: len(names)]
        self.start = self.segments[0]

    @rule()
    def write_checkpoint(self) -> None:
        self.log.write_checkpoint(clean=False)

    # What readers do.

    @rule(offset=st.integers(0, 3000), size_max=st.integers(1, 500), limit=st.integers(0, 3000))
    def read(self, offset: int, size_max: int, limit: int) -> None:
        offset, limit = offset + self.origin - 20, limit + self.origin - 20
        end = min(limit, self.end)
        if not self.start <= offset < end:
            with pytest.raises(OffsetOutOfRangeError) as caught:
                self.log.read(offset, size_max, limit)
            assert (caught.value.requested, caught.value.start, caught.value.end) == (offset, self.start, end)
            return
        piece = self.log.read(offset, size_max, limit)
        segment_end = min((at for at in self.segments if at > offset), default=self.end)
        assert piece.offset == offset
        assert piece.size == min(size_max, end - offset, segment_end - offset)
        assert piece.read() == self.bytes_between(offset, offset + piece.size)
        piece.release()

    @rule(offset=st.integers(0, 4000))
    def segment_start(self, offset: int) -> None:
        if offset >= self.end:
            expected = self.end
        else:
            expected = max((at for at in self.segments if at <= offset), default=self.start)
        assert self.log.segment_start(offset) == expected

    # What happens to the process and to the machine.

    @rule()
    def close_and_reopen(self) -> None:
        self.store.close()
        self.reopen()
        assert self.store.reports[0].clean
        assert self.store.reports[0].bytes_scanned == 0
        self.flushed = self.end

    @rule()
    def crash_process(self) -> None:
        self.filesystem.restart()
        self.is_count_known = False
        self.reopen()
        self.flushed = self.end

    @rule(
        survival=st.sampled_from(["nothing", "everything", "prefix", "zeros"]),
        random=st.randoms(use_true_random=False),
    )
    def cut_power(self, survival: Survival, random: Random) -> None:
        self.filesystem.cut_power(survival, random.randrange)
        self.is_count_known = False
        survived = self.segments[-1] + self.filesystem.size(segment_path(self.segments[-1]))
        self.reopen()
        end = self.log.end_offset
        assert self.flushed <= end <= self.end
        # Nothing whole was cut, nothing torn was kept.
        whole = [at + len(record) for at, record in self.records.items() if at + len(record) <= survived]
        if survival != "zeros":
            assert end == max([self.segments[-1], *whole])
        report = self.store.reports[0]
        assert report.bytes_cut == survived - end
        assert report.damaged_ranges == ()
        if report.torn_file is not None:
            kept = self.filesystem.read_bytes(report.torn_file)
            assert kept.strip(b"\0") == kept.strip(b"\0")[: report.bytes_cut]
        del self.data[end - self.origin :]
        self.records = {at: record for at, record in self.records.items() if at < end}
        self.flushed = end

    @rule(random=st.randoms(use_true_random=False))
    def cut_power_and_lose_sectors(self, random: Random) -> None:
        """Ends the history: the bytes are no longer the model's."""
        self.filesystem.cut_power("sectors", random.randrange)
        path = segment_path(self.segments[-1])
        survived = self.filesystem.read_bytes(path)
        self.reopen()
        found = readable_records(self.log)
        for at, record in self.records.items():
            position = at - self.segments[-1]
            is_sealed = self.start <= at < self.segments[-1]
            if is_sealed or (position >= 0 and survived[position : position + len(record)] == record):
                assert at in found, f"the whole record at {at} is gone"
            if at < self.flushed and at >= self.start:
                assert at in found, f"the flushed record at {at} is gone"
        for at, message in found.items():
            assert encode_record(message.data, message.message_id) == self.records.get(at)
        for gap in self.log.statistics().damaged_ranges:
            assert gap.start >= self.flushed
            with pytest.raises(OffsetInHoleError) as caught:
                self.log.read(gap.start, 100, self.log.end_offset)
            assert caught.value.next_offset == gap.end
        # The next opening agrees, without looking again at what is damaged.
        self.store.close()
        self.reopen()
        assert readable_records(self.log) == found
        assert self.store.reports[0].clean
        self.create(0, 200, 400)

    def reopen(self) -> None:
        self.store = open_store(self.filesystem, self.filesystem.clock, self.options)
        assert not self.store.failed
        self.log = self.store.partitions[NAME]
        assert self.log.last_message_id is None or self.log.last_message_id < self.next_id

    # What always holds.

    @invariant()
    def the_bounds_agree(self) -> None:
        assert self.log.start_offset == self.start
        assert self.log.end_offset == self.end
        assert self.log.flushed_offset == self.flushed
        assert self.log.failure is None
        statistics = self.log.statistics()
        assert statistics.segment_count == len(self.segments)
        assert statistics.size_bytes == self.end - self.start

    @invariant()
    def the_bytes_agree(self) -> None:
        assert read_all(self.log) == self.bytes_between(self.start, self.end)

    @invariant()
    def the_count_agrees(self) -> None:
        # After a crash, segments sealed since the last checkpoint are not counted.
        if self.is_count_known:
            assert self.log.record_count == self.count

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(stateful_step_count=30)
