"""Java clients with our brokers, found in a registry: sending and consuming in groups."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.interop.java_member import Delivery, RefusedError, body, in_time
from tests.support import checksum

if TYPE_CHECKING:
    from tests.interop.java_member import Sent
    from tests.interop.place import Place

pytestmark = pytest.mark.java

ORDERS = "[topic=orders]\nnumPartitions=3\n"
TWO_TOPICS = f"{ORDERS}\n[topic=returns]\n"
PUNCTUATION = "!@#$%^&*()_+=-~`[]{}|\\;:'\",.<>/? \t\r\n"
RECORD_BYTES_MAX = 1 << 20
HEADER_BYTES = 20

both_sizes = pytest.mark.parametrize("brokers", [1, 2], ids=["one broker", "two brokers"])


def start_brokers(place: Place, count: int, topics: str) -> None:
    for broker_id in range(count):
        place.broker(topics, broker_id=broker_id)


def ids(messages: list[Sent] | list[Delivery]) -> list[tuple[str, int]]:
    """What makes a message one of its own, sorted."""
    return sorted((message.partition, message.message_id) for message in messages)


def offsets_behind(deliveries: list[Delivery]) -> dict[str, int]:
    """By partition, where a group stands that has had these."""
    return {delivery.partition: delivery.end for delivery in sorted(deliveries, key=lambda one: one.end)}


@both_sizes
@pytest.mark.scenario(1, 2, 45, 53)
def test_a_group_receives_what_was_sent_before(place: Place, brokers: int) -> None:
    start_brokers(place, brokers, ORDERS)
    sent = place.java.produce(place.producer("orders"), "orders", 2 * 3 * brokers)
    assert {one.partition for one in sent} == {f"{broker}-{n}" for broker in range(brokers) for n in range(3)}
    consumer = place.consumer("group", "orders")
    received = place.java.wait_received(consumer, len(sent))
    assert ids(received) == ids(sent)
    assert sorted(one.body.encode() for one in received) == sorted(
        body("message", n) for n in range(len(sent))
    )
    assert {one.attribute for one in received} == {None}
    # The producer is told the offset at which the consumer then finds the record.
    begins = {(one.partition, one.end - HEADER_BYTES - one.length) for one in received}
    assert begins == {(one.partition, one.offset) for one in sent}


@pytest.mark.scenario(38, 105)
def test_a_filter_of_the_broker_leads_no_java_client_astray(place: Place) -> None:
    """Messages of different lengths, in runs of different lengths: MetaQ's own broker makes its client stand still."""
    place.broker("[topic=orders]\ngroup.payers=attribute = 'paid'\n")
    producer = place.producer("orders")
    sent = [
        (attribute, one)
        for number, (attribute, count) in enumerate(
            [("open", 3), ("paid", 1), ("open", 1), ("paid", 4), ("open", 20), ("paid", 2), ("open", 2)]
        )
        for one in place.java.produce(
            producer, "orders", count, prefix=f"p{number}", size=10 + 17 * number, attribute=attribute
        )
    ]
    paid = [one for attribute, one in sent if attribute == "paid"]
    payers, everybody = place.consumer("payers", "orders"), place.consumer("everybody", "orders")
    assert ids(place.java.wait_received(everybody, len(sent))) == ids([one for _, one in sent])
    received = place.java.wait_received(payers, len(paid))
    assert ids(received) == ids(paid)
    # What comes later arrives too, and nothing has come twice.
    place.java.produce(producer, "orders", 5, prefix="later-open", attribute="open")
    paid += place.java.produce(producer, "orders", 3, prefix="later-paid", attribute="paid")
    assert ids(place.java.wait_received(payers, len(paid))) == ids(paid)


@pytest.mark.scenario(3)
def test_ten_thousand_messages_arrive_once_and_in_order(place: Place) -> None:
    place.broker(ORDERS, unflushThreshold=1000)
    consumer = place.consumer("group", "orders")
    sent = place.java.produce(place.producer("orders"), "orders", 10_000)
    received = place.java.wait_received(consumer, 10_000)
    assert ids(received) == ids(sent)
    for partition in ("0-0", "0-1", "0-2"):
        ends = [one.end for one in received if one.partition == partition]
        assert ends == sorted(ends)


@both_sizes
@pytest.mark.scenario(4, 5, 6, 7, 8, 9, 45)
def test_each_of_ten_groups_receives_what_ten_producers_send(place: Place, brokers: int) -> None:
    start_brokers(place, brokers, ORDERS)
    factory = place.factory()
    groups = [place.consumer(f"group-{number}", "orders", factory=factory) for number in range(10)]
    sent: list[Sent] = []
    for number in range(10):
        sent += place.java.produce(
            place.producer("orders", factory=factory), "orders", 5, prefix=f"p{number}"
        )
    assert len({one.message_id for one in sent}) == 50
    for consumer in groups:
        assert ids(place.java.wait_received(consumer, 50)) == ids(sent)


@both_sizes
@pytest.mark.scenario(10, 11, 12, 13, 14, 15)
def test_ten_groups_of_two_topics_receive_both_with_their_attributes(place: Place, brokers: int) -> None:
    start_brokers(place, brokers, TWO_TOPICS)
    factory = place.factory()
    producers = [place.producer("orders", "returns", factory=factory) for _ in range(10)]
    expected: Counter[tuple[str, str, str | None]] = Counter()
    for topic, attribute in (
        ("orders", None),
        ("orders", "same"),
        ("orders", "attribut\u00e4 \u4e00 %"),
        ("returns", "same"),
        ("returns", ""),
    ):
        for number, producer in enumerate(producers):
            place.java.produce(producer, topic, 2, prefix=f"p{number}", attribute=attribute)
            expected.update((topic, body(f"p{number}", n).decode(), attribute) for n in range(2))
    for number in range(10):
        consumer = place.consumer(f"group-{number}", "orders", "returns", factory=factory)
        received = place.java.wait_received(consumer, 100)
        assert Counter((one.topic, one.body, one.attribute) for one in received) == expected


@pytest.mark.scenario(16, 83)
def test_six_members_of_a_group_share_the_partitions_and_have_each_message_once(place: Place) -> None:
    place.broker("[topic=orders]\nnumPartitions=10\n")
    sent = place.java.produce(place.producer("orders"), "orders", 100)
    members = [place.consumer("group", "orders", id=f"member{n}", hold="yes") for n in range(6)]
    # In the order of strings, in blocks as even as they go.
    expected = {f"0-{n}": f"group_member{member}" for n, member in enumerate([0, 0, 1, 1, 2, 2, 3, 3, 4, 5])}
    in_time(lambda: place.owners("group", "orders") == expected, "the shares of six")
    for member in members:
        place.java.release(member)
    assert ids(place.java.wait_received(members, 100)) == ids(sent)
    place.wait_committed("group", "orders", offsets_behind(place.java.wait_received(members, 100)))
    assert len(place.java.wait_received(members, 100)) == 100


@pytest.mark.scenario(17, 18)
def test_empty_bodies_and_punctuation_arrive_as_they_are(place: Place) -> None:
    place.broker(ORDERS)
    producer = place.producer("orders")
    texts = ["", "", "", "", "", PUNCTUATION, PUNCTUATION, "\u4e00\x00\U0001f600"]
    for text in texts:
        place.java.send(producer, "orders", text)
    consumer = place.consumer("group", "orders")
    received = place.java.wait_received(consumer, len(texts))
    assert sorted(one.body for one in received) == sorted(texts)
    assert sorted(one.length for one in received) == sorted(len(text.encode()) for text in texts)


def test_a_record_of_all_that_a_fetch_may_carry_arrives_and_a_longer_one_is_refused(place: Place) -> None:
    place.broker("[topic=orders]\n", maxTransferSize=RECORD_BYTES_MAX)
    producer = place.producer("orders")
    size = RECORD_BYTES_MAX - HEADER_BYTES
    place.java.produce(producer, "orders", 3, size=size)
    with pytest.raises(RefusedError, match=str(RECORD_BYTES_MAX)):
        place.java.send(producer, "orders", "x" * (size + 1))
    place.java.produce(producer, "orders", 1, first=3)
    consumer = place.consumer("group", "orders", size=RECORD_BYTES_MAX)
    received = place.java.wait_received(consumer, 4)
    expected = [body("message", number, size) for number in range(3)] + [body("message", 3)]
    assert [one.length for one in received] == [len(data) for data in expected]
    assert [one.checksum & 0x7FFFFFFF for one in received] == [checksum(data) for data in expected]


@pytest.mark.scenario(19)
def test_fifty_messages_of_two_mebibytes_arrive(place: Place) -> None:
    place.broker("[topic=orders]\n", maxTransferSize=5 << 20)
    size = 2 << 20
    sent = place.java.produce(place.producer("orders"), "orders", 50, size=size)
    consumer = place.consumer("group", "orders", size=5 << 20)
    received = place.java.wait_received(consumer, 50)
    assert [one.message_id for one in received] == [one.message_id for one in sent]
    expected = [checksum(body("message", number, size)) for number in range(50)]
    assert [one.checksum & 0x7FFFFFFF for one in received] == expected


@pytest.mark.scenario(20)
def test_callbacks_are_called_with_what_was_stored(place: Place) -> None:
    place.broker(ORDERS)
    producer = place.producer("orders")
    sent = [place.java.send(producer, "orders", f"m{number}", is_callback=True) for number in range(5)]
    received = place.java.wait_received(place.consumer("group", "orders"), 5)
    # The result of a callback knows the place; the id stays with the message.
    assert sorted((one.partition, one.offset) for one in sent) == sorted(
        (one.partition, one.end - HEADER_BYTES - one.length) for one in received
    )


@pytest.mark.scenario(21, 77)
def test_a_fetch_of_one_byte_grows_until_a_message_fits(place: Place) -> None:
    place.broker("[topic=orders]\n")
    sent = place.java.produce(place.producer("orders"), "orders", 5)
    consumer = place.consumer("group", "orders", size=1, retries=1000)
    assert ids(place.java.wait_received(consumer, 5)) == ids(sent)


@pytest.mark.scenario(22)
def test_a_subscription_to_a_topic_of_no_broker_leaves_the_others_alone(place: Place) -> None:
    place.broker(ORDERS)
    consumer = place.consumer("group", "nowhere", "orders")
    sent = place.java.produce(place.producer("orders"), "orders", 5)
    assert ids(place.java.wait_received(consumer, 5)) == ids(sent)
    assert not place.owners("group", "nowhere")
    assert not place.offsets("group", "nowhere")


@pytest.mark.scenario(23, 72)
def test_from_the_end_means_what_is_sent_from_then_on(place: Place) -> None:
    place.broker("[topic=orders]\n")
    producer = place.producer("orders")
    before = place.java.produce(producer, "orders", 5, prefix="before")
    end = before[-1].offset + HEADER_BYTES + len("before-4")
    consumer = place.consumer("group", "orders", max="once")
    place.wait_committed("group", "orders", {"0-0": end})
    after = place.java.produce(producer, "orders", 6, prefix="after")
    assert ids(place.java.wait_received(consumer, 6)) == ids(after)
    place.java.close(consumer)

    # The group has its place now: "once" goes on there, "always" leaves out what came meanwhile.
    away = place.java.produce(producer, "orders", 2, prefix="away")
    consumer = place.consumer("group", "orders", max="once")
    assert ids(place.java.wait_received(consumer, 2)) == ids(away)
    place.java.close(consumer)
    unseen = place.java.produce(producer, "orders", 2, prefix="unseen")
    consumer = place.consumer("group", "orders", max="always")
    place.wait_committed("group", "orders", {"0-0": unseen[-1].offset + HEADER_BYTES + len("unseen-1")})
    seen = place.java.produce(producer, "orders", 1, prefix="seen")
    assert ids(place.java.wait_received(consumer, 1)) == ids(seen)


@pytest.mark.scenario(24, 82)
def test_a_topic_browser_finds_everything_that_a_group_has_consumed(place: Place) -> None:
    place.broker("[topic=orders]\nnumPartitions=10\n")
    factory = place.factory()
    sent = place.java.produce(place.producer("orders", factory=factory), "orders", 100)
    place.java.wait_received(place.consumer("group", "orders", factory=factory), 100)
    assert place.java.partitions(factory, "orders") == [f"0-{number}" for number in range(10)]
    browsed = place.java.browse(factory, "orders")
    # Partition by partition; the client does not tell which.
    expected = sorted(sent, key=lambda one: (one.partition, one.offset))
    assert [one.message_id for one in browsed] == [one.message_id for one in expected]


@pytest.mark.scenario(68)
def test_a_broadcast_consumer_is_a_group_of_its_own_for_each_machine(place: Place) -> None:
    place.broker(ORDERS)
    sent = place.java.produce(place.producer("orders"), "orders", 5)
    name = f"everybody{place.number}{place.registry.kind}"
    consumer = place.consumer(name, "orders", factory=place.factory("extended"), broadcast="yes")
    assert ids(place.java.wait_received(consumer, 5)) == ids(sent)
    with place.spy() as spy:
        (group,) = spy.get_children("/consumers")
    assert group.startswith(f"{name}-")
    assert "." not in group
    # It keeps its offsets in a file.
    assert not place.offsets(group, "orders")


@pytest.mark.scenario(73)
def test_a_filter_of_the_client_passes_over_the_rest(place: Place) -> None:
    place.broker("[topic=orders]\n")
    producer = place.producer("orders")
    place.java.produce(producer, "orders", 3, prefix="odd")
    kept = place.java.produce(producer, "orders", 3, prefix="even")
    consumer = place.consumer("group", "orders", filter="even")
    assert ids(place.java.wait_received(consumer, 3)) == ids(kept)
    failing = place.consumer("another", "orders", filterFails="odd")
    assert ids(place.java.wait_received(failing, 3)) == ids(kept)


@pytest.mark.scenario(80, 81)
def test_a_read_by_hand_goes_from_batch_to_batch_and_ends_with_nothing(place: Place) -> None:
    place.broker("[topic=orders]\n")
    factory = place.factory()
    sent = place.java.produce(place.producer("orders", factory=factory), "orders", 5, attribute="attribute")
    # Without a subscription of its own the client has no connection that it may read with.
    consumer = place.consumer("group", "orders", factory=factory)
    place.java.wait_received(consumer, 5)
    first = place.java.read(consumer, "orders", "0-0", 0)
    assert first is not None
    assert [one.message_id for one in first] == [one.message_id for one in sent]
    assert {one.attribute for one in first} == {"attribute"}
    record_bytes = HEADER_BYTES + 4 + len("attribute") + len("message-0")
    assert [one.end for one in first] == [record_bytes * number for number in range(1, 6)]
    last = place.java.read(consumer, "orders", "0-0", sent[4].offset)
    assert last is not None
    assert [one.message_id for one in last] == [sent[4].message_id]
    assert place.java.read(consumer, "orders", "0-0", first[-1].end) is None
