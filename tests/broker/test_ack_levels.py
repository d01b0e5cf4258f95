"""What a put waits for: the rules of a broker asked directly, in virtual time, with slaves played by the test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from metaserver.config import parse_server_config
from metaserver.names import AckLevel
from metaserver.protocol import (
    ReplicaPosition,
    encode_replicated,
)
from tests.broker.bench import Peer, make_broker
from tests.support import get, put, put_batch, record

if TYPE_CHECKING:
    from trio.testing import MockClock

    from metaserver.broker import Broker
    from tests.broker.test_committer import HandSyncer


CONFIG = """\
[system]
brokerId=7
dataPath=/data
numPartitions=2
unflushThreshold=0
unflushInterval=1000
maxSegmentSize=1048576
maxTransferSize=4096
{system}
[topic=disk]
[topic=memory]
ackLevel=memory
[topic=slave]
ackLevel=slave
slaveAckTimeoutInMills=4000
[topic=both]
ackLevel=slave_disk
minSlaves=2
slaveAckTimeoutInMills=4000
"""
SIZE = 25
"""Of a record that says hello."""
FAILED = "Put message to [broker 'meta://host:1'] [partition '{}'] failed.Detail:"
MISSED = (
    "ackLevel={} asks for {},and {} in time (slaveAckTimeoutInMills=4000). The message is on this master's disk "
    "at offset {} and will be replicated when a slave returns"
)


@attrs.define(eq=False)
class Bench:
    """A broker, a producer, and a disk that syncs at once or by hand."""

    broker: Broker
    syncer: HandSyncer
    producer: Peer

    def put(self, topic: str, opaque: int = 1, partition: int = 0) -> None:
        self.producer.ask(put(topic, b"hello", opaque, partition=partition))

    def sync(self) -> None:
        while self.syncer.waiting:
            self.syncer.step()

    def slave(self, number: int) -> SlavePeer:
        peer = SlavePeer(self.broker, number=number)
        peer.report()
        return peer


@attrs.define(eq=False)
class SlavePeer(Peer):
    number: int = 0

    def report(self, *positions: ReplicaPosition) -> list[tuple[int | None, int, str]]:
        self.ask(encode_replicated("g", self.number, positions, 99))
        return self.answers()

    def has(self, topic: str, memory: int, disk: int, partition: int = 0) -> None:
        (answer,) = self.report(ReplicaPosition(topic, partition, memory, disk))
        assert answer[0] == 200

    def leave(self) -> None:
        self.is_open = False
        self.broker.disconnected(self)


def config_text(system: str = "") -> str:
    return CONFIG.format(system=system)


@pytest.fixture
def bench(nursery: trio.Nursery) -> Bench:
    return make_bench(nursery)


def make_bench(nursery: trio.Nursery, system: str = "") -> Bench:
    broker, syncer = make_broker(nursery, config_text(system))
    return Bench(broker, syncer, Peer(broker))


# The levels.


async def test_memory_does_not_wait_for_the_disk(bench: Bench) -> None:
    """With a threshold of 0 the sync is under way all the same, and what comes meanwhile has its own."""
    bench.put("memory", 1)
    bench.put("memory", 2)
    assert bench.producer.statuses() == [(200, 1), (200, 2)]
    assert len(bench.syncer.waiting) == 1
    bench.syncer.step()
    assert len(bench.syncer.waiting) == 1, "nobody else would sync the second one"
    bench.sync()
    log = bench.broker.partitions["memory", 0].log
    assert log.flushed_offset == log.end_offset == 2 * SIZE


async def test_disk_waits_for_no_slave(bench: Bench) -> None:
    bench.put("disk")
    assert bench.producer.answers() == []
    bench.sync()
    assert bench.producer.statuses() == [(200, 1)]


async def test_slave_waits_for_the_memory_of_one(bench: Bench) -> None:
    slave = bench.slave(1)
    bench.put("slave")
    slave.has("slave", 0, 0)
    bench.sync()
    assert bench.producer.answers() == [], "the master's own disk is not enough"
    slave.has("slave", SIZE - 1, 0)
    assert bench.producer.answers() == []
    slave.has("slave", SIZE, 0)
    ((status, opaque, text),) = bench.producer.answers()
    assert (status, opaque) == (200, 1)
    assert text.endswith(" 0 0")
    assert bench.producer.inflight_bytes == bench.broker.inflight_bytes == 0


async def test_slave_disk_waits_for_the_disks_of_two(bench: Bench) -> None:
    one, other = bench.slave(1), bench.slave(2)
    bench.put("both")
    bench.sync()
    one.has("both", SIZE, SIZE)
    other.has("both", SIZE, 0)
    assert bench.producer.answers() == []
    other.has("both", SIZE, SIZE)
    assert bench.producer.statuses() == [(200, 1)]


async def test_a_run_and_a_batch_are_answered_whole(bench: Bench) -> None:
    slave = bench.slave(1)
    bench.producer.ask(put("slave", b"hello", 1) + put("slave", b"hello", 2))
    bench.producer.ask(put_batch("slave", record(b"hello") * 2, 3))
    bench.sync()
    slave.has("slave", 3 * SIZE, 3 * SIZE)
    assert bench.producer.statuses() == [(200, 1), (200, 2)]
    slave.has("slave", 4 * SIZE, 4 * SIZE)
    ((status, opaque, text),) = bench.producer.answers()
    assert (status, opaque) == (200, 3)
    assert text.endswith(f" 0 {2 * SIZE} 2")


async def test_readers_see_a_record_before_slaves_have_it(bench: Bench) -> None:
    bench.slave(1)
    bench.put("slave")
    consumer = Peer(bench.broker)
    consumer.ask(get("slave", 0, 100, 5))
    assert consumer.statuses() == [(404, 5)], "not before it is on the master's disk"
    bench.sync()
    consumer.ask(get("slave", 0, 100, 6))
    assert consumer.answers() == [(None, 6, f"{SIZE} bytes")]


async def test_nobody_else_waits(bench: Bench) -> None:
    bench.slave(1)
    bench.put("slave", 1)
    bench.sync()
    bench.put("slave", 2, partition=1)
    bench.put("disk", 3)
    bench.sync()
    assert bench.producer.statuses() == [(200, 3)]


# Too few slaves.


async def test_without_a_slave_nothing_is_stored(bench: Bench) -> None:
    bench.producer.ask(put("slave", b"hello", 1) + put_batch("both", record(b"hello"), 2))
    reported = "have reported within 4 s. The message is not stored"
    assert bench.producer.answers() == [
        (503, 1, FAILED.format("slave-0") + f"ackLevel=slave asks for 1 slave,and 0 {reported}"),
        (503, 2, FAILED.format("both-0") + f"ackLevel=slave_disk asks for 2 slaves,and 0 {reported}"),
    ]
    assert bench.broker.partitions["slave", 0].log.end_offset == 0
    assert bench.broker.acknowledgements.refusals == {AckLevel.SLAVE: 1, AckLevel.SLAVE_DISK: 1}
    assert bench.broker.counters.put_failed == 2
    bench.slave(1)
    bench.put("both", 3)
    assert "1 has reported" in bench.producer.answers()[0][2]


async def test_a_slave_that_does_not_answer_in_time(bench: Bench, autojump_clock: MockClock) -> None:
    slave = bench.slave(1)
    bench.producer.ask(put("slave", b"hello", 1) + put("slave", b"hello", 2))
    bench.sync()
    slave.has("slave", SIZE, SIZE)  # Half of the run: none of it is answered.
    await trio.sleep(3.9)
    assert bench.producer.answers() == []
    await trio.sleep(0.2)
    answered = "1 slave", "0 have answered"
    assert bench.producer.answers() == [
        (503, 1, FAILED.format("slave-0") + MISSED.format("slave", *answered, 0)),
        (503, 2, FAILED.format("slave-0") + MISSED.format("slave", *answered, SIZE)),
    ]
    assert bench.broker.acknowledgements.timeouts == {AckLevel.SLAVE: 2}
    assert bench.broker.counters.put_failed == 2
    assert bench.producer.inflight_bytes == bench.broker.inflight_bytes == 0
    slave.has("slave", 2 * SIZE, 2 * SIZE)
    assert bench.producer.answers() == [], "it has been answered"
    bench.put("slave", 3)
    bench.sync()
    slave.has("slave", 3 * SIZE, 3 * SIZE)
    assert bench.producer.statuses() == [(200, 3)]


async def test_the_answer_says_how_many_have_it(bench: Bench, autojump_clock: MockClock) -> None:
    one, _other = bench.slave(1), bench.slave(2)
    bench.put("both")
    bench.sync()
    one.has("both", SIZE, SIZE)
    await trio.sleep(5)
    ((status, _, text),) = bench.producer.answers()
    assert status == 503
    assert text == FAILED.format("both-0") + MISSED.format("slave_disk", "2 slaves", "1 has answered", 0)


async def test_each_put_has_its_own_time(bench: Bench, autojump_clock: MockClock) -> None:
    slave = bench.slave(1)
    bench.put("slave", 1)
    bench.sync()
    await trio.sleep(3)
    slave.report()
    bench.put("slave", 2)
    bench.sync()
    await trio.sleep(1.5)
    assert bench.producer.statuses() == [(503, 1)]
    await trio.sleep(2)
    assert bench.producer.answers() == []
    await trio.sleep(1)
    assert bench.producer.statuses() == [(503, 2)]


async def test_a_slave_that_vanishes_and_returns(bench: Bench) -> None:
    slave = bench.slave(1)
    bench.put("slave", 1)
    bench.sync()
    slave.leave()
    bench.put("slave", 2)
    bench.sync()
    assert bench.producer.answers() == [], "it may be back in time"
    again = bench.slave(1)
    again.has("slave", 2 * SIZE, 2 * SIZE)
    assert bench.producer.statuses() == [(200, 1), (200, 2)]


async def test_a_slave_that_vanishes_for_good(bench: Bench, autojump_clock: MockClock) -> None:
    slave = bench.slave(1)
    slave.leave()
    bench.put("slave", 1)
    bench.sync()
    await trio.sleep(5)
    bench.put("slave", 2)
    (first, second) = bench.producer.answers()
    assert "is on this master's disk at offset 0" in first[2]
    assert "is not stored" in second[2]
    assert bench.broker.partitions["slave", 0].log.end_offset == SIZE


async def test_a_slave_that_is_silent_over_an_open_connection(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.slave(1)
    await trio.sleep(5)
    bench.put("slave", 1)
    assert "is not stored" in bench.producer.answers()[0][2]


async def test_one_of_two_vanishes_in_the_middle(bench: Bench) -> None:
    one, other = bench.slave(1), bench.slave(2)
    bench.put("both", 1)
    bench.sync()
    one.has("both", SIZE, SIZE)
    one.leave()
    other.has("both", SIZE, SIZE)
    assert bench.producer.answers() == [], "what has left may come back without it"
    bench.slave(1).has("both", SIZE, SIZE)
    assert bench.producer.statuses() == [(200, 1)]


async def test_a_producer_that_has_left_holds_nothing(bench: Bench) -> None:
    slave = bench.slave(1)
    bench.put("slave", 1)
    bench.sync()
    bench.producer.is_open = False
    slave.has("slave", SIZE, SIZE)
    assert bench.producer.answers() == []
    assert bench.broker.inflight_bytes == 0


# Back-pressure.


async def test_what_waits_is_in_flight_and_leaves_room_for_others(nursery: trio.Nursery) -> None:
    bench = make_bench(nursery, "maxInflightBytes=20000\nmaxConnectionInflightBytes=20000\n")
    slave = bench.slave(1)
    for number in range(51):
        bench.put("slave", number)
        bench.sync()
    assert bench.producer.inflight_bytes == bench.broker.inflight_bytes == 51 * 200
    assert bench.producer.answers() == []
    bench.put("slave", 100)
    ((status, _, text),) = bench.producer.answers()
    assert status == 503
    assert "51 messages wait for slaves already(maxInflightBytes). The message is not stored" in text
    bench.put("disk", 101)
    bench.sync()
    assert bench.producer.statuses() == [(200, 101)]
    slave.has("slave", 51 * SIZE, 51 * SIZE)
    assert len(bench.producer.answers()) == 51
    assert bench.broker.inflight_bytes == 0


# Reload.


async def test_a_reload_is_for_puts_that_come_later(bench: Bench) -> None:
    slave = bench.slave(1)
    bench.put("slave", 1)
    bench.sync()
    text = config_text().replace("ackLevel=slave\nslaveAckTimeoutInMills=4000\n", "")
    bench.broker.reconfigure(parse_server_config(text, source="a test", base_directory=Path("/")))
    bench.put("slave", 2)
    bench.sync()
    assert bench.producer.statuses() == [(200, 2)]
    assert slave.report(ReplicaPosition("slave", 0, 0, 0)) == [(200, 99, "disk")]
    slave.has("slave", SIZE, 0)
    assert bench.producer.statuses() == [(200, 1)]


# Reports.


async def test_the_answer_to_a_report_names_the_levels(bench: Bench) -> None:
    slave = bench.slave(1)
    for topic in ("disk", "memory", "slave"):
        bench.put(topic)
    bench.sync()
    positions = [ReplicaPosition(topic, 0, 0, 0) for topic in ("slave", "memory", "disk")]
    assert slave.report(*positions) == [(200, 99, "slave memory disk")]
    assert slave.report() == [(200, 99, "")]


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        (
            ReplicaPosition("slave", 0, SIZE + 1, 0),
            f"offset {SIZE + 1} of slave-0 is beyond {SIZE}, the end of",
        ),
        (ReplicaPosition("slave", 7, 0, 0), "there is no partition slave-7"),
        (ReplicaPosition("nobody", 0, 0, 0), "there is no partition nobody-0"),
    ],
)
async def test_a_report_that_cannot_be_true_ends_the_connection(
    bench: Bench, position: ReplicaPosition, reason: str
) -> None:
    bench.slave(1)
    bench.put("slave", 1)
    bench.sync()
    liar = SlavePeer(bench.broker, number=2)
    ((status, _, text),) = liar.report(ReplicaPosition("slave", 0, SIZE, SIZE), position)
    assert status == 400
    assert reason in text
    assert not liar.is_open
    assert bench.producer.answers() == [], "nothing of such a report counts"


async def test_nothing_can_be_reported_that_slaves_have_not_been_shown(bench: Bench) -> None:
    bench.slave(1)
    bench.put("slave", 1)  # Written, and not synced.
    liar = SlavePeer(bench.broker, number=2)
    assert liar.report(ReplicaPosition("slave", 0, SIZE, SIZE))[0][0] == 400


async def test_too_many_slaves(bench: Bench) -> None:
    for number in range(64):
        bench.slave(number)
    late = SlavePeer(bench.broker, number=64)
    ((status, _, text),) = late.report()
    assert (status, late.is_open) == (400, False)
    assert "too many slaves" in text


# The end.


async def test_a_stop_waits_for_puts_that_are_not_even_on_disk(
    bench: Bench, autojump_clock: MockClock
) -> None:
    slave = bench.slave(1)
    bench.put("slave", 1)
    with trio.move_on_after(1) as before_the_sync:
        await bench.broker.wait_until_answered()
    bench.sync()
    with trio.move_on_after(1) as before_the_report:
        await bench.broker.wait_until_answered()
    assert before_the_sync.cancelled_caught
    assert before_the_report.cancelled_caught
    async with trio.open_nursery() as waiting:
        waiting.start_soon(bench.broker.wait_until_answered)
        await trio.sleep(0.1)
        slave.has("slave", SIZE, SIZE)
    assert bench.producer.statuses() == [(200, 1)]


async def test_giving_up_says_what_is_stored(bench: Bench) -> None:
    bench.slave(1)
    bench.put("slave", 1)
    bench.sync()
    bench.broker.acknowledgements.give_up()
    ((status, _, text),) = bench.producer.answers()
    assert status == 503
    assert "is on this master's disk at offset 0" in text
    await bench.broker.wait_until_answered()
