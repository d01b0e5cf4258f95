"""Offsets of groups: copied between groups and storages, asked for in all of them, and forgotten."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import trio

from metaserver.cli.exit_codes import ExitCode
from metaserver.client.offsets import SqlOffsets
from tests.cli.conftest import ended
from tests.support import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Home

RECORD = 20 + 1


@pytest.fixture
def group(cluster: Home, topic: str) -> str:
    """A group that has consumed four of nine messages of a topic."""
    assert cluster.run("produce", topic, stdin="".join(f"{n}\n" for n in range(1, 10))).code == 0
    cluster.wait_announced(topic)
    assert cluster.run("consume", topic, "--group", f"c-{topic}", "--count", "4").code == 0
    return f"c-{topic}"


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "offsets.db"

    async def make() -> None:
        storage = SqlOffsets(lambda: sqlite3.connect(path, check_same_thread=False), paramstyle="qmark")
        await storage.create_table()
        await storage.aclose()

    trio.run(make)
    return f"sqlite:{path}"


def offsets(home: Home, group: str, *words: str) -> dict[str, Any]:
    ran = home.run("groups", group, "--json", *words)
    assert ran.code == 0, ran.err
    return {one["partition"]: one["offset"] for one in json.loads(ran.out)["partitions"]}


def test_for_another_group(cluster: Home, topic: str, group: str) -> None:
    words = ["groups", "copy", group, f"new-{group}"]
    ran = cluster.run(*words)
    assert (ran.code, "--execute does it" in ran.err) == (0, True)
    assert ran.out.splitlines()[1].split()[:4] == [topic, "0-0", "0-0", str(4 * RECORD)]
    assert cluster.run("groups", f"new-{group}").code != 0
    ran = cluster.run(*words, "--execute", "--json")
    (one,) = json.loads(ran.out)["offsets"]
    assert (one["offset"], one["before"], one["written"]) == (4 * RECORD, None, True)
    assert cluster.run("consume", topic, "--group", f"new-{group}", "--count", "1").out == "5\n"

    # What is there stays, unless it is to be replaced.
    ran = cluster.run(*words, "--execute")
    assert (ran.code, "--replace replaces them" in ran.err) == (0, True)
    assert offsets(cluster, f"new-{group}") == {"0-0": 5 * RECORD}
    assert cluster.run(*words, "--execute", "--replace").code == 0
    assert offsets(cluster, f"new-{group}") == {"0-0": 4 * RECORD}
    assert "the same already" in cluster.run(*words).out


def test_for_a_moved_partition(cluster: Home, topic: str, group: str) -> None:
    words = ["groups", "copy", group, "--topic", topic, "--move"]
    assert cluster.run(*words, "0-0=0-7", "--execute").code == 0
    assert offsets(cluster, group) == {"0-0": 4 * RECORD, "0-7": 4 * RECORD}
    ran = cluster.run(*words, "0-3=0-4")
    assert (ran.code, "has no offset" in ran.err) == (1, True)


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_through_another_storage(
    cluster: Home, topic: str, group: str, kind: str, table: str, tmp_path: Path
) -> None:
    place = table if kind == "sqlite" else f"file:{tmp_path / 'offsets.json'}"
    assert cluster.run("groups", "copy", group, "--into", place, "--execute").code == 0
    wanted = [f"topic={topic}", f"group={group}"]
    for partition in ("0", "0-0"):
        ran = cluster.run("query", "showoffset", *wanted, f"p={partition}", f"type={place}")
        assert (ran.code, ran.out) == (0, f"{4 * RECORD}\n")
    assert cluster.run("query", "showoffset", *wanted, "p=1", f"type={place}").code != 0
    ran = cluster.run("query", "offsets", wanted[1], f"type={place}")
    assert ran.out.splitlines()[1].split()[:4] == [place, topic, "0-0", str(4 * RECORD)]

    cluster.run("consume", topic, "--group", group, "--count", "3")
    back = ["groups", "copy", group, "--from", place, "--execute"]
    assert cluster.run(*back).code == 0
    assert offsets(cluster, group) == {"0-0": 7 * RECORD}
    assert cluster.run(*back, "--replace").code == 0
    assert offsets(cluster, group) == {"0-0": 4 * RECORD}


def test_the_shell_of_query(cluster: Home, topic: str, group: str, table: str, tmp_path: Path) -> None:
    jdbc = tmp_path / "jdbc.properties"
    jdbc.write_text(f"jdbc.url=jdbc:{table}\njdbc.username=\n")
    assert cluster.run("groups", "copy", group, "--into", f"jdbc:{jdbc}", "--execute").code == 0
    shell = (
        f"help\n\nnonsense\nshowoffset topic={topic}\n"
        f"showoffset topic={topic} group={group} partition=0\n"
        f"showoffset t={topic} g={group} p=0-0 type=mysql\nquit\nhelp\n"
    )
    ran = cluster.run("query", "-s", str(cluster.server_file), "-j", str(jdbc), stdin=shell)
    assert ran.code == 0
    assert ran.out.splitlines()[-2:] == [str(4 * RECORD)] * 2
    assert ran.out.count("showoffset topic=T") == 1
    assert ran.err.splitlines() == [
        "metaServer: 'nonsense' is no command; `help` lists them",
        "metaServer: showoffset needs group=, partition= too",
    ]
    found = cluster.run("query", "offsets", f"group={group}", "-j", str(jdbc)).out.splitlines()[1:]
    assert [line.split()[0] for line in found] == ["registry", f"jdbc:{jdbc}"]


def test_a_group_is_forgotten(cluster: Home, topic: str, group: str) -> None:
    ran = cluster.run("groups", "delete", group)
    assert (ran.code, "nothing was removed" in ran.err, topic in ran.out) == (0, True, True)
    assert offsets(cluster, group)
    ran = cluster.run("groups", "delete", group, "--execute", "--json")
    assert (ran.code, json.loads(ran.out)["executed"]) == (0, True)
    assert cluster.run("groups", group).code == ExitCode.FAILED
    assert cluster.run("consume", topic, "--group", group, "--count", "1").out == "1\n"


def test_only_what_it_has_of_a_topic(cluster: Home, topic: str, group: str) -> None:
    other = f"{topic}x"
    cluster.run("produce", other, stdin="1\n")
    cluster.wait_announced(other)
    cluster.run("consume", other, "--group", group, "--count", "1")
    assert cluster.run("groups", "delete", group, "--topic", topic, "--execute").code == 0
    ran = cluster.run("query", "offsets", f"group={group}", "type=zk")
    assert [line.split()[1] for line in ran.out.splitlines()[1:]] == [other]
    ran = cluster.run("groups", "delete", group, "--topic", topic)
    assert (ran.code, "has nothing of topic" in ran.err) == (1, True)


def test_a_group_with_members_is_left_alone(cluster: Home, topic: str, group: str) -> None:
    with ended(
        cluster.popen("consume", topic, "--group", group, "--follow", stdout=subprocess.DEVNULL)
    ) as member:
        eventually(
            lambda: bool(json.loads(cluster.run("groups", group, "--json").out)["members"]), "the member"
        )
        assert cluster.run("groups", "copy", group, f"from-{group}", "--execute").code == 0
        for words in (["delete", group], ["copy", f"from-{group}", group, "--replace"]):
            ran = cluster.run("groups", *words, "--execute")
            assert (ran.code, "has 1 member" in ran.err) == (1, True)
        member.send_signal(signal.SIGINT)
        member.wait()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["copy", "nobody", "other"], "has no offsets in registry"),
        (["copy", "nobody"], "source and target are the same"),
        (["copy", "nobody", "--into", "elsewhere"], "is no place for offsets"),
        (["copy", "nobody", "--from", "sqlite:/nowhere.db"], "there is no file /nowhere.db"),
        (["copy", "nobody", "--from", "sql:nomodule:x"], "cannot be imported"),
        (["copy", "nobody", "--from", "sql:json:x"], "is no module of the DB-API"),
        (["copy", "nobody", "--move", "0-0=0-1"], "--move needs --topic"),
        (["copy", "nobody", "--topic", "t", "--move", "0-0"], "write FROM=TO"),
        (["delete", "nobody"], "there is no group"),
    ],
)
def test_what_cannot_be_done(cluster: Home, words: list[str], complaint: str) -> None:
    ran = cluster.run("groups", *words)
    assert ran.code != 0
    assert complaint in ran.err
