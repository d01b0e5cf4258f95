"""Every item of the stats command, line by line. Source: reference stats-http-dashboard, sections 1 and 2."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.support import get, put, put_batch, record

if TYPE_CHECKING:
    from tests.broker.conftest import StartBroker
    from tests.support import BrokerProcess

NUMBER = r"(invalid|0|0?\.[0-9]{1,2}|[1-9][0-9]*(\.[0-9]{1,2})?|0\.[0-9]{1,2})"
RESULT = re.compile(
    rf"Count=[0-9]+,Value=[0-9]+,Value/Count={NUMBER},Count/Duration={NUMBER},Duration=[0-9]+"
)


@pytest.fixture
def node(start_broker: StartBroker) -> BrokerProcess:
    return start_broker(
        "statistics",
        topics=(
            "[topic=test]\nnumPartitions=2\n\n[topic=quiet]\nstat=false\nacceptPublish=false\n\n"
            "[topic=wild*]\nacceptSubscribe=false\n\n[topic=empty]\n"
        ),
        maxTransferSize=2048,
    )


def counts(node: BrokerProcess) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in node.statistics())


def real_time(node: BrokerProcess, item: str, key: str) -> str:
    (line,) = (line for line in node.statistics(item) if line.split(" ")[0] == key)
    return line.partition(" ")[2]


def test_system_report(node: BrokerProcess) -> None:
    lines = node.statistics()
    assert [line.split(" ")[0] for line in lines] == [
        "pid",
        "broker_id",
        "port",
        "uptime",
        "version",
        "slave",
        "curr_connections",
        "threads",
        "cmd_put",
        "cmd_get",
        "cmd_offset",
        "tx_begin",
        "tx_xa_begin",
        "tx_commit",
        "tx_rollback",
        "get_miss",
        "put_failed",
        "total_messages",
        "topics",
        "config_checksum",
        "config_origin",
        "instance",
    ]
    values = dict(line.split(" ", 1) for line in lines)
    assert values["pid"] == str(node.pid)
    assert values["broker_id"] == "0"
    assert values["port"] == str(node.port)
    assert 0 <= int(values["uptime"]) < 60
    assert values["version"].startswith("1.4.6.2 ")
    assert values["slave"] == "false"
    assert values["curr_connections"] == "1"
    assert int(values["threads"]) >= 1
    for key in ("cmd_put", "cmd_get", "cmd_offset", "get_miss", "put_failed", "total_messages"):
        assert values[key] == "0"
    for key in ("tx_begin", "tx_xa_begin", "tx_commit", "tx_rollback"):
        assert values[key] == "0"
    assert values["topics"] == "4"
    assert values["config_checksum"] == str(zlib.crc32(node.server_file.read_bytes()))


@pytest.mark.parametrize("request_line", [b"stats\r\n", b"stats  5\r\n"])
def test_system_report_however_it_is_asked_for(node: BrokerProcess, request_line: bytes) -> None:
    reply = node.ask(request_line)
    assert reply.status == 200
    assert reply.opaque == (5 if b"5" in request_line else 2147483647)
    assert reply.text.startswith("STATS\r\npid ")
    assert reply.text.endswith("\r\nEND\r\n")


def test_requests_are_counted(node: BrokerProcess) -> None:
    with node.connect() as wire:
        wire.send(
            put("test", b"hello", 1)  # 200
            + put("test", b"hello", 2, partition=1)  # 200
            + put("test", b"hello", 3, partition=2)  # 500
            + put("nobody", b"hello", 4)  # 500
            + put("test", b"x" * 2029, 5)  # 500: too long
            + b"put test 0 1 0 7 6\r\nx"  # 500: checksum
            + put_batch("test", record(b"a") + record(b"b"), 7)  # 200, two messages
        )
        assert sorted(reply.status or 0 for reply in wire.replies(7)) == [200, 200, 200, 500, 500, 500, 500]
        wire.send(
            get("test", 0, 100, 1)  # value
            + get("test", 67, 100, 2)  # 404: the end
            + get("nobody", 0, 100, 3)  # 404: no store
            + get("test", -1, 100, 4)  # 301
            + get("test", 0, 0, 5)  # 400: no miss
            + b"offset test g 0 0 6\r\noffset nobody g 0 0 7\r\n"
        )
        statuses = {reply.opaque: reply.status for reply in wire.replies(7)}
        assert statuses == {1: None, 2: 404, 3: 404, 4: 301, 5: 400, 6: 200, 7: 404}
    values = counts(node)
    assert values["cmd_put"] == "8"
    assert values["put_failed"] == "4"
    assert values["cmd_get"] == "5"
    assert values["get_miss"] == "3"
    assert values["cmd_offset"] == "3"  # Two queries and one 301.
    assert values["total_messages"] == "4"


def test_topics(node: BrokerProcess) -> None:
    with node.connect() as wire:
        assert wire.ask(put("test", b"hello", 1)).status == 200
        assert wire.ask(put("test", b"hello", 2, partition=1)).status == 200
        assert wire.ask(put("test", b"hello", 3, partition=1)).status == 200
        assert wire.ask(put("quiet", b"", 4)).status == 200
        assert wire.ask(put("wild-1", b"x", 5)).status == 200
    lines = node.statistics("topics")
    assert sorted(lines[:3]) == [
        "quiet partitions 1 message_count 1 message_bytes 20 accept_publish false accept_subscribe true",
        "test partitions 2 message_count 3 message_bytes 75 accept_publish true accept_subscribe true",
        "wild-1 partitions 1 message_count 1 message_bytes 21 accept_publish true accept_subscribe false",
    ]
    assert lines[3:] == ["wild* *Empty*", "empty *Empty*"]
    assert counts(node)["topics"] == "5"


def test_offsets(node: BrokerProcess) -> None:
    assert node.statistics("offsets") == []
    with node.connect() as wire:
        assert wire.ask(put("test", b"hello", 1, partition=1)).status == 200
        assert wire.ask(put("quiet", b"", 2)).status == 200
    assert sorted(node.statistics("offsets")) == [
        "quiet part 0 min_offset 0 max_offset 20",
        "test part 1 min_offset 0 max_offset 25",
    ]


def test_help(node: BrokerProcess) -> None:
    lines = node.statistics("help")
    named = [line.split(" ")[0] for line in lines]
    assert named[0] == "*EMPTY*"
    assert {"help", "topics", "offsets", "realtime", "config"} <= set(named)
    assert all(" " in line for line in lines)


def test_real_time_statistics(node: BrokerProcess) -> None:
    keys = [
        "realtime_put",
        "realtime_get",
        "realtime_offset",
        "realtime_get_miss",
        "realtime_put_failed",
        "realtime_message_size",
    ]
    assert node.statistics("realtime") == [f"{key} null" for key in keys]
    with node.connect() as wire:
        wire.send(
            put("test", b"hello", 1)
            + put("test", b"hi", 2, partition=-1)
            + put("test", b"x", 3, partition=9)
            + put("quiet", b"hello", 7)
        )
        wire.replies(4)
        wire.send(
            get("test", 0, 100, 4)
            + get("test", 10**6, 100, 5)
            + b"offset test g 0 0 6\r\n"
            + get("quiet", 0, 100, 8)
        )
        wire.replies(4)
    lines = node.statistics("realtime")
    assert [line.split(" ")[0] for line in lines] == keys
    for line in lines:
        assert RESULT.fullmatch(line.partition(" ")[2]), line
    expected = {"put": (2, 2), "get": (2, 2), "offset": (1, 1), "get_miss": (1, 1), "put_failed": (1, 1)}
    for key, (count, value) in expected.items():
        for item, name in (("realtime", f"realtime_{key}"), ("test", f"topic_realtime_{key}")):
            assert real_time(node, item, name).startswith(f"Count={count},Value={value},Value/Count=1,")
    assert real_time(node, "realtime", "realtime_message_size").startswith("Count=2,Value=7,Value/Count=3.5,")
    assert real_time(node, "quiet", "topic_realtime_put") == "Invalid keyTwo:quiet"


def test_reset(node: BrokerProcess) -> None:
    assert node.ask(put("test", b"hello", 1)).status == 200
    assert real_time(node, "realtime", "realtime_put").startswith("Count=1,")
    assert node.statistics("reset") == ["reset ok"]
    assert real_time(node, "realtime", "realtime_put") == "null"
    assert counts(node)["cmd_put"] == "1"


@pytest.mark.parametrize(
    ("topic", "code", "partitions", "messages", "size"),
    [("test", 0, 2, 2, 50), ("empty", 2, 0, 0, 0), ("nobody", 1, 0, 0, 0), ("STATS", 1, 0, 0, 0)],
)
def test_topic_report(
    node: BrokerProcess, topic: str, code: int, partitions: int, messages: int, size: int
) -> None:
    for partition in range(2):
        assert node.ask(put("test", b"hello", 1, partition=partition)).status == 200
    lines = node.statistics(topic)
    assert lines[:5] == [
        topic,
        f"resultCode {code}",
        f"partitions {partitions}",
        f"message_count {messages}",
        f"bytes {size}",
    ]
    assert [line.split(" ")[0] for line in lines[5:]] == [
        f"topic_realtime_{key}" for key in ("put", "get", "offset", "get_miss", "put_failed", "message_size")
    ]
    put_text = real_time(node, topic, "topic_realtime_put")
    assert put_text.startswith("Count=2,") if code == 0 else put_text == f"Invalid keyTwo:{topic}"


def test_config_is_the_raw_file_and_always_answered(start_broker: StartBroker) -> None:
    node = start_broker("raw", topics="; Kommentar: größer, 中文\n[topic=test]\n")
    raw = node.server_file.read_bytes()
    with node.connect() as wire:
        wire.send(b"stats config 5\r\n" * 3)  # MetaQ leaves the second one without an answer.
        for reply in wire.replies(3):
            assert (reply.status, reply.opaque) == (200, 5)
            assert reply.body == raw


def test_counts_of_messages_survive_a_restart(node: BrokerProcess) -> None:
    """MetaQ counts nothing in files it has not written itself; here the count is true where it is known."""
    for n in range(3):
        assert node.ask(put("test", b"hello", n)).status == 200
    assert node.stop() == 0
    node.start()
    assert node.statistics("offsets") == ["test part 0 min_offset 0 max_offset 75"]
    assert counts(node)["cmd_put"] == "0"
    assert "bytes 75" in node.statistics("test")
