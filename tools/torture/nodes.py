"""Real masters and slaves as processes of their own, to be killed: a place on disk and what runs there.

Everything waits by looking, with a bound, never by sleeping for a while and hoping.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from metaserver.control.client import call
from metaserver.errors import ControlError
from metaserver.node.paths import NodePaths
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 30.0
_LOOK_SECONDS = 0.005

SERVER_INI = """\
[system]
brokerId=0
bindAddress={bind}
hostName={host}
serverPort={port}
dashboardHttpPort=0
dataPath=data/master
numPartitions=1
unflushThreshold=0
unflushInterval=1000
maxSegmentSize=1073741824
maxTransferSize=1048576
deletePolicy=delete,168
deleteWhen=0 0 6,18 * * ?
{settings}
[zookeeper]
{registry}

{topics}
"""
SLAVE_PROPERTIES = """\
slaveId=0
slaveGroup=torture
slaveMaxDelayInMills=500
masterAddress={master}
serverPort={port}
dashboardHttpPort=0
hostName={host}
bindAddress={bind}
dataPath=data/slave
{settings}"""
NO_REGISTRY = "zk.zkEnable=false"
"""For rigs that look at every byte of every partition; the registry has its own, in tests/registry."""


@attrs.frozen
class Site:
    """Where a node runs, as far as a network is concerned."""

    host: str = "127.0.0.1"
    """As clients reach it."""
    bind: str = "127.0.0.1"
    command: tuple[str, ...] = ()
    """What the command of a node begins with there."""


class NodeError(Exception):
    """A node does not do what it must."""


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return as soon as the condition holds; raises NodeError where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NodeError(f"not within {seconds:g} s: {what}")
        time.sleep(_LOOK_SECONDS)


async def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """The same, while other tasks go on."""
    with trio.move_on_after(seconds) as scope:
        while not condition():  # noqa: ASYNC110 - processes, files and counters set no event
            await trio.sleep(_LOOK_SECONDS)
    if scope.cancelled_caught:
        raise NodeError(f"not within {seconds:g} s: {what}")


class Place:
    """A base directory with the configuration of a master and of its slave."""

    def __init__(
        self,
        base: Path,
        topics: Sequence[str],
        *,
        settings: Mapping[str, object] | None = None,
        sites: tuple[Site, Site] = (Site(), Site()),
        registry: str = NO_REGISTRY,
    ) -> None:
        """``topics`` are whole sections; ``settings`` replace keys of ``[system]``, for both nodes.

        ``sites``: of the master and of the slave.
        """
        self.base, self.master_site, self.slave_site = base, *sites
        self.master_port, self.slave_port = free_port(), free_port()
        (base / "conf").mkdir(parents=True)
        given = dict(settings or {})
        template = "\n".join(line for line in SERVER_INI.splitlines() if line.partition("=")[0] not in given)
        text = template.format(
            port=self.master_port,
            host=self.master_site.host,
            bind=self.master_site.bind,
            registry=registry,
            settings="".join(f"{key}={value}\n" for key, value in given.items()),
            topics="\n\n".join(topics),
        )
        self.server_file.write_text(text + "\n", encoding="utf-8")
        self.follow(f"{self.master_site.host}:{self.master_port}")
        self.master = Node(self, is_slave=False)
        self.slave = Node(self, is_slave=True)

    def follow(self, master: str, **settings: object) -> None:
        """Where the slave finds its master from its next start on, and keys of its own."""
        site = self.slave_site
        text = SLAVE_PROPERTIES.format(
            master=master,
            port=self.slave_port,
            host=site.host,
            bind=site.bind,
            settings="".join(f"{key}={value}\n" for key, value in settings.items()),
        )
        self.slave_file.write_text(text, encoding="utf-8")

    @property
    def server_file(self) -> Path:
        """The configuration of the master."""
        return self.base / "conf" / "server.ini"

    @property
    def slave_file(self) -> Path:
        """What the slave has of its own."""
        return self.base / "conf" / "async_slave.properties"

    @property
    def master_data(self) -> Path:
        """The master's partitions."""
        return self.base / "data" / "master"

    @property
    def slave_data(self) -> Path:
        """The slave's partitions."""
        return self.base / "data" / "slave"

    def is_well(self) -> bool:
        """Whether the slave follows without a lag, and neither of the two knows of a problem."""
        status = self.slave.ask("slave-status")
        is_even = bool(status["connected"]) and status["lag_bytes"] == 0
        return is_even and not self.slave.problems() and not self.master.problems()

    def end(self) -> None:
        """Kill what still runs."""
        self.master.kill()
        self.slave.kill()


@contextmanager
def place_at(
    base: Path, topics: Sequence[str], *, settings: Mapping[str, object] | None = None
) -> Iterator[Place]:
    """A place whose nodes do not outlive the block."""
    place = Place(base, topics, settings=settings)
    try:
        yield place
    finally:
        place.end()


class Node:
    """A master or a slave, running or not."""

    def __init__(self, place: Place, *, is_slave: bool) -> None:
        self._place = place
        self._is_slave = is_slave
        self._process: subprocess.Popen[bytes] | None = None
        self._paths = NodePaths.of(place.base, is_slave=is_slave)
        self.port = place.slave_port if is_slave else place.master_port
        self.output = place.base / ("slave.out" if is_slave else "master.out")
        self.start_seconds = 0.0
        """How long the last start took, until the port answered."""

    @property
    def data(self) -> Path:
        """The partitions."""
        return self._place.slave_data if self._is_slave else self._place.master_data

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last."""
        if self._process is None:
            raise NodeError("was never started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    @property
    def was_killed(self) -> bool:
        """Whether the process that ran last was ended by SIGKILL."""
        return self._process is not None and self._process.poll() == -signal.SIGKILL

    def send(self, number: signal.Signals) -> None:
        """Send a signal and wait for nothing; nothing where it does not run."""
        if self._process is not None:
            self._process.send_signal(number)

    def launch(self) -> None:
        """Start the process and do not wait for it."""
        if self.is_running:
            raise NodeError("runs already")
        place = self._place
        site = place.slave_site if self._is_slave else place.master_site
        command = [*site.command, sys.executable, "-P", "-m", "metaserver", "start"]
        command += ["slave", f"-Fmetaslave={place.slave_file}"] if self._is_slave else []
        command += ["--foreground", "-f", str(place.server_file)]
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=place.base,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def launch_and_wait(self) -> None:
        """Start the process and wait until it is ready, or has ended."""
        self.launch()
        wait_until(lambda: not self.is_running or self._answers(), START_SECONDS_MAX, "the port answers")

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        began = time.monotonic()
        self.launch_and_wait()
        if not self.is_running:
            raise NodeError(f"{' '.join(self._process_words())} ended:\n{self.log_tail()}")
        self.start_seconds = time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL, and wait for the end; nothing where it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> float:
        """SIGTERM, and wait for the end; returns the seconds it took."""
        if self._process is None:
            raise NodeError("was never started")
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_SECONDS_MAX)
        if code != 0:
            raise NodeError(f"stopped with exit code {code}:\n{self.log_tail()}")
        return time.monotonic() - began

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """What the node answers on its control socket."""
        return call(self._paths.control_socket, command, 10.0, **arguments)

    def problems(self) -> list[str]:
        """What the node says is wrong."""
        return [str(problem) for problem in self.ask("status")["problems"]]

    def replicas(self) -> dict[tuple[str, int], dict[str, Any]]:
        """How far a slave is, by topic and partition."""
        details = self.ask("slave-status").get("details", [])
        return {(detail["topic"], detail["partition"]): detail for detail in details}

    def log_tail(self, lines: int = 20) -> str:
        """The last lines it wrote."""
        return "\n".join(self.output.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _process_words(self) -> list[str]:
        return ["the slave" if self._is_slave else "the master"]

    def _answers(self) -> bool:
        """Whether the process that was started last serves; a dead one may have left its socket behind."""
        try:
            return self.ask("status").get("pid") == self.pid
        except ControlError:
            return False

    @property
    def descriptors(self) -> int:
        """Files and sockets that it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process that was started last."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")
