"""What systemd is told; a datagram socket of the test stands for it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from metaserver.node.service_manager import ServiceManager
from tests.support import WAIT_SECONDS_MAX, BrokerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "conf" / "systemd" / "metaserver@.service"
CONTAINER = ROOT / "conf" / "Containerfile"


class Manager:
    """The other end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(WAIT_SECONDS_MAX)
        self.socket.bind(address)

    def told(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify"))
    yield found
    found.socket.close()


def address_of(manager: Manager) -> str:
    return str(manager.socket.getsockname())


def test_what_the_environment_says_is_taken_out_of_it(manager: Manager) -> None:
    environment = {
        "NOTIFY_SOCKET": address_of(manager),
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": "7",
        "A": "b",
    }
    service = ServiceManager.of(environment, 7)
    assert environment == {"A": "b"}
    service.ready("one\ntwo")
    assert manager.told() == ["READY=1", "STATUS=one two"]
    service.stopping()
    assert manager.told() == ["STOPPING=1", "STATUS=stopping"]


def test_an_abstract_name() -> None:
    there = Manager("\0metaserver-test-notify")
    ServiceManager.of({"NOTIFY_SOCKET": "@metaserver-test-notify"}, 1).ready("x")
    assert there.told() == ["READY=1", "STATUS=x"]
    there.socket.close()


async def test_nobody_wants_to_know(nursery: trio.Nursery) -> None:
    service = ServiceManager.of({}, 1)
    service.ready("x")
    await service.run(lambda: "x")


def test_a_manager_that_is_gone_does_not_matter(tmp_path: Path) -> None:
    ServiceManager.of({"NOTIFY_SOCKET": str(tmp_path / "nothing")}, 1).ready("x")


async def test_the_watchdog_is_fed_twice_as_often_as_it_wants(
    manager: Manager, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    service = ServiceManager.of({"NOTIFY_SOCKET": address_of(manager), "WATCHDOG_USEC": "3000000"}, 7)
    nursery.start_soon(service.run, lambda: "well")
    await trio.sleep(3.1)
    assert [manager.told() for _ in range(2)] == [["WATCHDOG=1", "STATUS=well"]] * 2
    manager.socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.told()


async def test_a_watchdog_of_another_process_is_not_ours(
    manager: Manager, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    environment = {"NOTIFY_SOCKET": address_of(manager), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}
    nursery.start_soon(ServiceManager.of(environment, 7).run, lambda: "well")
    await trio.sleep(11)
    assert manager.told() == ["STATUS=well"]


def test_a_node_says_when_it_is_ready_lives_and_stops(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address_of(manager))
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    node = BrokerProcess(tmp_path / "node")
    try:
        node.start()
        assert manager.told() == ["READY=1", f"STATUS=ready at 127.0.0.1:{node.port}"]
        assert manager.told() == ["WATCHDOG=1", "STATUS=does all of its work"]
        assert node.stop() == 0
        told = manager.told()
        while told[0] == "WATCHDOG=1":
            told = manager.told()
        assert told == ["STOPPING=1", "STATUS=stopping"]
    finally:
        node.make_sure_it_is_gone()


def test_the_unit_is_one(tmp_path: Path) -> None:
    """By systemd's own reading, with the paths of an installation that is there."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here: it is in Debian's package systemd")
    text = UNIT.read_text(encoding="utf-8").replace(
        "/opt/metaserver/bin/metaServer", str(ROOT / "bin" / "metaServer")
    )
    copy = tmp_path / "metaserver@.service"
    copy.write_text(text.replace("User=metaserver\nGroup=metaserver\n", ""), encoding="utf-8")
    instance = tmp_path / "metaserver@local.service"
    instance.symlink_to(copy)
    ran = subprocess.run(
        [analyze, "verify", "--man=no", str(instance)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in ran.stderr.splitlines() if "metaserver" in line]
    assert (ran.returncode, complaints) == (0, []), ran.stderr


def test_the_unit_and_the_container_name_files_that_are_there() -> None:
    unit = UNIT.read_text(encoding="utf-8")
    for path in re.findall(r"/opt/metaserver/((?:bin|docs)/\S+)", unit):
        assert (ROOT / path).exists(), path
    for line in re.findall(r"^COPY (?!--from)(.+)$", CONTAINER.read_text(encoding="utf-8"), re.MULTILINE):
        *sources, _target = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
