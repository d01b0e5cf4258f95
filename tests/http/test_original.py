"""MetaQ's HTTP interface: what its Java HTTP client sends, and what it is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import checksum, get, parse_records, put

if TYPE_CHECKING:
    from tests.http.http_client import HttpClient
    from tests.support import BrokerProcess


def test_a_put_is_answered_as_over_the_wire(broker: BrokerProcess, client: HttpClient, topic: str) -> None:
    query: dict[str, Any] = {
        "topic": topic,
        "partition": 0,
        "flag": 0,
        "length": 5,
        "checksum": checksum(b"hello"),
    }
    answer = client.request("POST", "/put/0", b"hello", **query)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    (stored,) = parse_records(broker.ask(get(topic, 0, 1000, 1)).body)
    assert answer.text == f"{stored.message_id} 0 0"
    assert stored.data == b"hello"


@pytest.mark.parametrize(("method", "path"), [("GET", "/put/7/x"), ("PUT", "/put/"), ("GET", "/put")])
def test_any_method_puts_and_what_follows_the_word_does_not_matter(
    broker: BrokerProcess, client: HttpClient, topic: str, method: str, path: str
) -> None:
    answer = client.request(method, path, b"\0", topic=topic, partition=1, flag=0, length=1)
    assert answer.status == 200
    assert len(broker.read_all(topic, 1)) == 1


def test_a_get_gives_the_records_as_they_are(broker: BrokerProcess, client: HttpClient, topic: str) -> None:
    broker.ask(put(topic, b"first", 1))
    broker.ask(put(topic, b"second", 1))
    query: dict[str, Any] = {"topic": topic, "partition": 0, "group": "g", "offset": 0}
    answer = client.get("/get/0", **query, maxsize=30)
    assert answer.status == 200
    assert answer.body == broker.ask(get(topic, 0, 30, 1)).body


def test_statuses_and_texts_are_those_of_the_wire(
    broker: BrokerProcess, client: HttpClient, topic: str
) -> None:
    broker.ask(put(topic, b"first", 1))
    for offset, size in ((25, 1000), (26, 1000), (2**62, 1000), (2**63 - 1, 1000), (-1, 1000), (0, 0)):
        over_http = client.get("/get/0", topic=topic, partition=0, group="group", offset=offset, maxsize=size)
        wire = broker.ask(get(topic, offset, size, 1))
        assert (over_http.status, over_http.text) == (wire.status, wire.text)
        assert "location" not in over_http.headers
    over_http = client.get("/offset/0", topic=topic, partition=0, group="group", offset=7)
    wire = broker.ask(f"offset {topic} group 0 7 1\r\n".encode())
    assert (over_http.status, over_http.text) == (wire.status, wire.text) == (200, "0")
    refused = client.request("PUT", "/put/0", b"x", topic="unknown", partition=0, flag=0, length=1)
    wire = broker.ask(put("unknown", b"x", 1))
    assert (refused.status, refused.text) == (wire.status, wire.text)


def test_a_wrong_checksum(broker: BrokerProcess, client: HttpClient, topic: str) -> None:
    answer = client.request("PUT", "/put/0", b"x", topic=topic, partition=0, flag=0, length=1, checksum=1)
    assert answer.status == 500
    assert "Checksum failure" in answer.text


@pytest.mark.parametrize(
    ("path", "query", "text"),
    [
        ("/get/0", {}, "the parameter topic is missing"),
        ("/get/0", {"topic": "t", "group": "g", "partition": "x"}, "partition must be a number"),
        ("/put/0", {"topic": "t", "partition": 0, "flag": 0}, "the parameter length is missing"),
        ("/put/0", {"topic": "t", "partition": 0, "flag": 0, "length": -1}, "length must be a number from 0"),
        (
            "/put/0",
            {"topic": "t", "partition": 0, "flag": 0, "length": 9},
            "the body has 0 bytes, and length",
        ),
        ("/offset/0", {"topic": "t", "partition": 2**31}, "the parameter group is missing"),
        ("/offset/0", {"tropic": "t"}, "unknown parameter 'tropic'"),
    ],
)
def test_wrong_parameters_are_named(client: HttpClient, path: str, query: dict[str, Any], text: str) -> None:
    answer = client.get(path, **query)
    assert answer.status == 400
    assert answer.text.startswith(text)


def test_a_body_longer_than_announced_is_refused(client: HttpClient, topic: str) -> None:
    answer = client.request("PUT", "/put/0", b"xyz", topic=topic, partition=0, flag=0, length=2)
    assert answer.status == 413


@pytest.mark.parametrize("path", ["/g", "/getx/0", "/gets", "/GET/0"])
def test_other_paths_are_not_found(client: HttpClient, path: str) -> None:
    assert client.get(path).status == 404
