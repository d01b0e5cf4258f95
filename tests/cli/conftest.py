"""Installations in temporary folders, and the command line as a shell sees it, or called in this process."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import pytest

from metaserver.cli import main
from tests.support import ROOT, ZOOKEEPER_SECTION, Wire, eventually, get, parse_records, put
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

COMMAND_SECONDS_MAX = 60.0
"""No command here takes anywhere near as long; beyond it a test fails instead of hanging."""

SERVER_INI = {
    "brokerId": "0",
    "serverPort": "0",
    "dashboardHttpPort": "0",
    "bindAddress": "127.0.0.1",
    "dataPath": "data/master",
    "numPartitions": "1",
    "unflushThreshold": "0",
    "unflushInterval": "10000",
    "maxSegmentSize": "1048576",
    "maxTransferSize": "1048576",
    "deletePolicy": "delete,168",
    "deleteWhen": "0 0 6,18 * * ?",
}

_topic_numbers = itertools.count(1)


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@attrs.define(eq=False)
class Home:
    """A folder with conf, logs and data, and the commands that speak of it."""

    base: Path
    port: int = 0
    slave_port: int = 0
    calls_in_process: bool = True
    """Commands run in this process: an interpreter for each would take most of the time. Nodes never do."""

    @property
    def server_file(self) -> Path:
        return self.base / "conf" / "server.ini"

    @property
    def slave_file(self) -> Path:
        return self.base / "conf" / "async_slave.properties"

    @property
    def pid_file(self) -> Path:
        return self.base / "logs" / ".run.pid"

    def configure(self, *, topics: str = "[topic=test]\n", **settings: object) -> None:
        lines = SERVER_INI | {key: str(value) for key, value in settings.items()}
        text = "[system]\n" + "".join(f"{key}={value}\n" for key, value in lines.items())
        self.server_file.parent.mkdir(parents=True, exist_ok=True)
        self.server_file.write_text(f"{text}\n{ZOOKEEPER_SECTION}\n{topics}", encoding="utf-8")

    def configure_slave(self) -> None:
        self.slave_file.write_text(
            f"slaveId=0\nmasterAddress=127.0.0.1:{self.port}\nserverPort=0\n"
            "dashboardHttpPort=0\ndataPath=data/slave\n",
            encoding="utf-8",
        )

    def popen(
        self, *arguments: str, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None
    ) -> subprocess.Popen[bytes]:
        """``metaServer`` with these arguments, as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "metaserver", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "BASE_DIR": str(self.base)},
            cwd=self.base,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    def run_bytes(self, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        if self.calls_in_process:
            return call_in_process(self.base, arguments, stdin)
        process = self.popen(
            *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = process.communicate(stdin, timeout=COMMAND_SECONDS_MAX)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return process.returncode, out, err

    def run(self, *arguments: str, stdin: str = "") -> Ran:
        code, out, err = self.run_bytes(*arguments, stdin=stdin.encode())
        return Ran(code, out.decode(), err.decode())

    def python(self, code: str) -> str:
        """What a program prints, in a fresh interpreter."""
        return subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=COMMAND_SECONDS_MAX,
        ).stdout

    def status(self, *arguments: str) -> dict[str, Any]:
        ran = self.run("status", *arguments, "--json")
        found: dict[str, Any] = json.loads(ran.out)
        return found

    def start(self) -> None:
        ran = self.run("start")
        assert ran.code == 0, ran.err
        self.port = int(self.status()["address"].rpartition(":")[2])

    def start_slave(self) -> None:
        self.configure_slave()
        ran = self.run("start", "slave")
        assert ran.code == 0, ran.err
        self.slave_port = int(self.status("slave")["address"].rpartition(":")[2])

    def start_pair(self, *, topics: str = "[topic=test]\n") -> None:
        """Both, on ports that stay theirs."""
        self.configure(topics=topics, serverPort=free_port())
        self.start()
        self.configure_slave()
        text = self.slave_file.read_text(encoding="utf-8")
        text = text.replace("serverPort=0", f"serverPort={free_port()}")
        self.slave_file.write_text(text, encoding="utf-8")
        assert self.run("start", "slave").code == 0
        self.slave_port = self.port_of("slave")

    def port_of(self, *role: str) -> int:
        return int(str(self.status(*role)["address"]).rpartition(":")[2])

    def kill(self, *role: str) -> None:
        """Returns when nothing of the node is left."""
        os.kill(self.status(*role)["pid"], signal.SIGKILL)
        eventually(lambda: not self.status(*role)["running"], "the end of the node")

    def connect(self) -> Wire:
        return Wire(self.port)

    def wait_registered(self, *role: str) -> None:
        """Returns when the node stands in the registry."""
        eventually(
            lambda: bool(self.status(*role).get("registry", {}).get("registered")),
            f"the registration of the {role or 'master'}",
        )

    def wait_announced(self, topic: str) -> None:
        """Returns when a topic that has just come into being stands in the registry, from all nodes."""

        def is_announced() -> bool:
            ran = self.run("topics", topic, "--json", "--cluster")
            if ran.code != 0:
                return False
            (found,) = json.loads(ran.out)["topics"]
            replicas = [replica for part in found["partitions"] for replica in part["replicas"]]
            return any(replica["role"] == "slave" for replica in replicas) and all(
                replica["lag_bytes"] == 0 for replica in replicas
            )

        eventually(is_announced, f"the announcement of {topic}")

    def clean_up(self) -> None:
        """For the end of a test, whatever has happened."""
        for role, socket_name in (("slave", ".control-slave.sock"), ("", ".control.sock")):
            pid_file = "run-slave.pid" if role else "run.pid"
            logs = self.base / "logs"
            if (logs / socket_name).exists() or (logs / f".{pid_file}").exists():
                with suppress(subprocess.TimeoutExpired):
                    self.run("stop", *filter(None, [role]), "--force", "--timeout", "10")


def send(port: int, texts: Sequence[str]) -> None:
    """To partition 0 of the topic ``test``."""
    with Wire(port) as wire:
        for number, text in enumerate(texts, 1):
            assert wire.ask(put("test", text.encode(), number)).status == 200


def received(port: int) -> list[str]:
    """What lies there, as far as one answer holds it."""
    with Wire(port) as wire:
        reply = wire.ask(get("test", 0, 1 << 20, 1))
    return [] if reply.status == 404 else [found.data.decode() for found in parse_records(reply.body)]


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that the test ends itself; where it fails before that, it does not wait for ever."""
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def call_in_process(base: Path, arguments: Sequence[str], stdin: bytes) -> tuple[int, bytes, bytes]:
    """``metaServer`` called as a function, with files for its three streams."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        streams = [io.TextIOWrapper(file, encoding="utf-8", write_through=True) for file in files]
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        patch.setenv("BASE_DIR", str(base))
        patch.chdir(base)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        for stream in streams[1:]:
            stream.flush()
        for file in files[1:]:
            file.seek(0)
        return int(str(ended.value.code)), files[1].read(), files[2].read()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An installation whose nodes are stopped at the end of the test."""
    found = Home(tmp_path)
    found.configure()
    yield found
    found.clean_up()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A master and its slave, shared by the tests that only send, read and ask."""
    found = Home(tmp_path_factory.mktemp("pair"))
    found.configure(topics="[topic=empty]\n\n[topic=shared]\n\n[topic=two*]\nnumPartitions=2\n\n[topic=t*]\n")
    try:
        found.start()
        found.start_slave()
        yield found
    finally:
        found.clean_up()


@pytest.fixture(scope="session")
def cluster(pair: Home) -> Home:
    """The same two, found through the registry that the master hosts."""
    pair.wait_registered()
    pair.wait_registered("slave")
    return pair


@pytest.fixture
def topic() -> str:
    """A topic of one partition that nobody else uses."""
    return f"t{next(_topic_numbers)}"


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """``metaServer`` called in this process."""

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ran(int(str(ended.value.code)), captured.out, captured.err)

    return run
