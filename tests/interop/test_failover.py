"""Java clients with our brokers, found in a registry: members, brokers and masters that come and go."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.interop.java_member import JavaError, RefusedError, in_time
from tests.interop.place import Place, RegisteredBroker, Registry
from tests.registry.ensembles import Embedded
from tools.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.java_member import Delivery, JavaMember, Sent
    from tests.support import BrokerProcess

pytestmark = pytest.mark.java

NO_CONNECTION = "无可用连接"
"""How the Java client says that it has no usable connection."""

ORDERS = "[topic=orders]\nnumPartitions=4\n"
ONE = "[topic=orders]\n"
HEADER_BYTES = 20


def ids(messages: list[Sent] | list[Delivery]) -> list[tuple[str, int]]:
    return sorted((message.partition, message.message_id) for message in messages)


def by_end(delivery: Delivery) -> int:
    return delivery.end


def shares(place: Place, group: str) -> list[int]:
    """How many partitions each owner has."""
    owners = list(place.owners(group, "orders").values())
    return sorted(owners.count(owner) for owner in set(owners))


def wait_replicated(slave: BrokerProcess, master: BrokerProcess) -> None:
    in_time(
        lambda: slave.read_all("orders") == master.read_all("orders"), "the slave has what the master has"
    )


def wait_each_once(place: Place, *consumers: str, sent: list[Sent]) -> None:
    """All that was accepted, and nothing twice; what nobody knows to be accepted may be among it."""

    def received() -> list[tuple[str, int]]:
        return [one for consumer in consumers for one in ids(place.java.received(consumer))]

    expected = set(ids(sent))
    in_time(lambda: expected <= set(received()), f"{len(expected)} messages")
    assert len(received()) == len(set(received()))


def connections(broker: BrokerProcess) -> int:
    """How many a broker has, beside the one that asks."""
    (line,) = [line for line in broker.statistics() if line.startswith("curr_connections ")]
    return int(line.split()[1]) - 1


def test_the_survivor_of_two_members_takes_over_and_shares_again(place: Place) -> None:
    place.broker(ORDERS)
    victim = place.member()
    victim.consume("victim", "factory", "group", "orders", id="victim")
    survivor = place.consumer("group", "orders", id="survivor")
    in_time(lambda: shares(place, "group") == [2, 2], "the shares of two")
    producer = place.producer("orders")
    sent = place.java.produce(producer, "orders", 40)
    victim.wait_received("victim", 20)
    place.java.wait_received(survivor, 20)

    victim.kill()
    in_time(lambda: shares(place, "group") == [4], "the share of the only one that is left")
    sent += place.java.produce(producer, "orders", 40, first=40)
    expected = set(ids(sent))
    in_time(
        lambda: set(ids(victim.received("victim") + place.java.received(survivor))) == expected,
        "all messages, with one member killed",
    )
    # What the victim had not stored comes again; the survivor's own does not.
    received = ids(place.java.received(survivor))
    assert len(received) == len(set(received))

    third = place.member()
    third.consume("third", "factory", "group", "orders", id="third")
    in_time(lambda: shares(place, "group") == [2, 2], "the shares of two again")
    sent = place.java.produce(producer, "orders", 40, first=80)
    in_time(
        lambda: set(ids(sent)) <= set(ids(third.received("third") + place.java.received(survivor))),
        "all messages, shared again",
    )
    third.stop()
    in_time(lambda: shares(place, "group") == [4], "the share of the one that stayed")


def test_a_member_that_was_given_up_comes_back_with_a_new_session(place: Place) -> None:
    place.broker(ORDERS)
    sleeper = place.member()
    sleeper.consume("sleeper", "factory", "group", "orders", id="sleeper")
    other = place.consumer("group", "orders", id="other")
    in_time(lambda: shares(place, "group") == [2, 2], "the shares of two")
    producer = place.producer("orders")
    sent = place.java.produce(producer, "orders", 20)
    sleeper.wait_received("sleeper", 10)
    with sleeper.frozen():
        in_time(lambda: shares(place, "group") == [4], "its session ends")
        sent += place.java.produce(producer, "orders", 20, first=20)
        expected = set(ids(sent))
        in_time(
            lambda: expected <= set(ids(sleeper.received("sleeper") + place.java.received(other))),
            "what was its own, at the other",
        )
    in_time(lambda: shares(place, "group") == [2, 2], "it is back")
    sent = place.java.produce(producer, "orders", 20, first=40)
    in_time(
        lambda: set(ids(sent)) <= set(ids(sleeper.received("sleeper") + place.java.received(other))),
        "what came since",
    )
    sleeper.stop()


def test_java_clients_live_through_a_crash_of_our_registry(java: JavaMember, tmp_path: Path) -> None:
    registry = Embedded(tmp_path / "registry" / "data")
    place = Place(Registry("embedded", registry.address), java, tmp_path)
    try:
        registry.start()
        place.broker(ORDERS)
        consumer = place.consumer("group", "orders", id="old")
        producer = place.producer("orders")
        sent = java.produce(producer, "orders", 20)
        java.wait_received(consumer, 20)
        owners = place.owners("group", "orders")
        registry.kill()
        # Who has found a broker needs the registry no more.
        sent += java.produce(producer, "orders", 20, first=20)
        assert ids(java.wait_received(consumer, 40)) == ids(sent)
        registry.start()
        place.wait_committed(
            "group", "orders", {one.partition: one.end for one in sorted(java.received(consumer), key=by_end)}
        )
        assert place.owners("group", "orders") == owners
        second = place.consumer("group", "orders", id="second")
        in_time(lambda: shares(place, "group") == [2, 2], "the shares of two")
        sent += java.produce(place.producer("orders"), "orders", 20, first=40)
        wait_each_once(place, consumer, second, sent=sent)
    finally:
        place.close()
        registry.make_sure_it_is_gone()
    assert "Traceback" not in registry.output


def test_a_broker_that_is_its_own_registry_is_killed_under_java_clients(
    java: JavaMember, tmp_path: Path
) -> None:
    registry_port = free_port()
    section = f"[zookeeper]\nregistryPort={registry_port}\nzk.zkSyncTimeMs=0\n"
    settings: dict[str, object] = {"serverPort": free_port()}
    broker = RegisteredBroker(tmp_path / "broker", settings=settings, topics=ORDERS, registry=section)
    place = Place(Registry("embedded", f"127.0.0.1:{registry_port}"), java, tmp_path, root="/meta")
    place.brokers.append(broker)
    broker.start()
    try:
        consumer = place.consumer("group", "orders")
        producer = place.producer("orders")
        sent = java.produce(producer, "orders", 20)
        java.wait_received(consumer, 20)
        broker.kill()
        broker.start()
        sent += java.produce_through(producer, "orders", 20)
        wait_each_once(place, consumer, sent=sent)
        # Who comes new finds all of it.
        latecomer = place.consumer("latecomers", "orders")
        wait_each_once(place, latecomer, sent=sent)
    finally:
        place.close()


def test_a_member_goes_on_exactly_where_the_one_before_stopped(place: Place) -> None:
    place.broker(ORDERS)
    producer = place.producer("orders")
    place.java.produce(producer, "orders", 20)
    member = place.member()
    member.consume("one", "factory", "group", "orders")
    received = member.wait_received("one", 20)
    member.stop()
    # Message id and offset of the last message of each partition.
    last = {one.partition: one for one in sorted(received, key=by_end)}
    assert place.offsets("group", "orders") == {
        partition: f"{one.message_id}-{one.end}" for partition, one in last.items()
    }

    second = place.java.produce(producer, "orders", 20, first=20)
    follower = place.consumer("group", "orders")
    assert ids(place.java.wait_received(follower, 20)) == ids(second)
    begins = {
        one.partition: one.end - one.length - HEADER_BYTES for one in place.java.received(follower)[::-1]
    }
    assert begins == {partition: one.end for partition, one in last.items()}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "kill"])
@pytest.mark.scenario(101)
def test_a_restart_of_the_broker_under_load_loses_nothing(place: Place, end: signal.Signals) -> None:
    broker = place.broker(ORDERS)
    consumer = place.consumer("group", "orders")
    producer = place.producer("orders")
    flow = place.java.begin_producing(producer, "orders")

    def accepted() -> int:
        return sum(one.sent is not None for one in place.java.produced(producer))

    in_time(lambda: accepted() >= 200, "two hundred are accepted")
    if end is signal.SIGTERM:
        assert broker.stop() == 0
    else:
        broker.kill()
    before = accepted()
    broker.start()
    in_time(lambda: accepted() >= before + 200, "two hundred more behind the restart")
    produced = place.java.halt(producer, flow)
    sent = [one.sent for one in produced if one.sent is not None]
    # Once each: the consumer stayed, and so did its place.
    wait_each_once(place, consumer, sent=sent)
    assert {stored.message_id for n in range(4) for stored in broker.read_all("orders", n)} >= {
        one.message_id for one in sent
    }


@pytest.mark.scenario(65, 66)
def test_one_way_messages_arrive_and_wait_for_their_broker(place: Place) -> None:
    broker = place.broker("[topic=orders]\nnumPartitions=2\n")
    # Its own process, because what is not sent lies in its home directory.
    member = place.member()
    member.factory("oneway", kind="oneway")
    member.producer("producer", "oneway", "orders")
    member.consume("consumer", "factory", "group", "orders")

    def send(first: int, count: int) -> set[str]:
        for number in range(first, first + count):
            member.send_one_way("producer", "orders", f"message {number}")
        return {f"message {number}" for number in range(first, first + count)}

    expected = send(0, 50)

    def received() -> set[str]:
        return {one.body for one in member.received("consumer")} - {"probe"}

    def has_heard() -> bool:
        # Before it has, the client loses what it sends one way, with any broker.
        try:
            member.send("producer", "orders", "probe")
        except JavaError as error:
            assert "no aviable partition" in error.text  # noqa: PT017 - any other is a fault
            return True
        return False

    in_time(lambda: received() == expected, "all have come")
    assert broker.stop() == 0
    in_time(has_heard, "the producer knows that the broker is away")
    expected |= send(50, 10)
    broker.start()
    in_time(lambda: received() == expected, "what was kept has come")


@pytest.mark.scenario(61, 62, 63)
def test_ordered_messages_wait_for_their_broker_and_keep_their_order(place: Place) -> None:
    brokers = [place.broker("[topic=orders]\nnumPartitions=2\n", broker_id=number) for number in range(2)]
    layout = ["0-0", "0-1", "1-0", "1-1"]
    # Its own process, because the store of unsent messages is one for all factories of a process.
    member = place.member()
    member.factory("ordered", kind="ordered", layout={"orders": "0:2;1:2"})
    member.producer("producer", "ordered", "orders")
    member.consume("consumer", "factory", "group", "orders")
    expected: dict[str, list[str]] = {partition: [] for partition in layout}

    def send(number: int) -> Sent:
        partition = layout[number % 4]
        text = f"{partition} {number}"
        expected[partition].append(text)
        accepted: list[Sent] = []

        def is_accepted() -> bool:
            # The client makes all its connections anew when a broker goes or comes: what is sent in between it
            # refuses by itself, and neither sends nor keeps.
            try:
                accepted.append(member.send("producer", "orders", text, attribute=str(number)))
            except RefusedError as error:
                assert error.text == NO_CONNECTION  # noqa: PT017 - any other refusal is a fault
                return False
            return True

        in_time(is_accepted, f"message {number} is accepted")
        assert accepted[0].partition == partition
        return accepted[0]

    assert all(send(number).offset >= 0 for number in range(20))
    assert brokers[1].stop() == 0
    in_time(lambda: member.partitions("ordered", "orders") == ["0-0", "0-1"], "the broker has left")
    for number in range(20, 40):
        # Kept by the client, where the broker is away.
        assert (send(number).offset == -1) == layout[number % 4].startswith("1-")
    brokers[1].start()
    in_time(lambda: member.partitions("ordered", "orders") == layout, "the broker is back")
    member.wait_received("consumer", 40)
    for number in range(40, 60):
        send(number)
    received = member.wait_received("consumer", 60)
    assert len(received) == 60
    for partition in layout:
        assert [one.body for one in received if one.partition == partition] == expected[partition]
    member.stop()


@pytest.mark.scenario(46)
def test_a_slave_that_comes_and_goes_disturbs_nobody(place: Place) -> None:
    master = place.broker(ORDERS)
    slave = place.slave(master)
    consumer = place.consumer("group", "orders")
    producer = place.producer("orders")
    sent = place.java.produce_through(producer, "orders", 5)
    for step in (slave.start, slave.stop, slave.start):
        step()
        sent += place.java.produce_through(producer, "orders", 5)
        wait_each_once(place, consumer, sent=sent)
    assert place.announced("orders") == {"0-m": 4, "0-s0": 4}
    assert place.announced("orders", "topics-pub").keys() == {"0-m", "0-s0"}
    wait_replicated(slave, master)


@pytest.mark.scenario(47)
def test_consumers_read_from_the_slave_while_the_master_is_away(place: Place) -> None:
    master = place.broker(ONE)
    slave = place.slave(master)
    slave.start()
    producer = place.producer("orders")
    sent = place.java.produce_through(producer, "orders", 5)
    consumer = place.consumer("group", "orders")
    place.java.wait_received(consumer, 5)
    place.wait_committed("group", "orders", {"0-0": place.java.received(consumer)[-1].end})
    place.java.close(consumer)

    sent += place.java.produce_through(producer, "orders", 5)
    wait_replicated(slave, master)
    assert master.stop() == 0
    assert place.announced("orders") == {"0-s0": 1}
    consumers = [consumer, place.consumer("group", "orders"), place.consumer("latecomers", "orders")]
    wait_each_once(place, *consumers[:2], sent=sent)
    wait_each_once(place, consumers[2], sent=sent)

    # Back to the master, by itself, for what only the master has so far.
    master.start()
    slave.stop()
    sent += place.java.produce_through(producer, "orders", 5)
    wait_each_once(place, *consumers[:2], sent=sent)
    wait_each_once(place, consumers[2], sent=sent)


@pytest.mark.scenario(47)
def test_a_running_consumer_moves_to_the_slave_and_back(place: Place) -> None:
    master = place.broker(ONE)
    slave = place.slave(master)
    slave.start()
    producer = place.producer("orders")
    consumer = place.consumer("group", "orders")
    sent = place.java.produce_through(producer, "orders", 5)
    place.java.wait_received(consumer, 5)
    wait_replicated(slave, master)
    assert connections(slave) == 0
    assert master.stop() == 0
    in_time(lambda: connections(slave) == 1, "the consumer is at the slave")
    master.start()
    in_time(lambda: connections(slave) == 0, "the consumer is at the master again")
    sent += place.java.produce_through(producer, "orders", 5)
    wait_each_once(place, consumer, sent=sent)


@pytest.mark.scenario(48, 49)
def test_two_masters_with_three_slaves_that_come_and_go(place: Place) -> None:
    masters = [place.broker(ONE, broker_id=number) for number in range(2)]
    slaves = [place.slave(masters[0], 0), place.slave(masters[0], 1), place.slave(masters[1], 0)]
    consumer = place.consumer("group", "orders")
    producer = place.producer("orders")
    sent = place.java.produce_through(producer, "orders", 5)
    steps = [slaves[0].start, slaves[1].start, slaves[2].start, slaves[0].stop, slaves[0].start]
    for step in steps:
        step()
        sent += place.java.produce_through(producer, "orders", 5)
    wait_each_once(place, consumer, sent=sent)
    assert place.announced("orders") == {"0-m": 1, "0-s0": 1, "0-s1": 1, "1-m": 1, "1-s0": 1}
    for slave, master in zip(slaves, [masters[0], masters[0], masters[1]], strict=True):
        wait_replicated(slave, master)
    # Both masters away: what a new group reads comes from slaves.
    for master in masters:
        assert master.stop() == 0
    latecomer = place.consumer("latecomers", "orders")
    wait_each_once(place, latecomer, sent=sent)
