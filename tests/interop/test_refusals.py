"""Java clients with our brokers, found in a registry: what is refused, retried, rolled back and rejected."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.interop.java_member import JavaError, RefusedError, in_time

if TYPE_CHECKING:
    from tests.interop.place import Place

pytestmark = pytest.mark.java

ONE = "[topic=orders]\n"
NO_PARTITION = "There is no aviable partition for topic"


@pytest.mark.scenario(26, 27, 28, 79)
def test_the_client_refuses_blank_names_bad_groups_and_a_topic_twice(place: Place) -> None:
    place.broker(ONE)
    factory = place.factory()
    with pytest.raises(JavaError, match="Blank topic"):
        place.producer("", factory=factory)
    with pytest.raises(JavaError, match="Blank group") as blank:
        place.consumer("", "orders", factory=factory)
    assert blank.value.kind == "InvalidConsumerConfigException"
    with pytest.raises(JavaError, match="invalid character") as invalid:
        place.consumer("~!@#$%", "orders", factory=factory)
    assert invalid.value.kind == "InvalidConsumerConfigException"
    with pytest.raises(JavaError) as twice:
        place.consumer("group", "orders", "orders", factory=factory)
    assert twice.value.kind == "MetaClientException"


@pytest.mark.scenario(29, 30, 51)
def test_nothing_is_sent_to_a_topic_that_is_not_published_or_of_no_broker(place: Place) -> None:
    broker = place.broker(ONE)
    producer = place.producer()
    with pytest.raises(JavaError, match=NO_PARTITION) as unpublished:
        place.java.send(producer, "orders", "x")
    assert unpublished.value.kind == "MetaClientException"
    producer = place.producer("nowhere")
    with pytest.raises(JavaError, match=NO_PARTITION):
        place.java.send(producer, "nowhere", "x")
    assert not broker.read_all("orders")


@pytest.mark.scenario(31)
def test_a_topic_of_punctuation_is_a_topic(place: Place) -> None:
    place.broker("[topic=!@#$%]\n")
    sent = place.java.send(place.producer("!@#$%"), "!@#$%", "x")
    (received,) = place.java.wait_received(place.consumer("group", "!@#$%"), 1)
    assert (received.topic, received.message_id) == ("!@#$%", sent.message_id)


@pytest.mark.scenario(32, 103)
def test_a_default_topic_leads_to_a_broker_that_takes_any_topic(place: Place) -> None:
    place.broker("[topic=*]\nnumPartitions=2\n\n[topic=orders]\nnumPartitions=2\n")
    producer = place.producer()
    place.java.ask("default", producer, topic="orders")
    sent = place.java.produce(producer, "never-published", 5)
    in_time(lambda: place.announced("never-published") == {"0-m": 2}, "the new topic")
    received = place.java.wait_received(place.consumer("group", "never-published"), 5)
    assert {one.message_id for one in received} == {one.message_id for one in sent}


@pytest.mark.scenario(33)
def test_a_topic_that_is_not_for_publishing_has_no_partition_to_send_to(place: Place) -> None:
    place.broker(f"{ONE}\n[topic=internal]\nacceptPublish=false\nacceptSubscribe=false\n")
    producer = place.producer("orders", "internal")
    sent = place.java.produce(producer, "orders", 5)
    with pytest.raises(JavaError, match=NO_PARTITION):
        place.java.send(producer, "internal", "x")
    received = place.java.wait_received(place.consumer("group", "orders", "internal"), 5)
    assert {one.message_id for one in received} == {one.message_id for one in sent}
    assert not place.owners("group", "internal")


@pytest.mark.scenario(34, 76)
def test_a_message_whose_listener_fails_is_delivered_again(place: Place) -> None:
    place.broker(ONE)
    place.java.produce(place.producer("orders"), "orders", 2)
    consumer = place.consumer("group", "orders", fail="throw", times=2, only="message-1", retries=10)
    received = place.java.wait_received(consumer, 4)
    place.wait_committed("group", "orders", {"0-0": received[-1].end})
    bodies = [one.body for one in place.java.received(consumer)]
    assert bodies == ["message-0", "message-1", "message-1", "message-1"]


@pytest.mark.scenario(35)
def test_a_rejected_message_is_recovered_later(place: Place) -> None:
    place.broker(ONE)
    place.java.produce(place.producer("orders"), "orders", 2)
    # Its own process, because the store of rejected messages is one for all factories of a process.
    member = place.member()
    member.consume(
        "consumer", "factory", "group", "orders", fail="throw", times=7, only="message-0", retries=5
    )
    received = member.wait_received("consumer", 9)
    assert Counter(one.body for one in received) == {"message-0": 8, "message-1": 1}
    assert [one.body for one in received[:7]] == ["message-0"] * 6 + ["message-1"]
    member.stop()


@pytest.mark.scenario(36, 76)
def test_a_message_rolled_back_twice_is_delivered_three_times(place: Place) -> None:
    place.broker(ONE)
    place.java.produce(place.producer("orders"), "orders", 5)
    consumer = place.consumer("group", "orders", fail="rollback", times=2, size=1024)
    received = place.java.wait_received(consumer, 15)
    place.wait_committed("group", "orders", {"0-0": received[-1].end})
    bodies = [one.body for one in place.java.received(consumer)]
    assert bodies == [f"message-{number}" for number in range(5) for _ in range(3)]


@pytest.mark.scenario(37)
def test_what_is_not_acknowledged_by_hand_comes_again(place: Place) -> None:
    place.broker(ONE)
    sent = place.java.produce(place.producer("orders"), "orders", 5)
    consumer = place.consumer("group", "orders", rollbackAt=5, ackAt=10)
    received = place.java.wait_received(consumer, 10)
    place.wait_committed("group", "orders", {"0-0": received[-1].end})
    received = place.java.received(consumer)
    assert [one.message_id for one in received] == [one.message_id for one in sent] * 2


@pytest.mark.scenario(75)
def test_a_message_that_fails_too_often_goes_to_the_reject_handler(place: Place) -> None:
    place.broker(ONE)
    sent = place.java.produce(place.producer("orders"), "orders", 3)
    consumer = place.consumer(
        "group", "orders", fail="throw", times=1000, only="message-0", retries=2, reject="yes"
    )
    received = place.java.wait_received(consumer, 5)
    place.wait_committed("group", "orders", {"0-0": received[-1].end})
    bodies = [one.body for one in place.java.received(consumer)]
    assert bodies == ["message-0", "message-0", "message-0", "message-1", "message-2"]
    assert [one.message_id for one in place.java.rejected(consumer)] == [sent[0].message_id]


@pytest.mark.scenario(52)
def test_a_refusal_is_a_result_with_the_brokers_words(place: Place) -> None:
    broker = place.broker(ONE)
    producer = place.producer()
    place.java.ask("default", producer, topic="orders")
    with pytest.raises(RefusedError, match="The server do not accept topic nowhere"):
        place.java.send(producer, "nowhere", "x")
    (line,) = [line for line in broker.statistics() if line.startswith("cmd_put ")]
    assert line == "cmd_put 1"
