"""What is announced for a configuration, and what is done about a node that is found."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from metaserver.config import parse_server_config
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.registry.paths import Layout, Replica
from metaserver.registry.registration import (
    Create,
    Delete,
    DesiredNode,
    ExistingNode,
    Plan,
    Registration,
    Retire,
    Rule,
    Store,
    TopicRegistration,
    Write,
    broker_nodes,
    departure,
    plan,
    topic_nodes,
    topics_to_register,
)

LAYOUT = Layout("/meta")
MASTER, SLAVE = Replica(0), Replica(0, 2)
OURS, OTHERS = 7, 8
SERVER_INI = """\
[system]
brokerId=0
dataPath=data
numPartitions=1
unflushThreshold=0
unflushInterval=1000
maxSegmentSize=1048576
maxTransferSize=1048576
deletePolicy=delete,168
[topic=orders]
numPartitions=4
[topic=dyn*]
numPartitions=3
[topic=inbox]
acceptSubscribe=false
[topic=archive]
acceptPublish=false
"""


def partition(topic: str, number: int) -> TopicPartition:
    return TopicPartition(Topic(topic), PartitionId(number))


def registration(replica: Replica) -> Registration:
    return Registration(replica, "10.0.0.1", 8123, 4242, ())


def test_topics_of_a_configuration() -> None:
    config = parse_server_config(SERVER_INI, source="server.ini", base_directory=Path("/x"), lenient=False)
    opened = [partition("dynamo", 1), partition("old", 0), partition("old", 5), partition("orders", 9)]
    assert topics_to_register(config, opened) == (
        TopicRegistration("orders", 4),
        TopicRegistration("dyn*", 3),
        TopicRegistration("inbox", 1, accept_subscribe=False),
        TopicRegistration("archive", 1, accept_publish=False),
        # By the values of the section that speaks for it, however many partitions have been opened.
        TopicRegistration("dynamo", 3),
        # No section speaks for it any more: to be read, not to be written.
        TopicRegistration("old", 6, accept_publish=False),
    )


def test_nodes_of_a_master() -> None:
    assert broker_nodes(LAYOUT, registration(MASTER)) == [
        DesiredNode("/meta/brokers/ids/0/master", b"meta://10.0.0.1:8123", Rule.CLAIM),
        DesiredNode("/meta/brokers/ids/0", b"meta://10.0.0.1:8123", Rule.RECORD),
        DesiredNode("/meta/brokers/ids/0/master_config_checksum", b"4242", Rule.REPORT),
    ]


def test_a_slave_writes_nothing_of_the_masters() -> None:
    assert broker_nodes(LAYOUT, registration(SLAVE)) == [
        DesiredNode("/meta/brokers/ids/0/slave2", b"meta://10.0.0.1:8123", Rule.CLAIM),
        DesiredNode("/meta/brokers/ids/0/config_checksum-s2", b"", Rule.ABSENT),
    ]
    merged = attrs.evolve(registration(SLAVE), merged_checksum=7)
    assert broker_nodes(LAYOUT, merged)[1] == DesiredNode(
        "/meta/brokers/ids/0/config_checksum-s2", b"7", Rule.REPORT
    )


@pytest.mark.parametrize("accept_publish", [True, False])
@pytest.mark.parametrize("accept_subscribe", [True, False])
def test_nodes_of_a_topic(accept_publish: bool, accept_subscribe: bool) -> None:
    topic = TopicRegistration("t", 4, accept_publish, accept_subscribe)
    data = b'{"numParts":4,"broker":"0-s2"}'
    assert topic_nodes(LAYOUT, SLAVE, topic) == [
        DesiredNode("/meta/brokers/topics/t/0-s2", b"4", Rule.MEMBER),
        DesiredNode("/meta/brokers/topics-pub/t/0-s2", data, Rule.MEMBER if accept_publish else Rule.ABSENT),
        DesiredNode(
            "/meta/brokers/topics-sub/t/0-s2", data, Rule.MEMBER if accept_subscribe else Rule.ABSENT
        ),
    ]


NOTHING = Plan(())
MADE = Plan((Create("/n", b"new"),))
REPLACED = Plan((Delete("/n"), Create("/n", b"new")))
REMOVED = Plan((Delete("/n"),))
WRITTEN = Plan((Write("/n", b"new"),))
STORED = Plan((Store("/n", b"new"),))
RIVAL = ExistingNode(b"old", OTHERS)
RIVAL_FOR_EVER = ExistingNode(b"old", 0)


@pytest.mark.parametrize(
    ("rule", "found", "expected"),
    [
        (Rule.CLAIM, None, MADE),
        (Rule.CLAIM, ExistingNode(b"new", OURS), NOTHING),
        (Rule.CLAIM, ExistingNode(b"old", OURS), REPLACED),
        (Rule.CLAIM, ExistingNode(b"new", OTHERS), REPLACED),
        (Rule.CLAIM, RIVAL, Plan((), RIVAL)),
        (Rule.CLAIM, ExistingNode(b"new", 0), REPLACED),
        (Rule.CLAIM, RIVAL_FOR_EVER, Plan((), RIVAL_FOR_EVER)),
        (Rule.REPORT, None, MADE),
        (Rule.REPORT, ExistingNode(b"new", OURS), NOTHING),
        (Rule.REPORT, ExistingNode(b"old", OURS), WRITTEN),
        (Rule.REPORT, ExistingNode(b"new", OTHERS), REPLACED),
        (Rule.REPORT, ExistingNode(b"old", OTHERS), REPLACED),
        (Rule.MEMBER, None, MADE),
        (Rule.MEMBER, ExistingNode(b"new", OURS), NOTHING),
        (Rule.MEMBER, ExistingNode(b"old", OURS), REPLACED),
        (Rule.MEMBER, ExistingNode(b"new", OTHERS), REPLACED),
        (Rule.MEMBER, ExistingNode(b"new", 0), REPLACED),
        (Rule.RECORD, None, STORED),
        (Rule.RECORD, ExistingNode(b"new", 0), NOTHING),
        (Rule.RECORD, ExistingNode(b"", 0), STORED),
        (Rule.ABSENT, None, NOTHING),
        (Rule.ABSENT, ExistingNode(b"new", OURS), REMOVED),
        (Rule.ABSENT, ExistingNode(b"new", OTHERS), REMOVED),
    ],
)
def test_what_is_done(rule: Rule, found: ExistingNode | None, expected: Plan) -> None:
    assert plan([DesiredNode("/n", b"new", rule)], {"/n": found}, OURS) == expected


def test_nothing_is_done_beside_a_rival() -> None:
    claim, record = DesiredNode("/c", b"new", Rule.CLAIM), DesiredNode("/r", b"new", Rule.RECORD)
    assert plan([claim, record], {"/c": RIVAL, "/r": None}, OURS) == Plan((), RIVAL)
    assert plan([record, claim], {"/c": RIVAL, "/r": None}, OURS) == Plan((), RIVAL)


def test_the_order_of_leaving() -> None:
    assert departure(LAYOUT, MASTER, ["t"]) == (
        (
            Delete("/meta/brokers/ids/0/master"),
            Delete("/meta/brokers/ids/0/master_config_checksum"),
            Retire("/meta/brokers/ids/0"),
        ),
        (
            Delete("/meta/brokers/topics/t/0-m"),
            Delete("/meta/brokers/topics-pub/t/0-m"),
            Delete("/meta/brokers/topics-sub/t/0-m"),
        ),
    )
    own, _topics = departure(LAYOUT, SLAVE, [])
    assert own == (Delete("/meta/brokers/ids/0/slave2"), Delete("/meta/brokers/ids/0/config_checksum-s2"))
