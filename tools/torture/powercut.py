"""Power cuts without a power switch: the disk of a running master is copied in one instant, again and again.

The master's data lies on an ext4 in a file, and that file on an XFS, which copies a file by reference: at
once and atomically. The copy is what a disk would hold if the power went now: what ext4 had not yet sent to
its device is not in it. Mounting it replays the journal; then it is recovered as a master would, and looked
at. What was acknowledged before the copy was made must be there. While the copy recovers it is copied itself,
before one of the calls that change its disk: a power cut in recovery.
"""

from __future__ import annotations

import fcntl
import os
import time
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.node.clock import SystemClock
from metaserver.storage import MessageStore, RealFileSystem, StoreOptions
from metaserver.storage.filesystem import RealFile
from tools.torture.filesystems import MIB, image, mounted
from tools.torture.kills import NAMES, TOPICS
from tools.torture.load import Load
from tools.torture.nodes import place_at
from tools.torture.verifier import BrokenPromiseError, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from metaserver.message import Buffer
    from metaserver.storage.filesystem import OpenMode, Point
    from tools.torture.nodes import Place

SETTINGS = {"maxSegmentSize": MIB, "recoveryCheckpointBytes": MIB // 4, "minFreeDiskBytes": 0}
_DISK_BYTES = 2048 * MIB
_HOST_BYTES = 3072 * MIB
_ROUND_CUTS = 20
_CLONE = 0x40049409
"""FICLONE of linux/fs.h: one file gets the extents of another."""
_SETTLED_SECONDS_MAX = 30.0
_BURST_SECONDS = (0.01, 0.15)


@attrs.define(eq=False)
class PowerCuts:
    """Bursts of load on one master, a cut in each."""

    place: Place
    disk: Path
    """The file that holds the master's filesystem."""
    seed: int
    verifier: Verifier = attrs.Factory(Verifier)
    cuts: int = 0
    cuts_in_recovery: int = 0
    acknowledged_before_cuts: int = 0
    """Messages whose reply came before a cut in the same burst; summed up."""
    bytes_cut: int = 0
    """Torn tails that recovery found and cut."""
    copy_seconds: float = 0.0
    _is_recovering: bool = False
    _random: Random = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._random = Random(self.seed)

    async def run(self, cuts: int, tell: Callable[[str], None]) -> None:
        """Make so many cuts; raises BrokenPromiseError."""
        await trio.to_thread.run_sync(self.place.master.start)
        for number in range(1, cuts + 1):
            known = await self._burst()
            await trio.to_thread.run_sync(self._look_at_copy, known)
            await trio.to_thread.run_sync(self.verifier.check, self.place.master_data)
            self.cuts = number
            if number % 10 == 0:
                tell(f"{number} of {cuts} cuts, {self.verifier.acknowledged:,} messages acknowledged")
        await trio.to_thread.run_sync(self.place.master.stop)
        self.verifier.check_all_again(self.place.master_data)

    @property
    def _cut(self) -> Path:
        return self.disk.with_name("cut.img")

    async def _burst(self) -> Verifier:
        """Load, and in the midst of it the copy; returns what was known at that moment."""
        load = Load(self.verifier, NAMES, self._random)
        with trio.fail_after(_SETTLED_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.run, self.place.master.port, 4)
                while not load.acknowledged:
                    await trio.lowlevel.checkpoint()
                await trio.sleep(self._random.uniform(*_BURST_SECONDS))
                # Nothing of ours runs between the two lines: who was acknowledged is exactly known.
                known = self.verifier.copy()
                self._clone()
                self.acknowledged_before_cuts += load.acknowledged
                load.stop()
        return known

    def _clone(self) -> None:
        began = time.monotonic()
        _copy(self.disk, self._cut)
        self.copy_seconds += time.monotonic() - began

    def _look_at_copy(self, known: Verifier) -> None:
        again = self.disk.with_name("again.img")
        moments = 0

        def before_change() -> None:
            """Each of the moments is as likely as the others to be the one that stays."""
            nonlocal moments
            if not self._is_recovering:
                return  # In the orderly stop behind it, which makes more calls than a recovery.
            moments += 1
            if self._random.randrange(moments) == 0:
                _copy(self._cut, again)

        self._recover(self._cut, known, _WatchedFileSystem(before_change))
        if moments:
            self._recover(again, known, RealFileSystem())
            self.cuts_in_recovery += 1

    def _recover(self, disk: Path, known: Verifier, filesystem: RealFileSystem) -> None:
        with mounted(str(disk), self.place.base / "cut", "-o", "loop") as mount:
            data = mount / "master"
            (data / ".lock").unlink(missing_ok=True)
            # As a master: it begins an epoch in each log.
            options = StoreOptions(
                segment_bytes_max=MIB,
                checkpoint_bytes=MIB // 4,
                epoch_origin=self._random.getrandbits(64),
            )
            self._is_recovering = True
            store = MessageStore.open(filesystem, SystemClock(), options, [data], "torture")
            self._is_recovering = False
            try:
                problems = [f"{name}: {error}" for name, error in store.failed.items()]
                for report in store.reports:
                    self.bytes_cut += report.bytes_cut
                    if report.damaged_ranges or report.holes or report.bytes_missing:
                        problems.append(str(report))
            finally:
                store.close()
            if problems:
                raise BrokenPromiseError(problems)
            known.check(data)
        disk.unlink()


@attrs.define(eq=False)
class _WatchedFile(RealFile):
    before_change: Callable[[], None]

    def write(self, buffers: Sequence[Buffer], position: int, point: Point) -> None:
        self.before_change()
        super().write(buffers, position, point)

    def sync(self, point: Point) -> None:
        self.before_change()
        super().sync(point)

    def truncate(self, size: int, point: Point) -> None:
        self.before_change()
        super().truncate(size, point)


@attrs.define(eq=False)
class _WatchedFileSystem(RealFileSystem):
    """The filesystem, which tells of each change before it is made."""

    before_change: Callable[[], None]

    def open(self, path: Path, mode: OpenMode, point: Point) -> RealFile:
        if mode != "read":
            self.before_change()
        file = super().open(path, mode, point)
        descriptor = os.dup(file.fileno())
        file.close()
        return _WatchedFile(descriptor, self.before_change)

    def rename(self, source: Path, target: Path, point: Point) -> None:
        self.before_change()
        super().rename(source, target, point)

    def remove(self, path: Path, point: Point) -> None:
        self.before_change()
        super().remove(path, point)

    def sync_directory(self, path: Path, point: Point) -> None:
        self.before_change()
        super().sync_directory(path, point)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        fcntl.ioctl(written.fileno(), _CLONE, read.fileno())


def run_power_cuts(base: Path, cuts: int, seed: int, tell: Callable[[str], None]) -> list[tuple[str, str]]:
    """The long form; raises UnavailableError where this machine has no such filesystems."""
    rounds: list[PowerCuts] = []
    left = cuts
    while left:
        # Each look reads the whole log: a new one from time to time keeps it short.
        count = min(left, _ROUND_CUTS)
        tell(f"round {len(rounds) + 1}: {count} of the {left} cuts that are left")
        rounds.append(_one_round(base / f"round-{len(rounds)}", count, seed + len(rounds), tell))
        left -= count
    copy_ms = 1000 * sum(run.copy_seconds for run in rounds) / cuts
    return [
        ("seeds", f"{seed} to {seed + len(rounds) - 1}"),
        ("power cuts", str(sum(run.cuts for run in rounds))),
        ("second cuts, in the recovery behind one", str(sum(run.cuts_in_recovery for run in rounds))),
        ("messages acknowledged", f"{sum(run.verifier.acknowledged for run in rounds):,}"),
        (
            "of them in the burst of a cut, before it",
            f"{sum(run.acknowledged_before_cuts for run in rounds):,}",
        ),
        ("acknowledged before a cut and missing in the copy", "0"),
        ("copies that did not open by themselves", "0"),
        ("bytes of torn tails cut by recovery", f"{sum(run.bytes_cut for run in rounds):,}"),
        ("mean time of a copy", f"{copy_ms:.1f} ms"),
    ]


def _one_round(base: Path, cuts: int, seed: int, tell: Callable[[str], None]) -> PowerCuts:
    host, host_file = base / "host", base / "host.img"
    host.mkdir(parents=True)
    with (
        image(host_file, host, "xfs", _HOST_BYTES, "-m", "reflink=1"),
        image(host / "disk.img", base / "place" / "data", "ext4", _DISK_BYTES),
        place_at(base / "place", TOPICS, settings=SETTINGS) as place,
    ):
        run = PowerCuts(place, host / "disk.img", seed)
        trio.run(run.run, cuts, tell)
    host_file.unlink()
    return run
