"""A disk that runs full under a master: a tmpfs of a few megabytes, filled from beside and by the log itself."""

from __future__ import annotations

import os
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from metaserver.client import Fetched, connect
from tools.torture.filesystems import MIB, UnavailableError, fill, tmpfs
from tools.torture.load import Load, Producer
from tools.torture.nodes import place_at, until
from tools.torture.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.torture.nodes import Place

TOPICS = ("[topic=orders]\nnumPartitions=2",)
NAMES = (("orders", 0), ("orders", 1))
DISK_BYTES = 48 * MIB
RESERVE_BYTES = 16 * MIB
NOTICED_SECONDS_MAX = 10.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            yield stack.enter_context(tmpfs(tmp_path / "place" / "data", DISK_BYTES))
        except UnavailableError as error:
            pytest.skip(f"no tmpfs of our own: {error}")


async def put_one(place: Place, verifier: Verifier) -> Producer:
    """One message, taken or refused; the producer has the answer."""
    producer = Producer(verifier, NAMES, Random(1), 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(producer.run, place.master.port)
        await until(lambda: producer.acknowledged or producer.refusals, 10, "an answer")
        producer.stop()
    return producer


async def put_until(place: Place, verifier: Verifier, *, is_taken: bool) -> Producer:
    """Put one message after the other until one is taken, or refused."""
    with trio.fail_after(NOTICED_SECONDS_MAX):
        while True:
            producer = await put_one(place, verifier)
            if (producer.acknowledged > 0) == is_taken and (not producer.refusals) == is_taken:
                return producer


def sizes(disk: Path) -> list[int]:
    return sorted(path.stat().st_size for path in disk.rglob("*.meta"))


async def read_first(place: Place) -> bytes:
    async with connect("127.0.0.1", place.master.port) as link:
        got = await link.get("orders", 0, 0)
        assert isinstance(got, Fetched)
        return got.data


async def load_until(place: Place, verifier: Verifier, acknowledged: int) -> list[str]:
    """Load from several connections until so many are acknowledged or some are refused; the refusals."""
    load = Load(verifier, NAMES, Random(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run, place.master.port, 3)
        await until(lambda: load.acknowledged >= acknowledged or load.refused, 30, "answers")
        load.stop()
    return [text for producer in load.producers for text in producer.refusals]


async def test_puts_are_refused_before_the_disk_is_full_and_taken_again_when_there_is_room(
    disk: Path, tmp_path: Path
) -> None:
    verifier = Verifier()
    settings = {"minFreeDiskBytes": RESERVE_BYTES, "maxSegmentSize": 2 * MIB}
    with place_at(tmp_path / "place", TOPICS, settings=settings) as place:
        place.master.start()
        pid = place.master.pid
        assert await load_until(place, verifier, 300) == []
        before = await read_first(place)

        ballast = fill(disk, RESERVE_BYTES // 2)
        refusal = (await put_until(place, verifier, is_taken=False)).refusals[0]
        assert refusal.startswith("503 ")
        assert "no space left" in refusal
        assert any("the disk is full" in problem for problem in place.master.problems())
        assert (await read_first(place)).startswith(before)
        # All that is refused at once is refused for the same reason, and nothing is written.
        before_refusals = sizes(disk)
        texts = await load_until(place, verifier, 1)
        assert texts
        assert all(text.startswith("503 ") for text in texts)
        assert sizes(disk) == before_refusals

        ballast.unlink()
        await put_until(place, verifier, is_taken=True)
        assert await load_until(place, verifier, 300) == []
        assert place.master.pid == pid
        assert place.master.is_running
        assert place.master.problems() == []
        verifier.check(place.master_data)
        place.master.kill()
        place.master.start()
        verifier.check(place.master_data)
        place.master.kill()
    assert verifier.refused > 0


@pytest.mark.parametrize(
    ("unflush_threshold", "rooms"), [(0, (700_001, 40_003)), (1000, (200_000,))], ids=["fsync", "page-cache"]
)
async def test_a_write_that_finds_no_room_is_undone(
    unflush_threshold: int, rooms: tuple[int, ...], disk: Path, tmp_path: Path
) -> None:
    """Without the reserve the log itself fills the disk, in the middle of a write or of a roll."""
    verifier = Verifier()
    settings = {"minFreeDiskBytes": 0, "maxSegmentSize": MIB, "unflushThreshold": unflush_threshold}
    with place_at(tmp_path / "place", TOPICS, settings=settings) as place:
        place.master.start()
        assert await load_until(place, verifier, 100) == []
        for free_bytes in rooms:
            ballast = fill(disk, free_bytes)
            texts = await load_until(place, verifier, 10**9)
            assert all(text.startswith("503 ") for text in texts), texts
            assert texts
            assert (await read_first(place))[:20]
            verifier.check(place.master_data)
            ballast.unlink()
            await put_until(place, verifier, is_taken=True)
            assert place.master.problems() == []
        verifier.check(place.master_data)
        place.master.kill()
        place.master.start()
        verifier.check(place.master_data)
        assert os.statvfs(disk).f_bavail > 0
        place.master.kill()
