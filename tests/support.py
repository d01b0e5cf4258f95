"""A broker in a process of its own, and a client that knows nothing but the reference.

The client has its own parser of replies and its own encoder of records, written from the reference's
tables, so that a fault of ``metaserver.protocol`` or ``metaserver.message`` cannot hide itself.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from zlib import crc32

import attrs

from metaserver.control.client import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]
WAIT_SECONDS_MAX = 20.0
"""Nothing here takes anywhere near as long; beyond it a test fails instead of hanging."""
_LOOK_SECONDS = 0.005

_SERVER_INI = """\
[system]
brokerId=0
serverPort=0
dashboardHttpPort=0
bindAddress=127.0.0.1
hostName=127.0.0.1
dataPath=data
numPartitions=1
unflushThreshold=0
unflushInterval=10000
maxSegmentSize=1073741824
maxTransferSize=1048576
stat=true
deletePolicy=delete,168
deleteWhen=0 0 6,18 * * ?
"""
ZOOKEEPER_SECTION = "[zookeeper]\nregistryPort=0\nzk.zkSyncTimeMs=0\n"
"""The master is its own registry, at any port; nobody waits for others to notice."""
NO_REGISTRY = "[zookeeper]\nzk.zkEnable=false\n"
"""For tests that count every partition, byte and moment."""
_READY = re.compile(r"Start metamorphosis server successfully.*address=\S*:([0-9]+) ")
_REPLY = re.compile(rb"(?:result ([0-9]{3})|value) (0|[1-9][0-9]*) (0|-?[1-9][0-9]*)\r\n")
_HEADER = Struct(">iiqi")


def eventually(condition: Callable[[], bool], what: str, *, seconds: float = WAIT_SECONDS_MAX) -> None:
    """Look until it is so, with a bound; the assertion names what did not come about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {seconds:g} s: {what}"
        time.sleep(_LOOK_SECONDS)


# Records, by the table of the reference's section 7.


class Stored(NamedTuple):
    """A record as a consumer sees it."""

    offset: int
    message_id: int
    flag: int
    data: bytes


def checksum(data: bytes) -> int:
    return crc32(data) & 0x7FFFFFFF


def record(data: bytes, message_id: int = 0, flag: int = 0) -> bytes:
    return _HEADER.pack(len(data), checksum(data), message_id, flag) + data


def parse_records(value: bytes, offset: int = 0) -> list[Stored]:
    """Every record; the bytes must be whole, valid records back to back."""
    found = []
    position = 0
    while position < len(value):
        length, expected, message_id, flag = _HEADER.unpack_from(value, position)
        data = value[position + 20 : position + 20 + length]
        assert len(data) == length, "the last record is not complete"
        assert checksum(data) == expected, f"damaged record at {offset + position}"
        found.append(Stored(offset + position, message_id, flag, data))
        position += 20 + length
    return found


def put(topic: str, data: bytes, opaque: int, partition: int = 0, flag: int = 0) -> bytes:
    return b"put %b %d %d %d %d %d\r\n%b" % (
        topic.encode(),
        partition,
        len(data),
        flag,
        checksum(data),
        opaque,
        data,
    )


def put_batch(topic: str, records: bytes, opaque: int, partition: int = 0) -> bytes:
    return b"putbatch %b %d %d %d\r\n%b" % (topic.encode(), partition, len(records), opaque, records)


def get(
    topic: str, offset: int, size_max: int, opaque: int, partition: int = 0, wait_ms: int | None = None
) -> bytes:
    wait = b"" if wait_ms is None else b" %d" % wait_ms
    return b"get %b group %d %d %d %d%b\r\n" % (topic.encode(), partition, offset, size_max, opaque, wait)


# One connection.


class Reply(NamedTuple):
    """A ``result``, or with status None a ``value``."""

    status: int | None
    body: bytes
    opaque: int

    @property
    def text(self) -> str:
        return self.body.decode()


class ConnectionEndedError(Exception):
    """The broker closed the connection, perhaps inside of a reply."""

    def __init__(self, held: bytes) -> None:
        super().__init__(f"connection ended behind {held[:100]!r}")
        self.held = held


class Wire:
    """One connection to a broker, blocking, with a bound on every wait."""

    def __init__(self, port: int, *, seconds: float = WAIT_SECONDS_MAX, receive_buffer: int = 0) -> None:
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(seconds)
        try:
            self._socket.connect(("127.0.0.1", port))
        except OSError:
            self._socket.close()
            raise
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Close as a crashed peer does: with RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._socket.close()

    def end_sending(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def set_patience(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_some(self, data: bytes) -> int:
        """What the socket takes now; 0 when it is full."""
        patience = self._socket.gettimeout()
        self._socket.settimeout(0)
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        finally:
            self._socket.settimeout(patience)

    def reply(self) -> Reply:
        """The next reply; anything that is none fails the test."""
        while (found := _REPLY.match(self._held)) is None:
            assert b"\n" not in self._held, f"no reply of this protocol: {bytes(self._held[:200])!r}"
            self._receive()
        end = found.end() + int(found[2])
        while len(self._held) < end:
            self._receive()
        body = bytes(self._held[found.end() : end])
        reply = Reply(None if found[1] is None else int(found[1]), body, int(found[3]))
        del self._held[:end]
        return reply

    def replies(self, count: int) -> list[Reply]:
        return [self.reply() for _ in range(count)]

    def ask(self, request: bytes) -> Reply:
        self.send(request)
        return self.reply()

    def expect_end(self) -> None:
        """The broker closes, and sends nothing more before."""
        try:
            reply = self.reply()
        except ConnectionEndedError as ended:
            left = ended.held
        else:
            raise AssertionError(f"the broker sent {reply} instead of closing")
        assert not left, f"a reply was cut: {left!r}"

    def expect_nothing(self) -> None:
        """No byte has come that was not asked for (what was asked for later has been answered)."""
        assert not self._held

    def _receive(self) -> None:
        try:
            data = self._socket.recv(256 * 1024)
        except ConnectionResetError:
            data = b""
        if not data:
            raise ConnectionEndedError(bytes(self._held))
        self._held += data


# One process.


@attrs.define(eq=False)
class BrokerProcess:
    """A real node: ``metaServer start --foreground`` on ports of its own, loopback only."""

    base: Path
    port: int = 0
    settings: dict[str, object] = attrs.Factory(dict)
    topics: str = "[topic=test]\n"
    slave_of: int | None = None
    """The port of the master, for a slave; None: started as master, whatever it was before."""
    registry: str = ZOOKEEPER_SECTION
    """The section, where the topics bring none of their own."""
    slave_id: int = 0
    slave_settings: dict[str, object] = attrs.Factory(dict)
    """Keys of async_slave.properties; None leaves one out that stands there otherwise."""
    options: tuple[str, ...] = ()
    """Of ``metaServer start``."""
    command: tuple[str, ...] = ()
    """A program that becomes the node, with its arguments: ``prlimit --nofile=100``."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def server_file(self) -> Path:
        return self.base / "conf" / "server.ini"

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def control_socket(self) -> Path:
        return self.base / "logs" / (".control.sock" if self.slave_of is None else ".control-slave.sock")

    @property
    def log(self) -> str:
        return (self.base / "output").read_text(encoding="utf-8")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def configure(self, settings: Mapping[str, object], topics: str) -> None:
        """Write server.ini: these keys replace or follow the ones above."""
        lines = dict(line.split("=", 1) for line in _SERVER_INI.splitlines() if "=" in line)
        lines |= {key: str(value) for key, value in settings.items()}
        text = "[system]\n" + "".join(f"{key}={value}\n" for key, value in lines.items())
        self.server_file.parent.mkdir(parents=True, exist_ok=True)
        registry = "" if "[zookeeper]" in topics else self.registry
        self.server_file.write_text(f"{text}\n{topics}\n{registry}", encoding="utf-8")

    def start(self) -> None:
        """Returns when the port answers."""
        if not self.server_file.exists():
            self.configure(self.settings, self.topics)
        arguments = ["start", "--foreground", *self.options, "-f", str(self.server_file)]
        if self.slave_of is not None:
            slave_file = self.base / "conf" / "async_slave.properties"
            keys = {
                "slaveId": self.slave_id,
                "masterAddress": f"127.0.0.1:{self.slave_of}",
                "dataPath": "data",
                **self.slave_settings,
            }
            slave_file.write_text(
                "".join(f"{key}={value}\n" for key, value in keys.items() if value is not None),
                encoding="utf-8",
            )
            arguments.append(f"-Fmetaslave={slave_file}")
        output = self.base / "output"
        begin = output.stat().st_size if output.exists() else 0
        with output.open("ab") as stream:
            self._process = subprocess.Popen(
                [*self.command, sys.executable, "-P", "-m", "metaserver", *arguments],
                cwd=self.base,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        eventually(lambda: self._is_ready(begin), f"the start of a broker in {self.base}")

    def _is_ready(self, begin: int) -> bool:
        assert self._process is not None
        text = self.log[begin:]
        found = _READY.search(text)
        if found is None:
            assert self._process.poll() is None, f"the broker did not start:\n{text}"
            return False
        self.port = int(found[1])
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def connect(self, *, receive_buffer: int = 0) -> Wire:
        return Wire(self.port, receive_buffer=receive_buffer)

    def ask(self, request: bytes) -> Reply:
        """One request on a connection of its own."""
        with self.connect() as wire:
            return wire.ask(request)

    def read_all(self, topic: str, partition: int = 0, offset: int = 0) -> list[Stored]:
        """Every record from ``offset`` on, as a consumer would fetch them."""
        found: list[Stored] = []
        with self.connect() as wire:
            while True:
                reply = wire.ask(get(topic, offset, 1 << 20, 1, partition))
                if reply.status == 404:
                    return found
                assert reply.status is None, reply
                # The answer may end inside of a record: take the whole ones, go on behind them.
                whole = _whole_records(reply.body)
                assert whole, f"no progress at {offset} of {topic}-{partition}"
                found += parse_records(reply.body[:whole], offset)
                offset += whole

    def statistics(self, item: str = "") -> list[str]:
        """The lines of a report, without STATS and END."""
        text = self.ask(f"stats {item} 1\r\n".encode()).text
        assert text.startswith("STATS\r\n")
        assert text.endswith("END\r\n")
        return text.removesuffix("\r\n").split("\r\n")[1:-1]

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        (line,) = (line for line in text.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def cpu_seconds(self) -> float:
        """Processor time the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def assert_alive(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"the broker ended:\n{self.log[-4000:]}"

    def status(self) -> dict[str, Any]:
        """What ``metaServer status --json`` shows."""
        return call(self.control_socket, "status", WAIT_SECONDS_MAX)

    @property
    def registry_port(self) -> int:
        """Of the registry that the broker hosts; it answers from the start on, whoever may register later."""
        port: int = self.status()["embedded_registry"]["port"]
        return port

    def wait_registered(self) -> None:
        """Returns when the broker and its topics stand in its registry, its own or another."""
        eventually(
            lambda: bool(self.status().get("registry", {}).get("registered")),
            f"the registration of the broker in {self.base}",
        )

    def kill(self) -> None:
        """SIGKILL, and wait."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(WAIT_SECONDS_MAX)

    def ask_to_stop(self) -> None:
        """SIGTERM; does not wait."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait_for_end(self, seconds: float = WAIT_SECONDS_MAX) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM, and wait; the exit code."""
        self.ask_to_stop()
        return self.wait_for_end()

    def make_sure_it_is_gone(self) -> None:
        """For the end of a test, whatever has happened."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(WAIT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextmanager
def serving(process: BrokerProcess) -> Iterator[BrokerProcess]:
    """Started; stopped at the end, where it must have done well."""
    try:
        process.start()
        yield process
        assert process.stop() == 0
        assert "Traceback" not in process.log
    finally:
        process.make_sure_it_is_gone()


def _whole_records(value: bytes) -> int:
    """How many of the bytes are whole records."""
    position = 0
    while position + 20 <= len(value):
        following = position + 20 + int.from_bytes(value[position : position + 4], "big")
        if following > len(value):
            break
        position = following
    return position
