"""A message through a cluster: everywhere, somewhere, nowhere; and what is left for Prometheus."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.probe import Probe, Reading, textfile_lines
from metaserver.client import Partition
from metaserver.client.group_report import GroupReport, PartitionReport
from metaserver.client.groups import Group
from metaserver.registry.paths import Replica

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Home

PROBES = [Probe(Partition("t", 0, 1), 0.25, "", [Reading(Replica(0), 0.5)])]
GROUPS = [
    GroupReport(
        Group('g"\\', {"m": ("t",)}, {}, {}),
        [
            PartitionReport(Partition("t", 0, 0), None, offset=10, start_offset=0, end_offset=2**40),
            PartitionReport(Partition("t", 0, 1), None, offset=30, start_offset=0, end_offset=20),
        ],
    )
]


def read(lines: list[str]) -> dict[str, dict[str, float]]:
    """Metric to the values by their labels."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            found.setdefault(sample.name, {})[",".join(sample.labels.values())] = sample.value
    return found


def test_the_metrics() -> None:
    assert read(textfile_lines(PROBES, GROUPS, 1_800_000_000.5)) == {
        "metaserver_probe_up": {"": 1},
        "metaserver_probe_time_seconds": {"": 1_800_000_000.5},
        "metaserver_probe_success": {"0-1": 1},
        "metaserver_probe_put_seconds": {"0-1": 0.25},
        "metaserver_probe_read_seconds": {"0-1,master": 0.5},
        "metaserver_group_lag_bytes": {'g"\\,t': 2**40 - 10},
        "metaserver_group_offset_bytes": {'g"\\,t': 40},
        "metaserver_group_ahead_bytes": {'g"\\,t': 10},
        "metaserver_group_members": {'g"\\': 1},
    }
    assert read(textfile_lines([], [], None)) == {"metaserver_probe_up": {"": 0}}


def test_a_message_comes_through_everywhere(cluster: Home, topic: str, tmp_path: Path) -> None:
    assert cluster.run("produce", topic, stdin="first\n").code == 0
    cluster.wait_announced(topic)
    file = tmp_path / "probe.prom"
    ran = cluster.run("probe", topic, "--replicas", "2", "--textfile", str(file), "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["ok"]
    (one,) = found["probes"]
    assert one["partition"] == "0-0"
    assert [(each["replica"], each["problem"]) for each in one["replicas"]] == [
        ("master", None),
        ("slave0", None),
    ]
    metrics = read(file.read_text(encoding="utf-8").splitlines())
    assert metrics["metaserver_probe_success"] == {"0-0": 1}
    assert set(metrics["metaserver_probe_read_seconds"]) == {"0-0,master", "0-0,slave0"}
    assert [path.name for path in tmp_path.iterdir()] == ["probe.prom"]
    messages = cluster.run("consume", topic, "--format", "json").out.splitlines()
    assert json.loads(messages[-1])["attribute"] == "metaserver-probe"
    assert cluster.run("probe", topic).out.splitlines()[1].split()[-1] == "ok"


def test_a_replica_too_few_is_a_failure(cluster: Home, topic: str) -> None:
    cluster.run("produce", topic, stdin="first\n")
    cluster.wait_announced(topic)
    ran = cluster.run("probe", topic, "--replicas", "3")
    assert ran.code == ExitCode.FAILED
    assert f"{topic} 0-0: 2 replicas of 3 serve it" in ran.err
    assert ran.err.splitlines()[-1] == "metaServer: 1 probe of 1 failed"


def test_a_topic_of_nobody(cluster: Home, tmp_path: Path) -> None:
    file = tmp_path / "probe.prom"
    ran = cluster.run("probe", "nothing-here", "--textfile", str(file))
    assert ran.code == ExitCode.FAILED
    assert "no broker announces topic 'nothing-here'" in ran.err
    assert "metaserver_probe_up 0" in file.read_text(encoding="utf-8")


def test_no_registry(cluster: Home) -> None:
    ran = cluster.run("probe", "--servers", "zookeeper://127.0.0.1:1")
    assert ran.code == ExitCode.UNREACHABLE


def test_a_slave_that_does_not_follow_is_named(home: Home) -> None:
    home.configure(topics="[topic=test]\n")
    home.start()
    home.start_slave()
    home.run("produce", "test", stdin="first\n")
    home.wait_registered("slave")
    home.wait_announced("test")
    pid = int((home.base / "logs" / ".run-slave.pid").read_text(encoding="ascii"))
    os.kill(pid, signal.SIGSTOP)
    try:
        ran = home.run("probe", "test", "--timeout", "5")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ran.code == ExitCode.FAILED
    assert "test 0-0: the slave0 does not have the message after 5 s" in ran.err
    assert "master" in ran.out


@pytest.mark.parametrize("wrong", [["a/b"], ["--replicas", "0"], ["--timeout", "0"]])
def test_wrong_arguments(home: Home, wrong: list[str]) -> None:
    assert home.run("probe", *wrong).code == ExitCode.USAGE
