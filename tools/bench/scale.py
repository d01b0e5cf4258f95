"""Rate, latency and start-up as the log, the partitions and the idle consumers grow; curves as SVG.

Each section ends in the results file as soon as it is measured; a later run leaves out what is there already.
The broker runs on the first core, the generator on the second. The whole takes about ten minutes and 22 GB of
disk, given back at the end of each section.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tools.bench import run, wire
from tools.bench.curves import curve

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

Point = dict[str, float]
ROOT = Path(__file__).resolve().parents[2]
_TOPIC = run.FSYNC
_FILL_RECORDS, _FILL_BODY_BYTES, _FILL_IN_FLIGHT = 200, 4096, 8
_POLL_MS = 600_000
_SETTLE_SECONDS = 1.0
FIGURES = {
    "puts_per_second": "puts/s, 100 B, pipelined, after fsync",
    "spread_puts_per_second": "puts/s, in turn to all partitions, a sync for each",
    "p50_us": "one put at a time, p50 in microseconds",
    "p99_us": "one put at a time, p99 in microseconds",
    "start_seconds": "start after SIGKILL, seconds",
    "idle_cpu_percent": "processor of the broker at rest, per cent of a core",
    "resident_megabytes": "resident memory, MB",
}


class Broker:
    """A master that can be killed and started again on the same directory."""

    def __init__(self, base: Path, partitions: int) -> None:
        self._place = run.Place(base, partitions=1, many=partitions)
        file = base / "conf" / "server.ini"
        text = file.read_text(encoding="utf-8")
        waits = f"maxLongPollInMills={_POLL_MS}\n\n[zookeeper]"
        file.write_text(text.replace("[zookeeper]", waits), encoding="utf-8")
        self.server = self._start()

    def _start(self) -> run.Server:
        return run.Server(self._place.base, self._place.master_port, is_slave=False, core=wire.SERVER_CORE)

    @property
    def address(self) -> wire.Address:
        """Of its port."""
        return "127.0.0.1", self._place.master_port

    def start_after_kill(self) -> float:
        """Seconds until it answers again."""
        self.server.kill()
        self.server = self._start()
        return self.server.start_seconds

    def idle_cpu_percent(self, seconds: float) -> float:
        """What it uses while nobody asks for anything."""
        before, began = wire.cpu_seconds(self.server.pid), wire.now()
        time.sleep(seconds)
        return round((wire.cpu_seconds(self.server.pid) - before) / (wire.now() - began) * 100, 2)


@contextmanager
def broker(options: argparse.Namespace, partitions: int = 1) -> Iterator[Broker]:
    """A master in a directory of its own, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="metaserver-scale-", dir=options.directory) as directory:
        found = Broker(Path(directory), partitions)
        try:
            yield found
        finally:
            found.server.stop()


def measure(target: Broker, options: argparse.Namespace, topic: str) -> Point:
    """Rate and latency of one partition, rest and memory, now."""
    puts = wire.put_requests(topic, 0, 100, 512, with_checksum=True)
    latencies: list[float] = []
    with wire.connect(target.address) as connection:
        reader = wire.ReplyReader(connection)
        deadline = wire.now() + options.seconds
        while (sent := wire.now()) < deadline:
            status, text = reader.ask(puts[len(latencies) % len(puts)])
            if status != "result 200":
                wire.fail(text.decode())
            latencies.append(wire.now() - sent)
        rate = _rate(connection, puts, options.seconds)
    return {
        "puts_per_second": rate,
        **wire.latency_figures(latencies),
        "idle_cpu_percent": target.idle_cpu_percent(options.seconds),
        "resident_megabytes": round(wire.resident_megabytes(target.server.pid), 1),
    }


def _rate(connection: socket.socket, requests: Sequence[bytes], seconds: float) -> float:
    """Pipelined on one connection, at most a window without reply."""
    window = min(256, len(requests))
    chunks = [b"".join(requests[at : at + window]) for at in range(0, len(requests) - window + 1, window)]
    began, done, sent, counter = wire.now(), 0, 0, wire.ReplyCounter()
    while wire.now() - began < seconds or done < sent:
        while sent - done <= window and wire.now() - began < seconds:
            connection.sendall(chunks[sent // window % len(chunks)])
            sent += window
        done += counter.count(connection.recv(1 << 18))
    return round(done / (wire.now() - began))


def log(options: argparse.Namespace) -> list[Point]:
    """One partition from nothing to many gigabytes; at each size a kill and a start."""
    points: list[Point] = []
    with broker(options) as target:
        written = 0.0
        for gigabytes in options.gigabytes:
            rate = _fill(target, gigabytes - written)
            start_seconds = target.start_after_kill()
            written = gigabytes
            point = {
                "x": gigabytes,
                "start_seconds": round(start_seconds, 3),
                "fill_megabytes_per_second": rate,
            }
            points.append(point | measure(target, options, _TOPIC))
            say(f"log {points[-1]}")
    return points


def _fill(target: Broker, gigabytes: float) -> float:
    """Batches until so much more is there; returns MB/s."""
    batches = wire.batch_requests(_TOPIC, 0, _FILL_BODY_BYTES, _FILL_RECORDS, _FILL_IN_FLIGHT)
    count = max(1, int(gigabytes * 1e9 / len(batches[0]))) if gigabytes else 0
    began, sent, done, counter = wire.now(), 0, 0, wire.ReplyCounter()
    with wire.connect(target.address) as connection:
        while done < count:
            while sent < count and sent - done < _FILL_IN_FLIGHT:
                connection.sendall(batches[sent % len(batches)])
                sent += 1
            done += counter.count(connection.recv(1 << 16))
    return round(count * len(batches[0]) / 1e6 / (wire.now() - began), 1) if count else 0.0


def partitions(options: argparse.Namespace) -> list[Point]:
    """More and more partitions of one topic; puts to one of them, and to all in turn."""
    points: list[Point] = []
    for count in options.partitions:
        requests = [
            wire.put_requests("many", number, 100, 1, with_checksum=True)[0] for number in range(count)
        ]
        with broker(options, count) as target:
            with wire.connect(target.address) as connection:
                reader = wire.ReplyReader(connection)
                for request in requests:
                    reader.ask(request)
            start_seconds = target.start_after_kill()
            time.sleep(_SETTLE_SECONDS)
            point = {"x": float(count), "start_seconds": round(start_seconds, 3)}
            point |= measure(target, options, "many")
            with wire.connect(target.address) as connection:
                point["spread_puts_per_second"] = _rate(connection, requests, options.seconds)
            points.append(point)
            say(f"partitions {points[-1]}")
    return points


def consumers(options: argparse.Namespace) -> list[Point]:
    """More and more connections that wait for a message that does not come."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    points: list[Point] = []
    with broker(options, 2) as target, ExitStack() as waiting:
        with wire.connect(target.address) as connection:
            wire.ReplyReader(connection).ask(wire.put_requests("many", 0, 100, 1, with_checksum=True)[0])
        end = 120
        count = 0
        for wanted in options.consumers:
            for _ in range(wanted - count):
                consumer = waiting.enter_context(wire.connect(target.address))
                consumer.sendall(f"get many idle 0 {end} 65536 1 {_POLL_MS}\r\n".encode())
            count = wanted
            time.sleep(_SETTLE_SECONDS)
            points.append({"x": float(wanted)} | measure(target, options, _TOPIC))
            say(f"consumers {points[-1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return points


SECTIONS: dict[str, tuple[Callable[[argparse.Namespace], list[Point]], str, bool]] = {
    "log": (log, "gigabytes in one partition", False),
    "partitions": (partitions, "partitions", True),
    "consumers": (consumers, "idle long-polling consumers", True),
}


def main() -> None:
    """Measure what is missing, and draw everything that is there."""
    parser = argparse.ArgumentParser(prog="tools/bench/scale", description=__doc__)
    numbers = partial(parser.add_argument, nargs="+")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    numbers("--gigabytes", type=float, default=[0.1, 1, 2, 5, 10, 20])
    numbers("--partitions", type=int, default=[1, 10, 100, 1000, 10_000])
    numbers("--consumers", type=int, default=[1, 10, 100, 1000, 5000])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each figure")
    parser.add_argument("--directory", type=Path, help="where the logs lie; default: the system's")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "performance", help="figures and curves"
    )
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
    options = parser.parse_args()
    if unknown := set(options.sections) - SECTIONS.keys():
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    wire.pin(wire.GENERATOR_CORE)
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "scale.json"
    results: dict[str, list[Point]] = json.loads(file.read_text()) if file.exists() else {}
    for name in options.sections or SECTIONS:
        if name in results and not options.again:
            say(f"{name}: measured already (--again measures it once more)")
            continue
        results[name] = SECTIONS[name][0](options)
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, points in results.items():
        _, x_name, is_logarithmic = SECTIONS[name]
        for key, title in FIGURES.items():
            if all(key in point for point in points):
                picture = curve(
                    title, x_name, [(each["x"], each[key]) for each in points], is_logarithmic=is_logarithmic
                )
                (options.output / f"{name}-{key}.svg").write_text(picture, encoding="utf-8")


def say(text: str) -> None:
    """Progress."""
    print(f"scale: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
