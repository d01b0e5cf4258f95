"""A second slave, which knows where the registry may be, follows whoever is master; nobody types anything for it."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.cli.conftest import COMMAND_SECONDS_MAX, Home
from tests.support import Wire, eventually, get, parse_records, put
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def node(base: Path, registry_port: int, slave_lines: str) -> Home:
    home = Home(base)
    home.port = free_port()
    home.configure(serverPort=home.port, dataPath="data")
    text = home.server_file.read_text(encoding="utf-8")
    home.server_file.write_text(
        text.replace("registryPort=0", f"registryPort={registry_port}"), encoding="utf-8"
    )
    if slave_lines:
        home.slave_file.write_text(slave_lines, encoding="utf-8")
    return home


def send(home: Home, text: str) -> None:
    with Wire(home.port) as wire:
        eventually(lambda: wire.ask(put("test", text.encode(), 1)).status == 200, f"{text} is taken")


def has(home: Home, *texts: str) -> Callable[[], bool]:
    def look() -> bool:
        with Wire(home.port) as wire:
            reply = wire.ask(get("test", 0, 1 << 20, 1))
        return reply.status is None and [r.data.decode() for r in parse_records(reply.body)] == [*texts]

    return look


def test_it_follows_a_promoted_slave_and_a_planned_change(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    registries = ",".join(f"127.0.0.1:{port}" for port in ports)
    with ExitStack() as stack:
        one = node(tmp_path / "one", ports[0], "")
        stack.callback(one.clean_up)
        two = node(tmp_path / "two", ports[1], f"slaveId=0\nmasterAddress=127.0.0.1:{one.port}\n")
        stack.callback(two.clean_up)
        third = node(tmp_path / "third", 0, f"slaveId=1\nslaveGroup=third\nregistryAddress={registries}\n")
        stack.callback(third.clean_up)
        assert one.run("start").code == 0
        one.wait_registered()
        assert two.run("start", "slave").code == 0
        assert third.run("start", "slave").code == 0
        send(one, "one")
        eventually(has(third, "one"), "the copy")
        eventually(has(two, "one"), "the other copy")

        os.kill(one.status()["pid"], signal.SIGKILL)
        eventually(lambda: not two.status("slave")["replication"]["connected"], "the slave notices")
        promoted = two.run("promote", "slave")
        assert promoted.code == 0, promoted.err
        send(two, "two")
        eventually(has(third, "one", "two"), "it follows the promoted slave")

        assert one.run("follow", f"127.0.0.1:{two.port}").code == 0
        eventually(has(one, "one", "two"), "the old master follows")
        with one.popen("promote", "local", "--after-handover", stderr=subprocess.PIPE) as waiting:
            try:
                assert waiting.stderr is not None
                assert b"waiting for" in waiting.stderr.readline()
                changed = two.run("switchover", "slave", "--to", f"127.0.0.1:{one.port}")
                waiting.communicate(timeout=COMMAND_SECONDS_MAX)
            finally:
                waiting.kill()
        assert changed.code == 0, changed.err
        send(one, "three")
        eventually(has(third, "one", "two", "three"), "it follows the planned change")
        assert third.status("slave")["quarantine"]["folders"] == 0
