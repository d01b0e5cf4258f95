"""Groups: which there are, how far they are behind, and moving one, while it runs and while it does not."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.cli.exit_codes import ExitCode
from tests.cli.conftest import ended
from tests.support import eventually

if TYPE_CHECKING:
    from tests.cli.conftest import Home

RECORD = 20 + 1
"""Bytes of a message of one character."""


@pytest.fixture
def filled(cluster: Home, topic: str) -> str:
    """A topic with nine messages in one partition, announced by both nodes."""
    assert cluster.run("produce", topic, stdin="".join(f"{n}\n" for n in range(1, 10))).code == 0
    cluster.wait_announced(topic)
    return topic


def shown(home: Home, group: str) -> dict[str, Any]:
    ran = home.run("groups", group, "--json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def offset_of(home: Home, group: str) -> int | None:
    (partition,) = shown(home, group)["partitions"]
    found: int | None = partition["offset"]
    return found


def test_how_far_a_group_is_behind(cluster: Home, filled: str) -> None:
    group = f"g-{filled}"
    assert cluster.run("consume", filled, "--group", group, "--count", "4").out == "1\n2\n3\n4\n"
    ids = [
        json.loads(line)["id"] for line in cluster.run("consume", filled, "--format", "json").out.splitlines()
    ]
    found = shown(cluster, group)
    assert (found["members"], found["lag_bytes"], found["lag_messages"]) == ([], 5 * RECORD, 5)
    assert (found["is_estimated"], found["partitions_unknown"]) == (False, 0)
    (partition,) = found["partitions"]
    assert (partition["offset"], partition["message_id"]) == (4 * RECORD, ids[3])
    assert (partition["topic"], partition["partition"], partition["owner"]) == (filled, "0-0", None)
    assert (partition["start_offset"], partition["end_offset"]) == (0, 9 * RECORD)
    assert partition["lag_seconds"] == found["lag_seconds"] > 0
    assert (partition["replicas"], partition["problem"]) == (["master", "slave0"], None)
    text = cluster.run("groups", group).out
    assert text.startswith(f"group {group}: 0 members, 1 partition, behind by 105 bytes, 5 messages, ")
    assert "master slave0" in text

    assert cluster.run("consume", filled, "--group", group, "--count", "5").out == "5\n6\n7\n8\n9\n"
    found = shown(cluster, group)
    assert (found["lag_bytes"], found["lag_messages"], found["lag_seconds"]) == (0, 0, None)
    assert found["partitions"][0]["message_id"] == ids[8]


def test_all_groups(cluster: Home, filled: str) -> None:
    for number in (1, 2):
        cluster.run("consume", filled, "--group", f"all-{filled}-{number}", "--count", str(number))
    found = {entry["group"]: entry for entry in json.loads(cluster.run("groups", "--json").out)["groups"]}
    one, two = found[f"all-{filled}-1"], found[f"all-{filled}-2"]
    assert (one["lag_bytes"], two["lag_bytes"]) == (8 * RECORD, 7 * RECORD)
    assert (one["topics"], one["members"], one["partitions"], one["partitions_unknown"]) == (
        [filled],
        0,
        1,
        0,
    )
    lines = cluster.run("groups").out.splitlines()
    assert any(line.split() == [f"all-{filled}-1", "0", "1", "168", "bytes", filled] for line in lines)


def test_many_messages_are_estimated(cluster: Home, topic: str) -> None:
    cluster.run("produce", topic, stdin=f"{'x' * 49_980}\n" * 100)
    cluster.wait_announced(topic)
    cluster.run("consume", topic, "--group", "far", "--count", "1")
    (counted,) = [entry for entry in shown(cluster, "far")["partitions"] if entry["topic"] == topic]
    assert (counted["lag_messages"], counted["is_estimated"]) == (99, False)
    ran = cluster.run("groups", "far", "--scan-mib", "1")
    assert "~99 " in ran.out


def test_a_reset_tells_what_it_would_do_and_does_it_when_told(cluster: Home, filled: str) -> None:
    group = f"reset-{filled}"
    cluster.run("consume", filled, "--group", group, "--count", "6")
    ran = cluster.run("groups", "reset", group, "--to", "start")
    assert ran.code == 0
    assert ran.out.splitlines()[1].split() == [filled, "0-0", str(6 * RECORD), "0", "-1", str(-6 * RECORD)]
    assert "--execute does it" in ran.err
    assert offset_of(cluster, group) == 6 * RECORD

    ran = cluster.run("groups", "reset", group, "--to", str(2 * RECORD), "--execute", "--json")
    assert (ran.code, ran.err) == (0, "")
    done = json.loads(ran.out)
    (move,) = done["partitions"]
    assert (done["executed"], move["from"], move["to"], move["written"]) == (
        True,
        6 * RECORD,
        2 * RECORD,
        True,
    )
    (partition,) = shown(cluster, group)["partitions"]
    ids = [
        json.loads(line)["id"] for line in cluster.run("consume", filled, "--format", "json").out.splitlines()
    ]
    assert (partition["offset"], partition["message_id"]) == (2 * RECORD, ids[1])
    assert cluster.run("consume", filled, "--group", group, "--count", "1").out == "3\n"

    assert cluster.run("groups", "reset", group, "--to", "end", "--execute").code == 0
    (partition,) = shown(cluster, group)["partitions"]
    assert (partition["offset"], partition["message_id"]) == (9 * RECORD, ids[8])
    seconds = ((ids[0] >> 22) + 1303895660503) / 1000
    assert cluster.run("groups", "reset", group, "--to", f"@{seconds:.3f}", "--execute").code == 0
    assert offset_of(cluster, group) == 0


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (str(2 * RECORD + 1), f"the nearest that do are at {2 * RECORD} and {3 * RECORD}"),
        ("190", "outside of its log, which begins at 0 and ends at 189"),
    ],
)
def test_a_reset_to_no_place_changes_nothing(where: str, told: str, cluster: Home, filled: str) -> None:
    group = f"wrong-{filled}"
    cluster.run("consume", filled, "--group", group, "--count", "5")
    ran = cluster.run("groups", "reset", group, "--to", where, "--execute")
    assert (ran.code, told in ran.err) == (ExitCode.FAILED, True), ran.err
    assert offset_of(cluster, group) == 5 * RECORD


def test_a_reset_of_some_partitions(cluster: Home, topic: str) -> None:
    name, group = f"two-{topic}", f"some-{topic}"
    for partition in ("0", "1"):
        cluster.run("produce", name, "--partition", partition, stdin="a\nb\n")
    cluster.wait_announced(name)
    cluster.run("consume", name, "--group", group, "--count", "4")
    ran = cluster.run(
        "groups", "reset", group, "--topic", name, "--partition", "0-1", "--to", "start", "--execute"
    )
    assert ran.code == 0, ran.err
    found = {entry["partition"]: entry["offset"] for entry in shown(cluster, group)["partitions"]}
    assert found == {"0-0": 2 * RECORD, "0-1": 0}
    ran = cluster.run("groups", "reset", group, "--partition", "0-2", "--to", "start")
    assert (ran.code, "partition 0-2" in ran.err) == (ExitCode.FAILED, True)
    ran = cluster.run("groups", "reset", group, "--topic", "empty", "--to", "start")
    assert (ran.code, "nothing to do with topic empty" in ran.err) == (ExitCode.FAILED, True)


def test_a_running_member_is_shown_protected_and_moved_by_force(cluster: Home, filled: str) -> None:
    group = f"live-{filled}"
    with ended(
        cluster.popen("consume", filled, "--group", group, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ) as process:
        assert process.stdout is not None
        for number in range(1, 10):
            assert process.stdout.readline() == b"%d\n" % number
        eventually(lambda: offset_of(cluster, group) == 9 * RECORD, "the commit of what was printed")
        found = shown(cluster, group)
        (member,) = found["members"]
        assert member["topics"] == [filled]
        assert found["partitions"][0]["owner"] == member["id"]
        text = cluster.run("groups", group).out
        assert f"#1 {member['id']}: {filled}" in text
        ran = cluster.run("groups", "reset", group, "--to", "start", "--execute")
        assert (ran.code, member["id"] in ran.err, "--force" in ran.err) == (ExitCode.FAILED, True, True)
        assert offset_of(cluster, group) == 9 * RECORD

        ran = cluster.run("groups", "reset", group, "--to", str(7 * RECORD), "--execute", "--force")
        assert (ran.code, "a running member notices" in ran.err) == (0, True)
        assert offset_of(cluster, group) == 7 * RECORD
        cluster.run("produce", filled, stdin="x\n")
        # What it prints makes it store an offset, which tells it that it was moved.
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines == [b"x\n", b"8\n", b"9\n", b"x\n"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"")
    assert b"Offsets were changed by others" in err
    assert offset_of(cluster, group) == 10 * RECORD


def test_mistakes(cluster: Home) -> None:
    ran = cluster.run("groups", "nobody")
    assert (ran.code, "no group 'nobody'" in ran.err) == (ExitCode.FAILED, True)
    ran = cluster.run("groups", "reset", "nobody", "--to", "start")
    assert (ran.code, "no group 'nobody'" in ran.err) == (ExitCode.FAILED, True)
    assert cluster.run("groups", "a/b").code == ExitCode.USAGE
    assert cluster.run("groups", "reset", "g", "--to", "yesterday").code == ExitCode.USAGE
    assert cluster.run("groups", "reset", "g", "--to", "start", "--partition", "x").code == ExitCode.USAGE
    assert cluster.run("groups", "reset", "g").code == ExitCode.USAGE
    assert cluster.run("groups", "--servers", "127.0.0.1:1").code == ExitCode.USAGE
    ran = cluster.run("groups", "--servers", "metaq://127.0.0.1:1")
    assert (ran.code, "127.0.0.1:1 cannot be reached" in ran.err) == (ExitCode.UNREACHABLE, True)
    assert len(ran.err.splitlines()) == 1
    ran = cluster.run("groups", "rest")
    assert (ran.code, "do you mean `metaServer groups reset`?" in ran.err) == (ExitCode.FAILED, True)
    ran = cluster.run("groups", "rest", "g", "--to", "start")
    assert (ran.code, "do you mean `metaServer groups reset`?" in ran.err) == (ExitCode.USAGE, True)


def test_the_registry_of_another_zookeeper_root(cluster: Home) -> None:
    port = cluster.status()["embedded_registry"]["port"]
    elsewhere = ("--servers", f"zookeeper://127.0.0.1:{port}", "--root", "/else")
    where = f"below /else in the registry of zookeeper://127.0.0.1:{port}"
    assert cluster.run("groups", *elsewhere).out == f"no groups {where}\n"
    assert cluster.run("topics", "--cluster", *elsewhere).out == f"no topics {where}\n"
    assert "'empty' below /else in the registry" in cluster.run("topics", "empty", *elsewhere).err
    ran = cluster.run("topics", "empty", "--servers", f"zookeeper://127.0.0.1:{port}")
    assert (ran.code, ran.out.startswith("empty: 1 partition")) == (0, True)


def test_a_broker_in_no_registry(home: Home) -> None:
    text = home.server_file.read_text(encoding="utf-8").replace("registryPort=0", "zk.zkEnable=false")
    home.server_file.write_text(text, encoding="utf-8")
    ran = home.run("groups")
    assert (ran.code, "zk.zkEnable is false" in ran.err) == (ExitCode.USAGE, True)
