"""quarantine list, show and replay: what a replica gave up is seen, and sent again once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.cli.exit_codes import ExitCode
from metaserver.message import FLAG_HAS_ATTRIBUTE, join_attribute
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.storage import QuarantineReport, RealFileSystem, quarantine_folders
from metaserver.storage.filenames import segment_name
from tests.support import get, parse_records, record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Home

FIRST_ID = 2060866805546614784


def give_up(data: Path, topic: str, start: int, bodies: list[tuple[int, bytes]]) -> Path:
    """A folder as a replica leaves it."""
    records = b"".join(record(body, FIRST_ID + n, flag) for n, (flag, body) in enumerate(bodies))
    end = start + len(records)
    name = TopicPartition(Topic(topic), PartitionId(0))
    folder = data / "quarantine" / str(name) / f"{start}-{end}"
    folder.mkdir(parents=True)
    (folder / segment_name(start)).write_bytes(records)
    report = QuarantineReport(
        topic=topic,
        partition=0,
        start_offset=start,
        end_offset=end,
        records=len(bodies),
        first_message_id=FIRST_ID,
        last_message_id=FIRST_ID + len(bodies) - 1,
        first_wall_seconds=1795244595.999,
        last_wall_seconds=1795244595.999,
        reason="the master's history parts from this one at offset 100",
        own_epochs="1 0000000000000001 0",
        master_epochs="2 0000000000000002 0",
        master="127.0.0.1:8123",
    )
    (folder / "report.json").write_bytes(report.encode())
    return folder


BODIES = [(0, b"one"), join_attribute("kind", b"two"), (0, b"three \xff")]


def stored(home: Home, topic: str) -> list[tuple[int, bytes]]:
    with home.connect() as wire:
        reply = wire.ask(get(topic, 0, 1 << 20, 1))
    return [] if reply.status == 404 else [(found.flag, found.data) for found in parse_records(reply.body)]


def replayed(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "replayed.json").read_text(encoding="utf-8"))
    return found


def test_what_lies_there(home: Home) -> None:
    data = home.base / "data" / "master"
    assert home.run("quarantine").out == f"nothing is in quarantine in {data}\n"
    give_up(data, "test", 1000, BODIES)
    give_up(data, "test", 900, BODIES[:1])
    unfinished = data / "quarantine" / "test-0" / "5-6"
    unfinished.mkdir()
    title, first, second, reason, _ = home.run("quarantine", "list").out.splitlines()
    assert title.split() == ["folder", "messages", "size", "from", "to", "replayed"]
    time = "2026-11-21T07:03:15.999Z"
    assert first.split() == ["test-0/900-923", "1", "23", "bytes", time, time, "no"]
    assert second.split()[:2] == ["test-0/1000-1081", "3"]
    assert reason == "test-0/900-923: the master's history parts from this one at offset 100"
    (_, shown) = json.loads(home.run("quarantine", "list", str(data), "--json").out)["folders"]
    assert (shown["start_offset"], shown["records"], shown["replayed"]) == (1000, 3, None)
    assert [path.name for path in quarantine_folders(RealFileSystem(), data)] == ["900-923", "1000-1081"]
    assert home.run("verify", str(data)).code == 0


def test_the_records_of_a_folder(home: Home) -> None:
    folder = give_up(home.base / "data" / "master", "test", 1000, BODIES)
    by_name = home.run("quarantine", "show", "test-0/1000-1081")
    assert by_name.code == 0, by_name.err
    assert home.run("quarantine", "show", str(folder)).out == by_name.out
    *_, one, two, three = by_name.out.splitlines()
    assert one.split()[:2] == ["1000", str(FIRST_ID)]
    assert one.endswith("  one")
    assert two.endswith("  [kind] two")
    assert three.split()[0] == "1054"
    as_json = [
        json.loads(line) for line in home.run("quarantine", "show", str(folder), "--json").out.splitlines()
    ]
    assert [message["id"] for message in as_json] == [FIRST_ID, FIRST_ID + 1, FIRST_ID + 2]
    with (folder / segment_name(1000)).open("ab") as file:
        file.write(b"no record")
    assert home.run("quarantine", "show", str(folder)).code == ExitCode.DAMAGE
    assert home.run("quarantine", "show", "test-0/1-2").code == ExitCode.FAILED


def test_replay_sends_everything_once(home: Home) -> None:
    home.start()
    folder = give_up(home.base / "data" / "master", "test", 1000, BODIES)
    server = f"127.0.0.1:{home.port}"
    command = ("quarantine", "replay", "test-0/1000-1081", "--server", server)
    would = home.run(*command)
    assert would.out == f"would send 3 messages of test-0/1000-1081 to partition 0 of test at {server}\n"
    assert "--execute" in would.err
    assert stored(home, "test") == []
    assert not (folder / "replayed.json").exists()

    done = home.run(*command, "--execute")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("sent 3 messages of test-0/1000-1081; new offsets 0 to 54")
    assert BODIES[1][0] == FLAG_HAS_ATTRIBUTE
    assert stored(home, "test") == BODIES
    note = replayed(folder)
    assert note["complete"] is True
    assert [message["new_offset"] for message in note["messages"]] == [0, 23, 54]
    assert "yes" in home.run("quarantine").out.splitlines()[1]

    again = home.run(*command, "--execute")
    assert again.code == ExitCode.FAILED
    assert "replayed already" in again.err
    assert home.run(*command, "--execute", "--again").code == 0
    assert stored(home, "test") == BODIES * 2
    assert home.status()["quarantine"]["folders"] == 1
    assert "quarantine     1 folder: see `metaServer quarantine`" in home.run("status").out


def test_replay_goes_on_where_it_was_refused(home: Home) -> None:
    home.configure(topics="[topic=test]\n", maxTransferSize=1024)
    home.start()
    bodies = [(0, b"small"), (0, b"x" * 2000), (0, b"last")]
    folder = give_up(home.base / "data" / "master", "test", 0, bodies)
    command = ("quarantine", "replay", str(folder), "--server", f"127.0.0.1:{home.port}", "--execute")
    ran = home.run(*command)
    assert ran.code == ExitCode.NOT_ACKNOWLEDGED
    assert "1 message not acknowledged: refused, and not stored" in ran.err
    assert replayed(folder)["complete"] is False
    assert "in part" in home.run("quarantine").out
    assert home.run("stop").code == 0
    home.configure(topics="[topic=test]\n")
    home.start()
    ran = home.run(*command[:-2], f"127.0.0.1:{home.port}", "--execute")
    assert ran.code == 0, ran.err
    assert sorted(stored(home, "test")) == sorted(bodies)
    assert replayed(folder)["complete"] is True


def test_replay_through_the_registry(cluster: Home, topic: str, tmp_path: Path) -> None:
    with cluster.connect() as wire:
        assert wire.ask(get(topic, 0, 1, 1)).status == 404
    assert cluster.run("produce", topic, stdin="before\n").code == 0
    cluster.wait_announced(topic)
    folder = give_up(tmp_path, topic, 500, BODIES)
    command = ("quarantine", "replay", str(folder), "--servers", f"metaq://127.0.0.1:{cluster.port}")
    ran = cluster.run(*command, "--execute")
    assert ran.code == 0, ran.err
    assert stored(cluster, topic) == [(0, b"before"), *BODIES]
    for executes in ((), ("--execute",)):
        ran = cluster.run(*command, "--again", *executes, "--broker", "7")
        assert (ran.code, ran.out) == (ExitCode.FAILED, "")
        assert f"broker 7 does not announce partition 0 of {topic}" in ran.err


def test_nothing_of_the_registry_is_sent(home: Home, tmp_path: Path) -> None:
    folder = give_up(tmp_path, "__registry", 500, BODIES)
    for executes in ((), ("--execute",)):
        ran = home.run("quarantine", "replay", str(folder), "--server", "127.0.0.1:1", *executes)
        assert (ran.code, ran.out) == (ExitCode.FAILED, "")
        assert "the registry's own log, which no client writes" in ran.err


@pytest.mark.parametrize(
    "options", [(), ("--server", "a:1", "--servers", "metaq://a:1"), ("--server", "a:1", "--broker", "7")]
)
def test_replay_wants_one_place(home: Home, options: tuple[str, ...]) -> None:
    assert home.run("quarantine", "replay", "x", *options).code == ExitCode.USAGE


@pytest.mark.parametrize("options", [("--server", "nonsense"), ("--servers", "nonsense")])
@pytest.mark.parametrize("execute", [(), ("--execute",)])
def test_replay_looks_at_the_place_also_where_it_only_tells(
    home: Home, options: tuple[str, ...], execute: tuple[str, ...]
) -> None:
    folder = give_up(home.base / "data" / "master", "test", 1000, BODIES)
    ran = home.run("quarantine", "replay", str(folder), *options, *execute)
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert "nonsense" in ran.err
