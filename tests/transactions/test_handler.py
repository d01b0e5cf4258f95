"""Time-outs, lost connections, limits, operators: a broker in memory, told what happens."""

from __future__ import annotations

import pytest

from metaserver.broker import PairMaster
from metaserver.errors import TransactionError
from metaserver.names import TRANSACTIONS_LOG
from metaserver.storage import Point
from tests.storage.faulty_filesystem import Fault, FaultyFileSystem
from tests.transactions.memory_broker import DATA, MemoryBroker, Peer, make_config

LOCAL, XA = "TX:s:1", "XID:1:01::q"
UNKNOWN = (500, f"Local transaction '{LOCAL}' has not been started.")
UNKNOWN_XA = (500, f"XAException:code=-4,msg=XA transaction '{XA}' has not been started.")
OK = (200, "")


async def started(filesystem: FaultyFileSystem | None = None, **settings: object) -> MemoryBroker:
    one = MemoryBroker(filesystem or FaultyFileSystem(), make_config(**settings))
    await one.broker.transactions.load()
    return one


async def restarted(one: MemoryBroker) -> MemoryBroker:
    one.filesystem.restart()
    again = MemoryBroker(one.filesystem, one.config)
    await again.broker.transactions.load()
    return again


def prepare(one: MemoryBroker, body: bytes = b"hello", key: str = XA) -> None:
    peer = Peer()
    assert one.do(peer, "BEGIN", key) == OK
    assert one.put(peer, body, 0, key) is not None
    assert one.do(peer, "PREPARE", key) == (200, "0")


async def test_a_broker_without_transactions_has_no_journal() -> None:
    one = await started()
    one.put(Peer(), b"hello", 0)
    one.do(Peer(), "BEGIN", LOCAL)
    assert TRANSACTIONS_LOG not in one.store.partitions


async def test_nothing_is_to_be_seen_before_the_commit() -> None:
    one = await started()
    peer = Peer()
    one.do(peer, "BEGIN", LOCAL)
    status, text = one.put(peer, b"hello", 0, LOCAL) or (0, "")
    assert (status, text.split(" ")[1:]) == (200, ["0", "-1"])
    one.put(peer, b"plain", 0)
    assert one.bodies(0) == [b"plain"]
    assert one.do(peer, "COMMIT_ONE_PHASE", LOCAL) == OK
    assert one.bodies(0) == [b"plain", b"hello"]
    assert peer.inflight_bytes == 0


async def test_a_lost_connection_rolls_back_its_local_transactions_and_no_others() -> None:
    one = await started()
    gone, other = Peer(), Peer()
    for peer in (gone, other):
        one.do(peer, "BEGIN", LOCAL)
        one.put(peer, b"hello", 0, LOCAL)
    one.do(gone, "BEGIN", XA)
    one.put(gone, b"xa", 1, XA)
    one.broker.disconnected(gone)
    assert one.do(gone, "COMMIT_ONE_PHASE", LOCAL) == UNKNOWN
    assert one.do(other, "COMMIT_ONE_PHASE", XA) == OK
    assert one.do(other, "COMMIT_ONE_PHASE", LOCAL) == OK
    assert (one.bodies(0), one.bodies(1)) == ([b"hello"], [b"xa"])
    assert one.broker.transactions.table.open_count == 0
    assert one.broker.transactions.table.size_bytes == 0


async def test_a_local_transaction_is_of_one_connection() -> None:
    one = await started()
    one.do(Peer(), "BEGIN", LOCAL)
    assert one.do(Peer(), "COMMIT_ONE_PHASE", LOCAL) == UNKNOWN


async def test_a_timeout_rolls_back_what_is_open_and_nothing_prepared() -> None:
    one = await started()
    peer = Peer()
    one.do(peer, "BEGIN", LOCAL, "30 ")
    one.do(peer, "BEGIN", XA, "3000 ")
    one.put(peer, b"hello", 0, XA)
    assert sorted(seconds for seconds, _ in one.machine.due) == [30, 60], "no more than maxTxTimeoutInSeconds"
    one.do(peer, "PREPARE", XA)
    one.machine.pass_time()
    assert one.do(peer, "COMMIT_ONE_PHASE", LOCAL) == UNKNOWN
    assert one.do(peer, "COMMIT_TWO_PHASE", XA) == OK
    assert one.broker.transactions.timeout_count == 1


async def test_a_begin_twice_is_one_transaction() -> None:
    one = await started()
    peer = Peer()
    one.do(peer, "BEGIN", XA)
    one.put(peer, b"hello", 0, XA)
    assert one.do(peer, "BEGIN", XA) == OK
    one.put(peer, b"world", 0, XA)
    assert one.do(peer, "COMMIT_ONE_PHASE", XA) == OK
    assert one.bodies(0) == [b"hello", b"world"]
    prepare(one)
    assert one.do(peer, "BEGIN", XA) == (500, "XAException:code=-6,msg=Cannot call begin now.")
    assert (one.broker.counters.tx_begin, one.broker.counters.tx_xa_begin) == (4, 4)


async def test_limits() -> None:
    one = await started(maxTxTimeoutTimerCapacity=2, maxTransactionBytes=4096)
    peer = Peer()
    assert [one.do(peer, "BEGIN", f"TX:s:{number}") for number in (1, 2)] == [OK, OK]
    assert one.do(peer, "BEGIN", "TX:s:3") == (
        500,
        "There are 2 open transactions already (maxTxTimeoutTimerCapacity)",
    )
    assert one.do(peer, "ROLLBACK", "TX:s:3") == (500, "Local transaction 'TX:s:3' has not been started.")
    assert one.put(peer, b"x" * 3000, 0, "TX:s:1") is not None
    status, text = one.put(peer, b"x" * 2000, 0, "TX:s:2") or (0, "")
    assert (status, "maxTransactionBytes" in text) == (500, True)
    one.do(peer, "ROLLBACK", "TX:s:1")
    assert (one.put(peer, b"x" * 2000, 0, "TX:s:2") or (0, ""))[0] == 200
    long_key = f"XID:1:{'ab' * 300}::q"
    assert one.do(peer, "BEGIN", long_key) == (500, "The key of a transaction may have 512 bytes")


async def test_more_than_one_entry_holds_comes_back_whole() -> None:
    one = await started(maxTransferSize=1024)
    bodies = [bytes([number]) * 900 for number in range(20)]
    peer = Peer()
    one.do(peer, "BEGIN", XA)
    for body in bodies:
        one.put(peer, body, 0, XA)
    one.do(peer, "PREPARE", XA)
    one = await restarted(one)
    assert one.do(Peer(), "COMMIT_TWO_PHASE", XA) == OK
    assert one.bodies(0) == bodies


async def test_a_journal_that_refuses_changes_nothing() -> None:
    one = await started()
    peer = Peer()
    prepare(one, b"one", "XID:1:02::q")
    one.do(peer, "BEGIN", XA)
    one.put(peer, b"hello", 0, XA)
    one.filesystem.fault = Fault(Point.APPEND_WRITE, one.filesystem.calls.count(Point.APPEND_WRITE), "ENOSPC")
    status, text = one.do(peer, "PREPARE", XA) or (0, "")
    assert (status, text.startswith("XAException:code=-7,msg=no space left")) == (500, True)
    assert one.prepared == ["XID:1:02::q"]
    one.broker.committer._disk.check()
    assert one.do(peer, "PREPARE", XA) == (200, "0")


async def test_a_commit_that_a_full_disk_holds_up_is_finished_later() -> None:
    one = await started()
    peer = Peer()
    one.put(peer, b"first", 1)
    one.do(peer, "BEGIN", LOCAL)
    for partition in range(3):
        one.put(peer, b"hello", partition, LOCAL)
    # The journal's is the next write, then come the three partitions.
    done = one.filesystem.calls.count(Point.APPEND_WRITE)
    one.filesystem.fault = Fault(Point.APPEND_WRITE, done + 2, "ENOSPC")
    status, text = one.do(peer, "COMMIT_ONE_PHASE", LOCAL) or (0, "")
    assert status == 500
    assert text.startswith("The transaction is committed, but orders-1: no space left")
    one.broker.committer._disk.check()
    one.machine.pass_time()
    assert [one.bodies(partition) for partition in range(3)] == [[b"hello"], [b"first", b"hello"], [b"hello"]]
    one.machine.pass_time()
    assert not one.broker.transactions.commits.unapplied
    assert one.do(peer, "COMMIT_ONE_PHASE", LOCAL) == UNKNOWN


@pytest.mark.parametrize("count_after", [0, 1, 9])
async def test_a_commit_that_is_appended_below_its_floor_is_found_there(count_after: int) -> None:
    one = await started(unflushThreshold=1000)
    peer = Peer()
    for _ in range(5):
        one.put(peer, b"this topic is not synced", 0)
    one.do(peer, "BEGIN", LOCAL)
    one.put(peer, b"hello", 0, LOCAL)
    assert one.do(peer, "COMMIT_ONE_PHASE", LOCAL) == OK
    one.filesystem.cut_power("nothing", lambda below: below)
    after = [b"another of the same size"] * count_after
    for count in (0, count_after, count_after):
        one = await restarted(one)
        assert one.bodies(0) == [b"hello", *after[:count]]
        for body in after[count:]:
            one.put(Peer(), body, 0)


async def test_a_partition_that_takes_nothing_is_noticed_before_the_decision() -> None:
    one = await started()
    prepare(one)
    one.broker.partitions[("orders", 0)].log.fail("a test")
    status, text = one.do(Peer(), "COMMIT_TWO_PHASE", XA) or (0, "")
    assert (status, text.startswith("XAException:code=-7,")) == (500, True)
    assert one.prepared == [XA]
    one = await restarted(one)
    assert one.do(Peer(), "COMMIT_TWO_PHASE", XA) == OK


async def test_a_damaged_journal_is_not_taken_for_an_empty_one() -> None:
    one = await started()
    prepare(one)
    prepare(one, b"other", "XID:1:02::q")
    path = DATA / str(TRANSACTIONS_LOG) / f"{0:020d}.meta"
    data = bytearray(one.filesystem.read_bytes(path))
    data[30] ^= 1
    one.filesystem.restart()
    one.filesystem.write_bytes(path, bytes(data))
    again = MemoryBroker(one.filesystem, one.config)
    await again.broker.transactions.load()
    status, text = again.do(Peer(), "BEGIN", LOCAL) or (0, "")
    assert status == 500
    assert "have not been recovered" in text
    assert again.put(Peer(), b"hello", 0) is not None, "puts without a transaction go on"


async def test_a_slave_sends_to_its_master() -> None:
    one = MemoryBroker(FaultyFileSystem())
    one.broker.master_address = "there:1"
    status, text = one.do(Peer(), "BEGIN", LOCAL) or (0, "")
    assert (status, "send to its master there:1" in text) == (500, True)
    assert one.do(Peer(), "RECOVER", "null") == (500, f"XAException:code=-7,msg={text}")


async def test_a_sealed_master_takes_no_transactions_until_it_is_unsealed() -> None:
    one = await started()
    prepare(one)
    one.broker.gate.seal("Soon another is the master")
    assert one.do(Peer(), "COMMIT_TWO_PHASE", XA) == (
        500,
        "XAException:code=-7,msg=Soon another is the master",
    )
    one.broker.gate.unseal()
    assert one.do(Peer(), "COMMIT_TWO_PHASE", XA) == OK


@pytest.mark.parametrize(("commit", "code"), [(True, 7), (False, 6)])
async def test_an_operator_decides_and_it_is_remembered_until_it_is_forgotten(
    commit: bool, code: int
) -> None:
    one = await started(checkpointInterval=1000)
    prepare(one)
    await one.broker.transactions.decide(XA, commit=commit)
    for _ in range(2):
        for _ in range(4):
            one.filesystem.clock.advance(1.0)
            one.machine.pass_time()
        assert one.bodies(0) == ([b"hello"] if commit else [])
        assert one.prepared == [XA], "as long as nobody has forgotten it"
        for action in ("COMMIT_TWO_PHASE", "ROLLBACK", "PREPARE"):
            status, text = one.do(Peer(), action, XA) or (0, "")
            assert (status, text.startswith(f"XAException:code={code},")) == (500, True), text
        one = await restarted(one)
    assert one.do(Peer(), "FORGET", XA) == OK
    assert one.do(Peer(), "COMMIT_TWO_PHASE", XA) == UNKNOWN_XA
    one = await restarted(one)
    assert one.prepared == []
    assert one.bodies(0) == ([b"hello"] if commit else [])


async def test_what_was_written_since_the_last_compaction_stays_for_slaves_that_are_behind() -> None:
    one = await started(checkpointInterval=1000)
    found = []
    for _ in range(4):
        prepare(one)
        assert one.do(Peer(), "ROLLBACK", XA) == OK
        for _ in range(4):
            one.filesystem.clock.advance(1.0)
            one.machine.pass_time()
        found.append(one.store.partitions[TRANSACTIONS_LOG].segment_starts)
    first, second, third, fourth = (starts[-1] for starts in found)
    assert found == [(0, first), (first, second), (second, third), (third, fourth)]
    prepare(one)
    one = await restarted(one)
    for _ in range(2):
        one.machine.pass_time()
    log = one.store.partitions[TRANSACTIONS_LOG]
    assert (log.start_offset, len(log.segment_starts)) == (fourth, 2), "a start compacts what it has found"


async def test_a_start_drops_nothing_of_a_compaction_that_had_only_begun() -> None:
    one = await started()
    prepare(one)
    log = one.store.partitions[TRANSACTIONS_LOG]
    # Its new segment is empty: what slaves may lack lies before it.
    log.end_segment()
    log.roll()
    second = log.last_segment_start
    for is_dropped in (False, True):
        one = await restarted(one)
        for _ in range(3):
            one.machine.pass_time()
        starts = one.store.partitions[TRANSACTIONS_LOG].segment_starts
        assert starts[:2] == ((second, starts[1]) if is_dropped else (0, second))


async def test_a_decision_that_cannot_be_carried_out_is_none() -> None:
    one = await started()
    prepare(one)
    one.broker.partitions[("orders", 0)].log.fail("a test")
    with pytest.raises(TransactionError, match="a test"):
        await one.broker.transactions.decide(XA, commit=True)
    assert one.do(Peer(), "ROLLBACK", XA) == OK


async def test_an_operator_forgets() -> None:
    one = await started()
    prepare(one)
    with pytest.raises(TransactionError, match="there is nothing to forget"):
        await one.broker.transactions.forget(XA)
    await one.broker.transactions.decide(XA, commit=False)
    await one.broker.transactions.forget(XA)
    assert one.prepared == []


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("XID:1:02::q", "has not been started"),
        ("nonsense", "is no transaction key"),
        (LOCAL, "never prepared"),
        (XA, "not prepared: open"),
    ],
)
async def test_what_an_operator_cannot_decide(key: str, says: str) -> None:
    one = await started()
    one.do(Peer(), "BEGIN", XA)
    with pytest.raises(TransactionError, match=says):
        await one.broker.transactions.decide(key, commit=True)


@pytest.mark.parametrize(
    ("value", "is_synced"), [(0, False), (1, True), (2, False)], ids=["never", "each", "every second"]
)
async def test_when_the_journal_is_synced(value: int, is_synced: bool) -> None:
    one = await started(flushTxLogAtCommit=value)
    prepare(one)
    log = one.store.partitions[TRANSACTIONS_LOG]
    assert log.end_offset > 0
    assert (log.flushed_offset == log.end_offset) is is_synced
    soon = [callback for seconds, callback in one.machine.due if seconds <= 1.0]
    for callback in soon:
        callback()
    assert (log.flushed_offset == log.end_offset) is (value != 0)


async def test_a_prepared_transaction_commits_at_the_end_whatever_was_put_meanwhile() -> None:
    """MetaQ overwrites the newer messages (reference transactions section 6)."""
    one = await started()
    prepare(one)
    one = await restarted(one)
    for number in range(3):
        one.put(Peer(), b"newer %d" % number, 0)
    assert one.do(Peer(), "COMMIT_TWO_PHASE", XA) == OK
    assert one.bodies(0) == [b"newer 0", b"newer 1", b"newer 2", b"hello"]


async def test_a_synchronous_pair_takes_no_transactions() -> None:
    one = await started()
    one.broker.pair_master = PairMaster("meta://there:1", 1.0, one.broker.timers)
    assert one.do(Peer(), "BEGIN", LOCAL) == (500, "Unsupported beginTransaction")
    assert one.do(Peer(), "RECOVER", "null") == (500, "Unsupported getPreparedTransactions")
    assert one.put(Peer(), b"hello", 0, LOCAL) == (500, "Unsupported putInTransaction")
