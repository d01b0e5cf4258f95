"""Both ways to sync, on a real file; and that the kernel's errors arrive."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio

from metaserver.broker import KernelSyncer, Poller, ThreadExecutor, ThreadSyncer, make_syncer
from metaserver.storage import Point, RealFileSystem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from metaserver.broker import Syncer
    from metaserver.storage import File


@pytest.fixture
async def poller(nursery: trio.Nursery) -> Poller:
    poller = Poller()
    nursery.start_soon(poller.run)
    return poller


@pytest.fixture(params=["kernel", "threads"])
async def syncer(request: pytest.FixtureRequest, poller: Poller) -> AsyncIterator[Syncer]:
    executor = ThreadExecutor(1, poller)
    threads = ThreadSyncer(executor)
    syncer: Syncer = threads
    if request.param == "kernel":
        try:
            syncer = KernelSyncer(poller, threads)
        except OSError as error:
            pytest.skip(f"the kernel takes no asynchronous requests: {error}")
    yield syncer
    syncer.close()
    executor.close()


async def outcome(syncer: Syncer, file: File) -> OSError | None:
    finished = trio.Event()
    outcomes: list[OSError | None] = []

    def done(error: OSError | None) -> None:
        outcomes.append(error)
        finished.set()

    syncer.sync(file, done)
    with trio.fail_after(10):
        await finished.wait()
    assert len(outcomes) == 1
    return outcomes[0]


async def test_a_sync_succeeds(syncer: Syncer, tmp_path: Path) -> None:
    file = RealFileSystem().open(tmp_path / "file", "create", Point.ROLL_CREATE)
    for number in range(5):
        file.write([b"data"], 4 * number, Point.APPEND_WRITE)
        assert await outcome(syncer, file) is None
    file.close()


async def test_an_error_is_told(syncer: Syncer) -> None:
    class Pipe:
        """A descriptor that cannot be synced."""

        def __init__(self) -> None:
            self.descriptors = os.pipe()

        def fileno(self) -> int:
            return self.descriptors[1]

        def sync(self, _point: Point) -> None:
            os.fdatasync(self.fileno())

    pipe = Pipe()
    error = await outcome(syncer, pipe)  # type: ignore[arg-type]
    assert error is not None
    assert error.errno == errno.EINVAL
    for descriptor in pipe.descriptors:
        os.close(descriptor)


async def test_many_syncs_are_under_way_at_once(syncer: Syncer, tmp_path: Path) -> None:
    filesystem = RealFileSystem()
    files = [filesystem.open(tmp_path / f"{n}", "create", Point.ROLL_CREATE) for n in range(300)]
    finished, missing = trio.Event(), len(files)

    def done(error: OSError | None) -> None:
        nonlocal missing
        assert error is None
        missing -= 1
        if missing == 0:
            finished.set()

    for file in files:
        file.write([b"data"], 0, Point.APPEND_WRITE)
        syncer.sync(file, done)
    with trio.fail_after(30):
        await finished.wait()
    for file in files:
        file.close()


async def test_the_best_way_is_chosen(poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = ThreadExecutor(1, poller)
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    assert isinstance(make_syncer(poller, executor), ThreadSyncer)
    executor.close()
