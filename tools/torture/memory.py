"""A master that may have only so much memory, and one that is given too little. Row P5.

First under load with a thousand idle connections and a thousand peers that announce much and send most of it:
the limit is not reached. Then the limit is taken away under it: the kernel kills it, as with SIGKILL.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from tools.torture import abusers
from tools.torture.abusers import Abuser, Target
from tools.torture.filesystems import MIB, UnavailableError
from tools.torture.load import Load
from tools.torture.nodes import Place, Site, until
from tools.torture.verifier import BrokenPromiseError, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tools.torture.logfiles import Name

TOPICS = ("[topic=orders]\nnumPartitions=3", "[topic=t]")
NAMES: tuple[Name, ...] = (("orders", 0), ("orders", 1), ("orders", 2))
_HIERARCHY = Path("/sys/fs/cgroup/memory")
_PEERS = 1000
_CONNECTIONS = 4
_ABUSE_SECONDS_MAX = 120.0
_KILL_SECONDS_MAX = 60.0
_MESSAGES = 500


@attrs.frozen
class Group:
    """A memory cgroup (version 1)."""

    path: Path

    def limit(self, size_bytes: int) -> None:
        """So much from now on; the kernel kills where it cannot take enough away."""
        (self.path / "memory.limit_in_bytes").write_text(str(size_bytes))

    def unlimit(self) -> None:
        """As much as there is."""
        (self.path / "memory.limit_in_bytes").write_text("-1")

    @property
    def kills(self) -> int:
        """Of the kernel, for memory."""
        lines = (self.path / "memory.oom_control").read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    @property
    def peak_bytes(self) -> int:
        """Most of what was ever taken, the page cache of its files included."""
        return int((self.path / "memory.max_usage_in_bytes").read_text())

    @property
    def command(self) -> tuple[str, ...]:
        """What a command begins with that runs in it."""
        return "sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"


@contextmanager
def memory_group() -> Iterator[Group]:
    """For the time of the block; raises UnavailableError."""
    path = _HIERARCHY / f"metaserver-torture-{os.getpid()}"
    try:
        path.mkdir()
        (path / "memory.swappiness").write_text("0")
    except OSError as error:
        raise UnavailableError(f"no memory cgroup can be made: {error}") from error
    try:
        yield Group(path)
    finally:
        with suppress(OSError):
            path.rmdir()


@attrs.define(eq=False)
class Limited:
    """One run."""

    place: Place
    group: Group
    limit_bytes: int
    say: Callable[[str], None]
    verifier: Verifier = attrs.Factory(Verifier)
    rss_bytes: int = 0
    """Most under load, with all the peers."""
    _random: Random = attrs.Factory(lambda: Random(1))

    async def run(self, kills: int) -> None:
        """Raises BrokenPromiseError and NodeError."""
        master = self.place.master
        self.group.limit(self.limit_bytes)
        await trio.to_thread.run_sync(master.start)
        status = master.ask("status")
        port = master.port
        target = Target(port, port, int(status["http_port"]), self.place.base / "none")
        for act in (abusers.idle, abusers.unfinished):
            self.say(f"{act.__name__}, {_PEERS} connections")
            with Abuser(act, target, _PEERS).at_work() as findings:
                await self._load(lambda: findings(_ABUSE_SECONDS_MAX))
                self.rss_bytes = max(self.rss_bytes, master.rss_bytes)
        if self.group.kills or not master.is_running:
            raise BrokenPromiseError([f"{self.limit_bytes // MIB} MiB were not enough"])
        for number in range(1, kills + 1):
            load = Load(self.verifier, NAMES, self._random)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.run, port, _CONNECTIONS)
                await _acknowledged(load, _MESSAGES)
                await trio.to_thread.run_sync(self._take_away)
            if self.group.kills != number:
                raise BrokenPromiseError([f"the kernel killed {self.group.kills} times, not {number}"])
            self.group.unlimit()
            await trio.to_thread.run_sync(master.start)
            await trio.to_thread.run_sync(self.verifier.check, self.place.master_data)
            if problems := master.problems():
                raise BrokenPromiseError(problems)
            self.say(f"{number} of {kills} kills")
        await trio.to_thread.run_sync(master.stop)
        await trio.to_thread.run_sync(self.verifier.check_all_again, self.place.master_data)

    async def _load(self, meanwhile: Callable[[], object]) -> None:
        load = Load(self.verifier, NAMES, self._random)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, self.place.master.port, _CONNECTIONS)
            await trio.to_thread.run_sync(meanwhile)
            await _acknowledged(load, load.acknowledged + _MESSAGES)
            load.stop()

    def _take_away(self) -> None:
        """Less and less, until the kernel kills."""
        for size_bytes in range(self.limit_bytes, MIB, -MIB):
            if not self.place.master.is_running:
                return
            with suppress(OSError):  # It cannot take so much away at once, and has begun to.
                self.group.limit(size_bytes)


def run_memory(base: Path, megabytes: int, kills: int, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """Raises UnavailableError, NodeError and BrokenPromiseError."""
    with memory_group() as group:
        sites = Site(command=group.command), Site()
        place = Place(base / "place", TOPICS, sites=sites)
        limited = Limited(place, group, megabytes * MIB, say)
        try:
            trio.run(limited.run, kills)
        finally:
            place.end()
        peak = group.peak_bytes
    return [
        ("limit", f"{megabytes} MiB"),
        (
            f"most resident memory, with {_PEERS:,} idle and {_PEERS:,} unfinished",
            f"{limited.rss_bytes / MIB:.1f} MiB",
        ),
        ("most that the group ever had, page cache included", f"{peak / MIB:.1f} MiB"),
        ("kills for memory within the limit", "0"),
        ("kills once it was taken away", str(kills)),
        ("messages acknowledged", f"{limited.verifier.acknowledged:,}"),
        ("acknowledged and missing, moved or changed", "0"),
    ]


async def _acknowledged(load: Load, count: int) -> None:
    await until(lambda: load.acknowledged >= count, 30.0, "messages are acknowledged")
