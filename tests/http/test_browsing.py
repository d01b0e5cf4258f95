"""Searching a log, against a list of messages; the log is a fake that answers as a broker does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio
from hypothesis import given
from hypothesis import strategies as st

from metaserver.client.messages import Fetched, Moved, NothingThere
from metaserver.http import browsing
from metaserver.http.browsing import (
    chain_ending_at_the_end,
    holds,
    offset_of_id,
    page_before,
    page_from,
    search,
)
from metaserver.http.local_broker import STEP_BYTES
from metaserver.message import encode_record

if TYPE_CHECKING:
    import pytest

BODIES = st.lists(st.binary(max_size=40), max_size=20)


@attrs.define
class Log:
    """A LogReader over bytes: segments begin at these offsets, and the first bytes may be gone."""

    data: bytes
    segments: list[int]
    read: int = 0
    longest: int = 0
    """What was read at once."""

    async def get(
        self, topic: str, partition: int, offset: int, *, size_max: int = 1 << 17, wait_ms: int = 0
    ) -> Fetched | Moved | NothingThere:
        if offset < self.segments[0]:
            return Moved(self.segments[0])
        end = min([at for at in self.segments if at > offset], default=len(self.data))
        # As long as somebody else is served by then, this takes no time.
        await trio.lowlevel.checkpoint()
        data = self.data[offset : min(end, offset + size_max)]
        self.read += len(data)
        self.longest = max(self.longest, len(data))
        return Fetched(topic, partition, offset, data) if data else NothingThere("")

    async def offset(self, topic: str, partition: int, offset: int) -> int:
        return max([at for at in self.segments if at <= offset], default=self.segments[0])

    async def end_offset(self, topic: str, partition: int) -> int:
        return len(self.data)


def make(bodies: list[bytes], cut: int = 0) -> tuple[Log, list[int]]:
    """The log, with a segment at every third message and the first ``cut`` segments deleted; and the offsets."""
    data, offsets = b"", []
    for number, body in enumerate(bodies):
        offsets.append(len(data))
        data += encode_record(body, (1_000_000 + number) << 22, 0)
    segments = offsets[::3] or [0]
    first = segments[min(cut, len(segments) - 1)]
    return Log(data, [at for at in segments if at >= first]), [at for at in offsets if at >= first]


@given(BODIES, st.integers(0, 3), st.integers(1, 8))
async def test_pages_forth_and_back_are_the_list(bodies: list[bytes], cut: int, count: int) -> None:
    log, offsets = make(bodies, cut)
    for begin in [*offsets, len(log.data)]:
        page = await page_from(log, "t", 0, begin, count)
        assert [message.offset for message in page.messages] == [at for at in offsets if at >= begin][:count]
        behind = page.messages[-1].next_offset if page.messages else max(begin, log.segments[0])
        assert page.next_offset == behind
        back = await page_before(log, "t", 0, begin, count)
        assert [message.offset for message in back.messages] == [at for at in offsets if at < begin][-count:]
        assert back.is_certain


@given(BODIES, st.integers(0, 3))
async def test_every_id_is_found_at_its_offset(bodies: list[bytes], cut: int) -> None:
    log, offsets = make(bodies, cut)
    gone = len(bodies) - len(offsets)
    for number in range(len(bodies)):
        expected = None if number < gone else offsets[number - gone]
        assert await offset_of_id(log, "t", 0, (1_000_000 + number) << 22) == expected
    assert await offset_of_id(log, "t", 0, 1 << 40) is None


@given(BODIES, st.binary(min_size=1, max_size=2), st.integers(1, 5))
async def test_a_search_continued_finds_all(bodies: list[bytes], needle: bytes, count: int) -> None:
    log, offsets = make(bodies)
    text = needle.decode("latin-1")
    found, at = [], 0
    while True:
        done = await search(log, "t", 0, at, holds(text), count)
        found += [message.offset for message in done.messages]
        if done.is_complete:
            break
        assert done.next_offset > at
        at = done.next_offset
    wanted = text.encode()
    assert found == [at for at, body in zip(offsets, bodies, strict=True) if wanted in body]


async def test_a_search_has_an_end() -> None:
    log, _offsets = make([b"x" * 1000] * 400)
    done = await search(log, "t", 0, 0, holds("y"), 10, bytes_max=10_000)
    assert (done.messages, done.is_complete) == ((), False)
    assert done.scanned_bytes >= 10_000


async def test_others_have_their_turn_between_small_steps() -> None:
    """Puts must not wait for a search: what it does at once is bounded, and the loop is free in between."""
    log, _offsets = make([b"x" * 1000] * 2000)
    log.segments = [0]
    turns = 0

    async def be_somebody_else() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_somebody_else)
        done = await search(log, "t", 0, 0, holds("y"), 10)
        nursery.cancel_scope.cancel()
    assert done.is_complete
    assert log.longest <= STEP_BYTES
    assert turns >= len(log.data) // STEP_BYTES


async def test_an_offset_inside_of_a_message_gives_nothing_and_stays() -> None:
    log, _offsets = make([b"\xff" * 100, b"x"])
    page = await page_from(log, "t", 0, 30, 10)
    assert (page.messages, page.next_offset) == ((), 30)


@given(st.binary(max_size=60), BODIES)
def test_boundaries_are_found_backwards(front: bytes, bodies: list[bytes]) -> None:
    log, offsets = make(bodies)
    found = chain_ending_at_the_end(front + log.data)
    assert found[-len(offsets) :] == [len(front) + at for at in offsets] or not offsets
    assert len(found) >= len(offsets)


async def test_a_long_segment_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "_WALK_BYTES_MAX", 1000)
    monkeypatch.setattr(browsing, "_WINDOW_BYTES", 400)
    bodies = [b"message %d" % number for number in range(200)]
    log, offsets = make(bodies)
    log.segments = [0]
    page = await page_before(log, "t", 0, len(log.data), 5)
    assert [message.offset for message in page.messages] == offsets[-5:]
    assert not page.is_certain
    assert log.read < 3000


def test_a_body_that_holds_headers_costs_no_more_than_the_budget() -> None:
    # Every four bytes something that looks like the header of all that follows.
    size = 256 * 1024
    hostile = b"".join(((size - at - 20) & 0x7FFFFFFF).to_bytes(4, "big") for at in range(0, size, 4))
    assert isinstance(chain_ending_at_the_end(hostile), list)
