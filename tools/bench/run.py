"""Measures the whole table of docs/performance.md: a master, a slave, the load generator, two cores.

Each row starts from an empty directory on a server of its own, so that no row inherits the page cache, the
segments or the memory of another. The servers run on the first core, the load generator on the second.
Results go to standard output as Markdown, progress to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tools.bench import wire
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 30.0
MANY_PARTITIONS = 1000
SLAVES_MAX = 3
IN_FLIGHT_PUTS, IN_FLIGHT_BATCHES = 8192, 32
FSYNC, CACHE = "fsync", "cache"
"""Topics: acknowledged after fsync (unflushThreshold=0), and from the page cache (1000)."""

SERVER_INI = """\
[system]
brokerId=0
bindAddress=127.0.0.1
hostName=127.0.0.1
serverPort={port}
dashboardHttpPort={http_port}
dataPath={base}/meta
numPartitions={partitions}
unflushThreshold=0
unflushInterval=10000
maxSegmentSize=1073741824
maxTransferSize=1048576
deletePolicy=delete,168
deleteWhen=0 0 6,18 * * ?

[zookeeper]
registryPort=0
zk.zkSyncTimeMs=0

[topic=fsync]
unflushThreshold=0

[topic=cache]
unflushThreshold=1000

[topic=many]
numPartitions={many}
"""

SLAVE_PROPERTIES = """\
slaveId={number}
slaveGroup=bench-{number}
slaveMaxDelayInMills=500
masterAddress=127.0.0.1:{master_port}
serverPort={port}
dashboardHttpPort={http_port}
hostName=127.0.0.1
bindAddress=127.0.0.1
dataPath={base}/meta-slave-{number}
"""


class Server:
    """One broker process in the foreground, a master or a slave."""

    def __init__(self, base: Path, port: int, *, is_slave: bool, core: int) -> None:
        self.port = port
        verb = ["start", "slave"] if is_slave else ["start"]
        command = [
            str(ROOT / "bin" / "metaServer"),
            *verb,
            "--foreground",
            "-f",
            str(base / "conf/server.ini"),
        ]
        log = base / "output"
        begin = wire.now()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "BASE_DIR": str(base)},
            )
        self.pid = self._process.pid
        if core in os.sched_getaffinity(0):  # Early enough: the shell in front of the broker inherits it.
            os.sched_setaffinity(self.pid, {core})
        while not self._answers():
            if self._process.poll() is not None or wire.now() - begin > START_SECONDS_MAX:
                self.kill()
                tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
                sys.exit(f"run: {' '.join(command)} does not come up:\n{tail}")
            time.sleep(0.002)
        self.start_seconds = wire.now() - begin

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"version 1\r\n")
                return connection.recv(256).startswith(b"result 200")
        except OSError:
            return False

    def stop(self) -> None:
        """End it as an operator would, and insist."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            _say("the server did not stop; killed")
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()


class Place:
    """A temporary base directory with the configuration of a master and a slave."""

    def __init__(self, base: Path, *, partitions: int = 8, many: int = MANY_PARTITIONS) -> None:
        """``partitions`` of the ordinary topics, ``many`` of the one for many."""
        self.base = base
        self.master_port, self.slave_ports = free_port(), [free_port() for _ in range(SLAVES_MAX)]
        server_ini = SERVER_INI.format(
            port=self.master_port, http_port=free_port(), base=base, partitions=partitions, many=many
        )
        for directory in (base, *map(self._slave_base, range(SLAVES_MAX))):
            (directory / "conf").mkdir(parents=True)
            (directory / "conf" / "server.ini").write_text(server_ini, encoding="utf-8")
        for number, port in enumerate(self.slave_ports):
            ports = {"master_port": self.master_port, "port": port, "http_port": free_port()}
            (self._slave_base(number) / "conf" / "async_slave.properties").write_text(
                SLAVE_PROPERTIES.format(number=number, base=base, **ports), encoding="utf-8"
            )

    def _slave_base(self, number: int) -> Path:
        return self.base / f"slave-{number}"

    @contextmanager
    def master(self) -> Iterator[Server]:
        """A running master, stopped at the end."""
        server = Server(self.base, self.master_port, is_slave=False, core=wire.SERVER_CORE)
        try:
            yield server
        finally:
            server.stop()

    @contextmanager
    def slave(self, core: int, number: int = 0) -> Iterator[Server]:
        """A running slave of the master, stopped at the end."""
        server = Server(self._slave_base(number), self.slave_ports[number], is_slave=True, core=core)
        try:
            yield server
        finally:
            server.stop()


class Bench:
    """Runs the sections and collects the rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.rows: list[tuple[str, str, str]] = []

    def add(self, what: str, figure: str, aim: str = "") -> None:
        """One row of the table."""
        _say(f"{what}: {figure}" + (f" (aim {aim})" if aim else ""))
        self.rows.append((what, figure, aim))

    @contextmanager
    def place(self) -> Iterator[Place]:
        """An empty base directory."""
        with tempfile.TemporaryDirectory(
            prefix="metaserver-bench-", dir=self._options.directory
        ) as directory:
            yield Place(Path(directory))

    def load(self, *words: object, repeat: int | None = None, seconds: float | None = None) -> wire.Figures:
        """One load, and its figures."""
        return _finish(self.start_load(*words, repeat=repeat, seconds=seconds))

    def start_load(
        self, *words: object, repeat: int | None = None, seconds: float | None = None
    ) -> subprocess.Popen[str]:
        """A load beside others."""
        arguments = [str(word) for word in words]
        arguments += ["--repeat", str(repeat or self._options.repeat)]
        arguments += ["--seconds", str(seconds or self._options.seconds)]
        command = [sys.executable, "-m", "tools.bench.load", *arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def machine(self) -> None:
        """What the machine does without any server."""
        figures = self.load("machine", *_directory(self._options))
        for part, name in (("fdatasync", "fdatasync of 120 B"), ("round_trip", "loopback round trip")):
            self.add(
                f"machine: {name}, p50 / p99",
                f"{figures[f'{part}_p50_us']:.0f} / {figures[f'{part}_p99_us']:.0f} µs",
            )
        rate = figures["write_megabytes_per_second"]
        self.add("machine: a gigabyte written in a row, one sync at the end", f"{rate:,.0f} MB/s")
        for words, name in (((), "one by one"), (("--batch", 1000, "--pipeline", 16), "in batches")):
            figures = self.load("put", "--null", *words)
            self.add(f"generator against a null server: 100 B, {name}", _rate(figures["messages_per_second"]))

    def puts(self) -> None:
        """Pipelined and batched puts."""
        one_by_one = {(100, FSYNC): "≥ 300,000/s", (100, CACHE): "≥ 450,000/s", (1024, FSYNC): "≥ 150,000/s"}
        batched = {(100, FSYNC): "≥ 1,000,000/s", (100, CACHE): "≥ 1,500,000/s", (1024, FSYNC): "≥ 400 MB/s"}
        for topic in (FSYNC, CACHE):
            for size in (100, 1024):
                for connections in (1, 8):
                    for batch, aims in ((0, one_by_one), (1000 if size == 100 else 100, batched)):
                        self._put(topic, size, connections, batch, aims.get((size, topic), ""))

    def _put(self, topic: str, size: int, connections: int, batch: int, aim: str) -> None:
        with self.place() as place, place.master() as master:
            # The same number in flight in all, on however many connections.
            in_flight = IN_FLIGHT_BATCHES if batch else IN_FLIGHT_PUTS
            form = ("--batch", batch) if batch else ("--checksum",)
            figures = self.load(
                *("put", "--address", master.port, "--server-pid", master.pid, "--topic", topic),
                *("--size", size, "--connections", connections, "--partitions", 8, *form),
                *("--pipeline", in_flight // connections),
            )
            name = (
                f"{f'batches of {batch}' if batch else 'puts'}, {size} B, {_of(connections)}, {_when(topic)}"
            )
            self.add(name, f"{_rate(figures['messages_per_second'])}, {_megabytes(figures)}", aim)
            if size == 100 and connections == 8:
                self.add(
                    f"server CPU seconds for a million: {name}",
                    f"{figures['server_cpu_seconds_per_million']:.2f}",
                    "≤ 0.6" if batch else "≤ 3",
                )
                self.add(
                    f"most resident memory of the master: {name}",
                    f"{wire.resident_megabytes(master.pid, peak=True):.0f} MB",
                    "≤ 150 MB",
                )

    def pings(self) -> None:
        """One put at a time."""
        aims = {
            (1, FSYNC): "fdatasync + round trip + 20 %; p99 ≤ 2 x p50",
            (1, CACHE): "≤ 70 / 180 µs",
            (64, FSYNC): "≥ 35,000/s",
        }
        for topic in (FSYNC, CACHE):
            for connections in (1, 64):
                with self.place() as place, place.master() as master:
                    figures = self.load(
                        *("ping", "--address", master.port, "--server-pid", master.pid, "--topic", topic),
                        *("--connections", connections, "--partitions", 8, "--checksum"),
                    )
                    self.add(
                        f"one put at a time, 100 B, {_of(connections)}, {_when(topic)}, rate, p50 / p99",
                        f"{_rate(figures['messages_per_second'])}, {_latency(figures)}",
                        aims.get((connections, topic), ""),
                    )

    def reads(self) -> None:
        """Sequential gets beside a bare sendfile loop over the same file."""
        with self.place() as place, place.master() as master:
            self._fill(master)
            file = place.base / "meta" / f"{CACHE}-0" / f"{0:020}.meta"
            for pipeline in (1, 4):
                words = ("--pipeline", pipeline, "--max-size", 1 << 20)
                shares, rates, bare = [], [], []
                for _ in range(self._options.repeat):  # Side by side: the machine drifts between runs.
                    own = ("read", "--address", master.port, "--topic", CACHE, *words)
                    rates.append(self.load(*own, repeat=1)["megabytes_per_second"])
                    base = self.load("sendfile-baseline", "--file", file, *words, repeat=1)
                    bare.append(base["megabytes_per_second"])
                    shares.append(rates[-1] / bare[-1])
                both = (
                    f"{statistics.median(rates):,.0f} MB/s; bare sendfile {statistics.median(bare):,.0f} MB/s"
                )
                self.add(
                    f"sequential read, 1 MiB gets, {pipeline} in flight",
                    f"{both}; {statistics.median(shares):.0%}",
                    "≥ 90 %",
                )

    def _fill(self, master: Server, size: int = 100, *, seconds: float = 4.0) -> None:
        """A partition with much in it."""
        batch = 1000 if size == 100 else 100
        self.load(
            *("put", "--address", master.port, "--topic", CACHE, "--size", size),
            *("--batch", batch, "--pipeline", 16),
            repeat=1,
            seconds=seconds,
        )

    def replication(self) -> None:
        """End to end on the master, delay behind it, and how fast a slave catches up."""
        core = self._options.slave_core
        with self.place() as place, place.master() as master:
            for topic, aim in ((FSYNC, "the next and one fdatasync"), (CACHE, "≤ 0.16 / 0.75 ms")):
                figures = self.load("end-to-end", "--address", master.port, "--topic", topic)
                name = f"producer to consumer, 500/s, {_when(topic)}, p50 / p99"
                self.add(name, _latency(figures), aim)
        with self.place() as place, place.master() as master, place.slave(core) as slave:
            ends = ("--address", master.port, "--slave", slave.port)
            for topic in (FSYNC, CACHE):
                self.load("delay", *ends, "--topic", topic, repeat=1, seconds=1.0)
                figures = self.load("delay", *ends, "--topic", topic)
                name = f"replication delay after the acknowledgement, 500/s, {_when(topic)}, p50 / p99"
                self.add(name, _latency(figures), "≤ 0.1 / 0.5 ms")
            self._delay_under_load(ends)
        for size, aim in ((100, "≥ 1,000,000/s"), (1024, "≥ 400 MB/s")):
            with self.place() as place, place.master() as master:
                self._fill(master, size)
                waiting = self.start_load(
                    *("catch-up", "--address", master.port, "--slave", place.slave_ports[0]),
                    *("--topic", CACHE, "--size", size),
                    repeat=1,
                )
                with place.slave(core):
                    figures = _finish(waiting)
                self.add(
                    f"slave catching up, {size} B",
                    f"{_rate(figures['messages_per_second'])}, {_megabytes(figures)}",
                    aim,
                )

    def _delay_under_load(self, ends: tuple[object, ...]) -> None:
        """At half of what the master takes and at all of it, put into other partitions."""
        seconds = self._options.seconds
        several = ("--connections", 4, "--partitions", 4, "--checksum")
        put = ("put", "--address", ends[1], "--topic", CACHE, *several)
        full = self.load(*put, repeat=1)["messages_per_second"]
        for name, limit in (("half", ("--rate", full / 2)), ("full", ())):
            beside = self.start_load(*put, *limit, repeat=1, seconds=seconds + 1.5)
            time.sleep(1.0)
            figures = self.load("delay", *ends, "--topic", FSYNC, "--partition", 7, repeat=1)
            reached = _rate(_finish(beside)["messages_per_second"])
            self.add(
                f"replication delay at {name} load ({reached} in other partitions), {_when(FSYNC)}, "
                "p50 / p99 / max",
                f"{_latency(figures)[:-3]} / {figures['max_us']:,.0f} µs",
            )

    def slaves(self) -> None:
        """What slaves take from the master's put rate; they share the core of the load generator."""
        for count in (0, 1, SLAVES_MAX):
            with self.place() as place, place.master() as master, ExitStack() as stack:
                for number in range(count):
                    stack.enter_context(place.slave(self._options.slave_core, number))
                figures = self.load(
                    *("put", "--address", master.port, "--server-pid", master.pid, "--topic", FSYNC),
                    *("--connections", 4, "--partitions", 4, "--checksum", "--pipeline", 2048),
                )
                rate, cost = figures["messages_per_second"], figures["server_cpu_seconds_per_million"]
                self.add(
                    f"puts, 100 B, 4 connections, {_when(FSYNC)}, {count} slaves: rate, "
                    "master CPU for a million",
                    f"{_rate(rate)}, {cost:.2f} s",
                )

    def rest(self) -> None:
        """Start-up, memory and processor at rest."""
        core = self._options.slave_core
        starts = []
        for _ in range(self._options.repeat):
            with self.place() as place, place.master() as master:
                starts.append(master.start_seconds)
        self.add("start until ready, empty", f"{statistics.median(starts):.2f} s", "≤ 0.4 s")
        with self.place() as place:
            with place.master() as master:
                connection = wire.ReplyReader(wire.connect(("127.0.0.1", master.port)))
                for partition in range(MANY_PARTITIONS):
                    connection.ask(b"put many %d 1 0 1\r\nx" % partition)
            starts = []
            for _ in range(self._options.repeat):
                with place.master() as master:
                    starts.append(master.start_seconds)
            name = f"start until ready, cleanly stopped, {MANY_PARTITIONS:,} partitions"
            self.add(name, f"{statistics.median(starts):.2f} s", "< 1 s")
        with self.place() as place, place.master() as master, place.slave(core) as slave:
            time.sleep(2.0)
            both = (("master", master), ("slave", slave))
            before = {name: wire.cpu_seconds(server.pid) for name, server in both}
            time.sleep(5.0)
            for name, server in both:
                share = (wire.cpu_seconds(server.pid) - before[name]) / 5.0
                memory = wire.resident_megabytes(server.pid)
                self.add(f"{name} at rest: memory", f"{memory:.0f} MB", "≤ 50 MB")
                self.add(f"{name} at rest: processor", f"{share:.1%} of a core")

    def markdown(self) -> str:
        """The table, with the machine it was measured on."""
        machine = f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores"
        runs = f"medians of {self._options.repeat} runs of {self._options.seconds:g} s"
        lines = [f"{machine}; {runs}.", "", "| what | measured | aim |", "|---|---|---|"]
        lines += [f"| {what} | {figure} | {aim} |" for what, figure, aim in self.rows]
        return "\n".join(lines)


def _finish(process: subprocess.Popen[str]) -> wire.Figures:
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"run: {process.args!r} failed")
    figures: wire.Figures = json.loads(output)
    return figures


def _directory(options: argparse.Namespace) -> tuple[object, ...]:
    return ("--directory", options.directory) if options.directory else ()


def _rate(messages_per_second: float) -> str:
    return f"{messages_per_second:,.0f}/s"


def _megabytes(figures: wire.Figures) -> str:
    return f"{figures['megabytes_per_second']:,.0f} MB/s"


def _latency(figures: wire.Figures) -> str:
    return f"{figures['p50_us']:,.0f} / {figures['p99_us']:,.0f} µs"


def _of(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"


def _when(topic: str) -> str:
    return "after fsync" if topic == FSYNC else "from the page cache"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure what was asked for and print the table."""
    sections: dict[str, Callable[[Bench], None]] = {
        "machine": Bench.machine,
        "puts": Bench.puts,
        "pings": Bench.pings,
        "reads": Bench.reads,
        "replication": Bench.replication,
        "slaves": Bench.slaves,
        "rest": Bench.rest,
    }
    parser = argparse.ArgumentParser(prog="run", description=__doc__)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(sections)}; default: all"
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs of each figure; medians are shown")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one run")
    parser.add_argument(
        "--directory", type=Path, help="where the data goes; default: the temporary directory"
    )
    parser.add_argument("--slave-core", type=int, default=1, help="the core of the slave")
    options = parser.parse_args()
    if unknown := [name for name in options.sections if name not in sections]:
        parser.error(f"no such section: {', '.join(unknown)}")
    bench = Bench(options)
    for name in options.sections or sections:
        sections[name](bench)
    print(bench.markdown())


if __name__ == "__main__":
    main()
