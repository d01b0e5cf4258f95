"""What top shows, from two looks; and that it works without a terminal and on one."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.top import Sample, blocks
from tests.cli.conftest import ended

if TYPE_CHECKING:
    from tests.cli.conftest import Home


def sample(seconds: float, puts: int, ends: dict[str, int], **status: object) -> Sample:
    return Sample(
        seconds,
        {
            "role": "master",
            "address": "m:1",
            "uptime_seconds": 100.0,
            "connections": 3,
            "partitions": len(ends),
            "messages": sum(ends.values()) // 10,
            "bytes": sum(ends.values()),
            "disk_free_bytes": 2**30,
            "requests": {"put": puts, "get": 2 * puts, "received_bytes": 10 * puts, "sent_bytes": 0},
            "problems": [],
            **status,
        },
        {
            "topics": [
                {
                    "topic": topic,
                    "partition": 0,
                    "start_offset": 0,
                    "end_offset": end,
                    "messages": end // 10,
                    "failed": None,
                }
                for topic, end in ends.items()
            ]
        },
    )


def test_rates_are_of_the_time_between_two_looks() -> None:
    node, partitions, groups = blocks(
        sample(10.0, 100, {"calm": 500, "busy": 100}), sample(12.0, 300, {"calm": 500, "busy": 4100})
    )
    assert node.title == "master m:1, up 1 min 40 s"
    assert node.lines[2] == "puts 100/s   gets 200/s   in 1000 bytes/s   out 0 bytes/s"
    assert [line.split() for line in partitions.lines[1:]] == [
        ["busy", "0", "0", "4100", "410", "200", "2.0", "KiB"],
        ["calm", "0", "0", "500", "50", "0", "0", "bytes"],
    ]
    assert (groups.title, groups.lines) == ("0 groups", [])


def test_a_restart_in_between_gives_no_negative_rates() -> None:
    node, partitions, _groups = blocks(sample(1.0, 900, {"t": 900}), sample(2.0, 0, {"t": 0}))
    assert node.lines[2].startswith("puts 0/s   gets 0/s")
    assert "-" not in partitions.lines[1]


def test_what_is_wrong_is_marked() -> None:
    slave = {
        "slave_group": "g",
        "slave_id": 0,
        "connected": False,
        "lag_bytes": None,
        "lag_seconds": None,
        "silent_seconds": 61.0,
    }
    after = sample(2.0, 0, {"t": 1}, problems=["the disk is full"], slaves=[slave])
    after = attrs.evolve(after, groups_problem="no registry")
    node, _partitions, slaves, groups = blocks(sample(1.0, 0, {"t": 1}), after)
    assert node.lines[-1] == "! the disk is full"
    assert slaves.lines[1].split() == ["g/0", "no", "-", "-", "1", "min", "1", "s"]
    assert groups.lines == ["! no registry"]


def test_many_partitions_are_cut() -> None:
    many = {f"t{number:03}": 1 for number in range(50)}
    _node, partitions, _groups = blocks(sample(1.0, 0, many), sample(2.0, 0, many))
    assert partitions.lines[-1] == "and 30 partitions more, not as busy"
    assert len(partitions.lines) == 22


def test_once_without_a_terminal(cluster: Home, topic: str) -> None:
    cluster.run("produce", topic, stdin="1\n")
    cluster.wait_announced(topic)
    cluster.run("consume", topic, "--group", f"top-{topic}", "--count", "1")
    ran = cluster.run("top", "--once", "--interval", "0.1")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"master 127.0.0.1:{cluster.port}, up ")
    assert "meta-slave-group_0/0" in ran.out
    assert f"top-{topic}" in ran.out
    ran = cluster.run("top", "slave", "--once", "--interval", "0.1")
    assert f"master 127.0.0.1:{cluster.port}, connected" in ran.out


def test_on_a_terminal_until_control_c(cluster: Home) -> None:
    ours, theirs = pty.openpty()
    try:
        with ended(cluster.popen("top", "--interval", "0.1", stdout=theirs, stderr=subprocess.PIPE)) as top:
            os.close(theirs)
            shown = b""
            while shown.count(b"Control-C ends") < 3:
                shown += os.read(ours, 65536)
            top.send_signal(signal.SIGINT)
            # Until it is gone: a terminal that nobody reads would hold its last writes back.
            with suppress(OSError):
                while True:
                    shown += os.read(ours, 65536)
            assert (top.wait(), b"Traceback" in shown) == (0, False)
    finally:
        os.close(ours)


def test_one_that_does_not_run(home: Home) -> None:
    assert home.run("top", "--once").code == ExitCode.NOT_RUNNING
