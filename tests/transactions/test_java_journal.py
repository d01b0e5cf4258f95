"""The redo files of a Java broker: what was prepared and committed is found, whatever is torn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.errors import CorruptLogError
from metaserver.message import checksum, iterate_records
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.protocol import XaKey
from metaserver.transactions.java_journal import JavaJournal, JavaTransaction, Place
from metaserver.transactions.java_outcomes import read_outcomes
from tests.transactions.java_redo import (
    LOCAL_COMMIT,
    LOCAL_ROLLBACK,
    PREPARE,
    XA_COMMIT,
    XA_ROLLBACK,
    JavaPut,
    operation,
    places,
    put,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

TESTDATA = Path(__file__).resolve().parents[1] / "testdata" / "java-transactions"
"""What 1.4.6.2 has written: after the programs of the interoperability tests, and two decisions of operators."""
PATH = Path("redo.1")
ONE, TWO, LOCAL = "XID:1:01::q", "XID:1:02::q", "TX:s:1"
BOOKS = (XaKey(7, "00", "00ff", "books"), XaKey(7, "00", "01ff", "books"))


def read(*files: bytes, start: int = 0) -> tuple[list[JavaTransaction], list[JavaTransaction]]:
    """What is committed, and what is prepared."""
    journal = JavaJournal()
    committed = [one for data in files for one in journal.read(PATH, data, start)]
    return committed, journal.prepared()


def bodies(transaction: JavaTransaction) -> dict[str, list[bytes]]:
    return {
        str(name): [record.data for record in iterate_records(bytes(batch.data))]
        for name, batch in transaction.batches.items()
    }


def keys(transactions: Iterable[JavaTransaction]) -> list[str]:
    return [str(transaction.key) for transaction in transactions]


def test_what_the_original_has_written() -> None:
    committed, prepared = read((TESTDATA / "redo.1").read_bytes())
    assert keys(committed) == [
        "TX:192.0.2.2-1796036468628-1:1",
        "XID:7:00:01ff:books",
        "XID:7:00:02ff:books",
    ]
    orders = TopicPartition(Topic("orders"), PartitionId(1))
    assert [one.places and one.places[orders] for one in committed] == [
        Place(0, 27, 503737795),
        Place(27, 32, 218543736),
        Place(59, 31, 1388469811),
    ]
    for transaction in committed:
        assert transaction.places is not None
        for name, batch in transaction.batches.items():
            found = transaction.places[name]
            assert (len(batch.data), checksum(batch.data)) == (found.size_bytes, found.checksum)
    (left,) = prepared
    assert (str(left.key), left.places) == ("XID:7:00:09ff:books", None)
    assert bodies(left) == {
        "orders-1": [b"left prepared-0"],
        "orders-2": [b"left prepared-1"],
        "orders-0": [b"left prepared-2"],
    }


def test_the_ids_are_those_of_the_records() -> None:
    """The Java broker counts from before the beginning of its own time: they are negative."""
    journal = JavaJournal()
    committed = list(journal.read(PATH, (TESTDATA / "redo.1").read_bytes()))
    ids = [
        record.message_id
        for one in [*committed, *journal.prepared()]
        for batch in one.batches.values()
        for record in iterate_records(bytes(batch.data))
    ]
    assert min(ids) == -5468931927320821760
    assert max(ids) <= journal.highest_message_id < 0


def test_what_is_decided_is_prepared_no_more() -> None:
    message = JavaPut("orders", 0, b"x", 5)
    begun = put(ONE, message) + operation(PREPARE, ONE)
    assert read() == ([], [])
    assert keys(read(begun)[1]) == [ONE]
    committed, prepared = read(begun + operation(XA_COMMIT, ONE, places([message], {"orders-0": 40})))
    assert (keys(committed), prepared) == ([ONE], [])
    assert read(begun + operation(XA_ROLLBACK, ONE)) == ([], [])
    assert keys(
        read(begun, operation(XA_ROLLBACK, ONE) + put(TWO, message) + operation(PREPARE, TWO))[1]
    ) == [TWO]
    # What was never prepared was never promised.
    assert read(put(ONE, message) + put(LOCAL, message)) == ([], [])
    # A key may be used again.
    again = begun + operation(XA_ROLLBACK, ONE) + put(ONE, message) + put(ONE, message)
    assert read(again + operation(PREPARE, ONE))[1][0].batches.popitem()[1].count == 2


def test_what_is_torn_ends_its_file_only() -> None:
    message = JavaPut("orders", 0, b"x", 5)
    whole = put(ONE, message) + operation(PREPARE, ONE)
    torn = put(TWO, message) + operation(PREPARE, TWO)
    other = put("XID:1:03::q", message) + operation(PREPARE, "XID:1:03::q")
    for cut in range(1, len(operation(PREPARE, TWO))):
        assert keys(read(whole + torn[:-cut], other)[1]) == [ONE, "XID:1:03::q"]
    for tail in (bytes(100), b"\xff" * 50, b"\0\0\0\5abcde"):
        assert keys(read(whole + tail)[1]) == [ONE]


def test_damage_before_a_decision_is_refused() -> None:
    message = JavaPut("orders", 0, b"a body", 5)
    data = put(ONE, message) + operation(PREPARE, ONE) + put(TWO, message) + operation(PREPARE, TWO)
    for position in range(len(put(ONE, message) + operation(PREPARE, ONE))):
        changed = bytearray(data)
        changed[position] ^= 0x55
        try:
            _, prepared = read(bytes(changed))
        except CorruptLogError as error:
            assert error.position <= position  # noqa: PT017 - not each change is one that can be told
            continue
        # Told with the transaction; or another name, key, id or kind.
        assert keys(prepared)[-1] == TWO
    _, (one, _) = read(data.replace(b"a body", b"a bodY", 1))
    assert one.damage == "a message for orders-0 does not match its checksum"


_SCRIPT = st.lists(
    st.tuples(
        st.sampled_from([ONE, TWO, LOCAL]),
        st.sampled_from(["put", "prepare", "commit", "roll back"]),
        st.binary(max_size=300),
        st.integers(-(2**31), 2**31 - 1),
        st.integers(-(2**63), 2**63 - 1),
    ),
    max_size=25,
)


@given(_SCRIPT, st.data())
def test_every_transaction_is_as_it_was_put(
    script: list[tuple[str, str, bytes, int, int]], data: st.DataObject
) -> None:
    written = b""
    open_puts: dict[str, list[JavaPut]] = {}
    prepared: set[str] = set()
    committed: list[tuple[str, list[JavaPut]]] = []
    for key, action, body, flag, message_id in script:
        puts = open_puts.get(key)
        if action == "put" and key not in prepared:
            message = JavaPut("orders", flag % 3, body, message_id, flag)
            written += put(key, message)
            open_puts.setdefault(key, []).append(message)
        elif action == "prepare" and puts and key != LOCAL:
            written += operation(PREPARE, key)
            prepared.add(key)
        elif puts:
            is_local, is_commit = key == LOCAL, action == "commit"
            if is_commit:
                attachment = places(puts, {f"orders-{number}": number * 1000 for number in range(3)})
                written += operation(LOCAL_COMMIT if is_local else XA_COMMIT, key, attachment)
                committed.append((key, puts))
            else:
                written += operation(LOCAL_ROLLBACK if is_local else XA_ROLLBACK, key)
            del open_puts[key]
            prepared.discard(key)
    found_committed, found_prepared = read(written)
    assert [(str(one.key), records(one)) for one in found_committed] == [
        (key, by_partition(puts)) for key, puts in committed
    ]
    assert {str(one.key): records(one) for one in found_prepared} == {
        key: by_partition(open_puts[key]) for key in prepared
    }
    # A crash at any place leaves what was whole before it.
    cut = data.draw(st.integers(0, len(written)))
    before, _ = read(written[:cut])
    assert keys(before) == [key for key, _ in committed][: len(before)]


def records(transaction: JavaTransaction) -> dict[str, bytes]:
    return {str(name): bytes(batch.data) for name, batch in transaction.batches.items()}


def by_partition(puts: list[JavaPut]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for one in puts:
        name = f"{one.topic}-{one.partition}"
        found[name] = found.get(name, b"") + one.record
    return found


@given(st.binary(max_size=80))
def test_any_bytes_end(data: bytes) -> None:
    journal = JavaJournal()
    try:
        list(journal.read(PATH, data))
    except CorruptLogError:
        return
    assert not journal.prepared() or b"XID" in data


# Operators' decisions.


def test_decisions_of_operators() -> None:
    data = (TESTDATA / "heuristic.log").read_bytes()
    assert read_outcomes(data) == {BOOKS[0]: True, BOOKS[1]: False}
    assert read_outcomes(b"") == read_outcomes((TESTDATA / "heuristic.log.none").read_bytes()) == {}
    # The third state, of one that an operator has forgotten: it is prepared as before.
    state = data.index(b"xp\x04") + 2
    assert read_outcomes(data[:state] + b"\6" + data[state + 1 :]) == {BOOKS[1]: False}


def test_anything_else_is_refused() -> None:
    data = (TESTDATA / "heuristic.log").read_bytes()
    for cut in range(1, len(data)):
        with pytest.raises(ValueError, match=r"."):
            read_outcomes(data[:cut])
    for other in (b"\xac\xed\0\5\x70", b"\xac\xed\0\5\x74\0\1a", b"\xac\xed\0\5" + b"\x73" * 2000, b"hello"):
        with pytest.raises(ValueError, match=r"."):
            read_outcomes(other)


@given(st.data())
def test_damaged_decisions_are_refused_or_read(data: st.DataObject) -> None:
    written = bytearray((TESTDATA / "heuristic.log").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        written[data.draw(st.integers(4, len(written) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_outcomes(bytes(written))
    except ValueError:
        return
