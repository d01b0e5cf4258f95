"""A crash at every call that changes the disk: every transaction is there as a whole, once, or not at all."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
import pytest

from metaserver.errors import StorageError
from tests.storage.faulty_filesystem import CrashedError, Fault, FaultyFileSystem
from tests.transactions.memory_broker import MemoryBroker, Peer, make_config

if TYPE_CHECKING:
    from metaserver.config import ServerConfig
    from metaserver.storage import Point
    from tests.storage.faulty_filesystem import Kind, Survival

SURVIVALS = ("process", "nothing", "everything", "prefix", "zeros")
PARTITIONS = range(3)
CONFIGS = {
    "disk": make_config(checkpointInterval=1000),
    "memory": make_config(checkpointInterval=1000, unflushThreshold=1000),
}


@attrs.define(eq=False)
class Script:
    """Transactions over three partitions, what was asked of each, and what was answered."""

    filesystem: FaultyFileSystem
    config: ServerConfig
    asked: dict[str, str] = attrs.Factory(dict)
    """The last action of each key."""
    answered: dict[str, str] = attrs.Factory(dict)
    """The last one that was answered with success."""
    refused: set[str] = attrs.Factory(set)
    """Keys of which a put was refused: whoever sees that rolls back."""
    plain: list[bytes] = attrs.Factory(list)
    """Acknowledged, without a transaction."""

    async def run(self) -> None:
        one = MemoryBroker(self.filesystem, self.config)
        await one.broker.transactions.load()
        peer = Peer()
        self.fill(one, peer, "TX:s:1")
        self.act(one, peer, "COMMIT_ONE_PHASE", "TX:s:1")
        self.put_plain(one, peer, b"between")
        self.fill(one, peer, "XID:1:01::q")
        self.act(one, peer, "PREPARE", "XID:1:01::q")
        self.fill(one, peer, "XID:1:02::q")
        self.act(one, peer, "PREPARE", "XID:1:02::q")
        self.put_plain(one, peer, b"while prepared")
        self.act(one, peer, "COMMIT_TWO_PHASE", "XID:1:01::q")
        self.act(one, peer, "ROLLBACK", "XID:1:02::q")
        self.pass_time(one)
        self.fill(one, peer, "XID:1:03::q")
        self.act(one, peer, "PREPARE", "XID:1:03::q")
        self.fill(one, peer, "TX:s:4")
        for _ in range(4):
            self.pass_time(one)
        self.act(one, peer, "COMMIT_TWO_PHASE", "TX:s:4")
        self.fill(one, peer, "XID:1:05::q")
        self.act(one, peer, "COMMIT_ONE_PHASE", "XID:1:05::q")
        self.pass_time(one)
        one.store.close()

    def pass_time(self, one: MemoryBroker) -> None:
        """Applied commits are marked, and the journal is compacted."""
        self.filesystem.clock.advance(1.0)
        one.machine.pass_time()

    def fill(self, one: MemoryBroker, peer: Peer, key: str) -> None:
        self.asked[key] = "BEGIN"
        one.do(peer, "BEGIN", key)
        for partition in PARTITIONS:
            for number in range(2):
                answer = one.put(peer, f"{key} {partition} {number}".encode() * 5, partition, key)
                if answer is None or answer[0] != 200:
                    self.refused.add(key)

    def act(self, one: MemoryBroker, peer: Peer, action: str, key: str) -> None:
        if key in self.refused:
            action = "ROLLBACK"
        self.asked[key] = action
        answer = one.do(peer, action, key)
        if answer is not None and answer[0] == 200:
            self.answered[key] = action

    def put_plain(self, one: MemoryBroker, peer: Peer, body: bytes) -> None:
        answer = one.put(peer, body, 1)
        if answer is not None and answer[0] == 200:
            self.plain.append(body)


def parts_of(one: MemoryBroker, key: str) -> list[int]:
    """How many messages of a transaction each partition has; none of them twice."""
    counts = []
    for partition in PARTITIONS:
        found = [body for body in one.bodies(partition) if body.startswith(f"{key} ".encode())]
        assert len(found) == len(set(found)), f"twice: {found}"
        counts.append(len(found))
    return counts


def check(script: Script, one: MemoryBroker, *, is_synced: bool) -> None:
    for key, asked in script.asked.items():
        counts, answered = parts_of(one, key), script.answered.get(key, "")
        assert counts in ([0, 0, 0], [2, 2, 2]), f"{key} is there in part: {counts}"
        is_there, is_prepared = counts == [2, 2, 2], key in one.prepared
        assert not (is_there and is_prepared), f"{key} can be committed twice"
        if answered.startswith("COMMIT"):
            assert is_there, f"{key} was answered, and is gone"
        elif answered == "ROLLBACK" or asked in ("BEGIN", "ROLLBACK"):
            assert not is_there, key
            assert asked != "BEGIN" or not is_prepared, key
        elif answered == "PREPARE" and asked == "PREPARE":
            assert is_prepared, f"{key} was prepared, and is gone"
        elif asked == "PREPARE":
            assert not is_there, key
        if answered == "ROLLBACK":
            assert not is_prepared, key
    if is_synced:
        assert set(script.plain) <= set(one.bodies(1))


def restart(filesystem: FaultyFileSystem, survival: str) -> None:
    if survival == "process":
        filesystem.restart()
        return
    kept: Survival = survival  # type: ignore[assignment]
    filesystem.cut_power(kept, lambda below: below // 2)


async def check_after_restart(script: Script, survival: str, *, is_synced: bool) -> None:
    one = MemoryBroker(script.filesystem, script.config)
    assert not one.store.failed
    await one.broker.transactions.load()
    assert one.broker.transactions.problem == ""
    check(script, one, is_synced=is_synced)
    # Once more, in the middle of nothing: what was found is found again.
    before = {key: parts_of(one, key) for key in script.asked}, one.prepared
    restart(script.filesystem, survival)
    one = MemoryBroker(script.filesystem, script.config)
    await one.broker.transactions.load()
    assert ({key: parts_of(one, key) for key in script.asked}, one.prepared) == before
    # What is prepared can be committed, and is there then as a whole.
    for key in one.prepared:
        one.put(Peer(), b"x" * 50, 0)
        assert one.do(Peer(), "COMMIT_TWO_PHASE", key) == (200, "")
        assert parts_of(one, key) == [2, 2, 2]
    for _ in range(5):
        one.machine.pass_time()
    assert not one.broker.transactions.commits.unapplied
    one.store.close()
    one = MemoryBroker(script.filesystem, script.config)
    await one.broker.transactions.load()
    assert one.prepared == []
    for key, counts in before[0].items():
        assert parts_of(one, key) == ([2, 2, 2] if key in before[1] else counts)
    one.store.close()


async def test_without_a_crash() -> None:
    script = Script(FaultyFileSystem(), CONFIGS["disk"])
    await script.run()
    assert script.answered == {
        "TX:s:1": "COMMIT_ONE_PHASE",
        "XID:1:01::q": "COMMIT_TWO_PHASE",
        "XID:1:02::q": "ROLLBACK",
        "XID:1:03::q": "PREPARE",
        "TX:s:4": "COMMIT_TWO_PHASE",
        "XID:1:05::q": "COMMIT_ONE_PHASE",
    }
    assert script.plain == [b"between", b"while prepared"]
    one = MemoryBroker(script.filesystem, script.config)
    assert one.journal_start > 0, "what was over has been dropped"
    await one.broker.transactions.load()
    check(script, one, is_synced=True)
    assert one.prepared == ["XID:1:03::q"]


async def calls_of(config: ServerConfig) -> Counter[Point]:
    filesystem = FaultyFileSystem()
    await Script(filesystem, config).run()
    return Counter(filesystem.calls)


@pytest.mark.parametrize("mode", CONFIGS)
@pytest.mark.parametrize("kind", ["crash before", "crash after", "EIO", "ENOSPC"])
async def test_fault_at_every_call(mode: str, kind: Kind) -> None:
    config = CONFIGS[mode]
    for point, count in (await calls_of(config)).items():
        for occurrence in range(count):
            for survival in SURVIVALS if kind.startswith("crash") else ("process", "nothing"):
                fault = Fault(point, occurrence, kind)
                script = Script(FaultyFileSystem(fault=fault), config)
                try:
                    with suppress(CrashedError, StorageError):
                        await script.run()
                    restart(script.filesystem, survival)
                    # What the topic itself promises without a sync is another matter.
                    await check_after_restart(script, survival, is_synced=mode == "disk")
                except BaseException as error:
                    error.add_note(f"{fault}, restart after: {survival}")
                    raise
