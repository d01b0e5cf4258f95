from __future__ import annotations

import base64
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import get, parse_records, put

if TYPE_CHECKING:
    from tests.http.http_client import HttpClient
    from tests.support import BrokerProcess


def send(client: HttpClient, topic: str, *payloads: str, partition: int = 0) -> list[dict[str, int]]:
    """Returns what was said of each."""
    answer = client.post(
        f"/api/v1/topics/{topic}/messages",
        {"messages": [{"payload": payload} for payload in payloads]},
        partition=partition,
    )
    assert answer.status == 201, answer
    messages: list[dict[str, int]] = answer.json()["messages"]
    return messages


def test_messages_sent_are_those_that_are_read_over_the_brokers_own_port(
    broker: BrokerProcess, client: HttpClient, topic: str
) -> None:
    answer = client.post(
        f"/api/v1/topics/{topic}/messages",
        {
            "messages": [
                {"payload": "größe", "attribute": "a"},
                {"payload_base64": base64.b64encode(b"\xff\0").decode()},
                {"payload": ""},
            ]
        },
        partition=1,
        attribute="default",
    )
    assert answer.status == 201
    told = [(one["partition"], one["offset"], one["id"]) for one in answer.json()["messages"]]
    stored = parse_records(broker.ask(get(topic, 0, 65536, 1, partition=1)).body)
    assert told == [(1, one.offset, one.message_id) for one in stored]
    assert [(one.flag, one.data) for one in stored] == [
        (1, b"\0\0\0\1a" + "größe".encode()),
        (1, b"\0\0\0\7default\xff\0"),
        (1, b"\0\0\0\7default"),
    ]


def test_a_raw_body_is_one_message(broker: BrokerProcess, client: HttpClient, topic: str) -> None:
    headers = {"content-type": "application/octet-stream"}
    answer = client.request("POST", f"/api/v1/topics/{topic}/messages", b"\0raw", headers, partition=0)
    assert answer.status == 201
    assert [one.data for one in broker.read_all(topic)] == [b"\0raw"]


def test_fetch_tells_messages_and_where_to_go_on(
    broker: BrokerProcess, client: HttpClient, topic: str
) -> None:
    broker.ask(put(topic, b"first", 1))
    broker.ask(put(topic, b"\xfe", 2))
    path = f"/api/v1/topics/{topic}/partitions/0/messages"
    content = client.get(path).json()
    assert [
        (one["offset"], one.get("payload"), one.get("payload_base64")) for one in content["messages"]
    ] == [
        (0, "first", None),
        (25, None, "/g=="),
    ]
    assert (content["next_offset"], content["end_offset"]) == (46, 46)
    one = client.get(path, max_messages=1).json()
    assert (len(one["messages"]), one["next_offset"]) == (1, 25)
    assert client.get(path, **{"from": 25}).json()["messages"][0]["payload_base64"] == "/g=="
    assert client.get(path, **{"from": "end"}).json()["messages"] == []
    assert len(client.get(path, **{"from": "-1h"}).json()["messages"]) == 2


def test_a_fetch_that_waits_ends_with_the_next_message(
    broker: BrokerProcess, client: HttpClient, topic: str
) -> None:
    broker.ask(put(topic, b"old", 1))
    found = []

    def wait() -> None:
        path = f"/api/v1/topics/{topic}/partitions/0/messages"
        query: dict[str, Any] = {"from": "end", "wait_ms": 60_000}
        found.append(client.get(path, **query).json())

    waiting = Thread(target=wait)
    waiting.start()
    # However the two run: a fetch that begins behind the put is asked for the end, and the next put ends it.
    while waiting.is_alive():
        broker.ask(put(topic, b"new", 1))
        waiting.join(0.05)
    assert found[0]["messages"][0]["payload"] == "new"


def test_a_message_longer_than_a_step_is_found(broker: BrokerProcess, client: HttpClient, topic: str) -> None:
    broker.ask(put(topic, b"x" * 60_000, 1))
    broker.ask(put(topic, b"behind", 2))
    content = client.get(f"/api/v1/topics/{topic}/partitions/0/messages").json()
    assert [len(one["payload"]) for one in content["messages"]] == [60_000, 6]


def test_searches(client: HttpClient, topic: str) -> None:
    told = send(client, topic, "an apple", "a pear", "two apples")
    path = f"/api/v1/topics/{topic}/partitions/0/search"
    found = client.get(path, text="apple").json()
    assert [one["payload"] for one in found["messages"]] == ["an apple", "two apples"]
    assert found["is_complete"]
    first = client.get(path, text="apple", max_messages=1).json()
    assert [one["payload"] for one in first["messages"]] == ["an apple"]
    rest = client.get(path, text="apple", **{"from": first["next_offset"]}).json()
    assert [one["payload"] for one in rest["messages"]] == ["two apples"]
    by_id = client.get(path, id=told[1]["id"]).json()
    assert [one["payload"] for one in by_id["messages"]] == ["a pear"]
    assert client.get(path, id=told[2]["id"] + 1).status == 404
    assert client.get(path).problem == "give either text or id"


def test_topics_are_listed_with_their_partitions(
    broker: BrokerProcess, client: HttpClient, topic: str
) -> None:
    send(client, topic, "x", partition=1)
    content = client.get(f"/api/v1/topics/{topic}").json()
    assert (content["messages"], content["bytes"], content["config"]["numPartitions"]) == (1, 21, 2)
    assert [part["partition"] for part in content["partitions"]] == [1]
    assert content["traffic"]["messages"] == 1
    assert content in client.get("/api/v1/topics").json()["topics"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], 'the body must be {"messages"'),
        ({"messages": []}, "one request takes 1 to 10000 messages, not 0"),
        ({"messages": [1]}, "messages[0]: it is no object"),
        ({"messages": [{"payload": "x"}, {"text": "x"}]}, "messages[1]: 'text' is unknown"),
        ({"messages": [{}]}, "messages[0]: give either payload or payload_base64"),
        ({"messages": [{"payload": "a", "payload_base64": "b"}]}, "messages[0]: give either"),
        ({"messages": [{"payload_base64": "?"}]}, "messages[0]: "),
        ({"messages": [{"payload": "x", "attribute": 1}]}, "messages[0]: attribute must be a text"),
        ({"messages": [{"payload": "\ud800"}]}, "messages[0]: "),
    ],
)
def test_what_is_no_message_is_named(client: HttpClient, topic: str, content: object, problem: str) -> None:
    answer = client.post(f"/api/v1/topics/{topic}/messages", content)
    assert answer.status == 400
    assert answer.problem.startswith(problem)
    assert client.get(f"/api/v1/topics/{topic}").json()["messages"] == 0


def test_refusals(broker: BrokerProcess, client: HttpClient, topic: str) -> None:
    path = f"/api/v1/topics/{topic}/messages"
    assert client.post("/api/v1/topics/unknown/messages", {"messages": [{"payload": ""}]}).status == 404
    assert client.post(path, {"messages": [{"payload": ""}]}, partition=2).status == 404
    assert client.get("/api/v1/topics/unknown/partitions/0/messages").status == 404
    assert (
        client.get(f"/api/v1/topics/{topic}", x=1).problem == "unknown parameter 'x'; the parameters are none"
    )
    wrong = client.get(f"/api/v1/topics/{topic}/partitions/0/messages", max_messages=0)
    assert wrong.problem == "max_messages must be a number from 1 to 10000, not '0'"
    place = client.get(f"/api/v1/topics/{topic}/partitions/0/messages", **{"from": "yesterday"})
    assert (place.status, place.problem[:15]) == (400, "from: yesterday")
    assert client.request("POST", path, b"{}", {"content-type": "text/plain"}).status == 415
    assert client.request("POST", path, b"{", {"content-type": "application/json"}).status == 400
    too_long = client.request("POST", path, b"x" * 131_073, {"content-type": "application/octet-stream"})
    assert (too_long.status, too_long.json()["limit_bytes"]) == (413, 131_072)
    record = client.request("POST", path, b"x" * 70_000, {"content-type": "application/octet-stream"})
    assert record.status == 500
    assert "maxTransferSize" in record.problem


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods(client: HttpClient, topic: str, method: str) -> None:
    answer = client.request(method, f"/api/v1/topics/{topic}/messages")
    assert answer.status == 405
    assert method in answer.problem


def test_a_topic_is_followed_and_followed_again(client: HttpClient, topic: str) -> None:
    send(client, topic, "one", "two\nlines")
    path = f"/api/v1/topics/{topic}/events"
    query: dict[str, Any] = {"from": "start"}
    stream = client.events(path, **query)
    first, second = next(stream), next(stream)
    assert [(name, content["payload"]) for name, _id, content in (first, second)] == [
        ("message", "one"),
        ("message", "two\nlines"),
    ]
    stream.close()  # type: ignore[attr-defined]
    send(client, topic, "three", partition=1)
    again = client.events(path, {"last-event-id": first[1]})
    seen = {next(again)[2]["payload"], next(again)[2]["payload"]}
    assert seen == {"two\nlines", "three"}
    send(client, topic, "live")
    assert next(again)[2]["payload"] == "live"
    assert client.request("GET", path, headers={"last-event-id": "x:1"}).status == 400


def test_rates_are_told_as_they_are_taken(client: HttpClient) -> None:
    name, _id, sample = next(client.events("/api/v1/rates/events"))
    assert name == "sample"
    assert sample["connections"] >= 0
    assert sample in client.get("/api/v1/rates").json()["samples"]


def test_a_partition_that_fails_or_is_closed_answers_as_the_wire_does(
    broker: BrokerProcess, client: HttpClient
) -> None:
    # The broker's own topic is nobody's.
    assert client.get("/api/v1/topics/__registry").status == 404
    assert client.get("/api/v1/topics/__registry/partitions/0/messages").status == 404
