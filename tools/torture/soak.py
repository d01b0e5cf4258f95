"""Hours of an ordinary life, in which nothing may grow. Row L1.

One master that lives all the time. Beside it, again and again: producers that come and go, members that join
a group and leave it, transactions that end well, are dropped or vanish, topics that are made and deleted,
looks at the metrics, and a slave that is killed and starts again. After each round the memory and the open
descriptors of the master are written down; the last quarter of the rounds is held against the second.
"""

from __future__ import annotations

import statistics
import time
import urllib.request
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.client import open_session
from metaserver.message import encode_record
from tools.torture.commands import must_find_nothing
from tools.torture.filesystems import MIB
from tools.torture.load import Load
from tools.torture.nodes import Place, until
from tools.torture.verifier import BrokenPromiseError, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metaserver.client import Session
    from tools.torture.logfiles import Name

NAMES: tuple[Name, ...] = (("orders", 0), ("orders", 1), ("orders", 2))
_REGISTRY = "registryPort=0"
_CONNECTIONS = 4
_JOIN_SECONDS = 0.5
_SLAVE_ROUNDS = 20
"""Between two kills of the slave."""
_WAIT_SECONDS_MAX = 60.0
_GROWTH_BYTES_MAX = 4 * MIB
"""What two medians of a small process may differ by, however short the time."""
_GROWTH_BYTES_PER_HOUR_MAX = 1 * MIB
_DESCRIPTORS_MAX = 8
"""More than before: what happens to be under way when they are counted."""


@attrs.frozen
class Sample:
    """The master behind a round."""

    at_seconds: float
    rss_bytes: int
    descriptors: int
    round_seconds: float


@attrs.define(eq=False)
class Soak:
    """One run on a place whose nodes have not been started."""

    place: Place
    seconds: float
    messages: int
    """Of each round."""
    seed: int
    say: Callable[[str], None]
    verifier: Verifier = attrs.Factory(Verifier)
    samples: list[Sample] = attrs.Factory(list)
    delivered: int = 0
    """Messages that the group was given; where members come and go, some of them twice."""
    _given: set[tuple[Name, int]] = attrs.Factory(set)
    """Where each of them begins."""
    committed: int = 0
    """Transactions."""
    slave_kills: int = 0
    _random: Random = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._random = Random(self.seed)

    async def run(self) -> None:
        """Raises BrokenPromiseError and NodeError."""
        place = self.place
        await trio.to_thread.run_sync(place.master.start)
        await trio.to_thread.run_sync(place.slave.start)
        began = time.monotonic()
        async with open_session(self._servers) as session, trio.open_nursery() as nursery:
            nursery.start_soon(self._consume, session)
            while time.monotonic() < began + self.seconds:
                await self._round(time.monotonic() - began)
            await until(self._is_delivered, _WAIT_SECONDS_MAX, "the group has been given all of it")
            nursery.cancel_scope.cancel()
        await until(place.is_well, _WAIT_SECONDS_MAX, "all is well at the end")
        await trio.to_thread.run_sync(self._finish)

    def _is_delivered(self) -> bool:
        return len(self._given) >= self.verifier.acknowledged

    @property
    def _servers(self) -> str:
        return f"metaq://127.0.0.1:{self.place.master_port}"

    async def _round(self, at_seconds: float) -> None:
        number = len(self.samples)
        master, slave = self.place.master, self.place.slave
        began = time.monotonic()
        topic = f"round-{number}"
        await trio.to_thread.run_sync(lambda: master.ask("create-topic", topic=topic, entries={}))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._load)
            nursery.start_soon(self._join_and_leave)
            nursery.start_soon(self._transactions)
            nursery.start_soon(trio.to_thread.run_sync, self._scrape)
        await trio.to_thread.run_sync(lambda: master.ask("delete-topic", topic=topic, executes=True))
        if number % _SLAVE_ROUNDS == _SLAVE_ROUNDS - 1:
            slave.kill()
            await trio.to_thread.run_sync(slave.start)
            self.slave_kills += 1
        sample = Sample(at_seconds, master.rss_bytes, master.descriptors, time.monotonic() - began)
        self.samples.append(sample)
        if number % 10 == 0:
            self.say(
                f"round {number}, {at_seconds:.0f} s: {sample.rss_bytes / MIB:.1f} MiB, "
                f"{sample.descriptors} descriptors, {self.verifier.acknowledged:,} messages"
            )

    async def _load(self) -> None:
        load = Load(self.verifier, NAMES, self._random)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, self.place.master.port, _CONNECTIONS)
            await until(lambda: load.acknowledged >= self.messages, _WAIT_SECONDS_MAX, "acknowledged")
            load.stop()
        if load.refused:
            raise BrokenPromiseError([load.producers[0].refusals[0]])

    async def _consume(self, session: Session) -> None:
        async with session.consumer("members", ["orders"]) as consumer:
            async for message in consumer:
                name = (message.topic, message.partition.number)
                record = encode_record(message.payload, message.message_id)
                self.verifier.was_delivered(name, message.offset, record)
                self.delivered += 1
                self._given.add((name, message.offset))

    async def _join_and_leave(self) -> None:
        async with open_session(self._servers) as session:
            with trio.move_on_after(_JOIN_SECONDS):
                await self._consume(session)

    async def _transactions(self) -> None:
        """One that is committed, one that is rolled back, and one whose client vanishes."""
        async with open_session(self._servers) as session, session.producer() as producer:
            async with producer.transaction() as transaction:
                await transaction.send("paired", b"committed")
            self.committed += 1
            async with producer.transaction() as transaction:
                await transaction.send("paired", b"rolled back")
                await transaction.roll_back()
            with trio.CancelScope() as scope:
                async with producer.transaction() as transaction:
                    await transaction.send("paired", b"vanished")
                    scope.cancel()

    def _scrape(self) -> None:
        port = self.place.master.ask("status")["http_port"]
        for path in ("metrics", "healthz", "api/v1/topics"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as reply:
                reply.read()

    def _finish(self) -> None:
        place = self.place
        must_find_nothing("compare", f"127.0.0.1:{place.master_port}", f"127.0.0.1:{place.slave_port}")
        place.slave.stop()
        place.master.stop()
        self.verifier.check(place.master_data)
        violations = self.growth()
        for node in (place.master, place.slave):
            if "Traceback" in node.output.read_text(encoding="utf-8"):
                violations.append(f"{node.output.name}: {node.log_tail()}")
        if violations:
            raise BrokenPromiseError(violations)

    def quarters(self) -> tuple[list[Sample], list[Sample]]:
        """The second and the last; in the first, caches fill."""
        count = len(self.samples) // 4
        return self.samples[count : 2 * count], self.samples[-count:]

    def growth(self) -> list[str]:
        """What has grown that must not."""
        before, after = self.quarters()
        if not before:
            return ["too few rounds to tell what grows"]
        hours = (_median(after, "at_seconds") - _median(before, "at_seconds")) / 3600
        grown = _median(after, "rss_bytes") - _median(before, "rss_bytes")
        more = _median(after, "descriptors") - _median(before, "descriptors")
        found = []
        if grown > _GROWTH_BYTES_MAX + hours * _GROWTH_BYTES_PER_HOUR_MAX:
            found.append(f"{grown / MIB:.1f} MiB more memory than {hours:.1f} hours ago")
        if more > _DESCRIPTORS_MAX:
            found.append(f"{more:.0f} more descriptors than {hours:.1f} hours ago")
        return found


def _median(samples: list[Sample], figure: str) -> float:
    return float(statistics.median(getattr(sample, figure) for sample in samples))


def run_soak(
    base: Path, minutes: float, messages: int, seed: int, say: Callable[[str], None]
) -> list[tuple[str, str]]:
    """Raises NodeError and BrokenPromiseError."""
    elsewhere = f"dataPath={base / 'place' / 'data' / 'other'}"
    topics = ("[topic=orders]\nnumPartitions=3", f"[topic=paired]\n{elsewhere}")
    place = Place(base / "place", topics, registry=_REGISTRY)
    soak = Soak(place, 60 * minutes, messages, seed, say)
    try:
        trio.run(soak.run)
    finally:
        place.end()
    before, after = soak.quarters()
    verifier = soak.verifier
    return [
        ("minutes, rounds", f"{minutes:g}, {len(soak.samples):,}"),
        ("messages acknowledged", f"{verifier.acknowledged:,}"),
        ("acknowledged and missing, moved or changed", "0"),
        ("messages given to a group", f"{soak.delivered:,}"),
        ("transactions committed", f"{soak.committed:,}"),
        ("topics made and deleted", f"{len(soak.samples):,}"),
        ("kills of the slave", str(soak.slave_kills)),
        *(
            (f"memory, {when}", f"{_median(samples, 'rss_bytes') / MIB:.1f} MiB")
            for when, samples in (("second quarter", before), ("last quarter", after))
        ),
        *(
            (f"descriptors, {when}", f"{_median(samples, 'descriptors'):.0f}")
            for when, samples in (("second quarter", before), ("last quarter", after))
        ),
        *(
            (f"a round, {when}", f"{_median(samples, 'round_seconds'):.2f} s")
            for when, samples in (("second quarter", before), ("last quarter", after))
        ),
        ("`compare` at the end", "empty"),
    ]
