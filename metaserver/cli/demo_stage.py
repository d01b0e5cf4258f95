"""What the demo plays with: a folder of its own, and a real master and slave in it as processes."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import attrs

from metaserver.cli.installation import Installation
from metaserver.cli.output import Failure
from metaserver.cli.processes import ask, end, find_node, launch
from metaserver.errors import MetaServerError

TOPIC = "demo"

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0

_SERVER_INI = """\
[system]
brokerId=0
serverPort={port}
dashboardHttpPort=0
bindAddress=127.0.0.1
hostName=127.0.0.1
dataPath=data/master
numPartitions=1
; Every acknowledged message is on disk.
unflushThreshold=0
unflushInterval=10000
maxSegmentSize=67108864
maxTransferSize=1048576
deletePolicy=delete,168
deleteWhen=0 0 6,18 * * ?

[zookeeper]
registryPort=0
; Nobody else is here who would have to notice that a node goes.
zk.zkSyncTimeMs=0

[topic={topic}]
"""

_SLAVE_PROPERTIES = """\
slaveId=0
slaveGroup=demo-slaves
masterAddress=127.0.0.1:{port}
serverPort=0
dashboardHttpPort=0
dataPath=data/slave
"""


@attrs.define
class Node:
    """One of the two processes."""

    installation: Installation
    pid: int = 0
    port: int = 0
    state: Literal["starting", "running", "killed", "stopped"] = "starting"

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self.state == "running"

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, as ``metaServer start`` does; returns when it is ready. Raises Failure."""
        ready = launch(self.installation, [], _START_SECONDS)
        self.pid, self.port, self.state = ready["pid"], ready["port"], "running"

    def kill(self) -> None:
        """End it as a crash would: no signal it could catch, nothing it could still write."""
        os.kill(self.pid, signal.SIGKILL)
        self.state = "killed"

    def stop(self) -> None:
        """Stop it, as ``metaServer stop`` does. Raises Failure."""
        end(self.installation, _STOP_SECONDS, is_forced=True)
        self.state = "stopped"

    def ask(self, command: str) -> dict[str, Any]:
        """What it answers on its control socket; raises Failure and ControlError."""
        return ask(self.installation, command)


class Stage:
    """The folder with the two; use it in a ``with`` block, which leaves nothing behind."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="metaserver-demo-"))
        conf = self.directory / "conf"
        conf.mkdir()
        self._server_file, self._slave_file = conf / "server.ini", conf / "async_slave.properties"
        self._write_server_file(0)
        self.master = Node(Installation(self._server_file, None))
        self.slave = Node(Installation(self._server_file, self._slave_file))
        self.is_kept = False
        """Leave the folder, for a look at what went wrong."""

    def start(self) -> None:
        """Start both. Raises Failure."""
        self.master.start()
        # From now on at the same port, as a slave expects of its master.
        self._write_server_file(self.master.port)
        self._slave_file.write_text(_SLAVE_PROPERTIES.format(port=self.master.port), encoding="utf-8")
        self.slave.start()

    def segments(self, node: Node) -> list[Path]:
        """The files of the topic's partition at a node."""
        return sorted((self.directory / "data" / node.installation.role / f"{TOPIC}-0").glob("*.meta"))

    def _write_server_file(self, port: int) -> None:
        self._server_file.write_text(_SERVER_INI.format(port=port, topic=TOPIC), encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """End what is still running, and remove the folder."""
        for node in (self.slave, self.master):
            with suppress(Failure, MetaServerError, OSError):
                if find_node(node.installation).is_running:
                    node.stop()
        if not self.is_kept:
            shutil.rmtree(self.directory, ignore_errors=True)
