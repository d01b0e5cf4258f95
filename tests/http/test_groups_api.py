from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.http.http_client import ADMIN, USERS, HttpClient
from tests.support import BrokerProcess, eventually, put, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

TOPICS = "[topic=test]\nnumPartitions=2\n[topic=other]\n"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    process = BrokerProcess(
        tmp_path_factory.mktemp("groups"), topics=TOPICS, settings={"httpUsersFile": "conf/users.toml"}
    )
    users = process.base / "conf" / "users.toml"
    users.parent.mkdir(parents=True)
    users.write_text(USERS.replace('"none"', '"write"'), encoding="utf-8")
    with serving(process):
        for number in range(3):
            process.ask(put("test", b"message %d" % number, 1))
        process.wait_registered()
        yield process


@pytest.fixture
def admin(client: HttpClient) -> HttpClient:
    return HttpClient(client.port, ADMIN)


def consume(client: HttpClient, group: str, **query: str | int) -> dict[str, Any]:
    answer = client.get(f"/api/v1/groups/{group}/topics/test/messages", **query)
    assert answer.status == 200, answer
    content: dict[str, Any] = answer.json()
    return content


def payloads(content: dict[str, Any]) -> list[str]:
    return [message["payload"] for message in content["messages"]]


def test_a_group_consumes_commits_and_goes_on(client: HttpClient) -> None:
    first = consume(client, "readers", max_messages=2)
    assert payloads(first) == ["message 0", "message 1"]
    assert [message["partition"] for message in first["messages"]] == ["0-0", "0-0"]
    # Nothing is committed yet, so it comes again.
    assert payloads(consume(client, "readers", max_messages=2)) == payloads(first)
    answer = client.post("/api/v1/groups/readers/positions", {"positions": first["positions"]})
    assert answer.json()["committed"] == [{"topic": "test", "partition": "0-0"}]
    second = consume(client, "readers")
    assert payloads(second) == ["message 2"]
    # Whoever has consumed before that commit cannot move the group back.
    late = client.post("/api/v1/groups/readers/positions", {"positions": first["positions"]})
    assert late.status == 409
    assert late.json()["conflicts"] == [{"topic": "test", "partition": "0-0"}]
    client.post("/api/v1/groups/readers/positions", {"positions": second["positions"]})
    assert consume(client, "readers") | {"group": ""} == {
        "group": "",
        "topic": "test",
        "messages": [],
        "positions": [],
        "owned": [],
    }


def test_a_group_that_waits_gets_the_next_message_of_any_partition(
    broker: BrokerProcess, client: HttpClient
) -> None:
    found: list[dict[str, Any]] = []
    waiting = Thread(
        target=lambda: found.append(consume(client, "late", partition="0-1", wait_ms=60_000)), daemon=True
    )
    waiting.start()
    broker.ask(put("test", b"awaited", 1, partition=1))
    waiting.join(20)
    assert payloads(found[0]) == ["awaited"]


def test_groups_are_shown_with_their_lag(client: HttpClient) -> None:
    taken = consume(client, "seen", partition="0-0", max_messages=1)
    client.post("/api/v1/groups/seen/positions", {"positions": taken["positions"]})
    report = client.get("/api/v1/groups/seen").json()
    (part,) = (one for one in report["partitions"] if one["partition"] == "0-0")
    assert (part["lag_messages"], part["lag_bytes"], part["owner"]) == (2, 58, None)
    assert part["lag_seconds"] > 0
    assert "seen" in [one["group"] for one in client.get("/api/v1/groups").json()["groups"]]
    assert client.get("/api/v1/groups/nobody").status == 404


def test_what_a_member_owns_is_left_to_it(
    broker: BrokerProcess, client: HttpClient, admin: HttpClient
) -> None:
    import trio

    from metaserver.client import open_session

    seen: list[dict[str, Any]] = []

    async def be_a_member() -> None:
        async with (
            open_session(f"metaq://127.0.0.1:{broker.port}") as session,
            session.consumer("shared", "test") as consumer,
        ):
            async for _message in consumer:
                break
            seen.append(await trio.to_thread.run_sync(consume, client, "shared"))
            reset = await trio.to_thread.run_sync(
                admin.post, "/api/v1/groups/shared/reset", {"to": "start", "execute": True}
            )
            assert reset.status == 409
            assert "has members" in reset.problem

    trio.run(be_a_member)
    assert seen[0]["messages"] == []
    assert {one["partition"] for one in seen[0]["owned"]} == {"0-0", "0-1"}


def test_a_reset_is_rehearsed_and_then_done(client: HttpClient, admin: HttpClient) -> None:
    taken = consume(client, "moved", partition="0-0")
    client.post("/api/v1/groups/moved/positions", {"positions": taken["positions"]})
    path = "/api/v1/groups/moved/reset"
    assert client.post(path, {"to": "start"}).status == 401
    rehearsed = admin.post(path, {"to": "start", "topic": "test", "partitions": ["0-0"]}).json()
    assert [(one["from"], one["to"], one["written"]) for one in rehearsed["partitions"]] == [(87, 0, False)]
    assert payloads(consume(client, "moved", partition="0-0")) == []
    done = admin.post(path, {"to": "start", "partitions": ["0-0"], "execute": True}).json()
    assert [one["written"] for one in done["partitions"]] == [True]
    assert len(payloads(consume(client, "moved", partition="0-0"))) == 3
    assert admin.post(path, {"to": "13", "partitions": ["0-0"]}).status == 409
    assert admin.post(path, {"to": "soon"}).status == 400
    assert admin.post(path, {"to": "end", "partitions": ["0-9"]}).status == 404
    assert admin.post(path, {"to": "end", "topic": "other"}).status == 404
    assert admin.post("/api/v1/groups/nobody/reset", {"to": "end"}).status == 404


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], 'the body must be {"positions"'),
        ({"positions": []}, 'the body must be {"positions"'),
        ({"positions": [{}]}, "positions[0] must have topic, partition, offset, id and version"),
        ({"topic": "a/b"}, "positions[0]: 'a/b' '0-0' is no partition"),
        ({"partition": "0"}, "positions[0]: 'test' '0' is no partition"),
        ({"offset": -1}, "positions[0]: offset, id and version are numbers"),
        ({"offset": True}, "positions[0]: offset, id and version are numbers"),
        ({"version": -1}, "positions[0]: version must be the one"),
        ({"id": 2**63}, "positions[0]: offset, id and version are numbers"),
    ],
)
def test_what_is_no_position_is_named(
    client: HttpClient, content: list[Any] | dict[str, Any], problem: str
) -> None:
    if isinstance(content, dict) and "positions" not in content:
        position = {"topic": "test", "partition": "0-0", "offset": 0, "id": -1, "version": None}
        content = {"positions": [position | content]}
    answer = client.post("/api/v1/groups/wrong/positions", content)
    assert (answer.status, answer.problem[: len(problem)]) == (400, problem)


@pytest.mark.parametrize("group", ["..", ".", "a b", "a%b", "a\x7fb", "*"])
def test_names_that_are_none(client: HttpClient, group: str) -> None:
    from urllib.parse import quote

    answer = client.request("GET", f"/api/v1/groups/{group}/topics/test/messages")
    assert answer.status == 404, quote(group)


def test_other_refusals(client: HttpClient) -> None:
    assert client.get("/api/v1/groups/g/topics/nothing/messages").status == 404
    assert client.get("/api/v1/groups/g/topics/test/messages", partition="9-9").status == 404
    assert client.get("/api/v1/groups/g/topics/test/messages", **{"from": "1"}).status == 400


def test_without_a_registry_there_are_no_groups(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.support import NO_REGISTRY

    lonely = BrokerProcess(tmp_path_factory.mktemp("lonely"), registry=NO_REGISTRY)
    try:
        lonely.start()
        answer = HttpClient(lonely.status()["http_port"]).get("/api/v1/groups")
        assert answer.status == 503
        assert "it is in no registry" in answer.problem
    finally:
        lonely.make_sure_it_is_gone()


def test_a_reload_reads_users_again(broker: BrokerProcess, admin: HttpClient) -> None:
    users = broker.base / "conf" / "users.toml"
    before = users.read_text(encoding="utf-8")
    try:
        users.write_text("anonymous = 1", encoding="utf-8")
        refused = admin.request("POST", "/api/v1/reload")
        assert (refused.status, "is no role" in refused.problem) == (409, True)
        users.write_text(before.replace(ADMIN, "another-long-token"), encoding="utf-8")
        assert admin.request("POST", "/api/v1/reload").json()["topics_added"] == []
        assert admin.request("POST", "/api/v1/reload").status == 401
    finally:
        users.write_text(before, encoding="utf-8")
        HttpClient(admin.port, "another-long-token").request("POST", "/api/v1/reload")
    eventually(lambda: admin.request("POST", "/api/v1/reload").status == 200, "the old token again")
