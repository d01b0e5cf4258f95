"""A disk that answers with an error: the partition it hits takes no more puts, everything else goes on.

Two ways to get one. strace makes single system calls of a running master fail. And a filesystem whose
device cannot keep what it has taken: a sparse image on a tmpfs that is full; there the kernel itself
reports the failed write-back, once, and success to whoever asks again.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from random import Random
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from metaserver.client import Fetched, connect
from tools.torture.faults import PLAIN_SYNCS, failed_calls, injected
from tools.torture.filesystems import MIB, UnavailableError, fill, image, tmpfs
from tools.torture.load import Load
from tools.torture.nodes import place_at, until, wait_until
from tools.torture.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tools.torture.nodes import Node, Place

TOPICS = ("[topic=struck]", "[topic=spared]\nnumPartitions=2")
STRUCK = ("struck", 0)
SPARED = (("spared", 0), ("spared", 1))


@attrs.define
class Run:
    """A master and what was sent to it."""

    place: Place
    verifier: Verifier = attrs.Factory(Verifier)

    async def load(self, names: Sequence[tuple[str, int]], messages: int) -> list[str]:
        """Load until so many were answered; the refusals, as texts."""
        load = Load(self.verifier, names, Random(7))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, self.place.master.port, 4)
            await until(lambda: load.acknowledged + load.refused >= messages, 30, "the answers")
            load.stop()
        return [text for producer in load.producers for text in producer.refusals]

    async def read(self, topic: str) -> bytes:
        async with connect("127.0.0.1", self.place.master.port) as link:
            got = await link.get(topic, 0, 0)
            assert isinstance(got, Fetched)
            return got.data

    async def expect_only_struck_is_closed(self, before: bytes) -> None:
        refusals = await self.load([STRUCK], 50)
        assert len(refusals) >= 50
        assert all("takes no more messages after a disk error" in text for text in refusals)
        assert (await self.read("struck")).startswith(before)
        assert await self.load(SPARED, 200) == []
        problems = self.place.master.problems()
        assert len(problems) == 1
        assert "struck-0 takes no more messages after a disk error" in problems[0]
        failed = {
            (topic["topic"], topic["partition"]): topic["failed"]
            for topic in self.place.master.ask("topics")["topics"]
        }
        assert failed.pop(STRUCK)
        assert not any(failed.values())

    async def expect_all_is_well_after_a_restart(self) -> None:
        self.place.master.kill()
        self.place.master.start()
        assert self.place.master.problems() == []
        self.verifier.check(self.place.master_data)
        assert await self.load([STRUCK, *SPARED], 200) == []
        self.place.master.kill()
        self.place.master.start()
        self.verifier.check(self.place.master_data)


@contextmanager
def broken(node: Node, trace: Path, *rules: str) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(injected(node, trace, *rules))
        except UnavailableError as error:
            pytest.skip(f"system calls cannot be made to fail: {error}")
        yield


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with place_at(tmp_path / "place", TOPICS) as place:
        place.master.start()
        yield Run(place)


async def test_a_failed_fsync_closes_its_partition_and_is_never_repeated(run: Run, tmp_path: Path) -> None:
    assert await run.load([STRUCK, *SPARED], 300) == []
    before = await run.read("struck")
    # Asynchronous syncs are refused, so that they are plain ones, and those fail.
    rules = (PLAIN_SYNCS, "fdatasync:error=EIO")
    trace = tmp_path / "trace"
    with broken(run.place.master, trace, *rules):
        refusals = await run.load([STRUCK], 300)
        assert len(refusals) >= 300
        assert all(text.startswith("500 ") and "disk error" in text for text in refusals)
    assert len(failed_calls(trace, "fdatasync")) == 1
    await run.expect_only_struck_is_closed(before)
    await run.expect_all_is_well_after_a_restart()


@pytest.mark.parametrize("error", ["EIO", "EROFS"])
async def test_a_failed_write_closes_its_partition(error: str, run: Run, tmp_path: Path) -> None:
    assert await run.load([STRUCK, *SPARED], 300) == []
    before = await run.read("struck")
    rules = (f"pwritev:error={error}", f"pwrite64:error={error}", f"pwritev2:error={error}")
    trace = tmp_path / "trace"
    with broken(run.place.master, trace, *rules):
        assert len(await run.load([STRUCK], 300)) >= 300
    assert len(failed_calls(trace, r"pwrite\w+")) == 1
    await run.expect_only_struck_is_closed(before)
    await run.expect_all_is_well_after_a_restart()


async def test_a_lost_write_back_closes_its_partition(tmp_path: Path) -> None:
    verifier = Verifier()
    data = tmp_path / "data"
    topics = (f"[topic=struck]\ndataPath={data}", TOPICS[1])
    with ExitStack() as stack:
        try:
            memory = stack.enter_context(tmpfs(tmp_path / "memory", 24 * MIB))
            stack.enter_context(
                image(memory / "disk.img", data, "ext4", 64 * MIB, "-O", "^has_journal", "-E", "nodiscard")
            )
        except UnavailableError as error:
            pytest.skip(f"no disk that loses what it takes: {error}")
        settings = {"minFreeDiskBytes": 0}
        place = stack.enter_context(place_at(tmp_path / "place", topics, settings=settings))
        place.master.start()
        run = Run(place, verifier)
        assert await run.load([STRUCK, *SPARED], 300) == []
        before = await run.read("struck")
        ballast = fill(memory, 0)
        refusals: list[str] = []
        with trio.fail_after(60):
            while not refusals:
                refusals = await run.load([STRUCK], 5000)
        assert all("disk error" in text for text in refusals)
        ballast.unlink()
        # The disk works again, and an fsync would succeed; the messages before it are lost all the same.
        await run.expect_only_struck_is_closed(before)
        place.master.kill()
        wait_until(lambda: not place.master.is_running, 5, "the end of the master")
