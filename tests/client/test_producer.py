"""The producer between its callers and the brokers' answers, without a network and in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
import trio

from metaserver.client import OutgoingMessage, Partition
from metaserver.client.lane import Sent
from metaserver.client.producer import Producer
from metaserver.client.producer_options import ProducerOptions
from metaserver.errors import (
    NoPartitionError,
    SendError,
    SendFailedError,
    SendManyError,
    SendRefusedError,
    SendUnknownError,
    UnclearWriteError,
)
from metaserver.registry.paths import Replica
from tests.client.wires import Wires, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio.testing import MockClock

    from metaserver.client.pending_send import PendingSend

ZERO, ONE = Partition("t", 0, 0), Partition("t", 1, 0)


@pytest.fixture
async def wires(nursery: trio.Nursery) -> Wires:
    found = Wires()
    nursery.start_soon(found.timers.run)
    return found


def nowait(
    producer: Producer, payloads: Sequence[bytes], callback: Callable[[object], None] | None = None
) -> list[PendingSend]:
    return [producer.send_nowait("t", payload, callback=callback) for payload in payloads]


async def fate(pending: PendingSend) -> Sent | SendError:
    try:
        return await pending.wait()
    except SendError as error:
        return error


async def test_what_gathers_while_a_request_is_under_way_is_the_next_request(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    pending = nowait(producer, [b"1", b"2", b"3"])
    first = broker.one()
    assert (first.verb, first.payloads) == ("put", [b"1"])
    assert broker.take() == []
    first.take(offset=100, message_id=7)
    second = broker.one()
    assert (second.verb, second.payloads) == ("putbatch", [b"2", b"3"])
    second.take(offset=121, message_id=(9 << 22) | 4095)
    assert [await one.wait() for one in pending] == [
        Sent(ZERO, 7, 100),
        Sent(ZERO, (9 << 22) | 4095, 121),
        Sent(ZERO, 10 << 22, 142),
    ]
    assert producer.buffered == 0


async def test_a_broker_without_batches_gets_one_message_at_a_time(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker(is_connected=False)
    broker.extensions = frozenset()
    broker.connect()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    nowait(producer, [b"1", b"2", b"3"])
    for payload in (b"1", b"2", b"3"):
        request = broker.one()
        assert (request.verb, request.payloads) == ("put", [payload])
        request.take()


async def test_a_batch_that_is_refused_is_sent_one_by_one_and_then_batches_again(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    pending = nowait(producer, [b"0", b"1", b"bad", b"2"])
    broker.one().take()
    broker.one().result(500, "one of them is bad")
    later = nowait(producer, [b"3", b"4"])
    asked = []
    for status in (200, 500, 200):
        request = broker.one()
        asked.append(request.payloads)
        if status == 200:
            request.take()
        else:
            request.result(500, "bad")
    assert asked == [[b"1"], [b"bad"], [b"2"]]
    # More than was refused together is not to blame, however much keeps coming.
    request = broker.one()
    assert request.payloads == [b"3", b"4"]
    request.take()
    fates = [await fate(one) for one in [*pending, *later]]
    assert [type(one) for one in fates] == [Sent, Sent, SendRefusedError, Sent, Sent, Sent]


async def test_a_busy_broker_is_asked_again_after_a_pause_and_in_order(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    pending = nowait(producer, [b"0", b"1", b"2"])
    broker.one().take()
    pauses = []
    for _ in range(8):
        broker.one().result(503, "busy")
        nowait(producer, [b"later"])
        assert not broker.is_asked()
        before = trio.current_time()
        while not broker.is_asked():
            await trio.sleep(0.001)
        pauses.append(trio.current_time() - before)
    assert all(0.009 < pause < 1.01 for pause in pauses)
    assert pauses[-1] > 0.3
    request = broker.one()
    assert request.payloads == [b"1", b"2"] + [b"later"] * 8
    request.take()
    assert isinstance(await fate(pending[2]), Sent)
    producer.close()


async def test_a_time_that_is_over_while_the_broker_is_busy_is_a_failure(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions(timeout_seconds=1.0))
    (pending,) = nowait(producer, [b"0"])
    began = trio.current_time()
    while pending.outcome is None:
        if broker.is_asked():
            broker.one().result(503, "busy")
        await trio.sleep(0.01)
    outcome = await fate(pending)
    assert isinstance(outcome, SendFailedError)
    assert outcome.reason == "not sent in time: busy"
    assert 1.0 <= trio.current_time() - began < 1.2
    assert outcome.attempts > 1


async def test_a_closed_partition_that_is_alone_keeps_the_order_and_makes_pauses(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions(timeout_seconds=5.0))
    nowait(producer, [b"0", b"1", b"2"])
    broker.one().take()
    asked, began = 0, trio.current_time()
    while trio.current_time() < began + 3.0:
        if broker.is_asked():
            request = broker.one()
            assert request.payloads[:2] == [b"1", b"2"]
            request.result(403, "closed")
            nowait(producer, [b"more"])
            asked += 1
        await trio.sleep(0.001)
    assert 3 < asked < 30
    while not broker.is_asked():
        await trio.sleep(0.001)
    request = broker.one()
    assert request.payloads == [b"1", b"2"] + [b"more"] * asked
    request.take()
    assert producer.buffered == 0


async def test_a_closed_partition_is_left_for_another(wires: Wires, autojump_clock: MockClock) -> None:
    zero, one = wires.broker(0), wires.broker(1)
    wires.announce("t", {0: 1, 1: 1})
    producer = Producer(
        wires.network, ProducerOptions(), lambda _topic, partitions, _key, _payload: partitions[0]
    )
    free, *_ = nowait(producer, [b"free"])
    zero.one().result(403, "closed")
    request = one.one()
    assert request.payloads == [b"free"]
    request.take(offset=5)
    assert await free.wait() == Sent(ONE, 1, 5)
    bound = producer.send_nowait("t", b"bound", partition=ZERO)
    zero.one().result(403, "closed")
    outcome = await fate(bound)
    assert isinstance(outcome, SendRefusedError)
    assert outcome.status == 403
    # Not chosen for a while, and then again.
    nowait(producer, [b"2"])
    one.one().take()
    await trio.sleep(2.0)
    nowait(producer, [b"3"])
    assert zero.one().payloads == [b"3"]
    producer.close()


async def test_messages_of_a_key_stay_with_their_partition_while_it_is_closed(
    wires: Wires, autojump_clock: MockClock
) -> None:
    zero, one = wires.broker(0), wires.broker(1)
    wires.announce("t", {0: 1, 1: 1})
    producer = Producer(wires.network, ProducerOptions())
    keys = [b"%d" % number for number in range(40)]
    places = {}
    for key in keys:
        producer.send_nowait("t", key, key=key)
        broker = zero if zero.is_asked() else one
        broker.one().take()
        places[key] = broker
    assert set(places.values()) == {zero, one}
    producer.send_nowait("t", b"", partition=ZERO)
    zero.one().result(403, "closed")
    for key in keys:
        producer.send_nowait("t", key, key=key)
        broker = zero if zero.is_asked() else one
        broker.one().take()
        assert places[key] is broker
    # Nor does a broker whose connection has just broken send its keys elsewhere.
    zero.disconnect()
    pending = [producer.send_nowait("t", key, key=key) for key in keys]
    while one.is_asked():
        one.one().take()
    zero.connect()
    while zero.is_asked():
        zero.one().take()
    outcomes = {
        key: (await one_pending.wait()).partition for key, one_pending in zip(keys, pending, strict=True)
    }
    assert outcomes == {key: ZERO if places[key] is zero else ONE for key in keys}


async def test_what_was_not_sent_when_the_connection_broke_is_sent_again_in_order(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    pending = nowait(producer, [b"1", b"2", b"3"])
    broker.disconnect()
    assert producer.buffered == 3
    broker.connect()
    request = broker.one()
    assert request.payloads == [b"1", b"2", b"3"]
    request.take()
    assert all([isinstance(await fate(one), Sent) for one in pending])


async def test_what_was_sent_when_the_connection_broke_is_unknown(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    pending = nowait(producer, [b"1", b"2"])
    broker.one()
    broker.disconnect("it broke")
    outcome = await fate(pending[0])
    assert isinstance(outcome, SendUnknownError)
    assert pending[1].outcome is None
    broker.connect()
    request = broker.one()
    assert request.payloads == [b"2"]
    request.take()
    assert isinstance(await fate(pending[1]), Sent)


async def test_what_may_be_stored_is_sent_again_where_that_is_wanted_and_nowhere_else(
    wires: Wires, autojump_clock: MockClock
) -> None:
    zero, one = wires.broker(0), wires.broker(1)
    wires.announce("t", {0: 1, 1: 1})
    producer = Producer(
        wires.network, ProducerOptions(retry_unknown=True), lambda _t, found, _k, _p: found[0]
    )
    pending = nowait(producer, [b"1", b"2"])
    zero.one()
    zero.disconnect()
    # The second was never sent, so it may go elsewhere.
    request = one.one()
    assert request.payloads == [b"2"]
    request.take()
    await trio.sleep(1.0)
    assert not one.is_asked()
    zero.connect()
    request = zero.one()
    assert request.payloads == [b"1"]
    request.result(500, "no")
    # Refused now, but the first time it may have been stored.
    assert isinstance(await fate(pending[0]), SendUnknownError)
    assert isinstance(await fate(pending[1]), Sent)


async def test_an_answer_that_cannot_be_read_leaves_the_fate_unknown(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    for text in ("", "1", "a b c", "1 2 3 4 5"):
        (pending,) = nowait(producer, [b""])
        while not broker.is_asked():
            await trio.sleep(0.01)
        broker.one().result(200, text)
        assert isinstance(await fate(pending), SendUnknownError), text
    assert producer.buffered == 0


async def test_a_write_over_which_the_disk_failed_is_of_unknown_fate(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    (pending,) = nowait(producer, [b""])
    broker.one().result(500, str(UnclearWriteError(Path("/data/t-0"), "Input/output error")))
    assert isinstance(await fate(pending), SendUnknownError)


async def test_a_silent_broker_is_connected_to_anew(wires: Wires, autojump_clock: MockClock) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions(request_timeout_seconds=2.0))
    (pending,) = nowait(producer, [b""])
    broker.one()
    began = trio.current_time()
    outcome = await fate(pending)
    assert isinstance(outcome, SendUnknownError)
    assert "no answer" in outcome.reason
    assert trio.current_time() - began == pytest.approx(2.0, abs=0.1)
    assert broker.link.usable is None


async def test_lingering_waits_for_company_or_until_the_batch_is_full(
    wires: Wires, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    options = ProducerOptions(linger_seconds=0.5, batch_messages_max=3)
    producer = Producer(wires.network, options)
    nowait(producer, [b"1", b"2"])
    assert not broker.is_asked()
    await trio.sleep(0.4)
    assert not broker.is_asked()
    await trio.sleep(0.2)
    request = broker.one()
    assert request.payloads == [b"1", b"2"]
    request.take()
    nowait(producer, [b"3", b"4", b"5"])
    assert broker.one().payloads == [b"3", b"4", b"5"]
    producer.close()


async def test_waiting_lanes_set_no_timer_for_each_message(wires: Wires, autojump_clock: MockClock) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions(linger_seconds=5.0))
    nowait(producer, [b""] * 500)
    assert len(wires.timers._heap) < 10
    await trio.sleep(6.0)
    broker.one().result(503, "busy")
    nowait(producer, [b""] * 500)
    assert len(wires.timers._heap) < 10
    producer.close()


async def test_messages_wait_for_a_broker_that_comes_back_and_go_elsewhere_meanwhile(
    wires: Wires, autojump_clock: MockClock
) -> None:
    zero, one = wires.broker(0), wires.broker(1)
    wires.announce("t", {0: 2, 1: 1})
    producer = Producer(wires.network, ProducerOptions())
    zero.disconnect()
    bound = producer.send_nowait("t", b"bound", partition=ZERO)
    free = nowait(producer, [b"%d" % number for number in range(6)])
    while one.is_asked():
        one.one().take()
    assert all([(await pending.wait()).partition == ONE for pending in free])
    assert bound.outcome is None
    zero.connect()
    zero.one().take()
    assert (await bound.wait()).partition == ZERO


async def test_many_partitions_of_a_broker_that_is_away_are_left_at_once(
    wires: Wires, autojump_clock: MockClock
) -> None:
    zero, one = wires.broker(0), wires.broker(1)
    wires.announce("t", {0: 1000, 1: 1})
    producer = Producer(wires.network, ProducerOptions())
    zero.disconnect()
    pending = nowait(producer, [b"%d" % number for number in range(20)])
    while one.is_asked():
        one.one().take()
    assert all([(await each.wait()).partition == ONE for each in pending])


async def test_a_topic_whose_brokers_all_go_is_waited_for(wires: Wires, autojump_clock: MockClock) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions(timeout_seconds=3.0))
    (first,) = nowait(producer, [b"1"])
    broker.one().take()
    await first.wait()
    wires.announce("t", replicas=[])
    (late, soon) = nowait(producer, [b"2", b"3"])
    await trio.sleep(1.0)
    assert late.outcome is soon.outcome is None
    wires.announce("t")
    request = broker.one()
    assert request.payloads == [b"2", b"3"]
    request.take()
    wires.announce("t", replicas=[])
    (never,) = nowait(producer, [b"4"])
    outcome = await fate(never)
    assert isinstance(outcome, SendFailedError)
    assert "no partition" in outcome.reason
    producer.close()


async def test_who_has_a_partition_that_nobody_announces_is_told_so(
    wires: Wires, autojump_clock: MockClock
) -> None:
    wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    with pytest.raises(NoPartitionError, match="no broker announces"):
        producer.send_nowait("unknown", b"")
    with pytest.raises(NoPartitionError, match="0-9 is none"):
        producer.send_nowait("t", b"", partition=Partition("t", 0, 9))
    assert producer.buffered == 0


async def test_a_topic_is_looked_up_although_send_nowait_has_asked_for_it_before(
    wires: Wires, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    with pytest.raises(NoPartitionError):
        producer.send_nowait("new", b"")
    found: list[tuple[Partition, ...]] = []

    async def ask() -> None:
        found.append(await producer.partitions("new"))

    nursery.start_soon(ask)
    await settle()
    assert "new" in wires.discovery._topics
    wires.announce("new")
    wires.discovery._progress.set()
    await settle()
    assert found == [(Partition("new", 0, 0),)]


async def test_every_sender_that_waits_for_room_goes_on(
    wires: Wires, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions(buffer_bytes_max=1000))
    sent: list[Sent] = []

    async def send(number: int) -> None:
        sent.append(await producer.send("t", bytes(600), key=b"%d" % number))

    for number in range(5):
        nursery.start_soon(send, number)
    await settle()
    with pytest.raises(anyio.WouldBlock):
        producer.send_nowait("t", b"")
    for _ in range(5):
        assert broker.is_asked()
        broker.one().take()
        await settle()
    assert len(sent) == 5


async def test_everybody_who_waits_for_the_end_is_told(
    wires: Wires, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    ended: list[int] = []

    async def flush(number: int) -> None:
        await producer.flush()
        ended.append(number)

    nowait(producer, [b"1"])
    for number in range(3):
        nursery.start_soon(flush, number)
    await settle()
    broker.one().take()
    await settle()
    assert sorted(ended) == [0, 1, 2]


async def test_a_callback_that_raises_harms_nobody_else(wires: Wires, autojump_clock: MockClock) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())

    def fail(_outcome: object) -> None:
        raise ValueError("of the application")

    pending = nowait(producer, [b"0"]) + nowait(producer, [b"1"], callback=fail) + nowait(producer, [b"2"])
    broker.one().take()
    broker.one().take()
    assert all([isinstance(await fate(one), Sent) for one in pending])
    assert producer.buffered == 0


async def test_a_selector_that_raises_when_messages_go_elsewhere_is_their_failure(
    wires: Wires, autojump_clock: MockClock
) -> None:
    zero, one = wires.broker(0), wires.broker(1)
    wires.announce("t", {0: 1, 1: 1})
    is_broken = False

    def select(topic: str, partitions: Sequence[Partition], key: bytes | None, payload: bytes) -> Partition:
        if is_broken:
            raise IndexError("of the application")
        return partitions[0]

    producer = Producer(wires.network, ProducerOptions(), select)
    (pending,) = nowait(producer, [b"0"])
    is_broken = True
    with pytest.raises(IndexError):
        nowait(producer, [b"1"])
    zero.one().result(403, "closed")
    outcome = await fate(pending)
    assert isinstance(outcome, SendFailedError)
    assert "IndexError: of the application" in outcome.reason
    assert (producer.buffered, one.take()) == (0, [])
    # Nor may it stop who tells of changes of the cluster.
    is_broken = False
    wires.announce("t", replicas=[])
    (parked,) = nowait(producer, [b"2"])
    is_broken = True
    wires.announce("t", {0: 1, 1: 1})
    assert isinstance(await fate(parked), SendFailedError)


async def test_sending_many_while_brokers_are_away_finds_new_partitions(
    wires: Wires, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    zero, one = wires.broker(0), wires.broker(1)
    wires.announce("t", {0: 3, 1: 3})
    # Each message goes first where nobody is.
    producer = Producer(wires.network, ProducerOptions(), lambda _t, found, _k, payload: found[0])
    zero.disconnect()
    outcomes: list[Sent] = []

    async def send() -> None:
        outcomes.extend(await producer.send_many("t", [b"%d" % number for number in range(10)]))

    nursery.start_soon(send)
    await settle()
    while one.is_asked():
        one.one().take()
        await settle()
    assert len(outcomes) == 10


async def test_send_many_tells_the_fate_of_each(
    wires: Wires, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    raised: list[SendManyError] = []

    async def send() -> None:
        with pytest.raises(SendManyError) as caught:
            await producer.send_many("t", [b"1", OutgoingMessage(b"2", attribute="a", key=b"k"), b"3"])
        raised.append(caught.value)

    nursery.start_soon(send)
    await settle()
    request = broker.one()
    assert request.payloads == [b"1", b"2", b"3"]
    request.result(500, "no")
    for status in (200, 500, 200):
        request = broker.one()
        if status == 200:
            request.take()
        else:
            request.result(status, "no")
    await settle()
    assert [type(outcome) for outcome in raised[0].outcomes] == [Sent, SendRefusedError, Sent]


async def test_closing_tells_of_each_message_what_is_known(wires: Wires, autojump_clock: MockClock) -> None:
    broker = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    under_way, waiting = nowait(producer, [b"1", b"2"])
    request = broker.one()
    producer.close()
    assert isinstance(await fate(under_way), SendUnknownError)
    assert isinstance(await fate(waiting), SendFailedError)
    request.take()
    with pytest.raises(SendFailedError, match="closed"):
        nowait(producer, [b"3"])
    assert (producer.buffered, producer._buffered_bytes) == (0, 0)
    assert broker.link._listeners == {}
    assert wires.discovery._listeners == {}


async def test_a_broker_that_moves_to_another_address_is_followed(
    wires: Wires, autojump_clock: MockClock
) -> None:
    old = wires.broker()
    wires.announce("t")
    producer = Producer(wires.network, ProducerOptions())
    nowait(producer, [b"1"])
    old.one().take()
    new = wires.pool.link(("elsewhere", 1))
    moved = {**wires.discovery.cluster.brokers, Replica(0): new.address}
    old.disconnect()
    wires.discovery.cluster = type(wires.discovery.cluster)(
        moved, wires.discovery.cluster.published, wires.discovery.cluster.subscribed
    )
    producer._cluster_changed()
    (pending,) = nowait(producer, [b"2"])
    assert old.link._listeners == {}
    old.link = new
    old.connect()
    old.one().take()
    assert isinstance(await fate(pending), Sent)
