"""start, stop, restart and status with real processes: what works, and what an operator gets wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from metaserver.cli.exit_codes import ExitCode
from metaserver.control.client import call as control_call
from tests.support import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Home


def test_a_life(home: Home) -> None:
    home.calls_in_process = False
    ran = home.run("start")
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out.count("\n") == 1
    status = home.status()
    pid = int(home.pid_file.read_text(encoding="ascii"))
    assert (status["running"], status["role"], status["pid"]) == (True, "master", pid)
    assert ran.out == (
        f"master ready at {status['address']} (pid {pid}); data {home.base}/data/master; "
        f"HTTP 127.0.0.1:{status['http_port']}; registry 127.0.0.1:{status['embedded_registry']['port']}; "
        f"log {home.base}/logs/metaServer.log\n"
    )
    with socket.create_connection(("127.0.0.1", int(status["address"].rpartition(":")[2]))) as connection:
        connection.sendall(b"version 1\r\n")
        assert connection.recv(100).startswith(b"result 200")
    assert f"master running (pid {pid})" in home.run("status", "--check").out

    again = home.run("start")
    assert (again.code, again.out) == (ExitCode.ALREADY_RUNNING, "")
    assert f"running already (pid {pid})" in again.err

    stopped = home.run("stop")
    assert (stopped.code, stopped.out, stopped.err) == (0, f"master stopped (pid {pid})\n", "")
    assert not home.pid_file.exists()
    assert not (home.base / "logs" / ".control.sock").exists()
    assert not (home.base / "data" / "master" / ".lock").exists()
    assert "Stop metamorphosis server successfully" in (home.base / "logs" / "metaServer.log").read_text()


def test_what_is_not_running(home: Home) -> None:
    assert home.run("stop").code == ExitCode.NOT_RUNNING
    assert home.run("reload").code == ExitCode.NOT_RUNNING
    status = home.run("status")
    assert (status.code, status.out) == (0, f"master stopped ({home.server_file})\n")
    assert home.run("status", "--check").code == ExitCode.NOT_RUNNING
    assert json.loads(home.run("status", "slave", "--json").out) == {
        "running": False,
        "role": "slave",
        "pid": None,
    }


def test_restart_starts_what_was_not_running_and_replaces_what_was(home: Home) -> None:
    first = home.run("restart")
    assert (first.code, first.out.startswith("master ready")) == (0, True)
    before = home.status()["pid"]
    second = home.run("restart")
    assert (second.code, second.out.startswith(f"master stopped (pid {before})\nmaster ready")) == (0, True)
    assert home.status()["pid"] != before


def test_restart_stops_nothing_that_would_not_start_again(home: Home) -> None:
    home.start()
    home.start_slave()
    before = [home.status()["pid"], home.status("slave")["pid"]]
    for path in (home.base / "conf" / "logging.toml", home.server_file):
        good = path.read_bytes() if path.exists() else b""
        path.write_bytes(good + b"\nnonsense=1\n")
        for role, word in ((["slave"], "slave"), ([], "master")):
            ran = home.run("restart", *role)
            assert ran.code == ExitCode.CONFIGURATION
            assert f"the {word} would not start again with that; nothing was changed" in ran.err
        path.write_bytes(good)
    home.slave_file.write_text("slaveId=0\nserverPort=0\ndashboardHttpPort=0\n", encoding="utf-8")
    ran = home.run("restart", "slave")
    assert ran.code == ExitCode.FAILED
    assert "masterAddress is missing" in ran.err
    assert [home.status()["pid"], home.status("slave")["pid"]] == before


def test_master_and_slave_beside_each_other(home: Home) -> None:
    home.start()
    home.start_slave()
    assert home.status("slave")["role"] == "slave"
    assert home.status()["role"] == "master"
    assert (home.base / "logs" / "metaServer-slave.log").exists()
    other = home.base / "elsewhere.properties"
    home.slave_file.rename(other)
    assert "slave running" in home.run("status", f"-Fmetaslave={other}").out
    assert "slave running" in home.run("status", "-F", f"metaslave={other}").out
    assert home.run("stop", "slave").code == 0
    assert home.status()["running"]


def test_a_file_named_with_f_has_its_logs_beside_conf(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other"
    home.server_file.parent.rename(tmp_path / "away")
    (other / "conf").mkdir(parents=True)
    file = (tmp_path / "away" / "server.ini").rename(other / "conf" / "my.ini")
    ran = home.run("start", "-f", "other/conf/my.ini")
    assert ran.code == 0, ran.err
    assert f"log {other}/logs/metaServer.log" in ran.out
    assert home.run("status", "--check", "-f", str(file)).code == 0
    assert home.run("stop", "-f", str(file)).code == 0


def test_problems_of_the_configuration_all_at_once(home: Home) -> None:
    text = home.server_file.read_text(encoding="utf-8")
    home.server_file.write_text(text.replace("brokerId=0", "brokerId=5000\nserverPrt=1"), encoding="utf-8")
    ran = home.run("start")
    assert (ran.code, ran.out) == (ExitCode.CONFIGURATION, "")
    assert "brokerId" in ran.err
    assert "serverPort" in ran.err
    assert "Traceback" not in ran.err
    home.calls_in_process = False
    foreground = home.run("start", "--foreground")
    assert foreground.code == ExitCode.CONFIGURATION
    assert "Traceback" not in foreground.err

    home.server_file.write_text(text.replace("brokerId=0", "brokerId=0\nunheardOf=1"), encoding="utf-8")
    assert home.run("start").code == ExitCode.CONFIGURATION
    assert home.run("start", "--lenient").code == 0
    assert home.run("reload").code == 0


def test_a_slave_without_its_file(home: Home) -> None:
    ran = home.run("start", "slave")
    assert ran.code == ExitCode.CONFIGURATION
    assert str(home.slave_file) in ran.err


def test_a_port_in_use(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home.configure(serverPort=port)
        ran = home.run("start")
    assert ran.code == ExitCode.FAILED
    first, *rest = ran.err.splitlines()
    assert first.startswith(f"metaServer: the master does not start: cannot listen on 127.0.0.1:{port}")
    assert rest[0] == f"the last lines of {home.base}/logs/metaServer.log:"
    assert "Traceback" not in ran.err
    assert not home.status()["running"]


def test_an_address_that_is_not_of_this_machine(home: Home) -> None:
    home.configure(bindAddress="192.0.2.1")
    ran = home.run("start")
    assert ran.code == ExitCode.FAILED
    assert "cannot listen on 192.0.2.1:0" in ran.err
    assert "bindAddress must be an address of this machine" in ran.err


def test_a_data_directory_in_use_names_its_owner(home: Home, tmp_path: Path) -> None:
    home.start()
    pid = home.status()["pid"]
    other = tmp_path / "second"
    (other / "conf").mkdir(parents=True)
    text = home.server_file.read_text(encoding="utf-8")
    (other / "conf" / "server.ini").write_text(
        text.replace("data/master", f"{home.base}/data/master"), encoding="utf-8"
    )
    ran = home.run("start", "-f", str(other / "conf" / "server.ini"))
    assert ran.code == ExitCode.FAILED
    assert f"in use by pid {pid}" in ran.err


@pytest.mark.parametrize("content", ["{living}", "999999999", "rubbish", ""])
def test_a_stale_pid_file_is_no_broker(content: str, home: Home) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        home.pid_file.parent.mkdir()
        home.pid_file.write_text(content.format(living=other.pid), encoding="ascii")
        assert "is stale" in home.run("status").out
        assert home.run("stop").code == ExitCode.NOT_RUNNING
        assert other.poll() is None, "somebody else's process must not be touched"
        ran = home.run("start")
        assert ran.code == 0
        assert "is stale" in ran.err
        other.communicate()
    assert int(home.pid_file.read_text(encoding="ascii")) == home.status()["pid"]


def test_after_a_crash_it_starts_again(home: Home) -> None:
    home.start()
    os.kill(home.status()["pid"], signal.SIGKILL)
    eventually(lambda: not home.status()["running"], "the end of a killed broker")
    assert home.run("stop").code == ExitCode.NOT_RUNNING
    home.start()


def test_a_broker_that_does_not_answer_is_still_a_broker(home: Home) -> None:
    """Its control socket is gone; the pid file and the process are not."""
    home.start()
    pid = home.status()["pid"]
    (home.base / "logs" / ".control.sock").unlink()
    assert f"running (pid {pid}), but it does not answer" in home.run("status").out
    assert home.run("start").code == ExitCode.ALREADY_RUNNING
    assert home.run("stop").out == f"master stopped (pid {pid})\n"


def test_a_broker_that_does_not_end_is_killed_only_on_demand(home: Home) -> None:
    home.start()
    pid = home.status()["pid"]
    (home.base / "logs" / ".control.sock").unlink()
    os.kill(pid, signal.SIGSTOP)
    ran = home.run("stop", "--timeout", "0.1")
    assert ran.code == ExitCode.TIMEOUT
    assert "--force" in ran.err
    assert home.status()["running"]
    assert home.run("stop", "--timeout", "0.1", "--force").code == 0
    assert not home.status()["running"]


def test_a_start_that_takes_too_long_leaves_nothing_behind(home: Home) -> None:
    ran = home.run("start", "--timeout", "0.01")
    assert ran.code == ExitCode.TIMEOUT
    assert "was not ready within 0.01 s" in ran.err
    assert not home.status()["running"]


def test_in_the_foreground_until_a_signal(home: Home) -> None:
    process = home.popen("start", "--foreground", "--log-format", "json", stderr=subprocess.PIPE)
    try:
        eventually(home.pid_file.exists, "the start in the foreground")
        status = control_call(home.base / "logs" / ".control.sock", "status", 10.0)
        assert status["pid"] == process.pid
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 0
    assert all("message" in json.loads(line) for line in err.splitlines())


def test_the_log_is_in_the_file_and_follows_conf(home: Home) -> None:
    (home.base / "conf" / "logging.toml").write_text('level = "error"\n', encoding="utf-8")
    home.start()
    assert (home.base / "logs" / "metaServer.log").read_text(encoding="utf-8") == ""
    home.run("stop")
    (home.base / "conf" / "logging.toml").write_text('level = "loud"\n', encoding="utf-8")
    ran = home.run("start")
    assert (ran.code, "loud" in ran.err) == (ExitCode.CONFIGURATION, True)


def test_a_node_may_open_as_many_files_as_the_system_lets_it(home: Home) -> None:
    home.start()
    limits = (home.base / "/proc" / str(home.status()["pid"]) / "limits").read_text(encoding="ascii")
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    soft, hard = line.split()[3:5]
    assert soft == hard
