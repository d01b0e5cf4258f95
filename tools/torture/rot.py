"""Bytes that a disk changed, in every kind of file that a master and its slave keep, running or not. Row D4.

A pair is made once that has one of everything: sealed segments, several epochs, transactions, a registry with
groups, a role that was decided. Each try damages one file of a copy of it, of either node. Nothing wrong may
ever be read; and in the end all is whole again, with nobody's help, or somebody says what is damaged.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import attrs
import trio

from metaserver.client import open_session
from metaserver.errors import ControlError, DiscoveryError
from metaserver.message import iterate_records
from tools.torture import logfiles
from tools.torture.nodes import NodeError, wait_until
from tools.torture.pair import pair_at
from tools.torture.verifier import BrokenPromiseError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tools.torture.logfiles import Name
    from tools.torture.pair import Member, Pair

TOPICS = ("[topic=orders]\nnumPartitions=2", "[topic=paired]")
SETTINGS = {
    "maxSegmentSize": 4096,
    "maxTransferSize": 1024 * 1024,
    "scrubBytesPerSecond": 1_000_000_000,
    "scrubIntervalInMills": 100,
}
FileKind = Literal["sealed segment", "last segment", "journal", "registry", "checkpoint", "epochs", "role"]
_FILES: dict[FileKind, str] = {
    "sealed segment": "orders-*/*.meta",
    "last segment": "orders-*/*.meta",
    "journal": "__transactions-0/*.meta",
    "registry": "__registry-0/*.meta",
    "checkpoint": "*/recovery.checkpoint",
    "epochs": "*/epochs",
    "role": "role.json",
}
Harm = Literal["a bit", "a sector of zeros", "cut short"]
_SECTOR_BYTES = 512
Place: TypeAlias = "tuple[Name, int]"
"""Where a message begins."""
_MESSAGES = 200
_WAIT_SECONDS_MAX = 30.0
_READ_SECONDS_MAX = 6.0
_HEAL_SECONDS_MAX = 15.0
_LOOK_SECONDS = 0.2


@attrs.define(eq=False)
class Rotting:
    """One run; :meth:`make` once, then :meth:`attempt` as often as wanted."""

    pair: Pair
    random: Random
    outcomes: Counter[tuple[FileKind, str]] = attrs.Factory(Counter)
    _messages: dict[Place, bytes] = attrs.Factory(dict)
    """What is there to be read."""
    _groups: int = 0

    @property
    def _master(self) -> Member:
        return self.pair.two

    @property
    def _slave(self) -> Member:
        return self.pair.one

    def make(self) -> None:
        """The pair all others are copies of: the slave of old is master, the master of old follows it."""
        pair = self.pair
        pair.one.start()
        pair.two.start()
        trio.run(self._fill, _MESSAGES)
        # A slave is well too that has not heard of a new partition yet.
        wait_until(lambda: _logs(pair.one) == _logs(pair.two), _WAIT_SECONDS_MAX, "the slave has all of it")
        pair.one.kill()
        pair.run("promote", *pair.two.local_words)
        trio.run(self._fill, _MESSAGES // 10)
        pair.run("follow", pair.two.address, *pair.one.words)
        wait_until(self._is_equal, _WAIT_SECONDS_MAX, "the old master has all of it")
        self._stop()
        for name, directory in logfiles.partitions(self._master.data).items():
            for segment in logfiles.segments(directory):
                for record in iterate_records(segment.path.read_bytes()):
                    self._messages[name, segment.start_offset + record.position] = bytes(record.payload)
        for folder in ("data", "conf"):
            shutil.copytree(pair.base / folder, pair.base / "good" / folder)

    async def _fill(self, count: int) -> None:
        async with open_session(self.pair.servers) as session, session.producer() as producer:
            for number in range(count):
                await producer.send("orders", b"message %d" % number + b"." * 150)
            for number in range(3):
                async with producer.transaction() as transaction:
                    await transaction.send("orders", b"in a transaction %d" % number)
                    await transaction.send("paired", b"in a transaction %d" % number)
            async with session.consumer("members", ["orders"]) as consumer:
                with trio.move_on_after(_READ_SECONDS_MAX):
                    for _ in range(count):
                        await anext(aiter(consumer))

    def attempt(self) -> str:
        """Damage something, and see what becomes of it; what was seen. Raises BrokenPromiseError."""
        for folder in ("data", "conf"):
            shutil.rmtree(self.pair.base / folder)
            shutil.copytree(self.pair.base / "good" / folder, self.pair.base / folder)
        kind = self.random.choice(get_args(FileKind))
        member = self.random.choice((self._master, self._slave))
        path = self._choose(kind, member)
        is_running = self.random.random() < 0.4
        what = f"{path.relative_to(self.pair.base)}, {'while it runs' if is_running else 'at rest'}"
        try:
            outcome = self._judge(path, is_running=is_running)
        except (BrokenPromiseError, NodeError) as error:
            raise BrokenPromiseError([f"{what}: {error}"]) from error
        finally:
            self.pair.end()
        self.outcomes[kind, outcome] += 1
        return f"{what}: {outcome}"

    def _choose(self, kind: FileKind, member: Member) -> Path:
        files = [path for path in sorted(member.data.glob(_FILES[kind])) if path.stat().st_size]
        last = {max(path for path in files if path.parent == parent) for parent in {p.parent for p in files}}
        if kind == "sealed segment":
            files = [path for path in files if path not in last]
        elif kind == "last segment":
            files = sorted(last)
        return self.random.choice(files)

    def _judge(self, path: Path, *, is_running: bool) -> str:
        if is_running:
            self._master.start()
            self._slave.start()
            wait_until(self._slave.is_well, _WAIT_SECONDS_MAX, "all is well before it")
        harm(path, self.random.choice(get_args(Harm)), self.random)
        if is_running:
            self._read()
            # What is only read by a start.
            self._stop()
        refusal = self._start()
        if refusal:
            if str(path) not in refusal and str(path.parent) not in refusal:
                raise BrokenPromiseError([f"a start does not say what is damaged: {refusal}"])
            return "a start refuses, and names the file"
        self._read()
        deadline = time.monotonic() + _HEAL_SECONDS_MAX
        while time.monotonic() < deadline:
            if self._is_equal() and not self._problems():
                lacking = self._messages.keys() - self._read().keys()
                if lacking:
                    raise BrokenPromiseError([f"nobody says so, and not all can be read: {sorted(lacking)}"])
                return "all is well"
            time.sleep(_LOOK_SECONDS)
        told = self._problems()
        if not any(path.parent.name in problem or path.name in problem for problem in told):
            raise BrokenPromiseError([f"it is not whole again, and nobody says so: {told}"])
        return "it is told"

    def _start(self) -> str:
        """Both; what one of them says that does not start."""
        for member in (self._master, self._slave):
            code, out, err = self.pair.run_any("start", *member.words)
            if code != 0:
                return out + err
        return ""

    def _stop(self) -> None:
        for member in (self._slave, self._master):
            self.pair.run("stop", *member.words)

    def _problems(self) -> list[str]:
        return [str(problem) for one in self.pair.members for problem in one.status()["problems"]]

    def _is_equal(self) -> bool:
        """Whether the slave has its master's files; but the log of the registry, which always grows."""
        with suppress(ControlError, FileNotFoundError):
            return self._slave.is_well() and _logs(self._master) == _logs(self._slave)
        return False

    def _read(self) -> dict[Place, bytes]:
        """What a new group is given. Raises BrokenPromiseError where it is not what was sent."""
        self._groups += 1
        found = trio.run(self._consume, f"group-{self._groups}")
        wrong = [place for place, payload in found.items() if self._messages.get(place) != payload]
        if wrong:
            raise BrokenPromiseError([f"a consumer was given what nobody sent: {sorted(wrong)}"])
        return found

    async def _consume(self, group: str) -> dict[Place, bytes]:
        found: dict[Place, bytes] = {}
        with trio.move_on_after(_READ_SECONDS_MAX), suppress(DiscoveryError):
            async with (
                open_session(f"metaq://{self._master.address}") as session,
                session.consumer(group, ["orders", "paired"]) as consumer,
            ):
                async for message in consumer:
                    name = message.topic, message.partition.number
                    found[name, message.offset] = bytes(message.payload)
                    if len(found) == len(self._messages):
                        break
        return found


def harm(path: Path, kind: Harm, random: Random) -> None:
    """Change a file in place, as a disk does; of a record only what its checksum covers."""
    data = bytearray(path.read_bytes())
    match kind:
        case "a bit":
            at = random.randrange(len(data))
            if path.suffix == ".meta":
                record = random.choice(list(iterate_records(bytes(data))))
                covered = [at for at in range(record.size) if at not in logfiles.UNCOVERED]
                at = record.position + random.choice(covered)
            data[at] ^= 1 << random.randrange(8)
        case "a sector of zeros":
            start = random.randrange(0, len(data), _SECTOR_BYTES)
            end = min(start + _SECTOR_BYTES, len(data))
            data[start:end] = bytes(end - start)
        case "cut short":
            del data[random.randrange(len(data)) :]
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def _logs(member: Member) -> dict[str, bytes]:
    found = logfiles.contents(member.data)
    return {name: data for name, data in found.items() if not name.startswith("__registry")}


def run_rot(base: Path, count: int, seed: int, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """Damage so many files, one after the other. Raises NodeError and BrokenPromiseError."""
    with pair_at(base / "pair", TOPICS, settings=SETTINGS) as pair:
        rotting = Rotting(pair, Random(seed))
        rotting.make()
        for number in range(1, count + 1):
            say(f"{number} of {count}: {rotting.attempt()}")
    return [
        ("seed", str(seed)),
        ("damaged files", str(count)),
        *((f"{kind}: {outcome}", str(found)) for (kind, outcome), found in sorted(rotting.outcomes.items())),
    ]
