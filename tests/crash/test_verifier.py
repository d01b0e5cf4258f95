"""The judge is judged: each kind of damage it exists to find is made here, and it must say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from metaserver.message import encode_record
from tools.torture.payloads import parse_payload, payload_of
from tools.torture.verifier import BrokenPromiseError, Lost, PrefixCheck, Verifier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tools.torture.logfiles import Name

NAME = ("orders", 0)
SEGMENT = "00000000000000000000.meta"


@attrs.define
class History:
    """A verifier that was told of one connection, and the log that goes with it."""

    data: Path
    verifier: Verifier = attrs.Factory(Verifier)
    producer: int = 0
    log: bytes = b""

    @property
    def segment(self) -> Path:
        return self.data / "orders-0" / SEGMENT

    def send(self, sequences: Sequence[int]) -> None:
        self.producer = self.producer or self.verifier.new_producer()
        for sequence in sequences:
            self.verifier.about_to_send(self.producer, sequence, NAME)

    def record(self, sequence: int, message_id: int | None = None) -> bytes:
        return encode_record(payload_of(self.producer, sequence), message_id or 1000 + sequence)

    def acknowledge(self, sequence: int, *, is_written: bool = True) -> None:
        self.verifier.was_acknowledged(self.producer, [sequence], NAME, len(self.log), 1000 + sequence)
        if is_written:
            self.log += self.record(sequence)

    def check(self) -> None:
        self.segment.parent.mkdir(parents=True, exist_ok=True)
        self.segment.write_bytes(self.log)
        self.verifier.check(self.data)


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path)
    history.send(range(10))
    for sequence in range(4):
        history.acknowledge(sequence)
    return history


def test_an_honest_log_passes(history: History) -> None:
    history.log += history.record(4) + history.record(5)
    history.check()
    history.check()
    history.verifier.check_all_again(history.data)
    assert (history.verifier.found, history.verifier.found_unacknowledged) == (6, 2)


def test_payloads_are_told_apart() -> None:
    payload = payload_of(3, 77)
    assert parse_payload(payload) == (3, 77)
    assert parse_payload(payload[:-1] + bytes([payload[-1] ^ 1])) is None
    assert parse_payload(b"short") is None


def test_a_lost_message(history: History) -> None:
    history.acknowledge(4, is_written=False)
    with pytest.raises(BrokenPromiseError, match=r"number 4.*was acknowledged and is not there"):
        history.check()


def test_another_id(history: History) -> None:
    history.acknowledge(4, is_written=False)
    history.log += history.record(4, message_id=7777)
    with pytest.raises(BrokenPromiseError, match="holds id 7777"):
        history.check()


def test_a_duplicate(history: History) -> None:
    history.log += history.record(3, message_id=2000)
    with pytest.raises(BrokenPromiseError, match="a duplicate"):
        history.check()


def test_a_duplicate_after_a_restart(history: History) -> None:
    history.check()
    history.log += history.record(4)
    with pytest.raises(BrokenPromiseError, match="appeared after an earlier check"):
        history.check()


def test_a_gap(history: History) -> None:
    history.log += history.record(5)
    with pytest.raises(BrokenPromiseError, match="where 4 was due"):
        history.check()


def test_another_order(history: History) -> None:
    history.log += history.record(5) + history.record(4, message_id=3000)
    with pytest.raises(BrokenPromiseError, match="another order"):
        history.check()


def test_a_refused_message(history: History) -> None:
    history.verifier.was_refused(history.producer, [4], NAME)
    history.log += history.record(4)
    with pytest.raises(BrokenPromiseError, match="was refused and is there"):
        history.check()


def test_what_follows_a_refused_message_is_in_order(history: History) -> None:
    history.verifier.was_refused(history.producer, [4], NAME)
    history.log += history.record(5)
    history.check()


def test_what_nobody_sent(history: History) -> None:
    history.log += encode_record(b"a stranger", 5000)
    with pytest.raises(BrokenPromiseError, match="holds what nobody sent: b'a stranger'"):
        history.check()


def test_ids_that_go_back(history: History) -> None:
    history.log += history.record(4, message_id=3)
    with pytest.raises(BrokenPromiseError, match="id 3 is not above"):
        history.check()


def test_a_torn_tail(history: History) -> None:
    history.log += history.record(4)[:-3]
    with pytest.raises(BrokenPromiseError, match="no whole record at offset"):
        history.check()


def test_a_changed_past(history: History) -> None:
    history.check()
    history.log = history.log[:30] + b"!" + history.log[31:]
    with pytest.raises(BrokenPromiseError, match="have changed since an earlier check"):
        history.check()


def test_an_offset_given_out_twice(history: History) -> None:
    history.acknowledge(4, is_written=False)
    with pytest.raises(BrokenPromiseError, match="given out twice"):
        history.acknowledge(5)


def test_bytes_that_were_delivered_and_are_gone(history: History) -> None:
    history.verifier.was_delivered(NAME, 0, history.log + history.record(4))
    with pytest.raises(BrokenPromiseError, match="were delivered to a consumer at 0"):
        history.check()


def test_a_gap_between_segments(history: History) -> None:
    (history.segment.parent).mkdir(parents=True)
    history.segment.with_name(f"{len(history.log) + 1:020d}.meta").write_bytes(b"")
    with pytest.raises(BrokenPromiseError, match="the next begins at"):
        history.check()


def test_a_directory_that_is_gone(history: History) -> None:
    with pytest.raises(BrokenPromiseError, match="the directory is gone"):
        history.verifier.check(history.data / "nowhere")


@pytest.mark.parametrize(
    ("master", "slave", "is_prefix"),
    [
        (b"abcdef", b"", True),
        (b"abcdef", b"abc", True),
        (b"abcdef", b"abcdef", True),
        (b"abcdef", b"abx", False),
        (b"abc", b"abcd", False),
    ],
)
def test_prefixes(master: bytes, slave: bytes, is_prefix: bool, tmp_path: Path) -> None:
    for node, content in (("master", master), ("slave", slave)):
        (tmp_path / node / "orders-0").mkdir(parents=True)
        (tmp_path / node / "orders-0" / SEGMENT).write_bytes(content)
    check = PrefixCheck(tmp_path / "master", tmp_path / "slave")
    if is_prefix:
        check.look()
        assert check.compared_bytes == len(slave)
        assert check.is_behind() == (len(slave) < len(master))
        assert bool(check.differences()) == (master != slave)
    else:
        with pytest.raises(BrokenPromiseError, match="are not those of the master"):
            check.look()


@attrs.define
class Replacement:
    """A master with four messages that were looked at, three more (one without a reply), and its successor."""

    history: History
    records: list[bytes] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        history = self.history
        history.check()
        history.verifier.replacement_begins()
        self.records = [history.record(sequence) for sequence in range(4)]
        history.producer = 0
        history.send([10, 11, 12])
        for sequence in (10, 11):
            history.acknowledge(sequence)
        history.log += history.record(12)
        self.records += [history.record(sequence) for sequence in (10, 11, 12)]
        for record, offset in ((self.records[4], self.end_of(4)), (self.records[6], self.end_of(6))):
            history.verifier.was_delivered(NAME, offset, record)

    def end_of(self, count: int) -> int:
        return sum(map(len, self.records[:count]))

    def replace(self, common: int, then: Sequence[int]) -> dict[Name, Lost]:
        """The new one has so many of the messages, and acknowledges these."""
        history = self.history
        old = history.data / "old"
        (old / "orders-0").mkdir(parents=True)
        (old / "orders-0" / SEGMENT).write_bytes(history.log)
        history.log = b"".join(self.records[:common])
        history.producer = 0
        history.send([20, 21, 22])
        for sequence in then:
            history.acknowledge(sequence)
        history.segment.write_bytes(history.log)
        return history.verifier.replaced(old, history.data)


def test_a_new_master_that_is_not_as_far(history: History) -> None:
    replacement = Replacement(history)
    lost = replacement.replace(5, [20, 21])[NAME]
    assert (lost.common_end, lost.old_end) == (replacement.end_of(5), replacement.end_of(7))
    assert lost.acknowledged == {replacement.end_of(5): (1011, 2, 11)}
    assert lost.message_ids == (1011, 1012)
    history.check()
    assert history.verifier.found == 7


def test_a_new_master_that_has_everything(history: History) -> None:
    assert Replacement(history).replace(7, [20]) == {}
    history.check()
    assert history.verifier.found == 8


def test_a_new_master_without_what_an_earlier_check_has_seen(history: History) -> None:
    Replacement(history).replace(3, [])
    with pytest.raises(BrokenPromiseError, match="at an earlier check it ended at"):
        history.check()


def test_a_lost_message_that_comes_back(history: History) -> None:
    replacement = Replacement(history)
    replacement.replace(5, [])
    history.log += replacement.records[5]
    with pytest.raises(BrokenPromiseError, match="number 11 of producer 2 was refused and is there"):
        history.check()


def test_a_message_that_the_old_master_acknowledged_and_nobody_has(history: History) -> None:
    replacement = Replacement(history)
    history.log = history.log[: replacement.end_of(5)]
    with pytest.raises(
        BrokenPromiseError, match=r"number 11\) was acknowledged by the old master, whose own"
    ):
        replacement.replace(5, [20])


def test_a_message_that_is_lost_without_a_reason(history: History) -> None:
    replacement = Replacement(history)
    history.log = history.log[: replacement.end_of(5)]
    assert replacement.replace(5, []) == {}
    with pytest.raises(BrokenPromiseError, match=r"number 11\) was acknowledged and is not there"):
        history.check()


def test_what_a_group_was_given_and_nobody_has(history: History) -> None:
    history.verifier.was_delivered(NAME, len(history.log), history.record(4))
    with pytest.raises(BrokenPromiseError, match="were delivered to a consumer at"):
        history.check()
