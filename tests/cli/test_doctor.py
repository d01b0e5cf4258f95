"""The doctor finds what is wrong, says what to do, and finds nothing wrong where nothing is."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.cli import doctor_checks
from metaserver.cli.doctor_checks import filesystem_of
from metaserver.cli.exit_codes import ExitCode
from metaserver.storage import RealFileSystem
from tools.ports import free_port

if TYPE_CHECKING:
    from tests.cli.conftest import Home


def examine(home: Home, *words: str) -> tuple[int, dict[str, Any]]:
    ran = home.run("doctor", *words, "--json")
    return ran.code, json.loads(ran.out)


def problems(report: dict[str, Any], level: str = "problem") -> list[str]:
    return [found["text"] for found in report["findings"] if found["level"] == level]


def test_a_pair_that_is_well(cluster: Home) -> None:
    for role in ([], ["slave"]):
        code, report = examine(cluster, *role)
        assert (code, problems(report)) == (0, []), report
        subjects = {found["subject"] for found in report["findings"] if found["level"] == "ok"}
        assert {"configuration", "process", "disk", "ports", "registry", "peers"} <= subjects
    ran = cluster.run("doctor")
    assert "slave 0 at 127.0.0.1" in ran.out
    assert not list((cluster.base / "data" / "master").glob(".doctor*"))


def test_one_that_does_not_run_yet(home: Home) -> None:
    code, report = examine(home)
    assert (code, report["problems"]) == (0, 0)
    assert "the master is not running" in problems(report, "warning")
    assert "metaServer start" in home.run("doctor").out
    assert all(found["level"] != "ok" for found in examine(home, "--quiet")[1]["findings"])


def test_a_configuration_with_problems(home: Home) -> None:
    home.configure(serverPort="many", nonsense=1)
    code, report = examine(home)
    assert code == ExitCode.UNHEALTHY
    assert len(problems(report)) == 2
    home.server_file.unlink()
    assert home.run("doctor").code == ExitCode.CONFIGURATION


def test_a_port_that_is_taken(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home.configure(serverPort=port)
        code, report = examine(home)
    assert code == ExitCode.UNHEALTHY
    assert problems(report) == [f"serverPort {port} on 127.0.0.1 cannot be had: Address already in use"]


def test_a_data_directory_that_another_one_has(home: Home) -> None:
    data = home.base / "data" / "master"
    data.mkdir(parents=True)
    lock = RealFileSystem().lock(data / ".lock", "pid 1 on a test")
    try:
        assert problems(examine(home)[1]) == [f"{data} is in use by pid 1 on a test"]
    finally:
        lock.release()
    assert problems(examine(home)[1]) == []


def test_a_disk_without_room_and_too_few_descriptors(home: Home) -> None:
    home.configure(minFreeDiskBytes=1024**5, maxConnections=1_000_000)
    code, report = examine(home)
    assert code == ExitCode.UNHEALTHY
    assert ["are free in" in text for text in problems(report)] == [True]
    assert any("maxConnections needs up to 1,000,600" in text for text in problems(report, "warning"))


def test_a_zookeeper_that_does_not_answer(home: Home) -> None:
    port = free_port()
    text = home.server_file.read_text()
    home.server_file.write_text(text.replace("[zookeeper]", f"[zookeeper]\nzk.zkConnect=127.0.0.1:{port}"))
    (problem,) = problems(examine(home)[1])
    assert problem == f"of ZooKeeper 127.0.0.1:{port} do not answer: 127.0.0.1:{port} (Connection refused)"


def test_a_name_that_leads_clients_astray(home: Home) -> None:
    home.configure(bindAddress="0.0.0.0", hostName="localhost")
    assert any("leads them to themselves" in text for text in problems(examine(home)[1]))


def test_what_may_not_be_written(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    data = home.base / "data" / "master"
    data.mkdir(parents=True)
    (data / "foreign-0").mkdir()
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "foreign-0" and may(path, mode))
    (problem,) = problems(examine(home)[1])
    assert f"1 file in {data} cannot be written" in problem
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert all("may not write to" in text for text in problems(examine(home)[1]))


@pytest.mark.parametrize("state", [None, 0, 5])
def test_the_clock(home: Home, monkeypatch: pytest.MonkeyPatch, state: int | None) -> None:
    monkeypatch.setattr(doctor_checks, "clock_state", lambda: state)
    segment = home.base / "data" / "master" / "test-0" / f"{0:020d}.meta"
    segment.parent.mkdir(parents=True)
    segment.touch()
    ahead = 4_000_000_000
    os.utime(segment, (ahead, ahead))
    warnings = problems(examine(home)[1], "warning")
    assert any("the clock was set back" in text for text in warnings)
    assert any("nobody keeps the clock" in text for text in warnings) == (state == 5)


def test_which_filesystem() -> None:
    mounts = (
        "/dev/a / ext4 rw,relatime 0 0\n/dev/b /data xfs rw 0 0\nhost:/x /data/my\\040disk nfs4 ro,soft 0 0\n"
    )
    assert filesystem_of(Path("/database"), mounts)[0] == "ext4"
    assert filesystem_of(Path("/data/orders"), mounts)[0] == "xfs"
    assert filesystem_of(Path("/data/my disk/x"), mounts) == ("nfs4", ["ro", "soft"])
