"""Wall clocks that jump: an hour or a day, forth and back, of master, slave or both (libfaketime). Row T1.

The steady clock goes on, as with a real jump. Nobody may be cut off, refused, forgotten or given an old
id for it, and nothing may be deleted that was written a moment ago.
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.client import ConsumerOptions, open_session
from metaserver.client.offsets_registry import RegistryOffsets
from tests.support import Wire
from tools.torture.filesystems import UnavailableError
from tools.torture.groups import WatchedOffsets
from tools.torture.load import Consumer, Load
from tools.torture.nodes import Place, Site, until
from tools.torture.verifier import BrokenPromiseError, PrefixCheck, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.torture.logfiles import Name

_LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
)
TOPICS = ("[topic=orders]\nnumPartitions=3",)
NAMES: tuple[Name, ...] = (("orders", 0), ("orders", 1), ("orders", 2))
SETTINGS = {
    "maxSegmentSize": 256 * 1024,
    # Ten times a minute everything is deleted that has not been written to for twelve hours.
    "deletePolicy": "delete,12",
    "deleteWhen": "0/6 * * * * ?",
}
_REGISTRY = "registryPort=0\nzk.zkSyncTimeMs=0"
_HOUR_SECONDS = 3600
_DAY_SECONDS = 24 * _HOUR_SECONDS
STEPS: tuple[tuple[str, int], ...] = (
    ("both", _HOUR_SECONDS),
    ("both", 0),
    ("master", -_HOUR_SECONDS),
    ("slave", _HOUR_SECONDS),
    ("both", 0),
    ("both", -_DAY_SECONDS),
    ("both", _DAY_SECONDS),
    ("both", 0),
)
"""Whose clock is set, and how far from the true time it is then."""
_CONNECTIONS = 2
_LOAD_SECONDS_MAX = 60.0
_WELL_SECONDS_MAX = 30.0


@attrs.define(eq=False)
class Clock:
    """The wall clock of a node that is started at its site."""

    file: Path
    library: str

    def set(self, offset_seconds: int) -> None:
        """So far from the true time; the node notices within a second."""
        beside = self.file.with_suffix(".new")
        beside.write_text(f"{offset_seconds:+d}\n", encoding="ascii")
        beside.replace(self.file)

    @property
    def site(self) -> Site:
        """Where a node has this clock."""
        return Site(
            command=(
                "env",
                f"LD_PRELOAD={self.library}",
                f"FAKETIME_TIMESTAMP_FILE={self.file}",
                "FAKETIME_CACHE_DURATION=1",
                "FAKETIME_DONT_FAKE_MONOTONIC=1",
                "NO_FAKE_STAT=1",
            )
        )


@attrs.define(eq=False)
class Jumping:
    """A master and a slave whose clocks jump under load, and what they have come to."""

    place: Place
    clocks: tuple[Clock, Clock]
    """Of the master and of the slave."""
    messages: int
    """Acknowledged after each jump."""
    hold_seconds: float
    """How long a clock that is a day wrong stays so."""
    say: Callable[[str], None]
    verifier: Verifier = attrs.Factory(Verifier)
    group_stores: int = 0
    jumps: int = 0
    prefix: PrefixCheck = attrs.field(init=False)
    _random: Random = attrs.Factory(lambda: Random(1))

    def __attrs_post_init__(self) -> None:
        self.prefix = PrefixCheck(self.place.master_data, self.place.slave_data)

    async def run(self) -> None:
        """Raises BrokenPromiseError where a jump has changed anything."""
        await trio.to_thread.run_sync(self.place.master.start)
        await trio.to_thread.run_sync(self.place.slave.start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.prefix.keep_looking)
            nursery.start_soon(self._consume_in_a_group)
            with Wire(self.place.master.port) as quiet:
                await trio.to_thread.run_sync(quiet.ask, b"version 1\r\n")
                await self._load_and_look("the true time")
                for whose, offset_seconds in STEPS:
                    for clock, name in zip(self.clocks, ("master", "slave"), strict=True):
                        if whose in ("both", name):
                            clock.set(offset_seconds)
                    self.jumps += 1
                    await self._load_and_look(f"{offset_seconds:+d} s at {whose}")
                    if abs(offset_seconds) == _DAY_SECONDS:
                        await trio.sleep(self.hold_seconds)
                # A connection of which nothing was heard all the time.
                reply = await trio.to_thread.run_sync(quiet.ask, b"version 2\r\n")
                if reply.status != 200:
                    raise BrokenPromiseError([f"a quiet connection was answered {reply}"])
            nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(self._finish)

    async def _load_and_look(self, when: str) -> None:
        """Puts are taken, the slave follows, nobody tells of a problem."""
        self.say(when)
        load = Load(self.verifier, NAMES, self._random)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Consumer(self.verifier, self._random.choice(NAMES)).run, self.place.slave.port)
            async with trio.open_nursery() as loading:
                loading.start_soon(load.run, self.place.master.port, _CONNECTIONS)
                what = f"messages are acknowledged, {when}"
                await until(lambda: load.acknowledged >= self.messages, _LOAD_SECONDS_MAX, what)
                load.stop()
            nursery.cancel_scope.cancel()
        refusals = [refusal for producer in load.producers for refusal in producer.refusals]
        if refusals:
            raise BrokenPromiseError([f"{when}: refused: {refusals[0]}"])
        await until(self._is_well, _WELL_SECONDS_MAX, f"all is well, {when}")

    def _is_well(self) -> bool:
        return self.place.is_well() and not self.prefix.is_behind()

    async def _consume_in_a_group(self) -> None:
        options = ConsumerOptions(commit_interval_seconds=0.2)
        async with open_session(f"metaq://127.0.0.1:{self.place.master_port}") as session:
            watched = WatchedOffsets(RegistryOffsets(session.network.discovery))
            async with session.consumer("watchers", ["orders"], options, offsets=watched) as consumer:
                async for _message in consumer:
                    self.group_stores = watched.stores

    def _finish(self) -> None:
        self.prefix.look_at_everything()
        self.place.slave.stop()
        self.place.master.stop()
        self.verifier.check(self.place.master_data)
        violations = list(self.prefix.differences())
        for node, words in (
            (self.place.master, ("Registered in ZooKeeper",)),
            (self.place.slave, ("Registered in ZooKeeper", "start subscribe message from master success")),
        ):
            text = node.output.read_text(encoding="utf-8")
            violations += [
                f"{node.output.name}: {text.count(word)} times {word!r}"
                for word in words
                if text.count(word) != 1
            ]
            if "Traceback" in text:
                violations.append(f"{node.output.name}: {node.log_tail()}")
        if violations:
            raise BrokenPromiseError(violations)


def run_clocks(
    base: Path, messages: int, hold_seconds: float, say: Callable[[str], None]
) -> list[tuple[str, str]]:
    """All the jumps, once. Raises UnavailableError, NodeError and BrokenPromiseError."""
    library = next((path for path in _LIBRARIES if Path(path).exists()), None)
    if library is None:
        raise UnavailableError("there is no libfaketime here (Debian: apt-get install faketime)")
    base.mkdir(parents=True, exist_ok=True)
    clocks = Clock(base / "master.clock", library), Clock(base / "slave.clock", library)
    for clock in clocks:
        clock.set(0)
    place = Place(
        base / "place",
        TOPICS,
        settings=SETTINGS,
        sites=(clocks[0].site, clocks[1].site),
        registry=_REGISTRY,
    )
    jumping = Jumping(place, clocks, messages, hold_seconds, say)
    began = time.monotonic()
    try:
        trio.run(jumping.run)
    finally:
        place.end()
    verifier = jumping.verifier
    return [
        ("jumps of a clock", str(jumping.jumps)),
        ("messages acknowledged", f"{verifier.acknowledged:,}"),
        ("acknowledged and missing, moved or changed", "0"),
        ("ids that do not rise", "0"),
        ("looks at the slave: a byte prefix each time", f"{jumping.prefix.rounds:,}"),
        ("offsets of the group stored, none of them lower than before", f"{jumping.group_stores:,}"),
        ("connections cut, sessions lost, puts refused", "0"),
        ("seconds of load and jumps", f"{time.monotonic() - began:.0f}"),
    ]
