"""What docs/runbook.md tells an operator to type, typed."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import attrs
import pytest

from metaserver.cli.exit_codes import ExitCode
from tests.cli.conftest import COMMAND_SECONDS_MAX, Home, ended, received, send
from tests.support import ROOT, eventually
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Ran

PAGE = ROOT / "docs" / "runbook.md"
_COMMAND = re.compile(r" *(master|slave)\$ metaServer (.+)")


@attrs.define(eq=False)
class Machines:
    """One with the master, one with its slave."""

    master: Home
    slave: Home

    def __attrs_post_init__(self) -> None:
        for machine in (self.master, self.slave):
            machine.port = free_port()
            machine.configure(serverPort=machine.port, dataPath="data")
        self.slave.slave_file.write_text(
            f"slaveId=0\nmasterAddress=127.0.0.1:{self.master.port}\n", encoding="utf-8"
        )

    def start(self) -> None:
        assert self.master.run("start").code == 0
        assert self.slave.run("start", "slave").code == 0

    def words(self, command: str, folder: str) -> list[str]:
        """What a shell would make of a line, with the names of this place."""
        for name, machine in (("MASTER:8123", self.master), ("SLAVE:8124", self.slave)):
            command = command.replace(name, f"127.0.0.1:{machine.port}")
        return command.replace("FOLDER", folder).split()

    def type(self, section: str, folder: str = "") -> list[Ran]:
        """Every command of a section, in order; each must succeed."""
        found = commands(section)
        assert found, f"the page has no commands in {section}"
        ran = []
        for machine, command in found:
            home = self.master if machine == "master" else self.slave
            ran.append(home.run(*self.words(command, folder)))
            assert ran[-1].code == 0, (command, ran[-1])
        return ran


def commands(section: str) -> list[tuple[str, str]]:
    (text,) = (part for part in PAGE.read_text(encoding="utf-8").split("\n## ") if part.startswith(section))
    return [(found[1], found[2]) for line in text.splitlines() if (found := _COMMAND.fullmatch(line))]


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    found = Machines(Home(tmp_path / "one"), Home(tmp_path / "two"))
    yield found
    found.slave.clean_up()
    found.master.clean_up()


def test_master_lost(machines: Machines) -> None:
    machines.start()
    master, slave = machines.master.port, machines.slave.port
    send(master, ["one", "two"])
    eventually(lambda: received(slave) == ["one", "two"], "the copy")
    machines.slave.kill("slave")
    send(master, ["three"])
    machines.master.kill()
    assert machines.slave.run("start", "slave").code == 0
    promoted, status, followed, listed, would, replayed = machines.type("Master lost", "test-0/46-71")
    assert (
        "what the master had taken is not known, because the slave has not reached it since" in promoted.out
    )
    assert status.out.startswith("master running")
    assert "the master does not have 1 message: test-0/46-71" in followed.out
    assert "test-0/46-71" in listed.out
    assert "would send 1 message" in would.out
    assert "sent 1 message" in replayed.out
    eventually(lambda: received(master) == received(slave) == ["one", "two", "three"], "all is well again")
    for ran, role in zip(machines.type("Is all well again"), ("master", "slave"), strict=True):
        assert ran.out.startswith(f"{role} running")


def test_slave_lost(machines: Machines) -> None:
    machines.start()
    send(machines.master.port, ["one"])
    machines.slave.kill("slave")
    send(machines.master.port, ["two"])
    machines.type("Slave lost")
    eventually(lambda: received(machines.slave.port) == ["one", "two"], "it goes on where it was")


def test_disk_of_the_slave_lost(machines: Machines) -> None:
    machines.start()
    send(machines.master.port, ["one"])
    eventually(lambda: received(machines.slave.port) == ["one"], "the copy")
    machines.slave.kill("slave")
    shutil.rmtree(machines.slave.base / "data")
    assert (
        "**Of the slave:** give it an empty data directory and start it: `metaServer restart slave`" in page()
    )
    assert machines.slave.run("restart", "slave").code == 0
    eventually(lambda: received(machines.slave.port) == ["one"], "it copies everything")
    assert machines.slave.status("slave")["role"] == "slave"


def test_disk_of_an_old_master_lost_that_was_told_to_follow(machines: Machines) -> None:
    machines.start()
    send(machines.master.port, ["one"])
    eventually(lambda: received(machines.slave.port) == ["one"], "the copy")
    machines.master.kill()
    eventually(lambda: not machines.slave.status("slave")["replication"]["connected"], "the slave notices")
    assert machines.slave.run("promote").code == 0
    follow = machines.words("follow SLAVE:8124", "")
    assert machines.master.run(*follow).code == 0
    machines.master.kill()
    shutil.rmtree(machines.master.base / "data")
    assert "is told again, or it would start as a second master:\n`metaServer follow SLAVE:8124`" in page()
    assert machines.master.run(*follow).code == 0
    eventually(lambda: received(machines.master.port) == ["one"], "it copies everything")


def test_disk_of_the_master_lost(machines: Machines) -> None:
    machines.start()
    send(machines.master.port, ["one"])
    eventually(lambda: received(machines.slave.port) == ["one"], "the copy")
    machines.master.kill()
    shutil.rmtree(machines.master.base / "data")
    eventually(lambda: not machines.slave.status("slave")["replication"]["connected"], "the slave notices")
    machines.type("Disk lost")
    eventually(lambda: received(machines.master.port) == ["one"], "the old master has everything again")
    assert machines.slave.status("slave")["role"] == "master"


def test_both_lost_and_both_disks_are_there(machines: Machines) -> None:
    machines.start()
    send(machines.master.port, ["one"])
    eventually(lambda: received(machines.slave.port) == ["one"], "the copy")
    machines.slave.kill("slave")
    send(machines.master.port, ["two"])
    machines.master.kill()
    assert "`metaServer start` (or `metaServer start slave` for a promoted one" in page()
    assert machines.master.run("start").code == 0
    assert "or `metaServer start slave` where it was the slave" in page()
    assert machines.slave.run("start", "slave").code == 0
    eventually(lambda: received(machines.slave.port) == ["one", "two"], "everything is on both")

    # And with the roles changed.
    machines.master.kill()
    eventually(lambda: not machines.slave.status("slave")["replication"]["connected"], "the slave notices")
    assert machines.slave.run("promote").code == 0
    machines.slave.kill("slave")
    assert machines.slave.run("start", "slave").out.startswith("master ready")
    assert machines.master.run(*machines.words("follow SLAVE:8124", "")).code == 0
    send(machines.slave.port, ["three"])
    eventually(
        lambda: received(machines.master.port) == ["one", "two", "three"], "everything is on both again"
    )


def test_both_lost_and_only_the_disk_of_the_slave_is_left(machines: Machines) -> None:
    machines.start()
    send(machines.master.port, ["one"])
    eventually(lambda: received(machines.slave.port) == ["one"], "the copy")
    machines.master.kill()
    machines.slave.kill("slave")
    shutil.rmtree(machines.master.base / "data")
    promoted = machines.slave.run("promote")
    assert promoted.code == 0, promoted.err
    assert "not known" in promoted.out
    assert machines.master.run("follow", f"127.0.0.1:{machines.slave.port}").code == 0
    eventually(lambda: received(machines.master.port) == ["one"], "everything is on both again")


def test_planned_change(machines: Machines) -> None:
    machines.start()
    send(machines.master.port, ["one", "two"])
    ((_, waits), (_, hands_over)) = commands("Planned change")
    change(machines.slave, machines.words(waits, ""), machines.master, machines.words(hands_over, ""))
    assert machines.slave.status("slave")["role"] == "master"
    assert machines.master.status()["role"] == "slave"
    send(machines.slave.port, ["three"])
    eventually(lambda: received(machines.master.port) == ["one", "two", "three"], "the old master follows")
    # And back, as the page has it in a sentence.
    back = ("promote local --after-handover", "switchover slave --to MASTER:8123")
    assert all(f"`metaServer {command}`" in page() for command in back)
    change(machines.master, machines.words(back[0], ""), machines.slave, machines.words(back[1], ""))
    assert machines.master.status()["role"] == "master"
    assert machines.slave.status("slave")["role"] == "slave"
    send(machines.master.port, ["four"])
    eventually(lambda: received(machines.slave.port)[-1:] == ["four"], "the slave follows again")
    assert machines.master.status()["quarantine"]["folders"] == 0


def change(new: Home, waits: list[str], old: Home, hands_over: list[str]) -> None:
    """Type the one command, and the other when the first says that it waits."""
    with new.popen(*waits, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        try:
            assert waiting.stderr is not None
            said = waiting.stderr.readline().decode()
            assert "waiting for" in said
            assert said.rstrip().endswith(f" metaServer {' '.join(hands_over)}")
            ran = old.run(*hands_over)
            out, err = waiting.communicate(timeout=COMMAND_SECONDS_MAX)
        finally:
            waiting.kill()
    assert ran.code == 0, ran.err
    assert waiting.returncode == 0, err
    assert f"`metaServer {' '.join(waits)}` on its machine" in ran.out
    assert b"master ready at" in out
    assert "slave ready at" in ran.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_change_that_is_given_up_says_what_is_left(machines: Machines, number: signal.Signals) -> None:
    machines.start()
    slave = f"127.0.0.1:{machines.slave.port}"
    eventually(lambda: machines.slave.status("slave")["replication"]["connected"], "the slave connects")
    old = machines.master.popen("switchover", "--to", slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with ended(old):
        assert old.stdout is not None
        assert b"it is waited for" in old.stdout.readline()
        old.send_signal(number)
        _, err = old.communicate(timeout=COMMAND_SECONDS_MAX)
    assert old.returncode == ExitCode.INTERRUPTED
    assert "this node has given up its place and takes no messages" in err.decode()
    assert f"`metaServer follow {slave}` when {slave} is master" in err.decode()
    # Whoever did not see that asks how it is.
    status = machines.master.run("status")
    assert "problem        it has given up its place as master" in status.out
    assert machines.master.status()["handed_over"]
    # And where the next try fails too, it is no better.
    assert machines.slave.run("stop", "slave").code == 0
    again = machines.master.run("switchover", "--to", slave)
    assert again.code == ExitCode.UNREACHABLE
    assert "this node has given up its place" in again.err
    # What it says is what helps.
    assert machines.master.run("restart").code == 0
    send(machines.master.port, ["taken"])
    assert not machines.master.status()["handed_over"]


def test_with_nobody_to_hand_over_to_nothing_is_changed(machines: Machines) -> None:
    assert machines.master.run("start").code == 0
    ran = machines.master.run("switchover", "--to", f"127.0.0.1:{machines.slave.port}")
    assert ran.code == ExitCode.UNREACHABLE
    assert "nothing was changed" in ran.err
    send(machines.master.port, ["one"])
