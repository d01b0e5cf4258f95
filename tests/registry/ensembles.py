"""Servers of ZooKeeper's protocol in processes of their own: ours, and the original."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tests.registry.wire import Session, SessionEndedError
from tests.support import ROOT, WAIT_SECONDS_MAX, eventually
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

TICK_MS = 200
SESSION_SECONDS_MIN = 2 * TICK_MS / 1000
ZOOKEEPER_JAR = Path("/usr/share/java/zookeeper.jar")
ZOOKEEPER_MISSING = "there is no ZooKeeper here; as root: apt-get install zookeeper"

_ZOO_CFG = """\
tickTime={tick_ms}
dataDir={directory}
clientPort={port}
clientPortAddress=127.0.0.1
maxClientCnxns=0
admin.enableServer=false
"""


def has_zookeeper() -> bool:
    """Whether the original can be started."""
    return shutil.which("java") is not None and ZOOKEEPER_JAR.exists()


@attrs.define(eq=False)
class Ensemble:
    """One server on a directory and a port that stay its own."""

    directory: Path
    port: int = attrs.Factory(free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory.parent / f"{self.directory.name}.output").open("ab") as stream:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        eventually(self._is_up, f"the start of {type(self).__name__}")

    def stop(self) -> None:
        """SIGTERM, and wait."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(WAIT_SECONDS_MAX)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(WAIT_SECONDS_MAX)

    def make_sure_it_is_gone(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def output(self) -> str:
        return (self.directory.parent / f"{self.directory.name}.output").read_text(encoding="utf-8")

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it did not start:\n{self.output[-4000:]}"
        return self.is_ready()


@attrs.define(eq=False)
class Embedded(Ensemble):
    """Ours."""

    compaction_bytes: int = 64 * 1024

    def command(self) -> Sequence[str]:
        host = str(Path(__file__).with_name("host.py"))
        arguments = map(str, (self.port, TICK_MS, self.compaction_bytes))
        return [sys.executable, "-P", host, str(self.directory), *arguments]

    def is_ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@attrs.define(eq=False)
class ZooKeeper(Ensemble):
    """The original, Debian's package, as a single server."""

    def command(self) -> Sequence[str]:
        configuration = self.directory / "zoo.cfg"
        text = _ZOO_CFG.format(tick_ms=TICK_MS, directory=self.directory, port=self.port)
        configuration.write_text(text, encoding="utf-8")
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dzookeeper.forceSync=no"]
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        return ["java", *options, "-cp", str(ZOOKEEPER_JAR), main, str(configuration)]

    def is_ready(self) -> bool:
        try:
            # One that comes while the server begins may never be answered.
            with Session(self.port, patience_seconds=0.5) as probe:
                probe.close()
        except (OSError, SessionEndedError):
            time.sleep(0.02)
            return False
        return True
