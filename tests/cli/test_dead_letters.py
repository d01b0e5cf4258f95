"""Dead letters in a store and in a topic: seen, sent again, removed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from metaserver.cli.exit_codes import ExitCode
from metaserver.client import ConsumerOptions, open_session
from metaserver.client.dead_letters import TopicDeadLetters
from metaserver.client.local_store import LocalMessage, LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Home


@pytest.fixture
def target(cluster: Home, topic: str) -> str:
    """A topic with a message of its own, where letters come from."""
    cluster.run("produce", topic, stdin="first\n")
    cluster.wait_announced(topic)
    return topic


@pytest.fixture
def store(target: str, tmp_path: Path) -> str:
    """Two letters of group one, one of group two, and a message that waits to be sent."""
    path = tmp_path / "letters.db"

    def letter(payload: bytes, group: str, attribute: str | None = None) -> LocalMessage:
        return LocalMessage(
            topic=target,
            payload=payload,
            attribute=attribute,
            partition="0-0",
            group=group,
            message_id=5,
            offset=7,
            reason="ValueError: line\nbreak" if group else "no broker",
            attempts=6,
        )

    async def fill() -> None:
        async with LocalStore.open(path) as opened:
            await opened.add_many(
                [letter(b"a", "one", "kind"), letter(b"\xff", "two"), letter(b"w", ""), letter(b"b", "one")]
            )

    trio.run(fill)
    return str(path)


def listed(home: Home, *arguments: str) -> list[dict[str, Any]]:
    ran = home.run("dead-letters", "list", *arguments, "--json")
    assert ran.code == 0, ran.err
    found: list[dict[str, Any]] = json.loads(ran.out)
    return found


def keys(home: Home, *arguments: str) -> list[str]:
    return [letter["key"] for letter in listed(home, *arguments)]


def test_a_store_is_listed_and_shown(cluster: Home, store: str, target: str) -> None:
    found = listed(cluster, store)
    assert [letter["key"] for letter in found] == ["1", "2", "4"]
    assert found[0] == {
        "key": "1",
        "topic": target,
        "partition": "0-0",
        "offset": 7,
        "message_id": 5,
        "group": "one",
        "attempts": 6,
        "time": found[0]["time"],
        "reason": found[0]["reason"],
        "attribute": "kind",
        "payload": "a",
    }
    assert found[1]["payload_base64"] == "/w=="
    assert keys(cluster, store, "--group", "one") == ["1", "4"]
    assert keys(cluster, store, "--topic", "other") == []
    assert keys(cluster, store, "--waiting") == ["1", "2", "3", "4"]
    ran = cluster.run("dead-letters", "list", store, "--count", "2")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["key", "1", "2"]
    assert "more than 2 messages" in ran.err
    ran = cluster.run("dead-letters", "list", store)
    assert "1 message in the store only wait to be sent" in ran.err
    ran = cluster.run("dead-letters", "show", store, "4")
    assert "key: 4\n" in ran.out
    assert "payload: b\n" in ran.out


def test_a_store_is_read_page_by_page(cluster: Home, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaserver.cli.letters._PAGE", 1)
    assert keys(cluster, store, "--waiting") == ["1", "2", "3", "4"]
    assert cluster.run("dead-letters", "remove", store, "--group", "one").out == "2 messages removed\n"
    assert keys(cluster, store) == ["2"]


def test_what_is_replayed_from_a_store_leaves_it(cluster: Home, store: str, target: str) -> None:
    ran = cluster.run("dead-letters", "replay", store, "--group", "one")
    assert (ran.code, ran.out, ran.err) == (0, "2 messages sent\n", "")
    assert keys(cluster, store, "--waiting") == ["2", "3"]
    lines = [json.loads(line) for line in cluster.run("consume", target, "--format", "json").out.splitlines()]
    assert [(line["payload"], line["attribute"]) for line in lines] == [
        ("first", None),
        ("a", "kind"),
        ("b", None),
    ]
    ran = cluster.run("dead-letters", "replay", store, "--all")
    assert (ran.code, ran.out) == (0, "1 message sent\n")
    assert keys(cluster, store, "--waiting") == ["3"]


def test_what_no_broker_takes_stays(cluster: Home, store: str) -> None:
    ran = cluster.run("dead-letters", "replay", store, "1", "--to", "nowhere")
    assert (ran.code, ran.out) == (ExitCode.NOT_ACKNOWLEDGED, "0 messages sent\n")
    assert "1: message to nowhere was not stored" in ran.err
    letters = listed(cluster, store)
    assert [letter["attempts"] for letter in letters] == [7, 6, 6]
    # Why the group failed is told nowhere else.
    assert letters[0]["reason"].startswith("ValueError: line")


def test_removing(cluster: Home, store: str) -> None:
    assert cluster.run("dead-letters", "remove", store, "1").out == "1 message removed\n"
    assert keys(cluster, store, "--waiting") == ["2", "3", "4"]
    assert cluster.run("dead-letters", "remove", store, "--all").out == "2 messages removed\n"
    assert keys(cluster, store, "--waiting") == ["3"]


def test_a_topic_of_dead_letters(cluster: Home, target: str) -> None:
    letters = f"{target}-dead"

    async def reject() -> None:
        async with (
            open_session(f"metaq://127.0.0.1:{cluster.port}") as session,
            session.producer() as producer,
        ):
            dead = TopicDeadLetters(producer, letters)
            options = ConsumerOptions(commit="manual")
            async with session.consumer(f"g-{target}", target, options, dead_letters=dead) as consumer:
                message = await anext(consumer)
                await consumer.reject(message, "no good")

    # The topic must be there before a producer finds it.
    cluster.run("produce", letters, stdin="an ordinary message\n")
    cluster.wait_announced(letters)
    trio.run(reject)
    (found,) = listed(cluster, letters)
    assert (found["key"], found["topic"], found["offset"]) == ("0-0:39", target, 0)
    assert (found["group"], found["reason"], found["payload"]) == (f"g-{target}", "no good", "first")
    assert json.loads(cluster.run("dead-letters", "show", letters, "0-0:39", "--json").out) == found
    ran = cluster.run("dead-letters", "show", letters, "0-0:0")
    assert (ran.code, "no dead letter 0-0:0" in ran.err) == (ExitCode.FAILED, True)
    ran = cluster.run("dead-letters", "replay", letters, "--all", "--to", letters)
    assert (ran.code, "name another topic" in ran.err) == (ExitCode.FAILED, True)
    ran = cluster.run("dead-letters", "replay", letters, "--all")
    assert (ran.code, ran.out) == (0, "1 message sent\n")
    assert "a topic keeps its messages" in ran.err
    assert cluster.run("consume", target).out == "first\nfirst\n"
    ran = cluster.run("dead-letters", "remove", letters, "0-0:39")
    assert (ran.code, "stay until retention" in ran.err) == (ExitCode.USAGE, True)


def test_mistakes(cluster: Home, store: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    ran = cluster.run("dead-letters", "list", str(missing))
    assert (ran.code, "there is no such file" in ran.err, missing.exists()) == (ExitCode.FAILED, True, False)
    ran = cluster.run("dead-letters", "list", "nowhere")
    assert (ran.code, "no broker announces topic 'nowhere'" in ran.err) == (ExitCode.FAILED, True)
    assert cluster.run("dead-letters", "replay", store).code == ExitCode.USAGE
    assert cluster.run("dead-letters", "remove", store, "1", "--all").code == ExitCode.USAGE
    assert cluster.run("dead-letters", "remove", store, "x").code == ExitCode.USAGE
    ran = cluster.run("dead-letters", "show", store, "99")
    assert (ran.code, "has no message 99" in ran.err) == (ExitCode.FAILED, True)
    other = tmp_path / "text"
    other.write_text("no database at all, whatever it may be called" * 100)
    ran = cluster.run("dead-letters", "list", str(other))
    assert (ran.code, str(other) in ran.err) == (ExitCode.FAILED, True)
