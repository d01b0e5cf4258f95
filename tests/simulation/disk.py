"""A machine's disk in virtual time: syncs that take a while or hang, calls that fail, power that is cut."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, get_args

import attrs

from metaserver.storage import Point
from tests.storage.faulty_filesystem import CrashedError, FaultyFile, FaultyFileSystem, Survival

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from metaserver.broker.executor import Done, Job
    from metaserver.broker.syncer import SyncDone
    from metaserver.storage import File
    from tests.simulation.world import Process, World
    from tests.storage.faulty_filesystem import Kind

_JOB_SECONDS = (0.0002, 0.003)
_SYNC_SECONDS = (0.0005, 0.008)
_ROOM_BYTES_MIN = 1024


@attrs.define(eq=False)
class SimDisk(FaultyFileSystem):
    """One machine's; it outlives the processes that use it."""

    name: str = ""
    random: Random = attrs.field(kw_only=True)
    survivals: tuple[Survival, ...] = get_args(Survival)
    """What may become of what was not synced when the power is cut."""
    planned: dict[Point, Kind] = attrs.Factory(dict)
    """What goes wrong at the next call of a point."""
    crash_in_calls: int | None = None
    """At the end of so many more calls ``on_crash`` is called, in the middle of whatever it is."""
    on_crash: Callable[[], None] = lambda: None
    sync_factor: float = 1.0
    hangs_until_seconds: float = 0.0

    def enter(self, point: Point) -> Kind | None:
        """See FaultyFileSystem."""
        if self.is_crashed:
            raise CrashedError
        if self.crash_in_calls is not None:
            self.crash_in_calls -= 1
            if self.crash_in_calls < 0:
                self.crash_in_calls = None
                self.on_crash()
                raise CrashedError
        return self.planned.pop(point, None)

    def lose_power(self) -> str:
        """What was not synced is lost, all or in part; says how."""
        survival: Survival = self.random.choice(self.survivals)
        self.cut_power(survival, self.random.randrange)
        self.is_crashed = True
        return survival

    def restart(self) -> None:
        """See FaultyFileSystem."""
        super().restart()
        self.planned.clear()
        self.crash_in_calls = None

    def fill(self) -> None:
        """Leave next to no room."""
        self.capacity_bytes = self.used_bytes() + self.random.randrange(_ROOM_BYTES_MIN)

    def sync_seconds(self, now: float) -> float:
        """How long a sync takes that begins now."""
        return max(0.0, self.hangs_until_seconds - now) + self.sync_factor * self.random.uniform(
            *_SYNC_SECONDS
        )


@attrs.define(eq=False)
class SimExecutor:
    """Jobs run a moment later, one after the other or side by side, each in one piece."""

    _world: World
    _process: Process
    _disk: SimDisk

    def submit(self, job: Job, done: Done) -> None:
        """See Executor."""

        def run() -> None:
            result, failure = None, None
            try:
                result = job()
            except CrashedError:
                return
            except Exception as error:  # noqa: BLE001 - as the real one
                failure = error
            _call(lambda: done(result, failure))

        self._world.after(self._disk.random.uniform(*_JOB_SECONDS), self._process.guard(run))


@attrs.define(eq=False)
class SimSyncer:
    """A sync makes durable what was written when it began, and says so when it is done."""

    _world: World
    _process: Process
    _disk: SimDisk

    def sync(self, file: File, done: SyncDone) -> None:
        """See Syncer."""
        if not isinstance(file, FaultyFile):
            raise TypeError(file)
        changes = file.changes()

        def finish() -> None:
            error: OSError | None = None
            try:
                file.sync(Point.APPEND_SYNC, changes)
            except CrashedError:
                return
            except OSError as failure:
                error = failure
            _call(lambda: done(error))

        now = self._disk.clock.monotonic_seconds()
        self._world.after(self._disk.sync_seconds(now), self._process.guard(finish))

    def close(self) -> None:
        """See Syncer."""


@attrs.define(eq=False)
class SimPageCache:
    """Now and then something is not in memory."""

    _random: Random

    def holds(self, file: File, position: int, size: int) -> bool:
        """See PageCache."""
        return self._random.random() > 0.05

    def fetch(self, file: File, position: int, size: int) -> None:
        """See PageCache."""
        if file.size() < position + size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def _call(callback: Callable[[], None]) -> None:
    """What follows on the loop may find the machine gone."""
    try:
        callback()
    except CrashedError:
        return
