"""What a start finds of a commit in a damaged log, place by place."""

from __future__ import annotations

import pytest

from metaserver.message import encode_record
from metaserver.storage import OffsetRange
from metaserver.transactions import drop_present
from metaserver.transactions.transaction import Batch
from tests.storage.faulty_filesystem import FaultyFileSystem
from tests.storage.support import DATA, NAME, open_store

ID = 1 << 40
BEHIND = encode_record(b"behind" * 5, ID + 10)


class Log:
    """One log, to be damaged and opened again."""

    def __init__(self) -> None:
        self.filesystem = FaultyFileSystem()
        self.store = open_store(self.filesystem, self.filesystem.clock)
        self.log = self.store.create(NAME, DATA)
        self.append(encode_record(b"before" * 5, ID))

    def append(self, *records: bytes) -> int:
        """Durably; returns where the first lies."""
        last_id = int.from_bytes(records[-1][8:16], "big")
        offset = self.log.append([b"".join(records)], sum(map(len, records)), len(records), last_id)
        self.log.flush()
        return offset

    def content(self, start: int = 0) -> bytes:
        return self.filesystem.read_bytes(DATA / str(NAME) / f"{start:020d}.meta")

    def flip(self, offset: int, start: int = 0) -> None:
        self.filesystem.flip(DATA / str(NAME) / f"{start:020d}.meta", offset - start)

    def keep(self) -> None:
        """What is known to be damaged, and that recovery need not read."""
        self.log.write_checkpoint(clean=False)

    def missing(self, floor: int, *records: bytes) -> int:
        """How many of a commit's messages the next start takes for missing."""
        self.filesystem.restart()
        self.store = open_store(self.filesystem, self.filesystem.clock)
        self.log = self.store.partitions[NAME]
        batch = Batch(bytearray(b"".join(records)), len(records), floor=floor)
        drop_present(self.store, NAME, batch)
        return batch.count


def three() -> list[bytes]:
    return [encode_record(bytes([65 + number]) * 100, ID + 1 + number) for number in range(3)]


def test_a_length_that_reaches_into_what_is_known_to_be_damaged() -> None:
    """It looked like a record that is not whole yet, and good ones behind it were passed over."""
    log, records = Log(), three()
    floor = log.append(*records)
    damaged = log.append(encode_record(b"known" * 5, ID + 9))
    end = log.append(BEHIND)
    log.flip(damaged + 25)
    log.log.set_unreadable(OffsetRange(damaged, end))
    log.log.roll()
    log.append(encode_record(b"next segment", ID + 11))
    log.keep()
    log.flip(floor)
    assert log.missing(floor, *records) == 0
    assert log.content()[floor : floor + len(records[0])] == records[0]


@pytest.mark.parametrize("what", ["damage", "hole"])
def test_damage_that_joins_what_a_segment_before_it_lacks(what: str) -> None:
    log, records = Log(), three()
    last = log.append(encode_record(b"last of the segment", ID + 9))
    start = log.log.end_offset
    if what == "hole":
        start += 500
        log.log.skip_to(start)
    else:
        log.log.roll()
        log.flip(last + 25)
        log.log.set_unreadable(OffsetRange(last, start))
    assert log.append(*records, BEHIND) == start
    log.flip(start + 25, start)
    log.log.set_unreadable(OffsetRange(start, start + len(records[0])))
    log.keep()
    assert log.missing(start, *records) == 0
    assert log.content(start).startswith(records[0])


def test_an_id_inside_of_another_message_is_not_the_message() -> None:
    log, (one, *_) = Log(), three()
    other = encode_record(b"about " + one[8:16] + b"x" * 200, ID + 9)
    floor = log.append(other)
    place = log.append(one)
    log.append(BEHIND)
    before = log.content()
    log.flip(floor + 150)
    log.flip(place + 21)
    assert log.missing(floor, one) == 0
    after = log.content()
    assert [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [
        floor + 150
    ]


def test_a_message_in_whose_data_a_record_lies() -> None:
    """Behind the damaged length a record was found: the damage seems to end there."""
    log = Log()
    one = encode_record(b"mirror " + encode_record(b"inner" * 10, 7) + b"tail" * 5, ID + 1)
    two = encode_record(b"B" * 30, ID + 2)
    floor = log.append(one, two)
    log.append(BEHIND)
    before = log.content()
    log.flip(floor)
    assert log.missing(floor, one, two) == 0
    assert log.content() == before


def test_of_many_messages_in_much_damage_each_is_found() -> None:
    log = Log()
    records = [encode_record(b"%d" % number * 50, ID + 1 + number) for number in range(100)]
    floor = log.append(*records)
    log.append(BEHIND)
    before = log.content()
    at = floor
    for record in records:
        log.flip(at + 30)
        at += len(record)
    assert log.missing(floor, *records, encode_record(b"never written", ID + 200)) == 1
    assert log.content() == before
