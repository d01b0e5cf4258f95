"""What a slave tells its master, and when: turns of the loop and replies by hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from metaserver.config import SlaveConfig
from metaserver.errors import BrokerUnreachableError
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.protocol import CommandDecoder, Limits, Replicated, Result, encode_replicated
from metaserver.replication.acknowledging import ProgressReports

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.client.connection import Reply
    from metaserver.errors import ClientError

CONFIG = SlaveConfig(path=Path("f"), slave_id=3, slave_group="g")
A, B = (TopicPartition(Topic("t"), PartitionId(number)) for number in range(2))


@attrs.define
class Log:
    end_offset: int = 0
    flushed_offset: int = 0


@attrs.define
class Copy:
    """A partition of the slave."""

    log: Log = attrs.Factory(Log)
    on_progress: Callable[[], None] | None = None
    syncs_for_master: bool = False
    is_flush_due: bool = False

    def reach(self, memory: int, disk: int) -> None:
        self.log.end_offset, self.log.flushed_offset = memory, disk
        if self.on_progress is not None:
            self.on_progress()


@attrs.define
class Turns:
    """Timers that are due at the end of the turn."""

    due: list[Callable[[], None]] = attrs.Factory(list)

    def schedule(self, after_seconds: float, callback: Callable[[], None]) -> None:
        assert after_seconds == 0
        self.due.append(callback)

    def end(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


@attrs.define(eq=False)
class Link:
    """The master's end."""

    extensions: frozenset[str] = frozenset({"replica-ack"})
    frames: list[Replicated] = attrs.Factory(list)
    replies: list[Callable[[Reply | ClientError], None]] = attrs.Factory(list)

    def submit(self, encode: Callable[[int], bytes], settle: Callable[[Reply | ClientError], None]) -> None:
        (command,) = CommandDecoder(Limits()).feed(encode(7))
        assert isinstance(command, Replicated)
        self.frames.append(command)
        self.replies.append(settle)

    def answer(self, *levels: str, status: int = 200) -> None:
        """To everything asked so far; the last frame has these levels."""
        replies, self.replies = self.replies, []
        for settle in replies:
            settle(Result(status, " ".join(levels), 7))

    def take(self) -> list[list[tuple[int, int, int]]]:
        """Partition, memory and disk offset of each position, of each frame since the last call."""
        frames, self.frames = self.frames, []
        return [
            [(one.partition, one.memory_offset, one.disk_offset) for one in frame.positions]
            for frame in frames
        ]


@attrs.define
class Bench:
    copies: dict[TopicPartition, Copy]
    turns: Turns
    reports: ProgressReports
    link: Link
    flushed: list[object]


@pytest.fixture
def bench() -> Bench:
    copies = {A: Copy(), B: Copy()}
    flushed: list[object] = []

    class Committer:
        flush = partial(flushed.append)

    class Broker:
        partitions = {(name.topic, name.partition): copy for name, copy in copies.items()}  # noqa: RUF012
        committer = Committer()

    broker: Any = Broker()
    turns: Any = Turns()
    return Bench(copies, turns, ProgressReports(broker, CONFIG, turns), Link(), flushed)


def connect(bench: Bench, link: Link | None = None) -> None:
    connection: Any = link or bench.link
    bench.reports.connected(connection)


def follow(bench: Bench, *levels: str) -> None:
    """Both partitions are known to be the master's, and it has said what its puts wait for."""
    connect(bench)
    bench.link.answer()
    bench.reports.follow(A)
    bench.reports.follow(B)
    bench.turns.end()
    bench.link.answer(*levels)
    bench.link.take()


def test_it_says_at_once_who_is_there(bench: Bench) -> None:
    connect(bench)
    (frame,) = bench.link.frames
    assert (frame.slave_group, frame.slave_id, frame.positions) == ("g", 3, ())


def test_a_master_that_does_not_know_the_word_is_never_sent_it(bench: Bench) -> None:
    old = Link(frozenset({"long-poll", "put-batch"}))
    connect(bench, old)
    bench.reports.follow(A)
    bench.copies[A].reach(10, 10)
    bench.turns.end()
    bench.reports.give_sign_of_life()
    assert old.frames == []


def test_nothing_is_said_of_a_log_that_has_not_been_compared(bench: Bench) -> None:
    follow(bench, "slave", "slave")
    bench.reports.disconnected()
    connect(bench)
    bench.copies[A].reach(10, 10)
    bench.turns.end()
    assert bench.link.take() == [[]]
    bench.reports.follow(A)
    bench.turns.end()
    assert bench.link.take() == [[(0, 10, 10)]]


def test_one_frame_for_all_that_happens_in_a_turn(bench: Bench) -> None:
    follow(bench, "slave", "slave")
    bench.copies[A].reach(10, 0)
    bench.copies[B].reach(20, 0)
    bench.copies[A].reach(30, 5)
    assert bench.link.take() == []
    bench.turns.end()
    assert bench.link.take() == [[(0, 30, 5), (1, 20, 0)]]
    bench.turns.end()
    assert bench.link.take() == []


def test_only_what_somebody_waits_for_is_told_at_once(bench: Bench) -> None:
    follow(bench, "slave_disk", "disk")
    bench.copies[A].reach(10, 0)
    bench.copies[B].reach(20, 20)
    bench.turns.end()
    assert bench.link.take() == [], "a put waits for the disk of the first, and for nothing of the second"
    bench.copies[A].reach(10, 10)
    bench.turns.end()
    assert bench.link.take() == [[(0, 10, 10), (1, 20, 20)]]
    bench.copies[B].reach(40, 30)
    bench.turns.end()
    assert bench.link.take() == []
    bench.reports.give_sign_of_life()
    assert bench.link.take() == [[(1, 40, 30)]]
    bench.reports.give_sign_of_life()
    assert bench.link.take() == [[]]


def test_the_masters_level_decides_what_is_synced(bench: Bench) -> None:
    bench.copies[A].is_flush_due = True
    follow(bench, "slave_disk", "slave")
    assert (bench.copies[A].syncs_for_master, bench.copies[B].syncs_for_master) == (True, False)
    assert bench.flushed == [bench.copies[A]]
    bench.copies[A].reach(10, 10)
    bench.turns.end()
    bench.link.answer("disk")
    assert not bench.copies[A].syncs_for_master


def test_a_frame_is_no_longer_than_any_master_takes(bench: Bench) -> None:
    names = [TopicPartition(Topic("t" * (1 + number % 200)), PartitionId(99_999)) for number in range(300)]
    partitions: Any = bench.reports._broker.partitions
    connect(bench)
    for name in names:
        partitions[(name.topic, name.partition)] = Copy(Log(2**63 - 1, 2**63 - 1))
        bench.reports.follow(name)
    bench.link.frames.clear()
    bench.turns.end()
    told = [(one.topic, one.partition) for frame in bench.link.frames for one in frame.positions]
    assert sorted(told) == sorted({(name.topic, name.partition) for name in names})
    for frame in bench.link.frames:
        assert len(encode_replicated("g", 3, frame.positions, 7).partition(b"\r\n")[2]) <= 1024


@pytest.mark.parametrize("reply", [Result(400, "no", 7), Result(200, "slave", 7), Result(200, "x y", 7)])
def test_a_reply_that_makes_no_sense_changes_nothing(bench: Bench, reply: Result) -> None:
    connect(bench)
    bench.link.answer()
    bench.reports.follow(A)
    bench.reports.follow(B)
    bench.turns.end()
    (settle,) = bench.link.replies
    settle(reply)
    bench.copies[A].reach(10, 0)
    bench.turns.end()
    assert bench.link.take()[-1] == [(0, 10, 0)]


def test_replies_of_an_old_connection_are_nothing(bench: Bench) -> None:
    connect(bench)
    bench.reports.follow(A)
    bench.turns.end()
    _, settle = bench.link.replies
    bench.reports.disconnected()
    settle(Result(200, "slave_disk", 7))
    settle(BrokerUnreachableError("host:1", "gone"))
    assert not bench.copies[A].syncs_for_master
