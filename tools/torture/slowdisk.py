"""A disk that takes its time, under load: each sync late, or the whole filesystem frozen. Row D8.

Puts wait and nothing else does: none is refused, the slave (on another disk) and all connections stay, memory
stays bounded, and once the disk is itself again puts are answered as before. With a frozen filesystem the
whole node waits: its loop writes small appends into the page cache. So that is told, and not a violation.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.errors import ControlError
from tools.torture.faults import PLAIN_SYNCS, injected
from tools.torture.filesystems import MIB, image, run
from tools.torture.load import Load
from tools.torture.nodes import Place, until
from tools.torture.verifier import BrokenPromiseError, PrefixCheck, Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.torture.logfiles import Name

TOPICS = ("[topic=orders]\nnumPartitions=3",)
NAMES: tuple[Name, ...] = (("orders", 0), ("orders", 1), ("orders", 2))
RSS_BYTES_MAX = 256 * MIB
_DISK_BYTES = 1024 * MIB
_CONNECTIONS = 4
_MESSAGES = 500
_AGAIN_SECONDS_MAX = 5.0
_WELL_SECONDS_MAX = 30.0
_PROBE_SECONDS = 0.5


@contextmanager
def _late(place: Place, seconds: float) -> Iterator[None]:
    microseconds = round(seconds * 1_000_000)
    rules = (PLAIN_SYNCS, f"fdatasync:delay_enter={microseconds}", f"fsync:delay_enter={microseconds}")
    with injected(place.master, place.base / "strace", *rules):
        yield


@contextmanager
def frozen(place: Place, disk: Path) -> Iterator[None]:
    """Writes and syncs wait until the end."""
    del place
    run("fsfreeze", "-f", str(disk))
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", str(disk)], check=True)


@contextmanager
def sync_50_ms(place: Place, disk: Path) -> Iterator[None]:
    """Each sync takes 50 ms longer."""
    del disk
    with _late(place, 0.05):
        yield


@contextmanager
def sync_1_s(place: Place, disk: Path) -> Iterator[None]:
    """Each sync takes a second longer."""
    del disk
    with _late(place, 1.0):
        yield


Fault = Callable[[Place, Path], AbstractContextManager[None]]
"""Of the master and the disk of its data."""

SLOWNESS: dict[str, Fault] = {
    "sync-50ms": sync_50_ms,
    "sync-1s": sync_1_s,
    "frozen": frozen,
}


@attrs.define(eq=False)
class Slow:
    """One run."""

    place: Place
    disk: Path
    seconds: float
    verifier: Verifier = attrs.Factory(Verifier)
    during: int = 0
    """Messages acknowledged while the disk was slow."""
    again_seconds: float = 0.0
    """From the end of it until a put that came then was answered."""
    silences: int = 0
    """So often the node did not answer its control socket within ten seconds."""
    rss_bytes: int = 0
    prefix: PrefixCheck = attrs.field(init=False)
    _random: Random = attrs.Factory(lambda: Random(1))

    @property
    def slave_connections(self) -> int:
        """To its master, so far."""
        text = self.place.slave.output.read_text(encoding="utf-8")
        return text.count("start subscribe message from master success")

    def __attrs_post_init__(self) -> None:
        self.prefix = PrefixCheck(self.place.master_data, self.place.slave_data)

    async def run(self, fault: Fault) -> None:
        """Raises BrokenPromiseError and NodeError."""
        place = self.place
        await trio.to_thread.run_sync(place.master.start)
        await trio.to_thread.run_sync(place.slave.start)
        load = Load(self.verifier, NAMES, self._random)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.prefix.keep_looking)
            async with trio.open_nursery() as loading:
                loading.start_soon(load.run, place.master.port, _CONNECTIONS)
                await until(lambda: load.acknowledged >= _MESSAGES, 30.0, "messages are acknowledged")
                before = load.acknowledged
                with fault(place, self.disk):
                    ends = trio.current_time() + self.seconds
                    while trio.current_time() < ends:
                        await trio.sleep(_PROBE_SECONDS)
                        self.rss_bytes = max(self.rss_bytes, place.master.rss_bytes)
                        await trio.to_thread.run_sync(self._ask, fault is frozen)
                    self.during = load.acknowledged - before
                began, before = time.monotonic(), load.acknowledged
                await until(
                    lambda: load.acknowledged >= before + _MESSAGES,
                    _AGAIN_SECONDS_MAX,
                    "puts are answered again",
                )
                self.again_seconds = time.monotonic() - began
                load.stop()
            await until(self._is_well, _WELL_SECONDS_MAX, "all is well again")
            nursery.cancel_scope.cancel()
        refusals = [text for producer in load.producers for text in producer.refusals]
        if refusals:
            raise BrokenPromiseError([f"{len(refusals)} puts were refused: {refusals[0]}"])
        await trio.to_thread.run_sync(self._finish)

    def _ask(self, may_be_silent: bool) -> None:  # noqa: FBT001 - said once
        """The node answers, and its slave still has it."""
        try:
            self.place.master.ask("status")
        except ControlError:
            if not may_be_silent:
                raise
            self.silences += 1
        if not self.place.slave.ask("slave-status")["connected"] and not may_be_silent:
            raise BrokenPromiseError(["the slave lost its master, whose disk is slow"])

    def _is_well(self) -> bool:
        return self.place.is_well() and not self.prefix.is_behind()

    def _finish(self) -> None:
        self.prefix.look_at_everything()
        self.place.slave.stop()
        self.place.master.stop()
        self.verifier.check(self.place.master_data)
        violations = list(self.prefix.differences())
        if self.rss_bytes > RSS_BYTES_MAX:
            violations.append(f"{self.rss_bytes >> 20} MiB of memory")
        if violations:
            raise BrokenPromiseError(violations)


def run_slow(base: Path, name: str, seconds: float) -> list[tuple[str, str]]:
    """One slowness. Raises UnavailableError, NodeError and BrokenPromiseError."""
    place = Place(base / "place", TOPICS)
    with ExitStack() as stack:
        disk = stack.enter_context(image(base / "image", place.master_data, "ext4", _DISK_BYTES))
        stack.callback(place.end)
        slow = Slow(place, disk, seconds)
        trio.run(slow.run, SLOWNESS[name])
    return [
        ("disk, seconds", f"{name}, {seconds:g}"),
        ("messages acknowledged", f"{slow.verifier.acknowledged:,}"),
        ("of them while the disk was slow", f"{slow.during:,}"),
        ("puts refused", "0"),
        ("connections of the slave", str(slow.slave_connections)),
        ("looks at the node not answered within 10 s", str(slow.silences)),
        ("from its end until puts were answered as before", f"{slow.again_seconds:.2f} s"),
        ("memory", f"{slow.rss_bytes / MIB:.1f} MiB"),
        ("master and slave files at the end", "identical"),
    ]
