"""An installation with two brokers that change roles, operated as a person would: by the command line.

Both are one broker id: whichever is master, the other follows it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from metaserver.control.client import call
from metaserver.errors import ControlError
from metaserver.node.paths import NodePaths
from tools.ports import free_port
from tools.torture.nodes import ROOT, NodeError, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_COMMAND_SECONDS_MAX = 120.0
_END_SECONDS_MAX = 20.0
_ASK_SECONDS = 10.0

_SERVER_INI = """\
[system]
brokerId=0
bindAddress=127.0.0.1
hostName=127.0.0.1
serverPort={port}
dashboardHttpPort=0
dataPath=data/one
numPartitions=1
unflushThreshold=0
unflushInterval=1000
deletePolicy=delete,168
deleteWhen=0 0 6,18 * * ?
{settings}
[zookeeper]
zk.zkSyncTimeMs=100
{registry}

{topics}
"""
_SLAVE_PROPERTIES = """\
slaveId=0
slaveGroup=torture
slaveMaxDelayInMills=500
masterAddress=127.0.0.1:{master_port}
serverPort={port}
dashboardHttpPort=0
hostName=127.0.0.1
bindAddress=127.0.0.1
dataPath=data/two
{settings}"""


@attrs.define(eq=False)
class Pair:
    """Two nodes in one directory, ``one`` and ``two``. Make it with :func:`pair_at`."""

    base: Path
    topics: Sequence[str]
    settings: Mapping[str, object] = attrs.Factory(dict)
    """Of ``[system]``, for both."""
    registry: Sequence[str] = ("registryPort=0",)
    """Lines of ``[zookeeper]``; the embedded one where nothing is said."""
    one: Member = attrs.field(init=False)
    two: Member = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Write the configuration."""
        self.one = Member(self, free_port(), is_slave=False)
        self.two = Member(self, free_port(), is_slave=True)
        conf = self.base / "conf"
        conf.mkdir(parents=True)
        (conf / "server.ini").write_text(
            _SERVER_INI.format(
                port=self.one.port,
                settings=_lines(self.settings),
                registry="\n".join(self.registry),
                topics="\n\n".join(self.topics),
            ),
            encoding="utf-8",
        )
        self.configure_two({})

    def configure_two(self, settings: Mapping[str, object]) -> None:
        """More keys for ``async_slave.properties``; they count from the next start of ``two`` on."""
        (self.base / "conf" / "async_slave.properties").write_text(
            _SLAVE_PROPERTIES.format(
                master_port=self.one.port, port=self.two.port, settings=_lines(settings)
            ),
            encoding="utf-8",
        )

    @property
    def members(self) -> tuple[Member, Member]:
        """Both."""
        return self.one, self.two

    @property
    def servers(self) -> str:
        """For clients, where the registry is embedded."""
        return f"metaq://127.0.0.1:{self.one.port},127.0.0.1:{self.two.port}"

    def run(self, *words: str) -> str:
        """What ``metaServer WORDS`` prints; raises NodeError where it fails."""
        code, out, err = self.run_any(*words)
        if code != 0:
            raise NodeError(f"metaServer {' '.join(words)} ended with {code}:\n{out}{err}")
        return out

    def run_any(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of ``metaServer WORDS``."""
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "metaserver", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT), "BASE_DIR": str(self.base)},
            cwd=self.base,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_SECONDS_MAX,
        )
        return ran.returncode, ran.stdout, ran.stderr

    def end(self) -> None:
        """Kill what still runs."""
        for member in self.members:
            member.kill_if_running()


class Member:
    """One of the two nodes."""

    def __init__(self, pair: Pair, port: int, *, is_slave: bool) -> None:
        """``is_slave``: whether it is the node with the word ``slave``, whatever its role."""
        self._pair = pair
        self.port = port
        self.words = ("slave",) if is_slave else ()
        """Behind a verb: this node."""
        self.local_words = ("slave",) if is_slave else ("local",)
        """The same, for a verb that means the slave where nothing is said."""
        self._paths = NodePaths.of(pair.base, is_slave=is_slave)
        self.data = pair.base / "data" / ("two" if is_slave else "one")

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return f"127.0.0.1:{self.port}"

    def ask(self, command: str) -> dict[str, Any]:
        """What it answers on its control socket; raises ControlError."""
        return call(self._paths.control_socket, command, _ASK_SECONDS)

    def status(self) -> dict[str, Any]:
        """See :meth:`ask`."""
        return self.ask("status")

    def replication(self) -> dict[str, Any]:
        """What a slave says of its replication."""
        return self.ask("slave-status")

    def start(self) -> None:
        """Start it as what it is."""
        self._pair.run("start", *self.words)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        pid = int(self.status()["pid"])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not _is_alive(pid), _END_SECONDS_MAX, f"process {pid} ends")

    @contextmanager
    def held(self) -> Iterator[None]:
        """SIGSTOP, for the time of the block."""
        pid = int(self.status()["pid"])
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def kill_if_running(self) -> None:
        """For the end."""
        try:
            self.kill()
        except ControlError:
            return

    def role_json(self) -> dict[str, Any]:
        """What was decided for it."""
        found: dict[str, Any] = json.loads((self.data / "role.json").read_text(encoding="utf-8"))
        return found

    def is_well(self) -> bool:
        """A slave that has everything its master has."""
        try:
            status = self.replication()
        except ControlError:
            return False
        return bool(
            status.get("connected")
            and status["lag_bytes"] == 0
            and all(found["state"] == "caught up" for found in status["details"])
        )

    def log_tail(self, lines: int = 30) -> str:
        """The last lines it wrote."""
        try:
            text = self._paths.log_file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


@contextmanager
def pair_at(
    base: Path,
    topics: Sequence[str],
    *,
    settings: Mapping[str, object] | None = None,
    registry: Sequence[str] = ("registryPort=0",),
) -> Iterator[Pair]:
    """A pair whose nodes do not outlive the block; they are not started."""
    pair = Pair(base, topics, settings or {}, registry)
    try:
        yield pair
    finally:
        pair.end()


def _lines(settings: Mapping[str, object]) -> str:
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _is_alive(pid: int) -> bool:
    """A zombie that nobody collects is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            found = re.search(r"\) (\S)", file.read())
    except OSError:
        return False
    return found is not None and found[1] != "Z"
