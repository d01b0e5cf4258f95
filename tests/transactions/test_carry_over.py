"""A folder of a Java broker is taken over as a whole, once, whatever goes wrong; or nothing of it is."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from metaserver.broker import java_transactions
from metaserver.broker.java_transactions import carry_over
from metaserver.errors import StorageError
from metaserver.storage import Point
from tests.storage.faulty_filesystem import CrashedError, Fault, FaultyFileSystem
from tests.transactions.java_redo import (
    LOCAL_COMMIT,
    PREPARE,
    XA_COMMIT,
    JavaPut,
    field,
    framed,
    operation,
    places,
    put,
)
from tests.transactions.memory_broker import DATA, TOPIC, MemoryBroker, Peer, make_config
from tests.transactions.test_crash_points import SURVIVALS, restart

if TYPE_CHECKING:
    from metaserver.config import ServerConfig
    from tests.storage.faulty_filesystem import Kind

FOLDER = DATA / "transactions"
CARRIED = DATA / "transactions.carried"
TESTDATA = Path(__file__).resolve().parents[1] / "testdata" / "java-transactions"
ONE, TWO, LOCAL = "XID:1:01::q", "XID:1:02::q", "TX:s:1"
PARTITIONS = range(3)


def messages(key: str, first_id: int) -> list[JavaPut]:
    """Two for each partition."""
    return [
        JavaPut(TOPIC, number % 3, f"{key} {number}".encode() * 9, first_id + number) for number in range(6)
    ]


def puts(key: str, written: list[JavaPut]) -> bytes:
    return b"".join(put(key, message) for message in written)


def records(written: list[JavaPut], partition: int) -> bytes:
    return b"".join(message.record for message in written if message.partition == partition)


def damaged(written: bytes) -> bytes:
    """A changed bit in the first body."""
    at = written.index(b"\r\n") + 2
    return written[:at] + bytes([written[at] ^ 1]) + written[at + 1 :]


@attrs.define(eq=False)
class JavaData:
    """A data directory as a Java broker leaves it; of each partition the log, and the redo file."""

    logs: dict[int, bytes] = attrs.Factory(lambda: dict.fromkeys(PARTITIONS, b""))
    redo: bytes = b""

    def prepare(self, key: str, written: list[JavaPut]) -> None:
        self.redo += puts(key, written) + operation(PREPARE, key)

    def commit(self, key: str, written: list[JavaPut], *, is_local: bool = False) -> None:
        offsets = {f"{TOPIC}-{partition}": len(log) for partition, log in self.logs.items()}
        for partition in PARTITIONS:
            self.logs[partition] += records(written, partition)
        kind = LOCAL_COMMIT if is_local else XA_COMMIT
        self.redo += puts(key, written) + operation(kind, key, places(written, offsets))

    def put(self, partition: int, body: bytes, message_id: int) -> None:
        self.logs[partition] += JavaPut(TOPIC, partition, body, message_id).record

    def write(self, filesystem: FaultyFileSystem, **files: bytes) -> None:
        for partition, log in self.logs.items():
            filesystem.write_bytes(DATA / f"{TOPIC}-{partition}" / f"{0:020d}.meta", log)
        for name, data in {"redo.1": self.redo, "heuristic.log": b"", "checkpoint.1": b"", **files}.items():
            filesystem.write_bytes(FOLDER / name, data)


def filled() -> JavaData:
    data = JavaData()
    data.put(0, b"first", -90)
    data.commit("XID:1:00::q", messages("XID:1:00::q", -80))
    data.commit(LOCAL, messages(LOCAL, -70), is_local=True)
    data.prepare(ONE, messages(ONE, -60))
    data.put(1, b"between", -50)
    data.prepare(TWO, messages(TWO, -40))
    return data


async def started(filesystem: FaultyFileSystem, config: ServerConfig | None = None) -> MemoryBroker:
    one = MemoryBroker(filesystem, config or make_config())
    await carry_over(one.broker, filesystem)
    await one.broker.transactions.load()
    assert one.broker.transactions.problem == ""
    return one


def counts(one: MemoryBroker, key: str) -> list[int]:
    found = [[body for body in one.bodies(p) if body.startswith(f"{key} ".encode())] for p in PARTITIONS]
    assert all(len(bodies) == len(set(bodies)) for bodies in found)
    return [len(bodies) for bodies in found]


async def test_prepared_ones_wait_for_their_manager() -> None:
    filesystem = FaultyFileSystem()
    filled().write(filesystem)
    one = await started(filesystem)
    assert one.prepared == [ONE, TWO]
    assert not filesystem.is_directory(FOLDER)
    assert filesystem.read_bytes(CARRIED / "redo.1")
    # What is put meanwhile comes first, as everywhere.
    assert one.put(Peer(), b"after", 2) is not None
    assert one.do(Peer(), "COMMIT_TWO_PHASE", ONE) == (200, "")
    assert one.do(Peer(), "ROLLBACK", TWO) == (200, "")
    assert (counts(one, ONE), counts(one, TWO)) == ([2, 2, 2], [0, 0, 0])
    assert one.bodies(2)[-3:] == [b"after", *(m.body for m in messages(ONE, 0) if m.partition == 2)]
    one.store.close()
    again = await started(filesystem)
    assert again.prepared == []
    assert counts(again, ONE) == [2, 2, 2]


async def test_what_is_committed_stays_as_it_is() -> None:
    filesystem = FaultyFileSystem()
    data = filled()
    data.write(filesystem)
    one = await started(filesystem)
    for partition in PARTITIONS:
        log = one.store.partitions[one.broker.partitions[TOPIC, partition].name]
        assert log.end_offset == len(data.logs[partition])
    assert not one.broker.transactions.commits.unapplied


@pytest.mark.parametrize("lost_bytes", [1, 60, 150, 10_000])
async def test_what_a_power_cut_took_of_a_commit_is_appended_once(lost_bytes: int) -> None:
    filesystem = FaultyFileSystem()
    data = filled()
    for partition in (0, 2):
        data.logs[partition] = data.logs[partition][:-lost_bytes]
    data.write(filesystem)
    one = await started(filesystem)
    assert counts(one, "XID:1:00::q") == counts(one, LOCAL) == [2, 2, 2]
    one.put(Peer(), b"after", 0)
    one.store.close()
    again = await started(filesystem)
    assert counts(again, "XID:1:00::q") == counts(again, LOCAL) == [2, 2, 2]
    assert again.prepared == [ONE, TWO]


async def test_what_retention_has_removed_was_there() -> None:
    filesystem = FaultyFileSystem()
    data = filled()
    data.write(filesystem)
    start = len(data.logs[0])
    folder = DATA / f"{TOPIC}-0"
    filesystem.delete(folder / f"{0:020d}.meta")
    filesystem.write_bytes(folder / f"{start:020d}.meta", JavaPut(TOPIC, 0, b"later", -1).record)
    one = await started(filesystem)
    assert one.bodies(0) == [b"later"]
    assert counts(one, LOCAL) == [0, 2, 2]


async def test_a_topic_that_is_gone_gets_nothing_back() -> None:
    filesystem = FaultyFileSystem()
    data = filled()
    gone = JavaPut("gone", 0, b"x", -30)
    data.redo += put(LOCAL, gone) + operation(LOCAL_COMMIT, LOCAL, places([gone], {"gone-0": 0}))
    data.prepare("XID:1:09::q", [JavaPut("gone", 0, b"y", -20)])
    data.write(filesystem)
    one = await started(filesystem)
    assert ("gone", 0) not in one.broker.partitions
    assert not one.broker.transactions.commits.unapplied
    assert one.prepared == [ONE, TWO, "XID:1:09::q"]
    answer = one.do(Peer(), "COMMIT_TWO_PHASE", "XID:1:09::q")
    assert answer is not None
    assert (answer[0], "not configured" in answer[1]) == (500, True)
    assert one.do(Peer(), "ROLLBACK", "XID:1:09::q") == (200, "")


async def test_the_own_prepared_ones_stay() -> None:
    filesystem = FaultyFileSystem()
    one = await started(filesystem)
    one.do(Peer(), "BEGIN", "XID:2:01::own")
    one.put(Peer(), b"own", 0, "XID:2:01::own")
    assert one.do(Peer(), "PREPARE", "XID:2:01::own") == (200, "0")
    one.store.close()
    data = JavaData()
    data.prepare(ONE, messages(ONE, -60))
    filesystem.write_bytes(FOLDER / "redo.1", data.redo)
    one = await started(filesystem)
    assert one.prepared == ["XID:2:01::own", ONE]


async def test_decisions_of_operators_are_remembered() -> None:
    filesystem = FaultyFileSystem()
    filled().write(filesystem, **{"heuristic.log": (TESTDATA / "heuristic.log").read_bytes()})
    one = await started(filesystem)
    committed, rolled_back = "XID:7:00:00ff:books", "XID:7:00:01ff:books"
    assert one.prepared == [ONE, TWO, committed, rolled_back]
    answer = one.do(Peer(), "COMMIT_TWO_PHASE", committed)
    assert answer is not None
    assert "code=7," in answer[1]
    answer = one.do(Peer(), "COMMIT_TWO_PHASE", rolled_back)
    assert answer is not None
    assert "code=6," in answer[1]
    assert one.do(Peer(), "FORGET", committed) == (200, "")
    one.store.close()
    assert (await started(filesystem)).prepared == [ONE, TWO, rolled_back]


async def test_what_is_prepared_is_newer_than_the_list_of_decisions() -> None:
    filesystem, data, key = FaultyFileSystem(), JavaData(), "XID:7:00:00ff:books"
    data.prepare(key, messages(key, -60))
    data.write(filesystem, **{"heuristic.log": (TESTDATA / "heuristic.log").read_bytes()})
    one = await started(filesystem)
    assert one.do(Peer(), "COMMIT_TWO_PHASE", key) == (200, "")
    assert counts(one, key) == [2, 2, 2]


async def test_partitions_that_are_not_there_are_made() -> None:
    filesystem, data = FaultyFileSystem(), JavaData({0: b""})
    far = [JavaPut(TOPIC, 9, b"far", -30)]
    data.redo += put(LOCAL, far[0]) + operation(LOCAL_COMMIT, LOCAL, places(far, {f"{TOPIC}-9": 0}))
    data.prepare(ONE, [JavaPut(TOPIC, 8, b"p", -20), JavaPut(TOPIC, 1, b"q", -19)])
    data.write(filesystem)
    one = await started(filesystem)
    assert one.bodies(9) == [b"far"]
    assert one.do(Peer(), "COMMIT_TWO_PHASE", ONE) == (200, "")
    assert (one.bodies(8), one.bodies(1)) == ([b"p"], [b"q"])


async def test_topics_may_have_any_characters() -> None:
    filesystem, data = FaultyFileSystem(), JavaData()
    data.prepare(ONE, [JavaPut("订单", 0, b"x", -20)])
    data.prepare(TWO, messages(TWO, -10))
    data.write(filesystem)
    one = await started(filesystem)
    assert one.prepared == [ONE, TWO]
    assert one.do(Peer(), "COMMIT_TWO_PHASE", TWO) == (200, "")


@pytest.mark.parametrize("moved_by", [90 * 30 + 20, 3 * 87 + 60])
async def test_a_log_that_is_anothers_by_now_gets_nothing_twice(moved_by: int) -> None:
    """A former master that was a slave for a while: its records may stand anywhere now."""
    filesystem, data = FaultyFileSystem(), JavaData()
    written = [JavaPut(TOPIC, 0, b"tx %d " % number + b"." * 80, -80 + number) for number in range(2)]
    data.put(0, b"only here".ljust(moved_by - 20, b"."), -90)
    data.commit("XID:1:00::q", written)
    data.logs[0] = data.logs[0][moved_by:]
    for number in range(90):
        data.put(0, b"later %d" % (number % 9) + b"." * 78, -50 + number)
    data.write(filesystem)
    one = await started(filesystem)
    assert sum(body.startswith(b"tx") for body in one.bodies(0)) == 2


async def test_only_what_lies_behind_the_checkpoint_is_read() -> None:
    old, new = JavaData(), JavaData()
    old.prepare(ONE, messages(ONE, -60))
    new.prepare(TWO, messages(TWO, -40))
    checkpoint = {"number": 1, "offset": len(old.redo)}
    for files, expected in (
        ({"checkpoint.2": json.dumps(checkpoint).encode()}, [TWO]),
        ({"checkpoint.2": json.dumps(checkpoint).encode(), "checkpoint.3": b""}, [TWO]),
        ({"checkpoint.2": b'{"offset":0, "number":1}'}, [ONE, TWO]),
        # The Java broker counts anew when it has removed its last file, and its checkpoint stays.
        ({"checkpoint.2": b'{"number":7,"offset":90}'}, [ONE, TWO]),
        ({"checkpoint.2": b'{"number":1,"offset":60000000}'}, [ONE, TWO]),
        ({"checkpoint.2": b'{"number":1,"offset":100}'}, [ONE, TWO]),
    ):
        filesystem = FaultyFileSystem()
        JavaData(redo=old.redo + new.redo).write(filesystem, **files)
        assert (await started(filesystem)).prepared == expected
    filesystem = FaultyFileSystem()
    both = {"redo.2": old.redo, "redo.10": new.redo, "checkpoint.1": b'{"number":10,"offset":0}'}
    JavaData(redo=b"\xff" * 99).write(filesystem, **both)
    assert (await started(filesystem)).prepared == [TWO]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("redo.1", b"\0\0\0\5\0\0\0\0\0" + operation(PREPARE, ONE), "may be decisions"),
        (
            "redo.1",
            damaged(puts(ONE, messages(ONE, -60))) + operation(PREPARE, ONE),
            "not match its checksum",
        ),
        ("heuristic.log", b"\xac\xed\0\5\x70", "operators have decided cannot be read"),
        (
            "redo.2",
            puts(f"XID:1:01::{'q' * 600}", messages(ONE, -60)) + operation(PREPARE, f"XID:1:01::{'q' * 600}"),
            "longer than 512 bytes",
        ),
    ],
)
async def test_what_cannot_be_read_is_left_untouched(name: str, data: bytes, reason: str) -> None:
    filesystem = FaultyFileSystem()
    filled().write(filesystem, **{name: data})
    one = MemoryBroker(filesystem, make_config())
    with pytest.raises(StorageError, match=reason):
        await carry_over(one.broker, filesystem)
    assert filesystem.is_directory(FOLDER)
    await one.broker.transactions.load()
    assert one.prepared == []


async def test_a_file_that_is_too_long_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem, data = FaultyFileSystem(), filled()
    data.write(filesystem)
    monkeypatch.setattr(java_transactions, "_FILE_BYTES_MAX", len(data.redo) - 1)
    one = MemoryBroker(filesystem, make_config())
    with pytest.raises(StorageError, match="is longer than"):
        await carry_over(one.broker, filesystem)
    assert filesystem.is_directory(FOLDER)


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(
            put(TWO, JavaPut(TOPIC, 0, framed(field(1, 1), field(2, field(1, 5))) * 3 + b"z" * 200, -40))[
                :-100
            ],
            id="a torn message that holds what looks like records",
        ),
        pytest.param(
            bytes(150) + puts(TWO, messages(TWO, -40))[150:],
            id="a page that a power cut has kept, and messages nobody was promised",
        ),
        pytest.param(damaged(puts(TWO, messages(TWO, -40))), id="a changed message nobody was promised"),
    ],
)
async def test_what_is_torn_promises_nothing(tail: bytes) -> None:
    filesystem, data = FaultyFileSystem(), JavaData()
    data.prepare(ONE, messages(ONE, -60))
    data.redo += tail
    data.write(filesystem)
    assert (await started(filesystem)).prepared == [ONE]


async def test_where_no_java_broker_was_nothing_happens() -> None:
    filesystem = FaultyFileSystem()
    one = await started(filesystem)
    assert one.broker.transactions.journal.partition is None
    filesystem.write_bytes(FOLDER / "notes.txt", b"an operator's own")
    await carry_over(one.broker, filesystem)
    assert filesystem.is_directory(FOLDER)


async def test_the_folders_of_several_returns_lie_beside_each_other() -> None:
    filesystem = FaultyFileSystem()
    for number in range(3):
        JavaData(redo=b"%d" % number).write(filesystem)
        (await started(filesystem)).store.close()
    names = sorted(name for name in filesystem.list_directory(DATA) if name.startswith("transactions"))
    assert names == ["transactions.carried", "transactions.carried.1", "transactions.carried.2"]


@pytest.mark.parametrize("kind", ["crash before", "crash after", "EIO", "ENOSPC"])
async def test_fault_at_every_call(kind: Kind) -> None:
    """Also with a commit that lacks records, and journal entries of two segments."""
    data = filled()
    data.logs[1] = data.logs[1][:-150]
    # What a log has without a checkpoint of ours is not known to be durable: recovery makes it so.
    config = make_config(flushTxLogAtCommit=0)
    whole = FaultyFileSystem()
    data.write(whole)
    await started(whole, config)
    first = whole.calls.index(Point.CARRY_OVER_OPEN)
    for point in dict.fromkeys(whole.calls[first:]):
        for occurrence in range(whole.calls[:first].count(point), whole.calls.count(point)):
            for survival in SURVIVALS if kind.startswith("crash") else ("process", "nothing"):
                fault = Fault(point, occurrence, kind)
                filesystem = FaultyFileSystem(fault=fault)
                data.write(filesystem)
                try:
                    with suppress(CrashedError, StorageError, AssertionError):
                        await started(filesystem, config)
                    restart(filesystem, survival)
                    filesystem.fault = None
                    one = await started(filesystem, config)
                    assert sorted(one.prepared) == [ONE, TWO]
                    assert counts(one, "XID:1:00::q") == counts(one, LOCAL) == [2, 2, 2]
                    for key in (ONE, TWO):
                        assert one.do(Peer(), "COMMIT_TWO_PHASE", key) == (200, "")
                        assert counts(one, key) == [2, 2, 2]
                except BaseException as error:
                    error.add_note(f"{fault}, restart after: {survival}")
                    raise
