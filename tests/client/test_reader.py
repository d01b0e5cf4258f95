"""A partition's reader between brokers' answers and the consumer, without a network and in virtual time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from metaserver.client.partition import Partition
from metaserver.client.read_options import ReadOptions
from metaserver.client.reader import PartitionReader, Surroundings
from metaserver.client.replica_choice import ReplicaChoice
from metaserver.epochs import EpochChain, LogHistory, common_end
from metaserver.message import encode_record
from metaserver.names import MAX_OFFSET
from metaserver.registry.paths import Replica
from tests.client.wires import EXTENSIONS, Wires

if TYPE_CHECKING:
    from trio.testing import MockClock

    from metaserver.client.replica_choice import ReadFrom
    from tests.client.wires import Broker, Request

PARTITION = Partition("t", 0, 0)
MASTER, SLAVE = Replica(0), Replica(0, 0)


@attrs.define(eq=False)
class Place:
    """A reader, and a log that its brokers may answer from."""

    wires: Wires
    log: bytes = b"".join(encode_record(b"%d" % number, 1 + number) for number in range(10))
    told: list[int] = attrs.Factory(list)
    moves: list[int] = attrs.Factory(list)
    losses: list[int] = attrs.Factory(list)
    histories: int = 0
    """How often it was told of a new one."""

    def reader(
        self,
        position: int = 0,
        read_from: ReadFrom = "any",
        stored_id: int | None = None,
        **options: int,
    ) -> PartitionReader:
        around = Surroundings(
            "g",
            ReadOptions(**options),
            self.wires.network,
            ReplicaChoice(read_from, deal_seconds=1e9, random=random.Random(1)),
            lambda reader: self.told.append(len(reader.messages)),
            lambda _reader, offset: self.moves.append(offset),
            lambda _reader, offset: self.losses.append(offset),
            self.know,
        )
        return PartitionReader(PARTITION, around, position, stored_id)

    def read(
        self,
        position: int = 0,
        read_from: ReadFrom = "any",
        stored_id: int | None = None,
        **options: int,
    ) -> PartitionReader:
        """A started one, of brokers that have announced themselves."""
        self.wires.announce("t")
        reader = self.reader(position, read_from, stored_id, **options)
        reader.start()
        return reader

    def know(self, _reader: PartitionReader) -> None:
        self.histories += 1

    def answer(self, request: Request, end: int | None = None) -> None:
        """From the log, where it ends there."""
        log = self.log[:end]
        if request.offset < len(log):
            request.value(log[request.offset : request.offset + request.size_max])
        else:
            request.result(404, "nothing")


@pytest.fixture
async def wires(nursery: trio.Nursery) -> Wires:
    found = Wires()
    nursery.start_soon(found.timers.run)
    return found


@pytest.fixture
async def place(wires: Wires) -> Place:
    return Place(wires)


async def asked(broker: Broker, seconds: float = 30.0) -> Request:
    """The next request, which comes within a time."""
    with trio.move_on_after(seconds):
        while not broker.is_asked():
            await trio.sleep(0.01)
    assert broker.is_asked(), "nothing was asked"
    return broker.one()


def payloads(reader: PartitionReader) -> list[bytes]:
    return [reader.take().payload for _ in range(len(reader.messages))]


async def test_messages_come_in_order_with_one_request_at_a_time(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    reader = place.read(prefetch_bytes=10_000)
    found: list[bytes] = []
    for cut in (50, 71, 100, len(place.log)):
        request = broker.one()
        assert request.offset == len(b"".join(encode_record(payload, 0) for payload in found))
        assert request.wait_ms == 10_000
        request.value(place.log[request.offset : cut])
        found += payloads(reader)
    assert found == [b"%d" % number for number in range(10)]
    assert reader.held_bytes == 0
    assert reader.end_offset == len(place.log)
    assert place.told == [2, 1, 1, 6]


async def test_no_more_is_fetched_than_waits_to_be_taken(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    reader = place.read(prefetch_bytes=84, fetch_bytes=84)
    place.answer(broker.one())
    assert len(reader.messages) == 4
    assert not broker.is_asked()
    reader.take()
    reader.take()
    assert not broker.is_asked()
    reader.take()
    assert broker.one().offset == 84


async def test_the_end_is_waited_for_at_the_broker(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    reader = place.read(position=210)
    for _ in range(5):
        request = broker.one()
        await trio.sleep(10.0)
        request.result(404, "nothing")
        assert broker.is_asked()
    assert reader.end_offset == 210


async def test_nothing_at_once_is_asked_again_after_growing_pauses(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    reader = place.read(position=210)
    count, began = 0, trio.current_time()
    while trio.current_time() < began + 60.0:
        (await asked(broker)).result(404, "no such partition")
        count += 1
    assert 60 <= count < 75
    place.answer(await asked(broker), end=210)
    broker.one() if broker.is_asked() else None
    reader.seek(0)
    place.answer(broker.one())
    assert len(reader.messages) == 10


async def test_a_slave_without_long_poll_is_not_asked_more_often(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    master, slave = wires.broker(), wires.broker(slave_id=0)
    for broker in (master, slave):
        broker.extensions = frozenset()
        broker.connect()
    place.read(position=210, read_from="slave")
    count, began = 0, trio.current_time()
    while trio.current_time() < began + 60.0:
        if slave.is_asked():
            slave.one().result(404, "nothing")
            master.one().result(404, "nothing")
            count += 1
        await trio.sleep(0.01)
    assert 50 <= count < 75


async def test_what_the_slave_has_not_yet_comes_from_the_master(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    master, slave = wires.broker(), wires.broker(slave_id=0)
    reader = place.read(read_from="slave")
    place.answer(slave.one(), end=84)
    request = slave.one()
    assert (request.offset, request.wait_ms) == (84, 1000)
    await trio.sleep(1.0)
    request.result(404, "nothing")
    probe = master.one()
    assert (probe.offset, probe.wait_ms) == (84, 0)
    place.answer(probe)
    assert payloads(reader) == [b"%d" % number for number in range(10)]
    assert reader.served_by == MASTER
    # It is left for a while, and returned to.
    assert master.one().offset == 210
    reader.seek(210)
    master.one() if master.is_asked() else None
    await trio.sleep(2.0)
    reader.seek(210)
    assert slave.is_asked()


async def test_a_slave_that_begins_later_than_the_master_passes_nothing_over(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    master, slave = wires.broker(), wires.broker(slave_id=0)
    reader = place.read(read_from="slave")
    slave.one().result(301, "105")
    place.answer(await asked(master))
    assert payloads(reader) == [b"%d" % number for number in range(10)]
    assert place.moves == []
    # Alone it is believed: those who have more are gone.
    reader.stop()
    wires.announce("t", replicas=[SLAVE])
    lonely = place.reader(read_from="slave")
    lonely.start()
    slave.one() if slave.is_asked() else None
    lonely.seek(0)
    slave.one().result(301, "105")
    assert place.moves == [105]
    assert slave.one().offset == 105


async def test_a_slave_that_sends_back_is_left_for_the_master(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    master, slave = wires.broker(), wires.broker(slave_id=0)
    reader = place.read(position=105, read_from="slave")
    slave.one().result(301, "42")
    request = await asked(master)
    assert request.offset == 105
    place.answer(request)
    assert payloads(reader) == [b"5", b"6", b"7", b"8", b"9"]
    assert place.moves == []


@pytest.mark.parametrize("to", [42, 147])
async def test_the_master_decides_where_to_go_on(
    wires: Wires, place: Place, autojump_clock: MockClock, to: int
) -> None:
    broker = wires.broker()
    place.read(position=105)
    broker.one().result(301, str(to))
    assert place.moves == [to]
    assert broker.one().offset == to


async def test_the_masters_word_counts_also_where_the_slave_has_nothing(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    master, slave = wires.broker(), wires.broker(slave_id=0)
    reader = place.read(position=MAX_OFFSET, read_from="slave")
    slave.one().result(404, "no such partition")
    assert reader.end_offset is None
    master.one().result(301, "210")
    assert (place.moves, reader.position) == ([210], 210)


@pytest.mark.parametrize("text", ["", "soon", "1 2"])
async def test_a_move_that_cannot_be_read_is_a_failure(
    wires: Wires, place: Place, autojump_clock: MockClock, text: str
) -> None:
    broker = wires.broker()
    reader = place.read()
    broker.one().result(301, text)
    assert reader.problem
    place.answer(await asked(broker))
    assert (len(reader.messages), reader.problem) == (10, "")


async def test_a_move_to_the_same_place_makes_pauses(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    place.read()
    count, began = 0, trio.current_time()
    while trio.current_time() < began + 60.0:
        (await asked(broker)).result(301, "0")
        count += 1
    assert count < 80


async def test_the_size_grows_for_a_large_message_and_shrinks_behind_it(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    place.log = encode_record(bytes(1000), 1) + place.log
    reader = place.reader(fetch_bytes=300)
    reader.start()
    sizes = []
    for _ in range(4):
        request = broker.one()
        sizes.append(request.size_max)
        place.answer(request)
        if reader.messages:
            break
    assert sizes == [300, 600, 1200]
    assert reader.messages[0].payload == bytes(1000)
    assert broker.one().size_max == 300


async def test_a_damaged_record_makes_no_fetch_larger_and_is_told(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    damaged = bytearray(encode_record(bytes(1000), 1))
    damaged[500] ^= 1
    place.log = bytes(damaged) * 100
    reader = place.reader(fetch_bytes=3000)
    reader.start()
    count, began = 0, trio.current_time()
    while trio.current_time() < began + 120.0:
        request = await asked(broker)
        assert request.size_max == 3000
        place.answer(request)
        assert "no whole, valid record" in reader.problem
        count += 1
    assert count < 120
    # Another copy may be sound.
    place.log = encode_record(b"sound", 1)
    place.answer(await asked(broker))
    assert (payloads(reader), reader.problem) == ([b"sound"], "")


async def test_a_damaged_replica_is_left_for_a_sound_one(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    master, slave = wires.broker(), wires.broker(slave_id=0)
    reader = place.read(read_from="slave")
    slave.one().value(b"\xff" * 100)
    place.answer(await asked(master))
    assert len(reader.messages) == 10


@pytest.mark.parametrize("status", [400, 500, 503])
async def test_an_error_is_asked_about_again_with_pauses(
    wires: Wires, place: Place, autojump_clock: MockClock, status: int
) -> None:
    broker = wires.broker()
    reader = place.read()
    count, began = 0, trio.current_time()
    while trio.current_time() < began + 60.0:
        (await asked(broker)).result(status, "no")
        assert str(status) in reader.problem
        count += 1
    assert 4 < count < 60


async def test_a_silent_broker_is_connected_to_anew(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    reader = place.read(wait_ms=1000)
    broker.one()
    await trio.sleep(10.9)
    assert not broker.is_broken()
    await trio.sleep(0.2)
    assert broker.is_broken()
    broker.connect()
    place.answer(await asked(broker))
    assert len(reader.messages) == 10


async def test_the_only_replica_is_read_again_as_soon_as_it_is_back(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    reader = place.read()
    broker.one()
    for away_seconds in (0.1, 5.0, 60.0, 600.0):
        broker.disconnect("refused")
        await trio.sleep(away_seconds)
        assert "refused" in reader.problem or "no replica" in reader.problem
        broker.connect()
        await asked(broker, seconds=2.1)
    reader.stop()


async def test_a_replica_that_goes_is_left_at_once_and_returned_to(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    master, slave = wires.broker(), wires.broker(slave_id=0)
    reader = place.read(read_from="slave")
    slave.one()
    slave.disconnect("refused")
    request = await asked(master, seconds=0.2)
    slave.connect()
    place.answer(request)
    payloads(reader)
    await trio.sleep(5.0)
    master.one().result(404, "nothing")
    assert (await asked(slave, seconds=1.1)).offset == 210


async def test_a_broker_that_is_being_connected_to_is_no_problem(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker(is_connected=False)
    reader = place.read()
    await trio.sleep(2.0)
    assert reader.problem == ""
    await trio.sleep(2.0)
    assert reader.problem in ("not connected yet", "no replica can be reached")
    broker.connect()
    await asked(broker, seconds=2.1)
    assert reader.problem == ""
    reader.stop()


async def test_a_replica_nobody_announces_is_waited_for(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    reader = place.reader()
    reader.start()
    await trio.sleep(30.0)
    assert reader.problem == "no broker announces it"
    wires.announce("t")
    place.answer(await asked(broker, seconds=2.1))
    assert reader.problem == ""


async def test_who_has_the_place_of_the_one_asked_is_asked_at_once(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    """What a master that is one no more still says is nobody's but its own."""
    before = wires.broker()
    reader = place.read()
    request = before.one()
    wires.announce("t")
    assert not before.is_asked(), "nothing has changed for this reader"
    following = wires.succeed(MASTER)
    assert following.one().offset == 0
    request.value(place.log)
    assert not reader.messages


async def test_paused_it_asks_for_nothing_and_goes_on_where_it_was(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    reader = place.read()
    request = broker.one()
    reader.is_paused = True
    request.value(place.log[:42])
    assert len(reader.messages) == 2
    await trio.sleep(60.0)
    assert not broker.is_asked()
    reader.is_paused = False
    reader.fetch()
    assert broker.one().offset == 42


async def test_an_answer_from_before_a_seek_is_dropped(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    reader = place.read()
    old = broker.one()
    reader.seek(84)
    new = broker.one()
    place.answer(old)
    assert (len(reader.messages), reader.held_bytes, reader.position) == (0, 0, 84)
    place.answer(new)
    assert payloads(reader)[0] == b"4"
    await trio.sleep(100.0)
    assert len(wires.timers._heap) - wires.timers._dead <= 1


async def test_stopped_it_drops_what_comes_and_leaves_nothing_behind(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    reader = place.read()
    request = broker.one()
    reader.stop()
    place.answer(request)
    assert (len(reader.messages), place.told) == (0, [])
    await trio.sleep(100.0)
    assert not broker.is_asked()
    assert wires.timers._heap == []
    assert reader.around.choice._starts == {}


async def test_a_broker_without_long_poll_is_not_asked_for_it(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = wires.broker(is_connected=False)
    broker.extensions = EXTENSIONS - {"long-poll"}
    broker.connect()
    place.read()
    assert broker.one().wait_ms == 0


# A log that has lost its end.


def knows_epochs(broker: Broker) -> Broker:
    broker.extensions = EXTENSIONS | {"epochs"}
    broker.connect()
    return broker


FIRST, SECOND, THIRD = "1 00000000000000aa 0\n", "2 00000000000000bb 84\n", "3 00000000000000cc 147\n"


async def test_a_new_master_is_read_from_where_its_log_parts(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = knows_epochs(wires.broker())
    reader = place.read()
    assert broker.one().words[:3] == ("t", "0", "0")
    broker.disconnect()
    broker.connect()
    (await asked(broker)).result(200, FIRST)
    place.answer(broker.one())
    reader.take()
    assert broker.one().offset == len(place.log) == 210
    broker.disconnect()
    # Two messages in the middle of what was read are another's, and they are longer.
    place.log = place.log[:84] + b"".join(encode_record(b"new %d" % number, 77) for number in range(20))
    broker.connect()
    request = await asked(broker)
    assert request.verb == "epochs"
    request.result(200, FIRST + SECOND)
    assert place.losses == [84]
    assert payloads(reader) == [b"1", b"2", b"3"], "what was not handed out yet is gone"
    place.answer(broker.one())
    assert payloads(reader)[:2] == [b"new 0", b"new 1"]


async def test_a_restart_of_the_master_takes_nothing_back(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = knows_epochs(wires.broker())
    place.read(position=147)
    broker.one().result(200, FIRST + SECOND)
    broker.one().value(place.log[147:])
    assert broker.one().offset == 210
    assert place.histories == 0
    third = FIRST + SECOND + "3 00000000000000cc 210\n"
    for count, told in enumerate((third, third, third + "4 00000000000000dd 231\n")):
        broker.disconnect()
        broker.connect()
        (await asked(broker)).result(200, told)
        assert broker.one().offset == 210
        assert place.histories == (1, 1, 2)[count]
    assert place.losses == []


async def test_a_slave_that_has_not_followed_yet_is_not_read(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    master, slave = knows_epochs(wires.broker()), knows_epochs(wires.broker(0, 0))
    wires.announce("t", replicas=[MASTER])
    reader = place.reader(position=147, read_from="slave")
    reader.start()
    master.one().result(200, FIRST + SECOND)
    master.one().value(place.log[147:189])
    wires.announce("t")
    master.one().value(place.log[189:])
    payloads(reader)
    # It holds more than the new master has in common with it.
    (await asked(slave)).result(200, FIRST)
    assert (await asked(master)).offset == 210
    assert place.losses == []


async def test_a_slave_that_has_not_followed_is_not_read_where_the_new_master_begins_either(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    """What was read is the same in both logs; what comes next is not."""
    master, slave = knows_epochs(wires.broker()), knows_epochs(wires.broker(0, 0))
    wires.announce("t", replicas=[MASTER])
    reader = place.reader(position=147, read_from="slave")
    reader.start()
    master.one().result(200, FIRST + "2 00000000000000bb 210\n")
    master.one().value(place.log[147:189])
    wires.announce("t")
    master.one().value(place.log[189:])
    payloads(reader)
    (await asked(slave)).result(200, FIRST)
    assert (await asked(master)).offset == 210
    assert place.losses == []


async def test_a_master_that_stays_master_is_right_also_with_an_older_epoch(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    """Its predecessor had begun another epoch and was gone before anybody else had heard of it."""
    broker = knows_epochs(wires.broker())
    reader = place.read()
    broker.one().result(200, FIRST + "3 00000000000000cc 84\n")
    place.answer(broker.one())
    payloads(reader)
    broker.disconnect()
    broker.connect()
    for _ in range(5):
        (await asked(broker)).result(200, FIRST + SECOND)
        assert place.losses == []
    (await asked(broker)).result(200, FIRST + SECOND)
    assert place.losses == [84]
    place.answer(await asked(broker))
    assert payloads(reader)[0] == b"4"


async def test_a_slave_that_is_behind_and_gave_nothing_takes_nothing_back(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    """The offset was stored, and nothing is known of what was read before it."""
    master, slave = knows_epochs(wires.broker()), knows_epochs(wires.broker(0, 0))
    place.read(position=189, read_from="slave")
    slave.one().result(200, FIRST)
    slave.one().result(301, "84")
    (await asked(master)).result(200, FIRST + SECOND)
    assert (await asked(master)).offset == 189
    assert place.losses == []


async def test_a_replica_is_compared_anew_with_what_is_known_since(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    master, slave = knows_epochs(wires.broker()), knows_epochs(wires.broker(0, 0))
    reader = place.read(read_from="slave")
    slave.one().result(200, FIRST)
    slave.one().value(place.log[:84])
    payloads(reader)
    # It has nothing more, and the master, which is another by now, is asked.
    slave.one().result(404, "nothing yet")
    (await asked(master)).result(200, FIRST + "2 00000000000000bb 84\n")
    assert (await asked(slave)).verb == "epochs", "over the same connection as before"


async def test_a_stored_offset_of_another_log_leads_back_to_what_the_group_has_not_read(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    """Ids of the log: 5 at 84, 8 at 147, 9 before 189. The group had 3, and what a master wrote that was none any more."""
    broker = knows_epochs(wires.broker())
    place.read(position=189, stored_id=3)
    broker.one().result(200, FIRST + SECOND + THIRD)
    for offset, size in ((0, 189), (84, 20)):
        request = broker.one()
        assert (request.offset, request.size_max, request.words[1]) == (offset, size, "meta-client")
        place.answer(request)
    assert place.losses == [84]
    assert broker.one().offset == 84


async def test_a_stored_offset_of_this_log_is_read_on_from(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = knows_epochs(wires.broker())
    place.read(position=189, stored_id=9)
    broker.one().result(200, FIRST + SECOND + THIRD)
    place.answer(broker.one())
    request = broker.one()
    assert request.offset == 189
    place.answer(request)
    broker.disconnect()
    broker.connect()
    # What was read is known from here on, and the id is of no use any more.
    (await asked(broker)).result(200, FIRST + SECOND + THIRD)
    assert broker.one().offset == 210
    assert place.losses == []


async def test_a_stored_offset_is_no_offset_of_a_log_that_ends_where_its_master_begins(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = knows_epochs(wires.broker())
    place.read(position=231, stored_id=11)
    broker.one().result(200, FIRST + "2 00000000000000bb 210\n")
    for offset in (0, 210):
        request = broker.one()
        assert request.offset == offset
        place.answer(request)
    assert place.losses == [210]
    assert broker.one().offset == 210


async def test_a_slave_without_what_its_master_began_with_decides_nothing(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    master, slave = knows_epochs(wires.broker()), knows_epochs(wires.broker(0, 0))
    place.read(position=189, read_from="slave", stored_id=9)
    slave.one().result(200, FIRST + SECOND)
    place.answer(slave.one(), end=84)
    (await asked(master)).result(200, FIRST + SECOND)
    place.answer(master.one())
    assert master.one().offset == 189
    assert place.losses == []


@pytest.mark.parametrize("answer", ["210 189", "210", "168"])
async def test_behind_what_was_passed_over_the_stored_id_says_nothing(
    wires: Wires, place: Place, autojump_clock: MockClock, answer: str
) -> None:
    """Left out, damaged, or past the end: no message of that id ends where the reader stands then."""
    broker = knows_epochs(wires.broker())
    place.read(position=189, stored_id=9)
    broker.one().result(200, FIRST + SECOND)
    place.answer(broker.one())
    broker.one().result(301, answer)
    assert broker.one().offset == int(answer.split(maxsplit=1)[0])
    broker.disconnect()
    broker.connect()
    (await asked(broker)).result(200, FIRST + SECOND)
    request = broker.one()
    assert request.offset == int(answer.split(maxsplit=1)[0])
    assert request.wait_ms, "it reads, and does not ask about the past"


async def test_what_is_gone_may_have_been_read(wires: Wires, place: Place, autojump_clock: MockClock) -> None:
    broker = knows_epochs(wires.broker())
    place.read(position=189, stored_id=3)
    broker.one().result(200, FIRST + SECOND)
    broker.one().result(301, "189")
    request = broker.one()
    assert (request.offset, request.size_max) == (84, 20)
    request.result(301, "189")
    assert broker.one().offset == 189
    assert place.losses == []


@pytest.mark.parametrize(("status", "text"), [(403, "Partition[0-0] has been closed"), (500, "no disk")])
async def test_what_is_refused_is_asked_again_before_anything_is_read(
    wires: Wires, place: Place, autojump_clock: MockClock, status: int, text: str
) -> None:
    broker = knows_epochs(wires.broker())
    reader = place.read(position=189, stored_id=3)
    for _ in range(3):
        (await asked(broker)).result(200, FIRST + SECOND)
        request = broker.one()
        assert request.offset == 0
        request.result(status, text)
        assert bool(reader.problem) == (status == 500), "a closed partition is none"
    assert reader.position == 189
    (await asked(broker)).result(200, FIRST + SECOND)
    place.answer(broker.one())
    assert place.losses == [84]


async def test_an_offset_where_no_record_begins_leads_back_to_the_masters_begin(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    """It was stored of the log of a master that was none any more."""
    broker = knows_epochs(wires.broker())
    reader = place.read(position=100)
    broker.one().result(200, FIRST + SECOND + "3 00000000000000cc 168\n")
    for _ in range(4):
        request = await asked(broker)
        assert request.offset == 100
        place.answer(request)
    assert place.losses == []
    place.answer(await asked(broker))
    assert place.losses == [84]
    place.answer(await asked(broker))
    assert payloads(reader)[0] == b"4"


async def test_damage_in_a_log_of_one_master_leads_nowhere(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = knows_epochs(wires.broker())
    place.read(position=100)
    broker.one().result(200, FIRST)
    for _ in range(8):
        place.answer(await asked(broker))
    assert place.losses == []


async def test_an_empty_partition_has_no_history(
    wires: Wires, place: Place, autojump_clock: MockClock
) -> None:
    broker = knows_epochs(wires.broker())
    reader = place.read()
    broker.one().result(404, "The topic `t` in partition `0` is not exists")
    place.answer(broker.one())
    assert len(payloads(reader)) == 10


@pytest.mark.parametrize(
    ("known", "told", "position", "common"),
    [
        (FIRST, FIRST, 100, 100),
        (FIRST, FIRST + SECOND, 100, 84),
        (FIRST, FIRST + SECOND, 80, 80),
        (FIRST + SECOND, FIRST, 100, 84),
        (FIRST + SECOND, FIRST + SECOND + THIRD, 200, 147),
        (FIRST + SECOND, FIRST + "2 00000000000000ee 84\n", 200, 84),
        (FIRST + SECOND, FIRST + "3 00000000000000ee 42\n", 200, 42),
        ("", SECOND, 200, 84),
        ("", SECOND, 50, 50),
        ("", "", 200, 200),
    ],
)
def test_where_histories_part(known: str, told: str, position: int, common: int) -> None:
    one, other = (LogHistory(EpochChain.parse(text), 0, position) for text in (known, told))
    assert (common_end(one, other) or 0) == common
    assert (common_end(other, one) or 0) == common
