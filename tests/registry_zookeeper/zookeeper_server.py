"""A real ZooKeeper for tests: Debian's package, a process of ours, a port of its own on loopback."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import pytest
from kazoo.client import KazooClient

from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

Kazoo: TypeAlias = Any
"""It has no types."""

JAR = Path("/usr/share/java/zookeeper.jar")
TICK_MS = 100
"""The shortest session has two of them, the longest twenty."""
_START_SECONDS_MAX = 30.0
_CONFIGURATION = """\
tickTime={tick}
dataDir={data}
clientPort={port}
clientPortAddress=127.0.0.1
admin.enableServer=false
maxClientCnxns=0
4lw.commands.whitelist=srvr
"""


def require_zookeeper() -> None:
    """Install the package where we may; else leave the test out, and say what is missing."""
    if shutil.which("java") is None and not _install():
        pytest.skip("there is no java here, which ZooKeeper needs")
    if not JAR.exists() and not _install():
        pytest.skip("there is no ZooKeeper here: it is in Debian's package zookeeper")


def _install() -> bool:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    with (Path(tempfile.gettempdir()) / "metaserver-tests-apt.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if JAR.exists():
            return True
        sys.__stderr__ and sys.__stderr__.write("\ninstalling Debian's package zookeeper for the tests\n")
        for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "zookeeper"]):
            subprocess.run(
                ["apt-get", *command], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
    return JAR.exists()


@attrs.define(eq=False)
class ZooKeeperServer:
    """One server, which keeps its port through stops and starts."""

    directory: Path
    port: int = attrs.Factory(free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Does not wait until it answers."""
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "zoo.cfg"
        configuration.write_text(
            _CONFIGURATION.format(tick=TICK_MS, data=data, port=self.port), encoding="utf-8"
        )
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    "java",
                    "-Xmx128m",
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",
                    "-Djava.net.preferIPv4Stack=true",
                    "-cp",
                    str(JAR),
                    "org.apache.zookeeper.server.ZooKeeperServerMain",
                    str(configuration),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def start(self) -> None:
        self.launch()
        self.wait_until_serving()

    def wait_until_serving(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS_MAX
        while not self._is_serving():
            text = (self.directory / "output").read_text(encoding="utf-8", errors="replace")
            assert self._process.poll() is None, f"ZooKeeper ended:\n{text[-4000:]}"
            assert time.monotonic() < deadline, f"ZooKeeper does not answer:\n{text[-4000:]}"
            time.sleep(0.02)

    def _is_serving(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
                probe.sendall(b"srvr")
                return probe.recv(64).startswith(b"Zookeeper version")
        except OSError:
            return False

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def forget_everything(self) -> None:
        shutil.rmtree(self.directory / "data")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def client(self, *, identity: tuple[int, bytes] | None = None) -> Iterator[Kazoo]:
        """A kazoo of the test's own; its session ends with the block."""
        client = KazooClient(self.address, timeout=2.0, client_id=identity)
        client.start(10)
        try:
            yield client
        finally:
            client.stop()
            client.close()


@attrs.frozen
class Found:
    """A node as any client sees it."""

    data: str | None
    """None: null."""
    owner: int
    created: int
    """The transaction that created it: another one, where it was deleted and made again."""


def tree(client: Kazoo, top: str) -> dict[str, Found]:
    """Every node below ``top``, by its path from there."""
    found: dict[str, Found] = {}

    def visit(path: str) -> None:
        data, stat = client.get(path)
        found[path.removeprefix(top)] = Found(
            None if data is None else data.decode(), stat.ephemeralOwner, stat.czxid
        )
        for child in client.get_children(path):
            visit(f"{path}/{child}")

    if client.exists(top):
        visit(top)
    return found
