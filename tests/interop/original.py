"""The Java original: its jars, a ZooKeeper for it to register with, and its broker as a process.

The jars come from Maven's repository once and stay in a cache directory of the user. The broker of
1.4.6.2 is started by the class of its own jar that does so without the plug-ins; the class that knows
``-l`` (a ZooKeeper inside the same process) was never published, so ZooKeeper is a process beside it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from tests.support import WAIT_SECONDS_MAX, BrokerProcess, eventually
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = "1.4.6.2"
JAVA_SOURCES = Path(__file__).parent / "java"
_FETCH_SECONDS = 300.0
_COMPILE_SECONDS = 120.0

# Memory is plenty, and the first compiler is enough for a process that lives a minute.
_JVM_OPTIONS = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dfile.encoding=UTF-8",
)
_LOG4J = """\
log4j.rootLogger=INFO,out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.target=System.err
log4j.appender.out.encoding=UTF-8
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=[%p] [%t] %d{MM-dd HH:mm:ss,SSS} [%c{1}] - %m%n
"""
_STARTED = "Start metamorphosis server successfully"
_STOPPED = "Stop metamorphosis server successfully"
_SERVER_INI = """\
[system]
brokerId=0
hostName=127.0.0.1
numPartitions=1
unflushThreshold=0
unflushInterval=10000
maxSegmentSize=1073741824
maxTransferSize=1048576
stat=true
deletePolicy=delete,168
deleteWhen=0 0 6,18 * * ?
"""


class NotToBeHadError(Exception):
    """The Java original cannot be run here; the text says why."""


def fetch_classpath() -> str:
    """The jars, fetched by maven if they are not here yet; raises NotToBeHadError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaserver-tests"
    # By what is asked for: a cache from before a change of the list is not taken for it.
    jars = cache / f"metaq-{VERSION}-{crc32((JAVA_SOURCES / 'pom.xml').read_bytes()):08x}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            _fetch(cache, jars)
    return os.pathsep.join(str(path) for path in sorted(jars.glob("*.jar")))


def _fetch(cache: Path, jars: Path) -> None:
    if shutil.which("mvn") is None:
        raise NotToBeHadError("there is no mvn here to fetch the Java original with")
    unfinished = cache / f"{jars.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        "mvn",
        "--batch-mode",
        "--quiet",
        f"--file={JAVA_SOURCES / 'pom.xml'}",
        f"-Dmaven.repo.local={cache / 'maven'}",
        f"-DoutputDirectory={unfinished}",
        "dependency:copy-dependencies",
    ]
    try:
        subprocess.run(
            command,
            cwd=cache,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_FETCH_SECONDS,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        words = (error.output or b"").decode(errors="replace").strip()
        first = words.splitlines()[0] if words else str(error)
        raise NotToBeHadError(f"mvn cannot fetch the Java original: {first}") from error
    unfinished.rename(jars)


def compile_sources(classpath: str, classes: Path) -> str:
    """The programs of these tests, compiled into a directory; the classpath with them."""
    if shutil.which("javac") is None:
        raise NotToBeHadError("there is no javac here to compile the programs of the Java client with")
    sources = sorted(map(str, JAVA_SOURCES.glob("*.java")))
    subprocess.run(
        ["javac", "-encoding", "UTF-8", "-cp", classpath, "-d", str(classes), *sources],
        stdin=subprocess.DEVNULL,
        timeout=_COMPILE_SECONDS,
        check=True,
    )
    return f"{classpath}{os.pathsep}{classes}"


def java_command(classpath: str, directory: Path, main: str, *arguments: str) -> list[str]:
    """Run this class; it logs to its standard error."""
    log4j = directory / "log4j.properties"
    log4j.write_text(_LOG4J, encoding="utf-8")
    return [
        "java",
        *_JVM_OPTIONS,
        f"-Dlog4j.configuration={log4j.as_uri()}",
        "-cp",
        classpath,
        main,
        *arguments,
    ]


@attrs.define(eq=False)
class ZooKeeperProcess:
    """A ZooKeeper for the Java broker and the Java clients, loopback only."""

    base: Path
    classpath: str
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when the port answers."""
        self.port = free_port()
        configuration = self.base / "zoo.cfg"
        configuration.write_text(
            f"tickTime=1000\ndataDir={self.base / 'data'}\nclientPort={self.port}\n"
            "clientPortAddress=127.0.0.1\nmaxClientCnxns=1000\n",
            encoding="utf-8",
        )
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        command = java_command(self.classpath, self.base, main, str(configuration))
        with (self.base / "output").open("ab") as stream:
            self._process = subprocess.Popen(
                command, cwd=self.base, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        eventually(self._is_ready, f"the start of ZooKeeper in {self.base}")

    def _is_ready(self) -> bool:
        assert self._process is not None
        output = (self.base / "output").read_text(encoding="utf-8")
        assert self._process.poll() is None, f"ZooKeeper did not start:\n{output}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """For the end, whatever has happened."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(WAIT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@attrs.define(eq=False)
class JavaBroker(BrokerProcess):
    """The broker of MetaQ 1.4.6.2, used as ours is."""

    zookeeper: ZooKeeperProcess = attrs.field(kw_only=True)

    def configure(self, settings: Mapping[str, object], topics: str) -> None:
        lines = dict(line.split("=", 1) for line in _SERVER_INI.splitlines() if "=" in line)
        lines |= {"dataPath": str(self.data), "serverPort": str(self.port)}
        lines |= {key: str(value) for key, value in settings.items()}
        Path(lines["dataPath"]).mkdir(parents=True, exist_ok=True)
        text = "[system]\n" + "".join(f"{key}={value}\n" for key, value in lines.items())
        # A root of its own each time: a session that has not ended yet is in nobody's way.
        text += f"\n[zookeeper]\nzk.zkConnect={self.zookeeper.address}\nzk.zkRoot=/{uuid.uuid4()}\nzk.zkSyncTimeMs=1\n"
        self.server_file.parent.mkdir(parents=True, exist_ok=True)
        self.server_file.write_text(f"{text}\n{topics}", encoding="utf-8")

    def start(self) -> None:
        """Returns when the port answers, the same each time, and the broker says that it has started."""
        if not self.port:
            self.port = free_port()
        self.configure(self.settings, self.topics)
        main = "com.taobao.metamorphosis.server.MetamorphosisStartup"
        command = java_command(self.zookeeper.classpath, self.base, main, "-f", str(self.server_file))
        output = self.base / "output"
        begin = len(self.log) if output.exists() else 0
        with output.open("ab") as stream:
            self._process = subprocess.Popen(
                command, cwd=self.base, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        eventually(lambda: self._is_ready(begin), f"the start of the Java broker in {self.base}")

    def _is_ready(self, begin: int) -> bool:
        assert self._process is not None
        text = self.log[begin:]
        assert self._process.poll() is None, f"the Java broker did not start:\n{text}"
        if _STARTED not in text:
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> int:
        """SIGTERM, and wait for the clean end the Java broker makes of it; 0 as ours returns."""
        self.ask_to_stop()
        code = self.wait_for_end()
        assert self.log.rstrip().rpartition("\n")[2].endswith(_STOPPED), self.log[-4000:]
        assert code == 128 + 15
        return 0
